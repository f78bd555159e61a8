"""Names of the files of a recogniser and of its backbones."""

from __future__ import annotations

from pathlib import Path

from mome.config.fields import BACKBONES

TOKENIZER_FILES: tuple[str, ...] = (  # of any tokenizer
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
)
# Written by save_pretrained of the processor, the tokenizer and the model, and the model card.
CHECKPOINT_FILES: tuple[str, ...] = (
    "config.json",
    "model.safetensors",
    "README.md",
    "NOTICE.md",
    *("processor_config.json", "preprocessor_config.json", "chat_template.jinja"),
    *TOKENIZER_FILES,
    *(f"{part}/*.{kind}" for part in BACKBONES for kind in ("json", "safetensors", "md", "txt", "jinja", "model")),
)


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has files of a tokenizer."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)
