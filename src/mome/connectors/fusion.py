"""Audio and video as one stream of features at the video's frame rate, and its resizing.

Shape notation: B clips, T frames, D width.

Source: the early fusion of "MMS-LLaMA: Efficient LLM-based Audio-Visual Speech Recognition with Minimal Multimodal
Speech Tokens" (ACL Findings 2025), in the variant that concatenates.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mome.features import Features, length_mask


def fit(stream: Features, size: int) -> Tensor:
    """The tokens cut or zero-padded to ``size`` frames, with zeros beyond each clip's length.

    Args:
        stream: tokens ``(B, T, D)``, any dtype.
        size: frames of the result.

    Returns:
        ``(B, size, D)`` in the dtype of the tokens.
    """
    tokens = F.pad(stream.frames, (0, 0, 0, size - stream.frames.shape[1]))  # a negative pad cuts
    return tokens.masked_fill(~length_mask(stream.lengths, size).unsqueeze(-1), 0)


def resize(tokens: Tensor, lengths: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """Stretch or shrink each clip by linear interpolation, all clips at once.

    The numbers are those of ``torch.nn.functional.interpolate(mode="linear", align_corners=False)`` on each clip
    by itself.

    Args:
        tokens: ``(B, T, D)`` floating; beyond its length nothing of a clip is read.
        lengths: frames of each clip before, from 1 up.
        sizes: frames of each clip after, from 1 up.

    Returns:
        ``(B, max(sizes), D)`` in the dtype of ``tokens``, zero beyond each clip's size.
    """
    length, size = (torch.tensor(values, device=tokens.device).unsqueeze(1) for values in (lengths, sizes))
    steps = torch.arange(max(sizes), device=tokens.device)
    # Frames are intervals, of which the middles are matched; before the first middle there is nothing to mix with.
    place = ((steps + 0.5) * (length.float() / size) - 0.5).clamp(min=0)
    left = torch.minimum(place.long(), length - 1)
    right = torch.minimum(left + 1, length - 1)
    share = (place - left).unsqueeze(-1).to(tokens.dtype)
    clips = torch.arange(len(tokens), device=tokens.device).unsqueeze(1)
    resized = tokens[clips, left] * (1 - share) + tokens[clips, right] * share
    return resized.masked_fill((steps >= size).unsqueeze(-1), 0)


class EarlyFusion(nn.Module):
    """Audio at half its frame rate beside video, concatenated along the features.

    State-dict keys: ``downsample.{weight,bias}``.

    A clip is as long as its video, to which its audio is cut or filled up with zeros. Going beyond the paper, a clip
    may lack a modality (length 0): its half of the features is then zero, and without video the clip is half as long
    as its audio.

    Attributes:
        downsample: convolution with kernel = stride = 2, from 50 to 25 frames a second.
        out_features: width of the result, audio first.
    """

    def __init__(self, audio_features: int, video_features: int) -> None:
        """Fuse audio and video tokens of the given widths."""
        super().__init__()
        self.downsample = nn.Conv1d(audio_features, audio_features, kernel_size=2, stride=2)
        self.out_features = audio_features + video_features

    def forward(self, audio: Features, video: Features) -> Features:
        """Fuse a batch.

        Args:
            audio: tokens ``(B, T_a, D_a)``, 50 a second, in the dtype of the weights.
            video: tokens ``(B, T_v, D_v)``, 25 a second, in the same dtype.

        Returns:
            Tokens ``(B, T, D_a + D_v)`` and the clips' lengths. T is at least 1 even where no clip has a frame;
            positions beyond the lengths are to be masked by the caller.
        """
        lengths = torch.where(video.lengths > 0, video.lengths, audio.lengths // 2)
        size = max(int(lengths.max()), 1)
        halved = self.downsample(fit(audio, 2 * size).transpose(1, 2)).transpose(1, 2)
        heard = length_mask((audio.lengths + 1) // 2, size).unsqueeze(-1)
        # Without audio not even the convolution's bias: absence looks the same for video and for audio.
        halved = halved.masked_fill(~heard, 0)
        return Features(torch.cat([halved, fit(video, size)], dim=-1), lengths)
