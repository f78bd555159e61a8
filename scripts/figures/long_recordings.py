"""Measure recordings cut and joined again against clips given one by one; writes results/long-recordings.json.

    PYTHONPATH=. python scripts/figures/long_recordings.py data/grid --noise babble.flac --speech data/speech

Ten minutes of each of some sounds without speech; then ninety GRID sentences in one recording, with pauses of 0.3 to
2 s and without, clean and with babble at 0 dB; the control is the same sentences as clips, with the same noise. Then
an hour of the film against its six minutes, heard alone and with its lips. --speech adds mome-base on the longer
recordings of that corpus, against the same ones cut by hand at pauses.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from difflib import SequenceMatcher
from fractions import Fraction
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import av
import numpy as np

import mome
from mome.clip import FRAME_RATE, SAMPLE_RATE, Clip
from mome.data.manifests import ManifestRow, read_manifest
from mome.evaluation.result import run_document, write_json
from mome.media import load_clip
from mome.media.noise import add_noise, load_noise
from mome.rates import Rates
from mome.text.transcript import Transcript
from mome.text.wer import WordErrors, word_errors

SENTENCES, SEED = 90, 0
X264 = {"crf": "18", "preset": "veryfast", "threads": "1", "bf": "0"}  # packets in order, for repeat()
PAUSES = {"pauses": (0.3, 2.0), "no pauses": (0.0, 0.0)}
RATES = ("4,2", "16,5", "4,-", "16,-")
CUT_BY_HAND: dict[str, list[float]] = {
    "audio1": [6.37, 10.25, 16.97, 21.06, 25.11, 31.18],
    "audio2": [8.62, 15.42],
}
"""Seconds at which the longer recordings of the corpus were cut, in the middle of pauses between phrases."""


def pictures(path: Path) -> list[np.ndarray]:
    """All pictures of a video, as they are."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def wave(path: Path, frames: int) -> np.ndarray:
    """The sound of a video of that many frames, (samples,) float32, exactly as long as they are."""
    sound = load_clip(path, video=False).audio
    assert sound is not None
    samples = frames * SAMPLE_RATE // FRAME_RATE
    return np.pad(sound[:samples], (0, max(samples - len(sound), 0)))


def join(rows: list[ManifestRow], path: Path, pauses: tuple[float, float], noise: np.ndarray | None) -> list[float]:
    """Write the sentences as one video, and return when each starts, in seconds.

    In a pause the last picture stands still, with faint noise as sound. Babble is mixed in at 0 dB over all.
    """
    rng = np.random.default_rng(SEED)
    starts: list[float] = []
    sounds: list[np.ndarray] = []
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=FRAME_RATE, options=X264)
        audio = out.add_stream("flac", rate=SAMPLE_RATE, layout="mono")
        count = 0
        for row in rows:
            shown = pictures(row.path)
            starts.append(count / FRAME_RATE)
            still = round(rng.uniform(*pauses) * FRAME_RATE)
            sounds.append(wave(row.path, len(shown)))
            sounds.append(np.zeros(still * SAMPLE_RATE // FRAME_RATE, np.float32))
            for picture in [*shown, *[shown[-1]] * still]:
                if not count:
                    video.height, video.width, video.pix_fmt = *picture.shape[:2], "yuv420p"
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = count, Fraction(1, FRAME_RATE)
                out.mux(video.encode(frame.reformat(format="yuv420p")))
                count += 1
        out.mux(video.encode(None))
        sound = np.concatenate(sounds)
        speech = np.sqrt(np.mean(np.concatenate(sounds[::2]) ** 2))
        sound = sound + 1e-4 * rng.standard_normal(len(sound)).astype(np.float32)
        if noise is not None:
            other = np.resize(noise, len(sound))
            sound = sound + other * speech / np.sqrt(np.mean(other**2))
        add_sound(out, audio, sound)
    return starts


def score(references: list[str], texts: list[str]) -> float:
    return float(sum(word_errors(references, texts), WordErrors()).wer)


def grid(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The sentences in one recording and as clips; in recordings with pauses, also how far words' starts are off."""
    rows = [row for row in read_manifest(arguments.grid / "manifest.csv") if row.split in ("test", "valid")]
    rows = [row for row in rows if row.path.parent.name == "s1"][-arguments.sentences :]
    said = json.loads((arguments.grid / "s1.align.json").read_text())
    reference = " ".join(row.text for row in rows)
    transcriber = mome.load()
    noises = {"clean": None, "0 dB": load_noise(arguments.noise)}
    found: dict[str, Any] = {}
    for (level, noise), (name, pauses) in product(noises.items(), PAUSES.items()):
        path = folder / f"{name} {level} {len(rows)}.mkv".replace(" ", "-")
        starts = join(rows, path, pauses, noise)
        for rates in arguments.rates:
            began = time.process_time()
            out = transcriber.transcribe(path, rates, words=True)
            figures = {
                "wer": score([reference], [out.text]),
                "segments": len(out.segments),
                "cpu_seconds_of_a_second": (time.process_time() - began) / seconds(path),
                "start_errors": start_errors(out, [said[row.path.stem] for row in rows], starts),
            }
            found[f"{name}, {level}, {rates}"] = figures
            print(name, level, rates, figures, flush=True)
    for (level, noise), rates in product(noises.items(), arguments.rates):
        clips = [transcriber.load_clip(row.path, [Rates.parse(rates)]) for row in rows]
        if noise is not None:
            clips = [
                clip if clip.audio is None else add_noise(clip, noise, 0.0, SEED, row.id)
                for clip, row in zip(clips, rows, strict=True)
            ]
        texts = []
        for first in range(0, len(clips), 15):
            outs = transcriber.transcribe_batch(clips[first : first + 15], [Rates.parse(rates)])
            texts += [each[0].text for each in outs]
        found[f"clips, {level}, {rates}"] = {"wer": score([row.text for row in rows], texts)}
        print("clips", level, rates, found[f"clips, {level}, {rates}"], flush=True)
    return found


def start_errors(out: Transcript, said: list[list[list[Any]]], starts: list[float]) -> dict[str, float | int]:
    """Seconds that the starts of words that are right are off: median and 90th percentile."""
    spoken = [(word, start + at) for sentence, start in zip(said, starts, strict=True) for at, _, word in sentence]
    found = [word for segment in out.segments for word in segment.words]
    matcher = SequenceMatcher(None, [word.word for word in found], [word for word, _ in spoken], autojunk=False)
    errors = [
        abs(found[here + offset].start - spoken[there + offset][1])
        for here, there, size in matcher.get_matching_blocks()
        for offset in range(size)
    ]
    middle, far = np.percentile(errors, (50, 90)) if errors else (np.nan, np.nan)
    return {"words": len(errors), "median": float(middle), "percentile_90": float(far)}


def unspoken(folder: Path) -> dict[str, str]:
    """What is written of ten minutes of each of some sounds without speech."""
    rng, samples = np.random.default_rng(SEED), 600 * SAMPLE_RATE
    at = np.arange(samples) / SAMPLE_RATE
    notes = np.repeat(220 * 2 ** (rng.integers(0, 13, 1200) / 12), SAMPLE_RATE // 2)
    sounds = {
        "silence": np.zeros(samples),
        "noise": rng.standard_normal(samples) / 10,
        "tones like music": np.sin(2 * np.pi * np.cumsum(notes) / SAMPLE_RATE) * np.exp(-4 * (at % 0.5)) / 3,
    }
    transcriber, found = mome.load(), {}
    for name, sound in sounds.items():
        path = folder / f"{name}.flac".replace(" ", "-")
        write_sound(path, sound.astype(np.float32))
        found[name] = transcriber.transcribe(path, "4,-").text
        print(name, repr(found[name]), flush=True)
    return found


def hour(grid_file: Path, folder: Path) -> dict[str, dict[str, float]]:
    """Memory above the model's and time of six minutes and of an hour of the same, each in its own process."""
    found = {}
    long = folder / f"hour{grid_file.suffix}"
    repeat(grid_file, long, 10)
    for (name, path), rates in product({"six minutes": grid_file, "an hour": long}.items(), ("4,-", "4,2")):
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, str(path), rates], capture_output=True, text=True, check=True
        )
        before, after, spent = map(float, done.stdout.split()[-3:])
        figures = {"mebibytes": (after - before) / 1024, "cpu_seconds_of_a_second": spent / seconds(path)}
        found[f"{name}, {rates}"] = figures
        print(name, rates, figures, flush=True)
    return found


def repeat(path: Path, out: Path, times: int) -> None:
    """Write a file that plays another several times, without encoding it anew."""
    with av.open(str(out), "w") as film:
        with av.open(str(path)) as source:
            streams = [film.add_stream_from_template(stream) for stream in source.streams]
        begins = Fraction(0)
        for _ in range(times):
            with av.open(str(path)) as source:
                ends = begins
                for packet in source.demux():
                    if not packet.size:  # the end of a stream
                        continue
                    shift = round(begins / packet.time_base)
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    if packet.stream.type == "video":
                        ends = max(ends, packet.pts * packet.time_base + Fraction(1, FRAME_RATE))
                    packet.stream = streams[packet.stream.index]
                    film.mux(packet)
                begins = ends


MEASURED = """
import resource, sys, time, mome
from importlib.resources import files
path, rates = sys.argv[1:]
model = mome.load()
model.transcribe(str(files("mome") / "demo" / "clip.mp4"), rates)
before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
model.transcribe(path, rates)
print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time() - began)
"""


def speech(folder: Path, model: str) -> dict[str, Any]:
    """The longer recordings of the split media, as they are, and cut by hand at pauses."""
    rows = [row for row in read_manifest(folder / "manifest.csv", "media") if row.path.stem in CUT_BY_HAND]
    transcriber = mome.load(model)
    found: dict[str, Any] = {}
    for rates in ("4,-", "16,-"):
        texts, by_hand = [], []
        for row in rows:
            texts.append(transcriber.transcribe(row.path, rates).text)
            whole = load_clip(row.path, video=False)
            assert whole.audio is not None
            ends = [*CUT_BY_HAND[row.path.stem], whole.seconds]
            parts = [
                whole.audio[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
                for start, end in pairwise([0.0, *ends])
            ]
            clips = [Clip(part, None, len(part) / SAMPLE_RATE) for part in parts]
            outs = transcriber.transcribe_batch(clips, [Rates.parse(rates)])
            by_hand.append(" ".join(out[0].text for out in outs))
        references = [row.text for row in rows]
        found[rates] = {"wer": score(references, texts), "cut by hand": score(references, by_hand)}
        print(model, rates, found[rates], flush=True)
    return found


def write_sound(path: Path, sound: np.ndarray) -> None:
    """Write (samples,) float32 at 16 kHz."""
    with av.open(str(path), "w") as out:
        add_sound(out, out.add_stream("flac", rate=SAMPLE_RATE, layout="mono"), sound)


def add_sound(out: Any, stream: Any, sound: np.ndarray) -> None:
    """Encode (samples,) float32 into a stream."""
    whole = np.int16(np.clip(sound / max(np.abs(sound).max(), 1.0), -1, 1) * 32767)
    for start in range(0, len(whole), 4096):
        block = av.AudioFrame.from_ndarray(whole[None, start : start + 4096], format="s16", layout="mono")
        block.sample_rate, block.pts = SAMPLE_RATE, start
        out.mux(stream.encode(block))
    out.mux(stream.encode(None))


def seconds(path: Path) -> float:
    """Declared length."""
    with av.open(str(path)) as container:
        return float(container.duration or 0) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path)
    parser.add_argument("--noise", type=Path, required=True)
    parser.add_argument("--sentences", type=int, default=SENTENCES)
    parser.add_argument("--rates", nargs="+", default=RATES)
    parser.add_argument("--speech", type=Path)
    parser.add_argument("--model", default="mome-base", help="for --speech")
    parser.add_argument("--folder", type=Path, help="where the recordings are made; a temporary one by default")
    parser.add_argument("--out", type=Path, default=Path("results/long-recordings.json"))
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = {"unspoken": unspoken(folder), "grid": grid(arguments, folder)}
    figures["length"] = hour(folder / f"pauses-clean-{arguments.sentences}.mkv", folder)
    if arguments.speech is not None:
        figures["speech"] = speech(arguments.speech, arguments.model)
    document = run_document(
        command=shlex.join(["python", *sys.argv]), model="mome-tiny", data=str(arguments.grid), seed=SEED
    )
    write_json(arguments.out, document | figures)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
