from __future__ import annotations

import argparse
import builtins
import collections
import os
import pickle
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from mome.convert.unpickle import StandIn, plain, read_checkpoint
from mome.errors import MomeError
from tests.convert.fairseq import container, save, tiny_state


class Calls:
    """Pickled as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


CALLS = {
    "os.system": lambda path: Calls(os.system, f"touch {path}"),
    "builtins.exec": lambda path: Calls(builtins.exec, f"open({str(path)!r}, 'w')"),
    "builtins.open": lambda path: Calls(open, str(path), "w"),
    "pathlib.Path.touch": lambda path: Calls(Path.touch, path),
    "subprocess.Popen": lambda path: Calls(subprocess.Popen, ["touch", str(path)]),
    "an allowed name": lambda path: Calls(collections.OrderedDict, Calls(os.mkdir, str(path))),
}


def bare(content: object, path: Path, protocol: int) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


WRITERS = {
    "zip": save,
    "legacy": lambda content, path: save(content, path, legacy=True),
    "pickle 2": lambda content, path: bare(content, path, 2),
    "pickle 4": lambda content, path: bare(content, path, 4),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("call", CALLS)
def test_nothing_in_a_file_is_executed(tmp_path, call, writer):
    trap = tmp_path / "trap"
    content = {"model": {"w": torch.zeros(2)}, "task_state": {"dictionaries": [CALLS[call](trap)]}}
    path = WRITERS[writer](content, tmp_path / "evil.pt")
    with pytest.raises(MomeError, match=r"evil\.pt"):
        read_checkpoint(path)
    assert not trap.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_what_a_file_asks_for_is_named(tmp_path, legacy):
    with pytest.raises(MomeError, match=r"it asks for shutil\.rmtree"):
        read_checkpoint(save({"state": Calls(shutil.rmtree, "nowhere")}, tmp_path / "a.pt", legacy))
    with pytest.raises(MomeError, match=rf"it asks for {os.system.__module__}\.system"):
        read_checkpoint(save(Calls(os.system, "true"), tmp_path / "b.pt", legacy))


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("torch_made", [False, True])
def test_what_other_picklings_ask_for_is_named(tmp_path, protocol, torch_made):
    """The unpickler reads protocol 2 alone, so of the others the names are looked for in the file."""
    trap = tmp_path / "trap"
    twice = [Calls(shutil.rmtree, str(trap)), Calls(shutil.rmtree, "nowhere")]
    content = {"words": ["shutil"], "model": {"w": 1}, "state": twice, "more": Calls(os.system, f"touch {trap}")}
    if torch_made:
        torch.save(content, tmp_path / "a.pt", pickle_protocol=protocol)
    else:
        bare(content, tmp_path / "a.pt", protocol)
    with pytest.raises(MomeError, match=r"asks for .*shutil\.rmtree") as caught:
        read_checkpoint(tmp_path / "a.pt")
    assert "damaged" not in str(caught.value)
    if protocol > 3:
        assert f"shutil.rmtree, {os.system.__module__}.system; nothing was run" in str(caught.value)
    assert not trap.exists()


def test_an_old_file_of_another_pickling_is_read_past_its_first_pickles(tmp_path):
    content = {"w": torch.zeros(2), "state": Calls(shutil.rmtree, "nowhere")}
    torch.save(content, tmp_path / "a.pt", pickle_protocol=4, _use_new_zipfile_serialization=False)
    with pytest.raises(MomeError, match=r"asks for .*shutil\.rmtree; nothing was run"):
        read_checkpoint(tmp_path / "a.pt")


def test_dictionaries_with_defaults_become_plain_ones(tmp_path):
    content = {"counts": collections.defaultdict(list, a=[1]), "none": collections.defaultdict(int)}
    assert read_checkpoint(save(content, tmp_path / "a.pt")) == {"counts": {"a": [1]}, "none": {}}


def test_other_formats_are_called_what_they_are(tmp_path):
    program = tmp_path / "program.pt"
    with zipfile.ZipFile(program, "w") as archive:
        archive.writestr("program/constants.pkl", pickle.dumps((), 2))
        archive.writestr("program/data.pkl", pickle.dumps({}, 2))
    with pytest.raises(MomeError, match=r"program\.pt is a TorchScript program"):
        read_checkpoint(program)
    with tarfile.open(tmp_path / "old.pt", "w") as archive:
        archive.add(program, "storages")
    with pytest.raises(MomeError, match=r"old\.pt is in PyTorch's format from before 0\.2, a tar archive"):
        read_checkpoint(tmp_path / "old.pt")
    extension = b"\x80\x02}X\x01\x00\x00\x00a\x82\x07s."  # {"a": extension 7}
    (tmp_path / "extension.pt").write_bytes(extension)
    with pytest.raises(MomeError, match="asks for the copyreg extension 7; nothing was run"):
        read_checkpoint(tmp_path / "extension.pt")


def test_a_file_larger_than_memory_is_not_called_damaged(tmp_path, monkeypatch):
    def load(*arguments, **options):
        raise RuntimeError("unable to mmap 9 bytes from file <a.pt>: Cannot allocate memory (12)")

    path = save({"w": torch.zeros(2)}, tmp_path / "a.pt")
    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(MomeError, match=r"a\.pt is larger than the memory of this machine"):
        read_checkpoint(path)


def test_tensors_of_a_compressed_file_are_what_they_were(tmp_path):
    state = tiny_state()
    packed = tmp_path / "packed.pt"
    with zipfile.ZipFile(save(state, tmp_path / "a.pt")) as plain_zip, zipfile.ZipFile(packed, "w") as archive:
        for entry in plain_zip.infolist():
            one = entry.filename.endswith("/data/0")  # a single one is enough
            kind = zipfile.ZIP_DEFLATED if one else zipfile.ZIP_STORED
            archive.writestr(entry.filename, plain_zip.read(entry), kind)
    found = read_checkpoint(packed)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], value) for key, value in state.items())


@pytest.mark.parametrize("legacy", [False, True])
def test_what_trainers_leave_beside_weights_becomes_stand_ins(tmp_path, foreign, legacy):
    state = tiny_state()
    found = read_checkpoint(save(container(foreign, state, {}, {}), tmp_path / "a.pt", legacy))
    assert all(torch.equal(found["model"][key], value) for key, value in state.items())
    words = found["task_state"]["dictionaries"][0]
    assert type(words) is StandIn
    assert words.indices == {"<s>": 0, "a": 1}
    assert type(found["task_state"]["s2s_tokenizer"].sp) is StandIn
    assert type(found["extra_state"]["best"]) is StandIn
    assert found["extra_state"]["train_iterator"] == {"epoch": 2}


def test_settings_of_argparse_and_omegaconf_become_dictionaries(tmp_path):
    settings = {"model": {"heads": 4, "rates": [1, 2.5], "name": "x", "flag": True, "none": None}}
    content = {
        "cfg": OmegaConf.create(settings),
        "args": argparse.Namespace(heads=4, w2v_args=argparse.Namespace(layers=2)),
        "value": (np.float32(1), 2),
    }
    found = read_checkpoint(save(content, tmp_path / "a.pt"))
    assert plain(found["cfg"]) == settings
    assert plain(found["args"]) == {"heads": 4, "w2v_args": {"layers": 2}}
    assert plain(found["value"])[1] == 2


def test_reading_leaves_no_class_allowed_behind(tmp_path):
    before = torch.serialization.get_safe_globals()
    read_checkpoint(save({"args": argparse.Namespace()}, tmp_path / "a.pt"))
    with pytest.raises(MomeError):
        read_checkpoint(save(Calls(print), tmp_path / "b.pt"))
    assert torch.serialization.get_safe_globals() == before


def test_what_is_no_checkpoint_is_refused(tmp_path):
    whole = save(tiny_state(), tmp_path / "whole.pt").read_bytes()
    legacy = save(tiny_state(), tmp_path / "legacy.pt", legacy=True).read_bytes()
    for name, data in {
        "empty": b"",
        "text": b"<html>not found</html>",
        "half": whole[: len(whole) // 2],
        "half-legacy": legacy[: len(legacy) // 2],
        "zip": b"PK\x03\x04" + bytes(200),
        "harmless": pickle.dumps({"w": 1}, 4),
        "half-pickle": pickle.dumps({"w": "\N{BULLET}" * 99}, 4)[:60],
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(MomeError, match=f"{name} is damaged or not a PyTorch checkpoint"):
            read_checkpoint(tmp_path / name)
    with pytest.raises(MomeError, match="no checkpoint at"):
        read_checkpoint(tmp_path)
    with pytest.raises(MomeError, match="holds a list"):
        read_checkpoint(save([torch.zeros(1)], tmp_path / "list"))
