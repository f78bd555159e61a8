"""Measure the figures in docs/compat.md: where the official arithmetic differs from this package's, and by how much.

    PYTHONPATH=. python scripts/figures/compat.py GOLDEN

The tests' helpers, hence the path, make models of the golden cases. What is made of a clip before the encoders is
measured on the package's own. "Relative" is the norm of the difference divided by the norm of the default.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import layer_norm
from transformers import WhisperFeatureExtractor

from mome.cli.demo import SHIPPED
from mome.clip import SAMPLE_RATE, SAMPLES_PER_FRAME
from mome.encoders.avhubert import AVHubertConfig
from mome.encoders.base import z_normalize
from mome.encoders.whisper import WhisperAudioEncoder, log_mel
from mome.evaluation.result import run_document, write_json
from mome.features import Features
from mome.media import load_clip
from mome.model import MomeForSpeechRecognition
from mome.model.compat import LEAST_FRAMES, official_audio_frames, official_log_mel, official_sound
from mome.model.objective import IGNORED_LABEL
from tests.conftest import Golden
from tests.model.golden import batch, labels_of, rates_of, recogniser

CLIP = SHIPPED / "clip.mp4"
FAMILIES = ("llama-avsr-*", "llama-mtsk-*", "omni-avsr-*")
SPANS = ((1, 24), (1, 2), (12, 24), (1, 4), (1, 16))  # seconds
GREY = (0.2989, 0.587, 0.114)  # of red, green and blue, as torchvision weighs them
FRAMES_PER_SECOND = WhisperAudioEncoder.frames_per_second


def pair(official: Any, default: Any) -> dict[str, Any]:
    return {"official": official, "default": default}


def relative(official: Tensor, default: Tensor) -> float:
    return float((official - default).norm() / default.norm())


def size(difference: np.ndarray) -> dict[str, float]:
    """Root mean square and largest."""
    values = difference.astype(np.float64)
    return {"rms": float(np.sqrt(np.mean(values**2))), "most": float(np.abs(values).max())}


def trimming() -> list[dict[str, Any]]:
    """By how many Whisper frames clips differ in length, and for which share of the lengths."""
    rows = []
    for step in (SAMPLES_PER_FRAME, 1):
        lengths = np.arange(SAMPLE_RATE, SPANS[0][1] * SAMPLE_RATE + 1, step)
        more = np.array([official_audio_frames(int(n)) for n in lengths]) - lengths * FRAMES_PER_SECOND // SAMPLE_RATE
        for span in SPANS:
            inside = more[(lengths >= span[0] * SAMPLE_RATE) & (lengths <= span[1] * SAMPLE_RATE)]
            tokens = {"least": int(inside.min()), "most": int(inside.max())}
            share = float((inside != 0).mean())
            rows.append({"multiples_of": step, "seconds": span, "differing": share, "difference": tokens})
    return rows


def read(path: Path) -> Golden:
    parts: dict[str, dict[str, Tensor]] = {"state": {}, "in": {}, "out": {}}
    for key, value in load_file(path).items():
        part, _, name = key.partition(".")
        parts[part][name] = value
    description = json.loads(path.with_suffix(".json").read_text())
    return Golden(parts["state"], parts["in"], parts["out"], description["config"])


def video_features(model: MomeForSpeechRecognition, inputs: dict[str, Tensor]) -> Features:
    """What the video encoder gives."""
    video = {name: value for name, value in inputs.items() if name.startswith("pixel_values_videos")}
    features = model.encode(**video).video
    assert features is not None
    return features


def padding(path: Path) -> dict[str, Any]:
    """The shorter of two clips, whose padding counts officially, and the longer, which has none."""
    golden = read(path)
    model, labels, official = recogniser(golden), labels_of(golden), batch(golden.inputs)
    frames = golden.inputs["lengths"] * FRAMES_PER_SECOND // SAMPLE_RATE * 2
    masks = {"input_features_mask": torch.arange(official["input_features"].shape[-1]) < frames[:, None]}
    masks["pixel_values_videos_mask"] = official["pixel_values_videos"].flatten(2).any(-1)  # padding is zero
    default, rows = {**official, **masks}, []
    for rates in (rates_of(golden, key) for key in golden.outputs if key.startswith("logits")):
        if rates.task == "avsr":
            passes = [model(**inputs, rates=rates, labels=labels) for inputs in (official, default)]
            short, long = ([one.logits[clip][labels[clip] != IGNORED_LABEL] for one in passes] for clip in (0, 1))
            row = {"rates": str(rates), "logits_relative": relative(*short)}
            row["loss"] = pair(*(float(one.transcript_losses[str(rates)]) for one in passes))
            rows.append(row | {"logits_of_longest_most": float((long[0] - long[1]).abs().max())})
    official_features, features, alone = (
        video_features(model, official),
        video_features(model, default),
        batch(golden.inputs, "t."),
    )
    real = int(features.lengths[0])
    full = torch.ones(alone["pixel_values_videos"].shape[:2], dtype=torch.bool)
    masked = video_features(model, {**alone, "pixel_values_videos_mask": full}).frames
    return {
        "case": path.stem,
        "audio_tokens": pair(*((inputs["input_features_mask"].sum(1) // 2).tolist() for inputs in (official, default))),
        "video_tokens": pair(official_features.lengths.tolist(), features.lengths.tolist()),
        "video_tokens_relative": relative(official_features.frames[0, :real], features.frames[0, :real]),
        "mask_without_padding_most": float((masked - video_features(model, alone).frames).abs().max()),
        "passes": rows,
    }


def stacking(folder: Path) -> dict[str, Any]:
    """Features of the longer clip without the remainder of its frames, and with it."""
    golden, other = (read(folder / f"llama-avsr-{name}.safetensors") for name in ("stack", "audiovisual"))
    model = recogniser(golden)
    official_features, features = (video_features(model, batch(case.inputs)).frames[1] for case in (golden, other))
    kept = len(official_features)
    found = {
        "tokens_relative": relative(official_features, features[:kept]),
        "last_relative": relative(official_features[-1], features[kept - 1]),
    }
    return {"frames": pair(kept, len(features)), **found}


def demonstration() -> dict[str, Any]:
    """What the official code makes of the shipped clip before the encoders."""
    clip, extractor = load_clip(CLIP), WhisperFeatureExtractor()
    assert clip.audio is not None
    assert clip.mouth is not None
    cut = official_sound(clip.audio, len(clip.mouth))
    mel, frames = log_mel(clip.audio, extractor, "window")
    cut_mel, cut_frames = log_mel(cut, extractor, "window")
    real = mel[:, :frames]
    normal = layer_norm(torch.tensor(clip.audio), clip.audio.shape, eps=1e-8).numpy()
    with av.open(str(CLIP)) as file:
        colours = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
    levels = size(colours @ np.array(GREY) - clip.mouth)
    return {
        "samples": pair(len(cut), len(clip.audio)),
        "video_frames": len(clip.mouth),
        "log_mel_frames": pair(cut_frames, frames),
        "sound": size((cut_mel - mel)[:, :cut_frames]),
        "waveform_rounding": size(official_log_mel(clip.audio, extractor)[:, :frames] - real),
        "features_rounding": size(torch.tensor(real).bfloat16().float().numpy() - real),
        "log_mel_range": float(real.max() - real.min()),
        "normalisation": size(normal - z_normalize(clip.audio)),
        "grey_levels": levels,
        "grey_normalised": {key: value / 255 / AVHubertConfig().image_std for key, value in levels.items()},
    }


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("golden", type=Path, help="folder of the golden cases")
    parser.add_argument("--out", type=Path, default=Path("results/compat.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    cases = [path for family in FAMILIES for path in sorted(args.golden.glob(f"{family}.safetensors"))]
    if not cases:
        raise SystemExit(f"{args.golden} has no golden cases")
    command = shlex.join(["PYTHONPATH=.", "python", *sys.argv])
    document = run_document(command=command, model=None, data=str(args.golden), seed=0)
    document |= {"threads": 1, "trimming": trimming(), "least_seconds": LEAST_FRAMES / FRAMES_PER_SECOND}
    document |= {"padding": [padding(path) for path in cases], "stacking": stacking(args.golden)}
    document["demonstration"] = demonstration()
    write_json(args.out, document)


if __name__ == "__main__":
    main()
