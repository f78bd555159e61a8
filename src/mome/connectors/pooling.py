"""Compression by a rate: the average, the stack, or both in turn, of each run of consecutive encoder frames.

Shape notation: B clips, T frames, D encoder width, r the rate; every function gives T // r tokens.

Source: the compression step of Llama-MTSK ("Adaptive AVSR via Matryoshka-based multimodal LLMs") and of
MoME ("Mixture of Matryoshka Experts for AVSR", NeurIPS 2025): average pooling with kernel = stride = rate,
or stacking of rate frames along the feature dimension. Segments are ours: averages of up to four equal parts of each
run, stacked, which keep the order of sounds at coarse rates and a width that does not grow with the rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar, get_args

from torch import Tensor

from mome.errors import MomeError

CompressionMethod = Literal["average", "stack", "segments"]
METHODS: tuple[CompressionMethod, ...] = get_args(CompressionMethod)
MOST_SEGMENTS = 4

Length = TypeVar("Length", int, Tensor)


def check_rate(rate: int) -> int:
    """Return ``rate``; raise :class:`MomeError` unless it is a whole number from 1 up."""
    if isinstance(rate, bool) or not isinstance(rate, int) or rate < 1:
        raise MomeError(f"compression rate {rate!r} is not possible: a rate is a whole number from 1 up")
    return rate


def check_rates(rates: Sequence[int]) -> tuple[int, ...]:
    """The rates as a tuple; raise :class:`MomeError` if there are none, or a repeated or impossible one."""
    if not rates:
        raise MomeError("projectors need at least one rate: audio_rates or video_rates is empty")
    if len(set(rates)) != len(rates):
        raise MomeError(f"rates {', '.join(map(str, rates))} name one rate twice: give each rate once")
    return tuple(check_rate(rate) for rate in rates)


def check_known(rate: int, rates: Sequence[int]) -> int:
    """Return ``rate``; raise :class:`MomeError` naming ``rates`` if it is not one of them."""
    if rate not in rates:
        raise MomeError(f"rate {rate} is not one of this model's, which are {', '.join(map(str, rates))}")
    return rate


def check_method(method: str) -> str:
    """Return ``method``; raise :class:`MomeError` naming the known methods otherwise."""
    if method not in METHODS:
        raise MomeError(f"compression method '{method}' is unknown: choose one of {', '.join(METHODS)}")
    return method


def pooled_length(length: Length, rate: int) -> Length:
    """Number of tokens that ``length`` frames become: floor(length / rate).

    Args:
        length: a number of frames, or an integer tensor of any shape.
        rate: frames per token, from 1 up.

    Returns:
        The same kind (and, for a tensor, the same shape, dtype and device) as ``length``.

    Raises:
        MomeError: the rate is below 1 or not whole.
    """
    return length // check_rate(rate)


def compressed_width(width: int, rate: int, method: CompressionMethod) -> int:
    """Features per token after compression: D for averaging, r * D for stacking, s * D for s segments."""
    return width * _stacked(rate, method)


def _stacked(rate: int, method: CompressionMethod) -> int:
    """How many averages of ``rate / n`` frames each are stacked to one token."""
    segments = max(count for count in range(1, MOST_SEGMENTS + 1) if check_rate(rate) % count == 0)
    return {"average": 1, "stack": rate, "segments": segments}[check_method(method)]


def _windows(frames: Tensor, rate: int) -> Tensor:
    """(B, T, D) to (B, T // r, r, D); the last T mod r frames are dropped."""
    batch, length, width = frames.shape
    count = pooled_length(int(length), rate)
    # Explicit sizes: a -1 could not be inferred for an empty tensor.
    return frames[:, : count * rate].reshape(batch, count, rate, width)


def average_pool(frames: Tensor, rate: int) -> Tensor:
    """Mean of each run of ``rate`` frames (kernel = stride = rate, remainder dropped).

    Args:
        frames: (B, T, D), any floating dtype.
        rate: frames per token; 1 returns ``frames`` itself.

    Returns:
        (B, T // rate, D) in the dtype of ``frames``; (B, 0, D) where T < rate.

    Raises:
        MomeError: the rate is below 1 or not whole.
    """
    if check_rate(rate) == 1:
        return frames
    return _windows(frames, rate).mean(dim=2)


def stack(frames: Tensor, rate: int) -> Tensor:
    """Each run of ``rate`` frames concatenated along the features, earliest first (remainder dropped).

    Args:
        frames: (B, T, D), any dtype.
        rate: frames per token; 1 returns ``frames`` itself.

    Returns:
        (B, T // rate, rate * D) in the dtype of ``frames``; (B, 0, rate * D) where T < rate.

    Raises:
        MomeError: the rate is below 1 or not whole.
    """
    if check_rate(rate) == 1:
        return frames
    return _windows(frames, rate).flatten(start_dim=2)


def compress(
    frames: Tensor, lengths: Tensor, rate: int, method: CompressionMethod = "average"
) -> tuple[Tensor, Tensor]:
    """Compress a right-padded batch.

    A token is valid only if all of its frames are, so no valid token has seen padding, and a clip's tokens do not
    depend on the rest of the batch.

    Args:
        frames: (B, T, D), any floating dtype.
        lengths: (B,) integer, valid frames of each clip, at most T.
        rate: frames per token, from 1 up.
        method: ``"average"``, ``"stack"`` or ``"segments"``.

    Returns:
        Tokens (B, T // rate, :func:`compressed_width`), and lengths (B,), floor(lengths / rate).

    Raises:
        MomeError: unknown method, or a rate below 1.
    """
    stacked = _stacked(rate, method)
    return stack(average_pool(frames, rate // stacked), stacked), pooled_length(lengths, rate)
