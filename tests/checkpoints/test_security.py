"""A model folder can name its own files only, and no code to run."""

import ast
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig

import mome
from mome.checkpoints.bundled import bundled_folder
from mome.checkpoints.settings import check_settings, read_settings
from mome.config.generation import CTC_WEIGHT, NAMES, PER_SECOND, check_call, check_decoding
from mome.errors import MomeError

ROOT = Path(__file__).parents[2]
CLIP = Path(mome.__file__).parent / "demo" / "clip.mp4"
LOADING = ("from_pretrained", "from_config", "pipeline")


def loading_calls(tree: ast.AST):
    """Calls of Transformers' loading functions, also by ``partial`` or another name for them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", None))
            if name in LOADING:
                yield node


@pytest.mark.parametrize("place", ["src", "scripts"])
def test_every_loading_call_refuses_remote_code_outright(place):
    forgotten, seen = [], 0
    for path in (ROOT / place).rglob("*.py"):
        for call in loading_calls(ast.parse(path.read_text(encoding="utf-8"))):
            said = {word.arg: ast.unparse(word.value) for word in call.keywords}
            owner = ast.unparse(call.func)
            if owner == "MomeForSpeechRecognition.from_pretrained":
                continue  # our own, which has no such option
            seen += 1
            if said.get("trust_remote_code") != "False":
                forgotten.append(f"{path.relative_to(ROOT)}:{call.lineno}")
    assert not forgotten
    assert seen >= (8 if place == "src" else 1)


def test_the_walk_finds_a_forgotten_call():
    tree = ast.parse("AutoConfig.from_pretrained(x)\nload = AutoModel.from_config\n")
    assert [call.lineno for call in loading_calls(tree)] == [1]


@pytest.fixture
def folder(tmp_path):
    """A copy of the bundled model with code that writes a file when it runs."""
    model = tmp_path / "model"
    shutil.copytree(bundled_folder(), model)
    code = f"from pathlib import Path\nPath({str(tmp_path / 'mark')!r}).touch()\n"
    for place in (model, model / "language_model", model / "audio_encoder", model / "video_encoder"):
        (place / "custom_generate").mkdir()
        (place / "custom_generate" / "generate.py").write_text(code + "def generate(**k): return k['inputs_embeds']\n")
        (place / "evil.py").write_text(code + "class Evil: pass\n")
    return model


def edit(file: Path, **changes) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


EVIL = {"custom_generate": "evil", "trust_remote_code": True}
CLASSES = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoFeatureExtractor", "AutoProcessor")
AUTO = {**dict.fromkeys(CLASSES, "evil.Evil"), "AutoTokenizer": ["evil.Evil", "evil.Evil"]}
ASKS = {
    "generation": ("config.json", {"generation": EVIL}, "custom_generate"),
    "generation, by path": ("config.json", {"generation": {"custom_generate": "{folder}"}}, "custom_generate"),
    "generation trusted alone": ("config.json", {"generation": {"trust_remote_code": True}}, "trust_remote_code"),
    "kernel": ("language_model/config.json", {"attn_implementation": "owner/kernel"}, "attn_implementation"),
    "kernel, nested": ("config.json", {"text_config": {"attn_implementation": "a/b"}}, "attn_implementation"),
    "audio tokenizer": (
        "processor_config.json",
        {"audio_tokenizer": {"audio_tokenizer_class": "DacModel", "audio_tokenizer_name_or_path": "/etc"}},
        "audio_tokenizer",
    ),
    "vocabulary elsewhere": ("tokenizer_config.json", {"vocab_file": "/etc/passwd"}, "vocab_file"),
    "tokenizer elsewhere": ("tokenizer_config.json", {"tokenizer_file": "../../x.json"}, "tokenizer_file"),
    "compiled on use": ("config.json", {"_attn_implementation": "flex_attention"}, "attn_implementation"),
    "part of the bundled": ("config.json", {"language_model": "mome-tiny/../../x"}, "language model"),
    "part elsewhere": ("config.json", {"language_model": "./../../language_model"}, "outside the model folder"),
}


@pytest.mark.parametrize("ask", ASKS)
def test_what_a_folder_may_not_ask_for_is_refused_by_name(folder, ask):
    file, changes, named = ASKS[ask]
    edit(folder / file, **json.loads(json.dumps(changes).replace("{folder}", str(folder))))
    with pytest.raises(MomeError, match=named) as caught:
        mome.load(folder).transcribe(CLIP, "16,-")
    assert "\n" not in str(caught.value)
    assert not (folder.parent / "mark").exists()


@pytest.mark.parametrize(
    "file",
    [
        *("config.json", "processor_config.json", "tokenizer_config.json", "language_model/config.json"),
        *("audio_encoder/config.json", "video_encoder/config.json"),
    ],
)
def test_auto_map_runs_nothing_and_asks_nothing(folder, file, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked"))
    edit(folder / file, auto_map=AUTO)
    assert mome.load(folder).transcribe(CLIP, "4,-").text == "bin blue at f two now"
    assert not (folder.parent / "mark").exists()


def test_an_unknown_type_with_code_of_its_own_is_refused(folder):
    edit(folder / "language_model" / "config.json", model_type="evil", auto_map=AUTO)
    with pytest.raises(MomeError, match="language_model"):
        mome.load(folder)
    assert not (folder.parent / "mark").exists()


def test_a_folder_with_somebody_elses_adapter_is_refused(folder):
    # Transformers would load what base_model_name_or_path names instead of the folder's own model.
    (folder / "language_model" / "adapter_config.json").write_text('{"base_model_name_or_path": "/elsewhere"}')
    with pytest.raises(MomeError, match=r"adapter_config\.json leads to another model"):
        mome.load(folder)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"num_beams": 0}, "num_beams=0|num_beams = 0"),
        ({"num_beams": 10**6}, "num_beams"),
        ({"num_beams": 2.0}, "num_beams"),
        ({"num_beams": True}, "num_beams"),
        ({"num_beams": [2]}, "num_beams"),
        ({"num_beam": 2}, "did you mean num_beams"),
        ({"max_new_tokens": -1}, "max_new_tokens"),
        ({"max_new_tokens": "many"}, "max_new_tokens"),
        ({"max_new_tokens": 10**400}, "max_new_tokens"),
        ({"min_new_tokens": 9, "max_new_tokens": 3}, "min_new_tokens"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": 0}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"do_sample": 1}, "do_sample"),
        ({"early_stopping": "sometimes"}, "early_stopping"),
        ({"eos_token_id": [1, "x"]}, "eos_token_id"),
        ({"streamer": "TextStreamer"}, "streamer"),
        ({"logits_processor": []}, "logits_processor"),
        ({"cache_implementation": "static"}, "cache_implementation"),
        ({"generation_config": {}}, "generation_config"),
        ({"num_return_sequences": 3}, "num_return_sequences"),
        ({"return_dict_in_generate": True}, "return_dict_in_generate"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "penalty_alpha"),
        ({"assistant_model": "owner/name"}, "assistant_model"),
        ({7: 8}, "'7'"),
        (["num_beams"], "by name"),
    ],
)
def test_decoding_options_come_from_a_typed_list(options, named):
    with pytest.raises(MomeError, match=named) as caught:
        mome.MomeConfig(audio_rates=(4,), generation=options)
    assert "\n" not in str(caught.value)
    if isinstance(options, dict) and "generation_config" not in options and 7 not in options:
        with pytest.raises(MomeError, match=named):
            check_call(options)


def test_every_listed_option_is_one_of_generate():
    plain = GenerationConfig()
    assert [name for name in NAMES if not hasattr(plain, name)] == [PER_SECOND, CTC_WEIGHT], "our own"


def test_possible_options_pass_and_null_leaves_out():
    options = {"num_beams": 4, "temperature": 0.6, "early_stopping": "never", "eos_token_id": [1, 2], "top_p": None}
    assert check_decoding(options) == {name: value for name, value in options.items() if value is not None}
    check_call({"generation_config": GenerationConfig(num_beams=2)})
    assert check_call({"num_beams": None, "max_new_tokens": np.int64(3)}) == {"max_new_tokens": 3}
    with pytest.raises(MomeError, match="num_return_sequences"):
        check_call({"generation_config": GenerationConfig(num_return_sequences=2, num_beams=2)})


def test_a_call_is_refused_before_any_work(monkeypatch):
    model = mome.load()
    monkeypatch.setattr(model.model, "encode", lambda **_: pytest.fail("the encoders ran"))
    clip = model.load_clip(CLIP, [mome.Rates(16, None)])
    monkeypatch.setattr("mome.decoding.transcriber.load_clip", lambda *_, **__: pytest.fail("the file was read"))
    for given in (clip, CLIP):
        for option in ({"custom_generate": "evil", "trust_remote_code": True}, {"streamer": object()}):
            with pytest.raises(MomeError, match=next(iter(option))):
                model.transcribe(given, "16,-", **option)


def test_an_option_that_is_none_is_not_given():
    assert mome.load().transcribe(CLIP, "4,-", num_beams=None, generation_config=None).text == "bin blue at f two now"


def test_generate_itself_runs_no_code():
    model = mome.load().model
    with pytest.raises(MomeError, match="custom_generate"):
        model.generate(rates=mome.Rates(4, None), custom_generate="evil")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a readable"),
        ("[" * 100_000, "not a readable"),
        ("[]", "not a readable"),
        ('{"model_type": "mome", "a": ' + '{"a": ' * 60 + "1" + "}" * 61, "deep"),
        ('{"num_hidden_layers": 100000}', "num_hidden_layers = 100000"),
        ('{"hidden_size": -1000000000}', "hidden_size"),
    ],
)
def test_settings_that_no_model_has(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(MomeError, match=message):
        check_settings(tmp_path)


def test_settings_that_are_no_file(tmp_path):
    (tmp_path / "config.json").symlink_to("/dev/zero")
    with pytest.raises(MomeError, match="not a file"):
        read_settings(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config.json", {"projector_hidden": 2**40}, "projector_hidden"),
        ("config.json", {"projector_hidden": 2**19}, "do not fit config.json"),
        (
            "config.json",
            {"adapter": {"type": "mome", "routed_experts": 10**6}},
            "more than any|do not fit|cannot|built",
        ),
        ("config.json", {"description": "a\x1b[2Jb"}, "description"),
        ("config.json", {"prompt_ids": {"avsr": [10**5], "asr": [1], "vsr": [1]}}, "prompt_ids of avsr"),
        ("config.json", {"audio_rates": [4, 16, 20]}, "do not fit config.json"),
        ("config.json", {"audio_rates": "4"}, "audio_rates"),
        ("language_model/config.json", {"hidden_size": 2**15}, "million|size|built"),
        ("language_model/config.json", {"num_hidden_layers": 9}, "not all of its weights|another"),
        ("language_model/config.json", {"num_hidden_layers": 1}, "describes another language model"),
        ("processor_config.json", {"image_size": 88}, "image_size"),
        ("config.json", {"audio_encoder": None}, "where the audio_encoder is"),
        ("config.json", {"language_model": None}, "where the language_model is"),
        ("config.json", {"language_model": ""}, "language_model="),
        ("config.json", {"language_model": "./" + "a" * 5000}, "language_model="),
        ("config.json", {"language_model": "./" + "a" * 300}, "cannot be loaded"),
        ("config.json", {"language_model": "a\nb/c"}, "language_model="),
        ("config.json", {"generation": {"eos_token_id": 100_000}}, "eos_token_id holds token 100000"),
        ("tokenizer_config.json", {"eos_token": None}, "end token|missing or damaged"),
    ],
)
def test_damaged_settings_are_one_line(folder, file, changes, message):
    edit(folder / file, **changes)
    with pytest.raises(MomeError, match=message) as caught:
        mome.load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{"n_fft": 2**40}, {"n_fft": 2**28}, {"n_fft": 7}, {"dither": 1e12}])
def test_a_feature_extractor_of_other_sizes_is_one_line(folder, change):
    values = json.loads((folder / "processor_config.json").read_text())["feature_extractor"]
    edit(folder / "processor_config.json", feature_extractor={**values, **change})
    with pytest.raises(MomeError, match=next(iter(change))):
        mome.load(folder)


@pytest.mark.parametrize("outside", ["{secret}", "../../secret/model.safetensors", "/etc/passwd"])
def test_an_index_of_weights_stays_in_its_folder(folder, tmp_path, outside):
    part, secret = folder / "language_model", tmp_path / "secret"
    secret.mkdir()
    state = load_file(part / "model.safetensors")
    (part / "model.safetensors").rename(secret / "model.safetensors")
    file = outside.replace("{secret}", str(secret / "model.safetensors"))
    index = {"metadata": {}, "weight_map": dict.fromkeys(state, file)}
    (part / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(MomeError, match=r"index\.json names weights outside its folder"):
        mome.load(folder)


@pytest.mark.parametrize("name", ["a" * 300, "/" + "a" * 300, "a\nb", "a\x00b", ""])
def test_names_that_cannot_be_folders_are_one_line(name):
    with pytest.raises(MomeError) as caught:
        mome.load(name)
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_numbers_are_refused(folder):
    state = load_file(folder / "model.safetensors")
    name = next(iter(state))
    state[name].view(-1)[0] = float("nan")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MomeError, match=f"{name} holds numbers that are not finite"):
        mome.load(folder)
