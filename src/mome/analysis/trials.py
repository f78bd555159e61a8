"""Evaluations of models over the same clips, each file read once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mome.data.clips import ClipStore
from mome.data.manifests import ManifestRow
from mome.decoding.transcriber import Transcriber
from mome.evaluation.evaluate import evaluate
from mome.evaluation.result import Result, make_conditions
from mome.rates import Rates

Progress = Callable[[int, int], None]
"""Called with the number of clips done and of all clips, over all evaluations."""


@dataclass
class Trials:
    """Runs evaluations one after the other over the same clips; :func:`trials` makes one.

    Attributes:
        rows: the clips.
        store: the clips with the modalities that all evaluations need.
        total: how many evaluations there will be.
        seed: seed of noise and intervals.
        batch_size: number of clips transcribed together.
        progress: called after every batch.
        results: of all evaluations so far.
    """

    rows: Sequence[ManifestRow]
    store: ClipStore
    total: int
    seed: int
    batch_size: int
    progress: Progress | None = None
    results: list[Result] = field(default_factory=list)
    _done: int = 0

    def run(
        self, transcriber: Transcriber, rates: Sequence[Rates], snrs: Sequence[float | None] = (None,), **options: Any
    ) -> list[Result]:
        """Evaluate at all rates and ratios; ``options`` are ``noise`` and ``spoil`` of :func:`evaluate`."""
        clips = len(self.rows)

        def advance(done: int, _: int) -> None:
            if self.progress is not None:
                self.progress(self._done * clips + done, self.total * clips)

        found = evaluate(
            transcriber,
            self.rows,
            make_conditions(rates, snrs),
            progress=advance,
            seed=self.seed,
            batch_size=self.batch_size,
            store=self.store,
            **options,
        )
        self._done += 1
        self.results += found
        return found


@contextmanager
def trials(
    rows: Sequence[ManifestRow],
    rates: Sequence[Rates],
    total: int,
    *,
    seed: int = 0,
    batch_size: int = 1,
    progress: Progress | None = None,
) -> Iterator[Trials]:
    """Keep clips, with the modalities that ``rates`` need, in a temporary folder while evaluations run."""
    audio, video = (any(getattr(rate, side) is not None for rate in rates) for side in ("audio", "video"))
    with TemporaryDirectory(prefix="mome-") as folder:
        store = ClipStore(Path(folder), audio=audio, video=video)
        yield Trials(rows, store, total, seed, batch_size, progress)


def failures(results: Iterable[Result]) -> list[dict[str, str]]:
    """The clips that could not be transcribed under some condition, and why, each reason once."""
    return [asdict(failure) for failure in dict.fromkeys(failure for result in results for failure in result.failures)]


def per_cent(wer: float | None) -> float:
    """A word error rate for a figure, NaN if no clip was transcribed."""
    return float("nan") if wer is None else 100 * wer


def error_bars(results: Sequence[Result]) -> list[list[float]]:
    """How far each interval reaches below and above its rate, in points: ``[below, above]`` for Matplotlib."""
    ends = [(per_cent(one.wer), *map(per_cent, one.ci95 or (None, None))) for one in results]
    return [[max(wer - low, 0) for wer, low, _ in ends], [max(high - wer, 0) for wer, _, high in ends]]
