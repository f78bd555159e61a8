"""Cross-entropies of transcripts against a slow computation of their own, and what noise changes of them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

import mome
from mome.data.clips import ClipStore
from mome.data.manifests import read_manifest
from mome.decoding import load
from mome.errors import MomeError
from mome.evaluation.losses import transcript_losses
from mome.rates import Rates

RATES = [Rates(4, None), Rates(None, 5), Rates(16, 2)]
CLIP = Path(mome.__file__).parent / "demo" / "clip.mp4"
TEXTS = {"one": "bin blue at f two now", "two": "set white"}


@pytest.fixture
def rows(tmp_path: Path):
    manifest = tmp_path / "clips.csv"
    with manifest.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["id", "path", "split", "text"])
        lines.writerows([name, CLIP, "test", text] for name, text in TEXTS.items())
    return read_manifest(manifest, "test")


@torch.no_grad()
def test_each_clips_mean_over_its_tokens_and_the_mean_over_all_tokens(rows, tiny_model, tmp_path):
    transcriber = load(tiny_model)
    model, store = transcriber.model, ClipStore(tmp_path / "store", audio=True, video=True)
    found = transcript_losses(transcriber, rows, RATES, store)
    encoded = model.encode(**transcriber.processor([store.get(rows[0])]))
    assert found.tokens == [len(text.split()) + 1 for text in TEXTS.values()], "each word is a token, and the end"
    for rates in RATES:
        heard, sums = model.prepare(encoded, [rates]).embeddings, []
        for text in TEXTS.values():
            (labels,) = transcriber.processor.labels([text])
            sequence = torch.cat([heard, model.get_input_embeddings()(labels[None, :-1])], 1)
            logits = model.language_model(inputs_embeds=sequence).logits[0, heard.shape[1] - 1 :]
            sums.append(-sum(float(row.log_softmax(-1)[label]) for row, label in zip(logits, labels, strict=True)))
        means = [total / count for total, count in zip(sums, found.tokens, strict=True)]
        assert found.by_clip[str(rates)] == pytest.approx(means, abs=2e-4)
        assert found.means()[str(rates)] == pytest.approx(sum(sums) / sum(found.tokens), abs=2e-4)


def test_noise_changes_what_is_heard_alone(rows, tiny_model, tmp_path):
    transcriber = load(tiny_model)
    store = ClipStore(tmp_path / "store", audio=True, video=True)
    noise = np.random.default_rng(1).standard_normal(50_000).astype(np.float32)
    clean = transcript_losses(transcriber, rows, RATES, store)
    noisy = transcript_losses(transcriber, rows, RATES, store, noise=noise, snr_db=-5.0)
    assert noisy.by_clip["-,5"] == clean.by_clip["-,5"]
    assert all(noisy.by_clip[name] != clean.by_clip[name] for name in ("4,-", "16,2"))
    assert transcript_losses(transcriber, rows, RATES, store, noise=noise).by_clip == clean.by_clip


def test_rates_that_the_model_does_not_have_are_refused(rows, tiny_model, tmp_path):
    transcriber = load(tiny_model)
    store = ClipStore(tmp_path / "store", audio=True, video=True)
    with pytest.raises(MomeError, match="not in this model's rate set"):
        transcript_losses(transcriber, rows, [Rates(3, None)], store)
