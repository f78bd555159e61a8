"""Fusion of audio and video features at the video's 25 frames a second, and the resizing of the result.

Shape notation: B clips, T frames, D width.

Source: the early fusion of "MMS-LLaMA: Efficient LLM-based Audio-Visual Speech Recognition with Minimal Multimodal
Speech Tokens" (ACL Findings 2025), its variant with concatenation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mome.features import Features, length_mask


def fit(features: Features, size: int) -> Tensor:
    """Cut or zero-pad features to ``size`` frames, with zeros beyond each clip's length.

    Args:
        features: ``(B, T, D)``, any dtype.
        size: frames of the result.

    Returns:
        ``(B, size, D)`` in the dtype of the features.
    """
    frames = F.pad(features.frames, (0, 0, 0, size - features.frames.shape[1]))  # a negative pad cuts
    return frames.masked_fill(~length_mask(features.lengths, size).unsqueeze(-1), 0)


def resize(frames: Tensor, lengths: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """Stretch or shrink each clip by linear interpolation, all clips at once.

    The result is that of ``torch.nn.functional.interpolate(mode="linear", align_corners=False)`` on each clip by
    itself.

    Args:
        frames: ``(B, T, D)`` floating; frames beyond a clip's length are not read.
        lengths: frames of each clip before, from 1 up.
        sizes: frames of each clip after, from 1 up.

    Returns:
        ``(B, max(sizes), D)`` in the dtype of ``frames``, zero beyond each clip's size.
    """
    length, size = (torch.tensor(values, device=frames.device).unsqueeze(1) for values in (lengths, sizes))
    steps = torch.arange(max(sizes), device=frames.device)
    # A frame is an interval, and the middles of intervals are matched; before the first middle there is no frame.
    place = ((steps + 0.5) * (length.float() / size) - 0.5).clamp(min=0)
    left = torch.minimum(place.long(), length - 1)
    right = torch.minimum(left + 1, length - 1)
    share = (place - left).unsqueeze(-1).to(frames.dtype)
    clips = torch.arange(len(frames), device=frames.device).unsqueeze(1)
    resized = frames[clips, left] * (1 - share) + frames[clips, right] * share
    return resized.masked_fill((steps >= size).unsqueeze(-1), 0)


class EarlyFusion(nn.Module):
    """Audio at half its frame rate and video, concatenated along the features, audio first.

    State-dict keys: ``downsample.{weight,bias}``.

    A clip is as long as its video; its audio is cut or zero-padded to that length. Not in the paper: a clip may lack a
    modality (length 0). That part of the result is then zero, and without video the clip is half as long as its audio.

    Attributes:
        downsample: convolution with kernel = stride = 2, from 50 to 25 frames a second.
        out_features: width of the result, the sum of both widths.
    """

    def __init__(self, audio_width: int, video_width: int) -> None:
        """Fuse audio and video features of these widths."""
        super().__init__()
        self.downsample = nn.Conv1d(audio_width, audio_width, kernel_size=2, stride=2)
        self.out_features = audio_width + video_width

    def forward(self, audio: Features, video: Features) -> Features:
        """Fuse a batch.

        Args:
            audio: features ``(B, T_a, D_a)``, 50 a second, in the dtype of the weights.
            video: features ``(B, T_v, D_v)``, 25 a second, in the same dtype.

        Returns:
            Features ``(B, T, D_a + D_v)``, 25 a second. T is at least 1, even if no clip has a frame; frames beyond a
            clip's length are not zero.
        """
        lengths = torch.where(video.lengths > 0, video.lengths, audio.lengths // 2)
        size = max(int(lengths.max()), 1)
        halved = self.downsample(fit(audio, 2 * size).transpose(1, 2)).transpose(1, 2)
        present = length_mask((audio.lengths + 1) // 2, size).unsqueeze(-1)
        halved = halved.masked_fill(~present, 0)  # without audio no bias of the convolution either
        return Features(torch.cat([halved, fit(video, size)], dim=-1), lengths)
