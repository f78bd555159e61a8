"""A toy corpus that a random tiny model can learn: every sentence has its own tone and its own mouth."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from mome.encoders.avhubert import AVHubertModel
from mome.synthesis import SyntheticClip, write_clip
from tests.tiny import END, MEL_BINS, WINDOW_SECONDS, tiny_model, tiny_tokenizer

SENTENCES = ("bin blue at f two now", "place red by b nine again", "set white in z four soon")


def toy_clip(number: int, seed: int) -> SyntheticClip:
    """One second of a tone and a flickering mouth, both telling the sentence."""
    rng = np.random.default_rng((number, seed))
    frames = int(rng.integers(22, 28))
    times = np.arange(frames * 640) / 16000
    audio = 0.3 * np.sin(2 * np.pi * (300 + 900 * number) * times) + 0.01 * rng.standard_normal(len(times))
    mouth = rng.integers(90, 110, (frames, 96, 96))
    mouth[:, 20 + 20 * number : 40 + 20 * number] += 100
    return SyntheticClip(audio.astype(np.float32), mouth.astype(np.uint8), (), (), SENTENCES[number], "toy")


def toy_corpus(folder: Path) -> Path:
    """Write clips and their manifest: 9 to train on, 3 to validate on, 3 to test on."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "manifest.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "path", "split", "text"])
        for seed, split in enumerate(["train", "train", "train", "valid", "test"]):
            for number, text in enumerate(SENTENCES):
                name = f"{split}_{number}_{seed}"
                write_clip(toy_clip(number, seed), folder / f"{name}.mp4")
                writer.writerow([name, f"{name}.mp4", split, text])
    return folder / "manifest.csv"


def toy_backbones(folder: Path) -> Path:
    """Frozen random encoders and language model, each in a folder as a recipe wants them."""
    tiny_model(folder)
    # At the usual small scale, random encoders tell all clips alike and a random language model hardly attends
    # to its prefix.
    for kind, name in (
        (WhisperEncoder, "audio_encoder"),
        (AVHubertModel, "video_encoder"),
        (AutoModelForCausalLM, "language_model"),
    ):
        model = kind.from_pretrained(folder / name)
        torch.manual_seed(1)
        for key, weight in model.named_parameters():
            if weight.ndim > 1 and "embed_positions" not in key:
                torch.nn.init.kaiming_normal_(weight)
        if name == "language_model":
            model.generation_config.eos_token_id = END
        model.save_pretrained(folder / name)
    tiny_tokenizer().save_pretrained(folder / "language_model")
    extractor = WhisperFeatureExtractor(feature_size=MEL_BINS, chunk_length=WINDOW_SECONDS)
    extractor.save_pretrained(folder / "audio_encoder")
    return folder


MOME = "{type: mome, routed_experts: 8, top_k: 2, bottleneck: 16}"


def toy_recipe(
    folder: Path, manifest: Path, backbones: Path, output: Path, cache: str = "clips", adapter: str = MOME
) -> Path:
    """A recipe file for the toy."""
    path = folder / f"toy_{cache}.yaml"
    path.write_text(f"""
model:
  audio_encoder: {backbones}/audio_encoder
  video_encoder: {backbones}/video_encoder
  language_model: {backbones}/language_model
  audio_context: clip
  audio_rates: [4, 16]
  video_rates: [2, 5]
  projector_hidden: 64
  adapter: {adapter}
data: {{manifests: [{manifest}], cache: {cache}, cache_folder: {folder}/cache, variants: 2, max_frames: 112}}
augment: {{time_mask: false}}
optim: {{tasks: [avsr, asr, vsr], rates_per_step: 3, epochs: 8, learning_rate: 5e-3, log_steps: 2}}
validation: {{rates: ["4,2", "-,5"], every_steps: 6}}
output: {output}
""")
    return path
