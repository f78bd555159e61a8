"""WavLM and HuBERT as audio encoders: waveforms to 50 tokens a second."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import HubertModel, PreTrainedConfig, WavLMModel

from mome.features import Features, length_mask


class WaveformAudioEncoder(nn.Module):
    """A Transformers ``WavLMModel`` or ``HubertModel`` that gives each clip the tokens it would have by itself.

    "WavLM: Large-Scale Self-Supervised Pre-Training for Full Stack Speech Processing" (Chen et al., 2022);
    "HuBERT: Self-Supervised Speech Representation Learning by Masked Prediction of Hidden Units" (Hsu et al., 2021).

    Args:
        encoder: the pre-trained model.
    """

    def __init__(self, encoder: WavLMModel | HubertModel):
        super().__init__()
        self.encoder = encoder

    @property
    def hidden_size(self) -> int:
        """Width D of the tokens."""
        return self.encoder.config.hidden_size

    @property
    def tokens_per_second(self) -> int:
        """50 with the published strides; a clip has one less than that, for want of a last full window."""
        return waveform_tokens_per_second(self.encoder.config)

    def forward(self, input_features: Tensor, input_features_mask: Tensor) -> Features:
        """Encode waveforms.

        Args:
            input_features: ``(B, 1, M)`` float, normalised waveforms at 16 kHz.
            input_features_mask: ``(B, M)`` bool, true on real samples.

        Returns:
            Features with ``⌊(samples - 400) / 320⌋ + 1`` tokens per clip in the published models, 0 for a clip that is
            shorter than one token's window.
        """
        samples = input_features_mask.sum(1)
        counts = [waveform_tokens(self.encoder.config, int(number)) for number in samples]
        lengths = torch.tensor(counts, device=input_features.device)
        hidden = self.encoder.feature_projection(self._windows(input_features[:, 0], samples.tolist()))
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden  # WavLM gives what it projected, too
        mask = length_mask(lengths, hidden.shape[1])
        tokens = self.encoder.encoder(hidden, attention_mask=mask).last_hidden_state
        return Features(tokens.masked_fill(~mask[..., None], 0), lengths)

    def _windows(self, waves: Tensor, samples: list[int]) -> Tensor:
        """``(B, M)`` samples → ``(B, T, C)``, the convolutions' outputs; T is at least 1."""
        least = least_samples(self.encoder.config)
        waves = nn.functional.pad(waves, (0, max(least - waves.shape[1], 0)))
        if self.encoder.config.feat_extract_norm == "layer":
            return self.encoder.feature_extractor(waves).transpose(1, 2)
        # The smaller models normalise over time, padding included, so each clip goes through by itself.
        rows = [
            self.encoder.feature_extractor(wave[None, : max(size, least)])[0].T
            for wave, size in zip(waves, samples, strict=True)
        ]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True)


def waveform_tokens(config: PreTrainedConfig, samples: int) -> int:
    """Tokens that a WavLM or HuBERT of this configuration makes of so many samples, 0 where they are too few."""
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        samples = max((samples - kernel) // stride + 1, 0)
    return samples


def least_samples(config: PreTrainedConfig) -> int:
    """Samples of one token's window."""
    samples = 1
    for kernel, stride in reversed(list(zip(config.conv_kernel, config.conv_stride, strict=True))):
        samples = (samples - 1) * stride + kernel
    return samples


def waveform_tokens_per_second(config: PreTrainedConfig) -> int:
    """Tokens a second at 16 kHz."""
    step = 1
    for stride in config.conv_stride:
        step *= stride
    return 16_000 // step
