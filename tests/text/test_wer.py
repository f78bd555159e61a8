from __future__ import annotations

import numpy as np
import pytest

from mome.text.transcript import normalize
from mome.text.wer import WordErrors, bootstrap_interval, paired_interval, word_errors


def distance(reference: list[str], hypothesis: list[str]) -> int:
    """Edit distance by the textbook's table."""
    table = np.zeros((len(reference) + 1, len(hypothesis) + 1), int)
    table[:, 0], table[0] = range(len(reference) + 1), range(len(hypothesis) + 1)
    for i, word in enumerate(reference, start=1):
        for j, other in enumerate(hypothesis, start=1):
            table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (word != other))
    return int(table[-1, -1])


def test_normalize():
    assert normalize("  Bin\tBLUE \n at  ") == "bin blue at"
    assert normalize(" ") == ""
    assert normalize("ÉTÉ don't") == "été don't"


def test_counts_of_each_kind():
    assert word_errors(["a b c"], ["a x c d"]) == [WordErrors(1, 0, 1, 2)]
    assert word_errors(["A  b"], ["a B"]) == [WordErrors(hits=2)]


def test_empty_texts():
    assert word_errors(["a b", "", ""], ["", "a b", " "]) == [
        WordErrors(deletions=2),
        WordErrors(insertions=2),
        WordErrors(),
    ]
    assert word_errors([], []) == []
    assert WordErrors().wer == 0.0
    assert WordErrors(insertions=2).wer == 2.0


def test_clips_are_paired():
    with pytest.raises(ValueError, match="argument"):
        word_errors(["a", "b"], ["a"])


def test_pooled_rate_against_a_slow_reference():
    rng = np.random.default_rng(0)
    texts = [[" ".join(rng.choice(list("abcd"), rng.integers(0, 9))) for _ in range(60)] for _ in range(2)]
    counts = word_errors(*texts)
    pairs = [(reference.split(), hypothesis.split()) for reference, hypothesis in zip(*texts, strict=True)]
    assert [c.errors for c in counts] == [distance(*pair) for pair in pairs]
    assert [c.words for c in counts] == [len(reference) for reference, _ in pairs]
    total = sum(counts, WordErrors())
    assert total.words == sum(len(reference) for reference, _ in pairs)
    assert total.wer == sum(distance(*pair) for pair in pairs) / total.words


def test_interval_repeats_and_depends_on_the_seed():
    rng = np.random.default_rng(1)
    words, errors = rng.integers(3, 9, 50), rng.integers(0, 4, 50)
    first = bootstrap_interval(errors, words, seed=7)
    assert first == bootstrap_interval(list(errors), list(words), seed=7)
    assert first != bootstrap_interval(errors, words, seed=8)
    assert first[0] < errors.sum() / words.sum() < first[1]
    narrow = bootstrap_interval(errors, words, seed=7, level=0.5)
    assert first[0] < narrow[0] < narrow[1] < first[1]


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(2)
    covered = 0
    for seed in range(100):
        low, high = bootstrap_interval(rng.binomial(6, 0.2, 80), [6] * 80, seed, resamples=300)
        covered += low <= 0.2 <= high
    assert 88 <= covered <= 99


def test_interval_of_equal_clips_is_a_point():
    assert bootstrap_interval([1, 1, 1], [4, 4, 4], seed=0) == (0.25, 0.25)
    assert bootstrap_interval([0], [0], seed=0) == (0.0, 0.0)


@pytest.mark.parametrize(("errors", "words"), [([], []), ([1, 2], [3])])
def test_interval_needs_clips(errors, words):
    with pytest.raises(ValueError, match="same clips"):
        bootstrap_interval(errors, words, seed=0)


def test_a_paired_interval_is_of_the_difference_of_the_same_clips():
    rng = np.random.default_rng(0)
    errors, words = rng.integers(0, 7, 200), np.full(200, 6)
    assert paired_interval(errors + 1, errors, words, seed=0) == pytest.approx((1 / 6,) * 3), "the clips drop out"
    change, low, high = paired_interval(errors, errors[::-1], words, seed=0)
    spread = 1.96 * (errors - errors[::-1]).std() / 6 / 200**0.5
    assert (change, low, high) == (0, pytest.approx(-spread, rel=0.15), pytest.approx(spread, rel=0.15))
    trainings = np.stack([errors, errors + 2])
    change, low, high = paired_interval(trainings, np.stack([errors] * 2), words, seed=0)
    assert (change, low, high) == pytest.approx((1 / 6, 0, 2 / 6)), "either training may be drawn twice"
    with pytest.raises(ValueError, match="the same clips"):
        paired_interval(errors, errors[1:], words, seed=0)
