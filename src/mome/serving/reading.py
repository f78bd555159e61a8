"""The processes that open recordings: decoding, faces, and where somebody speaks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch

from mome.checkpoints.folder import model_folder, read_config
from mome.clip import Clip
from mome.decoding import Transcriber
from mome.decoding.recordings import Recordings
from mome.errors import MomeError
from mome.media.decode import declared_pixels, declared_seconds
from mome.media.noise import add_noise, speech_shaped_noise
from mome.media.parts import Part
from mome.model import MomeForSpeechRecognition, MomeProcessor
from mome.rates import Rates
from mome.serving.request import Limits, Refusal

NAME = "the recording"
"""What messages call a file: clients know neither its path nor its name."""


@dataclass(frozen=True)
class Step:
    """A message: read the next part of a recording.

    Attributes:
        number: the request's number.
        path: the file.
        rates: what it is read for.
        beams: width of the beam search, which says how much fits.
        noise: see :class:`~mome.serving.request.Options`.
        skip: parts that another process has read already.
        forget: numbers of requests that are over.
    """

    number: int
    path: Path
    rates: Rates
    beams: int | None
    noise: float | None
    skip: int
    forget: tuple[int, ...]


@dataclass(frozen=True)
class End:
    """What is known of a recording when all of it is read.

    Attributes:
        hears, sees: whether it has sound and a picture that can be read at the rates asked for.
        seconds: its length.
        notes: warnings.
    """

    hears: bool
    sees: bool
    seconds: float
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Read:
    """The answer to a :class:`Step`: parts in order, the end if there is nothing more, and the seconds it took."""

    parts: list[Part]
    end: End | None
    seconds: float


class Reader:
    """Reads several recordings in turn, part by part.

    Args:
        model: the model's folder or hub id; its configuration says how long parts may be.
        limits: of requests.
    """

    facts = None

    def __init__(self, model: str, limits: Limits):
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        folder = model_folder(model)
        config = read_config(folder)
        with torch.device("meta"):  # weights are not needed
            bare = MomeForSpeechRecognition(config)
        self._transcriber = Transcriber(bare, MomeProcessor.from_folder(folder, config, torch.float32))
        self._limits = limits
        self._open: dict[int, tuple[Recordings, Iterator[Part]]] = {}

    def __call__(self, step: Step) -> Read:
        """Read on.

        Raises:
            Refusal: the recording is beyond the limits, or cannot be read.
        """
        began = time.perf_counter()
        for number in step.forget:
            self._open.pop(number, None)
        try:
            parts, end = self._read(step)
        except MomeError as error:
            self._open.pop(step.number, None)
            raise Refusal(400, _unnamed(str(error), step.path), "invalid_file", "file") from None
        except BaseException:
            self._open.pop(step.number, None)
            raise
        return Read(parts, end, time.perf_counter() - began)

    def _read(self, step: Step) -> tuple[list[Part], End | None]:
        if step.number not in self._open:
            self._check(declared_seconds(step.path) or 0.0, step.path)
            generation = {} if step.beams is None else {"num_beams": step.beams}
            cutter = Recordings(self._transcriber, [step.rates], generation, None, None, True, None)
            found = cutter.parts(step.path)
            self._open[step.number] = cutter, found
            for _ in range(step.skip):
                next(found, None)
        cutter, found = self._open[step.number]
        parts, end = [], None
        while end is None:
            part = next(found, None)
            self._check(max(cutter.seconds, 0.0 if part is None else part.start + part.clip.seconds), None)
            if part is None:
                del self._open[step.number]
                notes = tuple(_unnamed(line, step.path) for line in cutter.notes)
                end = End(cutter.hears, cutter.sees, cutter.seconds, notes)
            else:
                warnings = tuple(_unnamed(line, step.path) for line in part.clip.warnings)
                clip = replace(part.clip, path=None, warnings=warnings)
                parts.append(replace(part, clip=clip if step.noise is None else _noisy(clip, step.noise)))
                if cutter.seconds > cutter.window:  # else all of it is in memory already
                    break
        return parts, end

    def _check(self, seconds: float, path: Path | None) -> None:
        most = self._limits
        if seconds > most.seconds:
            message = f"{NAME} has {seconds:.0f} s, at most {most.seconds:g} s are taken: cut it into shorter ones"
            raise Refusal(413, message, "recording_too_long", "file")
        if path is not None and (pixels := declared_pixels(path)) > most.pixels:
            message = f"{NAME}'s pictures have {pixels} pixels, at most {most.pixels} are taken: scale it down"
            raise Refusal(413, message, "pictures_too_large", "file")


def _noisy(clip: Clip, level: float) -> Clip:
    """The clip in noise of its own spectrum, always the same; a silent one as it is."""
    if clip.audio is None or not clip.audio.any():
        return clip
    return add_noise(clip, speech_shaped_noise(clip.audio, np.random.default_rng(0)), level, 0)


def _unnamed(message: str, path: Path) -> str:
    return message.replace(f"file:{path}", NAME).replace(str(path), NAME)
