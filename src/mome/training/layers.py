"""The YAML of recipes: a name or file with the files that it is based on, and ``key=value``s, in the order they apply.

A recipe is data. Nothing in it is executed, no variable of the environment is read, and a file that turns out to be
no recipe is named in a message but not quoted.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf

from mome.errors import MomeError, shortened

SHIPPED = Path(__file__).resolve().parent.parent / "recipes"
SUFFIXES = (".yaml", ".yml")
LARGEST = 2**20  # bytes
MOST_VALUES, DEEPEST, MOST_LAYERS = 10_000, 20, 100  # aliases count as what they stand for

_NAMES = ("variants", "corpora")  # keys of shipped files that say which recipes there are
_KEY = re.compile(r"\w+(\.\w+){0,4}")
_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "timestamp", "seq", "map")}
_KEY_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "merge")}


@cache
def shipped_recipes() -> dict[str, tuple[Path, ...]]:
    """The recipes that come with the package: by name, the files that each one joins.

    A name is that of a file, or ``SYSTEM-CORPUS`` or ``SYSTEM-VARIANT-CORPUS`` of the folders ``systems``,
    ``variants`` and ``corpora``. A system's file names its ``variants``; a variant's may name its ``corpora``.
    """
    corpora, variants = _shipped("corpora"), _shipped("variants")
    recipes: dict[str, tuple[Path, ...]] = {name: (file,) for name, file in _shipped("").items()}
    for system, file in _shipped("systems").items():
        for corpus in corpora:
            recipes[f"{system}-{corpus}"] = (corpora[corpus], file)
        for variant in _said(file, "variants", ()):
            for corpus in _said(variants[variant], "corpora", corpora):
                recipes[f"{system}-{variant}-{corpus}"] = (corpora[corpus], file, variants[variant])
    return dict(sorted(recipes.items()))


def _shipped(folder: str) -> dict[str, Path]:
    return {file.stem: file for file in sorted((SHIPPED / folder).glob("*.yaml"))}


def _said(file: Path, key: str, unsaid: Iterable[str]) -> list[str]:
    return list(yaml.safe_load(file.read_text(encoding="utf-8")).get(key, unsaid))


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return list(shipped_recipes())


def recipe_files(name: str | Path) -> tuple[Path, ...]:
    """A recipe file, or the files that the shipped recipe of that name joins, or one of those by ``FOLDER/NAME``.

    Raises:
        MomeError: there is nothing of that name; suggests the nearest recipe, or lists all.
    """
    path = Path(name)
    if path.suffix in SUFFIXES:
        if os.path.isfile(path):
            return (path,)
    elif os.path.isfile(shipped := SHIPPED / f"{name}.yaml"):
        return (shipped,)
    elif str(name) in shipped_recipes():
        return shipped_recipes()[str(name)]
    elif os.path.exists(path):
        raise MomeError(f"no recipe at {name}: a recipe is a file with the ending {' or '.join(SUFFIXES)}")
    near = difflib.get_close_matches(path.stem[:80], recipe_names(), n=1)
    hint = f"did you mean {near[0]}?" if near else _overview()
    raise MomeError(f"no recipe at {shortened(name, 200)}: {hint}")


def _overview() -> str:
    alone, systems, variants, corpora = (", ".join(_shipped(kind)) for kind in ("", "systems", "variants", "corpora"))
    return (
        f"shipped recipes are {alone}, SYSTEM-CORPUS and, for some, SYSTEM-VARIANT-CORPUS, with the systems {systems}, "
        f"the variants {variants} and the corpora {corpora}"
    )


@dataclass(frozen=True)
class Layer:
    """What one file says.

    Attributes:
        file: the file.
        name: of a shipped file.
        values: its keys but for those about layers and recipes' names.
        where: by the name of another shipped layer, further values for recipes that have that layer too.
    """

    file: Path
    name: str | None
    values: dict[str, Any]
    where: dict[str, dict[str, Any]]


def read_layers(name: str | Path) -> list[tuple[str, DictConfig]]:
    """What a recipe is based on, first, and what it says itself: where it is said, and the values.

    Raises:
        MomeError: there is no such recipe, a file is no recipe, or is based on itself.
    """
    layers: list[Layer] = []
    for file in recipe_files(name):
        _read_into(layers, file, ())
    there = {layer.name for layer in layers}
    said: list[tuple[str, DictConfig]] = []
    for layer in layers:
        said.append((str(layer.file), OmegaConf.create(layer.values)))
        for other, values in layer.where.items():
            if other in there:
                said.append((f"{layer.file}, where {other}", OmegaConf.create(values)))
    return said


def _read_into(layers: list[Layer], path: Path, seen: tuple[Path, ...]) -> None:
    if path.resolve() in seen:
        raise MomeError(f"recipe {path} is based on itself")
    if len(layers) + len(seen) >= MOST_LAYERS:
        raise MomeError(f"recipe {path} is one of more than {MOST_LAYERS} on each other: join some of them")
    content = cast(dict[str, Any], OmegaConf.to_container(read_mapping(path)))
    bases = content.pop("base", None)
    bases = [] if bases is None else [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise MomeError(f"recipe {path}: base is not the name of a recipe, nor a list of names")
    for base in bases:
        beside = path.parent / f"{base}.yaml"
        for file in (beside,) if os.path.isfile(beside) else recipe_files(base):
            _read_into(layers, file, (*seen, path.resolve()))
    name, where = None, {}
    if path.resolve().is_relative_to(SHIPPED):
        name, where = path.stem, content.pop("where", {})
        content = {key: value for key, value in content.items() if key not in _NAMES}
    layers.append(Layer(path, name, content, where))


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
