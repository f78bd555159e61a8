"""Model folders: the bundled one with one file damaged, changed by hand, missing or of another kind."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import mome
from scripts.fuzz.mutate import Random, change, damage, pick
from scripts.fuzz.sandbox import command

BUNDLED = Path(mome.__file__).parent / "mome-tiny"
CLIP = Path(mome.__file__).parent / "demo" / "clip.mp4"

EXTRA = {
    "generation": {"custom_generate": "evil", "trust_remote_code": True},
    "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model", "AutoTokenizer": ["evil.T", None]},
    "attn_implementation": "owner/kernel",
    "audio_tokenizer": {"audio_tokenizer_class": "DacModel", "audio_tokenizer_name_or_path": "/etc"},
    "tokenizer_file": "/etc/passwd",
    "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "connector": {"type": "mixture", "experts": 10**6},
    "adapter": {"type": "mome", "routed_experts": 10**7, "bottleneck": 10**6},
    "prompt_ids": {"avsr": [10**6]},
    "hidden_size": 10**9,
    "num_hidden_layers": 10**7,
    "compat": "official",
    "only": "4,2",
}
EVIL = "raise SystemExit('the code of the folder ran')\n"


def make(rng: Random, folder: Path) -> tuple[Callable[[], None], str]:
    """A damaged copy in ``folder``; the command that loads it, and what was done."""
    model = folder / "model"
    shutil.copytree(BUNDLED, model)
    files = sorted(path for path in model.rglob("*") if path.is_file() and path.suffix != ".md")
    settings = [path for path in files if path.name.endswith("config.json")]
    kind = pick(rng, ("change", "change", "change", "change", "damage", "damage", "swap", "missing", "odd"))
    file = pick(rng, settings if kind == "change" else files)
    if kind == "change":
        values = change(json.loads(file.read_text()), rng, EXTRA)
        file.write_text(json.dumps(values).encode("utf-8", "backslashreplace").decode())
        for place in (model, *(path for path in model.iterdir() if path.is_dir())):
            (place / "evil.py").write_text(EVIL)
            (place / "custom_generate").mkdir()
            (place / "custom_generate" / "generate.py").write_text(EVIL)
    elif kind == "damage":
        file.write_bytes(damage(file.read_bytes(), rng, pick(rng, files).read_bytes()))
    elif kind == "swap":
        file.write_bytes(pick(rng, files).read_bytes())
    else:
        file.unlink()
        if kind == "odd":
            pick(rng, (lambda: file.mkdir(), lambda: os.mkfifo(file), lambda: file.symlink_to("/dev/zero")))()
    label = f"{kind} {file.relative_to(model)}"
    if rng.random() < 0.1:
        return command("inspect", str(model), "--json"), f"inspect, {label}"
    rates = pick(rng, ("4,2", "4,2", "16,-", "-,5"))
    return command("transcribe", str(CLIP), "--model", str(model), "--rates", rates, "--json"), label
