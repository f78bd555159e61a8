"""Measure whole programs, from files to texts, beside what a user might take instead.

    python -m benchmarks.transcription GRID/manifest.csv SPEECH/manifest.csv

Every program is a process of its own with one thread. All are given the same test clips, in groups of 16 and in turn,
so that each ratio is that of programs that ran side by side; a range is that over the groups, and times are CPU seconds
for a second of speech. Only the start, from nothing to a model that is loaded, is wall time.

``grid``: mome-tiny at (4,2), clip by clip and in batches, greedy and with 15 beams; ``plain`` is the same model as it
would be without this package: Transformers' ``generate`` and a loop over the experts. ``beams``: mome-base with 15.
``speech``: mome-base at several rates and, after ``pip install faster-whisper``, that with the same Whisper-base and
its own decoder, in float32 and in 8 bits, with 5 beams, which are its default, and greedy. Texts are compared in the
form of Whisper's normalizer.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

from mome.analysis.cost import machine
from mome.checkpoints.source import FOLDER_VARIABLE
from mome.evaluation.normalizers import normalizer
from mome.evaluation.result import run_document, write_json
from mome.text.wer import WordErrors, word_errors

GROUP = 16
BEAMS = 15
WHISPER = "openai/whisper-base"


@dataclass(frozen=True)
class Program:
    """What a process runs: a model with options, at once for ``batch`` clips; and what it is compared with."""

    name: str
    against: str
    model: str
    rates: str = ""
    batch: int = 1
    plain: bool = False
    loading: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


def grid() -> list[Program]:
    """Programs that read lips and hear."""
    return beside_plain("mome-tiny", "4,2", 1) + beside_plain("mome-tiny", "4,2", BEAMS)


def beside_plain(model: str, rates: str, beams: int) -> list[Program]:
    """A model by itself, and as it is here."""
    options, plain = {"num_beams": beams}, f"plain, beams {beams}"
    return [
        Program(plain, plain, model, rates, plain=True, options=options),
        *(
            Program(f"batch {batch}, beams {beams}", plain, model, rates, batch, options=options)
            for batch in (1, GROUP)
        ),
    ]


def speech(whisper: Path | None) -> list[Program]:
    """Programs that hear; ``whisper`` is the folder of CTranslate2's Whisper."""
    settings = [(rates, dtype, 1) for rates in ("4,-", "16,-") for dtype in ("float32", "bfloat16")]
    settings.append(("16,-", "bfloat16", GROUP))
    beside = "mome-base 4,-, float32, batch 1" if whisper is None else "faster-whisper, int8, beams 5"
    found = [
        Program(
            f"mome-base {rates}, {dtype}, batch {batch}", beside, "mome-base", rates, batch, loading={"dtype": dtype}
        )
        for rates, dtype, batch in settings
    ]
    for kind in ("float32", "int8") if whisper is not None else ():
        for beams in (5, 1):
            more: dict[str, Any] = {"loading": {"compute_type": kind}, "options": {"beam_size": beams}}
            found.append(Program(f"faster-whisper, {kind}, beams {beams}", beside, str(whisper), **more))
    return found


def convert_whisper(folder: Path) -> Path | None:
    """Whisper-base in the form that faster-whisper reads; ``None`` if that is not installed."""
    if importlib.util.find_spec("faster_whisper") is None:
        print("faster-whisper is left out: pip install faster-whisper", file=sys.stderr)
        return None
    from ctranslate2.converters import TransformersConverter

    local = Path(os.environ.get(FOLDER_VARIABLE, "")) / WHISPER
    files = ["tokenizer.json", "preprocessor_config.json"]
    converter = TransformersConverter(str(local) if local.is_dir() else WHISPER, copy_files=files)
    return Path(converter.convert(str(folder), quantization="float16", force=True))


# --- in the processes ---------------------------------------------------------------------------------------------


@contextmanager
def without_this_package() -> Iterator[None]:
    """Transformers' own search, and each expert by itself for the tokens that chose it."""
    from mome.adapters.experts import ExpertBank
    from mome.model import beam_search

    fast = ExpertBank.forward

    def loop(self: ExpertBank, x: Tensor, context: Any = None) -> Tensor:
        if x.is_meta:  # where operations are counted
            return fast(self, x, context)
        flat = x.reshape(-1, x.shape[-1])
        gates, _, chosen = self.route(F.linear(flat, self.router_weight))
        result = torch.zeros_like(flat)
        shared = self.config.shared_experts
        for expert in range(self.experts):
            own = slice(None) if expert < shared else (chosen == expert - shared).any(-1).nonzero()[:, 0]
            inner = F.gelu(F.linear(flat[own], self.down_weight[expert], self.down_bias[expert]))
            outer = F.linear(inner, self.up_weight[expert], self.up_bias[expert])
            result[own] += outer if expert < shared else outer * gates[own, expert - shared, None].to(x.dtype)
        return result.view_as(x)

    with patch.object(beam_search, "_covers", lambda *_: False), patch.object(ExpertBank, "forward", loop):
        yield


def serve(program: Program) -> None:
    """Answer lines with paths of clips by a line with their texts and the seconds that they took."""
    if program.rates:
        import mome

        transcriber = mome.load(program.model, **program.loading)

        def transcribe(paths: list[str]) -> list[str]:
            if program.batch == 1:
                return [transcriber.transcribe(path, program.rates, **program.options).text for path in paths]
            rates = [mome.Rates.parse(program.rates)]
            clips = [transcriber.load_clip(path, rates) for path in paths]
            rows = transcriber.transcribe_batch(clips, rates, **program.options)
            return [row[0].text for row in rows]
    else:
        from faster_whisper import WhisperModel

        model = WhisperModel(program.model, "cpu", cpu_threads=1, **program.loading)

        def transcribe(paths: list[str]) -> list[str]:
            found = []
            for path in paths:
                segments, _ = model.transcribe(path, language="en", **program.options)
                found.append(" ".join(segment.text for segment in segments))
            return found

    torch.set_num_threads(1)
    print(json.dumps("ready"), flush=True)
    with without_this_package() if program.plain else ExitStack():
        for line in sys.stdin:
            paths = json.loads(line)
            texts: list[str] = []
            wall, cpu = time.perf_counter(), time.process_time()
            for start in range(0, len(paths), program.batch):
                texts += transcribe(paths[start : start + program.batch])
            row = {"texts": texts, "wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
            print(json.dumps({**row, "megabytes": peak_megabytes()}), flush=True)


def peak_megabytes() -> float:
    """Of this process alone: what getrusage gives may be that of the process that started it."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024


# --- the comparison -----------------------------------------------------------------------------------------------


def answer(process: subprocess.Popen[str]) -> Any:
    """The next line of a process."""
    return json.loads(process.stdout.readline()) if process.stdout is not None else None


def compare(programs: list[Program], clips: list[tuple[str, str, float]]) -> list[dict[str, Any]]:
    """A row for each program."""
    groups = [clips[start : start + GROUP] for start in range(0, len(clips), GROUP)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with ExitStack() as stack:
        processes, loading = [], []
        for program in programs:
            command = [sys.executable, "-m", "benchmarks.transcription", "--program", json.dumps(asdict(program))]
            pipe, began = subprocess.PIPE, time.perf_counter()
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
            processes.append(stack.enter_context(process))
            answer(process)
            loading.append(time.perf_counter() - began)

        def ask(process: subprocess.Popen[str], paths: list[str]) -> dict[str, Any]:
            print(json.dumps(paths), file=process.stdin, flush=True)
            return dict(answer(process))

        for process in processes:  # warming up
            ask(process, [path for path, _, _ in groups[0][:2]])
        answers: list[list[dict[str, Any]]] = [[] for _ in programs]
        for number, group in enumerate(groups, 1):
            for process, own in zip(processes, answers, strict=True):
                own.append(ask(process, [path for path, _, _ in group]))
            print(f"{number} of {len(groups)} groups", file=sys.stderr, flush=True)
        for process in processes:
            process.communicate()
    found = {program.name: own for program, own in zip(programs, answers, strict=True)}
    return [
        {**row(program, found[program.name], found[program.against], clips), "start_seconds": load}
        for program, load in zip(programs, loading, strict=True)
    ]


def row(
    program: Program, own: list[dict[str, Any]], other: list[dict[str, Any]], clips: list[tuple[str, str, float]]
) -> dict[str, Any]:
    """Figures of a program."""
    seconds = sum(length for _, _, length in clips)
    texts = [text for each in own for text in each["texts"]]
    errors = sum(word_errors([said for _, said, _ in clips], texts, normalizer("whisper")), WordErrors())
    ratios = [theirs["cpu"] / ours["cpu"] for ours, theirs in zip(own, other, strict=True)]
    return {
        **asdict(program),
        "model": Path(program.model).name,
        "wer": errors.wer,
        "real_time_factor": sum(each["cpu"] for each in own) / seconds,
        "real_time_factor_wall": sum(each["wall"] for each in own) / seconds,
        "times_as_fast": median(ratios),
        "times_as_fast_range": [min(ratios), max(ratios)],
        "peak_megabytes": own[-1]["megabytes"],
        "texts": texts,
    }


def test_clips(manifest: Path) -> list[tuple[str, str, float]]:
    """Path, text and seconds of the test clips."""
    with manifest.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    folder = manifest.resolve().parent
    return [(str(folder / row["path"]), row["text"], float(row.get("seconds") or row["duration_s"])) for row in rows]


def main() -> None:
    """Measure and write the results, after each corpus."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path, nargs="?")
    parser.add_argument("speech", type=Path, nargs="?")
    parser.add_argument("--clips", type=int, help="of each corpus, for a try")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/transcription.json"))
    parser.add_argument("--program", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.program:
        serve(Program(**json.loads(given.program)))
        return
    command = shlex.join(["python", "-m", "benchmarks.transcription", "GRID/manifest.csv", "SPEECH/manifest.csv"])
    document = run_document(command=command, model=None, data="test clips of grid and speech", seed=0)
    document["machine"] = machine(torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        corpora: dict[str, tuple[Path, list[Program], int | None]] = {"grid": (given.grid, grid(), None)}
        if given.speech is not None:
            corpora["speech"] = (given.speech, speech(convert_whisper(Path(folder))), None)
            corpora["beams"] = (given.speech, beside_plain("mome-base", "4,-", BEAMS), GROUP)
        for name, (manifest, programs, most) in corpora.items():
            document[name] = compare(programs, test_clips(manifest)[: given.clips or most])
            for each in document[name]:
                shown = ("wer", "real_time_factor", "times_as_fast", "start_seconds", "peak_megabytes")
                print(each["name"], {key: round(each[key], 3) for key in shown}, flush=True)
            write_json(given.out, document)


if __name__ == "__main__":
    main()
