"""Whether the language model can hold the clips that it is to be trained on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from mome.config import MomeConfig
from mome.data.manifests import ManifestRow
from mome.decoding.capacity import check_room, positions
from mome.errors import MomeError
from mome.media import FRAME_RATE
from mome.model import MomeProcessor
from mome.model.connector import count_tokens
from mome.model.cost import encoder_frames
from mome.rates import Rates
from mome.text.transcript import normalize


def transcript_tokens(rows: Sequence[ManifestRow], config: MomeConfig, processor: MomeProcessor) -> list[int]:
    """Tokens of each clip's transcript, its end included.

    Raises:
        MomeError: one is longer than the language model can hold, whatever the clip.
    """
    lengths = []
    for row in rows:
        length = processor.labels([normalize(row.text)]).shape[1]
        if (held := positions(config)) is not None and length >= held:
            raise MomeError(
                f"clip {row.id}: its text has {length} tokens, more than the {held} that the language model "
                "can hold in all: cut it into shorter clips, or leave it out"
            )
        lengths.append(length)
    return lengths


def check_clips(
    rows: Sequence[ManifestRow],
    frames: Sequence[int],
    transcripts: Sequence[int],
    config: MomeConfig,
    rates: list[Rates],
) -> None:
    """Raise :class:`MomeError` naming a clip that is too long for the language model together with its transcript.

    Args:
        rows: the clips.
        frames: of each, 25 a second.
        transcripts: tokens of each.
        config: the recogniser's.
        rates: that the clips are read at; that which makes the most tokens counts.
    """

    @cache  # many clips are equally long
    def finest(length: int) -> tuple[Rates, int, int]:
        audio, video = encoder_frames(config, length / FRAME_RATE)
        return max(rates, key=lambda rate: count_tokens(config, rate, audio, video).total), audio, video

    for row, length, tokens in zip(rows, frames, transcripts, strict=True):
        check_room(f"clip {row.id}", config, *finest(length), tokens)
