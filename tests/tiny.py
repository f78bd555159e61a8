"""The one tiny random recogniser of the tests: all its parts, and quick on one core."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast, WhisperConfig, WhisperFeatureExtractor

from mome.config import DEFAULT_PROMPTS, MomeConfig
from mome.encoders.avhubert import AVHubertConfig
from mome.model import MomeForSpeechRecognition, MomeProcessor
from mome.text.grid import SLOTS

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
PAD, START, END, UNKNOWN = range(len(SPECIAL))
MEL_BINS, WINDOW_SECONDS = 16, 10
AUDIO_RATES, VIDEO_RATES = (4, 16), (2, 5)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words: those of GRID and of the prompts."""
    words = [word for slot in SLOTS for word in slot]
    words += " ".join(DEFAULT_PROMPTS.values()).lower().replace(".", " .").split()
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys([*SPECIAL, *words]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def tiny_config(tokenizer: PreTrainedTokenizerFast) -> MomeConfig:
    """Two audio and two video rates, an adapter of four routed experts and one shared."""
    return MomeConfig(
        audio_config=WhisperConfig(
            d_model=32,
            encoder_layers=1,
            encoder_attention_heads=2,
            encoder_ffn_dim=48,
            num_mel_bins=MEL_BINS,
            max_source_positions=50 * WINDOW_SECONDS,
        ),
        video_config=AVHubertConfig(
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=48,
            resnet_width=4,
            conv_pos=8,
            conv_pos_groups=4,
            image_size=24,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=48,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            pad_token_id=PAD,
            bos_token_id=START,
            eos_token_id=END,
        ),
        audio_context="clip",
        audio_rates=AUDIO_RATES,
        video_rates=VIDEO_RATES,
        projector_hidden=40,
        adapter={"type": "mome", "routed_experts": 4, "shared_experts": 1, "top_k": 2, "bottleneck": 2},
        prompt_ids={task: tokenizer(prompt).input_ids for task, prompt in DEFAULT_PROMPTS.items()},
        start_ids=[START],
        description="the tests' model is a demonstration model: its weights are random",
    )


def tiny_model(folder: Path, seed: int = 2) -> Path:
    """Write a self-contained checkpoint of a random model and its processor to ``folder``."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    config = tiny_config(tokenizer)
    # A random model seldom ends by itself: let many words end its sentence.
    last = [word for slot in SLOTS[3:] for word in slot][::2]
    config.generation = {"eos_token_id": [END, *tokenizer.convert_tokens_to_ids(last)]}
    model = MomeForSpeechRecognition(config)
    model.save_pretrained(folder)
    extractor = WhisperFeatureExtractor(feature_size=MEL_BINS, chunk_length=WINDOW_SECONDS)
    MomeProcessor.for_config(config, tokenizer, extractor).save_pretrained(folder)
    return folder
