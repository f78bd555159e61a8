"""Transcribe with mome-base's finest tokens, averaged to coarser rates at inference only: the control of its rates.

    python -m scripts.mome_base.pooled MANIFEST SPLIT OUT.csv [--model mome-base]

At a rate of 16, each token of the language model is then the average of four tokens at the rate 4. `mome score OUT.csv`
gives the word error rates. The language model decodes alone, without the CTC head.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import mome
from mome.connectors.pooling import compress
from mome.data.manifests import read_manifest
from mome.data.tables import table_text
from mome.files import write_text


class Pooled(nn.Module):
    """A modality's connector at its finest rate, followed by average pooling."""

    def __init__(self, module: Any, finest: int):
        super().__init__()
        self.module, self.finest = module, finest

    def forward(self, frames: Tensor, lengths: Tensor, rate: int) -> tuple[Tensor, Tensor]:
        """Compress frames ``(B, T, D)``; the rate is a multiple of the finest."""
        tokens, lengths = self.module(frames, lengths, self.finest)
        return compress(tokens, lengths, rate // self.finest)


def arguments(description: str | None) -> argparse.Namespace:
    """The command line of a control: clips, the file to write, and the model."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("split")
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="mome-base")
    return parser.parse_args()


def main() -> None:
    """Write the transcripts at every rate."""
    args = arguments(__doc__)
    transcriber = mome.load(args.model)
    connector: Any = transcriber.model.connector
    connector.audio = Pooled(connector.audio, min(transcriber.model.config.audio_rates))
    rates = list(transcriber.model.rate_set.rates())
    lines = []
    for row in read_manifest(args.manifest, args.split):
        clip = transcriber.load_clip(row.path, rates)
        for rate, transcript in zip(rates, transcriber.transcribe_batch([clip], rates, ctc_weight=0.0)[0], strict=True):
            lines.append((row.id, transcript.text, "pooled at inference", "asr", str(rate)))
    write_text(args.out, table_text(("id", "text", "system", "task", "rates"), lines))


if __name__ == "__main__":
    main()
