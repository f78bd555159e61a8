"""Arguments, recipes and manifests: odd values in the place of each."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mome.training.loading import SHIPPED
from mome.training.recipe import Recipe
from scripts.fuzz.folders import CLIP
from scripts.fuzz.mutate import ODD, Random, damage, pick
from scripts.fuzz.sandbox import command

_TEXTS = (
    *(
        "",
        " ",
        "-",
        "--",
        "--help",
        "0",
        "-1",
        "1e999",
        "nan",
        "x" * 5000,
        "/" + "a" * 300,
        "/dev/zero",
        "/dev/null",
        ".",
    ),
    *("..", "/", "a\x1b[2Jb", "\udcff.mp4", "ü", "4,2", "a,b", "99999999999999999999", "1,0", "4,2,1", "owner/name"),
)
_OPTIONS = {
    "transcribe": (
        "--rates",
        "--model",
        "--format",
        "--output-dir",
        "--noise",
        "--snr",
        "--beams",
        "--seed",
        "--dtype",
    ),
    "evaluate": ("--data", "--split", "--model", "--rates", "--task", "--snr", "--noise", "--out", "--batch", "--seed"),
    "score": ("--data", "--split", "--out", "--normalize"),
    "inspect": ("--seconds", "--new-tokens", "--beams"),
    "convert": ("--language-model", "--audio-encoder", "--audio-rates", "--video-rates", "--lora-scale"),
    "data folder": ("--out",),
    "data grid": ("--out",),
    "demo": ("--model",),
}
_MANIFEST = f"id,path,split,text\na,{CLIP},test,bin blue at f two now\nb,{CLIP},test,bin blue\n"


def make(rng: Random, folder: Path) -> tuple[Callable[[], None], str]:
    """One command with something odd about it, and its words."""
    words = pick(rng, (_arguments, _recipe, _override, _manifest))(rng, folder)
    label = " ".join(words)
    return command(*words), label.encode("utf-8", "backslashreplace").decode()[:300]


def _arguments(rng: Random, folder: Path) -> list[str]:
    name = pick(rng, list(_OPTIONS))
    words = [*name.split()]
    positional = {"convert": 3, "demo": 0, "evaluate": 0}.get(name, 1)
    likely = {"transcribe": str(CLIP), "inspect": "mome-tiny", "convert": "llama-avsr"}.get(name, str(folder))
    words += [likely if rng.random() < 0.5 else pick(rng, _TEXTS) for _ in range(positional)]
    for _ in range(int(rng.integers(1, 3))):
        words += [pick(rng, _OPTIONS[name]), pick(rng, _TEXTS)]
    if name == "evaluate":
        (folder / "m.csv").write_text(_MANIFEST)
        words += ["--data", str(folder / "m.csv"), "--rates", "16,-"][: pick(rng, (2, 4))]
    return words


def _recipe_keys() -> list[str]:
    parts = [(field.name, field.default_factory) for field in dataclasses.fields(Recipe)]
    return [
        f"{name}.{inner.name}"
        for name, part in parts
        if dataclasses.is_dataclass(part)
        for inner in dataclasses.fields(part)  # type: ignore[arg-type]
    ] + ["output", "base"]


def _written(value: Any) -> str:
    try:
        return json.dumps(value).encode("utf-8", "backslashreplace").decode()
    except ValueError:
        return str(value)


def _override(rng: Random, folder: Path) -> list[str]:
    changes = [f"{pick(rng, _recipe_keys())}={_written(pick(rng, ODD))}" for _ in range(int(rng.integers(1, 3)))]
    name = pick(rng, ("mome-layer-grid", "llama-mtsk-mss-grid", "mms-llama-grid", "mqt-grid"))
    if rng.random() < 0.5:
        return ["inspect", name, *changes]
    nowhere = [
        "data.manifests=[nowhere.csv]",
        "augment.noise=[]",
        f"output={folder / 'run'}",
        f"data.cache_folder={folder / 'cache'}",
    ]
    return ["train", name, *nowhere, *changes]


def _recipe(rng: Random, folder: Path) -> list[str]:
    path = folder / "recipe.yaml"
    shipped = sorted(SHIPPED.rglob("*.yaml"))
    if rng.random() < 0.4:
        path.write_bytes(damage(pick(rng, shipped).read_bytes(), rng, pick(rng, shipped).read_bytes()))
    else:
        keys = [pick(rng, _recipe_keys()).split(".") for _ in range(int(rng.integers(1, 4)))]
        lines = ["base: mome-layer-grid"]
        for key in keys:
            value = _written(pick(rng, ODD))
            lines += [f"{key[0]}: {value}"] if len(key) == 1 else [f"{key[0]}:", f"  {key[1]}: {value}"]
        path.write_text("\n".join(lines) + "\n")
    return ["inspect", str(path)]


def _manifest(rng: Random, folder: Path) -> list[str]:
    path = folder / "m.csv"
    kinds = (
        lambda: damage(_MANIFEST.encode(), rng, b'"\x00,\n\r\xff\xfe'),
        lambda: _MANIFEST.replace("bin blue\n", f'"{"x" * 140_000}"\n').encode(),
        lambda: _MANIFEST.encode("utf-16"),
        lambda: _MANIFEST.replace(",", pick(rng, (";", "\t", "|"))).encode(),
        lambda: _MANIFEST.replace(str(CLIP), pick(rng, _TEXTS)).encode("utf-8", "surrogateescape"),
        lambda: _MANIFEST.replace(",text", pick(rng, (",id", ",", ",Text", ""))).encode(),
    )
    path.write_bytes(pick(rng, kinds)())
    if rng.random() < 0.5:
        return ["score", str(path), "--data", str(path)]
    return ["evaluate", "--data", str(path), "--rates", "16,-"]
