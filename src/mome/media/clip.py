"""One file to one clip: what the models hear and see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np

from mome.errors import MomeError
from mome.media.decode import (
    FRAME_RATE,
    SAMPLE_RATE,
    Damage,
    Media,
    naming,
    probe,
    read_audio,
    read_frames,
)
from mome.media.face import DETECTION_SIZE, Face, FaceDetector, Speaker, choose, follow
from mome.media.mouth import MOUTH_SIZE, crop, fill_gaps, smooth
from mome.media.upright import upright, upright_size

# Square videos up to this many pixels are taken for mouth crops made elsewhere.
_LARGEST_CROP = 128
# A file that gives less than this part of the duration it states is cut off.
_COMPLETE = 0.9
_SILENCE = 1e-4  # of full scale: -80 dB


@dataclass(frozen=True)
class Clip:
    """Sound and mouth of one file, both from t = 0 on; None where the file has none or it was not wanted."""

    audio: np.ndarray | None
    """(samples,) float32, 16 kHz mono in [-1, 1]."""
    mouth: np.ndarray | None
    """(frames, 96, 96) uint8 grey at 25 fps."""
    seconds: float
    """Length of the longer of the two."""
    path: Path | None = None
    warnings: tuple[str, ...] = ()
    """One line each, for the user."""


def load_clip(
    path: str | Path,
    *,
    audio: bool = True,
    video: bool = True,
    longest: float | None = None,
    detector: FaceDetector | None = None,
) -> Clip:
    """Read a video or audio file of any common kind.

    A stream that is not wanted (``audio=False``, ``video=False``) is left out. A wanted one that is missing
    is None in the clip, with a warning.

    Args:
        path: the file.
        audio, video: which streams are wanted.
        longest: refuse sound of more than so many seconds, before the video is looked at.
        detector: of faces; give the same one for several clips, so that it is loaded once.

    Raises:
        MomeError: nothing wanted is there, the file cannot be read or is too long, or a face must be found
            and there is no detector.
    """
    path = Path(path)
    with naming(path):
        return _load(path, audio, video, longest, detector or FaceDetector())


def _load(path: Path, audio: bool, video: bool, longest: float | None, detector: FaceDetector) -> Clip:
    media = probe(path)
    sound = mouth = None
    missing: list[str] = []
    warnings: list[str] = []
    if audio:
        damage = Damage()
        sound = read_audio(media, damage, longest)
        if sound is None:
            missing.append("no sound")
        else:
            warnings += [_tolerated(path, "sound", damage)] if damage else []
            if np.abs(sound).max(initial=0) < _SILENCE:
                warnings.append(f"{path}: the sound is silent throughout, words can come from the lips alone")
    if video:
        damage = Damage()
        mouth, notes = _read_mouth(media, damage, detector)
        if mouth is None:
            missing += notes
        else:
            warnings += [f"{path}: {note}" for note in notes]
            if damage:
                warnings.append(_tolerated(path, "video", damage))
    if sound is None and mouth is None:
        raise MomeError(f"{path}: {' and '.join(missing)}, so {_what_is_left(media, audio, video)}")
    seconds = max(0.0 if sound is None else len(sound) / SAMPLE_RATE, 0.0 if mouth is None else len(mouth) / FRAME_RATE)
    whole = (sound is not None or media.audio is None) and (mouth is not None or media.video is None)
    if whole and media.reliable and media.declared is not None and seconds < _COMPLETE * media.declared:
        raise MomeError(
            f"{path} is cut off: it ends after {seconds:.1f} of {media.declared:.1f} s: copy or download it again, or "
            "cut it properly with ffmpeg to use what is left"
        )
    for lack in missing:
        rest = "lips" if sound is None else "sound"
        warnings.insert(0, f"{path}: {lack}, so only the {rest} can be used")
    return Clip(sound, mouth, seconds, path, tuple(warnings))


def _tolerated(path: Path, what: str, damage: Damage) -> str:
    """The warning about a hiccup; raises :class:`MomeError` where more than that is lost."""
    if damage.serious:
        raise MomeError(
            f"{path} is damaged: part of its {what} cannot be decoded: copy or download it again, or convert it with "
            "ffmpeg to use what is left"
        )
    return f"{path} is slightly damaged: {damage.lost} of {damage.seen} pieces of its {what} cannot be decoded"


def _what_is_left(media: Media, audio: bool, video: bool) -> str:
    if media.audio is not None and not audio:
        return "its lips cannot be read; it has sound that can be used instead"
    if media.video is not None and not video:
        return "it cannot be heard; it has video that can be used instead"
    return "there is nothing to transcribe: give a file with speech, a speaking face or both"


def _read_mouth(media: Media, damage: Damage, detector: FaceDetector) -> tuple[np.ndarray | None, list[str]]:
    """(frames, 96, 96) uint8 and what the user should know about it, or None and what is missing."""
    first = next(read_frames(media, Damage()), None)
    if first is None:
        return None, ["no video"]
    size = upright_size(first, media.pixel_aspect)
    if size[0] == size[1] <= _LARGEST_CROP:
        return np.stack([_as_crop(frame, size) for frame in read_frames(media, damage)]), []
    found = list(_find_faces(media, size, damage, detector))
    speaker = choose(follow(found), len(found))
    if speaker is None:
        return None, ["no face found"]
    points = np.concatenate([smooth(fill_gaps(shot)) for shot in speaker.points(len(found))])
    mouth = np.empty((len(found), MOUTH_SIZE, MOUTH_SIZE), np.uint8)
    for number, frame in enumerate(read_frames(media, Damage())):
        mouth[number] = crop(upright(frame, size, "gray"), points[number])
    return mouth, _notes(speaker, len(found), size[0])


def _notes(speaker: Speaker, frames: int, width: int) -> list[str]:
    """Warnings about a speaker in a clip of ``frames`` frames, ``width`` pixels wide."""
    notes = []
    if speaker.people > 1:
        third = min(max(int(3 * speaker.across / width), 0), 2)
        side = ("on the left", "in the middle", "on the right")[third]
        why = "whose mouth moves most" if speaker.moves_most else "that is largest and most persistent"
        notes.append(f"{speaker.people} faces found, using the one {side} {why}")
    if speaker.frames < frames / 2:
        share = round(100 * speaker.frames / frames)
        notes.append(f"the face is seen in only {share} % of the video, the lips may be read wrongly")
    return notes


def _find_faces(media: Media, size: tuple[int, int], damage: Damage, detector: FaceDetector) -> Iterator[list[Face]]:
    """The faces of every frame, in pixels of ``size``; a frame that lasts is looked at once."""
    shrink = min(DETECTION_SIZE / max(size), 1.0)
    small = (max(round(size[0] * shrink), 1), max(round(size[1] * shrink), 1))
    last: av.VideoFrame | None = None
    faces: list[Face] = []
    for frame in read_frames(media, damage):
        if frame is not last:
            faces, last = detector(upright(frame, small, "bgr24"), 1 / shrink), frame
        yield faces


def _as_crop(frame: av.VideoFrame, size: tuple[int, int]) -> np.ndarray:
    """A frame of a mouth crop made elsewhere as (96, 96) uint8, unchanged if it has that size."""
    grey = upright(frame, size, "gray")
    return grey if grey.shape == (MOUTH_SIZE, MOUTH_SIZE) else cv2.resize(grey, (MOUTH_SIZE, MOUTH_SIZE))
