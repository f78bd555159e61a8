"""Word error rate: errors of each clip, their sum, and a bootstrap interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jiwer
import numpy as np

from mome.text.transcript import normalize


@dataclass(frozen=True)
class WordErrors:
    """Word counts of the best alignment of a hypothesis with its reference; add them to pool clips."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    hits: int = 0

    @property
    def words(self) -> int:
        """Words of the reference."""
        return self.substitutions + self.deletions + self.hits

    @property
    def errors(self) -> int:
        """Errors of all three kinds."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def wer(self) -> float:
        """Errors per reference word, a fraction that may exceed 1; a reference without words counts as one word."""
        return self.errors / max(self.words, 1)

    def __add__(self, other: WordErrors) -> WordErrors:
        return WordErrors(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.hits + other.hits,
        )


def word_errors(
    references: Sequence[str], hypotheses: Sequence[str], normalize: Callable[[str], str] = normalize
) -> list[WordErrors]:
    """Count the errors of each clip on normalised text; ``sum(…, WordErrors())`` pools them.

    Args:
        references: the spoken text of each clip; may be empty, then all recognised words are insertions.
        hypotheses: the recognised text of each clip, in the same order; may be empty.
        normalize: converts a text to the form to compare.

    Raises:
        ValueError: the numbers of references and hypotheses differ.
    """
    counts = []
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        aligned = jiwer.process_words(normalize(reference), normalize(hypothesis))
        counts.append(WordErrors(aligned.substitutions, aligned.deletions, aligned.insertions, aligned.hits))
    return counts


def bootstrap_interval(
    per_clip_errors: Sequence[int],
    per_clip_words: Sequence[int],
    seed: int,
    resamples: int = 1000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Bootstrap the pooled word error rate: a percentile interval over clips drawn with replacement.

    Args:
        per_clip_errors: number of errors of each clip.
        per_clip_words: number of reference words of each clip, in the same order.
        seed: seed of the draws.
        resamples: number of draws.
        level: probability mass of the interval.

    Returns:
        Lower and upper end as fractions.

    Raises:
        ValueError: there are no clips, or the numbers of errors and words differ.
    """
    errors, words = np.asarray(per_clip_errors), np.asarray(per_clip_words)
    if errors.shape != words.shape or not errors.size:
        raise ValueError(f"an interval needs errors and words of the same clips: {errors.size}, {words.size}")
    rng = np.random.default_rng(seed)
    rates = np.empty(resamples)
    # One draw at a time: all at once would need resamples × clips of memory and save nothing.
    for index in range(resamples):
        drawn = rng.integers(errors.size, size=errors.size)
        rates[index] = errors[drawn].sum() / max(words[drawn].sum(), 1)
    low, high = np.quantile(rates, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_interval(
    errors: np.ndarray | Sequence[int],
    others: np.ndarray | Sequence[int],
    words: np.ndarray | Sequence[int],
    seed: int,
    resamples: int = 1000,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """Bootstrap the difference of two word error rates over the same clips, and the same trainings if there are some.

    Clips and trainings are drawn with replacement for both together, so what makes one hard for both drops out.

    Args:
        errors: number of errors of each clip, ``(clips,)``, or ``(trainings, clips)``.
        others: those of what it is compared with, in the same shape and order.
        words: ``(clips,)`` number of reference words.
        seed: seed of the draws.
        resamples: number of draws.
        level: probability mass of the interval.

    Returns:
        How much higher the first rate is, as a fraction, and the lower and upper end of the interval.

    Raises:
        ValueError: there are no clips, or the shapes differ.
    """
    first, second, lengths = np.atleast_2d(errors), np.atleast_2d(others), np.asarray(words)
    if first.shape != second.shape or first.shape[1:] != lengths.shape or not first.size:
        raise ValueError(f"a paired interval needs the same clips: {first.shape}, {second.shape}, {lengths.shape}")
    change, (trainings, clips) = first - second, first.shape
    rng = np.random.default_rng(seed)
    differences = np.empty(resamples)
    for index in range(resamples):
        drawn, again = rng.integers(clips, size=clips), rng.integers(trainings, size=trainings)
        differences[index] = change[again].sum(0)[drawn].sum() / (trainings * max(lengths[drawn].sum(), 1))
    low, high = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2])
    return float(change.sum() / (trainings * max(lengths.sum(), 1))), float(low), float(high)
