"""What other systems' checkpoints need: trained encoders, more tokens, statistics, the official arithmetic."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, WhisperFeatureExtractor

import mome
from mome import MomeConfig, MomeError, MomeForSpeechRecognition, MomeProcessor
from mome.adapters import adapter_parameters
from mome.config.fields import BACKBONES
from mome.encoders.avhubert import AVHubertConfig
from mome.encoders.base import z_normalize
from mome.media import Clip
from mome.model.compat import official_audio_frames
from mome.model.cost import inference_cost, parameter_counts
from mome.rates import Rates
from tests.model.build import VOCABULARY, make_config, make_model, raw_inputs, transcripts
from tests.tiny import tiny_tokenizer

CLIPS, LABELS = [(133, 34), (64, 16)], transcripts([5, 3])
RATES = Rates(4, 2)
VIDEO_LORA = {"bottleneck": 3, "scale": 2.0}


@torch.no_grad()
def logits(model: MomeForSpeechRecognition) -> torch.Tensor:
    return model(**raw_inputs(CLIPS), labels=LABELS, rates=RATES).logits


def options_model(**options) -> MomeForSpeechRecognition:
    """A model with a video LoRA that is not at its start, if it has one."""
    model = make_model(**options)
    torch.manual_seed(4)
    for _, weight in adapter_parameters(model.video_encoder):
        torch.nn.init.normal_(weight, std=0.3)
    return model


def tied_config(tied: bool, **options) -> MomeConfig:
    """A configuration whose language model has one matrix for tokens in and out, or two."""
    config = make_config(**options)
    config.text_config.tie_word_embeddings = tied
    return config


def saved_elsewhere(model: MomeForSpeechRecognition, folder: Path, bare: MomeForSpeechRecognition) -> Path:
    """A checkpoint in ``folder/model`` that refers to the backbones of ``bare``, to which nothing was done."""
    bare.save_pretrained(folder / "backbones")
    for kind in BACKBONES:
        setattr(model.config, kind, str(folder / "backbones" / kind))
    model.save_pretrained(folder / "model")
    return folder / "model"


def disturb(module: torch.nn.Module) -> None:
    """Weights that nobody can confuse with those of the backbone on disk."""
    torch.manual_seed(9)
    for weight in module.parameters():
        weight.data.add_(0.1 * torch.randn_like(weight))


def step(model: MomeForSpeechRecognition) -> None:
    """One step of training on the tiny batch."""
    model.train()
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    model(**raw_inputs(CLIPS), labels=LABELS, matryoshka=[RATES, Rates(None, 5)]).loss.backward()
    optimizer.step()


def test_a_video_adapter_is_trained_stored_and_loaded(tmp_path):
    model = options_model(video_adapter=VIDEO_LORA)
    names = [name for name, _ in adapter_parameters(model.video_encoder)]
    assert len(names) == 4 * len(model.video_encoder.encoder.layers)
    assert all(".self_attn.q_proj.lora." in name or ".self_attn.v_proj.lora." in name for name in names)
    before = {name: value.clone() for name, value in model.named_parameters()}
    untrained = copy.deepcopy(model)
    step(model)
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert {f"video_encoder.{name}" for name in names} <= changed
    assert not [name for name in changed if name.startswith("video_encoder.") and ".lora." not in name]
    assert all(module.training == (".lora" in name) for name, module in model.video_encoder.named_modules())
    folder = saved_elsewhere(model, tmp_path, untrained)
    assert {f"video_encoder.{name}" for name in names} <= set(load_file(folder / "model.safetensors"))
    assert torch.equal(logits(MomeForSpeechRecognition.from_pretrained(folder)), logits(model))
    assert not torch.equal(logits(untrained), logits(model))


def test_without_a_trained_encoder_tokens_have_no_history():
    assert not make_model().train().encode(**raw_inputs(CLIPS)).video.frames.requires_grad
    encoded = options_model(video_adapter=VIDEO_LORA).encode(**raw_inputs(CLIPS))
    assert encoded.video.frames.requires_grad
    assert not encoded.audio.frames.requires_grad
    with torch.no_grad():
        assert not options_model(video_adapter=VIDEO_LORA).encode(**raw_inputs(CLIPS)).video.frames.requires_grad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"video_adapter": {"bottleneck": 4, "scales": 1}}, "did you mean scale"),
        ({"video_adapter": {"scale": 1.0}}, "'bottleneck' is missing"),
        ({"video_adapter": VIDEO_LORA, "video_config": None, "video_rates": ()}, "no video encoder"),
        ({"unfrozen": ["encoder"]}, "unfrozen holds 'encoder'"),
        ({"unfrozen": ["video_encoder"], "video_config": None, "video_rates": ()}, "the model has none"),
        ({"audio_config": GPT2Config()}, "audio_config is of type gpt2, not one of avhubert"),
        ({"audio_config": AVHubertConfig(), "connector": {"type": "qformer"}}, "needs 50 audio frames a second"),
        ({"added_tokens": -1}, "added_tokens=-1"),
        ({"compat": "unofficial"}, "choose official"),
        ({"compat": "official", "audio_context": "clip"}, "needs audio_context=window"),
    ],
)
def test_impossible_options_are_named(options, message):
    with pytest.raises(MomeError, match=message):
        MomeForSpeechRecognition(make_config(**options))


@pytest.mark.parametrize("kind", BACKBONES)
@pytest.mark.parametrize("tied", [False, True])
def test_an_unfrozen_backbone_is_trained_stored_and_loaded(tmp_path, kind, tied):
    torch.manual_seed(0)
    model = MomeForSpeechRecognition(tied_config(tied, unfrozen=[kind]))
    backbone = getattr(model, kind)
    assert all(value.requires_grad for value in backbone.parameters())
    before = {name: value.clone() for name, value in backbone.named_buffers()}
    step(model)
    assert all(value.grad is not None for name, value in backbone.named_parameters() if used(kind, name))
    assert all(torch.equal(value, before[name]) for name, value in backbone.named_buffers())  # batch norms stand still
    disturb(backbone)
    folder = saved_elsewhere(model, tmp_path, MomeForSpeechRecognition(tied_config(tied)))
    written = set(load_file(folder / "model.safetensors"))
    frozen = tuple(f"{name}." for name in BACKBONES if name != kind)
    assert not [name for name in written if name.startswith(frozen) and ".mome." not in name]
    loaded = MomeForSpeechRecognition.from_pretrained(folder)
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, getattr(loaded, kind).state_dict()[name])
    assert ("language_model.lm_head.weight" in written) == (kind == "language_model" and not tied)


def used(kind: str, name: str) -> bool:
    """Whether a parameter takes part in the tiny step: AV-HuBERT only looks, tokens without input get no gradient."""
    return not (kind == "video_encoder" and "feature_extractor_audio" in name) and "embed_positions" not in name


@pytest.mark.parametrize("tied", [False, True])
def test_added_tokens_are_stored_and_restored(tmp_path, tied):
    torch.manual_seed(0)
    MomeForSpeechRecognition(tied_config(tied, adapter=None)).language_model.save_pretrained(tmp_path / "base")
    markers = [VOCABULARY + 1, VOCABULARY + 2]
    model = MomeForSpeechRecognition(tied_config(tied, added_tokens=5, audio_markers=markers))
    embed, head = model.get_input_embeddings(), model.language_model.get_output_embeddings()
    assert embed.num_embeddings == len(head.weight) == model.language_model.config.vocab_size == VOCABULARY + 5
    assert (head.weight is embed.weight) == tied
    assert not embed.weight.requires_grad
    assert 0.01 < embed.weight[VOCABULARY:].std() < 0.03
    before = logits(model)
    model.config.language_model = str(tmp_path / "base")  # the encoders are stored inside
    model.save_pretrained(tmp_path / "model")
    written = load_file(tmp_path / "model" / "model.safetensors")
    assert torch.equal(written["added_embeddings"], embed.weight[VOCABULARY:])
    assert ("added_head" in written) != tied
    loaded = MomeForSpeechRecognition.from_pretrained(tmp_path / "model")
    assert loaded.config.text_config.vocab_size == VOCABULARY
    again = loaded.get_input_embeddings().weight
    assert torch.equal(again[VOCABULARY:], embed.weight[VOCABULARY:])
    assert (loaded.language_model.get_output_embeddings().weight is again) == tied
    if not tied:
        assert torch.equal(loaded.language_model.get_output_embeddings().weight[VOCABULARY:], head.weight[VOCABULARY:])
    whole = tmp_path / "whole"
    model.config.language_model = None
    model.save_pretrained(whole)
    moved = MomeForSpeechRecognition.from_pretrained(whole)
    assert moved.get_input_embeddings().num_embeddings == VOCABULARY + 5
    assert torch.equal(logits(moved), before)
    moved.save_pretrained(tmp_path / "twice")
    assert torch.equal(logits(MomeForSpeechRecognition.from_pretrained(tmp_path / "twice")), before)


def test_too_few_added_rows_are_refused(tmp_path):
    model = make_model(added_tokens=2)
    state = model.trained_state_dict()
    state["added_embeddings"] = state["added_embeddings"][:1]
    with pytest.raises(MomeError, match=r"added_embeddings is \(1, 32\) instead of \(2, 32\)"):
        model.load_trained(state, "here")


def test_video_statistics_come_from_the_checkpoint(tmp_path):
    model = make_model(video_statistics=True)
    for name, value in model.video_encoder.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            value.add_(0.5)
    drifted = logits(model)
    folder = saved_elsewhere(model, tmp_path, make_model())
    written = load_file(folder / "model.safetensors")
    expected = {f"video_encoder.{name}" for name, _ in model.video_encoder.named_buffers() if "running_" in name}
    assert expected
    assert {name for name in written if name.startswith("video_encoder.")} == expected
    assert torch.equal(logits(MomeForSpeechRecognition.from_pretrained(folder)), drifted)
    assert not torch.equal(logits(make_model()), drifted)


def test_trained_encoders_and_added_tokens_are_counted():
    plain, config = make_config(), make_config(video_adapter=VIDEO_LORA, added_tokens=5, unfrozen=["audio_encoder"])
    counts, before = parameter_counts(config), parameter_counts(plain)
    lora = 4 * 3 * 32  # up and down of two projections
    assert counts.adapter_total == before.adapter_total + lora
    audio = sum(p.numel() for p in MomeForSpeechRecognition(plain).audio_encoder.parameters())
    assert counts.frozen == before.frozen - audio + 2 * 5 * 32  # embedding and head
    costs = [inference_cost(one, RATES, 40, 20, 1) for one in (plain, config)]
    assert costs[1].video_encoder - costs[0].video_encoder == 20 * 2 * lora
    assert costs[1].prefill - costs[0].prefill == 2 * 32 * 5


def test_added_rows_leave_the_backbones_vocabulary_alone():
    plain = make_model(adapter=None)
    parts = (plain.audio_encoder.encoder, plain.video_encoder, copy.deepcopy(plain.language_model))
    model = MomeForSpeechRecognition(make_config(added_tokens=3, adapter=None), *parts)
    model.connector = plain.connector
    assert torch.equal(logits(model)[..., :VOCABULARY], logits(plain))
    assert model.config.text_config.vocab_size == VOCABULARY


def test_golden_official_trimming(request):
    path: Path = request.config.getoption("--golden") / "whisper-trim.json"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    table = json.loads(path.read_text())["bf16_default_dtype_as_under_lightning_bf16_true"]
    assert {int(samples): official_audio_frames(int(samples)) for samples in table} == {
        int(samples): tokens for samples, tokens in table.items()
    }


def clip(samples: int, frames: int, seed: int = 0) -> Clip:
    rng = np.random.default_rng(seed)
    audio = rng.standard_normal(samples).astype(np.float32)
    return Clip(audio, rng.integers(0, 256, (frames, 96, 96), dtype=np.uint8), frames / 25)


def processor(**options) -> MomeProcessor:
    config = make_config(**{"audio_context": "window", **options})
    return MomeProcessor.for_config(config, tiny_tokenizer(), WhisperFeatureExtractor(feature_size=10))


def test_official_padding_counts_and_sound_is_trimmed_in_bfloat16():
    clips = [clip(37760, 59), clip(16000, 25)]
    right, official = processor()(clips), processor(compat="official")(clips)
    assert right["input_features_mask"].sum(1).tolist() == [236, 100]
    assert official["input_features_mask"].sum(1).tolist() == [238, 238]
    assert right["pixel_values_videos_mask"].sum(1).tolist() == [59, 25]
    assert official["pixel_values_videos_mask"].sum(1).tolist() == [59, 59]
    assert torch.equal(right["input_features"], official["input_features"])
    assert torch.equal(right["pixel_values_videos"], official["pixel_values_videos"])
    assert processor(compat="official")([clip(480_000, 750)])["input_features_mask"].sum() == 3000  # no more is there
    assert processor(compat="official")([clip(1000, 2)])["input_features_mask"].sum() == 50  # never less


def test_official_stacking_leaves_a_remainder_of_the_video_out_before_it_is_encoded():
    options = {"compression": "stack", "video_rates": (3,), "compat": "official"}
    batch = processor(**options)([clip(16000, 25), clip(24320, 38)])
    assert batch["pixel_values_videos"].shape[1] == 36
    assert not batch["pixel_values_videos"][0, 24:].any()
    assert batch["pixel_values_videos"][0, 23].any()
    for other in ({"compression": "average"}, {"video_rates": (3, 5)}, {"compat": None}):
        assert processor(**{**options, **other})([clip(24320, 38)])["pixel_values_videos"].shape[1] == 38


def test_the_audio_normalisation_is_the_official_one():
    wave = np.random.default_rng(0).standard_normal(50_000).astype(np.float32) * 0.01 + 0.2
    theirs = torch.nn.functional.layer_norm(torch.from_numpy(wave), (len(wave),), eps=1e-8).numpy()
    np.testing.assert_allclose(z_normalize(wave), theirs, atol=1e-4)


def test_compat_is_a_keyword_of_loading_and_travels_with_the_model(tmp_path, tiny_model):
    shutil.copytree(tiny_model, tmp_path / "model")
    for name in ("config.json", "processor_config.json"):
        values = json.loads((tmp_path / "model" / name).read_text())
        assert values["audio_context"] == "clip"
        (tmp_path / "model" / name).write_text(json.dumps(values | {"audio_context": "window"}))
    assert mome.load(tmp_path / "model").processor.compat is None
    loaded = mome.load(tmp_path / "model", compat="official")
    assert loaded.model.config.compat == loaded.processor.compat == "official"
    loaded.model.save_pretrained(tmp_path / "again")
    loaded.processor.save_pretrained(tmp_path / "again")
    again = mome.load(tmp_path / "again")
    assert again.model.config.compat == again.processor.compat == "official"
    assert MomeConfig.from_pretrained(tmp_path / "again").compat == "official"
    pair = [clip(37760, 59), clip(16000, 25)]
    tokens = {t.tokens.audio for (t,) in loaded.transcribe_batch(pair, [Rates(4, 2)], max_new_tokens=1)}
    assert tokens == {119 // 4}
    with pytest.raises(MomeError, match="needs audio_context=window"):
        mome.load(tiny_model, compat="official")


def test_processor_files_of_plain_models_are_as_before(tmp_path):
    assert not {"compat", "video_multiple", "audio_input"} & set(processor().to_dict())
    assert processor(compat="official").to_dict()["compat"] == "official"
