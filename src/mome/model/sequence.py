"""The language model's input, [start, audio, video, prompt, transcript], left-padded into a batch.

Shape notation: B clips, L positions, H width of the language model, S transcript tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mome.clip import FRAME_RATE, SAMPLE_RATE
from mome.config import MomeConfig
from mome.connectors import Connected
from mome.rates import Rates
from mome.text.transcript import Tokens

KINDS = ("audio", "video", "fused", "prompt", "transcript")
"""What a token is; start and marker tokens count to the prompt."""


@dataclass(frozen=True)
class LanguageInputs:
    """A left-padded batch of sequences for the language model.

    Attributes:
        embeddings: ``(B, L, H)``.
        mask: ``(B, L)`` bool, true on tokens, false on padding.
        positions: ``(B, L)`` int64, counted from each sequence's first token.
        rates: B rates, each clip's own.
        counts: B numbers of tokens, transcript excluded.
        kinds: ``(B, L)`` int64, what each token is: its index in :data:`KINDS`; -1 on padding.
    """

    embeddings: Tensor
    mask: Tensor
    positions: Tensor
    rates: list[Rates]
    counts: list[Tokens]
    kinds: Tensor


def assemble(
    config: MomeConfig,
    embed: nn.Embedding,
    rates: list[Rates],
    connected: Connected,
    text_ids: list[Tensor] | None = None,
) -> LanguageInputs:
    """Put each clip's tokens in order and pad on the left.

    Args:
        config: has the ids of prompts, start and marker tokens.
        embed: the language model's input embedding.
        rates: B rates; each names the clip's task, and the task the prompt.
        connected: the connector's tokens of B clips.
        text_ids: B rows ``(S,)`` of transcript ids that follow the prompt (teacher forcing).
    """
    device = embed.weight.device

    def ids(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=device)

    rows, counts, kinds = [], [], []
    for index, rate in enumerate(rates):
        parts: list[tuple[str, Tensor]] = []  # the kind and the embeddings
        if config.start_ids:
            parts.append(("prompt", embed(ids(config.start_ids))))
        fed = {"audio": connected.audio[index], "video": connected.video[index], "fused": connected.fused[index]}
        for modality, tokens in fed.items():
            markers = config.markers(modality) if modality != "fused" else []
            if tokens is not None:
                around = [("prompt", embed(ids([marker]))) for marker in markers]
                parts += [*around[:1], (modality, tokens), *around[1:]]
        parts.append(("prompt", embed(ids(config.text_ids(rate.task)))))
        sizes = dict.fromkeys(KINDS[:-1], 0)
        for kind, part in parts:
            sizes[kind] += len(part)
        counts.append(Tokens(**sizes))
        if text_ids is not None:
            parts.append(("transcript", embed(text_ids[index])))
        rows.append(torch.cat([part for _, part in parts]))
        numbers = [KINDS.index(kind) for kind, part in parts for _ in range(len(part))]
        kinds.append(ids(numbers))
    longest = max(len(row) for row in rows)
    embeddings = torch.stack([nn.functional.pad(row, (0, 0, longest - len(row), 0)) for row in rows])
    padded_kinds = torch.stack([nn.functional.pad(row, (longest - len(row), 0), value=-1) for row in kinds])
    lengths = torch.tensor([len(row) for row in rows], device=device)
    offset = torch.arange(longest, device=device) - (longest - lengths[:, None])
    return LanguageInputs(embeddings, offset >= 0, offset.clamp(min=0), rates, counts, padded_kinds)


def token_places(config: MomeConfig, counts: Tokens) -> dict[str, slice]:
    """Where a clip's tokens are in the sequence of :func:`assemble`, counted from its first token, by modality.

    Args:
        config: has the ids of start and marker tokens.
        counts: numbers of tokens; a modality that has none is left out.
    """
    places, place = {}, len(config.start_ids)
    sizes = {"audio": counts.audio, "video": counts.video, "fused": counts.fused}
    for modality, size in sizes.items():
        if size:
            markers = config.markers(modality) if modality != "fused" else []
            place += len(markers[:1])
            places[modality] = slice(place, place + size)
            place += size + len(markers[1:])
    return places


def encoder_frames(config: MomeConfig, seconds: float) -> tuple[int, int]:
    """Numbers of audio and video frames that the encoders give for ``seconds`` of a clip; 0 without the encoder."""
    slack = 1e-6  # in floating point 1.16 * 25 is slightly less than 29
    encoder, video = config.audio_encoder_class, config.video_config
    return (
        0 if encoder is None else encoder.frames(config.audio_config, int(seconds * SAMPLE_RATE + slack)),
        0 if video is None else int(seconds * FRAME_RATE + slack),
    )


def count_tokens(config: MomeConfig, rates: Rates, audio_frames: int, video_frames: int) -> Tokens:
    """Tokens that :func:`assemble` gives for a clip of ``audio_frames`` and ``video_frames`` at ``rates``.

    If the number depends on the speech rate (MMS-LLaMA), speech of normal speed is assumed.
    """
    connector = config.connector_config
    tokens = connector.tokens(rates, audio_frames, video_frames)
    prompt = len(config.start_ids) + len(config.text_ids(rates.task))
    if not connector.fuses:
        by_modality = {"audio": rates.audio, "video": rates.video}
        prompt += sum(len(config.markers(modality)) for modality, rate in by_modality.items() if rate is not None)
    return Tokens(tokens.audio, tokens.video, prompt, tokens.fused)
