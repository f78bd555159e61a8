"""Learned queries that read audio and video together; their number follows the clip's length and speech rate.

Shape notation: B clips, T fused frames, R frames after resizing, Q queries, n of them used, H width of the language
model.

Source: "MMS-LLaMA: Efficient LLM-based Audio-Visual Speech Recognition with Minimal Multimodal Speech Tokens"
(ACL Findings 2025). The Q-Former is that of BLIP-2, from Transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from mome.clip import FRAME_RATE
from mome.connectors.base import Connected, Connector, ConnectorConfig, Surroundings, TokenCounts
from mome.connectors.fusion import EarlyFusion, resize
from mome.connectors.speech_rate import SpeechRatePredictor
from mome.errors import MomeError
from mome.features import Features, length_mask
from mome.operations import count_operations, meta
from mome.options import check_whole
from mome.rates import Rates

SLOWEST, FASTEST = 1.0, 2.0  # speech rates are limited to these
MOST_LAYERS = 64


@dataclass(frozen=True)
class QFormerConfig(ConnectorConfig, kind="qformer"):
    """Early fusion and a Q-Former whose number of queries follows length and speech rate (MMS-LLaMA).

    Attributes:
        queries_per_second: queries for a second of speech of normal speed.
        longest: seconds of speech, at normal speed, that half of the learned queries suffice for.
        hidden: width of the Q-Former.
        layers: layers of the Q-Former.
        heads: attention heads of the Q-Former.
        inner: feed-forward width of the Q-Former.
        speech_rate: whether a predictor of the speech rate, trained with the rest, raises the number of queries for
            fast speech.
        words_per_second: normal speed, the mean of the training set (LRS3: 2.71).
    """

    fuses = True
    audio_frames_per_second = 2 * FRAME_RATE

    queries_per_second: int = 3
    longest: int = 20
    hidden: int = 1024
    layers: int = 2
    heads: int = 16
    inner: int = 4096
    speech_rate: bool = True
    words_per_second: float = 2.71

    def __post_init__(self) -> None:
        """Raise :class:`MomeError` naming an impossible option."""
        for name in ("queries_per_second", "longest", "hidden", "heads", "inner"):
            check_whole(name, getattr(self, name))
        check_whole("layers", self.layers, MOST_LAYERS)
        if not self.words_per_second > 0:
            raise MomeError(f"words_per_second = {self.words_per_second!r} is not possible: give a positive number")

    def build(self, around: Surroundings) -> QFormerConnector:
        """Make fusion, predictor, Q-Former and projector.

        Raises:
            MomeError: an encoder is missing.
        """
        if around.audio_width is None or around.video_width is None:
            raise MomeError("the connector qformer fuses audio and video: give both encoders")
        return QFormerConnector(around.audio_width, around.video_width, around.out_features, self)

    def tokens(self, rates: Rates, audio_frames: int, video_frames: int) -> TokenCounts:
        """See :func:`query_count`, for speech of normal speed."""
        frames = video_frames if rates.video is not None else audio_frames // 2
        return TokenCounts(fused=query_count(self, frames))

    def loss_weights(self) -> dict[str, float]:
        """Factor 1 of the predictor's loss, if there is a predictor."""
        return {"speech_rate": 1.0} if self.speech_rate else {}


def learned_queries(config: QFormerConfig) -> int:
    """Q, the number of queries: enough for the longest clip at the fastest speech."""
    return int(config.queries_per_second * config.longest * FASTEST)


def query_count(config: QFormerConfig, frames: int, speech_rate: float = 1.0) -> int:
    """Number of tokens of a clip: floor(seconds * queries_per_second * speech_rate), within limits.

    Args:
        config: gives the queries per second.
        frames: fused frames of the clip, 25 a second.
        speech_rate: from 1 to 2.

    Returns:
        At least the queries of one second, at most all queries (longer clips are compressed more), and 0 for a clip
        without frames.
    """
    if frames == 0:
        return 0
    count = int(frames * config.queries_per_second * speech_rate / FRAME_RATE)
    return min(max(count, config.queries_per_second), learned_queries(config))


class QFormerConnector(Connector):
    """Early fusion, a Q-Former and two linear layers to the language model's width.

    State-dict keys: ``queries``, ``fusion.*``, ``predictor.*`` if there is one, ``qformer.*`` (Transformers'
    ``Blip2QFormerModel``), ``projector.{0,1}.*``.

    Attributes:
        fusion: fuses audio and video.
        predictor: predicts the speech rate, and is trained by :meth:`losses` alone, as the number of queries has no
            gradient; ``None``: all speech has normal speed.
        queries: ``(1, Q, hidden)``; a clip uses the first n.
    """

    def __init__(self, audio_width: int, video_width: int, out_features: int, config: QFormerConfig) -> None:
        """Connect encoders of the given widths with a language model of width ``out_features``."""
        super().__init__()
        self.config = config
        self.fusion = EarlyFusion(audio_width, video_width)
        self.predictor = SpeechRatePredictor(audio_width) if config.speech_rate else None
        self.queries = nn.Parameter(torch.empty(1, learned_queries(config), config.hidden))
        self.qformer = Blip2QFormerModel(
            Blip2QFormerConfig(
                hidden_size=config.hidden,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                intermediate_size=config.inner,
                encoder_hidden_size=self.fusion.out_features,
                cross_attention_frequency=1,
            )
        )
        middle = (config.hidden + out_features) // 2
        self.projector = nn.Sequential(nn.Linear(config.hidden, middle), nn.Linear(middle, out_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the queries as narrowly as BLIP-2 does."""
        nn.init.normal_(self.queries, std=0.02)

    def forward(self, audio: Features | None, video: Features | None, rates: Sequence[Rates]) -> Connected:
        """Make fused tokens; see :meth:`Connector.forward`.

        The rates say only which modalities are used: the number of tokens follows from a clip's length and speech
        rate. Not in the paper: for a clip of one modality the other's features are zero, and without audio its speech
        has normal speed.

        Args:
            audio: features ``(B, T_a, D_a)``, 50 a second.
            video: features ``(B, T_v, D_v)``, 25 a second.
            rates: rates of each clip.

        Returns:
            ``fused`` tokens ``(n, H)`` of each clip, ``(0, H)`` for a clip without a frame.

        Raises:
            ValueError: a clip's rates name a modality that was not given.
        """
        audio_width = self.fusion.downsample.in_channels
        video_width = self.fusion.out_features - audio_width
        audio = self._named(audio, [rate.audio is not None for rate in rates], audio_width)
        video = self._named(video, [rate.video is not None for rate in rates], video_width)
        fused = self.fusion(audio, video)
        frames, speech_rates = fused.lengths.tolist(), self.speech_rates(audio, fused.lengths).tolist()
        counts = [query_count(self.config, *clip) for clip in zip(frames, speech_rates, strict=True)]
        # A clip without a frame is read as one frame of zeros, as attention to nothing would give NaN.
        sizes = [max(int(length * rate), 1) for length, rate in zip(frames, speech_rates, strict=True)]
        features = resize(fused.frames, [max(length, 1) for length in frames], sizes)
        tokens = self.projector(self.read(features, sizes, counts))
        none: list[Tensor | None] = [None] * len(rates)
        made: list[Tensor | None] = [row[:count] for row, count in zip(tokens, counts, strict=True)]
        return Connected(none, list(none), made)

    def _named(self, features: Features | None, named: Sequence[bool], width: int) -> Features:
        """One modality's features, with length 0 for the clips whose rates do not name it."""
        if features is None:
            if any(named):
                raise ValueError("a clip's rates name a modality that was not given")
            absent = self.queries.new_zeros(len(named), 0, width)
            features = Features(absent, self.queries.new_zeros(len(named), dtype=torch.long))
        return Features(features.frames, features.lengths * torch.tensor(named, device=features.lengths.device))

    @torch.no_grad()
    def speech_rates(self, audio: Features, frames: Tensor) -> Tensor:
        """Predict the speech rates, limited to 1 to 2: factors of the clips' lengths and numbers of tokens.

        Args:
            audio: features ``(B, T_a, D_a)``; a clip of length 0 has the factor 1.
            frames: ``(B,)`` integer, fused frames; audio beyond them is not read.

        Returns:
            ``(B,)`` float32 from 1 to 2.
        """
        factors = torch.full(frames.shape, SLOWEST, device=frames.device)
        lengths = torch.minimum(audio.lengths, 2 * frames)
        known = lengths > 0
        if self.predictor is not None and known.any():
            sound, lengths = audio.frames[known], lengths[known]
            factors[known] = self.predictor(sound[:, : int(lengths.max())], lengths).float().clamp(SLOWEST, FASTEST)
        return factors

    def losses(self, audio: Features | None, video: Features | None, words: Tensor) -> dict[str, Tensor]:
        """``speech_rate``: mean squared error of the predicted speech rates, over the clips with audio.

        Its gradient reaches the predictor only.
        """
        if self.predictor is None or audio is None:
            return {}
        counted = audio.lengths > 0
        seconds = audio.lengths.clamp(min=1) / (2 * FRAME_RATE)
        target = words / seconds / self.config.words_per_second
        errors = self.predictor(audio.frames.detach(), audio.lengths).float() - target
        return {"speech_rate": (errors.square() * counted).sum() / counted.sum().clamp(min=1)}

    def operations(
        self, audio: Features | None, video: Features | None, rates: Rates, tokens: TokenCounts | None = None
    ) -> int:
        """See :meth:`Connector.operations`; the speech rate is computed from the number of tokens."""
        given = video if video is not None else audio
        if given is None:
            return 0
        frames = given.frames.shape[1] // (1 if video is not None else 2)
        per_second = self.config.queries_per_second
        queries = query_count(self.config, frames) if tokens is None else tokens.fused
        speech_rate = SLOWEST
        if per_second < queries < learned_queries(self.config):
            speech_rate = min(max(queries * FRAME_RATE / (per_second * frames), SLOWEST), FASTEST)
        # The convolution runs on zeros where there is no audio.
        sound = meta(1, 2 * frames, self.fusion.downsample.in_channels)
        total = count_operations(lambda: self.fusion.downsample(sound.transpose(1, 2)))
        if self.predictor is not None and audio is not None:
            total += count_operations(partial(self.predictor, sound))
        size = max(int(frames * speech_rate), 1)
        features, read = meta(1, size, self.fusion.out_features), self.queries[:, : max(queries, 1)]
        total += count_operations(lambda: self.qformer(query_embeds=read, encoder_hidden_states=features))
        return total + count_operations(partial(self.projector, read))

    def read(self, features: Tensor, sizes: Sequence[int], counts: Sequence[int]) -> Tensor:
        """Read the features with the first queries.

        Args:
            features: ``(B, R, D_a + D_v)`` fused and resized, in the dtype of the weights.
            sizes: frames of each clip, from 1 up.
            counts: queries n of each clip.

        Returns:
            ``(B, max(counts), hidden)``, at least one position; positions beyond a clip's count hold no token.
        """
        device = features.device
        # Queries attend to each other: those that a clip does not use are masked.
        used = torch.tensor([max(count, 1) for count in counts], device=device)
        queries = self.queries[:, : max(*counts, 1)].expand(len(features), -1, -1)
        read: Tensor = self.qformer(
            query_embeds=queries,
            attention_mask=length_mask(used, queries.shape[1]),
            encoder_hidden_states=features,
            encoder_attention_mask=length_mask(torch.tensor(sizes, device=device), features.shape[1]),
        ).last_hidden_state
        return read
