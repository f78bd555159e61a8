from __future__ import annotations

import json
from pathlib import Path

import pytest

from mome.clip import Excerpt
from mome.data.manifests import ManifestRow
from mome.errors import MomeError
from mome.evaluation.evaluate import Evaluation
from mome.evaluation.journal import Journal
from mome.evaluation.result import make_conditions
from mome.rates import Rates
from tests.evaluation.fake import FakeMedia, FakeTranscriber, make_rows

AV, ASR = Rates(4, 2), Rates(4, None)
CONDITIONS = make_conditions([AV, ASR])
ROWS = make_rows({"a": "bin blue at", "b": "Lay red", "c": "set green by f", "d": "place white"})
TEXTS: dict = {(row.id, str(rates)): row.text.replace("e", "x") for row in ROWS for rates in (AV, ASR)}
SETTINGS = {"model": "1234", "seed": 0}


@pytest.fixture
def files(monkeypatch) -> FakeMedia:
    fake = FakeMedia()
    monkeypatch.setattr(FakeTranscriber, "media", fake, raising=False)
    return fake


def run(path: Path, texts: dict = TEXTS, rows: list[ManifestRow] = ROWS, settings: dict = SETTINGS) -> list[dict]:
    """The results of an evaluation with a journal, one clip at a time."""
    evaluation = Evaluation(FakeTranscriber(texts), rows, CONDITIONS, batch_size=1)
    with Journal(path, settings, rows, CONDITIONS) as journal:
        evaluation.run(journal=journal)
    return [result.to_json() for result in evaluation.results()]


def ids(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_text().splitlines()[1:]]


def loaded(files: FakeMedia) -> list[str]:
    names = [name for name, *_ in files.loaded]
    files.loaded.clear()
    return names


def test_an_interrupted_run_goes_on_and_gives_the_same_figures(files, tmp_path):
    whole = run(tmp_path / "whole.jsonl")
    loaded(files)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "part.jsonl", {**TEXTS, ("c", "4,-"): KeyboardInterrupt()})
    assert (loaded(files), ids(tmp_path / "part.jsonl")) == (["a", "b", "c"], ["a", "b"])
    assert run(tmp_path / "part.jsonl") == whole
    assert loaded(files) == ["c", "d"]
    assert (tmp_path / "part.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()
    assert run(tmp_path / "part.jsonl") == whole
    assert loaded(files) == []


def test_what_was_not_written_to_its_end_failed_or_is_of_another_file_is_done_once_more(files, tmp_path):
    path = tmp_path / "clips.jsonl"
    run(path, {**TEXTS, ("b", "4,2"): RuntimeError("for want of memory")})
    moved = [*ROWS[:2], ManifestRow("c", Path("media/c.mp4"), "test", "text", Excerpt(0, 1)), ROWS[3]]
    path.write_text(path.read_text()[:-30])
    files.loaded.clear()
    run(path, rows=moved)
    assert loaded(files) == ["b", "c", "d"]
    assert sorted(ids(path)) == ["a", "b", "c", "d"]
    assert all("error" not in line for line in path.read_text().splitlines())


def test_clips_that_this_run_has_not_stay(files, tmp_path):
    run(tmp_path / "clips.jsonl", rows=ROWS[:3])
    run(tmp_path / "clips.jsonl", rows=ROWS[2:])
    assert ids(tmp_path / "clips.jsonl") == ["a", "b", "c", "d"]


def test_other_settings_and_other_files_are_refused(files, tmp_path):
    run(tmp_path / "clips.jsonl")
    with pytest.raises(MomeError, match=r"clips\.jsonl is of a run with other model and beams: delete it"):
        run(tmp_path / "clips.jsonl", settings={**SETTINGS, "model": "5678", "beams": 4})
    (tmp_path / "other.csv").write_text("id,path\n")
    with pytest.raises(MomeError, match=r"other\.csv is no journal"):
        run(tmp_path / "other.csv")
    assert (tmp_path / "other.csv").read_text() == "id,path\n"


def test_one_process_at_a_time(files, tmp_path):
    path = tmp_path / "clips.jsonl"
    with Journal(path, SETTINGS, ROWS, CONDITIONS), pytest.raises(MomeError, match=r"clips\.jsonl is being written by"):
        run(path)  # a lock is one process's, or one opened file's
    run(path, {**TEXTS, ("b", "4,2"): RuntimeError("for want of memory")})
    with Journal(path, SETTINGS, ROWS, CONDITIONS):  # it was written anew, without b
        before = path.read_text()
        with pytest.raises(MomeError, match="another process"):
            run(path)
    assert path.read_text() == before
    run(path)
    assert sorted(ids(path)) == ["a", "b", "c", "d"]


def test_a_second_line_of_a_clip_is_dropped(files, tmp_path):
    path = tmp_path / "clips.jsonl"
    whole = run(path)
    text = path.read_text()
    path.write_text(text + "".join(f"{line}\n" for line in text.splitlines()[2:]))
    loaded(files)
    assert run(path, rows=ROWS[:3]) == run(tmp_path / "three.jsonl", rows=ROWS[:3])
    assert path.read_text() == text
    assert run(path) == whole
    assert loaded(files) == ["a", "b", "c"]  # of three.jsonl
