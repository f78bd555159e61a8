"""How much speech fits into the language model beside prompt and transcript, for training and transcription."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import cache
from typing import Any

from mome.clip import FRAME_RATE, Clip
from mome.config import MomeConfig
from mome.config.generation import LEAST_TOKENS, PER_SECOND
from mome.errors import MomeError
from mome.media.limits import LONGEST_SOUND
from mome.model import MomeProcessor
from mome.model.sequence import count_tokens, encoder_frames
from mome.rates import Rates
from mome.text.transcript import normalize


def positions(config: MomeConfig) -> int | None:
    """Number of tokens that the language model can hold; ``None`` if it has no limit."""
    return getattr(config.text_config, "max_position_embeddings", None)


def room(config: MomeConfig, new_tokens: int) -> int | None:
    """Number of tokens that fit before ``new_tokens`` of a transcript; ``None`` if there is no limit.

    Raises:
        MomeError: nothing fits.
    """
    limit = positions(config)
    if limit is None:
        return None
    if new_tokens >= limit:
        raise MomeError(
            f"max_new_tokens={new_tokens} leaves no room for speech: the language model has {limit} positions for "
            "speech and transcript together, ask for fewer tokens"
        )
    return limit - new_tokens


def longest_seconds(config: MomeConfig, rates: Sequence[Rates], new_tokens: int) -> tuple[float | None, float | None]:
    """Seconds of sound and seconds of video that fit at all of the rates, each modality by itself.

    ``None`` for a modality of which everything that can be read from a file fits.
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
        using = [rate for rate in rates if getattr(rate, name) is not None]
        fitting = [bisect_right(times, space, key=lambda time: fed(time, rate, side)) for rate in using]
        least = min(fitting, default=len(times))
        longest.append(max(least - 1, 0) / FRAME_RATE if least < len(times) else None)
    return longest[0], longest[1]


def check_room(name: object, config: MomeConfig, rates: Rates, audio: int, video: int, new_tokens: int) -> None:
    """Raise :class:`MomeError` if a clip of ``audio`` and ``video`` frames of features does not fit."""
    space, fed = room(config, new_tokens), count_tokens(config, rates, audio, video).total
    if space is not None and fed > space:
        raise MomeError(
            f"{name} makes {fed} tokens at rates {rates}, more than the {space} that the language model can hold "
            f"beside {new_tokens} of a transcript: cut it into shorter clips or choose coarser rates"
        )


def transcript_tokens(texts: Sequence[tuple[str, str]], config: MomeConfig, processor: MomeProcessor) -> list[int]:
    """Count the tokens of transcripts to train on, end tokens included.

    Args:
        texts: id and transcript of each clip.
        config: the model's configuration.
        processor: the model's processor.

    Raises:
        MomeError: a transcript alone is longer than the language model can hold.
    """
    lengths, limit = [], positions(config)
    for name, text in texts:
        length = processor.labels([normalize(text)]).shape[1]
        if limit is not None and length >= limit:
            raise MomeError(
                f"clip {name}: its text has {length} tokens, more than the {limit} that the language model "
                "can hold in all: cut it into shorter clips, or leave it out"
            )
        lengths.append(length)
    return lengths


def check_clips(clips: Sequence[tuple[str, int, int]], config: MomeConfig, rates: Sequence[Rates]) -> None:
    """Check that clips to train on fit into the language model together with their transcripts.

    Args:
        clips: id, video frames (25 a second) and tokens of the transcript of each clip.
        config: the model's configuration.
        rates: rates that the clips are trained at; the one that gives most tokens counts.

    Raises:
        MomeError: a clip does not fit.
    """

    @cache  # many clips have the same length
    def finest(frames: int) -> tuple[Rates, int, int]:
        audio, video = encoder_frames(config, frames / FRAME_RATE)
        return max(rates, key=lambda rate: count_tokens(config, rate, audio, video).total), audio, video

    for name, frames, tokens in clips:
        check_room(f"clip {name}", config, *finest(frames), tokens)


def most_tokens(clips: Sequence[Clip], generation: dict[str, Any]) -> list[int] | None:
    """Each clip's limit of tokens by ``max_tokens_per_second``; ``None`` without that option."""
    speed = generation.get(PER_SECOND)
    return None if speed is None else [LEAST_TOKENS + int(speed * clip.seconds) for clip in clips]
