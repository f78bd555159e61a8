"""From clips and transcripts to padded tensors, and from token ids back to text.

Shape notation: B clips, C channels and M frames of the audio encoder's input, T video frames, S transcript tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    AutoFeatureExtractor,
    BatchFeature,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    SequenceFeatureExtractor,
    Wav2Vec2FeatureExtractor,
)

from mome.checkpoints.backbones import load_tokenizer
from mome.checkpoints.folder import INSIDE, part_folder
from mome.checkpoints.names import has_tokenizer
from mome.checkpoints.settings import blaming
from mome.checkpoints.vocabulary import prepare_padding
from mome.clip import MOUTH_SIZE, SAMPLE_RATE, Clip
from mome.config import MomeConfig
from mome.config.fields import Compatibility
from mome.encoders import AudioContext, encoder_reading
from mome.encoders.avhubert.pixels import mouth_pixels
from mome.errors import MomeError
from mome.features import length_mask
from mome.model.compat import official_audio_frames, official_log_mel, official_sound
from mome.model.objective import IGNORED_LABEL

IMAGE = ("image_size", "image_mean", "image_std")
"""Settings that the processor and the video encoder's configuration share."""
_TRIAL_SAMPLES = SAMPLE_RATE // 10


class MomeProcessor(ProcessorMixin):
    """Combines the audio encoder's feature extractor, the format of mouth pixels and the language model's tokenizer.

    With ``compat="official"``, as an argument or in a file, the object is an :class:`OfficialProcessor`.

    Args:
        feature_extractor: the audio encoder's. Whisper's window must fit the encoder (30 s for the published ones).
        tokenizer: the language model's.
        audio_context: as in :class:`~mome.encoders.whisper.WhisperAudioEncoder`.
        image_size, image_mean, image_std: as in :class:`~mome.encoders.avhubert.AVHubertConfig`.
        audio_input: the audio encoder's input, such as ``"log_mel"``.
        compat: as in :class:`~mome.config.MomeConfig`.
        video_multiple: with the official arithmetic, videos are cut to a multiple of this number of frames.
        bos_taught: whether labels begin with the tokenizer's start token.
        precision: the model's dtype, which the official arithmetic depends on; not saved.
    """

    def __new__(cls, *parts: Any, compat: Compatibility | None = None, **settings: Any) -> MomeProcessor:
        """Choose the class by ``compat``, so that saved files always name this class."""
        return super().__new__(OfficialProcessor if compat == "official" else cls)

    def __init__(
        self,
        feature_extractor: SequenceFeatureExtractor,
        tokenizer: PreTrainedTokenizerBase,
        audio_context: AudioContext = "window",
        image_size: int = 88,
        image_mean: float = 0.421,
        image_std: float = 0.165,
        audio_input: str = "log_mel",
        compat: Compatibility | None = None,
        video_multiple: int = 1,
        bos_taught: bool = False,
        precision: torch.dtype = torch.float32,
    ):
        ProcessorMixin.__init__(self, feature_extractor, tokenizer)
        self.audio_context: AudioContext = audio_context
        self.image_size = image_size
        self.image_mean = image_mean
        self.image_std = image_std
        self.audio_input = audio_input
        self.compat: Compatibility | None = compat
        self.video_multiple = video_multiple
        self.bos_taught = bos_taught
        self.precision = precision

    @classmethod
    def for_config(
        cls,
        config: MomeConfig,
        tokenizer: PreTrainedTokenizerBase,
        feature_extractor: SequenceFeatureExtractor | None = None,
    ) -> MomeProcessor:
        """Make the processor that fits a model's configuration."""
        encoder = config.audio_encoder_class or encoder_reading("log_mel")
        if feature_extractor is None:  # Transformers requires one even if the encoder needs none
            feature_extractor = (encoder.extractor or Wav2Vec2FeatureExtractor)()
        image = {} if config.video_config is None else {name: getattr(config.video_config, name) for name in IMAGE}
        settings = {"audio_context": config.audio_context, "audio_input": encoder.reads, **image, **_official(config)}
        return cls(feature_extractor, tokenizer, **settings)

    @classmethod
    def from_folder(
        cls, folder: Path, config: MomeConfig, precision: torch.dtype = torch.float32, **hub: Any
    ) -> MomeProcessor:
        """Load the processor of a model folder and try it on a short clip, because its files may hold anything.

        Args:
            folder: a folder with the processor's files; without a tokenizer's, that of the language model is taken.
            config: the model's configuration; its ``compat`` overrides that of the files.
            precision: the model's dtype.
            hub: for the language model's tokenizer, as for :func:`mome.checkpoints.folder.model_folder`.

        Raises:
            MomeError: the files are missing or damaged, or do not fit the model.
        """
        with blaming(f"the processor files of {folder}", "are missing or damaged"):
            if has_tokenizer(folder):
                read = cls.from_pretrained(folder, trust_remote_code=False)
            else:
                tokenizer = _language_models_tokenizer(folder, config, hub)
                extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=False)
                read = cls.from_args_and_dict([extractor, tokenizer], cls.get_processor_dict(folder)[0])
            settings = {name: getattr(read, name) for name in ("audio_context", "audio_input", "bos_taught", *IMAGE)}
            settings |= {**_official(config), "precision": precision}
            processor = cls(read.feature_extractor, read.tokenizer, **settings)
            processor._check(config, folder)
            if config.audio_config is not None:
                processor.pad_audio([processor.audio(np.zeros(_TRIAL_SAMPLES, np.float32))])
            if config.video_config is not None:
                mouth = np.zeros((processor.video_multiple, MOUTH_SIZE, MOUTH_SIZE), np.uint8)
                processor.pad_video([processor.video(mouth)])
            processor.decode_text(processor.labels([""]))
        return processor

    def _check(self, config: MomeConfig, folder: Path) -> None:
        """Raise :class:`MomeError` if a setting does not fit the model's encoders or language model."""
        settings: dict[str, tuple[Any, Any]] = {}  # by name, the processor's and the model's
        audio, video, extractor = config.audio_config, config.video_config, self.feature_extractor
        if (encoder := config.audio_encoder_class) is not None:
            settings["audio_input"] = (self.audio_input, encoder.reads)
            settings["audio_context"] = (self.audio_context, config.audio_context)
            settings["sampling_rate"] = (getattr(extractor, "sampling_rate", SAMPLE_RATE), SAMPLE_RATE)
            if needed := encoder.extractor_settings(audio):
                settings["feature_extractor_type"] = (type(extractor), encoder.extractor)
            settings |= {name: (getattr(extractor, name, None), value) for name, value in needed.items()}
        if video is not None:
            settings |= {name: (getattr(self, name), getattr(video, name)) for name in IMAGE}
        for name, (found, fitting) in settings.items():
            if found != fitting:
                raise MomeError(f"{folder}: {name} of its processor is {found!r:.60}, its model needs {fitting!r:.60}")
        raw = self.audio_input == "log_mel" and getattr(extractor, "do_normalize", None) is False
        if self.compat is not None and raw:
            raise MomeError(
                f"compat=official is the arithmetic of systems that normalise the sound, and the one in {folder} does "
                "not: leave it out"
            )
        tokens, size = self.tokenizer.eos_token_id, config.text_config.vocab_size + config.added_tokens
        if tokens is None or tokens >= size:
            raise MomeError(f"{folder}: its tokenizer has no end token among the language model's {size} tokens")

    def to_dict(self) -> dict[str, Any]:
        """Settings to save; newer ones only if they differ from their defaults, so that older files stay the same."""
        newer = {"audio_input": "log_mel", "compat": None, "video_multiple": 1, "bos_taught": False}
        settings: dict[str, Any] = super().to_dict()
        del settings["precision"]
        return {key: value for key, value in settings.items() if key not in newer or value != newer[key]}

    @property
    def longest_audio(self) -> float | None:
        """Seconds of sound that fit the audio encoder's window; ``None`` if it has no window."""
        return encoder_reading(self.audio_input).window(self.feature_extractor)

    @classmethod
    def get_attributes(cls) -> list[str]:
        """Names of the parts that Transformers saves in their own files."""
        return ["feature_extractor", "tokenizer"]

    def audio(self, waveform: np.ndarray) -> tuple[np.ndarray, int]:
        """Make the audio encoder's input: ``(samples,)`` float32 at 16 kHz → ``(C, M)`` float32.

        C is Whisper's number of mel bins, 1 for a waveform, or the size of AV-HuBERT's filterbank features.

        Returns:
            The input, and how many of the M frames are not padding.
        """
        encoder = encoder_reading(self.audio_input)
        return encoder.prepare(waveform, self.feature_extractor, self.audio_context)

    def own_frames(self, samples: int) -> int | None:
        """Audio frames of a clip by itself, if an encoder's output also has those of its batch's padding."""
        return None

    def sound(self, clip: Clip, beside_video: bool) -> np.ndarray:
        """The clip's waveform, ``(samples,)``; ``beside_video``: whether its video is read too."""
        return self._need(clip.audio, clip, "sound")

    def video(self, mouth: np.ndarray, offset: tuple[int, int] | None = None, flip: bool = False) -> np.ndarray:
        """Make the video encoder's input: ``(T, 96, 96)`` uint8 → ``(T, image_size, image_size)`` float32.

        Args:
            mouth: pictures of the mouth.
            offset: top and left of the crop; the centre by default.
            flip: whether to mirror the pictures.
        """
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
            clips: B clips that have every modality asked for.
            text: B transcripts, for training.
            audio, video: the modalities to prepare.

        Returns:
            ``input_features (B, C, M)`` with ``input_features_mask (B, M)``,
            ``pixel_values_videos (B, T, H, W)`` with ``pixel_values_videos_mask (B, T)``, and ``labels (B, S)``.

        Raises:
            MomeError: a clip lacks a modality that is asked for, or is too long.
        """
        batch: dict[str, Tensor] = {}
        if audio:
            waves = [self.sound(clip, video) for clip in clips]
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

    def pad_audio(self, items: Sequence[tuple[np.ndarray, int]]) -> dict[str, Tensor]:
        """Pad audio features ``(C, M_i)`` with zeros to a batch with its mask."""
        longest = max(mel.shape[1] for mel, _ in items)
        features = np.stack([np.pad(mel, ((0, 0), (0, longest - mel.shape[1]))) for mel, _ in items])
        frames = torch.tensor([frames for _, frames in items])
        return {
            "input_features": torch.from_numpy(features.astype(np.float32)),
            "input_features_mask": self._mask(frames, longest),
        }

    def pad_video(self, items: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """Pad normalised frames ``(T_i, H, W)`` with zeros to a batch with its mask."""
        frames = torch.tensor([len(item) for item in items])
        longest = int(frames.max())
        pixels = np.stack([np.pad(item, ((0, longest - len(item)), (0, 0), (0, 0))) for item in items])
        return {
            "pixel_values_videos": torch.from_numpy(pixels.astype(np.float32)),
            "pixel_values_videos_mask": self._mask(frames, longest),
        }

    def _mask(self, frames: Tensor, size: int) -> Tensor:
        """``(B, size)`` bool, true on each clip's frames, false on padding."""
        return length_mask(frames, size)

    def labels(self, text: Sequence[str]) -> Tensor:
        """``(B, S)`` int64 ids of transcripts with end tokens, right-padded with -100."""
        bos, eos = [self.tokenizer.bos_token_id] * self.bos_taught, [self.tokenizer.eos_token_id]
        rows = [torch.tensor(bos + self.tokenizer(line, add_special_tokens=False).input_ids + eos) for line in text]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORED_LABEL)

    def decode_text(self, ids: Tensor) -> list[str]:
        """``(B, S)`` token ids → B transcripts."""
        return [line.strip() for line in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]


class OfficialProcessor(MomeProcessor):
    """Prepares clips as the published systems' code does (docs/compat.md); chosen by ``compat="official"``."""

    def sound(self, clip: Clip, beside_video: bool) -> np.ndarray:
        """The clip's waveform, cut or padded to the length of the video if that is read too."""
        wave = super().sound(clip, beside_video)
        return official_sound(wave, len(self._need(clip.mouth, clip, "visible mouth"))) if beside_video else wave

    def own_frames(self, samples: int) -> int | None:
        """Whisper's frames as the official code counts them."""
        return official_audio_frames(samples) if self.audio_input == "log_mel" else None

    def audio(self, waveform: np.ndarray) -> tuple[np.ndarray, int]:
        """As the base class; Whisper's frames are counted in bfloat16, and computed in it if ``precision`` is that."""
        features, frames = super().audio(waveform)
        if self.audio_input == "log_mel":
            frames = min(2 * official_audio_frames(len(waveform)), features.shape[1])
            if self.precision == torch.bfloat16:
                features = official_log_mel(waveform, self.feature_extractor)
        return features, frames

    def video(self, mouth: np.ndarray, offset: tuple[int, int] | None = None, flip: bool = False) -> np.ndarray:
        """As the base class, without the last frames that do not fill a ``video_multiple``."""
        kept = len(mouth) // self.video_multiple * self.video_multiple
        return super().video(mouth[: kept or len(mouth)], offset, flip)

    def _mask(self, frames: Tensor, size: int) -> Tensor:
        """``(B, size)`` bool, true up to the longest clip's end, because the official code passes no masks."""
        return super()._mask(frames.max().expand(len(frames)), size)


OfficialProcessor.__name__ = MomeProcessor.__name__  # saved files name the class that loads them


def _language_models_tokenizer(folder: Path, config: MomeConfig, hub: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    """The tokenizer of the language model that a model folder without one refers to, as training prepares it."""
    reference = config.language_model
    if reference is None:
        raise MomeError(f"{folder} has no tokenizer, and names no language model with one: copy or download it again")
    if config.added_tokens or config.audio_markers or config.video_markers:
        raise MomeError(
            f"{folder} has no tokenizer, and that of {reference} lacks the tokens that the model adds: "
            "copy or download it again"
        )
    where = part_folder(folder, reference, "language_model") if reference.startswith(INSIDE) else reference
    tokenizer = load_tokenizer(where, config.language_model_revision, **hub)
    prepare_padding(tokenizer)
    return tokenizer


def _official(config: MomeConfig) -> dict[str, Any]:
    """The processor's settings that follow the configuration's ``compat``."""
    # The official stacking of video alone takes no remainder of frames, so its data loader drops it.
    stacked = config.compat == "official" and config.compression == "stack" and len(config.video_rates) == 1
    stacked = stacked and not config.connector_config.fuses
    return {"compat": config.compat, "video_multiple": config.video_rates[0] if stacked else 1}
