"""The process that has the model: parts of any recordings and rates to transcripts."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

import mome
from mome.clip import Clip
from mome.decoding import Transcriber, load
from mome.errors import MomeError
from mome.media.face import FaceDetector
from mome.model.sequence import count_tokens, encoder_frames
from mome.rates import Rates, RateSet
from mome.text.transcript import Transcript

_COPIES = 4


@dataclass(frozen=True)
class Setup:
    """The model to load: its folder or hub id, and options of :func:`mome.load`; whether to measure its rates."""

    model: str
    device: str = "auto"
    dtype: str = "float32"
    language_model_dtype: str | None = None
    measure: bool = False


@dataclass(frozen=True)
class Facts:
    """What a model says of itself.

    Attributes:
        rate_set: the rates that it has.
        order: all of them, those of the most tokens first; the first ones are of the main task.
        costs: seconds of the model for a second of speech in a batch, by rates; empty if they were not measured.
        description: what users should know.
    """

    rate_set: RateSet
    order: tuple[Rates, ...]
    costs: dict[Rates, float]
    description: str | None


@dataclass(frozen=True)
class Batch:
    """A message: clips to transcribe together, each at rates of its own."""

    clips: list[Clip]
    rates: list[Rates]
    beams: int | None
    words: bool


@dataclass(frozen=True)
class Done:
    """The answer: for each clip its transcript or why there is none, and the seconds that all took."""

    outcomes: list[Transcript | MomeError]
    seconds: float


class Model:
    """Transcribes batches."""

    def __init__(self, setup: Setup):
        transformers.logging.disable_progress_bar()
        # The readers need the other half; threads that wait for each other on a busy core need far more time.
        torch.set_num_threads(min(torch.get_num_threads(), max((os.cpu_count() or 1) // 2, 1)))
        self._transcriber = load(
            setup.model, device=setup.device, dtype=setup.dtype, language_model_dtype=setup.language_model_dtype
        )
        config = self._transcriber.model.config
        frames = encoder_frames(config, 4.0)
        rates = sorted(config.rate_set.rates(), key=lambda rate: -count_tokens(config, rate, *frames).total)
        main = self._transcriber.default_rates.task
        order = [rate for rate in rates if rate.task == main] + [rate for rate in rates if rate.task != main]
        costs = measured(self._transcriber, order) if setup.measure else {}
        self.facts = Facts(config.rate_set, tuple(order), costs, config.description)

    def __call__(self, batch: Batch) -> Done:
        """Transcribe; a clip that fails does not take the others with it."""
        began = time.perf_counter()
        options: dict[str, Any] = {"words": batch.words}
        if batch.beams is not None:
            options["num_beams"] = batch.beams
        outcomes: list[Transcript | MomeError] = []
        try:
            rows = self._transcriber.transcribe_batch(batch.clips, [[rates] for rates in batch.rates], **options)
            outcomes = [row[0] for row in rows]
        except MomeError:
            for clip, rates in zip(batch.clips, batch.rates, strict=True):
                try:
                    outcomes.append(self._transcriber.transcribe_batch([clip], [rates], **options)[0][0])
                except MomeError as error:
                    outcomes.append(error)
        return Done(outcomes, time.perf_counter() - began)


def measured(transcriber: Transcriber, order: list[Rates]) -> dict[Rates, float]:
    """Seconds for a second of speech at each of the rates, from a few copies of the demonstration clip."""
    film = Path(mome.__file__).parent / "demo" / "clip.mp4"
    transcriber.detector = FaceDetector()
    clip = transcriber.load_clip(film, [order[0]])
    found: dict[Rates, float] = {}
    for rates in (order[0], *order):  # the first once more: it warms up
        began = time.perf_counter()
        transcriber.transcribe_batch([clip] * _COPIES, [rates])
        found[rates] = (time.perf_counter() - began) / (_COPIES * clip.seconds)
    return found
