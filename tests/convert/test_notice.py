"""The notice of AV-HuBERT's licence is saved and uploaded with its weights."""

from __future__ import annotations

from pathlib import Path

import pytest

import mome
from mome.convert import avhubert
from mome.convert.avhubert import NOTICE
from mome.convert.avsr import convert
from mome.encoders.avhubert import AVHubertModel
from tests.convert.fairseq import SETTINGS, save, tiny_state
from tests.convert.published import backbones, published, random_case

OWNER = "Copyright (c) Meta Platforms, Inc."


def notices(folder: Path) -> list[str]:
    found = [path for path in folder.rglob("*.md") if path.name == "NOTICE.md"]
    assert all(OWNER in path.read_text(encoding="utf-8") for path in found)
    return [path.relative_to(folder).as_posix() for path in found]


@pytest.fixture(params=[True, False], ids=["referred", "stored"])
def converted(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    case = random_case("llama-avsr")
    sources = backbones(case, tmp_path, weights=request.param)
    if request.param:  # as 'mome convert av-hubert' would have written it
        model = AVHubertModel.from_pretrained(sources.video_encoder)
        model.config.notice = NOTICE
        model.save_pretrained(sources.video_encoder)
        assert notices(Path(sources.video_encoder)) == ["NOTICE.md"]
    convert("llama-avsr", published(case, tmp_path), tmp_path / "out", sources)
    assert notices(tmp_path / "out") == ([] if request.param else ["video_encoder/NOTICE.md"])
    return tmp_path / "out"


def test_a_converted_encoder_and_its_copies_have_it(tmp_path):
    path = save({"cfg": {"model": SETTINGS}, "model": tiny_state()}, tmp_path / "a.pt")
    avhubert.convert(path, tmp_path / "out")
    assert notices(tmp_path / "out") == ["NOTICE.md"]
    AVHubertModel.from_pretrained(tmp_path / "out").save_pretrained(tmp_path / "copy")
    assert notices(tmp_path / "copy") == ["NOTICE.md"]


def test_copies_of_a_recogniser_have_it(converted, tmp_path):
    first = mome.load(converted)
    first.model.save_pretrained(tmp_path / "one", self_contained=True)
    first.processor.save_pretrained(tmp_path / "one")
    mome.load(tmp_path / "one").model.save_pretrained(tmp_path / "two")
    for name in ("one", "two"):
        assert notices(tmp_path / name) == ["video_encoder/NOTICE.md"]


def test_an_upload_has_it_and_gives_it_to_whoever_downloads(hub, converted, tmp_path):
    loaded = mome.load(converted)
    loaded.model.push_to_hub("me/model", self_contained=True)
    loaded.processor.push_to_hub("me/model")
    assert "video_encoder/NOTICE.md" in hub.repos["me/model"].files("main")[1]
    mome.load("me/model")
    assert "video_encoder/NOTICE.md" in hub.downloads()


def test_weights_among_the_trained_ones_have_it(converted, tmp_path):
    model = mome.load(converted).model
    model.config.unfrozen = ["video_encoder"]
    for kind in ("audio_encoder", "language_model", "video_encoder"):
        setattr(model.config, kind, f"them/{kind}")
    model.save_pretrained(tmp_path / "trained")
    assert notices(tmp_path / "trained") == ["NOTICE.md"]


def test_an_encoder_of_ones_own_has_none(tmp_path):
    mome.load().model.save_pretrained(tmp_path, self_contained=True)
    assert (tmp_path / "video_encoder" / "model.safetensors").is_file()
    assert notices(tmp_path) == []
