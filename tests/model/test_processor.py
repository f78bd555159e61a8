from __future__ import annotations

import copy
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoProcessor

import mome
from mome import MomeError, MomeProcessor
from mome.checkpoints import source
from mome.checkpoints.names import TOKENIZER_FILES, has_tokenizer
from mome.config import MomeConfig
from mome.media import Clip
from mome.model.objective import IGNORED_LABEL
from mome.model.processor import OfficialProcessor
from tests.tiny import MEL_BINS, WINDOW_SECONDS, tiny_tokenizer

RNG = np.random.default_rng(0)


def clip(samples: int | None, frames: int | None) -> Clip:
    audio = None if samples is None else RNG.standard_normal(samples).astype(np.float32)
    mouth = None if frames is None else RNG.integers(0, 256, (frames, 96, 96), dtype=np.uint8)
    return Clip(audio, mouth, 1.0)


@pytest.fixture(scope="module")
def processor(tiny_model) -> MomeProcessor:
    return MomeProcessor.from_pretrained(tiny_model)


def test_shapes_and_masks(processor):
    batch = processor([clip(16000, 25), clip(9999, 31)], ["bin blue", "set white in z four"])
    assert batch["input_features"].shape == (2, MEL_BINS, 100)
    assert batch["input_features_mask"].sum(1).tolist() == [100, 62]
    assert batch["input_features_mask"][1, :62].all()
    assert not batch["input_features"][1, :, 62:].any()
    assert batch["pixel_values_videos"].shape == (2, 31, 24, 24)
    assert batch["pixel_values_videos_mask"].sum(1).tolist() == [25, 31]
    assert not batch["pixel_values_videos"][0, 25:].any()
    assert {value.dtype for name, value in batch.items() if name.endswith("mask")} == {torch.bool}
    end = processor.tokenizer.eos_token_id
    assert (batch["labels"] != IGNORED_LABEL).sum(1).tolist() == [3, 6]
    assert batch["labels"][0, 2] == batch["labels"][1, 5] == end


def test_a_clip_is_the_same_in_any_batch(processor):
    short, long = clip(8000, 12), clip(20000, 30)
    alone, together = processor([short]), processor([long, short])
    assert torch.equal(together["input_features"][1, :, :50], alone["input_features"][0])
    assert torch.equal(together["pixel_values_videos"][1, :12], alone["pixel_values_videos"][0])


def test_only_what_is_asked_for(processor):
    assert set(processor([clip(8000, None)], video=False)) == {"input_features", "input_features_mask"}
    assert set(processor([clip(None, 9)], ["bin"], audio=False)) == {
        "pixel_values_videos",
        "pixel_values_videos_mask",
        "labels",
    }


def test_the_whole_window(tiny_model):
    processor = MomeProcessor.from_pretrained(tiny_model, audio_context="window")
    batch = processor([clip(8000, None)], video=False)
    assert batch["input_features"].shape == (1, MEL_BINS, 100 * WINDOW_SECONDS)
    assert batch["input_features_mask"].sum() == 50


def test_the_clip_and_a_second_of_silence(tiny_model, tmp_path):
    processor = MomeProcessor.from_pretrained(tiny_model, audio_context="clip+silence")
    batch = processor([clip(8000, None), clip(16_000 * WINDOW_SECONDS - 8000, None)], video=False)
    assert batch["input_features"].shape == (2, MEL_BINS, 100 * WINDOW_SECONDS), "silence ends with the window"
    assert batch["input_features_mask"].sum(1).tolist() == [50, 100 * WINDOW_SECONDS - 50]
    assert processor([clip(8000, None)], video=False)["input_features"].shape[2] == 150
    processor.save_pretrained(tmp_path)
    config = MomeConfig.from_pretrained(tiny_model)
    with pytest.raises(MomeError, match=r"audio_context of its processor is 'clip.silence', its model needs 'clip'"):
        MomeProcessor.from_folder(tmp_path, config)
    config.audio_context = "clip+silence"
    assert MomeProcessor.from_folder(tmp_path, config).audio_context == "clip+silence"


def test_text_goes_there_and_back(processor):
    text = ["place red by b nine again", "bin blue at f two now"]
    labels = processor.labels([*text, "set"])
    assert processor.decode_text(labels[:2]) == text
    padded = labels[2].masked_fill(labels[2] == IGNORED_LABEL, processor.tokenizer.pad_token_id)
    assert processor.decode_text(padded[None]) == ["set"]


def test_settings_survive_saving_and_come_from_the_model(tmp_path, tiny_model, processor):
    config = MomeConfig.from_pretrained(tiny_model)
    config.video_config.image_mean = 0.25
    made = MomeProcessor.for_config(config, tiny_tokenizer(), processor.feature_extractor)
    made.save_pretrained(tmp_path)
    read = MomeProcessor.from_pretrained(tmp_path)
    assert (read.audio_context, read.image_size, read.image_mean, read.image_std) == ("clip", 24, 0.25, 0.165)
    assert read.feature_extractor.n_samples == 16000 * WINDOW_SECONDS
    assert read.labels(["bin blue"]).tolist() == processor.labels(["bin blue"]).tolist()


@pytest.mark.parametrize(
    ("bad", "options", "message"),
    [
        (clip(None, 9), {}, "has no sound: choose a task that does not need it"),
        (clip(8000, None), {}, "has no visible mouth"),
        (clip(16000 * WINDOW_SECONDS + 1, 9), {}, "exceed the audio encoder's window of 10 s"),
    ],
)
def test_unfit_clips_are_refused(processor, bad, options, message):
    with pytest.raises(MomeError, match=message):
        processor([clip(8000, 9), bad], **options)


def test_files_of_the_official_arithmetic_name_the_class_that_loads_them(tmp_path, tiny_model, processor):
    config = MomeConfig.from_pretrained(tiny_model)
    config.audio_context, config.compat = "window", "official"
    made = MomeProcessor.for_config(config, tiny_tokenizer(), processor.feature_extractor)
    config.save_pretrained(tmp_path)
    made.precision = torch.bfloat16
    made.save_pretrained(tmp_path)
    for name in ("processor_config.json", "tokenizer_config.json"):
        assert json.loads((tmp_path / name).read_text())["processor_class"] == "MomeProcessor"
    assert "precision" not in json.loads((tmp_path / "processor_config.json").read_text())
    read = (MomeProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path))
    for same in (made, *read, copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert type(same) is OfficialProcessor
        assert same.compat == "official"
    assert {same.precision for same in read} == {torch.float32}
    plain = MomeProcessor.from_folder(tmp_path, MomeConfig.from_pretrained(tmp_path, compat=None))
    assert (type(plain), plain.compat) == (MomeProcessor, None)


def without_tokenizer(tiny_model: Path, folder: Path, language_model: str, **changes) -> Path:
    """The tiny model without its tokenizer, and with this language model in its configuration."""
    shutil.copytree(tiny_model, folder)
    for name in TOKENIZER_FILES:
        (folder / name).unlink(missing_ok=True)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "language_model": language_model, **changes}))
    return folder


@pytest.fixture
def elsewhere(tiny_model, tmp_path, monkeypatch) -> Path:
    """The folder of a language model with its tokenizer, which ``MOME_BACKBONES`` makes that of ``them/llama``."""
    place = tmp_path / "kept" / "them" / "llama"
    shutil.copytree(tiny_model / "language_model", place)
    tiny_tokenizer().save_pretrained(place)
    monkeypatch.setenv(source.FOLDER_VARIABLE, str(tmp_path / "kept"))
    return place


@pytest.mark.parametrize("reference", ["them/llama", "./language_model"])
def test_without_a_tokenizer_the_language_models_is_taken(tiny_model, tmp_path, elsewhere, processor, reference):
    folder = without_tokenizer(tiny_model, tmp_path / "model", reference)
    if reference.startswith("./"):
        tiny_tokenizer().save_pretrained(folder / "language_model")
    loaded = mome.load(folder).processor
    text = ["bin blue at f two now", "set white", ""]
    assert torch.equal(loaded.labels(text), processor.labels(text))
    assert loaded.decode_text(loaded.labels(text[:1])) == text[:1]
    assert loaded.to_dict() == processor.to_dict()
    loaded.save_pretrained(tmp_path / "saved")
    assert has_tokenizer(tmp_path / "saved"), "what is saved has its tokenizer"
    assert torch.equal(MomeProcessor.from_pretrained(tmp_path / "saved").labels(text), processor.labels(text))


def test_a_language_models_tokenizer_can_pad(tiny_model, tmp_path, elsewhere):
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token, tokenizer.padding_side = None, "left"
    tokenizer.save_pretrained(elsewhere)
    found = mome.load(without_tokenizer(tiny_model, tmp_path / "model", "them/llama")).processor.tokenizer
    assert (found.pad_token, found.padding_side) == ("</s>", "right")


def test_a_folder_with_a_tokenizer_keeps_to_it(tiny_model, tmp_path, elsewhere, processor):
    folder = without_tokenizer(tiny_model, tmp_path / "model", "them/llama")
    own = tiny_tokenizer()
    own.add_tokens(["mine"])
    own.save_pretrained(folder)
    assert MomeProcessor.from_folder(folder, MomeConfig.from_pretrained(folder)).labels(["mine"])[0, 0] == len(own) - 1
    shutil.rmtree(elsewhere)
    assert MomeProcessor.from_folder(folder, MomeConfig.from_pretrained(folder)).labels(["mine"])[0, 0] == len(own) - 1


@pytest.mark.parametrize("model_type", ["llama", "qwen2"])  # Transformers makes an empty tokenizer for the second
def test_a_language_model_without_a_tokenizer_is_named(tiny_model, tmp_path, elsewhere, model_type):
    folder = without_tokenizer(tiny_model, tmp_path / "model", "them/llama")
    for name in TOKENIZER_FILES:
        (elsewhere / name).unlink(missing_ok=True)
    values = json.loads((elsewhere / "config.json").read_text())
    (elsewhere / "config.json").write_text(json.dumps({**values, "model_type": model_type}))
    with pytest.raises(MomeError) as caught:
        MomeProcessor.from_folder(folder, MomeConfig.from_pretrained(folder))
    assert str(caught.value) == f"the tokenizer of them/llama is not in {elsewhere}: copy or download it again"


def test_a_tokenizer_that_is_nowhere_is_named(tiny_model, tmp_path, elsewhere, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = without_tokenizer(tiny_model, tmp_path / "model", "them/other")
    with pytest.raises(MomeError) as caught:
        MomeProcessor.from_folder(folder, MomeConfig.from_pretrained(folder))
    assert str(caught.value).startswith(
        f"the tokenizer of them/other is neither a folder here or in {tmp_path / 'kept'} nor complete in the hub's "
        "cache, and HF_HUB_OFFLINE is set: "
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"language_model": None}, "has no tokenizer, and names no language model with one: "),
        ({"audio_markers": [8, 9]}, "has no tokenizer, and that of them/llama lacks the tokens that the model adds: "),
        ({"added_tokens": 4}, "has no tokenizer, and that of them/llama lacks the tokens that the model adds: "),
    ],
)
def test_a_tokenizer_that_only_the_folder_can_have_is_missed(tiny_model, tmp_path, elsewhere, changes, message):
    folder = without_tokenizer(tiny_model, tmp_path / "model", **{"language_model": "them/llama", **changes})
    with pytest.raises(MomeError, match=f"^{folder} {message}copy or download it again$"):
        MomeProcessor.from_folder(folder, MomeConfig.from_pretrained(folder))


def test_the_hub_is_asked_for_the_language_models_tokenizer(tiny_model, tmp_path, elsewhere, monkeypatch):
    asked = []
    told = {"token": "secret", "cache_dir": tmp_path, "local_files_only": True}

    def download(name: str, *, allow_patterns, tqdm_class, **options) -> str:
        asked.append((name, options))
        return str(elsewhere)

    monkeypatch.setattr(source, "snapshot_download", download)
    folder = without_tokenizer(tiny_model, tmp_path / "model", "hub/llama", language_model_revision="v2")
    MomeProcessor.from_folder(folder, MomeConfig.from_pretrained(folder), **told)
    assert asked == [("hub/llama", {"revision": "v2", **told})]
