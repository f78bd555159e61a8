"""A transcriber that writes what the test tells it, and clips without files."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from mome.data.manifests import ManifestRow
from mome.errors import MomeError
from mome.media import Clip
from mome.rates import Rates, RateSet
from mome.text.transcript import Seconds, Segment, Tokens, Transcript


class FakeTranscriber:
    """Reads ``{(clip id, rates): text}``; an exception in place of a text is raised, for the whole batch."""

    media: FakeMedia

    def __init__(self, texts: dict[tuple[str, str], str | BaseException], rate_set: RateSet | None = None):
        self.texts = texts
        self.model = SimpleNamespace(rate_set=rate_set or RateSet((4, 16), (2, 5)))
        self.calls: list[tuple[list[Clip], list[Rates], dict]] = []

    def load_clip(self, path, rates, excerpt=None):
        return self.media(path, audio=any(r.audio for r in rates), video=any(r.video for r in rates))

    def transcribe_batch(self, clips, rates, **generation):
        self.calls.append((list(clips), list(rates), generation))
        return [[self._one(clip, rate) for rate in rates] for clip in clips]

    def _one(self, clip: Clip, rates: Rates) -> Transcript:
        assert clip.path is not None
        text = self.texts.get((clip.path.stem, str(rates)), "")
        if isinstance(text, BaseException):
            raise text
        used = Rates(rates.audio, None) if clip.mouth is None and rates.audio else rates
        return Transcript(
            str(clip.path),
            used.task,
            used,
            text,
            (Segment(0.0, clip.seconds, text),),
            Tokens(rates.audio or 0, rates.video or 0, 10),
            0.5 * (rates.audio or 1),
            Seconds(9.0, 0.25, 0.5),
        )


class FakeMedia:
    """Stands in for ``load_clip``: two seconds of clip, its sound drawn from its name."""

    def __init__(self, without_mouth: tuple[str, ...] = (), broken: tuple[str, ...] = (), silent=()):
        self.without_mouth, self.broken, self.silent = without_mouth, broken, silent
        self.loaded: list[tuple[str, bool, bool]] = []

    def __call__(self, path: Path, *, audio: bool, video: bool) -> Clip:
        self.loaded.append((path.stem, audio, video))
        if path.stem in self.broken:
            raise MomeError(f"{path} is damaged")
        mouth = np.zeros((50, 96, 96), np.uint8)
        return Clip(
            sound(path.stem) * (path.stem not in self.silent) if audio else None,
            mouth if video and path.stem not in self.without_mouth else None,
            2.0,
            path,
        )


def sound(name: str) -> np.ndarray:
    """(32000,) float32, of different loudness for each name."""
    rng = np.random.default_rng(list(name.encode()))
    return (rng.uniform(0.01, 0.3) * rng.standard_normal(32_000)).astype(np.float32)


def make_rows(texts: dict[str, str]) -> list[ManifestRow]:
    return [ManifestRow(name, Path(f"media/{name}.mp4"), "test", text) for name, text in texts.items()]
