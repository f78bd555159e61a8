"""The pre-training of mome-tiny's encoders, on noise and a few frames."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

SCRIPTS = Path(__file__).parents[2] / "scripts" / "mome_tiny"
TEXT = "bin blue at f two now"


@pytest.fixture
def pretrain(monkeypatch: pytest.MonkeyPatch) -> Any:
    from mome.encoders.avhubert import AVHubertConfig

    monkeypatch.syspath_prepend(str(SCRIPTS))
    import pretrain_encoder

    small = AVHubertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, resnet_width=2,
        conv_pos=4, conv_pos_groups=2, image_size=44, layerdrop=0.0,
    )  # fmt: skip
    monkeypatch.setattr(pretrain_encoder, "VIDEO", small)
    yield pretrain_encoder
    for name in ("pretrain_encoder", "lexicon"):
        sys.modules.pop(name, None)


@dataclass
class Clips:
    """Clips as prepare.py leaves them, and what a training of the video encoder makes of them."""

    folder: Path
    patch: pytest.MonkeyPatch

    def __post_init__(self) -> None:
        rng, index = np.random.default_rng(0), []
        for number, (split, kind) in enumerate(
            [("train", "real")] * 4 + [("train", "synthetic")] * 2 + [("valid", "real")]
        ):
            words = TEXT.split()
            starts = np.arange(6) * 0.2
            index.append({"id": str(number), "split": split, "kind": kind, "text": TEXT})
            mouth = rng.integers(0, 256, (30, 96, 96)).astype(np.uint8)
            np.savez(
                self.folder / f"{number}.npz", mouth=mouth, starts=starts, ends=starts + 0.2, words=words, text=TEXT
            )
        (self.folder / "index.json").write_text(json.dumps(index))

    def train(self, module: Any, name: str, *options: str) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
        out = self.folder / name
        where = [str(self.folder), str(out), "--epochs", "3", "--batch", "2", "--synthetic", "0.5"]
        self.patch.setattr(sys, "argv", ["pretrain_encoder.py", "video", *where, *options])
        module.main()
        return load_file(out / "model.safetensors"), json.loads((out / "history.json").read_text())


@pytest.fixture
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clips:
    return Clips(tmp_path, monkeypatch)


def test_an_interrupted_training_ends_as_one_that_was_not(pretrain: Any, clips: Clips, monkeypatch: pytest.MonkeyPatch):
    whole, told = clips.train(pretrain, "whole", "--phonemes-only")
    assert [entry["epoch"] for entry in told] == [1, 2, 3]
    collate, calls = pretrain.collate, []

    def interrupted(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:  # of three batches an epoch
            raise KeyboardInterrupt
        return collate(*args)

    monkeypatch.setattr(pretrain, "collate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        clips.train(pretrain, "parts", "--phonemes-only")
    monkeypatch.setattr(pretrain, "collate", collate)
    parts, told_again = clips.train(pretrain, "parts", "--phonemes-only")
    assert [entry["loss"] for entry in told_again] == [entry["loss"] for entry in told]
    assert parts.keys() == whole.keys()
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value)
    assert not list(clips.folder.rglob("training.pt"))


def test_phonemes_alone_leave_every_loss_on_words_out(pretrain: Any, clips: Clips):
    """Neither the words of frames, nor the letter, nor averaged tokens change what the encoder learns."""
    torch.manual_seed(0)
    source = pretrain.VideoClips(pretrain.VIDEO)
    batch = pretrain.collate(pretrain.load_clips(clips.folder, "mouth")[:2], source, None)
    encoder = pretrain.AVHubertModel(pretrain.VIDEO).eval()
    model = pretrain.Pretraining(encoder, 16, 1.0, [2], True)
    loss, _, _ = model(batch)
    loss.backward()
    untouched = {name for name, value in model.named_parameters() if value.grad is None and "encoder" not in name}
    assert untouched == {"word.weight", "word.bias", "pooled.2.weight", "pooled.2.bias"}
    batch["words"] = torch.where(batch["words"] >= 0, 7, batch["words"])
    assert model(batch)[0] == loss
    model.phonemes_only = False
    assert model(batch)[0] > loss
