"""Learned queries that read a clip's frames by attention; the first m queries become its tokens.

Shape notation: B clips, T frames, D encoder width, H width of the language model, M queries, m tokens.

Source: MQT ("Matryoshka Query Transformer for Large Vision-Language Models", arXiv 2405.19315), whose queries and
image patches lie on squares. Here both lie on a line, and clips have different lengths, so two things differ:

* A rate gives the number of tokens, m = floor(T / rate), limited to 1 to M. The rate need not be whole: T / m gives m
  tokens.
* MQT resizes the queries' position embeddings to the number of patches. Here the T frames of a clip are spread over
  the M query positions, frame t at (t + 1/2) * M / T - 1/2 (the centres of a resize), and the embedding is computed
  there instead of interpolated.

As in MQT, keys are made of positions alone and values of features alone, so where a query looks does not depend on what
is said there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mome.connectors.base import ConnectorConfig, SeparateConnector, Surroundings, TokenCounts
from mome.connectors.pooling import Length
from mome.errors import MomeError
from mome.features import length_mask
from mome.options import check_whole
from mome.rates import Rates

_ROUNDING = 1e-6


@dataclass(frozen=True)
class ResamplerConfig(ConnectorConfig, kind="resampler"):
    """Learned queries that read the frames; a clip uses the first m queries (MQT).

    Attributes:
        queries: M, the number of queries and the largest number of tokens of a clip.
        heads: attention heads.
    """

    any_rate = True

    queries: int = 256
    heads: int = 16

    def __post_init__(self) -> None:
        """Raise :class:`MomeError` naming an impossible option."""
        check_whole("queries", self.queries)
        check_whole("heads", self.heads)

    def build(self, around: Surroundings) -> SeparateConnector:
        """Make a resampler for each modality.

        Raises:
            MomeError: a width of features is odd or not divisible by ``heads``.
        """
        return SeparateConnector.of(
            around,
            lambda _, width: QueryResampler(width, around.out_features, queries=self.queries, heads=self.heads),
        )

    def tokens(self, rates: Rates, audio_frames: int, video_frames: int) -> TokenCounts:
        """See :func:`resampled_length`."""
        return TokenCounts(
            0 if rates.audio is None else resampled_length(audio_frames, rates.audio, self.queries),
            0 if rates.video is None else resampled_length(video_frames, rates.video, self.queries),
        )


def resampled_length(length: Length, rate: float, queries: int) -> Length:
    """Number of tokens that ``length`` frames become: floor(length / rate), limited to 1 to ``queries``.

    Args:
        length: a number of frames, or an integer tensor of any shape; no frame gives no token.
        rate: frames per token, from 1 up, whole or not.
        queries: M, the resampler's number of queries.

    Returns:
        The same kind as ``length``.

    Raises:
        MomeError: the rate is below 1.
    """
    if not rate >= 1:
        raise MomeError(f"compression rate {rate!r} is not possible: a rate is a number from 1 up")
    # The rate T / m must give m tokens despite rounding.
    if isinstance(length, Tensor):
        count = (length.double() / rate + _ROUNDING).to(length.dtype)
        return count.clamp(min=1, max=queries).minimum(length)
    return min(max(int(length / rate + _ROUNDING), 1), queries, length)


def sincos(positions: Tensor, width: int) -> Tensor:
    """Sines, then cosines, of ``positions`` times width / 2 frequencies falling from 1 towards 1 / 10000.

    Args:
        positions: any shape, floating.
        width: features, even.

    Returns:
        (..., width) in the dtype of ``positions``.
    """
    half = width // 2
    exponents = torch.arange(half, dtype=positions.dtype, device=positions.device) / half
    angles = positions.unsqueeze(-1) * 10000**-exponents
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class QueryResampler(nn.Module):
    """One cross-attention of learned queries to the frames of one modality, then a matrix to the model's width.

    It takes any rate. Queries do not see each other, so token i of a clip is the same at all rates that give more than
    i tokens.

    State-dict keys: ``query`` (M, D), ``proj`` (D, H), ``ln_{q,k,v}.*`` and ``attn.*`` of
    :class:`torch.nn.MultiheadAttention`; the names and shapes are MQT's, without its stored position embedding.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int = 2048,
        queries: int = 256,
        heads: int = 16,
    ) -> None:
        """Make ``queries`` queries, from features of width ``in_features`` to tokens of width ``out_features``.

        Raises:
            MomeError: ``in_features`` is odd or not divisible by ``heads``.
        """
        super().__init__()
        if in_features % heads:
            raise MomeError(f"heads = {heads} do not divide the encoder's width {in_features}: choose another number")
        if in_features % 2:
            raise MomeError(f"a resampler cannot read the odd width {in_features}: its position embedding is even")
        self.query = nn.Parameter(torch.empty(queries, in_features))
        self.attn = nn.MultiheadAttention(in_features, heads, batch_first=True)
        self.ln_q = nn.LayerNorm(in_features, eps=1e-6)
        self.ln_k = nn.LayerNorm(in_features, eps=1e-6)
        self.ln_v = nn.LayerNorm(in_features, eps=1e-6)
        self.proj = nn.Parameter(torch.empty(in_features, out_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw queries, last matrix and the attention's output as MQT does; PyTorch's modules draw the rest."""
        nn.init.trunc_normal_(self.query, std=0.02)
        nn.init.normal_(self.proj, std=self.proj.shape[1] ** -0.5)
        nn.init.trunc_normal_(self.attn.out_proj.weight, std=0.02)
        nn.init.zeros_(self.attn.out_proj.bias)

    def forward(self, frames: Tensor, lengths: Tensor, rate: float) -> tuple[Tensor, Tensor]:
        """Read the frames with the first m queries; a :data:`~mome.connectors.base.Compressor`.

        Args:
            frames: (B, T, D), finite in the padding too.
            lengths: (B,), valid frames of each clip.
            rate: frames per token, from 1 up, whole or not.

        Returns:
            Tokens (B, m, H), where m is the :func:`resampled_length` of T, and lengths (B,), that of ``lengths``.

        Raises:
            MomeError: the rate is below 1.
        """
        (batch, size, width), queries = frames.shape, len(self.query)
        if not size:  # attention to nothing is undefined
            return frames.new_zeros(batch, 0, self.proj.shape[1]), lengths
        # In half precision neighbouring positions of a long clip would coincide.
        dtype = torch.promote_types(self.query.dtype, torch.float32)
        count = resampled_length(int(size), rate, queries)
        places = torch.arange(count, dtype=dtype, device=frames.device)
        query = self.ln_q(self.query[:count] + sincos(places, width).to(self.query.dtype))
        # A clip without frames reads padding: a softmax over nothing would make every gradient NaN.
        filled = lengths.clamp(min=1).to(frames.device)
        times = torch.arange(size, dtype=dtype, device=frames.device) + 0.5
        positions = times * (queries / filled.to(dtype)).unsqueeze(-1) - 0.5
        read, _ = self.attn(
            query.expand(batch, -1, -1),
            self.ln_k(sincos(positions, width).to(self.query.dtype)),
            self.ln_v(frames),
            key_padding_mask=~length_mask(filled, size),
            need_weights=False,
        )
        return read @ self.proj, resampled_length(lengths, rate, queries)
