"""Sizes of an AV-HuBERT encoder."""

from __future__ import annotations

import os
from math import inf
from pathlib import Path
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

NOTICE_FILE = "NOTICE.md"
_SIZES = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "resnet_width"),
    *("conv_pos", "conv_pos_groups", "audio_feature_size", "image_size"),
)


@strict
class AVHubertConfig(PreTrainedConfig):
    """Configuration of :class:`AVHubertModel`; the defaults are AV-HuBERT Large.

    AV-HuBERT Base has 12 layers of width 768, 12 heads and an inner width of 3072.

    Attributes:
        hidden_size: width of the Transformer and of the features.
        intermediate_size: inner width of the feed-forward blocks.
        resnet_width: channels of the first ResNet stage; the four stages have 1, 2, 4 and 8 times as many.
        conv_pos: kernel of the positional convolution, in frames.
        conv_pos_groups: its groups.
        audio_feature_size: width of the stacked log filterbank that the audio branch reads (26 bins × 4).
        image_size: side of the square input in pixels, cut from the middle of the 96-pixel mouth crop
            (88 in the published models; a smaller size is the same field of view, scaled down).
        image_mean: mean grey value of the training set, pixels in [0, 1].
        image_std: its standard deviation.
        layerdrop: probability of skipping a layer, in training.
        notice: text that must accompany the weights, such as their licence's notice; it is written to ``NOTICE.md``
            wherever they are saved. ``None``: no file.
    """

    model_type = "avhubert"

    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    resnet_width: int = 64
    conv_pos: int = 128
    conv_pos_groups: int = 16
    audio_feature_size: int = 104
    image_size: int = 88
    image_mean: float | int = 0.421
    image_std: float | int = 0.165
    layer_norm_eps: float | int = 1e-5
    dropout: float | int = 0.1
    attention_dropout: float | int = 0.1
    input_dropout: float | int = 0.1
    layerdrop: float | int = 0.05
    initializer_range: float | int = 0.02
    notice: str | None = None

    def validate_sizes(self) -> None:
        """Raise ``ValueError`` naming a number that is not possible; types are checked before."""
        for name in _SIZES:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} is not possible: give a whole number from 1 up")
        for name in ("dropout", "attention_dropout", "input_dropout", "layerdrop"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} is not possible: give a number from 0 to less than 1")
        for name in ("image_std", "layer_norm_eps"):
            if not 0 < getattr(self, name) < inf:
                raise ValueError(f"{name} = {getattr(self, name)} is not possible: give a positive number")
        for name in ("num_attention_heads", "conv_pos_groups"):
            if self.hidden_size % getattr(self, name):
                raise ValueError(f"hidden_size = {self.hidden_size} is no multiple of {name} = {getattr(self, name)}")

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:  # type: ignore[override]
        """Write ``config.json``, and the notice if there is one."""
        super().save_pretrained(save_directory, **kwargs)
        self.write_notice(save_directory)

    def write_notice(self, folder: str | os.PathLike[str]) -> None:
        """Write the notice, if there is one, into a folder that holds the weights."""
        if self.notice is not None:
            (Path(folder) / NOTICE_FILE).write_text(self.notice, encoding="utf-8")
