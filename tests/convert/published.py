"""Write golden cases as published files: a flat state dict, and the folders of its backbones."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperModel,
)

from mome.config import DEFAULT_PROMPTS
from mome.convert.avsr import Sources
from mome.encoders.avhubert import AVHubertConfig, AVHubertModel
from tests.conftest import Golden
from tests.model.golden import avhubert_config, listed_rates, prompt_ids, text_config

State = dict[str, Tensor]


def tokenizer_of(golden: Golden) -> PreTrainedTokenizerFast:
    """A tokenizer of words, in which the words of the prompts have the case's ids."""
    llm, prompts = golden.config["llm"], prompt_ids(golden.config)
    words = {number: f"word{number}" for number in range(llm["vocab_size"])}
    for task, ids in prompts.items():  # a prompt of as many tokens as words gives them their names
        named = DEFAULT_PROMPTS[task].replace(".", " .").split()
        for number, word in zip(ids, named, strict=False):
            if word not in words.values():
                words[number] = word
    special = {"bos_token": ("<s>", llm.get("bos_token_id")), "eos_token": ("</s>", llm["eos_token_id"])}
    special = {kind: (word, number) for kind, (word, number) in special.items() if number is not None}
    words |= {number: word for word, number in special.values()}
    vocabulary = {word: number for number, word in words.items()}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=words[10]))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(DEFAULT_PROMPTS[task], " ".join(words[number] for number in ids))
            for task, ids in prompts.items()
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{kind: word for kind, (word, _) in special.items()})


def part(state: State, prefix: str) -> State:
    """The weights below ``prefix`` without their LoRA."""
    return {
        key.removeprefix(prefix): value
        for key, value in state.items()
        if key.startswith(prefix) and ".lora_" not in key
    }


def backbones(golden: Golden, folder: Path, weights: bool = True) -> Sources:
    """Write the folders of the original backbones, with or without their weights."""
    state, config = golden.state, golden.config
    language_model = AutoModelForCausalLM.from_config(text_config(config, added=False))
    own = part(state, "llm.")
    for key in ("model.embed_tokens.weight", "lm_head.weight"):
        own[key] = own[key][: config["llm"]["vocab_size"]]
    language_model.load_state_dict(own)
    made = {"language_model": language_model}
    if "audio_encoder.conv1.weight" in state:
        whisper = WhisperModel(WhisperConfig(**config["whisper"]))
        whisper.encoder.load_state_dict(part(state, "audio_encoder."))
        made["audio_encoder"] = whisper
    if "video_encoder.mask_emb" in state:
        encoder = AVHubertModel(avhubert_config(state, "video_encoder.", config["avhubert"]["heads"]))
        encoder.load_state_dict({k: v for k, v in part(state, "video_encoder.").items() if k in encoder.state_dict()})
        for key, value in encoder.state_dict().items():  # the recogniser's training changed them
            if key.endswith(("running_mean", "running_var")):
                value.add_(0.1)
        made["video_encoder"] = encoder
    for name, model in made.items():
        (model if weights else model.config).save_pretrained(folder / name)
    tokenizer_of(golden).save_pretrained(folder / "language_model")
    rates = {f"{side}_rates": listed_rates(config, side) for side in ("audio", "video") if f"{side}_encoder" in made}
    lora = config.get("lora")
    scale = lora["ALPHA"] / lora["RANK"] if lora else None
    told = {"lora_scale": scale, "top_k": config.get("top_k")}
    return Sources(**{name: str(folder / name) for name in made}, **rates, **told)


def published(golden: Golden, folder: Path, change: dict[str, Tensor | None] | None = None) -> Path:
    """The case's state dict as a file; ``change`` replaces tensors, ``None`` leaves one out."""
    state = golden.state | (change or {})
    path = folder / "published.pth"
    torch.save({key: value for key, value in state.items() if value is not None}, path)
    return path


PROMPT_IDS = {
    "Transcribe speech to text.": [0, 1, 4, 5, 6],
    "Transcribe video to text.": [0, 2, 4, 5, 6],
    "Transcribe speech and video to text.": [0, 1, 3, 2, 4, 5, 6],
}
WIDTH, LAYERS, ROWS, ADDED, HIDDEN, RANK = 16, 2, 24, 5, 12, 2


def random_case(system: str, sides: str = "audio video", tie: bool = True, **options: object) -> Golden:
    """A tiny recogniser with random weights, as a golden case without inputs and outputs.

    ``options`` are ``stack`` (both rates), ``norm``, ``task_specific``, ``shared``, and ``single`` for one projector.
    """
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    stack = options.get("stack")
    llm = {"hidden_size": WIDTH, "intermediate_size": 24, "num_hidden_layers": LAYERS, "num_attention_heads": 2}
    llm |= {"num_key_value_heads": 1, "vocab_size": ROWS, "bos_token_id": ROWS - 2, "eos_token_id": ROWS - 1}
    whisper = {"d_model": WIDTH, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 24}
    whisper |= {"num_mel_bins": 16, "max_source_positions": 100, "decoder_layers": 1, "decoder_attention_heads": 2}
    whisper |= {"decoder_ffn_dim": 24, "vocab_size": 12, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    whisper["decoder_start_token_id"] = 1
    avhubert = AVHubertConfig(
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        resnet_width=2,
        conv_pos=8,
        conv_pos_groups=4,
    )
    rates = (
        {"audio": [4, 16], "video": [2, 5]} if system in ("llama-mtsk", "omni-avsr") else {"audio": [4], "video": [2]}
    )
    if stack:
        rates = {"audio": [stack], "video": [stack]}
    config = {
        "llm": llm,
        "whisper": whisper,
        "avhubert": {"heads": 2},
        "lora": {"RANK": WIDTH // RANK, "ALPHA": 1},
        "prompt_ids": PROMPT_IDS,
        "tie": tie,
    }
    config |= {f"rates_{side}": value for side, value in rates.items()}
    language_model = LlamaForCausalLM(LlamaConfig(**llm | {"vocab_size": ROWS + ADDED}, tie_word_embeddings=tie))
    state = {f"llm.{key}": value for key, value in language_model.state_dict().items()}
    modules: dict[str, torch.nn.Module] = {}
    if "audio" in sides:
        modules["audio_encoder"] = WhisperModel(WhisperConfig(**whisper)).encoder
    if "video" in sides:
        modules["video_encoder"] = AVHubertModel(avhubert)
        state |= {"video_encoder.mask_emb": drawn(104), "video_encoder.label_embs_concat": drawn(8, 4)}
        state |= {"video_encoder.final_proj.weight": drawn(4, WIDTH), "video_encoder.final_proj.bias": drawn(4)}
    for name, module in modules.items():
        state |= {f"{name}.{key}": value for key, value in module.state_dict().items()}
    names = ["audiovisual_proj.experts.0", "audiovisual_proj.experts.1"]
    if system == "llama-smop":
        state["audiovisual_proj.gate.weight"] = drawn(2, WIDTH)
    else:
        listed = system in ("llama-mtsk", "omni-avsr") and not options.get("single")
        names = [
            f"{side}_proj.{i}" if listed else f"{side}_proj"
            for side in sides.split()
            for i in range(len(rates[side]) if listed else 1)
        ]
    for name in names:
        state |= {f"{name}.0.weight": drawn(HIDDEN, WIDTH * (stack or 1)), f"{name}.0.bias": drawn(HIDDEN)}
        state |= {f"{name}.2.weight": drawn(WIDTH, HIDDEN), f"{name}.2.bias": drawn(WIDTH)}
        if options.get("norm"):
            state |= {f"{name}.3.weight": drawn(WIDTH), f"{name}.3.bias": drawn(WIDTH)}
    groups = [""]
    if options.get("task_specific"):
        groups = [".audio", ".video", ".audiovisual"] + (["_shared"] if options.get("shared") else [])
    for layer in range(LAYERS):
        for group in groups:
            for side, width in (("Q", WIDTH), ("V", WIDTH // 2)):
                name = f"llm.model.layers.{layer}.self_attn.lora_"
                state[f"{name}down_{side}{group}.weight"] = drawn(RANK, WIDTH)
                state[f"{name}up_{side}{group}.weight"] = drawn(width, RANK)
    if system == "omni-avsr":
        embedding = state["llm.model.embed_tokens.weight"]
        for side, ids in zip(("audio", "video", "audiovisual"), PROMPT_IDS.values(), strict=True):
            state[f"prompt_{side}"] = embedding[ids][None].clone()
    return Golden({key: value.detach() for key, value in state.items()}, {}, {}, config)
