"""When each token of a transcript is said: by the CTC head, or by what the language model looks at when it writes it.

Whisper's word times come from cross-attention in the latter way (Radford et al., "Robust Speech Recognition via
Large-Scale Weak Supervision", 2022, and dynamic time warping). Here the clip's tokens are part of the prompt, so it is
the attention to them.

Shape notation: N heads, S transcript tokens, T tokens of a clip, G steps of 20 ms.
"""

from __future__ import annotations

import math

import numpy as np

STEP = 0.02
"""Seconds of the grid on which times are found."""
_BEFORE, _AFTER = 0.08, 0.16  # seconds around the frames in which a head says a token, while it is being said


def token_times(attention: np.ndarray, seconds: float) -> np.ndarray:
    """Find when each token of a transcript is said.

    Args:
        attention: ``(N, S, T)``, each head's attention to the clip's tokens where it predicts the token; sums to 1.
        seconds: of the clip that a token covers.

    Returns:
        ``(S, 2)`` float64: start and end in seconds, in order and without overlap, from 0 to T times ``seconds``.
    """
    return _placed(_scores(attention), seconds)


def head_times(evidence: np.ndarray, seconds: float) -> np.ndarray:
    """Find when each token of a transcript is said, by a CTC head.

    A head says a token in a frame or two, in the midst of it: so what is found is 80 ms longer before and 160 ms after,
    as far as half of the pause to the next token.

    Args:
        evidence: ``(S, T)``, of each token and frame the logarithm of how much more likely it is said than nothing.
        seconds: of the clip that a frame covers.

    Returns:
        As :func:`token_times`.
    """
    if not len(evidence):
        return np.zeros((0, 2))
    times = _placed(evidence, seconds)
    pauses = times[1:, 0] - times[:-1, 1]
    before = np.minimum(_BEFORE, [times[0, 0], *pauses / 2])
    after = np.minimum(_AFTER, [*pauses / 2, evidence.shape[1] * seconds - times[-1, 1]])
    return np.stack([times[:, 0] - before, times[:, 1] + after], 1)


def _placed(scores: np.ndarray, seconds: float) -> np.ndarray:
    """Times ``(S, 2)`` of the best path through scores ``(S, T)`` of places that each cover so many seconds."""
    steps, size = scores.shape
    grid = max(math.ceil(size * seconds / STEP), steps)
    middles = (np.arange(size) + 0.5) * grid / size - 0.5
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
