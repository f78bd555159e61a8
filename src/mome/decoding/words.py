"""The words of transcripts, with times and probabilities."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mome.clip import FRAME_RATE, Clip
from mome.config import MomeConfig
from mome.decoding.capacity import check_room
from mome.decoding.word_times import head_times, token_times
from mome.errors import MomeError
from mome.model import MomeForSpeechRecognition, MomeProcessor
from mome.model.model import EncodedClips
from mome.model.scoring import score
from mome.model.sequence import LanguageInputs, token_places
from mome.rates import Rates
from mome.text.transcript import Word
from mome.text.words import word_tokens


class Spoken(NamedTuple):
    """Words of a segment, and the mean logarithm of its tokens' probabilities."""

    words: tuple[Word, ...]
    avg_logprob: float


def spoken_words(
    model: MomeForSpeechRecognition,
    processor: MomeProcessor,
    clips: Sequence[Clip],
    encoded: EncodedClips,
    prepared: LanguageInputs,
    lengths: Sequence[tuple[int, int]],
    ids: Tensor,
    ends: Collection[int],
    active_experts: int | None = None,
) -> list[Spoken]:
    """The words of B transcripts.

    Times come from the CTC head, if the model has one that hears the clip. Else they come from the attention to audio
    tokens, else to fused ones, else to video, at the finest rates, if these fit: a coarse token may cover more than a
    word. If the language model's attention cannot be recorded, each character gets the same time.

    Args:
        model: the model that wrote them.
        processor: its processor.
        clips: B clips.
        encoded: their features.
        prepared: the language model's input.
        lengths: B numbers of audio and video frames.
        ids: ``(B, S)`` what it wrote.
        ends: tokens that end a transcript.
        active_experts: the number with which it was written, if that was chosen.
    """
    stops = [next((place for place, token in enumerate(row) if token in ends), len(row)) for row in ids.tolist()]
    said = [row[:stop] for row, stop in zip(ids.tolist(), stops, strict=True)]
    by_head = _by_head(model, encoded, prepared.rates, clips, lengths, said)
    timed = _finest(model, encoded, prepared, lengths, ids.shape[1], [each is not None for each in by_head])
    places = [token_places(model.config, counts) for counts in timed.counts]
    sides = [next(side for side in ("audio", "fused", "video") if side in place) for place in places]
    looked_at = [
        place[side] if each is None else slice(0, 0) for place, side, each in zip(places, sides, by_head, strict=True)
    ]
    scores = score(model, timed, ids, looked_at, active_experts)
    logprobs = scores.logprobs
    if timed is not prepared:
        logprobs = score(model, prepared, ids, [slice(0, 0)] * len(clips), active_experts).logprobs
    found = []
    for index, (clip, attention, times) in enumerate(zip(clips, scores.attention, by_head, strict=True)):
        row = ids[index, : stops[index] + 1].tolist()  # with the end token, which may write something
        own = logprobs[index, : len(row)]
        groups = word_tokens(row, lambda part: processor.tokenizer.decode(part, skip_special_tokens=True))
        if times is None and len(attention):
            seconds = _token_seconds(
                model.config, timed.rates[index], sides[index], clip, lengths[index], attention.shape[2]
            )
            times = token_times(attention[:, : len(row)].numpy(), seconds)
        if times is not None:
            spans = [(times[tokens[0], 0], times[tokens[-1], 1]) for _, tokens in groups]
        else:
            spans = even_times([word for word, _ in groups], clip.seconds)
        words = []
        for (word, tokens), span in zip(groups, spans, strict=True):
            start, end = (round(min(float(at), clip.seconds), 3) for at in span)
            words.append(Word(start, end, word, float(own[tokens].mean().exp())))
        found.append(Spoken(tuple(words), float(own.mean())))
    return found


def _by_head(
    model: MomeForSpeechRecognition,
    encoded: EncodedClips,
    rates: Sequence[Rates],
    clips: Sequence[Clip],
    lengths: Sequence[tuple[int, int]],
    rows: Sequence[list[int]],
) -> list[np.ndarray | None]:
    """For each clip the times ``(S + 1, 2)`` of its tokens and of its end by the CTC head.

    ``None`` where the model has no head, or it hears nothing.
    """
    if (head := model.ctc) is None:
        return [None] * len(clips)
    heard = head(encoded.audio, encoded.video, rates, model.get_input_embeddings().weight)
    found: list[np.ndarray | None] = []
    for clip, rate, length, row, frames in zip(clips, rates, lengths, rows, heard, strict=True):
        own = head.options.heard(rate)
        if own is None or frames is None or not len(frames):
            found.append(None)
            continue
        side = "fused" if head.options.connector_config.fuses else "video" if own.audio is None else "audio"
        seconds = _token_seconds(model.config, own, side, clip, length, len(frames))
        frames = frames[: max(round(clip.seconds / seconds), 1)]  # a batch may have padded the clip
        times = head_times(head.evidence(frames, torch.tensor(row, dtype=torch.int64)).numpy(), seconds)
        found.append(np.concatenate([times, [[clip.seconds, clip.seconds]]]))
    return found


def _finest(
    model: MomeForSpeechRecognition,
    encoded: EncodedClips,
    prepared: LanguageInputs,
    lengths: Sequence[tuple[int, int]],
    new_tokens: int,
    done: Sequence[bool],
) -> LanguageInputs:
    """The language model's input at the finest rates of the same tasks; ``prepared`` if they do not fit.

    Clips that are ``done`` keep their rates.
    """
    pairs = list(model.config.rate_set.rates())
    finest = [
        rates if each else next(pair for pair in pairs if pair.task == rates.task)
        for rates, each in zip(prepared.rates, done, strict=True)
    ]
    try:
        for rates, frames in zip(finest, lengths, strict=True):
            check_room("the clip", model.config, rates, *frames, new_tokens)
    except MomeError:
        return prepared
    if finest == list(prepared.rates):
        return prepared
    with torch.no_grad():
        return model.prepare(encoded, finest)


def even_times(words: Sequence[str], seconds: float) -> list[tuple[float, float]]:
    """Start and end of words in seconds, if each of their characters takes the same time."""
    ends = np.cumsum([0, *map(len, words)]) * (seconds / max(sum(map(len, words)), 1))
    return list(pairwise(ends.tolist()))


def _token_seconds(
    config: MomeConfig, rates: Rates, side: str, clip: Clip, lengths: tuple[int, int], tokens: int
) -> float:
    """Seconds of a clip that each of its tokens covers."""
    if side == "fused":  # they share out the clip
        return clip.seconds / tokens
    encoder = config.audio_encoder_class
    frames, rate = dict(zip(("audio", "video"), lengths, strict=True))[side], getattr(rates, side)
    per_second = encoder.frames_per_second(config.audio_config) if side == "audio" and encoder else FRAME_RATE
    return float(rate if frames // rate == tokens else frames / tokens) / per_second
