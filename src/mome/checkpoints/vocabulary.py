"""Rows that a recogniser appends to its language model's vocabulary: tokens around audio and video, padding.

Shape notation: n added rows, H width of the language model.

Source: Llama-AVSR appends five such tokens and never trains their rows, which stay as they were drawn.
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn
from transformers import PreTrainedModel

MARKERS = {"audio": ("<audio>", "</audio>"), "video": ("<video>", "</video>")}
"""The tokens around audio and video in the published systems."""

SPREAD = 0.02  # standard deviation of new rows
EMBEDDINGS, HEAD = "added_embeddings", "added_head"  # their names in a checkpoint


def extend_vocabulary(language_model: PreTrainedModel, size: int) -> None:
    """Append rows drawn from N(0, 0.02²) to the embedding and the head until there are ``size``.

    Nothing happens to a model that has them already, as the one in a self-contained checkpoint has.
    """
    before = cast(nn.Embedding, language_model.get_input_embeddings()).num_embeddings
    if before >= size:
        return
    language_model.resize_token_embeddings(size, mean_resizing=False)
    for weight in vocabulary_weights(language_model).values():
        nn.init.normal_(weight.data[before:], std=SPREAD)


def vocabulary_weights(language_model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """The embedding's weight, and the head's unless the two are tied, by the names of their added rows."""
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
