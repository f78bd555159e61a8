"""Measure Whisper's encoder on its window of 30 s and on what a clip needs: time, and how its features differ.

    MOME_BACKBONES=DIR python -m benchmarks.encoders MANIFEST [--split test]

A clip is encoded with 0 to 2.5 s of silence after it. Times are CPU seconds of one thread, the contexts in turn; a
ratio is that of the window's time in the same turn. Features are compared with the window's, frame by frame.
"""

from __future__ import annotations

import argparse
import copy
import random
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import WhisperFeatureExtractor, WhisperModel

from mome.analysis.cost import machine
from mome.checkpoints.source import Source
from mome.clip import SAMPLE_RATE
from mome.data.manifests import read_manifest
from mome.encoders.base import z_normalize
from mome.encoders.whisper import FRAMES_PER_SECOND, WhisperAudioEncoder, log_mel
from mome.evaluation.result import run_document, write_json
from mome.media import load_clip
from mome.model.linear import leave_to_onednn

WHISPER = "openai/whisper-base"
SECONDS = (1, 3, 5, 10, 20)
SILENCES = (None, 0.0, 0.5, 1.0, 2.0, 2.5)
"""Seconds after a clip; ``None``: the rest of the window."""
TURNS, CLIPS, END = 9, 20, 0.5


class Encoders:
    """Whisper's encoder in both contexts, which share the weights."""

    def __init__(self) -> None:
        source = Source(WHISPER, "Whisper")
        folder = source.weights(source.preprocessing(("preprocessor_config.json",)))
        model = WhisperModel.from_pretrained(folder, trust_remote_code=False).get_encoder().eval()
        leave_to_onednn(model)  # as a transcriber does
        self.window, self.clip = WhisperAudioEncoder(model, "window"), WhisperAudioEncoder(model, "clip")
        self.extractor = WhisperFeatureExtractor.from_pretrained(folder, trust_remote_code=False)
        self.plain = copy.copy(self.extractor)
        self.plain.do_normalize = False

    def prepare(self, wave: np.ndarray, silence: float | None) -> tuple[Tensor, Tensor]:
        """Log-mel frames ``(1, mel_bins, M)``, and the mask of those whose encoder frames are wanted."""
        if silence is None:
            mel, real = log_mel(wave, self.extractor, "window")
        else:
            padded = np.pad(z_normalize(wave), (0, round(silence * SAMPLE_RATE)))[: self.plain.n_samples]
            mel, real = log_mel(padded, self.plain, "clip")
        return torch.from_numpy(mel)[None], torch.arange(mel.shape[1])[None] < real

    def encode(self, mel: Tensor, mask: Tensor, silence: float | None) -> Tensor:
        """Encoder frames ``(T, D)``, those of the silence among them."""
        return (self.window if silence is None else self.clip)(mel, mask).frames[0]


def timed(call: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """CPU seconds of this thread, and what the call gives."""
    began = time.thread_time()
    result = call(*arguments)
    return time.thread_time() - began, result


def times(encoders: Encoders, speech: np.ndarray) -> list[dict[str, Any]]:
    """Times by length and silence: of the encoder, and of the log-mel frames before it."""
    rows = []
    for seconds in SECONDS:
        wave = speech[: seconds * SAMPLE_RATE]
        encoding, preparing = np.zeros((2, TURNS, len(SILENCES)))
        for turn in range(-1, TURNS):  # the first, which is overwritten, warms up
            for column, silence in enumerate(SILENCES):
                preparing[turn, column], inputs = timed(encoders.prepare, wave, silence)
                encoding[turn, column], _ = timed(encoders.encode, *inputs, silence)
        ratios = encoding[:, :1] / encoding
        for column, silence in enumerate(SILENCES):
            rows.append(
                {
                    "seconds": seconds,
                    "silence": silence,
                    "encoder_seconds": float(np.median(encoding[:, column])),
                    "encoder_seconds_range": [float(encoding[:, column].min()), float(encoding[:, column].max())],
                    "window_over_this": float(np.median(ratios[:, column])),
                    "window_over_this_range": [float(ratios[:, column].min()), float(ratios[:, column].max())],
                    "log_mel_seconds": float(np.median(preparing[:, column])),
                }
            )
    return rows


def differences(encoders: Encoders, waves: list[np.ndarray]) -> list[dict[str, Any]]:
    """Cosine of each frame with the window's, over all frames and over those of each clip's end."""
    found: dict[float, tuple[list[float], list[float]]] = {}
    for wave in waves:
        count = len(wave) * FRAMES_PER_SECOND // SAMPLE_RATE
        window, *others = (encoders.encode(*encoders.prepare(wave, silence), silence)[:count] for silence in SILENCES)
        for silence, frames in zip(SILENCES[1:], others, strict=True):
            cosines = torch.cosine_similarity(window, frames, dim=-1).tolist()
            every, last = found.setdefault(float(silence or 0), ([], []))
            every += cosines
            last += cosines[-round(END * FRAMES_PER_SECOND) :]
    return [
        {
            "silence": silence,
            "cosine_mean": float(np.mean(every)),
            "cosine_p10": float(np.percentile(every, 10)),
            "cosine_mean_last_half_second": float(np.mean(last)),
            "cosine_p10_last_half_second": float(np.percentile(last, 10)),
        }
        for silence, (every, last) in found.items()
    ]


@torch.inference_mode()
def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/encoders.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = read_manifest(args.manifest, args.split, silence=True)
    chosen = random.Random(0).sample(rows, CLIPS)
    waves = [wave for row in chosen if (wave := load_clip(row.path, video=False).audio) is not None]
    encoders = Encoders()
    command = shlex.join(["python", "-m", "benchmarks.encoders", *sys.argv[1:]])
    document = {
        **run_document(command=command, model=WHISPER, data=str(args.manifest), seed=0),
        "machine": machine(torch.device("cpu")),
        "turns": TURNS,
        "times": times(encoders, np.concatenate(waves)),
        "clips": [row.id for row in chosen],
        "seconds": sum(map(len, waves)) / SAMPLE_RATE,
        "differences": differences(encoders, waves),
    }
    write_json(args.out, document)
    for row in document["times"]:
        name = "window" if row["silence"] is None else f"+{row['silence']:g} s"
        low, high = row["window_over_this_range"]
        ratio = f"{row['window_over_this']:.1f} ({low:.1f} to {high:.1f})"
        print(f"{row['seconds']:3d} s, {name:7} {1000 * row['encoder_seconds']:7.0f} ms, window/this {ratio}")
    for row in document["differences"]:
        print(", ".join(f"{name} {value:.3g}" for name, value in row.items()))


if __name__ == "__main__":
    main()
