"""What is done on a cluster, here in this process; tests/test_cluster.py has a real one."""

from __future__ import annotations

import csv
import json
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mome.cluster import Lost
from mome.decoding import load
from mome.evaluation import bulk
from tests.cli.conftest import clips, refused, run  # noqa: F401  fixtures


@pytest.fixture
def seen(monkeypatch) -> list[list[str]]:
    """The ids of the batches that the cluster gets; one with a clip called deadly is lost."""
    batches: list[list[str]] = []

    def process(work, stages, address):
        assert address == "ray://head:10001"
        done = [stage.make() for stage in stages]
        for number, batch in enumerate(work):
            batches.append([row.id for row in batch])
            result = batch
            for step in done:
                result = Lost() if "deadly" in batches[-1] else step(result)
            yield number, result

    monkeypatch.setattr(bulk, "process", process)
    return batches


@pytest.fixture
def manifest(clips, tmp_path) -> Path:  # noqa: F811
    lines = [f"{name},{clips / file},test," for name, file in CLIPS.items()]
    (tmp_path / "clips.csv").write_text("\n".join(["id,path,split,text", *lines]) + "\n")
    return tmp_path / "clips.csv"


CLIPS = {"good": "talk.mkv", "deadly": "talk.mkv", "bad": "text.mp4", "mute": "mute.mkv", "gone": "gone.mp4"}


def test_the_clips_of_a_manifest_are_transcribed_to_one_file(run, refused, seen, manifest, clips, tiny_model):  # noqa: F811
    out = manifest.with_name("out")
    command = ("transcribe", "--ray=ray://head:10001", manifest, "--out", out, "--model", tiny_model, "--batch", "2")
    result = run(*command)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"wrote {out / 'transcripts.jsonl'}: 2 of 5 clips" in result.stderr
    assert seen == [["good", "deadly"], ["bad", "mute"], ["gone"], ["good"], ["deadly"]]
    with (out / "failures.csv").open() as file:
        reasons = {row["name"]: row["reason"] for row in csv.DictReader(file)}
    assert list(reasons) == ["deadly", "bad", "gone"]
    assert reasons["deadly"] == f"{clips / 'talk.mkv'} killed 3 processes, by a fault in a decoder or its size"
    lines = [json.loads(line) for line in (out / "transcripts.jsonl").read_text().splitlines()[1:]]
    found = {line["id"]: line["results"][0] for line in lines}
    assert len(lines) == len(found) == len(CLIPS)
    expected = load(tiny_model).transcribe(str(clips / "talk.mkv"), "4,2")
    assert [found["good"][key] for key in ("text", "rates")] == [expected.text, "4,2"]
    assert found["mute"]["rates"] == "-,2"
    seen.clear()
    assert run(*command).exit_code == 1  # what failed is tried again, and nothing else
    assert seen == [["deadly"], ["bad"], ["gone"]]
    assert "is of a run with other options" in refused(*command, "--beams", "2")

    few = manifest.with_name("few.csv")
    few.write_text("".join(manifest.read_text().splitlines(keepends=True)[:2]))  # without what failed
    assert run(*command[:2], few, *command[3:]).exit_code == 0
    with (out / "failures.csv").open() as file:
        assert {row["name"]: row["reason"] for row in csv.DictReader(file)} == reasons
    kept = (out / "transcripts.jsonl").read_text().splitlines(keepends=True)
    (out / "transcripts.jsonl").write_text("".join(line for line in kept if '"error"' not in line))
    assert run(*command[:2], few, *command[3:]).exit_code == 0
    assert not (out / "failures.csv").exists()


def test_what_makes_no_sense_with_a_cluster_is_refused(refused, manifest, tmp_path):  # noqa: F811
    command = ("transcribe", "--ray", manifest, "--out", tmp_path / "out")
    assert "leave out --face" in refused(*command, "--face", "all")
    assert "leave out --no-vad" in refused(*command, "--no-vad")
    assert "leave out --format, --json and --jsonl, --skip-existing" in refused(
        *command, "-f", "srt", "--skip-existing"
    )
    for wrong in (("transcribe", "--ray", manifest), ("transcribe", "--ray", "talk.mp4", "--out", tmp_path)):
        assert "mome transcribe --ray CLIPS.csv --out DIR" in refused(*wrong)
    assert "--workers 2 and --ray" in refused(
        "data", "prepare", manifest, "-o", tmp_path / "p", "--workers", 2, "--ray"
    )


@pytest.mark.parametrize(
    ("given", "address"),
    [
        (["--ray"], "local"),
        (["--ray", "auto"], "auto"),
        (["--ray=auto"], "auto"),
        (["--ray", "ray://head:10001"], "ray://head:10001"),
        (["--ray", "10.0.0.1:6379"], "10.0.0.1:6379"),
    ],
)
def test_an_address_may_follow_after_a_space(run, manifest, tmp_path, monkeypatch, given, address):  # noqa: F811
    asked = []

    def prepare(work, out, workers, share, bar, ray):
        asked.append(ray)
        return SimpleNamespace(missing=1, clips=0, failures=[])

    monkeypatch.setattr("mome.data.prepare.prepare", prepare)
    assert run("data", "prepare", *given, manifest, "--out", tmp_path / "prepared").exit_code == 0
    assert run("data", "prepare", manifest, "--out", tmp_path / "prepared", *given).exit_code == 0
    assert asked == [address] * 2


def test_without_the_extra(refused, manifest, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setitem(sys.modules, "ray", None)
    line = refused("data", "prepare", manifest, "--out", tmp_path / "prepared", "--ray")
    assert line == "mome: work on a cluster needs Ray: pip install 'mome[ray]'"


def test_a_cluster_that_is_not_there(refused, manifest, tmp_path):  # noqa: F811
    pytest.importorskip("ray", reason="pip install 'mome[ray]'")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    line = refused("data", "prepare", manifest, "--out", tmp_path / "prepared", f"--ray={address}")
    assert line.startswith(f"mome: the Ray cluster {address} cannot be used: ")
    assert "refused" in line
