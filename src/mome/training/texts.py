"""Tokens of a recipe's texts: what stands before the audio and video tokens, and the tasks' prompts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import PreTrainedTokenizerBase

from mome.checkpoints.backbones import load_tokenizer
from mome.checkpoints.hub import TOKENIZER_FILES
from mome.checkpoints.settings import blaming, check_settings
from mome.checkpoints.source import local_folder
from mome.config import MomeConfig
from mome.config.fields import MOST_TOKENS
from mome.errors import MomeError
from mome.model import MomeProcessor

if TYPE_CHECKING:
    from mome.training.recipe import ModelRecipe


def write_texts(config: MomeConfig, model: ModelRecipe, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write the token ids of the start and of the prompts into the configuration.

    Raises:
        MomeError: the recipe asks for a start token that the tokenizer does not have, or a text is too long.
    """
    for option in ("bos", "bos_taught"):
        if getattr(model, option) and tokenizer.bos_token_id is None:
            raise MomeError(f"the tokenizer of {model.language_model} has no start token: leave out model.{option}")

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False).input_ids if text else []

    config.start_ids = [tokenizer.bos_token_id] * model.bos + ids(model.instruction)
    config.prompt_ids = {task: ids(text) for task, text in config.prompts.items()}
    _check_lengths(config)


def guess_texts(config: MomeConfig, model: ModelRecipe) -> None:
    """Write as many tokens as the texts have words and marks, where the tokenizer is not at hand.

    Those are mostly tokens of their own in the language models there are.

    Raises:
        MomeError: a text is too long.
    """

    def words(text: str) -> list[str]:
        return re.findall(r"\w+|[^\w\s]", text)

    config.start_ids = ["BOS"] * model.bos + words(model.instruction)
    config.prompt_ids = {task: words(text) for task, text in config.prompts.items()}
    _check_lengths(config)


def _check_lengths(config: MomeConfig) -> None:
    """Refuse what could be trained, but neither saved nor used: the configuration was made before its tokens."""
    texts = {"model.instruction": config.start_ids}
    texts |= {f"model.prompts.{task}": ids for task, ids in config.prompt_ids.items()}
    positions = getattr(config.text_config, "max_position_embeddings", None)
    for key, ids in texts.items():
        if len(ids) > MOST_TOKENS:
            raise MomeError(f"{key} has {len(ids)} tokens, more than the {MOST_TOKENS} possible: shorten it")
        fed = len(ids) if ids is config.start_ids else len(config.start_ids) + len(ids)
        if positions is not None and fed >= positions:
            with_start = "" if fed == len(ids) else " with model.instruction"
            raise MomeError(
                f"{key}{with_start} has {fed} tokens, and the language model holds {positions} in all, "
                "the clip and its transcript included: shorten it"
            )


def find_tokenizer(language_model: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a language model by itself, or of the checkpoint that it is a part of.

    Raises:
        MomeError: it is not to be had, or damaged.
    """
    whole = processor_around(language_model)
    return whole.tokenizer if whole is not None else load_tokenizer(language_model, revision)


def local_tokenizer(language_model: str) -> PreTrainedTokenizerBase | None:
    """The same where the language model is a folder that has one; ``None`` otherwise, and the hub is not asked.

    Raises:
        MomeError: it is damaged.
    """
    folder = local_folder(language_model)
    own = folder is not None and any((folder / name).is_file() for name in TOKENIZER_FILES)
    return find_tokenizer(language_model) if own or processor_around(language_model) is not None else None


def processor_around(name: str) -> MomeProcessor | None:
    """The processor of the self-contained checkpoint that a backbone is a part of; ``None`` if it is by itself."""
    whole = (local_folder(name) or Path(name)).parent
    if not (whole / "processor_config.json").is_file():
        return None
    check_settings(whole)
    with blaming(f"the processor files of {whole}", "are missing or damaged"):
        return MomeProcessor.from_pretrained(whole, trust_remote_code=False)
