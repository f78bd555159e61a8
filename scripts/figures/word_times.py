"""Measure when words are said, against GRID's alignments, and what that costs; writes results/word-times.json.

    PYTHONPATH=. python scripts/figures/word_times.py GRID
    PYTHONPATH=. python scripts/figures/word_times.py GRID --model mome-base --reference --rates 4,- 16,-

GRID has the clips with their manifest.csv and the word times in s1.align.json, which are good to about 0.1 s. The words
of a transcript that are also in the reference, in its order, are compared. The control knows when the sentence begins
and ends, and gives each character between the same time. --reference is for a model that does not know the corpus: it
is told what is said, and asked when; if it has a CTC head, once by that and once by what its language model looks at.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mome
from mome.clip import Clip
from mome.data.manifests import read_manifest
from mome.decoding.words import even_times, spoken_words
from mome.evaluation.result import run_document, write_json
from mome.text.transcript import Word

BATCH = 20
COSTS = {"without words": False, "with words": True}
RATES = ("4,2", "16,5", "4,-", "16,-", "-,2", "-,5")


def summary(errors: list[float]) -> dict[str, float | int]:
    """Figures of errors in seconds: their median, and of their sizes the median and 90th percentile."""
    values = np.array(errors)
    middle, far = np.percentile(abs(values), (50, 90))
    return {
        "words": len(values),
        "bias": float(np.median(values)),
        "median": float(middle),
        "percentile_90": float(far),
    }


def seconds(transcriber: mome.Transcriber, clip: Clip, words: bool, times: int = 5) -> float:
    """Processor seconds to transcribe a clip at its finest rates, the least of several times."""
    found = []
    for _ in range(times):
        began = time.process_time()
        transcriber.transcribe(clip, words=words)
        found.append(time.process_time() - began)
    return min(found)


def told(transcriber: mome.Transcriber, clip: Clip, rates: mome.Rates, said: list[list[Any]]) -> tuple[Word, ...]:
    """The words that are said in a clip, when they are to the model."""
    model, processor = transcriber.model, transcriber.processor
    ids, ends = processor.labels([" ".join(word for *_, word in said)]), [processor.tokenizer.eos_token_id]
    encoded = transcriber.encode([clip], [[rates]], ids.shape[1])
    with torch.no_grad():
        prepared = model.prepare(encoded, [rates])
    sound, lips = (0 if side is None else int(side.lengths[0]) for side in (encoded.audio, encoded.video))
    ids = ids.to(model.device)
    return spoken_words(model, processor, [clip], encoded, prepared, [(sound, lips)], ids, ends)[0].words


def of_reference(
    transcriber: mome.Transcriber, clips: list[Clip], said: list[list[list[Any]]], rates: list[mome.Rates]
) -> dict[str, Any]:
    """Errors of the starts and ends of what is said, by each way that the model has."""
    model, figures, own = transcriber.model, {}, transcriber.model.ctc
    for way, head in {"head": own, "attention": None}.items():
        if way == "head" and head is None:
            continue
        model.ctc = head
        for rate in rates:
            pairs = [
                (word, truth)
                for clip, sentence in zip(clips, said, strict=True)
                for word, truth in zip(told(transcriber, clip, rate, sentence), sentence, strict=True)
            ]
            figures[f"{way}, {rate}"] = {
                "start": summary([word.start - start for word, (start, _, _) in pairs]),
                "end": summary([word.end - end for word, (_, end, _) in pairs]),
            }
            print(way, rate, figures[f"{way}, {rate}"], flush=True)
    model.ctc = own
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int, help="first clips of talker 1 only")
    parser.add_argument("--model", default="mome-tiny")
    parser.add_argument("--rates", nargs="+", default=RATES)
    parser.add_argument("--reference", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("results/word-times.json"))
    arguments = parser.parse_args()
    spoken = json.loads((arguments.grid / "s1.align.json").read_text())
    rows = [row for row in read_manifest(arguments.grid / "manifest.csv") if row.split == arguments.split]
    rows = [row for row in rows if row.path.stem in spoken and row.path.parent.name == "s1"][: arguments.limit]
    transcriber = mome.load(arguments.model)
    rates = [mome.Rates.parse(text) for text in arguments.rates]
    clips = [transcriber.load_clip(row.path, rates) for row in rows]
    document = run_document(
        command=shlex.join(["python", *sys.argv]), model=arguments.model, data=str(arguments.grid), seed=0
    ) | {"split": arguments.split, "clips": len(rows)}
    if arguments.reference:
        figures = of_reference(transcriber, clips, [spoken[row.path.stem] for row in rows], rates)
        write_json(arguments.out, document | {"figures": figures})
        return
    starts: dict[str, list[float]] = {text: [] for text in arguments.rates}
    ends: dict[str, list[float]] = {text: [] for text in arguments.rates}
    control: list[float] = []
    for first in range(0, len(rows), BATCH):
        batch = clips[first : first + BATCH]
        for row, outs in zip(rows[first:], transcriber.transcribe_batch(batch, rates, words=True), strict=False):
            said = spoken[row.path.stem]
            words = [word for *_, word in said]
            begin, end = said[0][0], said[-1][1]
            even = even_times(words, end - begin)
            control += [begin + start - at for (start, _), (at, *_) in zip(even, said, strict=True)]
            for text, out in zip(arguments.rates, outs, strict=True):
                found = [word for segment in out.segments for word in segment.words]
                matcher = SequenceMatcher(None, [word.word for word in found], words, autojunk=False)
                for here, there, size in matcher.get_matching_blocks():
                    for word, (start, stop, _) in zip(
                        found[here : here + size], said[there : there + size], strict=True
                    ):
                        starts[text].append(word.start - start)
                        ends[text].append(word.end - stop)
    figures = {
        "start": {text: summary(errors) for text, errors in starts.items()},
        "end": {text: summary(errors) for text, errors in ends.items()},
        "control_start": summary(control),
        "cpu_seconds_of_a_clip": {name: seconds(transcriber, clips[0], words) for name, words in COSTS.items()},
    }
    print(json.dumps(figures, indent=1))
    write_json(arguments.out, document | {"figures": figures})


if __name__ == "__main__":
    main()
