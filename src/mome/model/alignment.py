"""Alignment of the connector: CTC of its tokens against the language model's own token embeddings.

A connector that starts at random gives the language model vectors that mean nothing to it. Trained by this loss first,
its tokens lie near the embeddings of what was said, and the language model, which is not run for it, reads them from
the first step on. Ours, from no paper; CTC itself is by Graves et al., "Connectionist temporal classification"
(ICML 2006).

Shape notation: B clips, N tokens of a clip, S labels, V vocabulary, H width of the language model, K tokens in use.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mome.connectors import Connected

_FIRST_SCALE = 20.0  # of the cosines, which are from -1 to 1


class Alignment(nn.Module):
    """Scores tokens against the embeddings of the transcript tokens in use and a learned blank.

    For training, and for decoding as part of a CTC head (:mod:`mome.model.ctc`).

    A token's logits are its cosines with the K embeddings, times a learned scale, and a linear function of it for the
    blank, which is not bounded: most tokens at fine rates are blanks. As cosines leave the length of a
    token open, the loss also has the square of ln(length / mean length of the K embeddings).

    Attributes:
        tokens: ``(K,)`` int64, the ids in use, sorted.
        blank: gives the blank's logit.
        log_scale: logarithm of the scale, a scalar.
        weight: factor of this loss beside the transcript's; ``None``: this loss alone, without the language model.
    """

    tokens: Tensor

    def __init__(self, tokens: Tensor, width: int, weight: float | None = None) -> None:
        """Align to the ids ``tokens``, of any shape and order, in a language model of this width."""
        super().__init__()
        self.register_buffer("tokens", tokens.unique())
        self.blank = nn.Linear(width, 1)
        self.log_scale = nn.Parameter(torch.tensor(math.log(_FIRST_SCALE)))
        self.weight = weight

    def forward(self, connected: Connected, labels: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the loss of B clips.

        Args:
            connected: the connector's tokens.
            labels: ``(B, S)`` int64 transcript ids; ids that are not in use, such as the end token, are left out.
            embedding: ``(V, H)``, the language model's, which gets no gradient.

        Returns:
            Negative log-likelihood per label plus the mean square of the tokens' lengths, and the share of the clips
            that are left out because they have fewer tokens than CTC needs for their labels. Both are means over
            audio, video and fused tokens, as there are.
        """
        place = torch.searchsorted(self.tokens, labels).clamp(max=len(self.tokens) - 1)
        used = self.tokens[place] == labels
        targets = [row[kept] for row, kept in zip(place, used, strict=True)]
        sides = (connected.audio, connected.video, connected.fused)
        present = [side for side in sides if any(row is not None for row in side)]
        losses, shares = zip(*(self._loss(side, targets, embedding) for side in present), strict=True)
        return torch.stack(losses).mean(), torch.stack(shares).mean()

    def _loss(self, tokens: Sequence[Tensor | None], targets: list[Tensor], embedding: Tensor) -> tuple[Tensor, Tensor]:
        pairs = [(row, target) for row, target in zip(tokens, targets, strict=True) if row is not None]
        # Between two equal labels CTC needs a blank.
        kept = [(row, t) for row, t in pairs if len(row) >= max(len(t) + int((t[1:] == t[:-1]).sum()), 1)]
        share = torch.tensor(1 - len(kept) / len(pairs), device=embedding.device)
        if not kept:
            return torch.stack([row.float().sum() for row, _ in pairs]).sum() * 0, share
        rows, labels = zip(*kept, strict=True)
        likelihood = _ctc(self.logits(torch.cat(rows), embedding), list(map(len, rows)), labels)
        length = embedding.detach()[self.tokens].float().norm(dim=-1).mean()
        ratio = torch.cat(rows).float().norm(dim=-1) / length + 1e-9
        return likelihood / max(sum(map(len, labels)), 1) + ratio.log().square().mean(), share

    def logits(self, tokens: Tensor, embedding: Tensor) -> Tensor:
        """Logits ``(..., K + 1)`` float32 of tokens ``(..., H)``, the blank's last."""
        with torch.autocast(tokens.device.type, enabled=False):
            tokens, rows = tokens.float(), embedding.detach()[self.tokens].float()
            cosines = F.linear(F.normalize(tokens, dim=-1), F.normalize(rows, dim=-1))
            blank = F.linear(tokens, self.blank.weight.float(), self.blank.bias.float())
            return torch.cat([cosines * self.log_scale.float().exp(), blank], dim=-1)

    @torch.no_grad()
    def decode(self, connected: Connected, embedding: Tensor) -> list[Tensor]:
        """The best path's ids of each clip, from its fused tokens, else its audio's, else its video's."""
        ids = []
        for fused, audio, video in zip(connected.fused, connected.audio, connected.video, strict=True):
            tokens = next(side for side in (fused, audio, video) if side is not None)
            path = self.logits(tokens, embedding).argmax(-1).unique_consecutive()
            ids.append(self.tokens[path[path < len(self.tokens)]])
        return ids


def _ctc(logits: Tensor, lengths: list[int], labels: Sequence[Tensor]) -> Tensor:
    """CTC's negative log-likelihood of some clips together.

    As :func:`torch.nn.functional.ctc_loss` of all logits, but cheaper where there are thousands: a clip's paths are of
    its own labels and blanks only, and of all others the sum is enough.

    Args:
        logits: ``(M, K + 1)`` float32 of the clips' M tokens, one clip after the other, the blank's last.
        lengths: each clip's number of tokens.
        labels: each clip's, ``(S_i,)`` int64 below K.

    Returns:
        A scalar, the sum over the clips.
    """
    blank = logits.shape[1] - 1
    used, places = zip(*(label.unique(return_inverse=True) for label in labels), strict=True)
    columns = nn.utils.rnn.pad_sequence([F.pad(each, (1, 0), value=blank) for each in used], True, blank)
    counts = torch.tensor(lengths, device=logits.device)
    picked = logits.gather(1, columns.repeat_interleave(counts, dim=0)) - logits.logsumexp(1, keepdim=True)
    scores = nn.utils.rnn.pad_sequence(list(picked.split(lengths)))
    likelihood = F.ctc_loss(
        scores, torch.cat(places) + 1, counts, torch.tensor([len(label) for label in labels]), reduction="sum"
    )
    # PyTorch's gradient is that of a log_softmax before it, and has a term for each column that does not belong here.
    surplus = (picked.detach().exp() * picked).sum()
    return likelihood - surplus + surplus.detach()
