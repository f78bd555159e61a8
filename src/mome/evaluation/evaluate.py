"""Word error rates of one model over tasks, rates and noise levels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mome.decoding.transcriber import Transcriber
from mome.errors import MomeError
from mome.evaluation.result import Condition, Failure, Heard, Result
from mome.media import Clip
from mome.media.noise import clip_rng, mix
from mome.rates import Rates
from mome.text.transcript import Transcript
from mome.training.manifest import ManifestRow
from mome.training.store import ClipStore

# What one clip can fail with: an unusable file, or memory that does not suffice for a long one.
_CLIP_ERRORS = (MomeError, RuntimeError)


@dataclass
class _Tally:
    """What has been collected for one condition."""

    heard: list[Heard] = field(default_factory=list)
    transcripts: list[Transcript] = field(default_factory=list)
    media_seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)

    def add(self, row: ManifestRow, clip: Clip, condition: Condition, outcome: Transcript | Failure) -> None:
        if isinstance(outcome, Transcript) and outcome.rates != condition.rates:
            lack = "visible mouth" if outcome.rates.video is None else "sound"
            outcome = Failure(row.id, f"{row.path} has no {lack}, which {condition.task} needs")
        if isinstance(outcome, Failure):
            self.failures.append(outcome)
            return
        self.heard.append(Heard(row.id, row.text, outcome.text))
        self.transcripts.append(outcome)
        self.media_seconds += clip.seconds

    def result(self, condition: Condition, seed: int) -> Result:
        transcripts = self.transcripts
        if not transcripts:
            return Result.of(condition, (), seed, failures=self.failures)
        spent = sum(transcript.seconds.encode + transcript.seconds.decode for transcript in transcripts)
        return Result.of(
            condition,
            self.heard,
            seed,
            failures=self.failures,
            tokens_mean=sum(transcript.tokens.total for transcript in transcripts) / len(transcripts),
            tflops_mean=sum(transcript.tflops for transcript in transcripts) / len(transcripts),
            rtf=spent / self.media_seconds,
        )


def evaluate(
    transcriber: Transcriber,
    rows: Sequence[ManifestRow],
    conditions: Sequence[Condition],
    *,
    noise: np.ndarray | None = None,
    seed: int = 0,
    batch_size: int = 8,
    store: ClipStore | None = None,
    progress: Callable[[int, int], None] | None = None,
    **generation: Any,
) -> list[Result]:
    """Transcribe clips under every condition and score them.

    Each file is read once and encoded once per noise level; all rates are decoded from that. A clip gets the
    same stretch of noise at every level, in every run and whatever it is batched with: it depends on the
    seed and the clip's id only. A clip that fails under a condition is listed in that result's failures and
    left out of its figures; the run goes on.

    Args:
        transcriber: the model.
        rows: the clips.
        conditions: what to evaluate, see :func:`~mome.evaluation.result.make_conditions`.
        noise: ``(samples,)`` float, 16 kHz; needed where a condition has a signal-to-noise ratio.
        seed: of the noise and the intervals.
        batch_size: clips transcribed together.
        store: where sound and mouth of the clips are kept from one evaluation to the next; must hold the modalities
            that the conditions need.
        progress: called with the number of clips done and of all clips after every batch.
        generation: options of Transformers' ``generate``, such as ``num_beams``.

    Returns:
        One result per condition, in their order.

    Raises:
        MomeError: rates are not in the model's grid, or noise is needed and not given.
    """
    for condition in conditions:
        transcriber.model.grid.check(condition.rates)
        if condition.snr_db is not None and noise is None:
            raise MomeError(f"a signal-to-noise ratio of {condition.snr_db:g} dB needs a recording of noise")
    tallies = {condition: _Tally() for condition in conditions}
    levels = list(dict.fromkeys(condition.snr_db for condition in conditions))
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        clips = _load(transcriber, batch, tallies, store)
        for level in levels:
            tried = [condition for condition in conditions if condition.snr_db == level]
            noisy, failed = _add_noise(clips, level, noise, seed)
            for row, error in failed:
                for condition in tried:
                    if condition.task != "vsr":
                        tallies[condition].failures.append(Failure(row.id, error))
            # Lips can be read all the same where no noise could be mixed into the sound.
            lips = [condition for condition in tried if condition.task == "vsr"]
            unheard = [(row, clip) for row, clip in clips if any(row is other for other, _ in failed)]
            for some, wanted in ((noisy, tried), (unheard, lips)):
                outcomes = _transcribe(transcriber, some, [condition.rates for condition in wanted], generation)
                for (row, clip), per_rate in zip(some, outcomes, strict=True):
                    for condition, outcome in zip(wanted, per_rate, strict=True):
                        tallies[condition].add(row, clip, condition, outcome)
        if progress is not None:
            progress(start + len(batch), len(rows))
    return [tallies[condition].result(condition, seed) for condition in conditions]


_Loaded = list[tuple[ManifestRow, Clip]]


def _load(
    transcriber: Transcriber,
    rows: Sequence[ManifestRow],
    tallies: dict[Condition, _Tally],
    store: ClipStore | None,
) -> _Loaded:
    """The clips that can be read, with what the conditions need of them."""
    rates = [condition.rates for condition in tallies]
    loaded = []
    for row in rows:
        try:
            clip = transcriber.load_clip(row.path, rates) if store is None else store.get(row)
            loaded.append((row, clip))
        except MomeError as error:
            for tally in tallies.values():
                tally.failures.append(Failure(row.id, str(error)))
    return loaded


def _add_noise(
    clips: _Loaded, level: float | None, noise: np.ndarray | None, seed: int
) -> tuple[_Loaded, list[tuple[ManifestRow, str]]]:
    """The clips at one noise level, those without sound as they are; and those that took no noise, with the reason."""
    if level is None or noise is None:
        return clips, []
    noisy, failed = [], []
    for row, clip in clips:
        try:
            sound = None if clip.audio is None else mix(clip.audio, noise, level, clip_rng(seed, row.id))
            noisy.append((row, replace(clip, audio=sound)))
        except MomeError as error:
            failed.append((row, f"{row.path}: {error}"))
    return noisy, failed


def _transcribe(
    transcriber: Transcriber, clips: _Loaded, rates: list[Rates], generation: dict[str, Any]
) -> list[list[Transcript | Failure]]:
    """``[clip][rate]``; if something fails, ever smaller parts are tried to find out what."""
    if not clips or not rates:
        return [[] for _ in clips]
    try:
        transcripts = transcriber.transcribe_batch([clip for _, clip in clips], rates, **generation)
        return [list(per_rate) for per_rate in transcripts]
    except _CLIP_ERRORS as error:
        if len(clips) == len(rates) == 1:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            return [[Failure(clips[0][0].id, reason)]]
    if len(clips) > 1:
        return [_transcribe(transcriber, [clip], rates, generation)[0] for clip in clips]
    return [[_transcribe(transcriber, clips, [rate], generation)[0][0] for rate in rates]]
