"""Joint decoding: a CTC head beside the language model has a say in every token of a transcript.

The head is an aligned connector of its own (:mod:`mome.model.alignment`) at one fine rate, so it hears a clip alike
whatever rate the language model reads. It keeps a transcript in the order and the length of the speech, where a
language model alone may run on, stop early or write what is merely likely.

Source: the CTC prefix score of Watanabe et al., "Hybrid CTC/Attention Architecture for End-to-End Speech Recognition"
(2017), which auto-avsr decodes with too. Here a product of matrices scores all tokens at once.

Shape notation: B clips, N frames of the head, K tokens that it knows, R rows, as many for each clip, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LogitsProcessor

from mome.config import MomeConfig
from mome.connectors import build_connector
from mome.features import Features
from mome.model.alignment import Alignment
from mome.rates import Rates

_LEAST = -25.0  # log-probability of tokens that the head does not know, and the least of any
_IMPOSSIBLE = -1e4  # in a frame behind a clip's end
_NEVER = -1e30  # of a path; minus infinity would give differences that are not numbers


class CtcHead(nn.Module):
    """What :attr:`MomeConfig.ctc` describes: encoder features to log-probabilities of tokens.

    State-dict keys: ``connector.*`` and ``alignment.*``.

    Attributes:
        options: the configuration's.
        connector: gives the frames, vectors among the language model's embeddings.
        alignment: scores them.
    """

    def __init__(self, config: MomeConfig) -> None:
        """Make the head of a configuration that has one, with new weights."""
        super().__init__()
        options = config.ctc_config
        assert options is not None
        self.options = options
        self.connector = build_connector(options.connector_config, options.surroundings(config.surroundings))
        tokens = torch.arange(options.tokens, device="cpu")  # even if the rest is made on the meta device
        self.alignment = Alignment(tokens, config.text_config.hidden_size)
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(
        self, audio: Features | None, video: Features | None, rates: Sequence[Rates], embedding: Tensor
    ) -> list[Tensor | None]:
        """Log-probabilities ``(N_i, K + 1)`` float32 of B clips, the blank's last.

        Args:
            audio, video: features of the clips.
            rates: B rates that the language model reads the clips at: the head does not hear what they leave out.
            embedding: ``(V, H)``, the language model's.

        Returns:
            Those of the tokens made of sound and video together, else of the sound, else of the video; ``None`` for a
            clip of which the head hears nothing.
        """
        own = [self.options.heard(each) for each in rates]
        found: list[Tensor | None] = [None] * len(rates)
        heard = [clip for clip, each in enumerate(own) if each is not None]
        if not heard:
            return found
        sides = (None if side is None else Features(side.frames[heard], side.lengths[heard]) for side in (audio, video))
        connected = self.connector(*sides, [each for each in own if each is not None])
        rows = zip(connected.fused, connected.audio, connected.video, strict=True)
        for clip, row in zip(heard, rows, strict=True):
            tokens = next(side for side in row if side is not None)
            found[clip] = self.alignment.logits(tokens, embedding).log_softmax(-1)
        return found

    def evidence(self, frames: Tensor, ids: Tensor) -> Tensor:
        """How much more likely than nothing each token of a transcript is said in each frame.

        Args:
            frames: ``(N, K + 1)``, what the head gives of a clip.
            ids: ``(S,)`` int64, the transcript.

        Returns:
            ``(S, N)`` float32, differences of log-probabilities. A token that the head does not know is as likely as
            all together that it knows and that are not in the transcript.
        """
        frames, ids = frames.float().cpu(), ids.cpu()
        places, others = _places(self.alignment.tokens.cpu(), ids), frames[:, :-1].clone()
        others[:, places[places >= 0]] = -torch.inf
        found = torch.where(places < 0, others.logsumexp(1, keepdim=True), frames[:, places])
        return (found - frames[:, -1:]).clamp(min=_LEAST).T


def _places(known: Tensor, ids: Tensor) -> Tensor:
    """Which of the ``(K,)`` sorted tokens known each of ``(S,)`` ids is; -1 for none."""
    places = torch.searchsorted(known, ids).clamp(max=len(known) - 1)
    return torch.where(known[places] == ids, places, -1)


@dataclass(frozen=True)
class _Prefixes:
    """What CTC knows of R hypotheses: logarithms of the chances that the first t frames say exactly a hypothesis.

    Attributes:
        token, blank: ``(R, N + 1)`` float64 by t, of the paths that end in its last token, and in a blank.
        last: ``(R,)`` int64, which of the K tokens the last one is; -1 for none.
        score: ``(R,)`` float64, logarithm of the chance that the frames begin with it.
    """

    token: Tensor
    blank: Tensor
    last: Tensor
    score: Tensor

    @classmethod
    def empty(cls, blanks: Tensor) -> _Prefixes:
        """Nothing written; ``blanks`` ``(R, N)`` are the blank's log-probabilities, summed up."""
        nothing = F.pad(blanks, (1, 0))
        rows = len(blanks)
        return cls(torch.full_like(nothing, _NEVER), nothing, torch.full((rows,), -1), nothing.new_zeros(rows))

    def take(self, rows: Tensor) -> _Prefixes:
        """Those that ``(R,)`` indices name."""
        return _Prefixes(self.token[rows], self.blank[rows], self.last[rows], self.score[rows])

    def before(self) -> Tensor:
        """``(R, N)``: before each frame the hypothesis and nothing else is said."""
        return torch.logaddexp(self.token, self.blank)[:, :-1]

    def written(self, tokens: Tensor, scores: Tensor, blanks: Tensor) -> _Prefixes:
        """The hypotheses with one more token each.

        Args:
            tokens: ``(R,)`` int64 of the K; hypotheses with -1 stay as they are.
            scores: ``(R, N)`` float64, the frames' log-probabilities of these tokens.
            blanks: ``(R, N)`` float64, those of the blank, summed up.
        """
        # Between two equal tokens a blank must be.
        before = torch.where((tokens == self.last)[:, None], self.blank[:, :-1], self.before())
        # token[t] = (token[t - 1] + before[t - 1]) scores[t]: a sum once both sides are divided by the product so far.
        token = _accumulated(before, scores.cumsum(1))
        blank = _accumulated(token[:, :-1], blanks)
        stays = tokens < 0
        kept = stays[:, None]
        return _Prefixes(
            torch.where(kept, self.token, token),
            torch.where(kept, self.blank, blank),
            torch.where(stays, self.last, tokens),
            torch.where(stays, self.score, (before + scores).logsumexp(1)),
        )


def _accumulated(begun: Tensor, product: Tensor) -> Tensor:
    """``(R, N + 1)``: paths that begin before a frame and go on with one symbol, whose ``product`` is summed up."""
    so_far = F.pad(product[:, :-1], (1, 0))
    return F.pad(product + (begun - so_far).logcumsumexp(1), (1, 0), value=_NEVER)


class JointScores(LogitsProcessor):
    """Mixes the CTC head's scores with the language model's, for Transformers' ``generate`` and our beam search.

    A token's score is ``(1 - weight) log p_LM + weight log p_CTC``, where p_CTC is the chance that the speech goes on
    with the token, or that it ends. The head's part is computed on the CPU.
    """

    def __init__(self, frames: Sequence[Tensor | None], tokens: Tensor, ends: Sequence[int], weight: float) -> None:
        """Decode B clips.

        Args:
            frames: what :class:`CtcHead` gives.
            tokens: ``(K,)`` int64 ids that the head knows.
            ends: ids of the end tokens.
            weight: of the head, from 0 to 1.
        """
        self.tokens, self.ends, self.weight = tokens.cpu(), torch.tensor(ends, dtype=torch.int64), weight
        self.heard = torch.tensor([each is not None for each in frames])
        longest = max((len(each) for each in frames if each is not None), default=0)
        # Blanks, which change nothing, follow a clip's frames; so does one a clip without any.
        self.frames = torch.full((len(frames), longest + 1, len(tokens) + 1), _IMPOSSIBLE)
        self.frames[..., -1] = 0
        for row, each in zip(self.frames, frames, strict=True):
            if each is not None:
                row[: len(each)] = each
        self.chances = self.frames[..., :-1].exp()
        self.blanks = self.frames[..., -1].double().cumsum(1)
        self.rows: dict[tuple[int, ...], int] = {}
        self.prefixes: _Prefixes | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Ids written so far ``(R, S)`` and scores ``(R, V)``; returns the joint scores of clips that are heard."""
        written, beams = input_ids.tolist(), len(input_ids) // len(self.heard)
        clips = torch.arange(len(self.heard)).repeat_interleave(beams)
        prefixes = self.prefixes = self._follow(written, clips)
        self.rows = {(int(clip), *ids): row for row, (clip, ids) in enumerate(zip(clips, written, strict=True))}

        before = prefixes.before()
        largest = before.amax(1, keepdim=True)
        shares = (before - largest).exp().float().view(len(self.heard), beams, -1)
        going_on = (shares @ self.chances).flatten(0, 1).log() + largest
        again = (prefixes.blank[:, :-1] + self._scores(prefixes.last, clips)).logsumexp(1)
        repeating = prefixes.last >= 0
        going_on[repeating, prefixes.last[repeating]] = again[repeating]
        ending = torch.logaddexp(prefixes.token, prefixes.blank)[:, -1]

        own = (going_on - prefixes.score[:, None]).clamp(min=_LEAST)
        end = (ending - prefixes.score).clamp(min=_LEAST)
        lost = prefixes.score < _NEVER / 2  # more tokens than there are frames: all that is left is to end
        own[lost], end[lost] = _LEAST, 0

        models = (1 - self.weight) * scores.log_softmax(-1)
        joint = models + self.weight * _LEAST
        for places, ours in ((self.tokens, own), (self.ends, end[:, None])):
            joint[:, places] = models[:, places] + self.weight * ours.to(scores)
        joint = joint.masked_fill(scores == -torch.inf, -torch.inf)  # also for the head alone: nothing times infinity
        return torch.where(self.heard[clips].to(scores.device)[:, None], joint, scores)

    def _follow(self, written: list[list[int]], clips: Tensor) -> _Prefixes:
        """The state of each row, from that of the row which it continues."""
        blanks = self.blanks[clips]
        if self.prefixes is None:
            return _Prefixes.empty(blanks)
        parents = [self.rows[int(clip), *ids[:-1]] for clip, ids in zip(clips, written, strict=True)]
        place = _places(self.tokens, torch.tensor([ids[-1] for ids in written]))
        return self.prefixes.take(torch.tensor(parents)).written(place, self._scores(place, clips), blanks)

    def _scores(self, places: Tensor, clips: Tensor) -> Tensor:
        """``(R, N)`` float64: the frames' log-probabilities of one token for each row, any for a token of -1."""
        return self.frames[clips, :, places].double()
