"""Read other programs' checkpoints without running code that is in them.

A checkpoint is a pickle, and a pickle can call any function. PyTorch's ``weights_only`` unpickler calls only functions
on a list. Other objects in a checkpoint (dictionaries, arguments, configurations) become :class:`StandIn` objects, so
their classes are never imported and need not be installed.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import tarfile
import warnings
import zipfile
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor
from torch.serialization import safe_globals

from mome.errors import MomeError, listed

INERT = (
    "argparse.Namespace",
    "builtins.bool",
    "builtins.dict",
    "builtins.float",
    "builtins.int",
    "builtins.list",
    "builtins.str",
    "builtins.tuple",
    "fairseq.data.dictionary.Dictionary",
    "fairseq.data.encoders.sentencepiece_bpe.SentencepieceBPE",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "numpy.ndarray",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.nodes.AnyNode",
    "omegaconf.nodes.BooleanNode",
    "omegaconf.nodes.FloatNode",
    "omegaconf.nodes.IntegerNode",
    "omegaconf.nodes.StringNode",
    "sentencepiece.SentencePieceProcessor",
    "typing.Any",
)
"""Classes and functions that a checkpoint may refer to; their objects become stand-ins."""

DEFAULTS = "collections.defaultdict"  # becomes a plain dictionary: PyTorch's unpickler fills no other class

_NAME = re.compile(r"GLOBAL (\S+)")
_ZIP = b"PK\x03\x04"


class StandIn:
    """The attributes of an object whose class is not imported."""

    def __new__(cls, *arguments: object) -> StandIn:
        """Make an empty object; the arguments are ignored."""
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


def _dictionary(*arguments: object) -> dict[Any, Any]:
    """An empty dictionary; the function for missing items is ignored."""
    return {}


def read_checkpoint(path: Path) -> dict[Any, Any]:
    """The content of a checkpoint, with :class:`StandIn` objects for all but tensors and plain values.

    Tensors of an uncompressed zip file (PyTorch's format since 1.6) are mapped, so they use no memory until they are
    read. Attributes that the file gives to dictionaries and tensors are removed, since they could replace methods.

    Raises:
        MomeError: the file is missing, damaged or no checkpoint, or it refers to a class or function that is not in
            :data:`INERT`; the message names it, and it is not called.
    """
    if not path.is_file():
        raise MomeError(f"no checkpoint at {path}: give the file that was downloaded")
    try:
        with path.open("rb") as file:
            zipped = file.read(len(_ZIP)) == _ZIP
    except OSError as error:
        raise MomeError(f"{path} cannot be read: {error.strerror}") from None
    try:
        allowed: list[Any] = [(_dictionary, DEFAULTS), *((StandIn, name) for name in INERT)]
        with safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped and _is_stored(path))
        _strip(content)
    except Exception as error:  # damaged files make the unpickler raise any exception
        name = _NAME.search(str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if name is not None:
            raise MomeError(
                f"{path} is refused: it asks for {name[1]}, which such a checkpoint does not need; it was not run"
            ) from error
        if "Unsupported operand" in str(error) and (names := _asked_for(path, zipped)):
            raise MomeError(
                f"{path} is refused: it is not pickled as torch.save does and asks for {listed(names, 20)}; "
                "nothing was run: load it where it was made, if you trust it, and save its weights with torch.save"
            ) from error
        if "allocate memory" in str(error):
            raise MomeError(f"{path} is larger than the memory of this machine: convert it on a larger one") from error
        if other := _other_format(path, zipped):
            raise MomeError(
                f"{path} is {other}: load it where it was made, if you trust it, and save its weights with torch.save"
            ) from error
        raise MomeError(f"{path} is damaged or not a PyTorch checkpoint: copy or download it again") from error
    if not isinstance(content, dict):
        raise MomeError(f"{path} holds a {type(content).__name__} instead of a checkpoint's dictionary")
    return content


def _is_stored(path: Path) -> bool:
    """Whether no entry of a zip file is compressed, so that tensors can be mapped."""
    with zipfile.ZipFile(path) as archive:
        return all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())


def _strip(content: object) -> None:
    """Remove the attributes that a file gave to dictionaries and tensors.

    Raises:
        ValueError: there is a nested tensor.
    """
    left, visited = [content], set()
    while left:
        value = left.pop()
        if id(value) in visited:
            continue
        visited.add(id(value))
        if isinstance(value, Tensor) or (isinstance(value, dict) and type(value) is not dict):
            vars(value).clear()
        if isinstance(value, Tensor) and value.is_nested:
            raise ValueError("a nested tensor")
        if isinstance(value, dict):
            left.extend(value.values())
        elif isinstance(value, list | tuple):
            left.extend(value)
        elif isinstance(value, StandIn):
            left.extend(vars(value).values())


def _other_format(path: Path, zipped: bool) -> str | None:
    """What the file is, if it is in another format of PyTorch; ``None`` otherwise."""
    with suppress(Exception):
        if zipped:
            with zipfile.ZipFile(path) as archive:
                if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                    return "a TorchScript program, not a checkpoint"
        elif tarfile.is_tarfile(path):
            return "in PyTorch's format from before 0.2, a tar archive"
    return None


def _asked_for(path: Path, zipped: bool) -> list[str]:
    """The names outside :data:`INERT` that a file's pickles refer to; the pickles are parsed and not run."""
    found: dict[str, None] = {}
    with suppress(Exception), _pickle_in(path, zipped) as file:  # keep what was found before any damage
        while not found:  # PyTorch's old files hold several pickles
            for name in _globals(file):
                if name not in INERT and name != DEFAULTS:
                    found[name] = None
    return list(found)


@contextmanager
def _pickle_in(path: Path, zipped: bool) -> Iterator[IO[bytes]]:
    if not zipped:
        with path.open("rb") as file:
            yield file
        return
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        with archive.open(name) as file:
            yield file


def _globals(file: IO[bytes]) -> Iterator[str]:
    """The names that one pickle refers to, if it was written by a usual pickler."""
    last: deque[str] = deque(("?", "?"), maxlen=2)  # texts that the last two steps put on the stack
    memory: dict[object, str] = {}
    for step, argument, _ in pickletools.genops(file):
        if step.name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", ".")
        elif step.name == "STACK_GLOBAL":
            yield ".".join(last)
        elif step.name.startswith("EXT"):
            yield f"the copyreg extension {argument}"
        if step.name == "MEMOIZE":
            memory[len(memory)] = last[-1]
        elif step.name.endswith("PUT"):
            memory[argument] = last[-1]
        elif step.name.endswith("GET"):
            last.append(memory.get(argument, "?"))
        elif step.name not in ("FRAME", "PROTO"):
            last.append(argument if isinstance(argument, str) else "?")


def plain(value: object) -> Any:
    """Convert configurations (plain, of argparse or of OmegaConf) to dictionaries, lists and values."""
    if isinstance(value, StandIn):
        inside = vars(value)
        for key in ("_content", "_val"):  # a container and a value of OmegaConf
            if key in inside:
                return plain(inside[key])
        return plain(inside)
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value
