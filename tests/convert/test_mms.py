from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, WhisperConfig, WhisperFeatureExtractor, WhisperModel

import mome
from mome.connectors import connector_config, qformer
from mome.connectors.speech_rate import SpeechRatePredictor
from mome.convert import mms
from mome.convert.mms import convert
from mome.encoders.avhubert import AVHubertConfig, AVHubertModel
from mome.errors import MomeError
from mome.media import Clip
from mome.rates import Rates
from mome.training.loading import SHIPPED
from tests.conftest import Golden
from tests.convert.fairseq import container, save
from tests.convert.mms import (
    INSTRUCTION,
    SETTINGS,
    WORDS,
    predictor,
    predictor_shapes,
    published,
    state,
    trained_shapes,
)
from tests.model.golden import avhubert_config, close, predicting, text_config
from tests.model.test_golden_mms import (
    HEADS,
    IGNORED_LABEL,
    UNUSED_VIDEO,
    encode,
    our_name,
    padded,
    targets,
    use_official_speech_rates,
)


@pytest.fixture
def files(foreign, tmp_path):
    return published(foreign, tmp_path)


@pytest.fixture
def heads(monkeypatch):
    """So many heads as fit the tiny Q-Former; the published one has 16."""
    monkeypatch.setattr(mms, "HEADS", 4)


def clip(seconds: float = 1.0) -> Clip:
    sound = np.random.default_rng(1).uniform(-0.3, 0.5, int(16_000 * seconds)).astype(np.float32)
    return Clip(sound, np.full((int(25 * seconds), 96, 96), 99, np.uint8), seconds)


def test_every_tensor_gets_its_place(files, heads, tmp_path):
    path, sources = files
    account = convert(path, tmp_path / "out", sources)
    theirs = state(tmp_path) | predictor()
    assert account.tensors == len(theirs)
    model = mome.load(tmp_path / "out").model
    ours, used = model.state_dict(), 0
    unused = re.compile(r".*\.num_batches_tracked|.*position_ids|.*weight\..+")
    for key, value in theirs.items():
        if our_name(key) in ours and not unused.fullmatch(key):
            torch.testing.assert_close(ours[our_name(key)], value, rtol=0, atol=0)
            used += 1
    assert used == account.used == len(load_file(tmp_path / "out" / "model.safetensors"))
    assert account.lines()[2:6] == [
        "unused: Qformer.* (18 tensors), the Q-Former's part for text",
        "unused: llama.* (16 tensors), about the language model's weights in 4 bits",
        f"unused: avhubert.* ({sum('tracked' in key for key in theirs)} tensors), for training only",
        "note: the language model was trained in 4 bits, and is used as it is: quantization_config of mome.load",
    ]


def test_the_configuration_is_that_of_the_published_code(files, heads, tmp_path):
    path, sources = files
    convert(path, tmp_path / "out", sources)
    loaded = mome.load(tmp_path / "out")
    config, tokenizer = loaded.model.config, loaded.processor.tokenizer
    assert config.start_ids == [0, *range(3, 3 + len(INSTRUCTION.split()))]
    assert (config.tasks, config.text_ids("avsr"), config.added_tokens) == (["avsr"], [], 0)
    assert loaded.processor.labels(["hello world"]).tolist() == [[0, WORDS.index("hello"), WORDS.index("world"), 1]]
    assert tokenizer.padding_side == "right"
    lora = model_lora(loaded.model)
    assert (lora.scale, lora.dropout) == (3.0, 0.05)  # alpha 6, rank 2
    assert (config.generation, config.connector["queries_per_second"]) == ({"num_beams": 5}, 1)
    places = [config.audio_encoder, config.video_encoder, config.language_model]
    assert places == [str(tmp_path / name) for name in ("audio_encoder", "video_encoder", "language_model")]


def model_lora(model):
    return model.language_model.model.layers[1].self_attn.o_proj.lora


def test_whisper_hears_the_sound_as_it_is(files, heads, tmp_path):
    path, sources = files
    convert(path, tmp_path / "out", sources)
    processor, wave = mome.load(tmp_path / "out").processor, clip().audio
    theirs = WhisperFeatureExtractor(feature_size=16, chunk_length=2)(wave, sampling_rate=16_000, return_tensors="np")
    np.testing.assert_allclose(processor.audio(wave)[0], theirs.input_features[0], rtol=0, atol=1e-6)
    # Llama-AVSR and its successors normalise it.
    processor.feature_extractor.do_normalize = True
    assert np.abs(processor.audio(wave)[0] - theirs.input_features[0]).max() > 0.05


def test_a_converted_folder_transcribes(files, heads, tmp_path):
    path, sources = files
    convert(path, tmp_path / "out", sources)
    written = mome.load(tmp_path / "out").transcribe(clip(2.0), "16,8", max_new_tokens=3, num_beams=1)
    assert 2 <= written.tokens.fused <= 4  # one or two a second
    assert written.tokens.prompt == 1 + len(INSTRUCTION.split())


def test_names_and_shapes_are_ours_at_real_size(tmp_path):
    known = yaml.safe_load((SHIPPED / "base" / "backbones.yaml").read_text())
    names = {"language_model": "meta-llama/Llama-3.2-3B", "audio_encoder": "openai/whisper-medium.en"}
    for kind, name in names.items():
        AutoConfig.for_model(**known[name]).save_pretrained(tmp_path / kind)
    AVHubertConfig().save_pretrained(tmp_path / "video_encoder")
    shapes = trained_shapes(width=1024, llm=3072, values=1024, layers=28, inner=4096, rank=16, per_second=3)
    shapes |= {f"sr_predictor.{key}": shape for key, shape in predictor_shapes(1024).items()}
    state = {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}
    places = {kind: str(tmp_path / kind) for kind in (*names, "video_encoder")}
    config, notes = mms.read_config(
        state, SETTINGS | {"queries_per_sec": 3}, mms.Sources(**places, speech_rate=tmp_path), "a.pt"
    )
    weights, unused = mms.fit(config, state, "a.pt")
    assert (notes, len(weights) + sum(group.tensors for group in unused)) == ([], len(state))
    reader = connector_config(config.connector)
    assert (reader.heads, reader.layers, qformer.learned_queries(reader)) == (16, 2, 120)


def test_official_arithmetic_is_that_of_other_systems(files, heads, tmp_path):
    path, sources = files
    convert(path, tmp_path / "out", sources)
    with pytest.raises(MomeError, match="compat=official is the arithmetic of systems that normalise the sound"):
        mome.load(tmp_path / "out", compat="official")


def test_a_factor_is_assumed_only_without_settings(files, heads, foreign, tmp_path):
    path, sources = files
    bare = save({"model": state(tmp_path)}, tmp_path / "bare.pt")
    account = convert(bare, tmp_path / "out", sources)
    assert "the file does not show the factor of its LoRA, so assumed: 2.0 (--lora-scale)" in account.notes
    assert model_lora(mome.load(tmp_path / "out").model).scale == 2
    account = convert(path, tmp_path / "told", replace(sources, lora_scale=0.5))
    assert not any("assumed" in note for note in account.notes)
    assert model_lora(mome.load(tmp_path / "told").model).scale == 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"afeat_1d_conv.bias": None}, r"\(1 difference\): afeat_1d_conv.bias is missing"),
        ({"stray.weight": torch.zeros(2)}, "stray.weight is unknown"),
        ({"llama.model.embed_tokens.weight": torch.zeros(2)}, "llama.model.embed_tokens.weight is unknown"),
        (
            {"llama.model.layers.1.self_attn.k_proj.lora_B.default.weight": None},
            "llama.model.layers.1.self_attn.k_proj.lora_B.default.weight is missing",
        ),
        (
            {"Qformer.bert.encoder.layer.1.crossattention.self.key.weight": torch.zeros(16, 16)},
            r"Qformer.bert.encoder.layer.1.crossattention.self.key.weight is \(16, 16\) instead of \(16, 32\)",
        ),
        (
            {"avhubert.w2v_model.feature_extractor_video.resnet.frontend3D.1.running_mean": None},
            "avhubert.w2v_model.feature_extractor_video.resnet.frontend3D.1.running_mean is missing",
        ),
        ({"query_tokens": None}, "is not a checkpoint of MMS-LLaMA: it has no query_tokens"),
        ({"query_tokens": torch.zeros(1, 80, 16)}, "has 80 queries of width 16, which does not fit 1 a second"),
        ({"query_tokens": torch.zeros(3)}, "has 0 queries of width 0"),
    ],
)
def test_what_does_not_fit_is_named(foreign, heads, tmp_path, change, message):
    path, sources = published(foreign, tmp_path, change)
    with pytest.raises(MomeError, match=message):
        convert(path, tmp_path / "out", sources)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("setting", "value"),
    [("modality_fuse", "add"), ("use_qformer", False), ("use_sr_predictor", False), ("window_level", True)],
)
def test_other_models_of_the_code_are_refused(foreign, heads, tmp_path, setting, value):
    path, sources = published(foreign, tmp_path, **{setting: value})
    with pytest.raises(MomeError, match=f"was made with {setting}={value}; only"):
        convert(path, tmp_path / "out", sources)


def test_a_predictor_that_is_none_is_refused(files, heads, foreign, tmp_path):
    path, sources = files
    with pytest.raises(MomeError, match=r"best\.pt is not a checkpoint of MMS-LLaMA's speech-rate predictor"):
        convert(path, tmp_path / "out", replace(sources, speech_rate=path))
    short = {key: value for key, value in predictor().items() if "fc1.bias" not in key}
    other = save(container(foreign, short, None, None), tmp_path / "short.pt")
    with pytest.raises(MomeError, match=r"\(2 differences\): sr_predictor.encoder.layers.0.fc1.bias is missing"):
        convert(path, tmp_path / "out", replace(sources, speech_rate=other))


def test_a_tokenizer_without_a_start_token_is_refused(files, heads, tmp_path):
    path, sources = files
    name = Path(sources.language_model) / "tokenizer_config.json"
    name.write_text(re.sub(r'"bos_token": "<s>",', "", name.read_text()))
    with pytest.raises(MomeError, match="has no start or end token"):
        convert(path, tmp_path / "out", sources)


def golden_files(golden: Golden, foreign: dict[str, type], folder: Path) -> tuple[Path, mms.Sources]:
    """A golden case as published: frozen parts in folders of their own, the predictor in a file of its own."""
    state, config = golden.state, golden.config
    language_model = AutoModelForCausalLM.from_config(text_config(config))
    whisper = WhisperModel(WhisperConfig(**config["whisper"]))
    avhubert = AVHubertModel(avhubert_config(state, "avhubert.w2v_model.", HEADS))
    statistics = {key for key, _ in avhubert.named_buffers()}
    frozen: dict[str, dict[str, torch.Tensor]] = {"language_model": {}, "audio_encoder": {}, "video_encoder": {}}
    kept, rate = {}, {}
    for key, value in state.items():
        part, _, rest = our_name(key).partition(".")
        if key.startswith("sr_predictor."):
            rate[key] = value
        elif UNUSED_VIDEO.match(key):  # parameters, which the original leaves out with the other frozen ones
            pass
        elif part in frozen and ".lora." not in rest and rest not in statistics:
            frozen[part][rest.removeprefix("encoder.") if part == "audio_encoder" else rest] = value
        else:
            kept[key] = value
    language_model.load_state_dict(frozen["language_model"])
    whisper.encoder.load_state_dict(frozen["audio_encoder"])
    assert statistics >= set(avhubert.load_state_dict(frozen["video_encoder"], strict=False).missing_keys)
    for name, model in zip(frozen, (language_model, whisper, avhubert), strict=True):
        model.save_pretrained(folder / name)
    instruction, llm = golden.inputs["instruction"].tolist(), config["llm"]
    words = {f"word{number}": number for number in range(llm["vocab_size"])}
    tokenizer = tokenizer_saying(words, instruction[1:], llm)
    tokenizer.save_pretrained(folder / "language_model")
    lora = config["lora"]
    settings = SETTINGS | {"queries_per_sec": config["queries_per_sec"]}
    settings |= {"lora_rank": lora["r"], "lora_alpha": lora["alpha"]}
    path = save(container(foreign, kept, settings, None), folder / "best.pt")
    predicted = save(container(foreign, rate, None, None), folder / "rate.pt")
    return path, mms.Sources(**{name: str(folder / name) for name in frozen}, speech_rate=predicted)


def tokenizer_saying(words: dict[str, int], ids: list[int], llm: dict):
    """A tokenizer of words by which the published instruction has these ids."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel(words, unk_token="word0"))
    said = " ".join(f"word{number}" for number in ids)
    made.normalizer = normalizers.Replace("Recognize this speech in English. Input : ", said)
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    start, end = (f"word{llm[f'{name}_token_id']}" for name in ("bos", "eos"))
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token=start, eos_token=end)


@pytest.mark.golden("mms-llama")
@torch.no_grad()
def test_golden_mms_llama_converted(golden, foreign, monkeypatch, tmp_path):
    sizes, reader = golden.config["speech_rate_predictor"], golden.config["qformer"]
    tiny = (sizes["dim"], sizes["ffn"], sizes["heads"], sizes["layers"])
    monkeypatch.setattr(qformer, "SpeechRatePredictor", lambda width: SpeechRatePredictor(width, *tiny))
    monkeypatch.setattr(mms, "HEADS", reader["heads"])
    path, sources = golden_files(golden, foreign, tmp_path)
    convert(path, tmp_path / "out", sources)
    model = mome.load(tmp_path / "out").model
    assert model.config.start_ids == golden.inputs["instruction"].tolist()
    encoded, outputs, labels = encode(golden, model), golden.outputs, padded(targets(golden))
    use_official_speech_rates(golden, model, encoded, monkeypatch)
    output = model(encoded=encoded, rates=Rates(16, 8), labels=labels)
    official = predicting(outputs["logits"], outputs["llm_labels"], labels.shape[1])
    close(output.logits * (labels != IGNORED_LABEL)[..., None], official, 5e-5)
    close(output.transcript_losses["16,8"], outputs["loss"])
    greedy = outputs["infer.greedy_ids"]
    written = model.generate(
        encoded=encoded, rates=Rates(16, 8), max_new_tokens=greedy.shape[1], do_sample=False, num_beams=1
    )
    assert written.tolist() == greedy.tolist()
