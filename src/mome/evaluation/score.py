"""Word error rates of transcripts that any system made, counted as an evaluation counts its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from mome.errors import MomeError, listed
from mome.evaluation.normalizers import Normalizer
from mome.evaluation.result import Failure, Group, Heard, Result
from mome.evaluation.transcripts import read_references, read_transcripts
from mome.rates import Task

Missing = Literal["error", "empty", "skip"]


def score(
    transcripts: Path,
    data: Path,
    split: str | None = None,
    *,
    task: Task | None = None,
    missing: Missing = "error",
    normalize: Normalizer = "lower",
    seed: int = 0,
) -> list[Result]:
    """Compare a CSV file of transcripts with a manifest.

    Every group of the file (a system at some task, rates and noise level) is scored over the same clips: all
    of the split. Transcripts of other splits' clips are passed over.

    Args:
        transcripts: see :func:`~mome.evaluation.transcripts.read_transcripts`.
        data: the manifest.
        split: of the manifest; all its clips by default.
        task: of transcripts that say neither task nor rates.
        missing: what becomes of a clip that a group does not have: an error, an empty transcript, all of whose
            words count as deleted, or a failure, left out of the figures and listed.
        normalize: the form in which transcripts are compared, see :func:`~mome.evaluation.normalizers.normalizer`.
        seed: of the intervals.

    Returns:
        One result per group, in the file's order.

    Raises:
        MomeError: a file is unusable, an id is unknown, or a clip is missing.
    """
    groups = read_transcripts(transcripts, task)
    references, known = read_references(data, split)
    unknown = [name for name in dict.fromkeys(name for texts in groups.values() for name in texts) if name not in known]
    if unknown:
        raise MomeError(f"{transcripts} has {len(unknown)} ids that are not in {data}: {listed(unknown)}")
    if missing == "error":
        for group, texts in groups.items():
            absent = [name for name in references if name not in texts]
            if absent:
                raise MomeError(
                    f"{transcripts} has no transcript of {len(absent)} of {len(references)} clips for {group}: "
                    f"{listed(absent)}; add them, or choose --missing empty or --missing skip"
                )
    return [_result(group, texts, references, missing, normalize, seed) for group, texts in groups.items()]


def _result(
    group: Group,
    texts: Mapping[str, str],
    references: Mapping[str, str],
    missing: Missing,
    normalize: Normalizer,
    seed: int,
) -> Result:
    heard = [
        Heard(name, said, texts.get(name, ""))
        for name, said in references.items()
        if name in texts or missing == "empty"
    ]
    present = {one.id for one in heard}
    failures = [Failure(name, "no transcript") for name in references if name not in present]
    return Result.of(group, heard, seed, normalize=normalize, failures=failures)
