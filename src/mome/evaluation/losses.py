"""How probable a model finds what was said: the cross-entropy of the transcripts' tokens, by rates and clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from mome.data.augmentation import Augmentation
from mome.data.clips import ClipStore
from mome.data.datasets import SpeechDataset
from mome.data.manifests import ManifestRow
from mome.decoding.transcriber import Transcriber
from mome.rates import Rates


@dataclass(frozen=True)
class TranscriptLosses:
    """Cross-entropies in nats for each token.

    Attributes:
        by_clip: for each of the rates, a mean over the tokens of each clip, with four decimals.
        tokens: number of tokens of each clip, the end token included.
    """

    by_clip: dict[str, list[float]]
    tokens: list[int]

    def means(self) -> dict[str, float]:
        """The mean over all tokens, by rates."""
        return {name: float(np.average(losses, weights=self.tokens)) for name, losses in self.by_clip.items()}


@torch.no_grad()
def transcript_losses(
    transcriber: Transcriber,
    rows: Sequence[ManifestRow],
    rates: Sequence[Rates],
    store: ClipStore,
    *,
    noise: np.ndarray | None = None,
    snr_db: float | None = None,
) -> TranscriptLosses:
    """Measure the cross-entropy of transcripts by teacher forcing, clip by clip.

    It tells models apart that each write half of the words wrong, whose word error rates hang on looping hypotheses.

    Args:
        transcriber: the model.
        rows: clips that can be read, with their transcripts; the noise of one depends on its place among them.
        rates: trained rates of tasks that the clips can be heard or seen for.
        store: where the clips are read from.
        noise: a recording to mix in, mono at 16 kHz; ``None`` for none.
        snr_db: its signal-to-noise ratio in dB; ``None`` for no noise.

    Raises:
        MomeError: a clip cannot be read, or the model does not have one of the rates.
    """
    for each in rates:
        transcriber.model.rate_set.check(each)
    model, plain = transcriber.model, Augmentation(crop=False, flip=False, time_mask=False)
    if noise is not None and snr_db is not None:
        plain = replace(plain, noises=(noise,), snrs=(snr_db,))
    dataset = SpeechDataset(rows, store, transcriber.processor, plain, seed=0)
    by_clip: dict[str, list[float]] = {str(each): [] for each in rates}
    tokens: list[int] = []
    for index, row in enumerate(rows):
        store.get(row)  # reads the file if the store does not have it yet
        batch = dataset.collate([dataset[index, 0]])
        del batch["clips"]
        batch = {name: value.to(model.device) for name, value in batch.items()}
        labels, words = batch.pop("labels"), batch.pop("words")
        output = model(encoded=model.encode(**batch), labels=labels, words=words, matryoshka=list(rates))
        assert output.transcript_losses is not None
        tokens.append(int((labels >= 0).sum()))
        for name, loss in output.transcript_losses.items():
            by_clip[name].append(round(float(loss), 4))
    return TranscriptLosses(by_clip, tokens)
