"""How much speech the language model can hold beside its prompt and the transcript, in training and afterwards."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import cache

from mome.clip import FRAME_RATE
from mome.config import MomeConfig
from mome.errors import MomeError
from mome.media.limits import LONGEST_SOUND
from mome.model import MomeProcessor
from mome.model.sequence import count_tokens, encoder_frames
from mome.rates import Rates
from mome.text.transcript import normalize


def positions(config: MomeConfig) -> int | None:
    """Tokens that the language model can hold in all; None: there is no limit."""
    return getattr(config.text_config, "max_position_embeddings", None)


def room(config: MomeConfig, new_tokens: int) -> int | None:
    """Tokens that can be fed so that ``new_tokens`` of a transcript can follow; None: there is no limit.

    Raises:
        MomeError: nothing can be fed.
    """
    held = positions(config)
    if held is None:
        return None
    if new_tokens >= held:
        raise MomeError(
            f"max_new_tokens={new_tokens} leaves no room for speech: the language model has {held} positions for "
            "speech and transcript together, ask for fewer tokens"
        )
    return held - new_tokens


def longest_seconds(config: MomeConfig, rates: Sequence[Rates], new_tokens: int) -> tuple[float | None, float | None]:
    """Seconds of sound and of video that there is room for at each of the rates, each with nothing of the other.

    None where there is room for whatever can be read of a file.
    """
    space = room(config, new_tokens)
    if space is None:
        return None, None
    times = range(round(LONGEST_SOUND * FRAME_RATE) + 1)

    def fed(time: int, rate: Rates, side: int) -> int:
        frames = [0, 0]
        frames[side] = encoder_frames(config, time / FRAME_RATE)[side]
        return count_tokens(config, rate, *frames).total

    longest: list[float | None] = []
    for side, name in enumerate(("audio", "video")):
        asked = [rate for rate in rates if getattr(rate, name) is not None]
        fitting = [bisect_right(times, space, key=lambda time: fed(time, rate, side)) for rate in asked]
        least = min(fitting, default=len(times))
        longest.append(max(least - 1, 0) / FRAME_RATE if least < len(times) else None)
    return longest[0], longest[1]


def check_room(name: object, config: MomeConfig, rates: Rates, audio: int, video: int, new_tokens: int) -> None:
    """Raise :class:`MomeError` if a clip of ``audio`` and ``video`` encoder tokens is too long for the model."""
    space, fed = room(config, new_tokens), count_tokens(config, rates, audio, video).total
    if space is not None and fed > space:
        raise MomeError(
            f"{name} makes {fed} tokens at rates {rates}, more than the {space} that the language model can hold "
            f"beside {new_tokens} of a transcript: cut it into shorter clips or choose coarser rates"
        )


def transcript_tokens(texts: Sequence[tuple[str, str]], config: MomeConfig, processor: MomeProcessor) -> list[int]:
    """Tokens of transcripts to train on, the end of each included.

    Args:
        texts: id and transcript of each clip.
        config: of the model.
        processor: its processor.

    Raises:
        MomeError: one is longer than the language model can hold, whatever the clip.
    """
    lengths, held = [], positions(config)
    for name, text in texts:
        length = processor.labels([normalize(text)]).shape[1]
        if held is not None and length >= held:
            raise MomeError(
                f"clip {name}: its text has {length} tokens, more than the {held} that the language model "
                "can hold in all: cut it into shorter clips, or leave it out"
            )
        lengths.append(length)
    return lengths


def check_clips(clips: Sequence[tuple[str, int, int]], config: MomeConfig, rates: Sequence[Rates]) -> None:
    """Look for a clip to train on that is too long for the language model together with its transcript.

    Args:
        clips: of each the id, the frames (25 a second) and the tokens of its transcript.
        config: of the model.
        rates: that the clips are read at; that which makes the most tokens counts.

    Raises:
        MomeError: naming such a clip.
    """

    @cache  # many clips are equally long
    def finest(frames: int) -> tuple[Rates, int, int]:
        audio, video = encoder_frames(config, frames / FRAME_RATE)
        return max(rates, key=lambda rate: count_tokens(config, rate, audio, video).total), audio, video

    for name, frames, tokens in clips:
        check_room(f"clip {name}", config, *finest(frames), tokens)
