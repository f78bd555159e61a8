"""When each token of a transcript is said, from what the language model looks at when it writes it.

Whisper's word times come from cross-attention in the same way (Radford et al., "Robust Speech Recognition via
Large-Scale Weak Supervision", 2022, and dynamic time warping). Here the clip's tokens are part of the prompt, so it is
the attention to them.

Shape notation: N heads, S transcript tokens, T tokens of a clip, G steps of 20 ms.
"""

from __future__ import annotations

import math

import numpy as np

STEP = 0.02
"""Seconds of the grid on which times are found."""


def token_times(attention: np.ndarray, seconds: float) -> np.ndarray:
    """Find when each token of a transcript is said.

    Args:
        attention: ``(N, S, T)``, each head's attention to the clip's tokens where it predicts the token; sums to 1.
        seconds: of the clip that a token covers.

    Returns:
        ``(S, 2)`` float64: start and end in seconds, in order and without overlap, from 0 to T times ``seconds``.
    """
    steps, size = attention.shape[1:]
    grid = max(math.ceil(size * seconds / STEP), steps)
    middles = (np.arange(size) + 0.5) * grid / size - 0.5
    scores = _scores(attention)
    fine = np.stack([np.interp(np.arange(grid), middles, row) for row in scores])
    times: np.ndarray = _best_path(fine) * (size * seconds / grid)
    return times


def _scores(attention: np.ndarray) -> np.ndarray:
    """``(S, T)``: how much more attention than usual a clip's token gets; 0 is usual.

    In standard deviations, over the transcript's tokens plus over the clip's; the mean over all heads, which is better
    than any one of them and needs no choice.
    """

    def standard(axis: int) -> np.ndarray:
        deviation = attention - attention.mean(axis, keepdims=True)
        scores: np.ndarray = deviation / np.maximum(attention.std(axis, keepdims=True), 1e-9)
        return scores

    mean: np.ndarray = (standard(1) + standard(2)).mean(0)
    return mean


def _best_path(scores: np.ndarray) -> np.ndarray:
    """The path of the highest sum of scores ``(S, G)`` through all tokens in order, with pauses that score 0.

    Returns:
        ``(S, 2)`` int64: the first step of each token, and the step after its last. G is at least S.
    """
    tokens, grid = scores.shape
    states = 2 * tokens + 1  # pause, token, pause, token, …, pause
    emitted = np.zeros((grid, states))
    emitted[:, 1::2] = scores.T
    token = np.arange(states) % 2 == 1
    best = np.full(states, -np.inf)
    best[:2] = emitted[0, :2]
    came = np.zeros((grid, states), np.int64)  # how many states back the path was one step before
    for step in range(1, grid):
        one, two = np.full(states, -np.inf), np.full(states, -np.inf)
        one[1:], two[2:] = best[:-1], np.where(token[2:], best[:-2], -np.inf)
        choices = np.stack([best, one, two])
        came[step] = choices.argmax(0)
        best = choices.max(0) + emitted[step]
    state = states - 1 if best[-1] > best[-2] else states - 2
    path = np.empty(grid, np.int64)
    for step in range(grid - 1, -1, -1):
        path[step] = state
        state -= came[step, state]
    at = 2 * np.arange(tokens) + 1
    return np.stack([np.searchsorted(path, at, "left"), np.searchsorted(path, at, "right")], 1)
