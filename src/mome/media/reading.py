"""A media file to a clip: sound and mouth crops."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from mome.clip import FRAME_RATE, MOUTH_SIZE, SAMPLE_RATE, WHOLE, Clip, Excerpt, length
from mome.errors import MomeError
from mome.media.decode import Damage, Media, naming, probe
from mome.media.detection import find_faces
from mome.media.face import DetectorError, FaceDetector, Speaker, choose, follow
from mome.media.frames import check_video, read_frames, upright, upright_size
from mome.media.limits import LONGEST_VIDEO, picture_excess
from mome.media.mouth import crop, fill_gaps, smooth
from mome.media.sound import read_audio
from mome.media.tracks import Track

LARGEST_CROP = 128
"""Square videos of at most this many pixels a side are taken to be mouth crops already."""
SILENCE = 1e-4
"""Sound that is nowhere louder counts as silent throughout: -80 dB of full scale."""


def load_clip(
    path: str | Path,
    *,
    audio: bool = True,
    video: bool = True,
    longest: float | None = None,
    longest_video: float | None = None,
    audio_track: int | None = None,
    detector: FaceDetector | None = None,
    excerpt: Excerpt = WHOLE,
) -> Clip:
    """Read the sound and the mouth crops of a video or audio file.

    A requested stream that the file lacks is None in the clip, with a warning. Sound that is silent throughout
    counts as missing, unless there is a mouth to read: then it stays, with a warning.

    Args:
        path: a file of any kind that FFmpeg reads; ``archive.tar/name`` is one in a tar file.
        audio, video: whether to read the sound and the mouth.
        longest: longest sound accepted, in seconds; checked before the video is read.
        longest_video: longest video accepted, in seconds; checked before faces are searched. Of an excerpt, both are
            about its own length.
        audio_track: index of the sound track to read, from 0; by default the file's default track.
        detector: the face detector; pass the same one for several clips to load it once.
        excerpt: the part to read, or another file for the sound.

    Raises:
        MomeError: the file cannot be read, has none of the requested streams or no such track, is too long or beyond
            the limits of :mod:`mome.media.limits`; or there is no sound, a face must be found, and the detector that
            ``MOME_FACE_DETECTOR`` names cannot be used.
    """
    path = Path(path)
    with naming(path):
        media = probe(path, audio_track)
        most = LONGEST_VIDEO if longest_video is None else min(longest_video, LONGEST_VIDEO)
        return _load(media, audio, video, longest, most, detector or FaceDetector(), excerpt)


def _load(
    media: Media,
    audio: bool,
    video: bool,
    longest: float | None,
    longest_video: float,
    detector: FaceDetector,
    excerpt: Excerpt,
) -> Clip:
    path = media.path
    sound = mouth = None
    missing: list[str] = []
    warnings: list[str] = []
    if video:
        check_video(media, LONGEST_VIDEO if excerpt.is_part else longest_video)
    if audio:
        damage = Damage()
        heard = media if excerpt.sound is None else probe(excerpt.sound)
        sound = _read_sound(heard, damage, longest, excerpt)
        if sound is None:
            missing.append("no sound")
        else:
            warnings += stream_notes(heard.audio, damage, heard.path, "sound")
    if video:
        damage = Damage()
        try:
            mouth, notes = _read_mouth(media, damage, longest_video, detector, excerpt)
        except DetectorError as error:
            if sound is None:
                raise
            mouth, notes = None, [str(error)]
        if mouth is None:
            missing += notes
        else:
            warnings += [f"{path}: {note}" for note in notes]
            warnings += stream_notes(media.video, damage, path, "video")
    silent = sound is not None and max(sound.max(), -sound.min()) < SILENCE
    if silent and mouth is not None:
        warnings.append(f"{path}: the sound is silent throughout, words can come from the lips alone")
    elif silent:
        missing.insert(0, "its sound is silent throughout")
    if mouth is None and (sound is None or silent):
        raise MomeError(f"{path}: {' and '.join(missing)}, so {what_is_left(media, audio, video)}")
    for lack in missing:
        rest = "lips" if sound is None else "sound"
        warnings.insert(0, f"{path}: {lack}, so only the {rest} can be used")
    return Clip(sound, mouth, length(sound, mouth), path, tuple(warnings))


def stream_notes(track: Track | None, damage: Damage, path: Path, what: str) -> list[str]:
    """Warnings about a stream: which of several tracks it is, what was repaired and what was lost."""
    notes = [f"{path} {track.choice}"] if track is not None and track.choice is not None else []
    notes += [f"{path}: {repair}" for repair in damage.repairs]
    return notes + ([_tolerated(path, what, damage)] if damage else [])


def _tolerated(path: Path, what: str, damage: Damage) -> str:
    """The warning about a few lost packets; raises :class:`MomeError` if more are lost."""
    if damage.serious:
        raise MomeError(
            f"{path} is damaged: part of its {what} cannot be decoded: copy or download it again, or convert it with "
            "ffmpeg to use what is left"
        )
    return f"{path} is slightly damaged: {damage.lost} of {damage.packets} pieces of its {what} cannot be decoded"


def what_is_left(media: Media, audio: bool, video: bool) -> str:
    """What can be done with a file without the streams that were asked for, as the end of an error message."""
    if media.audio is not None and not audio:
        return "its lips cannot be read; it has sound that can be used instead"
    if media.video is not None and not video:
        return "it cannot be heard; it has video that can be used instead"
    return "there is nothing to transcribe: give a file with speech, a speaking face or both"


def _read_sound(media: Media, damage: Damage, longest: float | None, excerpt: Excerpt) -> np.ndarray | None:
    """``(samples,)`` float32 of the excerpt, ``None`` if there is none."""
    if not excerpt.is_part:
        return read_audio(media, damage, longest)
    wave = read_audio(media, damage)
    sound = None if wave is None else wave[excerpt.samples].copy()
    if sound is not None and longest is not None and len(sound) > longest * SAMPLE_RATE:
        raise _too_long(media.path, longest, "heard")
    return sound if sound is not None and len(sound) else None


def _frames(media: Media, damage: Damage, longest: float, excerpt: Excerpt) -> Iterator[av.VideoFrame]:
    """The frames of the excerpt; raises :class:`MomeError` if they last longer than ``longest`` seconds."""
    if not excerpt.is_part:
        yield from read_frames(media, damage, longest)
        return
    part = excerpt.frames
    for number, frame in enumerate(islice(read_frames(media, damage), part.start, part.stop)):
        if number >= round(longest * FRAME_RATE):
            raise _too_long(media.path, longest, "lip-read")
        yield frame


def _too_long(path: Path, longest: float, done: str) -> MomeError:
    return MomeError(f"{path}: the part of it lasts longer than the {longest:g} s that can be {done}: make it shorter")


def _read_mouth(
    media: Media, damage: Damage, longest: float, detector: FaceDetector, excerpt: Excerpt
) -> tuple[np.ndarray | None, list[str]]:
    """Mouth crops ``(frames, 96, 96)`` uint8 with notes for the user, or None with what is missing."""
    size = picture_size(media, LONGEST_VIDEO if excerpt.is_part else longest)
    if size is None:
        return None, ["no video"]
    if size[0] == size[1] <= LARGEST_CROP:
        crops = bytearray()  # grows in place
        for picture in _pictures(_frames(media, damage, longest, excerpt), size):
            crops += as_crop(picture).tobytes()
        ready = np.frombuffer(crops, np.uint8).reshape(-1, MOUTH_SIZE, MOUTH_SIZE)
        return (ready, []) if len(ready) else (None, ["no video in this part"])
    groups = find_faces(_frames(media, damage, longest, excerpt), size, detector)
    found = [faces for group in groups for _, faces in group]
    if not found:
        return None, ["no video in this part"]
    speaker = choose(follow(found), len(found))
    if speaker is None:
        return None, ["no face found"]
    points = np.concatenate([smooth(fill_gaps(shot)) for shot in speaker.points(len(found))])
    mouth = np.empty((len(found), MOUTH_SIZE, MOUTH_SIZE), np.uint8)
    for number, picture in enumerate(_pictures(_frames(media, Damage(), longest, excerpt), size)):
        mouth[number] = crop(picture, points[number])
    return mouth, _speaker_notes(speaker, len(found), size[0])


def picture_size(media: Media, longest: float) -> tuple[int, int] | None:
    """(width, height) of the upright pictures; None without video. Raises :class:`MomeError` if that is too large."""
    first = next(read_frames(media, Damage(), longest), None)
    if first is None:
        return None
    size = upright_size(first, None if media.video is None else media.video.aspect)
    excess = picture_excess(*size)
    if excess is not None:
        raise MomeError(f"{media.path}: {excess}")
    return size


def _pictures(frames: Iterator[av.VideoFrame], size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Convert frames to upright grey pictures; a repeated frame is converted once and yields the same array again."""
    last, picture = None, None
    for frame in frames:
        if frame is not last or picture is None:
            picture, last = upright(frame, size, "gray"), frame
        yield picture


def _speaker_notes(speaker: Speaker[Any], frames: int, width: int) -> list[str]:
    """Notes about the speaker in a video of ``frames`` frames, ``width`` pixels wide."""
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


def as_crop(grey: np.ndarray) -> np.ndarray:
    """The (96, 96) uint8 picture of a ready mouth crop; resized only if its size differs."""
    return grey if grey.shape == (MOUTH_SIZE, MOUTH_SIZE) else cv2.resize(grey, (MOUTH_SIZE, MOUTH_SIZE))
