"""Word error rates of one model over tasks, rates and noise levels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mome.data.clips import ClipStore
from mome.data.manifests import ManifestRow
from mome.decoding.transcriber import Transcriber
from mome.errors import MomeError, in_one_line
from mome.evaluation.journal import Journal, Outcome
from mome.evaluation.normalizers import Normalizer
from mome.evaluation.result import Condition, Failure, Hypothesis, Result
from mome.media import Clip
from mome.media.face import DetectorError, check_detector
from mome.media.noise import add_noise
from mome.rates import Rates
from mome.text.transcript import Transcript


@dataclass
class _Tally:
    """The outcomes of one condition so far."""

    hypotheses: list[Hypothesis] = field(default_factory=list)
    transcripts: list[Transcript] = field(default_factory=list)
    media_seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)

    def add(self, row: ManifestRow, seconds: float, condition: Condition, outcome: Transcript | Failure) -> None:
        if isinstance(outcome, Transcript) and outcome.rates != condition.rates:
            missing = "visible mouth" if outcome.rates.video is None else "sound"
            outcome = Failure(row.id, f"{row.path} has no {missing}, which {condition.task} needs")
        if isinstance(outcome, Failure):
            self.failures.append(outcome)
            return
        self.hypotheses.append(Hypothesis(row.id, row.text, outcome.text))
        self.transcripts.append(outcome)
        self.media_seconds += seconds

    def result(self, condition: Condition, seed: int, normalize: Normalizer) -> Result:
        transcripts = self.transcripts
        if not transcripts:
            return Result.of(condition, (), seed, failures=self.failures)
        spent = sum(transcript.seconds.encode + transcript.seconds.decode for transcript in transcripts)
        return Result.of(
            condition,
            self.hypotheses,
            seed,
            normalize=normalize,
            failures=self.failures,
            tokens_mean=sum(transcript.tokens.total for transcript in transcripts) / len(transcripts),
            tflops_mean=sum(transcript.tflops for transcript in transcripts) / len(transcripts),
            rtf=spent / self.media_seconds,
            transcripts=transcripts,
        )


Spoil = Callable[[Clip, str], Clip]
"""What is done to a clip, given its id, before it is transcribed, such as a fault of :mod:`mome.media.faults`."""

_Loaded = list[tuple[ManifestRow, Clip]]
Read = tuple[_Loaded, list[tuple[ManifestRow, str]]]
"""The clips of a batch, and those that cannot be read, with the reason."""
Engine = Callable[[Sequence[Sequence[ManifestRow]]], Iterator[Sequence[Outcome]]]
"""Gives the outcomes of batches of clips, each batch as a whole, in any order."""


class Evaluation:
    """Transcribes clips under every condition and scores them; after an interruption, scores the batches done so far.

    Each file is read once and encoded once per noise level, for all rates. The stretch of noise that a clip gets
    depends on the seed and the clip's id only: it is the same at every level, in every run and in every batch. A clip
    that fails under a condition, with any exception but that of a face detector that cannot be used, is listed in the
    failures of that result and left out of its figures; the run continues.
    """

    def __init__(
        self,
        transcriber: Transcriber,
        rows: Sequence[ManifestRow],
        conditions: Sequence[Condition],
        *,
        noise: np.ndarray | None = None,
        seed: int = 0,
        batch_size: int = 8,
        store: ClipStore | None = None,
        spoil: Spoil | None = None,
        normalize: Normalizer = "lower",
        **generation: Any,
    ) -> None:
        """See :func:`evaluate`."""
        for condition in conditions:
            transcriber.model.rate_set.check(condition.rates)
            if condition.snr_db is not None and noise is None:
                raise MomeError(f"a signal-to-noise ratio of {condition.snr_db:g} dB needs a recording of noise")
        if generation.get("active_experts") is not None:
            transcriber.model.config.check_top_k(generation["active_experts"])
        self.transcriber, self.rows, self.conditions = transcriber, rows, conditions
        self.noise, self.seed, self.batch_size, self.store = noise, seed, batch_size, store
        self.spoil, self.normalize, self.generation = spoil, normalize, generation
        self._outcomes: dict[ManifestRow, list[Outcome]] = {}

    def run(
        self,
        progress: Callable[[int, int], None] | None = None,
        engine: Engine | None = None,
        journal: Journal | None = None,
    ) -> None:
        """Transcribe all clips; a batch counts under all conditions or, if it is interrupted, under none.

        Args:
            progress: called after every batch with the number of clips done and of all clips.
            engine: transcribes elsewhere than in this process.
            journal: has the outcomes of an interrupted run, and gets the others.
        """
        if journal is not None:
            self._outcomes.update(journal.done)
        batches = [self.rows[start : start + self.batch_size] for start in range(0, len(self.rows), self.batch_size)]
        left = [[row for row in batch if row not in self._outcomes] for batch in batches]
        for outcomes in (engine or self._here)([batch for batch in left if batch]):
            of_clips: dict[ManifestRow, list[Outcome]] = {}
            for outcome in outcomes:
                of_clips.setdefault(outcome[0], []).append(outcome)
            if journal is not None:
                journal.add(of_clips)
            self._outcomes.update(of_clips)
            if progress is not None:
                progress(len(self._outcomes), len(self.rows))

    def results(self) -> list[Result]:
        """The result of each condition, in their order, over the batches that are done."""
        tallies = {condition: _Tally() for condition in self.conditions}
        for row in self.rows:
            for _, seconds, condition, outcome in self._outcomes.get(row, ()):
                tallies[condition].add(row, seconds, condition, outcome)
        return [tally.result(condition, self.seed, self.normalize) for condition, tally in tallies.items()]

    def failures(self) -> list[tuple[str, str]]:
        """The clips that failed under some condition, in their order, with the first reason."""
        reasons = {
            row.id: outcome.error
            for row in self.rows
            for *_, outcome in reversed(self._outcomes.get(row, ()))
            if isinstance(outcome, Failure)
        }
        return list(reasons.items())

    def _here(self, batches: Sequence[Sequence[ManifestRow]]) -> Iterator[Sequence[Outcome]]:
        for batch in batches:
            yield self.transcribe(self.read(batch))

    def read(self, batch: Sequence[ManifestRow]) -> Read:
        """Load the clips of a batch."""
        clips: _Loaded = []
        unread: list[tuple[ManifestRow, str]] = []
        for row in batch:
            try:
                clips.append((row, self._load(row)))
            except DetectorError:  # no clip's fault
                raise
            except Exception as error:
                unread.append((row, in_one_line(error)))
        return clips, unread

    def transcribe(self, read: Read) -> list[Outcome]:
        """The outcome of each clip of a batch under each condition."""
        clips, unread = read
        outcomes = [outcome for row, reason in unread for outcome in failed(row, reason, self.conditions)]
        for level in dict.fromkeys(condition.snr_db for condition in self.conditions):
            at_level = [condition for condition in self.conditions if condition.snr_db == level]
            # Lips can be read even if no noise can be mixed into the sound.
            vsr = [condition for condition in at_level if condition.task == "vsr"]
            noisy, unmixed = _noisy(clips, level, self.noise, self.seed)
            for row, _, reason in unmixed:
                outcomes += failed(row, reason, [condition for condition in at_level if condition not in vsr])
            for loaded, conditions in ((noisy, at_level), ([(row, clip) for row, clip, _ in unmixed], vsr)):
                rates = [condition.rates for condition in conditions]
                found = _transcribe(self.transcriber, loaded, rates, self.generation)
                for (row, clip), per_rate in zip(loaded, found, strict=True):
                    for condition, outcome in zip(conditions, per_rate, strict=True):
                        outcomes.append((row, clip.seconds, condition, outcome))
        return outcomes

    def _load(self, row: ManifestRow) -> Clip:
        """Load a clip with the modalities that the conditions need, and spoil it."""
        if self.store is not None:
            clip = self.store.get(row)
        else:
            rates = [condition.rates for condition in self.conditions]
            clip = self.transcriber.load_clip(row.path, rates, excerpt=row.excerpt)
            if clip.mouth is None and any(rate.video is not None for rate in rates):
                check_detector()
        return clip if self.spoil is None else self.spoil(clip, row.id)


def evaluate(
    transcriber: Transcriber,
    rows: Sequence[ManifestRow],
    conditions: Sequence[Condition],
    *,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> list[Result]:
    """Transcribe clips under every condition and score them.

    Args:
        transcriber: the model.
        rows: the clips.
        conditions: the conditions, see :func:`~mome.evaluation.result.make_conditions`.
        progress: called after every batch with the number of clips done and of all clips.
        options:
            noise: ``(samples,)`` float, 16 kHz; required if a condition has a signal-to-noise ratio.
            seed: seed of the noise and the intervals.
            batch_size: number of clips transcribed together.
            store: keeps the clips for later evaluations; it must have the modalities that the conditions need.
            spoil: done to each clip, given its id, before noise is mixed in.
            normalize: the form in which to compare transcripts, see
                :func:`~mome.evaluation.normalizers.normalizer`.
            active_experts: routed experts active for a token, see :meth:`~mome.decoding.Transcriber.transcribe`.
            All others are options of Transformers' ``generate``, such as ``num_beams``.

    Returns:
        The result of each condition, in their order.

    Raises:
        MomeError: rates are not in the model's rate set, or noise is required and missing.
    """
    evaluation = Evaluation(transcriber, rows, conditions, **options)
    evaluation.run(progress)
    return evaluation.results()


def failed(row: ManifestRow, reason: str, conditions: Sequence[Condition]) -> list[Outcome]:
    """The outcomes of a clip that fails under these conditions."""
    return [(row, 0.0, condition, Failure(row.id, reason)) for condition in conditions]


def _noisy(
    clips: _Loaded, level: float | None, noise: np.ndarray | None, seed: int
) -> tuple[_Loaded, list[tuple[ManifestRow, Clip, str]]]:
    """Mix noise into clips with sound; returns all clips but those that failed, and these with the reason."""
    if level is None or noise is None:
        return clips, []
    noisy, failed = [], []
    for row, clip in clips:
        try:
            noisy.append((row, add_noise(clip, noise, level, seed, row.id)))
        except Exception as error:
            failed.append((row, clip, in_one_line(error)))
    return noisy, failed


def _transcribe(
    transcriber: Transcriber, clips: _Loaded, rates: list[Rates], generation: dict[str, Any]
) -> list[list[Transcript | Failure]]:
    """Transcribe clips at all rates: ``[clip][rate]``. If that fails, retry in smaller parts to find what failed."""
    if not clips or not rates:
        return [[] for _ in clips]
    try:
        transcripts = transcriber.transcribe_batch([clip for _, clip in clips], rates, **generation)
        return [list(per_rate) for per_rate in transcripts]
    except Exception as error:
        if len(clips) == len(rates) == 1:
            return [[Failure(clips[0][0].id, in_one_line(error))]]
    if len(clips) > 1:
        return [_transcribe(transcriber, [clip], rates, generation)[0] for clip in clips]
    return [[_transcribe(transcriber, clips, [rate], generation)[0][0] for rate in rates]]
