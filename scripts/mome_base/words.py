"""Write word lists to be read aloud: common English words that the training speech says seldom or never.

    python scripts/mome_base/words.py OUT.txt MANIFEST... [--words 25000]

A line is like a sentence, of 6 to 12 words in no order, among them some of the most common ones, so that a voice
reads on as in a sentence. Needs no package of this project, but wordfreq (Apache-2.0; its list CC BY-SA 4.0).
"""

from __future__ import annotations

import argparse
import csv
import random
import re
from collections import Counter
from pathlib import Path

import wordfreq

WANTED = 8  # sayings of a word of the more common half of the list, in all of the speech; half as many of the others
COMMON = 150  # words that join the others


def main() -> None:
    """Write OUT.txt."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("manifests", nargs="+", type=Path)
    parser.add_argument("--words", type=int, default=25_000, help="how many of the most common words")
    args = parser.parse_args()
    said: Counter[str] = Counter()
    for manifest in args.manifests:
        with manifest.open(newline="") as opened:
            for row in csv.DictReader(opened):
                said.update(row["text"].lower().split())
    listed = wordfreq.top_n_list("en", args.words)
    words = [word for word in listed if re.fullmatch(r"[a-z]+('[a-z]+)?", word) and re.search("[aeiouy]", word)]
    rng, pool = random.Random(0), list[str]()
    for place, word in enumerate(words):
        pool += [word] * max((WANTED if place < len(words) // 2 else WANTED // 2) - said[word], 0)
    rng.shuffle(pool)
    lines = []
    while pool:
        line = []
        for _ in range(min(rng.randint(6, 12), len(pool))):
            if rng.random() < 0.35:
                line.append(rng.choice(words[:COMMON]))
            line.append(pool.pop())
        lines.append(" ".join(line) + ".")
    args.out.write_text("\n".join(lines) + "\n")
    print(f"{len(words)} words, {len(lines)} lines")


if __name__ == "__main__":
    main()
