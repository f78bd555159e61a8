"""Measure recordings cut and joined again against clips given one by one; writes results/long-recordings.json.

    PYTHONPATH=. python scripts/figures/long_recordings.py data/grid --noise babble.flac --speech data/speech

Ninety GRID sentences become one recording, with pauses of 0.3 to 2 s and without, clean and with babble at 0 dB; the
control is the same sentences as clips, with the same noise. --speech adds mome-base on the recordings of its split
media, against the same recordings cut by hand at pauses. Files are made in a folder, which a second run uses again.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

import mome
from mome.clip import FRAME_RATE, SAMPLE_RATE
from mome.data.manifests import ManifestRow, read_manifest
from mome.evaluation.result import run_document, write_json
from mome.media import load_clip
from mome.media.noise import load_noise
from mome.rates import Rates
from mome.text.wer import WordErrors, word_errors

SENTENCES, SEED = 90, 0
PAUSES = {"pauses": (0.3, 2.0), "no pauses": (0.0, 0.0)}
RATES = ("4,2", "16,5", "4,-", "-,2")


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
        video = out.add_stream("libx264", rate=FRAME_RATE, options={"crf": "18", "preset": "veryfast", "threads": "1"})
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
        whole = np.int16(np.clip(sound / max(np.abs(sound).max(), 1.0), -1, 1) * 32767)
        for start in range(0, len(whole), 4096):
            block = av.AudioFrame.from_ndarray(whole[None, start : start + 4096], format="s16", layout="mono")
            block.sample_rate, block.pts = SAMPLE_RATE, start
            out.mux(audio.encode(block))
        out.mux(audio.encode(None))
    return starts


def score(references: list[str], texts: list[str]) -> float:
    return float(sum(word_errors(references, texts), WordErrors()).wer)


def grid(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The ninety sentences."""
    rows = [row for row in read_manifest(arguments.grid / "manifest.csv") if row.split in ("test", "valid")]
    rows = [row for row in rows if row.path.parent.name == "s1"][-arguments.sentences :]
    reference = " ".join(row.text for row in rows)
    transcriber = mome.load()
    noises = {"clean": None, "0 dB": load_noise(arguments.noise)}
    found: dict[str, Any] = {}
    for level, noise in noises.items():
        for name, pauses in PAUSES.items():
            path = folder / f"{name} {level} {len(rows)}.mkv".replace(" ", "-")
            if not path.exists():
                join(rows, path.with_suffix(".part.mkv"), pauses, noise)
                path.with_suffix(".part.mkv").rename(path)
            for rates in arguments.rates:
                began = time.perf_counter()
                out = transcriber.transcribe(path, rates)
                figures = {"wer": score([reference], [out.text]), "segments": len(out.segments)}
                figures["rtf"] = (time.perf_counter() - began) / load_seconds(path)
                found[f"{name}, {level}, {rates}"] = figures
                print(name, level, rates, figures, flush=True)
        starts = {"pauses": folder / f"pauses-{level}-{len(rows)}.mkv".replace(" ", "-")}
        del starts
        for rates in arguments.rates:
            clips = [transcriber.load_clip(row.path, [Rates.parse(rates)]) for row in rows]
            if noise is not None:
                from mome.media.noise import add_noise

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


def load_seconds(path: Path) -> float:
    with av.open(str(path)) as container:
        return float(container.duration or 0) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path)
    parser.add_argument("--noise", type=Path, required=True)
    parser.add_argument("--sentences", type=int, default=SENTENCES)
    parser.add_argument("--rates", nargs="+", default=RATES)
    parser.add_argument("--folder", type=Path, help="where the recordings are made, to be used again")
    parser.add_argument("--out", type=Path, default=Path("results/long-recordings.json"))
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    figures = {"grid": grid(arguments, folder)}
    document = run_document(
        command=shlex.join(["python", *sys.argv]), model="mome-tiny", data=str(arguments.grid), seed=SEED
    )
    write_json(arguments.out, document | figures)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
