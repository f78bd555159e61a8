"""The YAML of recipes: a file with the files that it is based on, and ``key=value``s, in the order they apply.

A recipe is data. Nothing in it is executed, no variable of the environment is read, and a file that turns out to be
no recipe is named in a message but not quoted.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import yaml
from omegaconf import DictConfig, OmegaConf

from mome.errors import MomeError, listed, shortened

SHIPPED = Path(__file__).resolve().parent.parent / "recipes"
SUFFIXES = (".yaml", ".yml")
LARGEST = 2**20  # bytes
MOST_VALUES, DEEPEST, MOST_LAYERS = 10_000, 20, 100  # aliases count as what they stand for

_KEY = re.compile(r"\w+(\.\w+){0,4}")
_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "timestamp", "seq", "map")}
_KEY_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "merge")}


def recipe_path(name: str | Path) -> Path:
    """A recipe file, or the shipped recipe of that name.

    Raises:
        MomeError: there is neither; names the nearest shipped recipe.
    """
    path = Path(name)
    if path.suffix in SUFFIXES:
        if os.path.isfile(path):
            return path
    elif os.path.isfile(shipped := SHIPPED / f"{name}.yaml"):
        return shipped
    elif os.path.exists(path):
        raise MomeError(f"no recipe at {name}: a recipe is a file with the ending {' or '.join(SUFFIXES)}")
    names = sorted(file.stem for file in SHIPPED.glob("*.yaml"))
    near = difflib.get_close_matches(path.stem[:80], names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"shipped recipes are {listed(names)}"
    raise MomeError(f"no recipe at {shortened(name, 200)}: {hint}")


def read_layers(path: Path) -> list[tuple[Path, DictConfig]]:
    """What a recipe is based on, first, and what it says itself; each without its ``base``.

    Raises:
        MomeError: a file is no recipe, or is based on itself.
    """
    layers: list[tuple[Path, DictConfig]] = []
    _read_into(layers, path, ())
    return layers


def _read_into(layers: list[tuple[Path, DictConfig]], path: Path, seen: tuple[Path, ...]) -> None:
    if path.resolve() in seen:
        raise MomeError(f"recipe {path} is based on itself")
    if len(layers) + len(seen) >= MOST_LAYERS:
        raise MomeError(f"recipe {path} is one of more than {MOST_LAYERS} on each other: join some of them")
    content = cast(dict, OmegaConf.to_container(read_mapping(path)))
    bases = content.pop("base", None)
    bases = [] if bases is None else [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise MomeError(f"recipe {path}: base is not the name of a recipe, nor a list of names")
    for base in bases:
        beside = path.parent / f"{base}.yaml"
        _read_into(layers, beside if os.path.isfile(beside) else recipe_path(base), (*seen, path.resolve()))
    layers.append((path, OmegaConf.create(content)))


def read_mapping(path: Path) -> DictConfig:
    """A YAML file of keys and values.

    Raises:
        MomeError: it is something else, too large, or holds what a recipe cannot.
    """
    what = f"recipe {path}"
    with _readable(what):
        if path.stat().st_size > LARGEST:
            raise MomeError(f"{what} is larger than {LARGEST // 2**20} MiB: name a recipe")
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, yaml.SafeLoader)
        if node is None:
            return OmegaConf.create({})
        if not isinstance(node, yaml.MappingNode):
            raise MomeError(f"{what} is not a mapping of keys to values")
        _check_nodes(node, what)
        return cast(DictConfig, OmegaConf.create(text))


def read_override(text: str) -> DictConfig:
    """A ``key=value`` with dotted keys.

    Raises:
        MomeError: it is none, or the value is not readable.
    """
    key, equals, value = text.partition("=")
    if not equals or not _KEY.fullmatch(key):
        raise MomeError(f"'{shortened(text)}' is not key=value, such as optim.epochs=3")
    what = f"the value of {key}"
    with _readable(what):
        node = yaml.compose(value, yaml.SafeLoader)
        if node is not None:
            _check_nodes(node, what)
        return OmegaConf.from_dotlist([text])


@contextmanager
def _readable(what: str) -> Iterator[None]:
    """Turn whatever reading YAML raises into one line that says where, and does not quote."""
    try:
        yield
    except MomeError:
        raise
    except OSError as error:
        raise MomeError(f"{what} cannot be read: {error.strerror}") from error
    except Exception as error:  # of many kinds: a number of 5000 digits, a word tagged as a date, a thousand brackets
        mark = getattr(error, "problem_mark", None)  # its own text would quote the file
        where = "" if mark is None else f": see line {mark.line + 1}, column {mark.column + 1}"
        raise MomeError(f"{what} is not readable YAML{where}") from error


def _check_nodes(root: yaml.Node, what: str) -> None:
    """Refuse what would run, expand without end, or be read as something else than it says."""
    waiting, count = [(root, 1)], 0
    while waiting:
        node, depth = waiting.pop()
        count += 1
        where = f"{what}, line {node.start_mark.line + 1}"
        if count > MOST_VALUES or depth > DEEPEST:
            raise MomeError(f"{what} holds more than {MOST_VALUES} values, or more than {DEEPEST} in each other")
        if node.tag not in _TAGS:
            raise MomeError(f"{where}: a tag that recipes do not have: give text, numbers, lists and keys with values")
        if isinstance(node, yaml.ScalarNode):
            if "${" in node.value:
                raise MomeError(f"{where}: references such as ${{name}} are not read: write the value itself")
            if "\0" in node.value or not _encodable(node.value):
                raise MomeError(f"{where}: a character that text cannot have: take it out")
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.tag not in _KEY_TAGS:
                    raise MomeError(f"{where}: a key that is not text: put it between quotes, or correct it")
                waiting += [(value, depth + 1)]
        else:
            waiting += [(value, depth + 1) for value in node.value]


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
