"""Convert fairseq's checkpoints of AV-HuBERT to folders that :class:`AVHubertModel` loads.

Pre-trained files hold the encoder at the top of their ``model`` dictionary, fine-tuned ones (seq2seq, CTC) below a
prefix that ends in ``w2v_model.``, beside a decoder. Sizes are read from the weights' shapes. The number of heads and
everything about the input, which shapes do not show, are read from the file's settings, if it has any.

Weights keep their precision, which is float16 in published files. ``config.json`` says float32, so they are loaded in
float32 by default.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mome.convert.fitting import checked, count_modules, read_size
from mome.convert.unpickle import plain, read_checkpoint
from mome.convert.writing import Account, Unused, check_free, fill_card, new_folder, save_weights
from mome.encoders.avhubert import AVHubertConfig, AVHubertModel
from mome.encoders.avhubert.pixels import FIELD
from mome.errors import MomeError, listed

SOURCE = "https://github.com/facebookresearch/av_hubert"
LICENSE_LINK = f"{SOURCE}/blob/main/LICENSE"
LICENSE = f"Meta's AV-HuBERT licence, non-commercial research only ({LICENSE_LINK})"
NOTICE = f"""Checkpoints of AV-HuBERT that Meta published come under Meta's [AV-HuBERT licence]({LICENSE_LINK}).
It allows non-commercial research only, and forbids, among other things, military use, surveillance and biometric
processing. Whoever passes these weights on must add a copy of that licence and keep this notice:

> AV-HuBERT is licensed under the AV-HuBERT license, Copyright (c) Meta Platforms, Inc. All Rights Reserved.
"""

_CARD = """---
license: other
license_name: av-hubert-license
license_link: {license_link}
tags: [av-hubert, lip-reading, audio-visual-speech-recognition]
---
# {title} encoder

The encoder of `{file}`, an AV-HuBERT checkpoint of fairseq, converted by `mome convert av-hubert`. It gives 25 frames
of features a second for mouth crops, for sound, or for both.

{account}

## Use

```python
from mome.encoders.avhubert import AVHubertModel

model = AVHubertModel.from_pretrained("this-folder").eval()  # float32; dtype="float16" for half the memory
```

or, in a recipe of `mome train`, `model.video_encoder: this-folder`.

## Source

- File: `{file}`, SHA-256 `{digest}`
- Published at <{source}>
- Shi, Hsu, Lakhotia and Mohamed, "Learning Audio-Visual Speech Representation by Masked Multimodal Cluster
  Prediction", ICLR 2022

## Licence

{notice}"""

PRETRAINING = ("mask_emb", "label_embs_concat", "final_proj", "target_glu")
"""Tensors and modules that are for pre-training only."""

NEEDED_SETTINGS: dict[str, Any] = {
    "layer_norm_first": True,
    "modality_fuse": "concat",
    "activation_fn": "gelu",
    "resnet_relu_type": "prelu",
    "sub_encoder_layers": 0,
    "image_crop_size": FIELD,
    "normalize": True,
}
"""Settings, by fairseq's names, that :class:`AVHubertModel` and its input need."""

_INPUT_SETTINGS = ("normalize", "image_crop_size", "image_mean", "image_std")
HEAD_WIDTH = 64  # in both published sizes

_FRONT = "feature_extractor_video."  # in several names of an AV-HuBERT encoder
_MARK = f"{_FRONT}proj.weight"  # in one name
_INNER = "w2v_model."
_LAYER = re.compile(r"encoder\.layers\.(\d{1,3})\.")
_LORA = re.compile(r"\.lora_(down|up)_[QV]\.")
_WIDTH = (r"encoder\.layer.*", 1, 0)  # of most vectors in the layers
_INNER_WIDTH = ((r"encoder\..*\.fc1\..*", 2, 0), (r"encoder\..*\.fc1\..*", 1, 0), (r"encoder\..*\.fc2\..*", 2, 1))
_RESNET_WIDTH = (r"feature_extractor_video\.resnet\.(frontend3D|trunk\.layer1)\..*", 1, 0)
_AUDIO = (r"feature_extractor_audio\.proj\.weight", 2, 1)
_POSITIONAL = r"encoder\.pos_conv\.0\.weight_v"
_NAMES = {(12, 768): "AV-HuBERT Base", (24, 1024): "AV-HuBERT Large"}


@dataclass(frozen=True)
class Encoder:
    """An encoder read from a checkpoint.

    Attributes:
        config: its sizes.
        state: its weights under the names of :class:`AVHubertModel`, in the checkpoint's precision.
        unused: the checkpoint's other tensors.
        notes: lines on assumptions.
    """

    config: AVHubertConfig
    state: Mapping[str, Tensor]
    unused: tuple[Unused, ...]
    notes: tuple[str, ...]


def convert(checkpoint: Path, out: Path) -> Account:
    """Write the encoder of a fairseq checkpoint into a new folder: config.json, model.safetensors and README.md.

    Raises:
        MomeError: the file is missing, unsafe or no AV-HuBERT checkpoint, or ``out`` exists or cannot be written;
            nothing is written then.
    """
    check_free(out)
    content = read_checkpoint(checkpoint)
    state = content.get("model", content)
    try:
        settings = encoder_settings(content)
    except RecursionError as error:
        raise MomeError(f"{checkpoint}: its settings are nested without end") from error
    encoder = read_encoder(state, settings, str(checkpoint))
    account = Account.of(
        describe(encoder.config), encoder.state.values(), encoder.unused, encoder.notes, license=LICENSE
    )
    card = fill_card(_CARD, checkpoint, account, source=SOURCE, license_link=LICENSE_LINK, notice=NOTICE)
    with new_folder(out) as folder:
        encoder.config.save_pretrained(folder)
        save_weights(encoder.state, folder)
        (folder / "README.md").write_text(card, encoding="utf-8")
    return account


def encoder_settings(content: Mapping[Any, Any]) -> dict[str, Any]:
    """Flatten fairseq's settings of the encoder and its input; empty if the file has none.

    A fine-tuned model has its encoder's settings in ``w2v_args``, and those of its input in its own task.
    """
    outer = flat_settings(plain(content.get("cfg"))) or flat_settings(plain(content.get("args")))
    inner = flat_settings(outer.pop("w2v_args", None))
    if not inner:
        return outer
    return inner | {key: outer[key] for key in _INPUT_SETTINGS if key in outer}


def flat_settings(config: object) -> dict[str, Any]:
    """fairseq's settings of a model and its task, without those that are no values or unresolved references."""
    if not isinstance(config, dict):
        return {}
    sections = [config[name] for name in ("model", "task") if isinstance(config.get(name), dict)]
    return {str(key): value for section in sections or [config] for key, value in section.items() if _is_value(value)}


def _is_value(value: object) -> bool:
    if isinstance(value, str):
        return "${" not in value
    return isinstance(value, dict) or (isinstance(value, int | float) and abs(value) < 2**63)


def read_encoder(state: object, settings: Mapping[str, Any], source: str) -> Encoder:
    """Read the encoder from a state dict.

    Args:
        state: tensors by name; the encoder's names have no prefix, or one that ends in ``w2v_model.``.
        settings: from :func:`encoder_settings`.
        source: what messages call the checkpoint.

    Raises:
        MomeError: the encoder is missing, incomplete, or not supported by :class:`AVHubertModel`.
    """
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        raise MomeError(f"{source} is not an AV-HuBERT checkpoint: its model is not a dictionary of named tensors")
    prefix = _prefix(state, source)
    inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    lora = [key for key in inside if _LORA.search(key)]
    if lora:
        raise MomeError(
            f"{source} has LoRA weights inside the encoder ({listed(lora, 1)}): they belong to a whole "
            "recogniser and are not converted alone"
        )
    spare = [key for key in inside if key.split(".")[0] in PRETRAINING]
    weights = {key: value for key, value in inside.items() if key.split(".")[0] not in PRETRAINING}
    config, notes, contradictions = encoder_config(weights, settings, source)
    outside = [key for key in state if not key.startswith(prefix)]
    unused = (*_unused(spare, "", "for pre-training only"), *_unused(outside, prefix, "no part of the encoder"))
    with torch.device("meta"):
        expected = AVHubertModel(config).state_dict()
    state = checked(weights, expected, f"{source} does not fit AV-HuBERT", lambda key: prefix + key, contradictions)
    return Encoder(config, state, unused, tuple(notes))


def _prefix(state: Mapping[str, Any], source: str) -> str:
    found = [key.removesuffix(_MARK) for key in state if key.endswith(_MARK)]
    found = found or list(dict.fromkeys(key.partition(_FRONT)[0] for key in state if _FRONT in key))
    if not found:
        raise MomeError(f"{source} is not an AV-HuBERT checkpoint: it has no {_MARK}")
    if len(found) > 1:
        raise MomeError(f"{source} holds {len(found)} encoders, under {listed(found)}, where one is expected")
    if found[0] and not found[0].endswith(_INNER):
        raise MomeError(
            f"{source} is the checkpoint of a whole recogniser, not of AV-HuBERT (its encoder is under {found[0]}*): "
            "convert it by the command of its system: llama-avsr, llama-mtsk, omni-avsr or llama-smop"
        )
    return found[0]


def encoder_config(
    weights: Mapping[str, Any], settings: Mapping[str, Any], source: str
) -> tuple[AVHubertConfig, list[str], list[str]]:
    """Read the configuration of an encoder from its weights and settings.

    A size is the published one if the weights that show it are missing; :func:`checked` reports them.

    Args:
        weights: of the encoder, by name.
        settings: from :func:`encoder_settings`.
        source: what messages call the checkpoint.

    Returns:
        The configuration, assumptions, and contradictions between settings and weights.

    Raises:
        MomeError: :class:`AVHubertModel` does not support the encoder, or its width or number of heads is unknown.
    """
    for key, needed in NEEDED_SETTINGS.items():
        if settings.get(key, needed) != needed:
            raise MomeError(f"{source} was made with {key}={settings[key]}; only {key}={needed} is supported")
    width = read_size(weights, _WIDTH)
    if width is None:
        raise MomeError(
            f"{source} is not a complete AV-HuBERT encoder: it lacks encoder.layer_norm.weight and all layers"
        )
    group = read_size(weights, (_POSITIONAL, 3, 1)) or 0
    sizes = {
        "encoder_layers": count_modules(int(match[1]) for match in map(_LAYER.match, weights) if match),
        "encoder_embed_dim": width,
        "encoder_ffn_embed_dim": read_size(weights, *_INNER_WIDTH) or 4 * width,
        "conv_pos": read_size(weights, (_POSITIONAL, 3, 2)) or 128,
        "conv_pos_groups": width // group if group and width % group == 0 else math.gcd(width, 16),
        "audio_feat_dim": read_size(weights, _AUDIO) or 104,
    }
    contradictions = [
        f"{key} is {settings[key]} by its settings and {size} by its weights"
        for key, size in sizes.items()
        if settings.get(key, size) != size
    ]
    heads = settings.get("encoder_attention_heads", width // HEAD_WIDTH)
    if not isinstance(heads, int) or heads < 1 or width % heads:
        raise MomeError(f"{source} does not show its number of attention heads: {heads} do not fit width {width}")
    assumed = [] if "encoder_attention_heads" in settings else [f"{heads} heads of {HEAD_WIDTH}"]
    assumed += [] if "layer_norm_first" in settings else ["norms before the layers"]
    config = AVHubertConfig(
        hidden_size=width,
        num_hidden_layers=sizes["encoder_layers"],
        num_attention_heads=heads,
        intermediate_size=sizes["encoder_ffn_embed_dim"],
        resnet_width=read_size(weights, _RESNET_WIDTH) or 64,
        conv_pos=sizes["conv_pos"],
        conv_pos_groups=sizes["conv_pos_groups"],
        audio_feature_size=sizes["audio_feat_dim"],
        architectures=[AVHubertModel.__name__],
        dtype="float32",
        notice=NOTICE,
        **_fractions(settings),
    )
    notes = [f"not in the file, so assumed: {', '.join(assumed)}"] if assumed else []
    return config, notes, contradictions


def _fractions(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of input and dropout, under the names of the configuration."""
    names = {
        "image_mean": "image_mean",
        "image_std": "image_std",
        "dropout": "dropout",
        "attention_dropout": "attention_dropout",
        "dropout_input": "input_dropout",
        "encoder_layerdrop": "layerdrop",
    }
    values = {name: settings.get(key) for key, name in names.items()}
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}


def _unused(keys: list[str], prefix: str, reason: str) -> Iterator[Unused]:
    """Group unused names by module, or by sub-module where the encoder is in the same module."""
    shared = prefix.split(".")[0] + "." if prefix else None
    groups = Counter(".".join(key.split(".")[: 2 if shared and key.startswith(shared) else 1]) for key in keys)
    for name, tensors in groups.items():
        yield Unused(name if name in keys else f"{name}.*", tensors, reason)


def describe(config: AVHubertConfig) -> str:
    """A line that describes an encoder's sizes."""
    name = _NAMES.get((config.num_hidden_layers, config.hidden_size), "AV-HuBERT of its own size")
    return (
        f"{name}: {config.num_hidden_layers} layers of width {config.hidden_size} (inner width "
        f"{config.intermediate_size}), {config.num_attention_heads} heads, positional convolution over "
        f"{config.conv_pos} frames, ResNet-18 of width {config.resnet_width}"
    )
