"""``mome transcribe --ray``: the clips of a manifest, by a cluster, to one file of a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mome.cli.output import SOME_FAILED, failure_lines, note, progress
from mome.errors import MomeError
from mome.files import disk_errors
from mome.rates import Rates

TRANSCRIPTS, FAILURES = "transcripts.jsonl", "failures.csv"
_LISTED = 10  # reasons on the terminal


def transcribe_manifest(
    data: Path,
    folder: Path,
    address: str,
    model: str,
    loading: Mapping[str, Any],
    rates: Sequence[Rates],
    noise: Path | None,
    snr: float | None,
    seed: int,
    batch: int,
    options: Mapping[str, Any],
) -> int:
    """Write transcripts.jsonl, from which an interrupted run goes on, and failures.csv, if any of its clips failed.

    Args:
        data: the manifest.
        folder: created if missing.
        address: of the cluster.
        model: folder or hub id.
        loading: ``compat``, ``dtype``, ``device`` and ``language_model_dtype``.
        rates: the rates of each clip, by default the finest; those of modalities that it lacks are left out.
        noise, snr, seed: noise to mix in.
        batch: clips transcribed together.
        options: of decoding.

    Returns:
        The exit code.
    """
    from mome.data.manifests import read_manifest, write_failures
    from mome.evaluation.bulk import Cluster, settings, without_weights
    from mome.evaluation.evaluate import Evaluation
    from mome.evaluation.journal import Journal
    from mome.evaluation.result import make_conditions
    from mome.media.noise import load_noise

    rows = read_manifest(data, silence=True, missing_files=True)
    if folder.exists() and not folder.is_dir():
        raise MomeError(f"--out {folder} is a file: give a folder")
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    transcriber = without_weights(model, loading["compat"])
    conditions = make_conditions(rates or [transcriber.default_rates], [snr])
    sound = None if noise is None else load_noise(noise)
    own: dict[str, Any] = {"noise": sound, "seed": seed, "batch_size": batch, **options}
    evaluation = Evaluation(transcriber, rows, conditions, **own)
    kept = settings(model, loading["compat"], loading["dtype"], loading["language_model_dtype"], noise, seed, options)
    with Journal(folder / TRANSCRIPTS, kept, rows, conditions) as journal, progress("transcribing") as bar:
        evaluation.run(bar, Cluster(model, conditions, **loading, options=own, address=address), journal)
    if transcriber.model.config.description:
        note(transcriber.model.config.description)
    failures = evaluation.failures()
    note(f"wrote {folder / TRANSCRIPTS}: {len(rows) - len(failures)} of {len(rows)} clips")
    if listed := [*journal.failed_elsewhere.items(), *failures]:
        write_failures(folder / FAILURES, listed)
    else:
        (folder / FAILURES).unlink(missing_ok=True)  # of an earlier run
    if not failures:
        return 0
    lines = failure_lines(failures)
    for line in lines[:_LISTED]:
        note(line)
    if len(lines) > _LISTED:
        note(f"and {len(lines) - _LISTED} more: {folder / FAILURES} has all")
    return SOME_FAILED
