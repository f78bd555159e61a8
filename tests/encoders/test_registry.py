"""An audio encoder that is defined outside the package works like the package's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import Wav2Vec2Config

import mome
from mome import MomeError, MomeForSpeechRecognition, MomeProcessor
from mome.clip import Clip
from mome.encoders import AudioEncoder, audio_encoder, base, encoder_reading
from mome.encoders.waveform import WaveformAudioEncoder
from mome.features import Features
from mome.model.cost import inference_cost
from mome.model.sequence import encoder_frames
from mome.operations import count_operations, meta
from mome.rates import Rates
from tests.model.build import make_config
from tests.tiny import tiny_tokenizer

CONFIG = Wav2Vec2Config(
    hidden_size=24,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=32,
    num_conv_pos_embeddings=8,
    num_conv_pos_embedding_groups=2,
    conv_dim=(12,) * 7,
)
SECOND = Clip(np.random.default_rng(0).standard_normal(16000).astype(np.float32), None, 1.0)


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    for name in ("AUDIO_ENCODERS", "_INPUTS"):
        monkeypatch.setattr(base, name, dict(getattr(base, name)))


def define_relative() -> type[AudioEncoder]:
    class Relative(WaveformAudioEncoder, types=("wav2vec2",)):
        """Another model with the input of WavLM and HuBERT."""

    return Relative


def define_stranger() -> type[AudioEncoder]:
    class Stranger(AudioEncoder, reads="millivolts", types=("wav2vec2",)):
        """The convolutions of wav2vec 2.0 alone, from samples in thousandths."""

        def forward(self, input_features: Tensor, input_features_mask: Tensor | None = None) -> Features:
            rows = [self.encoder.feature_extractor(row)[0].T for row in input_features]
            frames = self.encoder.feature_projection(torch.stack(rows))[0]
            size = input_features.shape[2]
            samples = [size] * len(rows) if input_features_mask is None else input_features_mask.sum(1).tolist()
            lengths = torch.tensor([self.frames(self.encoder.config, count) for count in samples])
            return Features.masked(frames, lengths)

        def example(self, frames: int) -> Tensor:
            return meta(1, 1, 400 + 320 * (frames - 1))

        @staticmethod
        def frames(config: Wav2Vec2Config, samples: int) -> int:
            return max((samples - 400) // 320 + 1, 0)

        @staticmethod
        def frames_per_second(config: Wav2Vec2Config) -> int:
            return 50

        @staticmethod
        def prepare(waveform: np.ndarray, extractor: Any, context: str) -> tuple[np.ndarray, int]:
            return 1000 * waveform[None], len(waveform)

    return Stranger


both = pytest.mark.parametrize("define", [define_relative, define_stranger])


@both
def test_it_is_known_by_the_type_of_its_configuration(define) -> None:
    with pytest.raises(MomeError, match="audio_config is of type wav2vec2, not one of avhubert, hubert, "):
        audio_encoder(CONFIG)
    kind = define()
    assert audio_encoder(CONFIG) is kind


def test_a_subclass_leaves_its_parents_input_alone() -> None:
    assert define_relative().reads == "waveform"
    assert encoder_reading("waveform") is WaveformAudioEncoder


def test_it_is_known_by_its_input() -> None:
    with pytest.raises(MomeError, match=r"audio_input 'millivolts' is unknown: choose one of .*waveform"):
        encoder_reading("millivolts")
    kind = define_stranger()
    assert encoder_reading("millivolts") is kind


@both
def test_it_is_built_counted_costed_saved_and_loaded(define, tmp_path) -> None:
    kind = define()
    torch.manual_seed(0)
    config = make_config(audio_config=CONFIG, video_config=None, video_rates=())
    model, processor = MomeForSpeechRecognition(config), MomeProcessor.for_config(config, tiny_tokenizer())
    assert type(model.audio_encoder) is kind
    assert processor.audio_input == kind.reads
    inputs = processor([SECOND], video=False)
    features = model.encode(**inputs).audio
    assert features.frames.shape == (1, 49, 24)
    assert encoder_frames(config, 1.0) == (49, 0)
    with torch.device("meta"):
        encoder = kind(kind.new(CONFIG)).eval()
    operations = count_operations(lambda: encoder(encoder.example(49)))
    assert inference_cost(config, Rates(4, None), 49, 0, 1).audio_encoder == pytest.approx(operations, rel=0.01)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = mome.load(tmp_path)
    assert type(loaded.model.audio_encoder) is kind
    assert torch.equal(loaded.model.encode(**loaded.processor([SECOND], video=False)).audio.frames, features.frames)
    assert loaded.transcribe(SECOND, rates="4,-", max_new_tokens=2).tokens.audio == 12


def test_a_name_belongs_to_one_class() -> None:
    with pytest.raises(ValueError, match=r"'whisper' is taken by mome\.encoders\.whisper\.WhisperAudioEncoder; choose"):

        class Other(WaveformAudioEncoder, types=("whisper",)):
            pass

    with pytest.raises(ValueError, match=r"'log_mel' is taken by mome\.encoders\.whisper\.WhisperAudioEncoder; choose"):

        class Another(WaveformAudioEncoder, reads="log_mel", types=("wav2vec2",)):
            pass

    assert "wav2vec2" not in base.AUDIO_ENCODERS
