"""The alignment before the training through the language model, and beside it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from mome.model.objective import IGNORED_LABEL
from mome.text.grid import SLOTS
from mome.training.run import train
from tests.tiny import END, START, tiny_tokenizer
from tests.training.test_run import losses, recipe

# At one frame a token the toy's second is long enough for its six words in sound and in video, at 16 it is not.
ALIGN = ["align.steps=80", "align.learning_rate=0.01", "model.audio_rates=[2,16]", "model.video_rates=[1,2]"]
SHORT = ["optim.steps=4", "optim.log_steps=1", "optim.rates_per_step=null", "validation.rates=[]"]


def history(output: Path) -> list[dict[str, Any]]:
    return json.loads((output / "history.json").read_text())


@pytest.fixture(scope="module")
def reader(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy with a language model that repeats the words whose embeddings stand before the prompt."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(toy, folder, dirs_exist_ok=True)
    place, tokenizer = folder / "backbones" / "language_model", tiny_tokenizer()
    model = AutoModelForCausalLM.from_pretrained(place)
    torch.manual_seed(0)
    model.apply(
        lambda module: torch.nn.init.normal_(module.weight, std=0.1) if hasattr(module, "in_features") else None
    )
    embed, optimizer = model.get_input_embeddings(), torch.optim.AdamW(model.parameters(), lr=3e-3)
    prompt = torch.tensor(tokenizer("Transcribe speech to text.").input_ids).expand(32, -1)
    slots = [torch.tensor(tokenizer.convert_tokens_to_ids(list(slot))) for slot in SLOTS]
    for _ in range(400):
        words = torch.stack([slot[torch.randint(len(slot), (32,))] for slot in slots], dim=1)
        heard = embed(words).repeat_interleave(2, dim=1) * (0.5 + torch.rand(32, 12, 1))
        written = torch.cat([words, torch.full((32, 1), END)], dim=1)
        parts = [embed(torch.full((32, 1), START)), heard, embed(prompt), embed(words)]
        logits = model(inputs_embeds=torch.cat(parts, dim=1)).logits[:, -written.shape[1] :]
        loss = F.cross_entropy(logits.flatten(0, 1), written.flatten(), ignore_index=IGNORED_LABEL)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print("reader", loss.item())
    model.save_pretrained(place)
    return folder


def test_it_lowers_the_first_loss_through_the_language_model(toy: Path, reader: Path, tmp_path: Path):
    def first(backbones: Path, name: str, *options: str) -> float:
        (tmp_path / name).mkdir()
        given = ["optim.tasks=[asr]", "model.video_encoder=null", "model.audio_rates=[2,3]", "model.video_rates=[]"]
        given += ["optim.steps=1", "optim.rates_per_step=null", "validation.rates=[]", "data.max_frames=300"]
        return losses(train(recipe(backbones, tmp_path / name / "run"), [*given, *options]))[0][1]

    align = ["align.steps=150", "align.learning_rate=0.01"]
    print(first(reader, "without"), first(reader, "with", *align), first(toy, "deaf"), first(toy, "deaf_with", *align))
