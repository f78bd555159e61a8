"""The AV-HuBERT encoder: mouth frames, log filterbanks or both to 25 frames a second.

Module names follow the original checkpoints, so that their keys carry over one to one; the parts used in
pre-training only (``mask_emb``, ``label_embs_concat``, ``final_proj``) are left out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init

from mome.encoders.avhubert.config import AVHubertConfig
from mome.encoders.avhubert.frontend import VisualResNet
from mome.features import Features


class FeatureExtractor(nn.Module):
    """Projection of one modality's input to the Transformer's width, behind a ResNet for video."""

    def __init__(self, in_features: int, out_features: int, resnet: nn.Module | None = None):
        super().__init__()
        self.resnet = resnet
        self.proj = nn.Linear(in_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, T, …)`` → ``(B, T, out_features)``."""
        projected: Tensor = self.proj(x if self.resnet is None else self.resnet(x))
        return projected


class PositionalConvolution(nn.Module):
    """Grouped convolution over time with weight normalisation per kernel position."""

    def __init__(self, config: AVHubertConfig):
        super().__init__()
        width, kernel, groups = config.hidden_size, config.conv_pos, config.conv_pos_groups
        self.groups, self.padding = groups, kernel // 2
        self.bias = nn.Parameter(torch.zeros(width))
        self.weight_g = nn.Parameter(torch.ones(1, 1, kernel))
        self.weight_v = nn.Parameter(torch.randn(width, width // groups, kernel))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, T, D)`` → ``(B, T, D)``."""
        norm = self.weight_v.norm(dim=(0, 1), keepdim=True)
        weight = self.weight_g * self.weight_v / norm
        y = F.conv1d(x.transpose(1, 2), weight, self.bias, padding=self.padding, groups=self.groups)
        return F.gelu(y[..., : x.shape[1]]).transpose(1, 2)  # an even kernel gives one frame too many


class SelfAttention(nn.Module):
    """Multi-head self-attention with biases on all projections."""

    def __init__(self, config: AVHubertConfig):
        super().__init__()
        width = config.hidden_size
        self.heads, self.dropout = config.num_attention_heads, config.attention_dropout
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """``(B, T, D)`` → ``(B, T, D)``; ``mask (B, T)`` bool is true on valid frames."""
        q, k, v = (
            proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        attended = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if mask is None else mask[:, None, None],
            dropout_p=self.dropout if self.training else 0.0,
        )
        projected: Tensor = self.out_proj(attended.transpose(1, 2).flatten(-2))
        return projected


class EncoderLayer(nn.Module):
    """A pre-norm Transformer layer."""

    def __init__(self, config: AVHubertConfig):
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.self_attn = SelfAttention(config)
        self.self_attn_layer_norm = nn.LayerNorm(width, eps)
        self.fc1 = nn.Linear(width, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, width)
        self.final_layer_norm = nn.LayerNorm(width, eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """``(B, T, D)`` → ``(B, T, D)``."""
        x = x + self.dropout(self.self_attn(self.self_attn_layer_norm(x), mask))
        x = x + self.dropout(self.fc2(F.gelu(self.fc1(self.final_layer_norm(x)))))
        return x


class TransformerEncoder(nn.Module):
    """Positional convolution, layers and the final norm."""

    def __init__(self, config: AVHubertConfig):
        super().__init__()
        self.layerdrop = config.layerdrop
        self.pos_conv = nn.ModuleList([PositionalConvolution(config)])
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_hidden_layers))
        self.layer_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """``(B, T, D)`` → ``(B, T, D)``; frames outside ``mask`` are zeroed before the convolution."""
        if mask is not None:
            x = x * mask[..., None]
        x = self.dropout(x + self.pos_conv[0](x))
        for layer in self.layers:
            if not (self.training and float(torch.rand(())) < self.layerdrop):
                x = layer(x, mask)
        normed: Tensor = self.layer_norm(x)
        return normed


class AVHubertModel(PreTrainedModel):
    """AV-HuBERT's encoder, which reads video, audio or both.

    Architecture as in "Learning Audio-Visual Speech Representation by Masked Multimodal Cluster Prediction"
    (Shi et al., ICLR 2022): the two modalities' inputs are projected, concatenated (audio first, a missing modality
    as zeros), normalised together and projected again, before the Transformer.
    """

    config_class = AVHubertConfig
    base_model_prefix = "avhubert"
    main_input_name = "pixel_values_videos"

    def __init__(self, config: AVHubertConfig):
        super().__init__(config)
        width = config.hidden_size
        self.feature_extractor_audio = FeatureExtractor(config.audio_feature_size, width)
        self.feature_extractor_video = FeatureExtractor(
            config.resnet_width * 8, width, VisualResNet(config.resnet_width)
        )
        self.layer_norm = nn.LayerNorm(2 * width, config.layer_norm_eps)
        self.post_extract_proj = nn.Linear(2 * width, width)
        self.dropout_input = nn.Dropout(config.input_dropout)
        self.encoder = TransformerEncoder(config)
        self.post_init()  # type: ignore[no-untyped-call]

    @property
    def hidden_size(self) -> int:
        """Width D of the features."""
        return int(self.config.hidden_size)

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[no-untyped-call]
        if isinstance(module, PositionalConvolution):
            scale = (4 / (module.weight_v.shape[-1] * module.weight_v.shape[0])) ** 0.5
            init.normal_(module.weight_v, std=scale)
            # The gain starts as the norm, so that the effective weight is the drawn one.
            norm = scale * (module.weight_v.shape[0] * module.weight_v.shape[1]) ** 0.5
            init.constant_(module.weight_g, norm)
            init.zeros_(module.bias)

    def forward(
        self,
        pixel_values_videos: Tensor | None = None,
        pixel_values_videos_mask: Tensor | None = None,
        input_features: Tensor | None = None,
    ) -> Features:
        """Encode a batch.

        Args:
            pixel_values_videos: ``(B, T, H, W)`` float, normalised grey mouth frames at 25 a second.
            pixel_values_videos_mask: ``(B, T)`` bool, true on real frames; without it all frames are real.
            input_features: ``(B, T, audio_feature_size)`` float, from :func:`stacked_log_filterbank`.

        Returns:
            Features with one frame per input frame, zero beyond each clip's length.

        Raises:
            ValueError: neither modality is given.
        """
        mask = pixel_values_videos_mask
        video = audio = None
        if pixel_values_videos is not None:
            video = self.feature_extractor_video(pixel_values_videos)
        if input_features is not None:
            audio = self.feature_extractor_audio(input_features)
        given = video if video is not None else audio
        if given is None:
            raise ValueError("AV-HuBERT needs video frames, audio features or both")
        # A missing modality is zero after its projection, so the projection's bias is not added.
        missing = torch.zeros_like(given)
        halves = [missing if audio is None else audio, missing if video is None else video]
        fused = self.layer_norm(torch.cat(halves, dim=-1))
        frames = self.encoder(self.dropout_input(self.post_extract_proj(fused)), mask)
        if mask is None:
            return Features(frames, torch.full(frames.shape[:1], frames.shape[1], device=frames.device))
        return Features.masked(frames, mask.sum(1))
