"""Every key of a recipe with values of every kind: each is valid or refused in one line, whatever reads the recipe."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from mome.errors import MomeError
from mome.training import load_config, load_recipe
from mome.training.loading import LARGEST
from mome.training.recipe import AlignRecipe, AugmentRecipe, DataRecipe, ModelRecipe, OptimRecipe, ValidationRecipe
from tests.tiny import tiny_tokenizer

PARTS = {
    "model": ModelRecipe,
    "data": DataRecipe,
    "augment": AugmentRecipe,
    "align": AlignRecipe,
    "optim": OptimRecipe,
    "validation": ValidationRecipe,
}
KEYS = [f"{part}.{field.name}" for part, schema in PARTS.items() for field in fields(schema)]
KEYS += [*PARTS, "output", "base", "optim.task_weights.avsr", "model.prompts.avsr"]
VALUES = [
    *("-1", "0", "1", "3.5", "nan", ".nan", "-.inf", "1e400", "9" * 5000, "1" + "0" * 400, "0x10", "1:2", "2001-01-01"),
    *("", "''", "x", "é", "x" * 5000, "a/" * 3000, '"\\0"', "\ud800", "a\nb", "null", "true", "???", "${oc.env:HOME}"),
    *("[]", "{}", "[[1]]", "[null]", "[x]", "[-1]", "[.inf]", "[1,2,3]", "[" * 500, "{a: {b: c}}", "{1: 2}", "&a [*a]"),
    *("!!python/object/apply:os.getcwd []", "!!binary aGk=", "!!bool x", "!other x", "{a: 1, a: 2}"),
]


@pytest.fixture
def recipe(tmp_path: Path, tiny_model: Path) -> Path:
    return write(
        tmp_path,
        f"""
model:
  audio_encoder: {tiny_model}/audio_encoder
  video_encoder: {tiny_model}/video_encoder
  language_model: {tiny_model}/language_model
  audio_rates: [4, 16]
  video_rates: [2, 5]
  projector_hidden: 12
  adapter: {{type: mome, bottleneck: 2, routed_experts: 4, top_k: 2}}
data: {{manifests: [m.csv]}}
output: x
""",
        "mine.yaml",
    )


def write(folder: Path, text: str, name: str = "other.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8", errors="replace")
    return path


def refusal(path: Path, *overrides: str, read=load_recipe) -> str:
    with pytest.raises(MomeError) as caught:
        read(path, overrides)
    assert len(str(caught.value)) < 1000
    return " ".join(str(caught.value).split())


def valid_or_refused(path: Path, *overrides: str, read=load_recipe) -> str:
    """The refusal, or nothing; whatever else is raised fails the test."""
    try:
        read(path, overrides)
    except MomeError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("number", "key"), list(enumerate(KEYS)))
def test_a_value_is_valid_or_refused_in_one_line(recipe, number, key):
    for value in VALUES[number % 6 :: 6]:  # every key with some, every value with some
        assert len(valid_or_refused(recipe, f"{key}={value}")) < 1000


@pytest.mark.parametrize("key", ["model.adapter", "data.manifests", "optim.epochs"])
def test_the_same_in_files(recipe, tmp_path, key):
    part, name = key.split(".")
    for value in VALUES:
        path = write(tmp_path, f"base: {recipe.stem}\n{part}:\n  {name}: {value}\n")
        assert len(valid_or_refused(path)) < 1000


NESTED = {
    "{type: mome}": (
        "type",
        "placement",
        "routed_experts",
        "shared_experts",
        "top_k",
        "bottleneck",
        "renormalize",
        "dropout",
        "routers",
    ),
    "{type: lora, bottleneck: 2}": ("bottleneck", "scale", "targets", "shared", "specific", "dropout"),
    "{type: mixture}": ("experts", "top_k", "sharing", "balance_weight", "z_weight"),
    "{type: resampler}": ("queries", "heads"),
    "{type: qformer}": ("queries_per_second", "longest", "hidden", "layers", "heads", "inner", "words_per_second"),
}


@pytest.mark.parametrize("options", NESTED)
def test_options_of_adapters_and_connectors_too(recipe, options):
    part = "model.adapter" if "mome" in options or "lora" in options else "model.connector"
    for name in NESTED[options]:
        for value in ("-1", "3.5", ".nan", "1" + "0" * 400, "x", "[1]", "{}", "null"):
            refused = valid_or_refused(
                recipe, f"{part}=null", f"{part}={options}", f"{part}.{name}={value}", read=load_config
            )
            assert not refused or name in refused or "cannot be built" in refused


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.epochs=nan", "optim.epochs=nan is not possible: give a number above 0"),
        ("optim.learning_rate=1e400", "optim.learning_rate=inf is not possible: give a number above 0"),
        ("optim.clip_norm=-1", "optim.clip_norm=-1.0 is not possible: give a number from 0 up"),
        ("optim.seed=-1", "optim.seed=-1 is not possible: give 0 or more"),
        ("optim.seed=4294967296", "give 4294967295 or less"),
        ("optim.betas=[0.9,1]", "give two numbers from 0 to less than 1"),
        ("optim.tasks=[]", "optim.tasks is empty: choose from avsr, asr, vsr"),
        ("optim.tasks=[lips]", "unknown task 'lips'"),
        ("optim.task_weights={avsr: 0}", "leaves every task without weight"),
        ("optim.rate_weights={'4;2': 1}", "optim.rate_weights: rates '4;2' are not readable"),
        ("optim.rate_weights={'4,2': -1}", "optim.rate_weights.4,2=-1.0 is not possible: give a number from 0 up"),
        ("optim.rates=[4]", "optim.rates: rates '4' are not readable"),
        ("validation.rates=['4;2']", "validation.rates: rates '4;2' are not readable"),
        ("data.manifests=['']", "data.manifests is empty: name a file or folder"),
        ("data.workers=100000", "data.workers=100000 is not possible: give 256 or less"),
        ("data.max_frames=0", "data.max_frames=0 is not possible: give 1 or more"),
        (f"output={'x' * 300}", "is longer than the name of a file can be"),
        ("augment.snr=[101]", "augment.snr holds 101.0"),
        ("augment.feature_time_masks=1", "augment.feature_time_masks masks cached features: give data.cache=tokens"),
        ("augment.feature_time_width=0", "augment.feature_time_width=0 is not possible: give 1 or more"),
        ("augment.token_noise=1.5", "augment.token_noise=1.5 is not possible: give a number from 0 to 1"),
        ("align.steps=0", "align.steps=0 is not possible: give 1 or more"),
        ("align.weight=-1", "align.weight=-1.0 is not possible: give a number from 0 up"),
        ("align.step=5", "unknown key align.step: did you mean align.steps?"),
        (
            "model.audio_rates=[0]",
            "model.audio_rates=[0] is not possible: give a list of at most 64 whole numbers",
        ),
        ("model.compression=sum", "model.compression='sum' is not possible: give average, stack or segments"),
        (f"model.video_encoder={'x' * 300}", "is longer than the name of a file can be"),
        ("model.prompts={lips: read}", "model.prompts: unknown task 'lips'"),
        ("model.compat=official", "unknown key model.compat"),
        ("output=${oc.env:HOME}", "references such as ${name} are not read"),
    ],
)
def test_refusals_name_key_and_remedy(recipe, override, message):
    assert message in refusal(recipe, override)
    assert message in refusal(recipe, override, read=load_config)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["optim.rate_weights={'8,2': 1}"],
            "rate_weights has 8,2, which is not trained: the rates are 4,2 4,5 16,2 16,5",
        ),
        (
            ["optim.rate_weights={'4,2': 1}", "optim.rates=['16,5']"],
            "optim.rate_weights has 4,2, which is not trained: the rates are 16,5",
        ),
        (
            ["optim.rate_weights={'4,2': 0, '4,5': 0, '16,2': 0, '16,5': 0}"],
            "optim.rate_weights leaves every rate without weight: give one a number above 0",
        ),
        (
            ["optim.rate_weights={'4,2': 1}", "model.connector={type: resampler}", "optim.rates_up_to=8"],
            "optim.rate_weights and optim.rates_up_to exclude each other: give one",
        ),
    ],
)
def test_weights_of_rates_that_are_not_trained(recipe, overrides, message):
    assert message in refusal(recipe, *overrides, read=load_config)
    assert not valid_or_refused(recipe, "optim.rate_weights={'4,2': 0, '16,5': 3}", read=load_config)


@pytest.mark.parametrize("text", ["wide", "width/0", "3.5", "3.5 M", "-1M", "1e3M", ".5M"])
def test_bottlenecks_that_are_no_size(recipe, text):
    message = refusal(recipe, f"model.adapter.bottleneck='{text}'", read=load_config)
    assert (
        message.endswith("such as width/32, or the active parameters in millions such as 3.5M")
        or "bottleneck" in message
    )


@pytest.mark.parametrize(
    "override",
    [
        "model.adapter.bottleneck=1000000000000",
        "model.projector_hidden=1e9",
        "model.connector={type: resampler, heads: 7}",
        "model.adapter={routed_experts: 4, top_k: 9}",
    ],
)
def test_what_cannot_be_built_is_refused_from_the_configuration(recipe, override):
    assert "\n" not in refusal(recipe, override, read=load_config)


@pytest.mark.parametrize(
    ("part", "name", "value", "expected"),
    [
        ("optim", "weight_decay", "x", "a number"),
        ("optim", "epochs", "{a: 1}", "a number"),
        ("optim", "seed", "1.5", "a whole number"),
        ("optim", "betas", "[1, x]", "a list of numbers, such as [0.9, 0.98]"),
        ("optim", "task_weights", "[1]", "a number for each task, such as {avsr: 1.0}"),
        ("optim", "rate_weights", "[1]", "a number for each pair of rates, such as {'16,5': 2.0}"),
        ("optim", "rate_weights", "{'4,2': much}", "a number for each pair of rates, such as {'16,5': 2.0}"),
        ("optim", "rates", "4", "a list of texts, such as [TEXT], or null"),
        ("data", "manifests", "m.csv", "a list of texts, such as [TEXT]"),
        ("data", "manifests", "{a: b}", "a list of texts, such as [TEXT]"),
        ("data", "limit", "few", "a whole number, or null"),
        ("model", "audio_rates", "4", "a list of whole numbers, such as [4, 16]"),
        ("model", "generation", "[1]", "options by name, such as {NAME: VALUE}, or null"),
        ("model", "language_model", "null", "one text"),
        ("model", "self_contained", "maybe", "true or false"),
        ("model", "prompts", "{avsr: null}", "a text for each task, such as {avsr: TEXT}"),
    ],
)
def test_a_value_of_another_type_is_told_with_its_key(recipe, tmp_path, part, name, value, expected):
    path = write(tmp_path, f"base: {recipe.stem}\n{part}: {{{name}: {value}}}\n")
    for refused in (refusal(path), refusal(recipe, f"{part}.{name}={value}")):
        assert f": {part}.{name}=" in refused
        assert refused.endswith(f" is not possible: give {expected}")


def test_the_output_is_told_too(recipe):
    assert refusal(recipe, "output=[1]").endswith("output=[1] is not possible: give one text")


def test_every_key_is_told(recipe):
    for key in (f"{part}.{field.name}" for part, schema in PARTS.items() for field in fields(schema)):
        refused = [valid_or_refused(recipe, f"{key}={value}") for value in ("{a: {b: [c]}}", "[[[1]]]")]
        assert any(refused), key
        assert all(key in message for message in refused if message)


@pytest.mark.parametrize("tokenizer", [True, False])
@pytest.mark.parametrize("positions", [2048, 50])
def test_texts_are_no_longer_than_a_model_can_have(recipe, tiny_model, tmp_path, tokenizer, positions):
    folder = tmp_path / "language_model"
    shutil.copytree(tiny_model / "language_model", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": positions}))
    if tokenizer:
        tiny_tokenizer().save_pretrained(folder)
    words, refused = (1001, "the 1000 possible") if positions > 1000 else (50, "the language model holds 50 in all")
    text = " ".join(["blue"] * words)
    for key, option in (("prompts.avsr", f"prompts={{avsr: {text}}}"), ("instruction", f"instruction={text}")):
        message = refusal(recipe, f"model.language_model={folder}", f"model.{option}", read=load_config)
        assert message.startswith(f"model.{key} has {words} tokens")
        assert refused in message
    both = (f"model.instruction={' '.join(['blue'] * 46)}", "model.prompts={avsr: blue blue blue blue}")
    if positions == 50:
        message = refusal(recipe, f"model.language_model={folder}", *both, read=load_config)
        assert message.startswith("model.prompts.avsr with model.instruction has 50 tokens")


def test_a_base_that_is_no_recipe_is_not_quoted(tmp_path):
    secret = "hunter2: sesame\n"
    for name, text in (
        ("a.yaml", secret),
        ("b.yaml", secret * 2),
        ("c", secret),
        ("d.yaml", "root:x:0:hunter2\nb:c:1"),
    ):
        refused = refusal(write(tmp_path, f"base: {write(tmp_path, text, name)}\n"))
        assert str(tmp_path / name) in refused
        assert "hunter2" not in refused
    for text in (
        "- hunter2",
        "hunter2",
        "'hunter2",
        "!hunter2 x",
        "a: *hunter2",
        "\thunter2",
        "a: [hunter2",
        "a: b: hunter2",
    ):
        assert "hunter2" not in refusal(write(tmp_path, f"base: {write(tmp_path, text, 'x.yaml')}\n"))


def test_what_is_no_file_is_no_recipe(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    (tmp_path / "gone.yaml").symlink_to(tmp_path / "nowhere")
    for name in ("pipe", "zero", "gone", "x" * 300, "/dev/stdin", "."):
        assert "no recipe at" in refusal(write(tmp_path, yaml.safe_dump({"base": name})))
    (tmp_path / "large.yaml").write_text(" " * (LARGEST + 1))
    assert "larger than 1 MiB" in refusal(tmp_path / "large.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe")
    assert "bytes.yaml is not readable YAML" in refusal(tmp_path / "bytes.yaml")


def test_bases_do_not_go_on_for_ever(tmp_path):
    (tmp_path / "x").symlink_to(tmp_path)
    assert "is based on itself" in refusal(write(tmp_path, "base: x/other\n"))
    for number in range(30):
        write(tmp_path, f"base: [n{number + 1}, n{number + 1}]\n", f"n{number}.yaml")
    write(tmp_path, "output: x\n", "n30.yaml")
    assert "more than 100" in refusal(tmp_path / "n0.yaml")
    for base in ("5", "{a: b}", "[1]", "[[a]]"):
        assert "base is not the name of a recipe" in refusal(write(tmp_path, f"base: {base}\n"))


def test_a_little_yaml_cannot_grow_without_bound(recipe, tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    assert "more than 10000 values" in refusal(write(tmp_path, "\n".join(lines)))
    lines = ["m0: &m0 {k: x}"]
    lines += [f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 9)}]}}" for n in range(1, 12)]
    assert "more than 10000 values" in refusal(write(tmp_path, "\n".join(lines)))
    text = f"base: {recipe}\noptim: &o {{epochs: 3}}\nvalidation: {{every_steps: 20}}\n"
    assert load_recipe(write(tmp_path, text)).optim.epochs == 3
