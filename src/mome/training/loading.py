"""Loading a recipe: its YAML files, those that it is based on first, then ``key=value``s.

A recipe is data. Nothing in it is executed and no environment variable is read. Messages name a file that is not a
recipe, but do not quote it.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, cast, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mome.errors import MomeError, shortened
from mome.training.recipe import PARTS, Recipe

SHIPPED = Path(__file__).resolve().parent.parent / "recipes"
SUFFIXES = (".yaml", ".yml")
LARGEST = 2**20  # bytes
MOST_VALUES, DEEPEST, MOST_LAYERS = 10_000, 20, 100  # an alias counts as the values that it refers to

_NAME_KEYS = ("systems", "variants", "corpora")  # keys of shipped files that define names of recipes
_KEY = re.compile(r"\w+(\.\w+){0,4}")
_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "timestamp", "seq", "map")}
_KEY_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "merge")}
_MERGE_ERRORS = (OmegaConfBaseException, ValueError, TypeError, OverflowError)
_TYPE_NAMES = {
    str(hint): text if hint == kind else f"{text}, or null"
    for kind, text in (
        (str, "one text"),
        (bool, "true or false"),
        (int, "a whole number"),
        (float, "a number"),
        (list[str], "a list of texts, such as [TEXT]"),
        (list[int], "a list of whole numbers, such as [4, 16]"),
        (list[float], "a list of numbers, such as [0.9, 0.98]"),
        (dict[str, str], "a text for each task, such as {avsr: TEXT}"),
        (dict[str, float], "a number for each task, such as {avsr: 1.0}"),
        (dict[str, Any], "options by name, such as {NAME: VALUE}"),
    )
    for hint in (kind, kind | None)
} | {"optim.rate_weights": "a number for each pair of rates, such as {'16,5': 2.0}"}


def load_recipe(name: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """Load a recipe: its bases first, then the recipe itself, then the overrides.

    Args:
        name: a YAML file, whose ``base`` lists the recipes that it is based on, or the name of a shipped recipe.
        overrides: ``key=value`` with dotted keys, such as ``optim.epochs=3``.

    Raises:
        MomeError: the file or a key is unknown (the message suggests the nearest), or a value does not fit.
    """
    merged = OmegaConf.structured(Recipe)
    for source, layer in read_layers(name):
        if layer and not {f.name for f in fields(Recipe)}.intersection(layer):
            raise MomeError(f"{source} is no recipe: none of its keys is one of {', '.join(PARTS)} and output")
        merged = _merge(merged, layer, source)
    for text in overrides:
        merged = _merge(merged, read_override(text), f"'{shortened(text)}'")
    missing = sorted(OmegaConf.missing_keys(merged))
    if missing:
        raise MomeError(f"{name} lacks {', '.join(missing)}: add it to the recipe or give {missing[0]}=VALUE")
    recipe = cast(Recipe, OmegaConf.to_object(merged))
    recipe.output = recipe.output or f"runs/{Path(name).stem}"
    return recipe


def _merge(into: DictConfig, layer: DictConfig, source: str) -> Any:
    try:
        _check_keys(layer, source)
        return OmegaConf.unsafe_merge(_without_other_options(into, layer), layer)  # into which nothing is copied
    except _MERGE_ERRORS as error:
        reason = _type_mismatch(into, layer) or shortened(str(error).splitlines()[0], 200)
        raise MomeError(f"{source}: {reason}") from error


def _without_other_options(into: DictConfig, layer: DictConfig) -> DictConfig:
    """The recipe without the options of an adapter or connector to which the layer gives another type."""
    for name in ("model.adapter", "model.connector"):
        kind, before = (OmegaConf.select(config, f"{name}.type") for config in (layer, into))
        if kind is not None and before not in (None, kind):
            into = into.copy()
            OmegaConf.update(into, name, None, merge=False)
    return into


def _type_mismatch(into: DictConfig, layer: DictConfig) -> str | None:
    """Find the key whose value has the wrong type, for a message; merging does not always say."""
    for part, content in cast(dict[str, Any], OmegaConf.to_container(layer)).items():
        hints = get_type_hints(PARTS.get(part, Recipe))
        for name, value in content.items() if part in PARTS else [(part, content)]:
            key, alone = (f"{part}.{name}", {part: {name: value}}) if part in PARTS else (name, {name: value})
            try:
                OmegaConf.unsafe_merge(into, alone)  # nobody uses what comes of it
            except _MERGE_ERRORS:
                shown = "null" if value is None else shortened(value)
                expected = _TYPE_NAMES.get(key) or _TYPE_NAMES[str(hints[name])]
                return f"{key}={shown} is not possible: give {expected}"
    return None


def _check_keys(layer: DictConfig, source: str) -> None:
    parts = {name: [f.name for f in fields(part)] for name, part in PARTS.items()}
    everywhere = [f"{part}.{name}" for part, names in parts.items() for name in names]

    def unknown(key: object, known: list[str], prefix: str = "") -> MomeError:
        near = difflib.get_close_matches(str(key), known, n=1)
        near = [prefix + name for name in near] or difflib.get_close_matches(f"{prefix}{key}", everywhere, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
        return MomeError(f"{source}: unknown key {prefix}{shortened(key)}: {hint}")

    top = [f.name for f in fields(Recipe)]
    for key in layer:
        if key not in top:
            raise unknown(key, top)
        if key in parts:
            if OmegaConf.is_missing(layer, key) or not isinstance(layer[key], DictConfig):
                raise MomeError(f"{source}: {key} holds keys of its own, such as {key}.{parts[str(key)][0]}=VALUE")
            for name in layer[key]:
                if name not in parts[str(key)]:
                    raise unknown(name, parts[str(key)], f"{key}.")


@cache
def shipped_recipes() -> dict[str, tuple[Path, ...]]:
    """The files of each recipe that comes with the package, by the recipe's name.

    A name is that of a file, or ``SYSTEM-CORPUS`` or ``SYSTEM-VARIANT-CORPUS`` of the folders ``systems``,
    ``variants`` and ``corpora``. A system's file names its ``variants``; a variant's may name its ``corpora``, and a
    corpus's the ``systems`` that it is for, with their variants.
    """
    corpora, variants = _shipped("corpora"), _shipped("variants")
    only = {corpus: _names_under(file, "systems", ()) for corpus, file in corpora.items()}
    recipes: dict[str, tuple[Path, ...]] = {name: (file,) for name, file in _shipped("").items()}
    for system, file in _shipped("systems").items():
        named: dict[str, tuple[tuple[Path, ...], list[str]]] = {system: ((file,), list(corpora))}
        for variant in _names_under(file, "variants", ()):
            files: tuple[Path, ...] = (file, variants[variant])
            named[f"{system}-{variant}"] = (files, _names_under(variants[variant], "corpora", corpora))
        for name, (files, possible) in named.items():
            for corpus in possible:
                if not only[corpus] or name in only[corpus]:
                    recipes[f"{name}-{corpus}"] = (corpora[corpus], *files)
    return dict(sorted(recipes.items()))


def _shipped(folder: str) -> dict[str, Path]:
    return {file.stem: file for file in sorted((SHIPPED / folder).glob("*.yaml"), key=lambda file: file.stem)}


def _names_under(file: Path, key: str, default: Iterable[str]) -> list[str]:
    return list(yaml.safe_load(file.read_text(encoding="utf-8")).get(key, default))


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return list(shipped_recipes())


def recipe_files(name: str | Path) -> tuple[Path, ...]:
    """The files of a recipe in the order they apply.

    Args:
        name: a file, the name of a shipped recipe, or one of its files as ``FOLDER/NAME``.

    Raises:
        MomeError: there is no such recipe. The message suggests the nearest, or lists all.
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
    if str(name) in _shipped("systems"):
        whole = [f"{name}-{corpus}" for corpus in _shipped("corpora")]
        hint = f"{name} is a system: add a corpus, as in {', '.join(one for one in whole if one in shipped_recipes())}"
    raise MomeError(f"no recipe at {shortened(name, 200)}: {hint}")


def _overview() -> str:
    files, systems, variants, corpora = (", ".join(_shipped(kind)) for kind in ("", "systems", "variants", "corpora"))
    return (
        f"shipped recipes are {files}, SYSTEM-CORPUS and, for some, SYSTEM-VARIANT-CORPUS, with the systems {systems}, "
        f"the variants {variants} and the corpora {corpora}"
    )


@dataclass(frozen=True)
class Layer:
    """The content of a recipe file.

    Attributes:
        file: the file.
        name: its name, if it comes with the package.
        values: the recipe's keys and values.
        where: by the name of another layer, or the names of several, further values for recipes that have these too.
    """

    file: Path
    name: str | None
    values: dict[str, Any]
    where: dict[str, dict[str, Any]]


def read_layers(name: str | Path) -> list[tuple[str, DictConfig]]:
    """Read a recipe with its bases.

    Returns:
        The values to merge, bases first, each with its source for messages.

    Raises:
        MomeError: there is no such recipe, or a file is not a recipe or is based on itself.
    """
    layers: list[Layer] = []
    for file in recipe_files(name):
        _read_into(layers, file, ())
    names = {layer.name for layer in layers}
    merged: list[tuple[str, DictConfig]] = []
    for layer in layers:
        merged.append((str(layer.file), OmegaConf.create(layer.values)))
        for other, values in layer.where.items():
            if names.issuperset(other.split()):
                merged.append((f"{layer.file}, where {other}", OmegaConf.create(values)))
    return merged


def _read_into(layers: list[Layer], path: Path, above: tuple[Path, ...]) -> None:
    """Append the layers of a file's bases, then its own; ``above`` are the files that are based on it."""
    if path.resolve() in above:
        raise MomeError(f"recipe {path} is based on itself")
    if len(layers) + len(above) >= MOST_LAYERS:
        raise MomeError(f"recipe {path} is one of more than {MOST_LAYERS} on each other: join some of them")
    content = cast(dict[str, Any], OmegaConf.to_container(read_mapping(path)))
    bases = content.pop("base", None)
    bases = [] if bases is None else [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise MomeError(f"recipe {path}: base is not the name of a recipe, nor a list of names")
    for base in bases:
        beside = path.parent / f"{base}.yaml"
        for file in (beside,) if os.path.isfile(beside) else recipe_files(base):
            _read_into(layers, file, (*above, path.resolve()))
    name, where = None, {}
    if path.resolve().is_relative_to(SHIPPED):
        name, where = path.stem, content.pop("where", {})
        content = {key: value for key, value in content.items() if key not in _NAME_KEYS}
    layers.append(Layer(path, name, content, where))


def read_mapping(path: Path, kind: str = "recipe") -> DictConfig:
    """Read a YAML file of keys and values, which messages call a ``kind``.

    Raises:
        MomeError: it is something else, too large, or holds what a recipe cannot have.
    """
    what = f"{kind} {path}"
    with _readable(what):
        if path.stat().st_size > LARGEST:
            raise MomeError(f"{what} is larger than {LARGEST // 2**20} MiB: name a {kind}")
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, yaml.SafeLoader)
        if node is None:
            return OmegaConf.create({})
        if not isinstance(node, yaml.MappingNode):
            raise MomeError(f"{what} is not a mapping of keys to values")
        _check_nodes(node, what)
        return cast(DictConfig, OmegaConf.create(text))


def read_override(text: str) -> DictConfig:
    """Read a ``key=value`` with a dotted key.

    Raises:
        MomeError: it has another form, or the value is not readable.
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
    """Turn any error of reading YAML into a :class:`MomeError` with the line and column, without a quotation."""
    try:
        yield
    except MomeError:
        raise
    except OSError as error:
        raise MomeError(f"{what} cannot be read: {error.strerror}") from error
    except Exception as error:  # of many kinds: a number of 5000 digits, a word tagged as a date, a thousand brackets
        mark = getattr(error, "problem_mark", None)  # str(error) would quote the file
        where = "" if mark is None else f": see line {mark.line + 1}, column {mark.column + 1}"
        raise MomeError(f"{what} is not readable YAML{where}") from error


def _check_nodes(root: yaml.Node, what: str) -> None:
    """Refuse tags, references and odd characters, and trees that are too large or too deep."""
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
