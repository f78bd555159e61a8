"""Write the manifests of mome-base: transcribed speech, voices that Whisper's own decoder transcribes, and test clips.

    python -m scripts.mome_base.prepare SPEECH OUT [--share speechocean762=0.5]

SPEECH has manifest.csv with the columns id, path, split, text, corpus, speaker and seconds. Clips of the split `train`
go into training, of a corpus with a share only that part of them, drawn once. Clips of the split `untranscribed` get
the text that Whisper's decoder writes (greedily, in a window of 30 s); every sixth of their speakers is kept for
validation. Numbers up to 99 are spelled, clips with other digits are left out. OUT/labels.csv is kept.
OUT/test.csv has the split `test` as `other`, and the clean read clips of the split `media` as `clean`.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mome.data.manifests import ManifestRow, write_manifest
from mome.media import load_clip
from mome.text.transcript import normalize
from scripts.mome_base.own_decoder import OwnDecoder

SMALL = [
    "",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
]
SMALL += [f"{part}teen" for part in ("four", "fif", "six", "seven", "eigh", "nine")]
TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
TITLES = {"Mr": "mister", "Mrs": "missus", "Dr": "doctor"}
CLEAN = ("LibriVox", "JFK inaugural")
VALID_EVERY = 6  # speakers


def spelled(text: str) -> str:
    """A text with its titles and its whole numbers below 100 in words, as the transcribed corpora have them."""
    for short, whole in TITLES.items():
        text = re.sub(rf"\b{short}\b\.?", whole, text)
    return re.sub(r"\b[1-9][0-9]?\b", lambda found: _in_words(int(found[0])), text)


def _in_words(number: int) -> str:
    if number < 20:
        return SMALL[number]
    return f"{TENS[number // 10]} {SMALL[number % 10]}".strip()


def labelled(rows: list[dict[str, str]], root: Path, file: Path) -> dict[str, str]:
    """Texts of untranscribed clips by id; new ones are added to ``file``."""
    known = {row["id"]: row["text"] for row in csv.DictReader(file.open())} if file.exists() else {}
    todo = sorted((row for row in rows if row["id"] not in known), key=lambda row: float(row["seconds"]))
    if todo:
        decode = OwnDecoder()
        with file.open("a", newline="") as opened:
            writer = csv.writer(opened)
            if not known:
                writer.writerow(["id", "text"])
            for start in range(0, len(todo), 4):
                batch = todo[start : start + 4]
                sounds = [load_clip(root / row["path"], video=False).audio for row in batch]
                for row, text in zip(batch, decode([sound for sound in sounds if sound is not None]), strict=True):
                    known[row["id"]] = text
                    writer.writerow([row["id"], text])
                opened.flush()
                print(f"transcribed {start + len(batch)} of {len(todo)}", flush=True)
    return known


def chosen(rows: list[dict[str, str]], shares: dict[str, float], root: Path) -> Iterator[ManifestRow]:
    """The clips of the split train, a drawn part of the corpora with a share."""
    rng = np.random.default_rng(0)
    for row in rows:
        if row["split"] == "train" and rng.random() < shares.get(row["corpus"], 1.0):
            yield ManifestRow(row["id"], root / row["path"], "train", row["text"])


def main() -> None:
    """Write OUT/manifest.csv and OUT/test.csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--share", action="append", default=[], metavar="CORPUS=SHARE")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.speech / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    shares = {name: float(share) for name, _, share in (text.partition("=") for text in args.share)}
    voices = [row for row in rows if row["split"] == "untranscribed"]
    texts = labelled(voices, args.speech, args.out / "labels.csv")
    held = set(sorted({row["speaker"] for row in voices})[::VALID_EVERY])
    manifest = list(chosen(rows, shares, args.speech))
    for row in voices:
        text = normalize(spelled(texts[row["id"]]))
        if text and not any(character.isdigit() for character in text):
            split = "valid" if row["speaker"] in held else "train"
            manifest.append(ManifestRow(row["id"], args.speech / row["path"], split, text))
    test = [(row, "other") for row in rows if row["split"] == "test"]
    test += [(row, "clean") for row in rows if row["split"] == "media" and row["corpus"] in CLEAN]
    held_out = [ManifestRow(row["id"], args.speech / row["path"], split, row["text"]) for row, split in test]
    for name, listed in (("manifest.csv", manifest), ("test.csv", held_out)):
        written, _ = write_manifest(args.out / name, listed)
        print(f"{args.out / name}: {len(written)} clips")


if __name__ == "__main__":
    main()
