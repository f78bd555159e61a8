"""How much memory a conversion takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from mome.convert.unpickle import read_checkpoint
from mome.convert.writing import save_weights
from tests.convert import large
from tests.convert.published import backbones, published, random_case

_MEASURED = """
import os, sys
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from mome.convert.avsr import Sources, convert
from tests.convert.published import backbones, published, random_case

folder, checkpoint = Path(sys.argv[1]), Path(sys.argv[2])
small = random_case("llama-avsr", "audio")  # so that everything is imported
(folder / "small").mkdir()
convert("llama-avsr", published(small, folder / "small"), folder / "small" / "out", backbones(small, folder / "small"))
before = getrusage(RUSAGE_SELF).ru_maxrss
sources = Sources(str(folder / "language_model"), str(folder / "audio_encoder"), audio_rates=[4])
convert("llama-avsr", checkpoint, folder / "referred", sources)
(folder / "language_model" / "model.safetensors").unlink()
convert("llama-avsr", checkpoint, folder / "stored", sources)
print(1024 * (getrusage(RUSAGE_SELF).ru_maxrss - before) / os.path.getsize(checkpoint))
"""


@pytest.mark.slow
def test_memory_is_at_most_that_of_the_checkpoint(tmp_path):
    case = random_case("llama-avsr", "audio")
    case.config["llm"]["intermediate_size"] = 400_000  # 2 layers of 77 MB
    for key in [key for key in case.state if ".mlp." in key]:
        case.state[key] = torch.full((16, 400_000) if "down_proj" in key else (400_000, 16), 0.5)
    backbones(case, tmp_path)
    path = published(case, tmp_path)
    assert path.stat().st_size > 150e6
    code = [sys.executable, "-c", _MEASURED, str(tmp_path), str(path)]
    done = subprocess.run(code, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert float(done.stdout) < 1.3
    assert not (tmp_path / "referred" / "language_model").exists()
    with safe_open(tmp_path / "stored" / "language_model" / "model.safetensors", framework="pt") as file:
        assert bool((file.get_tensor("model.layers.1.mlp.down_proj.weight") == 0.5).all())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the memory that no file backs")
@pytest.mark.slow
def test_a_file_of_8b_is_streamed(tmp_path):
    """In memory there is never more than a few tensors of the file's 17 GB."""
    (tmp_path / "hole").open("wb").truncate(2**26)
    if (tmp_path / "hole").stat().st_blocks * 512 > 2**20:
        pytest.skip("files here have no holes")
    if os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") < 12e9:
        pytest.skip("a file this large cannot be mapped here")
    path = large.write(tmp_path)
    size = path.stat().st_size
    assert size > 17e9
    code = [sys.executable, "-m", large.__name__, str(tmp_path)]
    done = subprocess.run(code, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout)
    assert figures["peak"] < 0.05 * size
    assert 0.99 * size < figures["to write"] <= size
    assert f"the language model is stored: lm_head.weight is not that of {tmp_path}/language_model" in figures["notes"]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the memory that no file backs")
def test_views_of_one_storage_are_written_from_the_file(tmp_path):
    whole = torch.arange(25_000_000.0)
    parts = {str(i): part for i, part in enumerate(whole.split(1_000_000))}
    overlap = {"transposed": whole[:6].view(2, 3).T, "begin": whole[:9], "inside": whole[4:7], "none": whole[:0]}
    torch.save(parts | overlap, tmp_path / "views.pt")
    del whole, parts
    state = read_checkpoint(tmp_path / "views.pt")
    with large.watched() as peak:
        save_weights(state, tmp_path)
    assert peak[0] < 25e6
    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], value) for key, value in state.items())


def test_tensors_stay_in_the_file(tmp_path):
    case = random_case("llama-avsr")
    content = read_checkpoint(published(case, tmp_path))
    assert all(value.untyped_storage().nbytes() == value.nbytes for value in content.values())
