"""Passes of a model over the clips of a manifest: the reference transcript is fed to it (teacher forcing).

All analyses of what happens inside a model read it here, clip after clip, at each of several rates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mome.adapters import decoder_layers
from mome.data.manifests import ManifestRow
from mome.decoding.transcriber import Transcriber, available_rates
from mome.errors import MomeError
from mome.media.face import check_detector
from mome.model import MomeForSpeechRecognition
from mome.model.sequence import LanguageInputs
from mome.rates import Rates
from mome.text.transcript import normalize

Progress = Callable[[int, int], None]
"""Called with the number of passes done and of all passes."""


@dataclass(frozen=True)
class Pass:
    """A batch of clips at one pair of rates, not yet read by the language model.

    Attributes:
        model: the model.
        rates: the rates of all clips.
        inputs: the language model's input, transcripts included; ``inputs.kinds`` tells what each token is.
        seconds: length of each clip.
    """

    model: MomeForSpeechRecognition
    rates: Rates
    inputs: LanguageInputs
    seconds: list[float]

    @torch.no_grad()
    def run(self, observe: Callable[[int, Tensor, Tensor], None] | None = None) -> None:
        """Run the language model; what it computes is seen by hooks, and by ``observe`` of its expert banks."""
        context = self.model.adapter_context(self.inputs.rates, self.inputs.mask)
        context.observe = observe
        adapted = {} if self.model.config.adapter is None else {"adapter_context": context}
        self.model.language_model(
            inputs_embeds=self.inputs.embeddings,
            attention_mask=self.inputs.mask.long(),
            position_ids=self.inputs.positions,
            use_cache=False,
            logits_to_keep=1,
            **adapted,
        )


def passes(
    transcriber: Transcriber,
    rows: Sequence[ManifestRow],
    rates: Sequence[Rates],
    batch_size: int,
    progress: Progress | None = None,
) -> Iterator[Pass]:
    """Each batch of clips, at each of the rates in turn; files are read once, and encoded once.

    Raises:
        MomeError: a clip cannot be read, lacks a modality or is too short or too long.
    """
    model, processor = transcriber.model, transcriber.processor
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        clips = [transcriber.load_clip(row.path, rates, excerpt=row.excerpt) for row in batch]
        for row, clip in zip(batch, clips, strict=True):
            if lacking := [pair for pair in rates if available_rates(clip, pair) != pair]:
                if clip.mouth is None:
                    check_detector()
                lack = "sound" if clip.audio is None else "visible mouth"
                raise MomeError(f"{row.path} has no {lack}, which rates {lacking[0]} need: take it out of the manifest")
        labels = processor.labels([normalize(row.text) for row in batch]).to(model.device)
        encoded = transcriber.encode(clips, [rates] * len(clips), labels.shape[1])
        for done, pair in enumerate(rates, start=1):
            pairs = [pair] * len(clips)
            with torch.no_grad():
                inputs = model.assemble(model.connect(encoded, pairs), pairs, labels)
            yield Pass(model, pair, inputs, [clip.seconds for clip in clips])
            if progress is not None:
                progress(start * len(rates) + done * len(clips), len(rows) * len(rates))


@contextmanager
def watched(model: MomeForSpeechRecognition, watch: Callable[[int, Any], None], part: str = "") -> Iterator[None]:
    """Call ``watch`` with each decoder layer's number, from 1, and its output, in every pass of this block.

    Args:
        model: the model.
        watch: it should keep little, because outputs are large.
        part: watch this sub-module of the layers instead, such as ``self_attn``.
    """

    def hook(number: int, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        watch(number, output)

    with ExitStack() as stack:
        for number, layer in enumerate(decoder_layers(model.language_model), start=1):
            handle = layer.get_submodule(part).register_forward_hook(partial(hook, number))
            stack.callback(handle.remove)
        yield
