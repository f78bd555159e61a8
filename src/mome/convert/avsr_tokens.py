"""The tokens that the published recognisers add to their language model's vocabulary, and what prompts become."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mome.checkpoints.vocabulary import MARKERS
from mome.config import MomeConfig
from mome.convert.avsr_names import EMBEDDING, PROMPTS
from mome.convert.fitting import misfit, same_rounded
from mome.errors import MomeError

PADDING = "<pad>"


def add_tokens(tokenizer: PreTrainedTokenizerBase, rows: int, name: str, source: str) -> int:
    """Add the published tokens in the published order.

    The checkpoint's rows say which: Llama gets padding and the four markers, Qwen, which has padding, the markers.

    Args:
        tokenizer: the language model's own.
        rows: of the checkpoint's embedding.
        name: of the language model, for messages.
        source: what messages call the checkpoint.

    Returns:
        How many were added.

    Raises:
        MomeError: the tokenizer does not fit the checkpoint.
    """
    markers = [token for pair in MARKERS.values() for token in pair]
    before = len(tokenizer)
    if rows - before == len(markers) + 1:
        tokenizer.add_special_tokens({"pad_token": PADDING})
    tokenizer.add_tokens(markers, special_tokens=True)
    if len(tokenizer) != rows or rows == before:
        raise MomeError(
            f"the vocabulary of {source} has {rows} rows, which is not that of {name} ({before} tokens) with "
            f"{len(markers)} or {len(markers) + 1} added: give the language model that it was trained on"
        )
    if tokenizer.eos_token_id is None:
        raise MomeError(f"the tokenizer of {name} has no end token: give the language model that it was trained on")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return rows - before


def set_tokens(config: MomeConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write the ids of start token, markers and prompts into the configuration."""
    config.start_ids = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    config.audio_markers, config.video_markers = (
        tokenizer.convert_tokens_to_ids(list(pair)) for pair in MARKERS.values()
    )
    config.prompt_ids = {
        task: tokenizer(text, add_special_tokens=False).input_ids for task, text in config.prompts.items()
    }


def misshaped_prompts(state: Mapping[str, Tensor], width: int) -> list[str]:
    """What is wrong with a system's embedded prompts, which are ``(1, tokens, width)`` for any number of tokens."""
    problems = []
    for key in PROMPTS:
        found = state.get(key)
        tokens = found.shape[1] if found is not None and found.dim() > 1 else 1
        why = "missing" if found is None else misfit(found, torch.empty(1, tokens, width, device="meta"))
        problems += [f"{key} is {why}"] if why else []
    return problems


def check_prompts(state: Mapping[str, Tensor], config: MomeConfig, source: str) -> None:
    """Compare the checkpoint's embedded prompts, where it has any, with those that the tokenizer gives.

    Raises:
        MomeError: they differ, so the tokenizer is not the one that the model was trained with.
    """
    for key, task in PROMPTS.items():
        if key in state:
            ours = state[EMBEDDING][torch.tensor(config.text_ids(task))]
            if not same_rounded(state[key][0], ours):
                raise MomeError(
                    f"{key} of {source} is not '{config.prompts[task]}' by the tokenizer of --language-model: "
                    "give the language model that it was trained on"
                )
