"""What became of a published recogniser's tensors, and the model card that says so."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from mome.checkpoints.folder import INSIDE
from mome.config import MomeConfig
from mome.config.fields import BACKBONES
from mome.convert.account import Account, Unused
from mome.convert.avsr_names import HEAD, PROMPTS, pretraining_only

LICENSE = (
    "that of the checkpoint and of its backbones; AV-HuBERT's weights are for non-commercial research only, "
    "Llama's come under Meta's community licence"
)

TITLES = {
    "llama-avsr": "Llama-AVSR",
    "llama-mtsk": "Llama-MTSK",
    "omni-avsr": "Omni-AVSR",
    "llama-smop": "Llama-SMoP",
}
SOURCES = {
    "llama-avsr": "https://github.com/umbertocappellazzo/Llama-AVSR",
    "llama-mtsk": "https://github.com/umbertocappellazzo/Omni-AVSR",
    "omni-avsr": "https://github.com/umbertocappellazzo/Omni-AVSR",
    "llama-smop": "https://github.com/umbertocappellazzo/Dr-SHAP-AV",
}
"""Where the systems' code was published."""

_CARD = """---
license: other
tags: [audio-visual-speech-recognition, lip-reading, mome]
---
# {title}

Converted from `{file}`, a checkpoint of the published code, by `mome convert {kind}`.

{account}

## Use

```bash
mome transcribe clip.mp4 --model this-folder
```

## Source

- File: `{file}`, SHA-256 `{digest}`
- Code of the system: <{source}>

## Licence

This folder holds weights of other people's models or refers to them, and each keeps its own terms: see the licence of
the checkpoint, of the language model and of the encoders. AV-HuBERT's allows non-commercial research only. Read them
before you use this folder or pass it on.
"""


def card(kind: str, checkpoint: Path, account: Account) -> str:
    """The text of README.md for a recogniser made from ``checkpoint``."""
    with checkpoint.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return _CARD.format(
        title=account.model.split(":")[0],
        kind=kind,
        file=checkpoint.name,
        account="\n".join(f"- {line}" for line in account.lines()),
        digest=digest,
        source=SOURCES[kind],
    )


def account_of(system: str, config: MomeConfig, state: Mapping[str, Tensor], notes: list[str]) -> Account:
    """What became of every tensor of ``state`` in a folder with this configuration."""
    kept = dict(state)
    unused = []

    def leave_out(name: str, keys: list[str], reason: str) -> None:
        if keys:
            unused.append(Unused(name, len(keys), reason))
            for key in keys:
                del kept[key]

    leave_out("prompt_*", [key for key in kept if key in PROMPTS], "the embeddings of the prompts' tokens")
    leave_out("video_encoder.*", [key for key in kept if pretraining_only(key)], "for pre-training only")
    if config.text_config.tie_word_embeddings:
        leave_out(HEAD, [key for key in kept if key == HEAD], "the same as the embedding")
    for kind in BACKBONES:
        reference = getattr(config, kind)
        if reference is not None and not reference.startswith(INSIDE):
            prefix = "llm." if kind == "language_model" else f"{kind}."
            stored = (".running_mean", ".running_var")
            frozen = [k for k in kept if k.startswith(prefix) and ".lora_" not in k and not k.endswith(stored)]
            leave_out(f"{prefix}*", frozen, f"in {reference}")
    floating = [value for value in kept.values() if value.is_floating_point()]
    rates = " and ".join(
        f"{side} rates {', '.join(map(str, getattr(config, f'{side}_rates')))}"
        for side in ("audio", "video")
        if getattr(config, f"{side}_rates")
    )
    width, layers = config.text_config.hidden_size, config.text_config.num_hidden_layers
    return Account(
        model=f"{TITLES[system]}: {', '.join(config.tasks)} at {rates}, language model of {layers} layers of width "
        f"{width}",
        used=len(kept),
        parameters=sum(value.numel() for value in floating),
        dtypes=sorted({str(value.dtype).removeprefix("torch.") for value in floating}),
        unused=unused,
        notes=notes,
        license=LICENSE,
    )
