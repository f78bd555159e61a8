"""Tokens that a recogniser adds to its language model's vocabulary: markers around audio and video, and padding.

Shape notation: n added rows, H width of the language model.

Source: Llama-AVSR adds five tokens, whose rows keep their random initialisation.
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mome.config import MomeConfig

MARKERS = {"audio": ("<audio>", "</audio>"), "video": ("<video>", "</video>")}
"""The tokens around audio and video in the published systems."""

PADDING = "<pad>"
STANDARD_DEVIATION = 0.02  # of new rows
EMBEDDINGS, HEAD = "added_embeddings", "added_head"  # their names in a checkpoint


def add_markers(config: MomeConfig, tokenizer: PreTrainedTokenizerBase, padding: bool) -> None:
    """Add the tokens around audio and video to a tokenizer, and write their ids into the configuration.

    Args:
        config: of the recogniser.
        tokenizer: of the language model; new tokens get its next ids, in the published order.
        padding: whether a token for padding comes before the others.
    """
    if padding:
        tokenizer.add_special_tokens({"pad_token": PADDING})
    tokenizer.add_tokens([token for pair in MARKERS.values() for token in pair], special_tokens=True)
    config.audio_markers, config.video_markers = (
        tokenizer.convert_tokens_to_ids(list(pair)) for pair in MARKERS.values()
    )


def prepare_padding(tokenizer: PreTrainedTokenizerBase) -> None:
    """Let a tokenizer pad on the right, with its end token if it has none for padding."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"


def extend_vocabulary(language_model: PreTrainedModel, size: int) -> None:
    """Append rows drawn from N(0, 0.02²) to the embedding and the head until there are ``size``.

    A model that has them already, such as one from a self-contained checkpoint, is not changed.
    """
    before = cast(nn.Embedding, language_model.get_input_embeddings()).num_embeddings
    if before >= size:
        return
    language_model.resize_token_embeddings(size, mean_resizing=False)
    for weight in vocabulary_weights(language_model).values():
        nn.init.normal_(weight.data[before:], std=STANDARD_DEVIATION)


def vocabulary_weights(language_model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """The embedding's weight, and the head's unless they are tied, by the checkpoint's names for their added rows."""
    model = cast(Any, language_model)
    weights = {EMBEDDINGS: model.get_input_embeddings().weight}
    head = model.get_output_embeddings()
    if head is not None and head.weight is not weights[EMBEDDINGS]:
        weights[HEAD] = head.weight
    return weights


def added_rows(language_model: PreTrainedModel, count: int) -> dict[str, Tensor]:
    """The last ``count`` rows ``(n, H)`` of the embedding, and of the head unless it is tied; views."""
    if not count:
        return {}
    return {name: weight.detach()[-count:] for name, weight in vocabulary_weights(language_model).items()}
