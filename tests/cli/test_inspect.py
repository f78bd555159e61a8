from __future__ import annotations

import json

import pytest

from tests.tiny import tiny_tokenizer


@pytest.fixture
def recipe(tiny_model, tmp_path):
    """A recipe whose backbones are those of the tiny model."""
    backbones = {name: tiny_model / name for name in ("audio_encoder", "video_encoder", "language_model")}
    lines = [f"  {name}: {folder}" for name, folder in backbones.items()]
    lines += [
        "  audio_rates: [4, 16]",
        "  video_rates: [2, 5]",
        "  projector_hidden: 40",
        "  adapter: {type: mome, routed_experts: 4, shared_experts: 1, top_k: 2, bottleneck: 2}",
    ]
    path = tmp_path / "tiny.yaml"
    path.write_text("\n".join(["output: runs/tiny", "data: {manifests: [clips.csv]}", "model:", *lines]) + "\n")
    return path


def document(run, *arguments) -> dict:
    result = run("inspect", *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_model_is_counted_without_its_weights(run, tiny_model, tmp_path):
    (tmp_path / "config.json").write_text((tiny_model / "config.json").read_text())
    found = document(run, tmp_path)
    counts = found["parameters"]
    assert set(counts) == {
        "adapter_total",
        "adapter_active",
        "projectors_total",
        "projectors_active",
        "frozen",
    }
    # Per layer: the router, and experts of 2dr + d + r, of which two routed and one shared are active.
    expert = 2 * 48 * 2 + 48 + 2
    assert counts["adapter_total"] == 2 * (4 * 48 + 5 * expert)
    assert counts["adapter_active"] == 2 * (4 * 48 + 3 * expert)
    rates = ["4,2", "4,5", "16,2", "16,5", "4,-", "16,-", "-,2", "-,5"]
    assert [one["rates"] for one in found["cost"]] == rates
    assert found["cost"][0]["tokens"] == 125 + 125 + 8
    assert found["cost"][0]["tflops"] > found["cost"][3]["tflops"] > 0


def test_seconds(run, tiny_model):
    found = document(run, tiny_model, "--seconds", "2")
    assert found["seconds"] == 2
    assert found["cost"][0]["tokens"] == 25 + 25 + 8


def test_a_recipe_gives_what_its_model_would(run, recipe, tiny_model):
    from_recipe, from_model = document(run, recipe), document(run, tiny_model)
    assert from_recipe["parameters"] == from_model["parameters"]
    prompt = len(tiny_tokenizer()("Transcribe speech and video to text.").input_ids)
    assert from_recipe["cost"][0]["tokens"] == 125 + 125 + prompt, "it has no start token"


def test_a_recipe_can_be_changed(run, recipe):
    found = document(run, recipe, "model.adapter.bottleneck=width/16", "model.bos=true", "--seconds", "2")
    assert found["overrides"] == ["model.adapter.bottleneck=width/16", "model.bos=true"]
    assert found["cost"][0]["tokens"] == 25 + 25 + 8
    expert = 2 * 48 * 3 + 48 + 3
    assert found["parameters"]["adapter_total"] == 2 * (4 * 48 + 5 * expert)


def test_the_bundled_tokenizer_counts_the_prompt(run):
    found = document(run, "llama-avsr-grid", "--seconds", "3")
    assert {row["rates"]: row["tokens"] for row in found["cost"]} == {"4,2": 150 // 4 + 75 // 2 + 19}


def test_without_a_tokenizer_words_and_marks_are_counted(run, recipe, tiny_model, tmp_path):
    """Of a language model that is a folder by itself."""
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "config.json").write_text((tiny_model / "language_model" / "config.json").read_text())
    found = document(run, recipe, f"model.language_model={tmp_path}/alone")
    assert found["cost"][0]["tokens"] == 125 + 125 + 7
    tiny_tokenizer().save_pretrained(tmp_path / "alone")
    found = document(run, recipe, f"model.language_model={tmp_path}/alone", "model.prompts.avsr=Transcribe it")
    assert found["cost"][0]["tokens"] == 125 + 125 + len(tiny_tokenizer()("Transcribe it").input_ids)


def test_tables(run, tiny_model):
    result = run("inspect", tiny_model)
    assert result.exit_code == 0
    assert "adapter, active for one token" in result.stdout
    assert "GFLOPs" in result.stdout
    assert result.stderr == ""


def test_mistakes(refused, recipe, tmp_path):
    assert "no recipe at mome-layr" in refused("inspect", "mome-layr")
    assert "missing.yaml" in refused("inspect", tmp_path / "missing.yaml")
    assert "config.json" in refused("inspect", tmp_path)
    line = refused("inspect", tmp_path, "model.bos=true")
    assert "is a model, and model.bos=true would change a recipe: name a recipe or leave it out" in line
    assert "is not key=value" in refused("inspect", recipe, "model.bos")
    recipe.write_text(recipe.read_text().replace("video_rates", "vidio_rates"))
    assert "did you mean model.video_rates" in refused("inspect", recipe)
