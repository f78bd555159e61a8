"""A sweep: one recipe trained with every combination of changes and every seed, evaluated and compared."""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, cast

import numpy as np
from omegaconf import OmegaConf

from mome.analysis.cost import machine
from mome.analysis.findings import Findings, Table
from mome.children import begin_child, ignored_by_children
from mome.connectors import connector_config
from mome.data.clips import ClipStore
from mome.data.manifests import ManifestRow, read_manifest
from mome.decoding import load
from mome.errors import MomeError, in_one_line, shortened
from mome.evaluation.evaluate import evaluate
from mome.evaluation.losses import transcript_losses
from mome.evaluation.result import Result, make_conditions, results_document, write_json
from mome.files import disk_errors
from mome.rates import TASKS, Rates, RateSet
from mome.text.wer import paired_interval, word_errors
from mome.training.loading import load_recipe, read_mapping
from mome.training.recipe import Recipe
from mome.training.run import train
from mome.training.run_folder import RECIPE_FILE

COLUMNS = ("row", "rates", "seeds", "wer", "change", "change_ci95", "loss", "loss_change", "loss_change_ci95")
_EVALUATE = {"manifest": str, "split": str, "rates": list, "batch": int, "limit": int, "transcripts": bool}
_KEYS = {"base": str, "fixed": dict, "rows": dict, "grid": dict, "seeds": list, "evaluate": dict, "output": str}


@dataclass(frozen=True)
class Run:
    """A training of a sweep.

    Attributes:
        row: what is compared.
        seed: seed of the training.
        overrides: ``key=value``, changes of the recipe.
    """

    row: str
    seed: int
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the run's folder and result file."""
        safe = "".join(char if char.isalnum() or char in "-_." else "-" for char in self.row)
        return f"{safe}-{self.seed}"


@dataclass(frozen=True)
class Sweep:
    """What a sweep file says.

    Attributes:
        base: a recipe file, or the name of a shipped recipe.
        runs: the trainings, each row with the first seed, then with the next; the first row is the control.
        evaluate: the options of the evaluation: ``manifest``, ``split``, ``rates``, ``batch``, ``limit``, and
            ``transcripts``: false to measure losses alone.
        output: the folder of everything that the sweep writes.
    """

    base: str
    runs: tuple[Run, ...]
    evaluate: dict[str, Any]
    output: Path

    def result_file(self, run: Run) -> Path:
        """The JSON document of a run."""
        return self.output / "results" / f"{run.name}.json"


def read_sweep(file: Path) -> Sweep:
    """Read a sweep file, and check all its recipes before the first training.

    Raises:
        MomeError: a key is missing, unknown or of the wrong kind, or a recipe is not possible.
    """
    content = cast(dict[str, Any], OmegaConf.to_container(read_mapping(file, "sweep")))
    _check(f"sweep {file}", content, _KEYS, needed=("base", "evaluate"))
    evaluate = content["evaluate"]
    _check(f"sweep {file}: evaluate", evaluate, _EVALUATE, needed=("manifest",))
    for rates in evaluate.get("rates", ()):
        if not isinstance(rates, str):
            raise MomeError(f'sweep {file}: evaluate.rates is not a list of rates in quotes, such as ["4,2"]')
        Rates.parse(rates)
    for key in ("batch", "limit"):
        if evaluate.get(key, 1) < 1:
            raise MomeError(f"sweep {file}: evaluate.{key} is {evaluate[key]}: give 1 or more")
    rows, grid, seeds = content.get("rows", {"base": {}}), content.get("grid", {}), content.get("seeds", [1])
    for name, values in (*rows.items(), *(("fixed", content.get("fixed", {})),)):
        if not isinstance(values, dict):
            raise MomeError(f"sweep {file}: {name} is not keys with values, such as optim.epochs: 3")
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise MomeError(f"sweep {file}: grid.{key} is not a list of values, such as [1, 2]")
    if not seeds or not all(type(seed) is int for seed in seeds):
        raise MomeError(f"sweep {file}: seeds is not a list of whole numbers, such as [1, 2, 3]")
    if len(set(seeds)) < len(seeds):
        raise MomeError(f"sweep {file}: seeds has one of them twice: leave it out")
    if not rows:
        raise MomeError(f"sweep {file}: rows is empty: name one or more, or leave it out")
    by_row: list[list[Run]] = []
    for (row, changes), values in itertools.product(rows.items(), itertools.product(*grid.values())):
        point = dict(zip(grid, values, strict=True))
        label = ", ".join([row, *(f"{key.rpartition('.')[2]} {_plain(value)}" for key, value in point.items())])
        given = {**content.get("fixed", {}), **changes, **point}
        overrides = tuple(f"{key}={_plain(value)}" for key, value in given.items())
        by_row.append([Run(label, seed, overrides) for seed in seeds])
    runs = [run for same_seed in zip(*by_row, strict=True) for run in same_seed]  # every row once, then again
    names = [run.name for run in runs]
    for name in names:
        if names.count(name) > 1:
            raise MomeError(f"sweep {file}: two runs would be called {name}: rename a row or leave one out")
    sweep = Sweep(content["base"], tuple(runs), evaluate, Path(content.get("output", f"runs/{file.stem}")))
    for run in runs:
        known = _rate_set(load_recipe(sweep.base, list(run.overrides)))
        for rates in evaluate.get("rates", ()):
            try:
                known.check(Rates.parse(rates))
            except MomeError as error:
                raise MomeError(f"sweep {file}: evaluate.rates and the row {run.row}: {error}") from None
    return sweep


def _rate_set(recipe: Recipe) -> RateSet:
    """The rates that a recipe's model can be evaluated at."""
    model = recipe.model
    tasks = tuple(task for task in TASKS if task in recipe.optim.tasks)
    any_rate = connector_config(model.connector).any_rate
    return RateSet(tuple(model.audio_rates), tuple(model.video_rates), tasks, any_rate)


def _plain(value: Any) -> str:
    """A value as an override has it."""
    return value if isinstance(value, str) else json.dumps(value)


def _check(what: str, content: dict[str, Any], known: Mapping[str, type], needed: Sequence[str]) -> None:
    for key, value in content.items():
        if key not in known:
            raise MomeError(f"{what}: unknown key {shortened(key)}: known here: {', '.join(known)}")
        if type(value) is not known[key]:
            raise MomeError(f"{what}: {key} is not of the kind {known[key].__name__}: correct it")
    for key in needed:
        if key not in content:
            raise MomeError(f"{what} lacks {key}: add it")


def run_sweep(sweep: Sweep, jobs: int = 1, note: Callable[[str], None] = print) -> int:
    """Do the runs that are not done, each in a process of its own; what was interrupted goes on.

    Args:
        sweep: the sweep.
        jobs: trainings at once.
        note: called with a line after each run: how many are done, its error rates and losses, the time left.

    Returns:
        The number of runs that failed; the others are done all the same.

    Raises:
        MomeError: a result in the output folder is of other settings, or the manifest of the evaluation cannot be read.
    """
    todo = [run for run in sweep.runs if not _is_done(sweep, run)]
    if todo:
        _rows(sweep)  # before hours of training
    done, failed, began = len(sweep.runs) - len(todo), 0, time.monotonic()
    note(f"{len(todo)} of {len(sweep.runs)} runs to do")
    for count, (ended_well, line) in enumerate(_outcomes(sweep, todo, jobs), start=1):
        failed += not ended_well
        left = (time.monotonic() - began) / count * (len(todo) - count)
        note(f"[{done + count} of {len(sweep.runs)}] {line}; about {left / 60:.0f} min left")
    return failed


def _outcomes(sweep: Sweep, runs: Sequence[Run], jobs: int) -> Iterator[tuple[bool, str]]:
    """Do each run in a process of its own, so that one that is killed takes no other with it.

    An executor would be shorter, but one whose processes end after each task hangs when it is interrupted.

    Yields:
        Whether a run ended well and a line about it, as they end. On the way out processes that still run are ended.
    """
    context, waiting = multiprocessing.get_context("spawn"), list(runs)
    running: dict[Connection, tuple[Run, SpawnProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                run, (receiver, sender) = waiting.pop(0), context.Pipe(duplex=False)
                process = context.Process(target=_work, args=(sweep, run, sender))
                with ignored_by_children(signal.SIGINT):
                    process.start()
                sender.close()
                running[receiver] = run, process
            for ready in cast(list[Connection], wait(list(running))):
                run, process = running[ready]
                try:
                    outcome = ready.recv()
                    process.join()
                except EOFError:
                    process.join()
                    outcome = False, f"{run.name} failed: its process ended with exit code {process.exitcode}"
                del running[ready]
                yield outcome
    finally:
        for _, process in running.values():
            process.terminate()
            process.join()


def _work(sweep: Sweep, run: Run, sender: Connection) -> None:
    """What a process does: a run, whose outcome it sends."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    begin_child()
    try:
        outcome = True, do_run(sweep, run)
    except KeyboardInterrupt:  # the sweep ends
        return
    except Exception as error:  # one failure must not end hours of work
        outcome = False, f"{run.name} failed: {shortened(str(error) or type(error).__name__, 300)}"
    sender.send(outcome)


def _is_done(sweep: Sweep, run: Run) -> bool:
    file = sweep.result_file(run)
    if not file.exists():
        return False
    if _read(file).get("training") != _training(sweep, run):
        raise MomeError(
            f"{file} is of other settings than the sweep's: choose another output, or delete it with "
            f"{sweep.output / 'runs' / run.name}"
        )
    return True


def _training(sweep: Sweep, run: Run) -> dict[str, Any]:
    overrides, evaluate = list(run.overrides), sweep.evaluate
    return {"recipe": sweep.base, "row": run.row, "seed": run.seed, "overrides": overrides, "evaluate": evaluate}


def _read(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MomeError(f"{file} cannot be read as JSON: delete it, and the run is evaluated again") from error
    return document if isinstance(document, dict) else {}


def _rows(sweep: Sweep) -> list[ManifestRow]:
    """The clips that every run is evaluated on."""
    options = sweep.evaluate
    return read_manifest(options["manifest"], options.get("split"), silence=True)[: options.get("limit")]


def do_run(sweep: Sweep, run: Run) -> str:
    """Train and evaluate, with all output in the run's log; returns a line about the result."""
    folder, options = sweep.output / "runs" / run.name, sweep.evaluate
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.parent / f"{run.name}.log"
    overrides = [*run.overrides, f"optim.seed={run.seed}", f"output={folder}"]
    with log.open("a") as lines, contextlib.redirect_stdout(lines), contextlib.redirect_stderr(lines):
        if (folder / "config.json").exists():
            _refuse_others(sweep, overrides, folder)
        else:
            train(sweep.base, overrides, resume=True)
        transcriber = load(folder)
        rates = [Rates.parse(text) for text in options.get("rates", ())] or transcriber.model.rate_set.main_rates()
        tasks = {pair.task for pair in rates}
        store = ClipStore(sweep.output / "clips", audio=tasks != {"vsr"}, video=tasks != {"asr"})
        conditions, rows, transcripts = make_conditions(rates), _rows(sweep), options.get("transcripts", True)
        if transcripts:
            results = evaluate(transcriber, rows, conditions, batch_size=options.get("batch", 8), store=store)
            written = [{item.id for item in result.hypotheses} for result in results]
            rows = [row for row in rows if all(row.id in ids for ids in written)]
        else:
            results = [Result.of(condition, (), seed=0) for condition in conditions]
            rows = _readable(rows, store)
        losses = transcript_losses(transcriber, rows, rates, store)
    command = shlex.join(["mome", "train", sweep.base, *overrides])
    document = results_document(results, command=command, model=str(folder), data=options["manifest"], seed=0)
    for row, result in zip(document["results"], results, strict=True):
        hypotheses = result.hypotheses
        counts = word_errors([item.reference for item in hypotheses], [item.text for item in hypotheses])
        row["clip_ids"] = [item.id for item in hypotheses]
        row["clip_errors"], row["clip_words"] = [one.errors for one in counts], [one.words for one in counts]
        row["loss"] = losses.means()[row["rates"]] if rows else None
        row["scored_ids"], row["clip_tokens"] = [clip.id for clip in rows], losses.tokens
        row["clip_losses"] = losses.by_clip[row["rates"]]
    used = machine(transcriber.model.device)
    write_json(sweep.result_file(run), {**document, "machine": used, "training": _training(sweep, run)})
    wers = " ".join("-" if one.wer is None else f"{100 * one.wer:.1f}" for one in results)
    nats = " ".join(f"{loss:.3f}" for loss in losses.means().values()) if rows else "-"
    return f"{run.name}: {f'WER % {wers}, ' if transcripts else ''}loss {nats}"


def _refuse_others(sweep: Sweep, overrides: list[str], folder: Path) -> None:
    """Raise :class:`MomeError` if the model in a run's folder was trained by another recipe than the sweep's."""
    recorded, wanted = load_recipe(folder / RECIPE_FILE), load_recipe(sweep.base, overrides)
    if replace(recorded, output=wanted.output) != wanted:
        raise MomeError(
            f"{folder} was trained with other settings than the sweep's: choose another output, or delete it"
        )


def _readable(rows: Sequence[ManifestRow], store: ClipStore) -> list[ManifestRow]:
    """The clips that can be read, which the store has then; the others are told.

    Raises:
        MomeError: there is none.
    """
    found, reason = [], ""
    for row in rows:
        try:
            store.get(row)
        except (MomeError, OSError) as error:
            reason = in_one_line(error)
            print(f"{row.id} is left out: {reason}", flush=True)
        else:
            found.append(row)
    if not found:
        raise MomeError(f"no clip to evaluate on can be read: {reason}")
    return found


def tabulate(sweep: Sweep) -> Findings:
    """The word error rates and losses of the runs that are done: means over seeds, and changes to the first row.

    A loss is the cross-entropy of the transcripts' tokens in nats, over the clips that were transcribed at all rates. A
    change is over the seeds and clips that both have, with the 95 % interval of the paired bootstrap over both.
    """
    found: dict[str, dict[str, dict[int, dict[str, Any]]]] = {run.row: {} for run in sweep.runs}
    for run in sweep.runs:
        if _is_done(sweep, run):
            for result in _read(sweep.result_file(run))["results"]:
                found[run.row].setdefault(result["rates"], {})[run.seed] = result
    control = sweep.runs[0].row
    cells: list[dict[str, Any]] = []
    for row, by_rates in found.items():
        for rates, by_seed in by_rates.items():
            cell: dict[str, Any] = {"row": row, "rates": rates, "seeds": len(by_seed)}
            theirs = found[control].get(rates, {}) if row != control else {}
            for name, change_name, amounts in (("wer", "change", _errors), ("loss", "loss_change", _nats)):
                values = [result[name] for result in by_seed.values() if result.get(name) is not None]
                change = _change(by_seed, theirs, amounts)
                cell[name] = float(np.mean(values)) if values else None
                cell[change_name] = None if change is None else change[0]
                cell[f"{change_name}_ci95"] = None if change is None else list(change[1:])
            cells.append(cell)
    rows = [[" ".join(map(str, v)) if isinstance(v := cell[name], list) else v for name in COLUMNS] for cell in cells]
    table = Table(COLUMNS, [["" if value is None else value for value in row] for row in rows])
    return Findings("sweep", {"control": control, "results": cells}, {"sweep": table})


_Amounts = dict[str, tuple[float, int]]


def _errors(result: dict[str, Any]) -> _Amounts:
    """Errors and words of each clip."""
    counts = zip(result["clip_errors"], result["clip_words"], strict=True)
    return dict(zip(result["clip_ids"], counts, strict=True))


def _nats(result: dict[str, Any]) -> _Amounts:
    """Nats and tokens of each clip; nothing in results from before losses were measured."""
    if "clip_losses" not in result:
        return {}
    losses = zip(result["clip_losses"], result["clip_tokens"], strict=True)
    return {clip: (loss * tokens, tokens) for clip, (loss, tokens) in zip(result["scored_ids"], losses, strict=True)}


def _change(
    ours: dict[int, dict[str, Any]], theirs: dict[int, dict[str, Any]], amounts: Callable[[dict[str, Any]], _Amounts]
) -> tuple[float, float, float] | None:
    """Paired difference of two rows at the same rates, over the seeds and clips that both have."""
    pairs = [(amounts(ours[seed]), amounts(theirs[seed])) for seed in ours if seed in theirs]
    pairs = [pair for pair in pairs if all(pair)]
    tables = [table for side in zip(*pairs, strict=True) for table in side]
    clips = [clip for clip in (tables[0] if tables else ()) if all(clip in table for table in tables)]
    if not clips:
        return None
    values = np.array([[table[clip][0] for clip in clips] for table in tables])
    sizes = [tables[0][clip][1] for clip in clips]
    return paired_interval(values[: len(pairs)], values[len(pairs) :], sizes, seed=0)
