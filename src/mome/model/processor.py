"""Clips and transcripts to padded tensors, token ids back to text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin, WhisperFeatureExtractor

from mome.encoders.avhubert.pixels import mouth_pixels
from mome.encoders.logmel import log_mel
from mome.encoders.whisper import AudioContext
from mome.errors import MomeError
from mome.media.clip import Clip
from mome.model.config import MomeConfig

IGNORED_LABEL = -100


class MomeProcessor(ProcessorMixin):
    """Whisper's feature extractor, the mouth-pixel format and the language model's tokenizer in one.

    Args:
        feature_extractor: its window must fit the audio encoder (30 s for published Whisper).
        tokenizer: the language model's.
        audio_context: as in :class:`~mome.encoders.WhisperAudioEncoder`.
        image_size, image_mean, image_std: as in :class:`~mome.encoders.AVHubertConfig`.
    """

    def __init__(
        self,
        feature_extractor: WhisperFeatureExtractor,
        tokenizer: PreTrainedTokenizerBase,
        audio_context: AudioContext = "window",
        image_size: int = 88,
        image_mean: float = 0.421,
        image_std: float = 0.165,
    ):
        super().__init__(feature_extractor, tokenizer)
        self.audio_context: AudioContext = audio_context
        self.image_size = image_size
        self.image_mean = image_mean
        self.image_std = image_std

    @classmethod
    def for_config(
        cls,
        config: MomeConfig,
        tokenizer: PreTrainedTokenizerBase,
        feature_extractor: WhisperFeatureExtractor | None = None,
    ) -> MomeProcessor:
        """The processor that fits a model's configuration."""
        if feature_extractor is None:
            feature_extractor = WhisperFeatureExtractor()
        video = config.video_config
        if video is None:
            return cls(feature_extractor, tokenizer, config.audio_context)
        return cls(
            feature_extractor,
            tokenizer,
            config.audio_context,
            video.image_size,
            video.image_mean,
            video.image_std,
        )

    @classmethod
    def get_attributes(cls) -> list[str]:
        """The parts that have files of their own."""
        return ["feature_extractor", "tokenizer"]

    def audio(self, waveform: np.ndarray) -> tuple[np.ndarray, int]:
        """``(samples,)`` float32 at 16 kHz → ``(mel_bins, frames)`` float32 and the number of real frames."""
        return log_mel(waveform, self.feature_extractor, self.audio_context)

    def video(self, mouth: np.ndarray, offset: tuple[int, int] | None = None, flip: bool = False) -> np.ndarray:
        """``(T, 96, 96)`` uint8 → ``(T, image_size, image_size)`` float32."""
        return mouth_pixels(mouth, self, offset, flip)

    def __call__(
        self,
        clips: Sequence[Clip],
        text: Sequence[str] | None = None,
        *,
        audio: bool = True,
        video: bool = True,
    ) -> BatchFeature:
        """Make the model's inputs for a batch of clips.

        Args:
            clips: clips that have every modality asked for.
            text: their transcripts, for training.
            audio, video: which modalities to prepare.

        Returns:
            ``input_features (B, mel_bins, M)`` with ``input_features_mask (B, M)``,
            ``pixel_values_videos (B, T, H, W)`` with ``pixel_values_videos_mask (B, T)``, and ``labels (B, S)``.

        Raises:
            MomeError: a clip lacks a modality that is asked for, or is too long.
        """
        batch: dict[str, Tensor] = {}
        if audio:
            waves = [self._need(clip.audio, clip, "sound") for clip in clips]
            batch |= self.pad_audio([self.audio(wave) for wave in waves])
        if video:
            mouths = [self._need(clip.mouth, clip, "visible mouth") for clip in clips]
            batch |= self.pad_video([self.video(mouth) for mouth in mouths])
        if text is not None:
            batch["labels"] = self.labels(text)
        return BatchFeature(batch)

    @staticmethod
    def _need(value: np.ndarray | None, clip: Clip, what: str) -> np.ndarray:
        if value is None:
            raise MomeError(f"{clip.path or 'the clip'} has no {what}: choose a task that does not need it")
        return value

    @staticmethod
    def pad_audio(items: Sequence[tuple[np.ndarray, int]]) -> dict[str, Tensor]:
        """Pad log-mel frames ``(mel_bins, M_i)`` with zeros to a batch with its mask."""
        longest = max(mel.shape[1] for mel, _ in items)
        features = np.stack([np.pad(mel, ((0, 0), (0, longest - mel.shape[1]))) for mel, _ in items])
        frames = torch.tensor([frames for _, frames in items])
        return {
            "input_features": torch.from_numpy(features.astype(np.float32)),
            "input_features_mask": torch.arange(longest) < frames[:, None],
        }

    @staticmethod
    def pad_video(items: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """Pad normalised frames ``(T_i, H, W)`` with zeros to a batch with its mask."""
        frames = torch.tensor([len(item) for item in items])
        longest = int(frames.max())
        pixels = np.stack([np.pad(item, ((0, longest - len(item)), (0, 0), (0, 0))) for item in items])
        return {
            "pixel_values_videos": torch.from_numpy(pixels.astype(np.float32)),
            "pixel_values_videos_mask": torch.arange(longest) < frames[:, None],
        }

    def labels(self, text: Sequence[str]) -> Tensor:
        """``(B, S)`` int64 transcript ids, each with an end token, padded with -100."""
        eos = [self.tokenizer.eos_token_id]
        rows = [torch.tensor(self.tokenizer(line, add_special_tokens=False).input_ids + eos) for line in text]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORED_LABEL)

    def decode_text(self, ids: Tensor) -> list[str]:
        """``(B, S)`` token ids → transcripts."""
        return [line.strip() for line in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]
