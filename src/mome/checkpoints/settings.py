"""Check the settings files of a model folder before a library reads them.

A folder may come from a stranger, and its files can make Transformers run code of the folder or of the hub, or read
files elsewhere. Such settings are refused by name. ``auto_map`` is accepted: many published models of built-in types
have one, and every loading call passes ``trust_remote_code=False``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from mome.errors import MomeError, in_one_line, shortened

_LARGEST = 100_000_000  # bytes of a settings file; published ones have a few thousand
_DEEPEST = 50  # levels of nesting
_LARGEST_SIZE = 2**24  # of widths, vocabularies, positions and any other size in config.json
_MOST_LAYERS = 1024

# Files that Transformers reads when it loads a model, a tokenizer or a processor.
_FILES = (
    *("config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
)
_TABLES = ("special_tokens_map.json", "added_tokens.json")  # their keys are tokens, not settings
INDICES = {name: f"{name}.index.json" for name in ("model.safetensors", "pytorch_model.bin")}
"""File names of a backbone's weights, each with the index of split weights, in Transformers' order of preference."""

_FOREIGN = ("adapter_config.json", "audio_tokenizer_config.json")  # they refer to another model
_CODE = ("custom_generate", "trust_remote_code", "use_kernels", "kernel_config")
_ELSEWHERE = ("audio_tokenizer", "configuration_files", "fast_tokenizer_files", "gguf_file")
_OWN = ("eager", "sdpa")  # other implementations come from the hub, or are compiled at first use
_LIMITS = {"n_fft": 4096, "feature_size": 4096, "hop_length": 4096, "chunk_length": 3600}  # of feature extractors
_IMPLEMENTATIONS = ("attn_implementation", "experts_implementation")


@contextmanager
def blaming(
    what: object, complaint: str = "cannot be loaded", remedy: str = "copy or download it again"
) -> Iterator[None]:
    """Turn any exception into one line that names ``what`` a library failed to read.

    Damaged files make libraries raise exceptions of any type, so all are caught.

    Raises:
        MomeError: ``{what} {complaint} (reason): {remedy}``; a ``MomeError`` of the block passes unchanged.
    """
    try:
        yield
    except MomeError:
        raise
    except MemoryError as error:
        raise MomeError(f"{what} {complaint} (memory does not suffice): {remedy}") from error
    except ImportError as error:
        reason = shortened(in_one_line(error), 200)
        raise MomeError(f"{what} {complaint} ({reason}): install what it needs, or correct its settings") from error
    except Exception as error:
        raise MomeError(f"{what} {complaint} ({shortened(in_one_line(error), 200)}): {remedy}") from error


def read_settings(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        MomeError: the file is missing, larger than 100 MB, not JSON, or not an object.
    """
    if not file.is_file():
        raise MomeError(f"{file} is not a file: the model folder is incomplete, copy or download it again")
    try:
        if file.stat().st_size > _LARGEST:
            raise MomeError(f"{file} has more than {_LARGEST // 10**6} MB, which no settings have: get the right file")
        values = json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except OSError as error:
        raise MomeError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise MomeError(
            f"{file} is not a readable model configuration: it is not JSON, copy or download it again"
        ) from error
    if not isinstance(values, dict):
        raise MomeError(f"{file} is not a readable model configuration: it holds no settings by name")
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def is_folder(name: str | os.PathLike[str]) -> bool:
    """Whether this is a folder; ``False`` for a name that is no possible path."""
    try:
        return Path(name).is_dir()
    except (OSError, ValueError):
        return False


def shards(index: Path) -> list[str]:
    """The names of the weight files in an index.

    Raises:
        MomeError: the index is not readable, or names a file outside its folder.
    """
    try:
        files = sorted(set(read_settings(index)["weight_map"].values()))
    except (KeyError, AttributeError, TypeError, MomeError) as error:
        raise MomeError(f"{index} is not a readable list of weights: delete it to have it downloaded again") from error
    for file in files:
        if not isinstance(file, str) or Path(file).name != file:
            raise MomeError(f"{index} names weights outside its folder ({shortened(file)}) and is refused: correct it")
    return files


def check_settings(folder: Path) -> None:
    """Refuse settings that run code, read files elsewhere, or have sizes that no model has.

    Raises:
        MomeError: names the file and the setting.
    """
    for name in _FOREIGN:
        if (folder / name).exists():
            raise MomeError(f"{folder / name} leads to another model: merge the two with their own tools first")
    for name in INDICES.values():
        if (folder / name).exists():
            shards(folder / name)
    for name in _FILES:
        if (folder / name).exists():
            values = read_settings(folder / name)
            if name not in _TABLES:
                _check(folder / name, values)


def _check(file: Path, values: Any, key: str = "", depth: int = 0) -> None:
    if depth > _DEEPEST:
        raise MomeError(f"{file} is nested more than {_DEEPEST} deep, which no settings are: get the right file")
    if isinstance(values, list):
        for value in values:
            _check(file, value, key, depth + 1)
    elif isinstance(values, dict):
        for name, value in values.items():
            _check_setting(file, name, value)
            _check(file, value, name, depth + 1)
    elif isinstance(values, int):
        limit = _MOST_LAYERS if "layer" in key and not key.endswith(("_id", "_ids")) else _LARGEST_SIZE
        # Other files have very large numbers that stand for no limit (a tokenizer's model_max_length).
        if abs(values) > limit and file.name == "config.json":
            raise MomeError(f"{file}: {key} = {values} is more than any model has ({limit}): correct it")


def _is_own(implementation: object) -> bool:
    if isinstance(implementation, dict):
        return all(map(_is_own, implementation.values()))
    return implementation is None or implementation in _OWN


def _check_setting(file: Path, name: str, value: Any) -> None:
    if name in _CODE and value:
        raise MomeError(f"{file}: '{name}' asks to run code from elsewhere and is refused: remove it")
    if name in _ELSEWHERE and value:
        raise MomeError(f"{file}: '{name}' leads to other files and is refused: remove it")
    if name.strip("_").removesuffix("_internal") in _IMPLEMENTATIONS and not _is_own(value):
        raise MomeError(f"{file}: '{name}' is not {' or '.join(_OWN)} but code from elsewhere, and refused: remove it")
    if name in _LIMITS and isinstance(value, int) and value > _LIMITS[name]:
        raise MomeError(f"{file}: {name} = {value} is more than {_LIMITS[name]}, which no model needs: correct it")
    if name.endswith("_file") and isinstance(value, str) and Path(value).name != value:
        raise MomeError(f"{file}: '{name}' is outside the folder and is refused: remove it")
