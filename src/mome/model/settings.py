"""The settings files of a model folder: read as data from a stranger, before a library follows what they say.

Transformers does what such files ask for: code of the folder or of the hub, files at other places. Whatever is one of
that is refused here by name. ``auto_map`` is not: every loading call says ``trust_remote_code=False``, and many
published models of built-in types carry one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mome.errors import MomeError, in_one_line, shortened

_LARGEST = 100_000_000  # bytes of a settings file; published ones have some thousand
_DEEPEST = 50  # levels of nesting
_LARGEST_SIZE = 2**24  # of anything that a model has: widths, vocabularies, positions
_MOST_LAYERS = 1024

# Files that Transformers reads when it loads a model, a tokenizer or a processor.
_FILES = (
    *("config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
)
_TABLES = ("special_tokens_map.json", "added_tokens.json")  # their keys are tokens, not settings
_FOREIGN = ("adapter_config.json", "audio_tokenizer_config.json")  # they lead to another model, wherever that is
_CODE = ("custom_generate", "trust_remote_code", "use_kernels", "kernel_config")
_ELSEWHERE = ("audio_tokenizer", "configuration_files", "fast_tokenizer_files", "gguf_file")
_IMPLEMENTATIONS = ("attn_implementation", "experts_implementation")


@contextmanager
def blaming(
    what: object, complaint: str = "cannot be loaded", remedy: str = "copy or download it again"
) -> Iterator[None]:
    """Say in one line that a library could not make anything of ``what``.

    Libraries answer damaged files with exceptions of any type, so all of them count, but for those that are about
    memory or already a line for the user.
    """
    try:
        yield
    except (MomeError, MemoryError):
        raise
    except Exception as error:
        raise MomeError(f"{what} {complaint} ({shortened(in_one_line(error), 200)}): {remedy}") from error


def read_settings(file: Path) -> dict[str, Any]:
    """A JSON file of settings.

    Raises:
        MomeError: it is no file, too large, no JSON, or holds something else than settings.
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
            f"{file} is not a readable model configuration: it is no JSON, copy or download it again"
        ) from error
    if not isinstance(values, dict):
        raise MomeError(f"{file} is not a readable model configuration: it holds no settings by name")
    return values


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def check_settings(folder: Path) -> None:
    """Refuse a folder whose settings ask for code, for files elsewhere, or for sizes that no model has.

    Raises:
        MomeError: names the file and the setting.
    """
    for name in _FOREIGN:
        if (folder / name).exists():
            raise MomeError(f"{folder / name} leads to another model: merge the two with their own tools first")
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
        # Lengths without a meaning of their own are written as very large numbers (a tokenizer's model_max_length).
        if abs(values) > limit and file.name == "config.json":
            raise MomeError(f"{file}: {key} = {values} is more than any model has ({limit}): correct it")


def _check_setting(file: Path, name: str, value: Any) -> None:
    if name in _CODE and value:
        raise MomeError(f"{file}: '{name}' asks to run code from elsewhere and is refused: remove it")
    if name in _ELSEWHERE and value:
        raise MomeError(f"{file}: '{name}' leads to other files and is refused: remove it")
    if name.strip("_").removesuffix("_internal") in _IMPLEMENTATIONS and "/" in json.dumps(value):
        raise MomeError(f"{file}: '{name}' asks to run code of the hub and is refused: remove it")
    if name.endswith("_file") and isinstance(value, str) and Path(value).name != value:
        raise MomeError(f"{file}: '{name}' is outside the folder and is refused: remove it")
