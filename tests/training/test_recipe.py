from __future__ import annotations

import csv
import math
from functools import cache
from pathlib import Path

import pytest

from mome.errors import MomeError
from mome.rates import Rates
from mome.training import load_config, load_recipe, recipe_names
from mome.training.loading import SHIPPED, read_layers

shipped = cache(load_recipe)  # only to be read
BASE = """
model: {language_model: llm, audio_encoder: whisper, audio_rates: [4, 16]}
data: {manifests: [a.csv, b.csv]}
output: runs/base
"""


def write(folder: Path, text: str, name: str = "mine") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


def test_values_bases_and_overrides_in_this_order(tmp_path):
    write(tmp_path, BASE + "optim: {epochs: 1, learning_rate: 1e-3, seed: 1}\n", "low")
    write(tmp_path, "base: low\noptim: {learning_rate: 2e-3}\n", "middle")
    write(tmp_path, "augment: {snr: [0, .inf]}\noptim: {seed: 2}\n", "noisy")
    path = write(tmp_path, "base: [middle, noisy]\nmodel: {audio_rates: [8]}\noutput: runs/mine\n")
    recipe = load_recipe(path, ["optim.epochs=3", "model.adapter.bottleneck=4", "validation.rates=['8,-']"])
    assert (recipe.optim.epochs, recipe.optim.learning_rate, recipe.optim.seed) == (3, 2e-3, 2)
    assert recipe.model.audio_rates == [8]
    assert recipe.model.adapter == {"bottleneck": 4}
    assert recipe.model.language_model == "llm"
    assert recipe.augment.snr == [0.0, math.inf]
    assert recipe.data.manifests == ["a.csv", "b.csv"]
    assert [Rates.parse(rates) for rates in recipe.validation.rates] == [Rates(8, None)]
    assert recipe.output == "runs/mine"


def test_defaults_are_the_published_ones(tmp_path):
    recipe = load_recipe(write(tmp_path, BASE))
    assert recipe.optim.epochs == 10
    assert recipe.optim.weight_decay == 0.1
    assert recipe.model.balance_weight == 0.01
    assert recipe.augment.snr == [-5, 0, 5, 10, 15, 20, math.inf]


def test_shipped_recipes_can_be_named():
    names = recipe_names()
    assert "mome-tiny" in names
    assert len(names) == len(set(names)) >= 109
    for name in names:
        recipe = shipped(name)
        assert recipe.optim.tasks
        assert recipe.output == f"runs/{name}"
        assert (recipe.data.manifests, recipe.augment.noise) == ([], None), "the user names them"
        assert recipe.data.source


def facts(name: str) -> dict[str, str]:
    """What tells a recipe from the others, as recipes.csv has it."""
    recipe = shipped(name)
    model, optim = recipe.model, recipe.optim
    connector, adapter = model.connector or {"type": "projectors"}, model.adapter or {"type": "-"}
    flags = {"projector_norm": model.projector_norm, "bos": model.bos, "stack": model.compression == "stack"}
    flags["video_adapter"] = model.video_adapter is not None
    lines = [
        connector["type"],
        *(f"{key}={connector[key]}" for key in connector if key in ("queries", "sharing", "hidden")),
    ]
    more = [f"{key}={adapter[key]}" for key in ("placement", "shared", "specific", "dropout") if key in adapter]
    parts = {part: getattr(model, part) for part in ("language_model", "audio_encoder", "video_encoder")}
    return {
        "name": name,
        **{part: "-" if path is None else path.rpartition("/")[2] for part, path in parts.items()},
        "audio_rates": " ".join(map(str, model.audio_rates)),
        "video_rates": " ".join(map(str, model.video_rates)),
        "tasks": " ".join(optim.tasks),
        "connector": " ".join(lines),
        "adapter": " ".join([adapter["type"], *([str(adapter["bottleneck"])] if model.adapter else []), *more]),
        "flags": " ".join(flag for flag, there in flags.items() if there),
        "learning_rate": f"{optim.learning_rate:g}",
        "length": f"{optim.epochs:g} epochs" if optim.steps is None else f"{optim.steps} steps",
        "max_frames": str(recipe.data.max_frames),
    }


def test_shipped_recipes_are_those_of_the_table():
    with open(Path(__file__).parent / "recipes.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) >= 109
    assert {row["name"] for row in table} <= set(recipe_names())
    for row in table:
        assert facts(row["name"]) == row


def test_every_shipped_file_is_part_of_a_recipe():
    used = {file for name in recipe_names() for file, _ in read_layers(name)}
    files = {str(path) for path in SHIPPED.rglob("*.yaml")}
    assert files - used == {str(SHIPPED / "base" / f"{name}.yaml") for name in ("asr-fine", "backbones")}


@pytest.mark.parametrize(
    ("name", "bases"),
    [
        ("mome-layer-grid", "[corpora/grid, systems/mome-layer]"),
        ("llama-avsr-asr-lrs2", "[corpora/lrs2, systems/llama-avsr-asr]"),
        ("mome-ffn-vsr-lrs3", "[corpora/lrs3, systems/mome-ffn, variants/vsr]"),
        ("llama-mtsk-ss-8b-lrs3", "[corpora/lrs3, systems/llama-mtsk-ss, variants/8b]"),
        ("llama-avsr-asr-8b-lrs3", "[corpora/lrs3, systems/llama-avsr-asr, variants/8b]"),
    ],
)
def test_a_name_stands_for_corpus_system_and_variant(tmp_path, name, bases):
    assert load_recipe(write(tmp_path, f"base: {bases}\n", name)) == load_recipe(name)


def test_a_corpus_may_be_for_some_systems_only():
    names = [name for name in recipe_names() if name.endswith("-speech")]
    assert len(names) == 8
    assert {tuple(load_recipe(name).optim.tasks) for name in names} == {("asr",)}
    names = [name for name in recipe_names() if name.endswith("-grid-real")]
    assert len(names) == 9
    assert {tuple(load_recipe(name).optim.tasks) for name in names} == {("avsr",)}
    corpora = "m3-grid, m3-grid-real, m3-lrs2, m3-lrs3"
    with pytest.raises(MomeError, match=f"m3 is a system: add a corpus, as in {corpora}$"):
        load_recipe("m3")
    with pytest.raises(MomeError, match="no recipe at mome-layer-speech: did you mean mome-layer-"):
        load_recipe("mome-layer-speech")


def test_what_a_layer_says_where_another_is_there():
    """Which the files of systems and variants say; a user's file has no such key."""
    norms = {corpus: load_recipe(f"llama-mtsk-ms-{corpus}").model.projector_norm for corpus in ("grid", "lrs2", "lrs3")}
    assert norms == {"grid": False, "lrs2": True, "lrs3": True}
    for system in ("llama-avsr", "m3", "mome-layer", "mome-ffn", "mome-mhsa", "mome-mhsa-independent"):
        same = {corpus: load_recipe(f"{system}-{corpus}").model.projector_norm for corpus in norms}
        assert same == norms, "what is compared differs by its adapter alone"
    assert load_recipe("mome-layer-vsr-lrs3").optim.learning_rate == 5e-4
    assert load_recipe("mome-layer-vsr-grid").optim.learning_rate == 2e-3
    compressions = {corpus: load_recipe(f"llama-avsr-8b-{corpus}").model.compression for corpus in ("lrs2", "lrs3")}
    assert compressions == {"lrs2": "average", "lrs3": "stack"}, "where both of two layers are there"
    assert load_recipe("llama-avsr-lrs3").model.compression == "average"
    assert load_recipe("mome-layer-8b-lrs3").model.adapter["bottleneck"] == "width/512", "the more special comes later"


def test_lip_reading_as_it_was_compared():
    """With Llama-3.2-3B on both corpora, AV-HuBERT frozen; only Llama-AVSR's own model, with 8B, adapts it."""
    systems = [
        f"{name}-vsr" for name in ("llama-avsr", "llama-mtsk-ms", "llama-mtsk-ss", "llama-mtsk-mss", "mome-layer")
    ]
    for name in (f"{system}-{corpus}" for system in systems for corpus in ("lrs2", "lrs3")):
        model = shipped(name).model
        assert (model.language_model, model.video_adapter) == ("meta-llama/Llama-3.2-3B", None), name
        assert (model.compression, model.projector_norm) == ("average", True), name
    assert load_recipe("llama-avsr-vsr-8b-lrs3").model.video_adapter == {"bottleneck": 64}


def test_only_shipped_files_have_such_conditions(tmp_path):
    for key in ("where", "systems", "variants", "corpora"):
        path = write(tmp_path, f"base: mome-tiny\noptim: {{epochs: 3}}\n{key}: {{grid: {{optim: {{epochs: 4}}}}}}\n")
        with pytest.raises(MomeError, match=f"unknown key {key}"):
            load_recipe(path)


def test_mms_llama_as_published():
    recipe = load_recipe("mms-llama-lrs3")
    assert (recipe.optim.steps, recipe.optim.learning_rate, recipe.optim.warmup_steps) == (30000, 1e-4, 500)
    noisy = [snr for snr in recipe.augment.snr if math.isfinite(snr)]
    assert len(noisy) / len(recipe.augment.snr) == 0.75
    config = load_config("mms-llama-lrs3")
    assert config.start_ids == ["BOS", "Recognize", "this", "speech", "in", "English", ".", "Input", ":"]
    assert config.text_ids("avsr") == []
    assert config.adapter_config.dropout == 0.05
    assert load_recipe("mms-llama-grid").optim.steps is None


def test_a_base_may_be_a_shipped_recipe(tmp_path):
    recipe = load_recipe(write(tmp_path, "base: mome-tiny\noptim: {epochs: 2}\n"))
    assert recipe.optim.epochs == 2
    assert recipe.model.adapter == load_recipe("mome-tiny").model.adapter


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BASE + "optim: {epoch: 3}", "unknown key optim.epoch: did you mean optim.epochs?"),
        (BASE + "optims: {epochs: 3}", "unknown key optims: did you mean optim?"),
        (BASE + "learning_rate: 3", "unknown key learning_rate: did you mean optim.learning_rate?"),
        (BASE + "optim: {epochs: many}", "optim.epochs=many is not possible: give a number"),
        (BASE + "augment: {crop: 3.5}", "augment.crop=3.5 is not possible: give true or false"),
        (BASE + "validation: {rates: 4}", "validation.rates=4 is not possible: give a list of texts"),
        (BASE + "optim: 3", "optim holds keys of its own, such as optim.tasks=VALUE"),
        (BASE + "optim:\n", "optim holds keys of its own"),
        (
            "data: {manifests: [a.csv]}\noutput: x",
            "lacks model.language_model: add it to the recipe or give model.language_model=",
        ),
        ("- a\n- b\n", "is not a mapping of keys to values"),
        ("optim: {epochs: [\n", "is not readable YAML"),
        ("base: mine\n", "is based on itself"),
        ("base: nowhere-at-all\n", "no recipe at nowhere-at-all"),
    ],
)
def test_faults_are_named(tmp_path, text, message):
    with pytest.raises(MomeError) as caught:
        load_recipe(write(tmp_path, text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_loop_of_bases(tmp_path):
    write(tmp_path, "base: b", "a")
    write(tmp_path, "base: c", "b")
    write(tmp_path, "base: a", "c")
    with pytest.raises(MomeError, match=r"recipe .*a\.yaml is based on itself"):
        load_recipe(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.epochs", "'optim.epochs' is not key=value, such as optim.epochs=3"),
        ("optim.eposh=3", "'optim.eposh=3': unknown key optim.eposh: did you mean optim.epochs?"),
        ("epochs=3", "did you mean optim.epochs?"),
        ("optim.epochs=soon", "optim.epochs=soon is not possible: give a number"),
        ("augment.crop=maybe", "augment.crop=maybe is not possible: give true or false"),
        ("optim=3", "optim holds keys of its own"),
        ("optim.tasks=[avsr", "the value of optim.tasks is not readable"),
    ],
)
def test_faults_of_overrides_are_named(tmp_path, override, message):
    with pytest.raises(MomeError) as caught:
        load_recipe(write(tmp_path, BASE), [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_false_is_false(tmp_path):
    recipe = load_recipe(write(tmp_path, BASE), ["augment.flip=False", "augment.crop=no", "augment.time_mask=0"])
    assert (recipe.augment.flip, recipe.augment.crop, recipe.augment.time_mask) == (False, False, False)


def test_the_finer_audio_rates(tmp_path):
    config = load_config(write(tmp_path, "base: [mome-layer-asr-lrs3, base/asr-fine]"))
    assert config.rate_set.audio == (2, 4, 6, 8, 10)


def test_unknown_recipes():
    with pytest.raises(MomeError, match="no recipe at mome-tyni: did you mean mome-tiny"):
        load_recipe("mome-tyni")
    with pytest.raises(MomeError, match="no recipe at mome-layer-asr-8b-lrs3: did you mean mome-layer-asr-lrs3"):
        load_recipe("mome-layer-asr-8b-lrs3")
    shipped = r"no recipe at gone\.yaml: shipped recipes are mome-base, mome-tiny, SYSTEM-C"
    with pytest.raises(MomeError, match=shipped) as refused:
        load_recipe("gone.yaml")
    assert all(
        path.stem in str(refused.value) for kind in ("systems", "corpora") for path in (SHIPPED / kind).iterdir()
    )


def test_a_model_from_a_recipe_needs_no_weights(tmp_path, tiny_model):
    path = write(
        tmp_path,
        f"""
model:
  language_model: {tiny_model}/language_model
  video_encoder: {tiny_model}/video_encoder
  video_rates: [2, 5]
  projector_hidden: 12
  adapter: {{type: mome, bottleneck: 2, routed_experts: 4, top_k: 2}}
optim: {{tasks: [vsr]}}
output: x
""",
    )
    config = load_config(path, ["model.video_rates=[3]", "model.adapter.top_k=1"])
    assert config.audio_config is None
    assert config.video_config.image_size == 24
    assert config.text_config.hidden_size == 48
    assert (config.rate_set.audio, config.rate_set.video) == ((), (3,))
    assert config.adapter_config.top_k == 1
    assert (config.projector_hidden, config.language_model) == (12, f"{tiny_model}/language_model")
    assert load_config(path, ["model.adapter.bottleneck=width/20"]).adapter["bottleneck"] == 2
    assert load_config(path, ["model.adapter.bottleneck=width/100"]).adapter["bottleneck"] == 1
    for override, message in (
        ("model.adapter.bottleneck=width/0", "=width/0 is not possible: give a whole number, or a part of"),
        ("model.adapter.bottleneck=small", "=small is not possible: give a whole number, or a part of"),
        ("model.adapter.top_n=1", "did you mean top_k?"),
        ("model.video_encoder=null", "neither model.audio_encoder nor model.video_encoder"),
        (f"model.audio_encoder={tiny_model}/language_model", "is of type llama, not one of avhubert"),
        (f"model.language_model={tmp_path}", "has no config.json: give a model"),
        ("optim.tasks=[avsr]", "the model has no rates for avsr: set model.audio_rates and video_rates"),
        ("optim.rates=['-,4']", r"rates \(-,4\) are not in this model's rate set"),
        ("optim.rates_up_to=8", "optim.rates_up_to draws any rates: it needs model.connector.type=resampler"),
        ("optim.top_k=[1, 5]", "optim.top_k = 5 is not possible: choose 1 to 4, the routed experts"),
        ("optim.top_k=[]", "optim.top_k is empty"),
        ("optim.top_k=[0]", "optim.top_k=0 is not possible: give 1 or more"),
        ("validation.rates=['-,4']", r"rates \(-,4\) are not in this model's rate set"),
    ):
        with pytest.raises(MomeError, match=message):
            load_config(path, [override])


def test_experts_are_drawn_only_where_there_are_some():
    for adapter in ("null", "{type: lora, bottleneck: 4}"):
        with pytest.raises(MomeError, match=r"optim.top_k = 1 is not possible: the model has no routed experts"):
            load_config("llama-mtsk-ms-grid", [f"model.adapter={adapter}", "optim.top_k=[1, 2]"])


def test_an_adapter_of_another_type_starts_anew():
    assert load_recipe("mome-layer-grid", ["model.adapter={type: lora, bottleneck: 4}"]).model.adapter == {
        "type": "lora",
        "bottleneck": 4,
    }
    assert load_recipe("mome-layer-grid", ["model.adapter.type=lora", "model.adapter.bottleneck=3"]).model.adapter == {
        "type": "lora",
        "bottleneck": 3,
    }
    assert (
        load_recipe("mome-layer-grid", ["model.adapter={type: mome, top_k: 2}"]).model.adapter["routed_experts"] == 23
    )


@pytest.mark.parametrize("modality", ["audio", "video"])
def test_rates_without_their_encoder_are_refused(modality):
    with pytest.raises(MomeError, match=rf"model\.{modality}_rates=.* need model\.{modality}_encoder"):
        load_config("mome-layer-grid", [f"model.{modality}_encoder=null"])


def test_a_system_alone_is_no_recipe():
    with pytest.raises(MomeError, match="is a system: add a corpus, as in mome-layer-grid, mome-layer-grid-real, "):
        load_recipe("mome-layer")
