"""Write files as MMS-LLaMA's training does, with random weights, and the folders of its backbones."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, WhisperConfig, WhisperModel

from mome.convert.mms import Sources
from mome.encoders.avhubert import AVHubertConfig, AVHubertModel
from tests.convert.fairseq import container, save

WIDTH, LAYERS, INNER, RANK, PER_SECOND = 16, 2, 24, 2, 1
SETTINGS = {
    "_name": "MMS-LLaMA",
    "use_qformer": True,
    "window_level": False,
    "modality_fuse": "concat",
    "use_sr_predictor": True,
    "queries_per_sec": PER_SECOND,
    "lora_rank": RANK,
    "lora_alpha": 6,
    "w2v_args": {"model": {"_name": "av_hubert", "encoder_layers": 2}},
}
INSTRUCTION = "Recognize this speech in English. Input :"
WORDS = ["<s>", "</s>", "<unk>", *INSTRUCTION.split(), "hello", "world"]


def linear(name: str, out: int, inside: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, inside), f"{name}.bias": (out,)}


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def trained_shapes(
    width: int = WIDTH,
    llm: int = WIDTH,
    values: int = WIDTH // 2,
    layers: int = LAYERS,
    inner: int = INNER,
    rank: int = RANK,
    per_second: int = PER_SECOND,
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what is trained, by the original's code, where all encoders are as wide as the Q-Former.

    Args:
        width: of the Q-Former, which has ``LAYERS`` layers.
        llm: width of the language model.
        values: width of its keys and values.
        layers: of the language model.
        inner: feed-forward width of the Q-Former.
        rank: of the LoRA.
        per_second: queries for a second.
    """
    shapes: dict[str, tuple[int, ...]] = {"query_tokens": (1, 40 * per_second, width)}
    shapes |= {"afeat_1d_conv.weight": (width, width, 2), "afeat_1d_conv.bias": (width,)}
    middle = (width + llm) // 2
    shapes |= linear("avfeat_to_llm.layers.0", middle, width) | linear("avfeat_to_llm.layers.1", llm, middle)
    bert = "Qformer.bert.embeddings"
    shapes |= {f"{bert}.word_embeddings.weight": (9, width), f"{bert}.position_embeddings.weight": (9, width)}
    shapes |= norm(f"{bert}.LayerNorm", width)
    for layer in range(LAYERS):
        name = f"Qformer.bert.encoder.layer.{layer}"
        for attention, read in (("attention", width), ("crossattention", 2 * width)):
            for part, inside in (("query", width), ("key", read), ("value", read)):
                shapes |= linear(f"{name}.{attention}.self.{part}", width, inside)
            shapes |= linear(f"{name}.{attention}.output.dense", width, width)
            shapes |= norm(f"{name}.{attention}.output.LayerNorm", width)
        for kind in ("", "_query"):
            shapes |= linear(f"{name}.intermediate{kind}.dense", inner, width)
            shapes |= linear(f"{name}.output{kind}.dense", width, inner) | norm(f"{name}.output{kind}.LayerNorm", width)
    shapes |= linear("Qformer.cls.predictions.transform.dense", width, width) | {"Qformer.cls.predictions.bias": (9,)}
    for layer in range(layers):
        for part, out in (("q", llm), ("k", values), ("v", values), ("o", llm)):
            name = f"llama.model.layers.{layer}.self_attn.{part}_proj"
            shapes |= {f"{name}.lora_A.default.weight": (rank, llm), f"{name}.lora_B.default.weight": (out, rank)}
            shapes |= {f"{name}.base_layer.weight.absmax": (4,), f"{name}.base_layer.weight.quant_map": (16,)}
    return shapes


def predictor_shapes(audio: int = WIDTH) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the speech-rate predictor for audio features of this width, by the original's code."""
    width, inner = 256, 1024
    shapes: dict[str, tuple[int, ...]] = {"sr_token": (1, 1, width)} | linear("linear", width, audio)
    kernel = {"bias": (width,), "weight_g": (1, 1, 128), "weight_v": (width, width // 16, 128)}
    shapes |= {f"encoder.pos_conv.0.{name}": shape for name, shape in kernel.items()}
    for layer in range(2):
        name = f"encoder.layers.{layer}"
        for part in ("k", "v", "q", "out"):
            shapes |= linear(f"{name}.self_attn.{part}_proj", width, width)
        shapes |= linear(f"{name}.fc1", inner, width) | linear(f"{name}.fc2", width, inner)
        shapes |= norm(f"{name}.self_attn_layer_norm", width) | norm(f"{name}.final_layer_norm", width)
    return shapes | norm("encoder.layer_norm", width) | linear("sr_predictor", 1, width)


def drawn(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {key: 0.1 * torch.randn(shape, generator=generator) for key, shape in shapes.items()}


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>")


def backbones(folder: Path) -> dict[str, str]:
    """Write the folders of the frozen backbones."""
    torch.manual_seed(0)
    llama = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    whisper = WhisperConfig(
        d_model=WIDTH,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=INNER,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=INNER,
        num_mel_bins=16,
        max_source_positions=100,
        vocab_size=12,
        **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1},
    )
    avhubert = AVHubertConfig(
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=INNER,
        resnet_width=2,
        conv_pos=8,
        conv_pos_groups=4,
    )
    made = {
        "language_model": LlamaForCausalLM(llama),
        "audio_encoder": WhisperModel(whisper),
        "video_encoder": AVHubertModel(avhubert),
    }
    for name, model in made.items():
        model.save_pretrained(folder / name)
    tokenizer().save_pretrained(folder / "language_model")
    return {name: str(folder / name) for name in made}


def state(folder: Path) -> dict[str, Tensor]:
    """The weights in the checkpoint; the statistics of AV-HuBERT's batch norms are not those of its folder."""
    found = drawn(trained_shapes(), seed=1) | {"Qformer.bert.embeddings.position_ids": torch.arange(9)[None]}
    for key, value in AVHubertModel.from_pretrained(folder / "video_encoder").named_buffers():
        found[f"avhubert.w2v_model.{key}"] = value + 1
    return found


def predictor() -> dict[str, Tensor]:
    return {f"sr_predictor.{key}": value for key, value in drawn(predictor_shapes(), seed=2).items()}


def published(
    foreign: dict[str, type], folder: Path, change: dict[str, Tensor | None] | None = None, **settings: object
) -> tuple[Path, Sources]:
    """Write both files and the backbones; ``change`` replaces tensors, ``None`` leaves one out."""
    sources = backbones(folder)
    weights = {key: value for key, value in (state(folder) | (change or {})).items() if value is not None}
    path = save(container(foreign, weights, SETTINGS | settings, {"_name": "MMS_LLaMA_training"}), folder / "best.pt")
    rate = save(container(foreign, predictor(), None, None), folder / "rate.pt")
    return path, Sources(**sources, speech_rate=rate)
