from __future__ import annotations

import json
import platform

import pytest

from mome.errors import MomeError
from mome.evaluation.result import Condition, Result, results_document, write_json
from mome.rates import Rates
from mome.text.wer import WordErrors

RESULT = Result(Condition(Rates(4, 2), 0.0), WordErrors(hits=3), 1, 0.0, (0.0, 0.0), 9.0, 0.1, 0.2, ())


def test_document_says_what_was_run():
    document = results_document([RESULT], command="mome evaluate --data m.csv", model="mome-tiny", data="m.csv", seed=4)
    assert list(document) == ["command", "versions", "model", "data", "seed", "normalize", "interrupted", "results"]
    assert set(document["versions"]) == {"mome", "torch", "transformers", "python"}
    assert document["versions"]["python"] == platform.python_version()
    assert document["results"] == [RESULT.to_json()]
    assert document["results"][0]["snr_db"] == 0.0
    assert json.loads(json.dumps(document)) == document


def test_write_makes_the_folder_and_replaces(tmp_path):
    path = tmp_path / "new" / "r.json"
    write_json(path, {"a": 1})
    write_json(path, {"text": "été"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"text": "été"}
    assert "été" in path.read_text(encoding="utf-8")
    assert [file.name for file in path.parent.iterdir()] == ["r.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "r.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}


@pytest.mark.parametrize(("name", "named"), [("folder", "folder"), ("file/r.json", "file")])
def test_impossible_places_are_named(tmp_path, name, named):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(MomeError, match=f"{named} cannot be .*written"):
        write_json(tmp_path / name, {})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder"]
