"""Each clip's own limit of tokens."""

from __future__ import annotations

import math

import torch

from mome.model.limit import TokenLimit


def test_only_clips_at_their_last_token_must_end():
    limit, beams, end = TokenLimit([3, 1, 4], 2), 2, 2
    scores = torch.arange(6 * 5.0).view(6, 5)
    for written, at_limit in ((0, {1}), (1, {1}), (2, {0, 1}), (3, {0, 1, 2})):
        found = limit(torch.zeros(6, written, dtype=torch.long), scores.clone())
        for row in range(6):
            ended = [0.0 if token == end else -math.inf for token in range(5)]
            assert found[row].tolist() == (ended if row // beams in at_limit else scores[row].tolist())


def test_before_any_limit_scores_are_as_they_were():
    scores = torch.randn(4, 5)
    assert torch.equal(TokenLimit([9, 7], 2)(torch.zeros(4, 5, dtype=torch.long), scores), scores)
