"""Transcribe with the CTC head of mome-base alone, by its best path: the control of joint decoding.

    python -m scripts.mome_base.best_path MANIFEST SPLIT OUT.csv [--model mome-base]

`mome score OUT.csv` gives the word error rate. The language model is not run.
"""

from __future__ import annotations

import mome
from mome.data.manifests import read_manifest
from mome.data.tables import table_text
from mome.files import write_text
from mome.rates import Rates
from scripts.mome_base.pooled import arguments


def main() -> None:
    """Write the transcripts."""
    args = arguments(__doc__)
    transcriber = mome.load(args.model)
    model, head = transcriber.model, transcriber.model.ctc
    if head is None:
        raise SystemExit(f"{args.model} has no CTC head")
    rates = Rates(head.options.audio_rate, None)
    lines = []
    for row in read_manifest(args.manifest, args.split):
        clip = transcriber.load_clip(row.path, [transcriber.default_rates])
        encoded = transcriber.encode([clip], [[transcriber.default_rates]], 1)
        (frames,) = head(encoded.audio, None, [rates], model.get_input_embeddings().weight)
        path = frames.argmax(-1).unique_consecutive()
        tokens = head.alignment.tokens
        text = transcriber.processor.tokenizer.decode(tokens[path[path < len(tokens)]])
        lines.append((row.id, text.strip(), "its CTC head alone", "asr", str(rates)))
    write_text(args.out, table_text(("id", "text", "system", "task", "rates"), lines))


if __name__ == "__main__":
    main()
