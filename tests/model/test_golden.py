"""Whole recognisers against the numbers of the original implementations: same weights, same inputs.

Each family runs on all its cases in ``--golden``. Tolerances: activations 1e-5, logits 5e-5, losses 1e-5.
"""

from __future__ import annotations

import re

import pytest
import torch

from mome.connectors.mixture import route
from mome.connectors.pooling import compress
from mome.model import MomeForSpeechRecognition
from mome.model.model import EncodedClips
from mome.model.objective import IGNORED_LABEL, SpeechOutput
from mome.rates import Rates
from tests.conftest import Golden
from tests.model.golden import (
    MODALITIES,
    PROMPTED,
    batch,
    close,
    labels_of,
    listed_rates,
    predicting,
    rates_of,
    recogniser,
)

LOGITS = 5e-5


def passes(golden: Golden) -> list[str]:
    """Endings of the outputs' names, one for each teacher-forced pass of the original."""
    found = [key.removeprefix("logits") for key in golden.outputs if key.startswith("logits")]
    assert found
    return found


def check_encoders(golden: Golden, encoded: EncodedClips) -> None:
    for side, name in (("audio", "whisper_enc"), ("video", "avhubert_enc")):
        features, official = getattr(encoded, side), golden.outputs.get(name)
        if features is not None and official is not None:
            size = min(features.frames.shape[1], official.shape[1])
            close(features.frames[:, :size], official[:, :size])


def check_projectors(golden: Golden, model: MomeForSpeechRecognition, encoded: EncodedClips) -> None:
    pattern = re.compile(r"(audio|video)_tokens_projected(?:\.rate(\d+))?$")
    found = [match for match in map(pattern.match, golden.outputs) if match]
    assert found
    for match in found:
        side, rate = match[1], int(match[2] or listed_rates(golden.config, match[1])[0])
        features = getattr(encoded, side)
        if rate > 1:  # at rate 1 the original skips the compression
            pooled, _ = compress(features.frames, features.lengths, rate, model.config.compression)
            close(pooled, golden.outputs[match[0].replace("projected", "compressed")])
        projected, _ = getattr(model.connector, side)(features.frames, features.lengths, rate)
        close(projected, golden.outputs[match[0]])


def check_pass(golden: Golden, model: MomeForSpeechRecognition, encoded: EncodedClips, name: str) -> SpeechOutput:
    """One teacher-forced pass: what the language model reads, its logits and the transcripts' loss."""
    outputs, labels, rates = golden.outputs, labels_of(golden), rates_of(golden, name)
    clips = [rates] * len(labels)
    actual = model.assemble(model.connect(encoded, clips), clips, labels)
    # Ours is padded on the left and lacks the end token, after which nothing is predicted.
    for row, mask, official in zip(actual.embeddings, actual.mask, outputs[f"inputs_embeds{name}"], strict=True):
        close(row[mask], official[: int(mask.sum())])
    output = model(encoded=encoded, rates=rates, labels=labels)
    official = predicting(outputs[f"logits{name}"], outputs[f"labels{name}"], labels.shape[1])
    close(output.logits * (labels != IGNORED_LABEL)[..., None], official, LOGITS)
    close(output.transcript_losses[str(rates)], outputs[f"loss{name}"])
    return output


def check_generation(golden: Golden, model: MomeForSpeechRecognition) -> None:
    """All that the original wrote of the first clip alone, greedily or by beam search."""
    inputs = batch(golden.inputs, "t.")
    encoded, clips = model.encode(**inputs), len(next(iter(inputs.values())))
    for key, official in golden.outputs.items():
        if key.startswith("infer.inputs_embeds"):
            rates = rates_of(golden, key.removeprefix("infer.inputs_embeds"))
            close(model.prepare(encoded, [rates] * clips).embeddings, official)
    pattern = re.compile(r"infer\.(?:greedy|beam(\d+))_ids(.*)")
    found = [match for match in map(pattern.match, golden.outputs) if match]
    assert found
    for match in found:
        official = golden.outputs[match[0]]
        actual = model.generate(
            encoded=encoded,
            rates=rates_of(golden, match[2]),
            num_beams=int(match[1] or 1),
            max_new_tokens=official.shape[1],
            do_sample=False,
        )
        assert actual.tolist() == official.tolist(), match[0]


@pytest.mark.golden("llama-avsr")
@torch.no_grad()
def test_golden_llama_avsr(golden):
    outputs, factor = golden.outputs, golden.config.get("sink_loss_factor") or 0
    model = recogniser(golden, decorrelation_weight=factor)
    encoded = model.encode(**batch(golden.inputs))
    check_encoders(golden, encoded)
    check_projectors(golden, model, encoded)
    output = check_pass(golden, model, encoded, "")
    if factor:
        # With its factor the loss is in the hundreds, where float32 does not reach 1e-5.
        close(output.connector_losses["decorrelation"], outputs["sink_decor_loss"] / factor, 1e-6)
        torch.testing.assert_close(output.loss, outputs["sink_total_loss"], rtol=1e-5, atol=0)
    else:
        close(output.loss, outputs["loss"])
    check_generation(golden, model)


@pytest.mark.golden("llama-mtsk")
@torch.no_grad()
def test_golden_llama_mtsk(golden):
    model, labels, names = recogniser(golden), labels_of(golden), passes(golden)
    encoded = model.encode(**batch(golden.inputs))
    check_encoders(golden, encoded)
    check_projectors(golden, model, encoded)
    for name in names:
        check_pass(golden, model, encoded, name)
    all_rates = [rates_of(golden, name) for name in names]
    assert set(all_rates) == set(model.config.rate_set.rates([MODALITIES[golden.config["modality"]]]))
    close(model(encoded=encoded, matryoshka=all_rates, labels=labels).loss, golden.outputs["loss_mean"])
    check_generation(golden, model)


@pytest.mark.golden("omni-avsr")
@torch.no_grad()
def test_golden_omni_avsr(golden):
    model, labels, outputs = recogniser(golden), labels_of(golden), golden.outputs
    assert model.config.adapter_groups == (model.config.tasks if golden.config.get("task_specific") else [])
    for modality, task in MODALITIES.items():
        ids = torch.tensor([model.config.text_ids(task)])
        close(model.get_input_embeddings()(ids), golden.state[f"prompt_{modality}"], 0)
    encoded = model.encode(**batch(golden.inputs))
    check_encoders(golden, encoded)
    steps: dict[str, dict[str, Rates]] = {}
    for name in passes(golden):
        check_pass(golden, model, encoded, name)
        _, modality, pair = name.split(".")
        steps.setdefault(pair, {})[MODALITIES[modality]] = rates_of(golden, name)
    # The originals' weights are in the order audio, video, both.
    task_weights = dict(zip(PROMPTED, golden.config.get("matry_weights") or (1, 1, 1), strict=True))
    for pair, rates in steps.items():
        assert set(rates) == set(task_weights)
        output = model(encoded=encoded, matryoshka=list(rates.values()), labels=labels, task_weights=task_weights)
        close(output.loss, outputs[f"train_loss.{pair}"])
        for modality, task in MODALITIES.items():
            actual = task_weights[task] * output.transcript_losses[str(rates[task])]
            close(actual, outputs[f"weighted_loss.{modality}.{pair}"])
    check_generation(golden, model)


@pytest.mark.golden("llama-smop")
@torch.no_grad()
def test_golden_llama_smop(golden):
    config, outputs = golden.config, golden.outputs
    options = {"experts": config["experts"], "top_k": config["top_k"], "sharing": "joint"}
    # The original's coefficient belongs to a loss that is top_k at balance, the option to one that is 1.
    balance_weight = config["load_balancing_coeff"] * config["top_k"]
    factors = {"balance_weight": balance_weight, "z_weight": config["router_z_coeff"]}
    model = recogniser(golden, connector={"type": "mixture", **options, **factors})
    encoded = model.encode(**batch(golden.inputs))
    check_encoders(golden, encoded)
    rates = rates_of(golden, "")
    connected = model.connect(encoded, [rates] * len(outputs["proj_out"]))
    fed = torch.stack([torch.cat(pair) for pair in zip(connected.audio, connected.video, strict=True)])
    close(fed, outputs["proj_out"])
    # Both modalities go through one router, so its choice for their tokens is that for the original's.
    gate = model.connector.audiovisual["gate"]
    assert torch.equal(route(gate(outputs["proj_in"].flatten(0, 1)), config["top_k"]).chosen, outputs["topk_idx"])
    output = check_pass(golden, model, encoded, "")
    close(config["top_k"] * output.connector_losses["balance"], outputs["load_balancing_loss"])
    close(output.connector_losses["z"], outputs["router_z_loss"])
    close(output.loss, outputs["total_loss"])
    check_generation(golden, model)
