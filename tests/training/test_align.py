"""The alignment before the training through the language model, and beside it."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from mome.connectors import SeparateConnector
from mome.connectors.projectors import RateProjectors
from mome.errors import MomeError
from mome.model import MomeForSpeechRecognition
from mome.text.grid import SLOTS
from mome.training.alignment import keep_head, spread
from mome.training.loading import load_recipe
from mome.training.run import train
from tests.tiny import END, START, tiny_tokenizer
from tests.training.test_run import losses, recipe


def history(output: Path) -> list[dict[str, Any]]:
    return json.loads((output / "history.json").read_text())


@pytest.fixture(scope="module")
def reader(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy with a language model that repeats the words whose embeddings stand before the prompt, amid noise."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(toy, folder, dirs_exist_ok=True)
    place, tokenizer = folder / "backbones" / "language_model", tiny_tokenizer()
    model = AutoModelForCausalLM.from_pretrained(place)
    torch.manual_seed(0)
    for weight in model.get_decoder().layers.parameters():
        torch.nn.init.normal_(weight, std=0.1) if weight.ndim > 1 else torch.nn.init.ones_(weight)
    embed, optimizer = model.get_input_embeddings(), torch.optim.AdamW(model.parameters(), lr=3e-3)
    prompt = torch.tensor(tokenizer("Transcribe speech to text.").input_ids).expand(32, -1)
    slots = [torch.tensor(tokenizer.convert_tokens_to_ids(list(slot))) for slot in SLOTS]
    places = torch.arange(32)[:, None], torch.arange(18)
    for _ in range(400):
        words = torch.stack([slot[torch.randint(len(slot), (32,))] for slot in slots], dim=1)
        heard = embed(words[places[0], torch.randint(6, (32, 18)).sort(dim=1).values])
        heard = torch.where(torch.rand(32, 18, 1) < 0.3, torch.randn(48), heard) * (0.5 + torch.rand(32, 18, 1))
        written = torch.cat([words, torch.full((32, 1), END)], dim=1)
        parts = [embed(torch.full((32, 1), START)), heard, embed(prompt), embed(words)]
        logits = model(inputs_embeds=torch.cat(parts, dim=1)).logits[:, -written.shape[1] :]
        loss = F.cross_entropy(logits.flatten(0, 1), written.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(place)
    return folder


@pytest.mark.slow
def test_it_lowers_the_first_loss_through_the_language_model(toy: Path, reader: Path, tmp_path: Path):
    def first(backbones: Path, name: str, *options: str) -> float:
        (tmp_path / name).mkdir()
        given = ["optim.tasks=[asr]", "model.video_encoder=null", "model.audio_rates=[2,3]", "model.video_rates=[]"]
        given += ["optim.steps=1", "optim.rates_per_step=null", "validation.rates=[]", "data.max_frames=300"]
        return losses(train(recipe(backbones, tmp_path / name / "run"), [*given, *options]))[0][1]

    align = ["align.steps=150", "align.learning_rate=0.01"]
    without = first(reader, "without")
    assert first(reader, "with", *align) < 0.7 * without
    aligned = history(tmp_path / "with" / "run" / "align")
    assert aligned[-2]["loss"] < 0.3 * aligned[0]["loss"]
    assert {"loss/2,-", "loss/3,-", "left_out/2,-", "left_out/3,-"} <= aligned[0].keys()
    # A language model that cannot read its own embeddings gains little: it is the reading that helps, not more steps.
    assert first(toy, "deaf with", *align) > 0.9 * first(toy, "deaf without")


ALIGN = ["align.steps=6", "align.learning_rate=0.01", "align.weight=0.5", "optim.steps=6", "optim.log_steps=1"]
ALIGN += ["validation.every_steps=3", "validation.rates=['4,2']", "model.adapter={type: mome, dropout: 0.2}"]


def run(toy: Path, folder: Path, resume: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    return train(recipe(toy, folder / "run"), ALIGN, resume=resume)


def logged(output: Path) -> list[dict[str, Any]]:
    return [entry for entry in history(output) if "loss" in entry or "eval_wer/4,2" in entry or "eval_wer/4,-" in entry]


def cut_off(output: Path, last: str) -> None:
    """Make of a run one that was killed while it wrote this checkpoint."""
    for name in ("history.json", "config.json", "model.safetensors", "alignment.safetensors"):
        (output / name).unlink(missing_ok=True)
    (output / last / "trainer_state.json").unlink()


def test_both_stages_resume_to_the_same_weights(toy: Path, tmp_path: Path):
    output = run(toy, tmp_path / "a")
    first, second = logged(output / "align"), logged(output)
    straight = load_file(output / "model.safetensors")
    assert {"eval_wer/4,-", "eval_wer/-,2"} <= set().union(*first)
    assert "connector/align_loss" in second[0]
    aligned = load_file(output / "align" / "model.safetensors")
    for key in (key for key in aligned if key.startswith(("connector.audio.1", "connector.video.1"))):
        # A second has 3 tokens at rates 16 and 5 of sound and video, too few for six words.
        assert torch.equal(aligned[key], aligned[key.replace("o.1", "o.0")])
    assert not (output / "alignment.safetensors").exists()
    assert not any("alignment" in key for key in straight)

    def resumed() -> None:
        assert run(toy, tmp_path / "a", resume=True) == output
        assert logged(output) == second
        written = load_file(output / "model.safetensors")
        assert written.keys() == straight.keys()
        assert all(torch.equal(written[key], straight[key]) for key in straight)

    cut_off(output, "checkpoint-6")  # amid the second stage, which needs the first one's folder no more
    (output / "align").rename(tmp_path / "align")
    resumed()
    assert not (output / "align").exists()
    (tmp_path / "align").rename(output / "align")
    cut_off(output, "checkpoint-6")
    shutil.rmtree(output / "checkpoint-3")  # before the second stage's first checkpoint
    resumed()
    cut_off(output, "checkpoint-6")
    shutil.rmtree(output / "checkpoint-3")
    cut_off(output / "align", "checkpoint-6")  # amid the first stage
    resumed()
    assert logged(output / "align") == first


def test_rates_too_coarse_for_ctc_start_from_the_coarsest_that_is_not():
    logs = [{"left_out/2,-": 0.0, "left_out/4,-": 0.2, "left_out/8,-": 0.4, "left_out/-,2": 1.0, "loss": 3.0}]
    logs += [{"left_out/2,-": 0.0, "left_out/4,-": 0.7, "left_out/8,-": 1.0, "step": 20}]
    for method in ("average", "stack"):
        audio, video = RateProjectors((2, 4, 8), 3, 4, 5, method), RateProjectors((2,), 3, 4, 5, method)
        before = [copy.deepcopy(projector.state_dict()) for projector in (*audio, *video)]
        spread(SeparateConnector(audio, video), logs)
        sources = (0, 1, 1, 3) if method == "average" else (0, 1, 2, 3)
        for projector, source in zip((*audio, *video), sources, strict=True):
            torch.testing.assert_close(projector.state_dict(), before[source], rtol=0, atol=0)


def test_a_folder_with_an_alignment_is_not_taken_for_another_run(toy: Path, tmp_path: Path):
    output = tmp_path / "a" / "run"
    (output / "align" / "checkpoint-3").mkdir(parents=True)
    (output / "align" / "checkpoints.json").write_text('["checkpoint-3"]')
    with pytest.raises(MomeError, match=r"run/align already holds a training run: add --resume"):
        run(toy, tmp_path / "a")


def test_the_connector_has_its_own_learning_rate(toy: Path, tmp_path: Path):
    options = ["optim.steps=1", "validation.rates=[]", "optim.weight_decay=0", "optim.learning_rate=1e-3"]
    options += ["optim.tasks=[asr]", "model.video_encoder=null", "model.video_rates=[]", "optim.rates_per_step=null"]
    outputs = []
    for name, more in (("a", []), ("b", ["optim.connector_learning_rate=1e-5"])):
        (tmp_path / name).mkdir()
        outputs.append(load_file(train(recipe(toy, tmp_path / name / "run"), [*options, *more]) / "model.safetensors"))
    key, expert = "connector.audio.0.0.weight", "language_model.model.layers.0.mome.outer_weight"
    assert torch.equal(outputs[0][expert], outputs[1][expert])
    # Adam's first step is the learning rate in each place that has a gradient.
    moved = (outputs[0][key] - outputs[1][key]).abs()
    assert moved.max().item() == pytest.approx(1e-3 - 1e-5, rel=1e-2)


def test_a_run_goes_on_from_a_trained_model(toy: Path, tmp_path: Path):
    given = ["optim.tasks=[asr]", "model.video_encoder=null", "model.video_rates=[]", "optim.rates_per_step=null"]
    given += ["optim.steps=2", "validation.rates=[]", "optim.learning_rate=0.01"]

    def trained(name: str, *options: str) -> Path:
        (tmp_path / name).mkdir()
        return train(recipe(toy, tmp_path / name / "run"), [*given, *options])

    first = trained("first")
    # Adam's step is the learning rate, so nothing moves; the alignment that the recipe asks for has no place.
    second = trained("second", f"optim.start={first}", "align.steps=3", "optim.learning_rate=1e-12", "optim.seed=7")
    assert not (second / "align").exists()
    runs = (first, second, trained("fresh", "optim.seed=7"))
    start, still, fresh = (load_file(run / "model.safetensors") for run in runs)
    assert start.keys() == still.keys()
    assert any(key.startswith("language_model.") for key in start)
    for key, value in start.items():
        torch.testing.assert_close(still[key], value)
    assert any((fresh[key] - value).abs().max() > 0.01 for key, value in start.items())
    for name, option in (("rates", "model.audio_rates=[5]"), ("size", "model.projector_hidden=7"), ("gone", "")):
        with pytest.raises(MomeError, match=r"has the rates|and that model has it as|no model at") as caught:
            trained(name, f"optim.start={first}" + "-not" * (not option), *filter(None, [option]))
        assert "\n" not in str(caught.value)


def test_a_manifest_may_lack_a_split_that_another_has(toy: Path, tmp_path: Path):
    given = ["optim.tasks=[asr]", "model.video_encoder=null", "model.video_rates=[]", "optim.rates_per_step=null"]
    given.append("validation.rates=['4,-']")
    file = recipe(toy, tmp_path / "run")
    manifest = Path(load_recipe(file).data.manifests[0])
    lines = manifest.read_text().splitlines()
    more = manifest.with_name("more.csv")
    valid = [line for line in lines[1:] if ",valid," in line]
    assert valid
    more.write_text("\n".join([lines[0], *(f"more-{line}".replace(",valid,", ",train,") for line in valid)]) + "\n")
    train(file, [*given, "optim.steps=1", f"data.manifests=[{manifest},{more}]"])
    (tmp_path / "other").mkdir()
    with pytest.raises(MomeError, match=r"more\.csv has no split 'valid'"):
        train(recipe(toy, tmp_path / "other" / "run"), [*given, "optim.steps=1", f"data.manifests=[{more}]"])


def test_a_run_starts_from_the_connector_of_another(toy: Path, tmp_path: Path):
    given = ["optim.tasks=[asr]", "model.video_encoder=null", "model.video_rates=[]", "optim.rates_per_step=null"]
    given += ["optim.steps=1", "validation.rates=[]"]

    def trained(name: str, *options: str) -> Path:
        (tmp_path / name).mkdir()
        return train(recipe(toy, tmp_path / name / "run"), [*given, *options])

    first = trained("first", "model.audio_rates=[2,3]", "align.steps=3", "align.learning_rate=0.01")
    aligned = load_file(first / "align" / "model.safetensors")
    start, still = f"align.start={first}/align", "optim.connector_learning_rate=1e-12"
    # An alignment of its own that the recipe asks for has no place then.
    second = trained("second", "model.audio_rates=[3]", start, still, "align.steps=3", "model.adapter=null")
    assert not (second / "align").exists()
    own = {key: value for key, value in load_file(second / "model.safetensors").items() if key.startswith("connector")}
    assert len(own) == 4
    for key, value in own.items():
        theirs = aligned[key.replace("audio.0", "audio.1")]
        torch.testing.assert_close(value, theirs)
        assert not torch.equal(theirs, aligned[key])

    for name, rates, more in (
        ("lacking", "[5]", "optim.seed=1"),
        ("shared", "[2,3]", "model.connector={type: shared}"),
        ("missing", "[2]", start + "-not"),
    ):
        with pytest.raises(
            MomeError, match=r"for audio rate 5: name|the connector of .* does not fit|no model at"
        ) as caught:
            trained(name, f"model.audio_rates={rates}", start, more)
        assert "\n" not in str(caught.value)


def test_the_aligned_connector_may_be_kept_for_decoding(toy: Path, tmp_path: Path):
    given = ["optim.tasks=[asr]", "model.video_encoder=null", "model.video_rates=[]", "validation.rates=[]"]
    given += ["model.audio_rates=[3,2]", "optim.rates_per_step=null", "optim.steps=2", "align.steps=3"]
    given += ["align.learning_rate=0.01", "optim.connector_learning_rate=0.1"]
    (tmp_path / "kept").mkdir()
    output = train(recipe(toy, tmp_path / "kept" / "run"), [*given, "align.ctc_weight=0.3"])
    kept, aligned = load_file(output / "model.safetensors"), load_file(output / "align" / "model.safetensors")
    for name in ("0.weight", "0.bias", "2.weight", "2.bias"):  # the finest rate's, which is the second
        head = kept[f"ctc.connector.audio.0.{name}"]
        assert torch.equal(head, aligned[f"connector.audio.1.{name}"])
        assert not torch.equal(head, kept[f"connector.audio.1.{name}"])  # the training went on with that
    scale = load_file(output / "align" / "alignment.safetensors")["log_scale"]
    assert torch.equal(kept["ctc.alignment.log_scale"], scale)
    loaded = MomeForSpeechRecognition.from_pretrained(output)
    assert (loaded.config.ctc["audio_rate"], loaded.config.ctc["video_rate"]) == (2, None)
    assert loaded.config.generation["ctc_weight"] == 0.3
    assert {"ctc"} == {key.partition(".")[0] for key in kept.keys() - aligned.keys() if "language" not in key}

    with pytest.raises(MomeError, match=r"align\.ctc_weight needs a stage of its own: give align\.epochs"):
        train(recipe(toy, tmp_path / "kept" / "none"), [*given, "align.steps=null", "align.ctc_weight=0.3"])
    for option, said in (
        (f"optim.start={output}", "the alignment, which optim.start leaves out"),
        ("model.unfrozen=[audio_encoder]", "model.unfrozen=audio_encoder would train away"),
        ("model.unfrozen=[language_model]", "model.unfrozen=language_model would train away"),
    ):
        with pytest.raises(MomeError, match=said):
            train(recipe(toy, tmp_path / "kept" / "none"), [*given, "data.cache=clips", "align.ctc_weight=0.3", option])
    with pytest.raises(MomeError, match=r"has no alignment\.safetensors: name the folder align of a run"):
        keep_head(loaded, output, 0.3)
