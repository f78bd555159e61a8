"""``mome evaluate``: word error rates over the clips of a manifest."""

from __future__ import annotations

import shlex
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from mome.checkpoints.bundled import BUNDLED_NAME
from mome.cli.options import (
    Beams,
    Bits,
    Compat,
    CtcWeight,
    Data,
    Dtype,
    Json,
    Model,
    Noise,
    Normalize,
    Out,
    Ray,
    Split,
    TopK,
    check_compat,
    check_ctc_weight,
    check_noise,
    check_top_k,
    choose_rates,
    decoding,
    load_model,
    parse_level,
    parse_task,
    read_config,
)
from mome.cli.output import (
    check_writable,
    note,
    progress,
    quiet,
    report_failures,
    result,
    results_table,
    to_json,
)
from mome.errors import MomeError
from mome.files import write_text
from mome.rates import Rates


def evaluate(
    data: Data,
    split: Split = None,
    model: Model = BUNDLED_NAME,
    rates: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A,V",
            help="Audio and video rate, such as 4,2. Repeatable. Default: all of the model's.",
        ),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            metavar="avsr|asr|vsr",
            help="avsr listens and reads lips, asr listens, vsr reads lips; of the rates, those that the task does not "
            "use are left out. Repeatable. Default: what the rates say, or avsr.",
            show_default=False,
        ),
    ] = None,
    snr: Annotated[
        list[str] | None,
        typer.Option(
            metavar="clean|DB",
            help="Speech to noise in dB (0: as loud as the speech), or clean. Repeatable. Default: clean.",
        ),
    ] = None,
    noise: Noise = None,
    out: Out = None,
    transcripts: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="Write the transcript of each clip to this file; 'mome score' reads it."),
    ] = None,
    json: Json = False,
    cache: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Keep sound and mouth of the clips there: the next run starts at once."),
    ] = None,
    ray: Ray = None,
    journal: Annotated[
        Path | None,
        typer.Option(
            metavar="JSONL",
            help="Write each clip's transcripts to this file as soon as they are known; the same command goes on from "
            "there after an interruption.",
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only this number of clips, from the first on.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Clips transcribed together.")] = 8,
    beams: Beams = None,
    top_k: TopK = None,
    ctc_weight: CtcWeight = None,
    normalize: Normalize = "lower",
    compat: Compat = None,
    dtype: Dtype = "float32",
    bits: Bits = None,
    seed: Annotated[
        int,
        typer.Option(min=0, help="Draws a clip's stretch of noise, together with its id, and the intervals."),
    ] = 0,
) -> None:
    """Measure word error rates over the clips of a manifest, by task, rates and noise.

    The interval is that of 95 % of samples of the clips drawn with replacement. RTF is processing time
    per second of speech, without reading the files. A clip that cannot be transcribed is left out of the
    figures and listed at the end, and the exit code is 1. Ctrl-C ends with the figures of the clips that are done.

    Example: mome evaluate --data grid.csv --split test --snr clean --snr 0 --noise babble.flac
    """
    given = list(dict.fromkeys(map(Rates.parse, rates or ())))
    tasks = [parse_task(text) for text in task or ()]
    levels = [parse_level(text) for text in snr or ["clean"]]
    check_noise(noise, levels)
    written = (out, transcripts, journal)
    for path in written:
        if path is not None:
            check_writable(path, data, noise, *(other for other in written if other is not path))
    if cache is not None and cache.is_file():
        raise MomeError(f"--cache {cache} is a file: give a folder")
    quiet()
    from mome.data.clips import ClipStore
    from mome.data.manifests import read_manifest
    from mome.evaluation.bulk import Cluster, settings, without_weights
    from mome.evaluation.evaluate import Evaluation
    from mome.evaluation.journal import Journal
    from mome.evaluation.result import make_conditions, results_document, to_csv, write_json
    from mome.media.noise import load_noise

    rows = read_manifest(data, split, silence=True)[:limit]
    config = read_config(model)
    check_compat(compat, model, config)
    check_top_k(top_k, model, config)
    check_ctc_weight(ctc_weight, model, config)
    conditions = make_conditions(choose_rates(config.rate_set, given, tasks), levels)
    sound = None if noise is None else load_noise(noise)
    transcriber = load_model(model, compat, dtype, bits=bits) if ray is None else without_weights(model, compat)
    evaluated = {condition.task for condition in conditions}
    store = None if cache is None else ClipStore(cache, audio=evaluated != {"vsr"}, video=evaluated != {"asr"})
    search: dict[str, Any] = {"active_experts": top_k, **decoding(beams, ctc_weight)}
    options = {"noise": sound, "seed": seed, "batch_size": batch, "store": store, "normalize": normalize, **search}
    evaluation = Evaluation(transcriber, rows, conditions, **options)
    engine = (
        None
        if ray is None
        else Cluster(model, conditions, compat, dtype, language_model_dtype=bits, options=options, address=ray)
    )
    kept = (
        nullcontext()
        if journal is None
        else Journal(journal, settings(model, compat, dtype, bits, noise, seed, search), rows, conditions)
    )
    interruption = None
    try:
        with kept as done, progress("transcribing") as bar:
            evaluation.run(bar, engine, done)
    except KeyboardInterrupt as stop:
        interruption = stop
    results = evaluation.results()
    command = shlex.join(["mome", *sys.argv[1:]])
    document = results_document(
        results,
        command=command,
        model=model,
        data=str(data),
        seed=seed,
        normalize=normalize,
        interrupted=interruption is not None,
        top_k=top_k,
    )
    # Print before writing files, because the figures took hours and a disk may be full.
    result(to_json(document) if json else results_table(results))
    if out is not None:
        write_json(out, document)
    if transcripts is not None:
        write_text(transcripts, to_csv(results))
    if interruption is not None:
        raise interruption
    if transcriber.model.config.description:
        note(transcriber.model.config.description)
    raise typer.Exit(report_failures(results))
