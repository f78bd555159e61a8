from __future__ import annotations

import csv
import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from mome.clip import Clip, Excerpt
from mome.cluster import Lost
from mome.data import prepare as module
from mome.data.clips import ClipStore
from mome.data.manifests import ManifestRow, read_manifest
from mome.data.prepare import encode_mouth, encode_sound, prepare, shards
from mome.errors import MomeError
from mome.media import load_clip

FRAMES = 12


def mouth(seed: int, frames: int = FRAMES) -> np.ndarray:
    """Crops ``(frames, 96, 96)`` uint8 of smooth moving shapes."""
    y, x = np.mgrid[:96, :96] / 96
    rows = [127 + 90 * np.sin(6 * x + 0.3 * t + seed) * np.cos(5 * y - 0.2 * t) for t in range(frames)]
    return np.array(rows).astype(np.uint8)


def sound(seed: int, seconds: float = FRAMES / 25) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * 16_000)).clip(-1, 1).astype(np.float32)


@pytest.fixture
def rows(tmp_path: Path) -> list[ManifestRow]:
    """Five clips of crops with sound in files of their own, one of which is damaged, and one of sound alone."""
    return made_rows(tmp_path)


def made_rows(folder: Path) -> list[ManifestRow]:
    """The same files each time."""
    made = []
    for number in range(6):
        film, wave = folder / f"{number}.mp4", folder / f"{number}.flac"
        film.write_bytes(encode_mouth(mouth(number), 0) if number != 3 else b"no film")
        wave.write_bytes(encode_sound(sound(number)))
        excerpt = Excerpt(sound=wave)
        made.append(ManifestRow(f"clip.{number}", film, "test" if number == 4 else "train", f"text {number}", excerpt))
    made[5] = ManifestRow("clip.5", folder / "5.flac", "train", "text 5")
    return made


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("work"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_crops_without_loss_are_the_same_and_the_sound_is_close():
    crops = mouth(0)
    for crf, most in ((0, 0.0), (module.CRF, 2.0)):
        Path("film.mp4").write_bytes(encode_mouth(crops, crf))
        assert np.abs(load_clip("film.mp4").mouth.astype(int) - crops).mean() <= most
    wave = sound(0)
    Path("wave.flac").write_bytes(encode_sound(wave))
    noise = load_clip("wave.flac").audio - wave
    assert 60 <= 20 * np.log10(wave.std() / noise.std()) <= 66.1  # a step is a power of two
    quiet = np.round(wave * 300) / 2**15  # no bit can be spared
    Path("quiet.flac").write_bytes(encode_sound(quiet))
    assert np.array_equal(load_clip("quiet.flac").audio, quiet)


def test_the_same_crops_are_the_same_bytes():
    crops = mouth(0)
    assert len({encode_mouth(crops) for _ in range(200)}) == 1


def test_prepared_clips_are_read_in_place_of_the_original(rows, tmp_path):
    out = tmp_path / "out"
    done = prepare(shards(rows, 2), out)
    assert (done.clips, done.missing, [name for name, _ in done.failures]) == (5, 0, ["clip.3"])
    with (out / "failures.csv").open() as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["clip.3"]
    prepared = {row.id: row for row in read_manifest(out / "manifest.csv")}
    store = ClipStore(tmp_path / "cache", audio=True, video=True)
    store.prepare([prepared["clip.0"]], 1, lambda *_: None)
    for name in ("clip.0", "clip.4"):
        row, number = prepared[name], int(name[-1])
        assert (row.text, row.split, row.frames) == (f"text {number}", "test" if number == 4 else "train", FRAMES)
        for clip in (load_clip(row.path, excerpt=row.excerpt), store.get(row)):
            assert np.abs(clip.mouth.astype(int) - mouth(number)).mean() < 2
            assert np.abs(clip.audio - sound(number)).max() < 1e-3
        assert store.frames(row) == FRAMES
    assert not list((tmp_path / "cache").iterdir())  # no second copy
    assert store.file(prepared["clip.0"]) != store.file(prepared["clip.1"])
    with pytest.raises(MomeError, match="no visible mouth"):
        store.get(prepared["clip.5"])
    assert load_clip(prepared["clip.5"].path, video=False).audio is not None


def test_shards_are_tar_files_in_the_layout_of_webdataset(rows, tmp_path):
    prepare(shards(rows, 2), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tar")) == [
        *("test-00000.tar", "train-00000.tar", "train-00001.tar", "train-00002.tar")
    ]
    samples: dict[str, dict[str, bytes]] = {}
    with tarfile.open(tmp_path / "out" / "train-00000.tar") as archive:
        for member in archive:
            key, suffix = member.name.split(".", 1)  # as WebDataset does
            samples.setdefault(key, {})[suffix] = archive.extractfile(member).read()
    assert len(samples) == 2
    assert [set(sample) for sample in samples.values()] == [{"mp4", "flac", "txt"}] * 2
    assert [sample["txt"] for sample in samples.values()] == [b"text 0", b"text 1"]
    with (tmp_path / "out" / "manifest.csv").open() as file:
        hashes = {(row["sha256"], row["audio_sha256"]) for row in csv.DictReader(file)}
    for sample in samples.values():
        assert tuple(hashlib.sha256(sample[kind]).hexdigest() for kind in ("mp4", "flac")) in hashes


def test_an_interrupted_run_goes_on_where_it_was(rows, tmp_path, monkeypatch):
    prepare(shards(rows, 2), tmp_path / "whole")
    out, real, read = tmp_path / "out", module._read, []

    def interrupted(row):
        if row.id == "clip.2" and len(read) < 3:
            raise KeyboardInterrupt
        read.append(row.id)
        return real(row)

    monkeypatch.setattr(module, "_read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(shards(rows, 2), out)
    assert sorted(path.name for path in out.iterdir()) == ["train-00000.json", "train-00000.tar"]
    (out / ".mome.0.1.part").write_bytes(b"what a killed process left")
    os.utime(out / ".mome.0.1.part", (time.time() - 7200,) * 2)
    (out / ".mome.0.2.part").write_bytes(b"what another process is writing")
    (out / "train-00001.tar").write_bytes(b"killed before its report was there")
    read.append("go on")
    prepare(shards(rows, 2), out)
    assert read == ["clip.0", "clip.1", "go on", "clip.2", "clip.3", "clip.5", "clip.4"]
    (out / ".mome.0.2.part").unlink()
    assert contents(out) == contents(tmp_path / "whole")


def test_only_what_changed_is_made_again(rows, tmp_path, monkeypatch):
    work, out, read, real = shards(rows, 2), tmp_path / "out", [], module._read
    prepare(work, out)
    monkeypatch.setattr(module, "_read", lambda row: read.append(row.id) or real(row))
    prepare(work, out)
    assert read == []
    rows[3].path.write_bytes(encode_mouth(mouth(3)))  # the damaged clip is mended
    assert prepare(work, out).failures == []
    assert read == ["clip.2", "clip.3"]
    assert not (out / "failures.csv").exists()
    with (out / "test-00000.tar").open("r+b") as file:  # a disk was full
        file.truncate(600)
    prepare(work, out)
    assert read == ["clip.2", "clip.3", "clip.4"]


def test_machines_share_the_work_and_their_outputs_join(rows, tmp_path):
    work = shards(rows, 2)
    prepare(work, tmp_path / "whole")
    first, second = tmp_path / "first", tmp_path / "second"
    assert prepare(work, first, share=(1, 2)).missing == 2
    assert prepare(work, second, share=(2, 2)).missing == 2
    names = [{path.name for path in folder.iterdir()} for folder in (first, second)]
    assert not names[0] & names[1]
    for path in second.iterdir():
        path.rename(first / path.name)
    assert prepare(work, first).missing == 0
    assert contents(first) == contents(tmp_path / "whole")


_MAKE = module._make


def make_where_a_clip_kills(shard: module.Shard, folder: Path) -> None:
    """As the module's, in a process that clip.1 kills."""

    def read(row: ManifestRow) -> Clip:
        if row.id == "clip.1":
            os.kill(os.getpid(), signal.SIGKILL)
        return Clip(sound(0), None, FRAMES / 25)

    module._read = read
    _MAKE(shard, folder)


@pytest.mark.slow
def test_a_clip_that_kills_its_process_each_time_is_a_failure(rows, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr(module, "_make", make_where_a_clip_kills)
    done = prepare(shards(rows, 2), out, workers=2)
    (failure,) = done.failures
    assert failure == ("clip.1", f"{rows[1].path} killed 3 processes, by a fault in a decoder or its size")
    assert (done.clips, done.missing) == (5, 0)
    assert not list(out.glob("*.deaths"))


def test_an_interruption_is_no_clips_fault(rows, tmp_path, monkeypatch):
    out, note, real = tmp_path / "out", tmp_path / "out" / "train-00000.deaths", module._read

    def interrupted(row: ManifestRow) -> Clip:
        assert json.loads(note.read_text())["clip.0"] == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_read", interrupted)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            prepare(shards(rows, 2), out)
        assert not note.exists()
    monkeypatch.setattr(module, "_read", real)
    assert prepare(shards(rows, 2), out).clips == 5


def make_and_wait(shard: module.Shard, folder: Path) -> None:
    """As the module's, in a process that writes who it is, and waits, at its first clip."""

    def read(row: ManifestRow) -> Clip:
        (folder / f"{shard.name}.pid").write_text(str(os.getpid()))
        time.sleep(60)
        raise AssertionError

    module._read = read
    _MAKE(shard, folder)


def command(folder: Path, workers: int) -> None:
    """What a process that is killed runs."""
    module._make = make_and_wait
    prepare(shards(made_rows(folder), 2), folder / "out", workers)


def started(folder: Path, workers: int, count: int) -> tuple[subprocess.Popen[bytes], list[int]]:
    """Such a process, and the ids of those that read, when there are so many."""
    code = "from pathlib import Path; from tests.data.test_prepare import command"
    code += f"; command(Path({str(folder)!r}), {workers})"
    paths = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths})
    while process.poll() is None:
        files = list((folder / "out").glob("*.pid"))
        if len(files) == count and all(found := [file.read_text() for file in files]):
            return process, [int(each) for each in found]
        time.sleep(0.05)
    raise AssertionError("it ended")


def is_running(process: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
def test_a_command_that_is_killed_is_no_clips_fault_and_its_workers_end(rows, tmp_path):
    out, work = tmp_path / "out", shards(rows, 2)
    for workers, count in ((1, 1), (2, 2), (1, 1)):
        process, readers = started(tmp_path, workers, count)
        process.kill()
        process.wait()
        deadline = time.monotonic() + 10
        while any(map(is_running, readers)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(map(is_running, readers))
        assert json.loads((out / "train-00000.deaths").read_text()) == {"clip.0": 1}
        for file in out.glob("*.pid"):
            file.unlink()
    done = prepare(work, out)
    assert (done.clips, [name for name, _ in done.failures]) == (5, ["clip.3"])
    assert not list(out.glob("*.deaths"))


def make_nothing(shard: module.Shard, folder: Path) -> None:
    """Die."""
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_processes_that_die_before_any_clip_end_the_run(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_make", make_nothing)
    with pytest.raises(MomeError, match="killed again and again"):
        prepare(shards(rows[:1], 1), tmp_path / "out", workers=2)


def test_a_cluster_does_the_same(rows, tmp_path, monkeypatch):
    lost: list[int] = []

    def process(work, stages, address, tries):
        made = stages[0].make()
        yield from ((number, Lost() if number in lost else made(shard)) for number, shard in enumerate(work))

    monkeypatch.setattr(module, "process", process)
    prepare(shards(rows, 2), tmp_path / "whole")
    assert prepare(shards(rows, 2), tmp_path / "out", cluster="head").missing == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    lost.append(0)
    with pytest.raises(MomeError, match=r"train-00000: processes are killed"):
        prepare(shards(rows, 2), tmp_path / "other", cluster="head")
    monkeypatch.setattr(module, "_make", lambda shard, folder: None)  # on another machine's disk
    lost.clear()
    with pytest.raises(MomeError, match="other is not the same on all machines"):
        prepare(shards(rows, 2), tmp_path / "other", cluster="head")


@pytest.mark.slow
def test_a_killed_worker_is_replaced(rows, tmp_path):
    prepare(shards(rows, 1), tmp_path / "whole")
    killed, out = threading.Event(), tmp_path / "out"
    at_start: list[int] = []

    def kill() -> None:
        while not killed.is_set():
            for child in multiprocessing.active_children():
                if not at_start or any(out.glob(".mome.*.part")):
                    os.kill(child.pid, signal.SIGKILL)
                    killed.set() if at_start else at_start.append(child.pid)
                    break
            time.sleep(0.01)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        done = prepare(shards(rows, 1), out, workers=2)
    finally:
        killed.set()
        thread.join()
    assert (done.clips, done.missing) == (5, 0)
    for left in out.glob(".mome.*.part"):  # the killed workers': prepare deletes them when they are old
        left.unlink()
    assert contents(out) == contents(tmp_path / "whole")
