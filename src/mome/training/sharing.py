"""What the processes of a training share: clips and features to store, clips to skip, batches to validate."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TypeVar

from torch import distributed

from mome.archive import find_member
from mome.data.clips import Progress
from mome.data.datasets import SpeechDataset
from mome.data.manifests import ManifestRow
from mome.data.tables import read_rows, table_text
from mome.errors import MomeError, in_one_line
from mome.files import write_text
from mome.model import MomeForSpeechRecognition
from mome.rates import Rates
from mome.text.wer import WordErrors
from mome.training.run_folder import SKIPPED

logger = logging.getLogger(__name__)

ROUND = 100
"""Clips of a process before it waits for the others: minutes, less than any time limit of a process group."""
_Value = TypeVar("_Value")
_COLUMNS = ("step", "id", "path", "reason")


def processes() -> tuple[int, int]:
    """The number of this process, from 0, and of all processes of the training."""
    if not distributed.is_available() or not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def exchanged(value: _Value) -> list[_Value]:
    """The values of all processes, in the order of their numbers; every process must call this."""
    _, count = processes()
    values = [value] * count
    if count > 1:
        distributed.all_gather_object(values, value)
    return values


def own_batches(rows: Sequence[ManifestRow], size: int, together: bool = False) -> Iterator[Sequence[ManifestRow]]:
    """Every batch of ``size`` rows that is this process's part of the work; every batch if all do it ``together``."""
    number, every = (0, 1) if together else processes()
    for start in range(number * size, len(rows), every * size):
        yield rows[start : start + size]


def error_rates(rates: Sequence[Rates], errors: Sequence[WordErrors]) -> dict[str, float]:
    """Word error rates such as ``{"wer/4,2": 0.03}``, of the errors of all processes; every process must call this."""
    totals = [sum(each, WordErrors()) for each in zip(*exchanged(errors), strict=True)]
    return {f"wer/{rate}": total.wer for rate, total in zip(rates, totals, strict=True)}


class SkippedClips:
    """Clips of a run that cannot be read, the same in all processes, and listed in ``skipped.csv`` of its folder.

    Args:
        folder: the run's folder.
        rows: the training clips and then the validation clips; a clip's place is its index here.
        percent: how many of them may be skipped.
        resume: whether clips that the run has skipped before stay out, so that its batches stay the same.

    Attributes:
        found: step (0: before training) and reason, by place.
    """

    def __init__(self, folder: Path, rows: Sequence[ManifestRow], percent: float, resume: bool):
        self.file, self.rows, self.percent = folder / SKIPPED, rows, percent
        self.found: dict[int, tuple[int, str]] = {}
        if resume and self.file.exists():
            places = {(row.id, str(row.path)): place for place, row in enumerate(rows)}
            for _, line in read_rows(self.file, _COLUMNS):
                place = places.get((line["id"], line["path"]))
                if place is not None and line["step"].isdigit():
                    self.found[place] = (int(line["step"]), line["reason"])
        elif not resume and processes()[0] == 0:
            self.file.unlink(missing_ok=True)

    def add(self, found: Mapping[int, str], step: int) -> None:
        """Tell all processes which clips this one could not read, and why; every process must call this.

        Raises:
            MomeError: more clips than allowed cannot be read. All processes raise it.
        """
        new = {place: text for each in exchanged(dict(found)) for place, text in sorted(each.items())}
        new = {place: text for place, text in new.items() if place not in self.found}
        self.found |= {place: (step, text) for place, text in new.items()}
        if new and processes()[0] == 0:
            for place, text in new.items():
                logger.warning("clip %s is skipped: %s", self.rows[place].id, text)
            rows = (
                (then, self.rows[place].id, self.rows[place].path, text) for place, (then, text) in self.found.items()
            )
            write_text(self.file, table_text(_COLUMNS, rows))
        if len(self.found) > self.percent / 100 * len(self.rows):
            _, why = next(reversed(self.found.values()))
            raise MomeError(
                f"{why} ({len(self.found)} of {len(self.rows)} clips cannot be read, more than "
                f"data.skip_percent={self.percent:g} allows: see {self.file})"
            )


def store_clips(
    dataset: SpeechDataset, valid_rows: Sequence[ManifestRow], workers: int, skipped: SkippedClips, progress: Progress
) -> None:
    """Store all clips that are not stored yet, each by one process, and set the dataset's lengths.

    Validation clips in tar files are read once, since all of them must be readable; training clips there are not.

    Raises:
        MomeError: too many clips cannot be read, or processes do not share the cache folder.
    """
    clips, rows = dataset.clips, [*dataset.rows, *valid_rows]
    skipped.add({}, 0)
    todo = [
        place
        for place in _own(len(rows))
        if place not in skipped.found
        and (not clips.has(rows[place]) or (place >= len(dataset) and find_member(rows[place].path) is not None))
    ]
    _share("reading clips", todo, clips.store([rows[place] for place in todo], workers), skipped, progress)
    _check_shared(_firsts(rows, skipped), clips.has, clips.folder)

    measured: dict[int, int] = {}

    def measure() -> Iterator[tuple[ManifestRow, MomeError | None]]:
        for place in unknown:
            try:
                measured[place] = clips.frames(rows[place])
                yield rows[place], None
            except MomeError as error:
                yield rows[place], error

    # Clips that were skipped later have a length, so that batches stay the same.
    left_out = {place for place, (step, _) in skipped.found.items() if step == 0}
    unknown = [place for place in _own(len(dataset)) if not rows[place].frames and place not in left_out]
    _share("", unknown, measure(), skipped, lambda *report: None)
    lengths = {place: length for each in exchanged(measured) for place, length in each.items()}
    dataset.frames = [
        0 if place in left_out else row.frames or lengths.get(place, 0) for place, row in enumerate(dataset.rows)
    ]
    dataset.skipped |= {place for place in skipped.found if place < len(dataset)}


def store_features(
    dataset: SpeechDataset,
    model: MomeForSpeechRecognition,
    skipped: SkippedClips,
    progress: Progress,
) -> None:
    """Store the features of all training clips that are not stored yet, each by one process.

    Raises:
        MomeError: too many clips cannot be read, or processes do not share the cache folder.
    """
    features, clips, rows = dataset.features, dataset.clips, dataset.rows
    assert features is not None

    def has(row: ManifestRow) -> bool:
        return features.has(row, clips)

    todo = [place for place in _own(len(rows)) if place not in skipped.found and not has(rows[place])]
    encoded = features.encode([rows[place] for place in todo], clips, dataset.augmentation, model, dataset.processor)
    _share("encoding clips", todo, encoded, skipped, progress)
    _check_shared(_firsts(rows, skipped), has, features.folder)
    dataset.frames = [0 if place in skipped.found else length for place, length in enumerate(dataset.frames)]


def _own(count: int) -> range:
    """The places that are this process's part of the work."""
    number, every = processes()
    return range(number, count, every)


def _share(
    what: str,
    places: Sequence[int],
    work: Iterator[tuple[ManifestRow, MomeError | None]],
    skipped: SkippedClips,
    progress: Progress,
) -> None:
    """Do this process's part, and wait for the others after every :data:`ROUND` clips to agree which are skipped."""
    with closing(work):  # type: ignore[type-var]
        done, results = 0, zip(places, work, strict=True)
        for _ in range(0, max(exchanged(len(places))), ROUND):
            found: dict[int, str] = {}
            for place, (_, error) in islice(results, ROUND):
                done += 1
                progress(what, done, len(places))
                if error is not None:
                    found[place] = in_one_line(error)
            skipped.add(found, 0)


def _firsts(rows: Sequence[ManifestRow], skipped: SkippedClips) -> list[ManifestRow]:
    """One row of each process's part."""
    return [row for place, row in enumerate(rows[: processes()[1]]) if place not in skipped.found]


def _check_shared(rows: Sequence[ManifestRow], has: Callable[[ManifestRow], bool], folder: Path) -> None:
    """Raise :class:`MomeError` if this process does not see what others have stored."""
    if not all(map(has, rows)):
        raise MomeError(
            f"{folder} is not one folder for all processes: give data.cache_folder=FOLDER on a disk that all share, or "
            "prepare the corpus by mome data prepare"
        )
