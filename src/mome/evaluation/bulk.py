"""Transcription of many clips on a Ray cluster: processes that decode and crop feed processes with the model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import torch

from mome.checkpoints.folder import WEIGHTS, model_folder, read_config
from mome.cluster import LOCAL, TRIES, Lost, Stage, process
from mome.config.fields import Compatibility
from mome.data.manifests import ManifestRow
from mome.decoding.transcriber import Transcriber, load
from mome.evaluation.evaluate import Evaluation, Read, failed
from mome.evaluation.journal import Outcome
from mome.evaluation.result import Condition
from mome.files import disk_errors
from mome.model import MomeForSpeechRecognition, MomeProcessor


@dataclass(frozen=True)
class Cluster:
    """An engine for :meth:`~mome.evaluation.evaluate.Evaluation.run`: batches are transcribed on a Ray cluster.

    The batches are those of one process, and so are the transcripts. If processes die at a batch again and again,
    its clips are tried one by one, and the one at which they die is a failure.

    Attributes:
        model: folder or hub id, which all machines of the cluster have.
        conditions: the conditions.
        compat, dtype, device, language_model_dtype: for :func:`~mome.decoding.load`.
        options: of :class:`~mome.evaluation.evaluate.Evaluation`.
        address: of the cluster, or :data:`~mome.cluster.LOCAL`.
    """

    model: str
    conditions: Sequence[Condition]
    compat: Compatibility | None = None
    dtype: str = "float32"
    device: str = "auto"
    language_model_dtype: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    address: str = LOCAL

    def __call__(self, batches: Sequence[Sequence[ManifestRow]]) -> Iterator[Sequence[Outcome]]:
        """Yield the outcomes of each batch, in any order; see :func:`~mome.cluster.process` for what it raises."""
        stages = (Stage(partial(_reader, self)), Stage(partial(_recogniser, self), gpu=self.device != "cpu"))
        while batches:
            single: list[list[ManifestRow]] = []
            for number, result in process(batches, stages, self.address):
                if not isinstance(result, Lost):
                    yield result
                elif len(batch := batches[number]) > 1:
                    single += [[row] for row in batch]
                else:
                    reason = f"{batch[0].path} killed {TRIES} processes, by a fault in a decoder or its size"
                    yield failed(batch[0], reason, self.conditions)
            batches = single

    def evaluation(self, transcriber: Transcriber) -> Evaluation:
        """The evaluation of these conditions and options, in a process of the cluster."""
        return Evaluation(transcriber, (), self.conditions, **self.options)


def _reader(cluster: Cluster) -> Callable[[Sequence[ManifestRow]], Read]:
    cv2.setNumThreads(1)
    return cluster.evaluation(without_weights(cluster.model, cluster.compat)).read


def _recogniser(cluster: Cluster) -> Callable[[Read], list[Outcome]]:
    loading = {name: getattr(cluster, name) for name in ("device", "compat", "dtype", "language_model_dtype")}
    transcriber = load(cluster.model, **loading)
    return cluster.evaluation(transcriber).transcribe


def without_weights(name: str, compat: Compatibility | None = None) -> Transcriber:
    """A transcriber that can read clips, as it knows what fits, but not transcribe them."""
    folder = model_folder(name)
    config = read_config(folder)
    if compat is not None:
        config.compat = compat
    with torch.device("meta"):
        model = MomeForSpeechRecognition(config)
    return Transcriber(model, MomeProcessor.from_folder(folder, config), name)


def settings(
    model: str,
    compat: Compatibility | None,
    dtype: str,
    bits: str | None,
    noise: Path | None,
    seed: int,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """What transcripts depend on besides clips and conditions, for a :class:`~mome.evaluation.journal.Journal`.

    The model is a digest of its trained weights, and the noise the name of its file.
    """
    file = model_folder(model) / WEIGHTS
    with disk_errors(file), file.open("rb") as weights:
        digest = hashlib.file_digest(weights, "sha256").hexdigest()[:32]
    dtypes = {"dtype": dtype, "language_model_dtype": bits}
    own = {"model": digest, "compat": compat, **dtypes, "noise": None if noise is None else noise.name}
    return {**own, "seed": seed, "options": {name: value for name, value in options.items() if value is not None}}
