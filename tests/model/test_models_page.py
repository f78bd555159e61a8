"""docs/models.md: its table is what its formula gives, and its commands are possible."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from mome.cli import app
from mome.model.cost import parameter_counts
from mome.training import load_recipe, model_config

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
(PUBLISHED,) = re.findall(r'^published="(.*)"$', PAGE, flags=re.MULTILINE)
(DATA,) = re.findall(r'^data="(.*)"$', PAGE, flags=re.MULTILINE)
TEXT = PAGE.replace("\\\n", " ").replace("$published", PUBLISHED).replace("$data", DATA)
COMMANDS = [shlex.split(line)[1:] for line in re.findall(r"^mome .*|(?<=`)mome [^`]*", TEXT, flags=re.MULTILINE)]
TRAINED = [words[1:] for words in COMMANDS if words[0] == "train" and len(words) > 1]


@pytest.mark.slow
def test_the_table_is_what_the_formula_gives(capsys):
    (code,) = (code for code in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL) if "RECIPES" in code)
    exec(compile(code, "models.md", "exec"), {})
    shown = PAGE.partition("<!-- memory -->")[2].partition("<!-- /memory -->")[0].strip().splitlines()
    assert shown[2:] == capsys.readouterr().out.strip().splitlines()


def test_every_command_and_option_exists():
    assert len(COMMANDS) > 20
    root = get_command(app)
    for name, *words in COMMANDS:
        command = root.commands[name]
        options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in words if word.startswith("--")} <= options


@pytest.mark.parametrize("words", TRAINED, ids=" ".join)
def test_the_training_commands_are_possible(words):
    recipe = load_recipe(words[0], words[1:])
    config = model_config(recipe, download=False)
    assert recipe.model.markers or recipe.model.instruction  # MMS-LLaMA has words in the place of markers
    assert recipe.model.bos
    assert config.adapter is not None


def test_trained_parameters_are_as_many_as_published():
    for words, millions in zip(TRAINED, (41.95, 48.24, 56.64), strict=False):
        counts = parameter_counts(model_config(load_recipe(words[0], words[1:]), download=False))
        assert round((counts.adapter_total + counts.projectors_total) / 1e6, 2) == millions


def test_the_language_models_sizes_are_those_of_their_layers():
    shown = dict(re.findall(r"^\| (Llama-\S+) \| ([\d. |]+) \|$", PAGE, flags=re.MULTILINE))
    assert len(shown) == 3
    for name, sizes in shown.items():
        override = f"model.language_model=meta-llama/{name}"
        text = model_config(load_recipe("llama-avsr-lrs3", [override]), download=False).text_config
        heads = 2 * text.num_attention_heads + 2 * text.num_key_value_heads
        layer = text.hidden_size * (heads * text.head_dim + 3 * text.intermediate_size)
        linear = text.num_hidden_layers * layer
        rest = text.vocab_size * text.hidden_size * (1 if text.tie_word_embeddings else 2)
        # bitsandbytes adds a float32 scale to each 64 values of 4 bits.
        expected = [2 * (linear + rest), linear + 2 * rest, linear * (4 + 32 / 64) / 8 + 2 * rest]
        assert sizes.split(" | ") == [f"{size / 1e9:.2f}" for size in expected]
