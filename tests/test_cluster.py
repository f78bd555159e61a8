"""On a Ray cluster of three processes: nothing is lost and nothing comes twice, whatever process is killed."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import psutil
import pytest

from mome import cluster
from mome.cluster import Lost, Stage, process
from mome.errors import MomeError
from tests import stages
from tests.cli.conftest import clips, run  # noqa: F401  fixtures

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def ray() -> Iterator[None]:
    """The cluster, started as the package would, but for its size."""
    pytest.importorskip("ray", reason="pip install 'mome[ray]'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        with cluster.connected(num_cpus=3, object_store_memory=100 * 2**20):
            yield


def killed(when: Callable[[], bool]) -> threading.Thread:
    """A thread that kills a process of a stage as soon as ``when`` holds."""

    def kill() -> None:
        while True:
            time.sleep(0.01)
            with suppress(psutil.Error):  # they come and go
                names = {one: " ".join(one.cmdline()) for one in psutil.Process().children(recursive=True)}
                workers = [one for one, name in names.items() if "_Worker" in name]
                if workers and when():
                    workers[0].kill()
                    return

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


def test_an_item_that_kills_its_process_is_lost_and_no_other():
    found = list(process(range(8), (Stage(stages.doubled), Stage(stages.counted, gpu=True))))
    assert sorted(number for number, _ in found) == [*range(8)]
    for number, result in found:
        assert result == (Lost() if number == stages.DEADLY else (bytes([2 * number, 0]), 2))


def test_an_error_of_a_stage_is_raised_here():
    with pytest.raises(MomeError, match="no such model"):
        list(process(range(2), [Stage(stages.broken)]))


def test_an_evaluation_goes_on_and_gives_the_figures_of_one_process(run, clips, tiny_model, tmp_path):  # noqa: F811
    """One of eight clips is no film, one has no sound, the first two are done, and a process is killed."""
    names = ["talk.mkv", "talk.mkv", "text.mp4", "talk.mkv", "mute.mkv", "talk.mkv", "talk.mkv", "talk.mkv"]
    lines = [f"clip{number},{clips / name},test,bin blue" for number, name in enumerate(names)]
    manifest, journal = tmp_path / "clips.csv", tmp_path / "journal.jsonl"
    manifest.write_text("\n".join(["id,path,split,text", *lines]) + "\n")
    options = ("--data", manifest, "--model", tiny_model, "--rates", "4,2", "--rates", "16,-", "--batch", "2", "--json")
    run("evaluate", *options, "--limit", 2, "--journal", journal)
    before = journal.read_text().splitlines()
    alone = run("evaluate", *options, "--transcripts", tmp_path / "alone.csv")
    thread = killed(lambda: len(journal.read_text().splitlines()) > len(before))
    together = run("evaluate", "--ray", *options, "--transcripts", tmp_path / "ray.csv", "--journal", journal)
    thread.join(0)
    assert not thread.is_alive()  # it has killed one
    assert (alone.exit_code, together.exit_code) == (1, 1)
    assert (tmp_path / "ray.csv").read_text() == (tmp_path / "alone.csv").read_text()
    figures = [json.loads(each.stdout)["results"] for each in (alone, together)]
    for one, other in zip(*figures, strict=True):
        assert {**one, "rtf": 0} == {**other, "rtf": 0}
    assert [one["clips"] for one in figures[0]] == [6, 6]
    after = journal.read_text().splitlines()
    assert after[:3] == before
    assert sorted(json.loads(line)["id"] for line in after[1:]) == [f"clip{number}" for number in range(8)]
