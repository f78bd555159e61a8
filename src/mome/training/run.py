"""A training run, from the recipe to the saved model."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from transformers import ProgressCallback, TrainingArguments, set_seed

from mome.adapters.inventory import sharded
from mome.clip import FRAME_RATE
from mome.data.augmentation import Augmentation, FeatureMasks
from mome.data.clips import ClipStore
from mome.data.datasets import SpeechDataset
from mome.data.features import FeatureStore, fingerprint
from mome.data.manifests import ManifestRow, NoSuchSplit, read_manifest
from mome.data.sampling import FrameBudgetSampler
from mome.decoding import Transcriber
from mome.decoding.capacity import check_clips, longest_seconds, transcript_tokens
from mome.errors import MomeError
from mome.files import disk_errors, write_text
from mome.media.noise import load_noise
from mome.model import MomeForSpeechRecognition, MomeProcessor
from mome.rates import Rates
from mome.text.wer import WordErrors, word_errors
from mome.training.alignment import (
    AlignmentValidation,
    alignment,
    alignment_recipe,
    keep_head,
    spread,
    take_connector,
)
from mome.training.build import build, model_config
from mome.training.loading import load_recipe
from mome.training.progress import Bars, StderrProgress
from mome.training.recipe import OptimRecipe, Recipe
from mome.training.run_folder import RunFolder, batches_of, save_processor
from mome.training.schedule import RateSchedule, TopKSchedule
from mome.training.sharding import shard_frozen
from mome.training.sharing import SkippedClips, error_rates, own_batches, store_clips, store_features
from mome.training.start import take_trained
from mome.training.trainer import ALIGNMENT, MatryoshkaTrainer, Validate, load_weights, save_alignment


def train(name: str | Path, overrides: Sequence[str] = (), resume: bool = False) -> Path:
    """Train a model by a recipe.

    Args:
        name: a recipe file, or the name of a shipped recipe.
        overrides: ``key=value`` with dotted keys.
        resume: whether to go on from the last complete checkpoint in the output folder, if there is one.

    Returns:
        The output folder, a model folder.

    Raises:
        MomeError: the recipe, its data or its models are unusable, or the output folder is already in use.
    """
    if find_spec("accelerate") is None:
        raise MomeError("training needs accelerate: pip install 'mome[train]'")
    for engine in ("FSDP", "DEEPSPEED"):
        if os.environ.get(f"ACCELERATE_USE_{engine}", "false").lower() == "true":
            raise MomeError(
                f"mome train does not run under accelerate's {engine}: launch it by torchrun or accelerate launch "
                "--multi_gpu, and give optim.shard=true to share out the frozen weights"
            )
    recipe = load_recipe(name, list(overrides))
    for package in recipe.optim.report_to:
        if find_spec(package) is None:
            raise MomeError(f"optim.report_to={package} needs {package}: pip install {package}, or leave it out")
    plan = _plan(recipe)
    arguments = _arguments(recipe, plan)  # which start the process group, if there are several processes
    folder = RunFolder(Path(recipe.output))
    with arguments.main_process_first(local=False):
        checkpoint = folder.claim(recipe, resume)
    _keep_batches(arguments, checkpoint)
    set_seed(recipe.optim.seed)
    # On H100 and H200 cuDNN's gradients are NaN with a mask and lengths of 64, 192, 320 …: pytorch/pytorch#196678.
    torch.backends.cuda.enable_cudnn_sdp(False)
    model, processor = build(recipe)
    if recipe.optim.precision == "bf16" and arguments.device.type == "cpu":
        # On short sequences PyTorch's fused attention for bfloat16 is slower than the plain one there.
        model.language_model.set_attn_implementation("eager")
    if recipe.optim.gradient_checkpointing:
        model.activation_checkpointing_enable()
    if recipe.optim.shard and arguments.world_size > 1:
        shard_frozen(model, arguments.device)
    model.to(device=arguments.device)  # type: ignore[call-arg]
    rows = [*plan.train_rows, *plan.valid_rows]
    skipped = SkippedClips(folder.path, rows, recipe.data.skip_percent, resume=checkpoint is not None)
    with disk_errors(folder.path):
        dataset = _dataset(recipe, plan, model, processor, skipped)
        plan = replace(
            plan, valid_rows=[rows[place] for place in range(len(dataset), len(rows)) if place not in skipped.found]
        )
        kept = Path(alignment_recipe(recipe).output) / ALIGNMENT
        if checkpoint is not None and recipe.align.ctc_weight is not None and not kept.exists():
            raise MomeError(f"{kept} is gone, which align.ctc_weight keeps: start in another folder, or leave it out")
        if checkpoint is None and recipe.optim.start is not None:
            take_trained(model, recipe.optim.start)
        elif checkpoint is None and recipe.align.start is not None:
            take_connector(model, recipe.align.start)
        elif checkpoint is None and recipe.align.is_stage:
            _align(recipe, plan, model, dataset, skipped, resume)
        if recipe.align.weight:
            model.alignment = model.alignment or alignment(model, dataset)
            model.alignment.weight = recipe.align.weight
        else:
            model.alignment = None
        validate = Validation(
            plan.validated, recipe.validation.batch, dataset.processor, dataset.clips, plan.valid_rows
        )
        trainer = _trainer(recipe, plan, arguments, model, dataset, validate, skipped)
        _run(trainer, checkpoint)
    if trainer.is_world_process_zero():
        if recipe.align.ctc_weight is not None:
            keep_head(model, Path(alignment_recipe(recipe).output), recipe.align.ctc_weight)
        _save(recipe, trainer, processor, folder.path)
    trainer.accelerator.end_training()
    return folder.path


def _align(
    recipe: Recipe,
    plan: Plan,
    model: MomeForSpeechRecognition,
    dataset: SpeechDataset,
    skipped: SkippedClips,
    resume: bool,
) -> None:
    """Train the connector by the alignment alone, unless that was done before, and load what came out.

    What follows starts from the files, so it is the same whether or not the alignment was trained in this process.
    """
    recipe, plan = alignment_recipe(recipe), plan.alignment(model.config.connector_config.fuses)
    arguments = _arguments(recipe, plan)
    folder = RunFolder(Path(recipe.output))
    with arguments.main_process_first(local=False):
        checkpoint = folder.claim(recipe, resume)
    _keep_batches(arguments, checkpoint)
    model.alignment = alignment(model, dataset)
    if not (folder.path / "config.json").exists():
        validate = AlignmentValidation(plan.validated, recipe.validation.batch, dataset, plan.valid_rows)
        trainer = _trainer(recipe, plan, arguments, model, dataset, validate, skipped)
        _run(trainer, checkpoint)
        spread(model.connector, trainer.state.log_history)
        if trainer.is_world_process_zero():
            save_alignment(model.alignment, folder.path)
            _save(recipe, trainer, dataset.processor, folder.path)
        trainer.accelerator.wait_for_everyone()
    load_weights(model, folder.path)


def _run(trainer: MatryoshkaTrainer, checkpoint: Path | None) -> None:
    """Train, and then let go of the process group: its threads would abort the interpreter's end."""
    with closing(StderrProgress()) as progress:
        trainer.add_callback(progress)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if trainer.average_last is not None and trainer.validate is None:
        trainer.load_average(trainer.average_last)
    trainer.model_wrapped = trainer.model
    trainer.accelerator.free_memory()


def _save(recipe: Recipe, trainer: MatryoshkaTrainer, processor: MomeProcessor, out: Path) -> None:
    """Make the run's folder a model folder, and leave no ``config.json`` in it if that fails."""
    try:
        with disk_errors(out):
            save_processor(processor, out)
            write_text(out / "history.json", json.dumps(trainer.state.log_history, indent=1))
            trainer.model.save_pretrained(out, self_contained=recipe.model.self_contained)
    except MomeError:
        (out / "config.json").unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class Plan:
    """The inputs of a run besides its model, read before anything is written.

    Attributes:
        rates: rates to train.
        validated: rates to validate at; empty for no validation.
        train_rows, valid_rows: the clips.
        augmentation: of the training clips.
    """

    rates: list[Rates]
    validated: list[Rates]
    train_rows: list[ManifestRow]
    valid_rows: list[ManifestRow]
    augmentation: Augmentation

    def alignment(self, fuses: bool) -> Plan:
        """The same for the alignment, which takes each rate of a modality alone unless the connector ``fuses`` them."""

        def alone(rates: list[Rates]) -> list[Rates]:
            sides = (pair for each in rates for pair in ((each.audio, None), (None, each.video)) if any(pair))
            return list(dict.fromkeys(Rates(*pair) for pair in sides))

        return self if fuses else replace(self, rates=alone(self.rates), validated=alone(self.validated))


def _plan(recipe: Recipe) -> Plan:
    """Read manifests and noise; raises :class:`MomeError` if something is missing or does not fit."""
    data, augment = recipe.data, recipe.augment
    if not data.manifests:
        raise MomeError(f"data.manifests is missing: give data.manifests=[FILE], a manifest of {data.source}")
    if augment.noise is None:
        raise MomeError(
            "augment.noise is missing: give augment.noise=[FILE], such as babble, which the published systems were "
            "trained in, or augment.noise=[] for none"
        )
    rate_set = model_config(recipe).rate_set
    validated = recipe.validation.rates_of(rate_set)
    train_rows = _some(_rows(recipe, data.train_split), data.limit)
    valid_rows = _some(_rows(recipe, data.valid_split), recipe.validation.limit) if validated else []
    noises = tuple(load_noise(Path(path)) for path in augment.noise)
    masks = FeatureMasks(
        augment.feature_time_masks,
        augment.feature_time_width,
        augment.feature_channel_masks,
        augment.feature_channel_width,
    )
    augmentation = Augmentation(
        noises, tuple(augment.snr), augment.crop, augment.flip, augment.time_mask, masks, augment.token_noise
    )
    return Plan(recipe.optim.rates_of(rate_set), validated, train_rows, valid_rows, augmentation)


def _rows(recipe: Recipe, split: str) -> list[ManifestRow]:
    """The clips of a split in all manifests, of which some may lack it."""
    rows: list[ManifestRow] = []
    lacking: list[NoSuchSplit] = []
    for manifest in recipe.data.manifests:
        try:
            rows += read_manifest(Path(manifest), split, missing_files=True)  # they are skipped, see SkippedClips
        except NoSuchSplit as error:
            lacking.append(error)
    if not rows:
        raise lacking[0]
    return rows


def _some(rows: list[ManifestRow], limit: int | None) -> list[ManifestRow]:
    """``limit`` rows, drawn because neighbours in a manifest are often alike, the same ones in every run."""
    if limit is None or limit >= len(rows):
        return rows
    chosen = np.random.default_rng(0).choice(len(rows), limit, replace=False)
    return [rows[index] for index in sorted(chosen)]


def _schedule(recipe: Recipe, plan: Plan) -> RateSchedule:
    optim = recipe.optim
    return RateSchedule(plan.rates, optim.seed, optim.rates_per_step, optim.one_rate_per_task, optim.rates_up_to)


def _dataset(
    recipe: Recipe,
    plan: Plan,
    model: MomeForSpeechRecognition,
    processor: MomeProcessor,
    skipped: SkippedClips,
) -> SpeechDataset:
    """Store clips and features that are not stored yet; raises :class:`MomeError` if a clip cannot be trained on."""
    optim, data = recipe.optim, recipe.data
    cache, augmentation = Path(data.cache_folder), plan.augmentation
    sound, video = longest_seconds(model.config, plan.rates, 1)  # check_clips counts the transcripts too
    clips = ClipStore(
        cache / "clips",
        audio=set(optim.tasks) != {"vsr"},
        video=set(optim.tasks) != {"asr"},
        longest=min((limit for limit in (sound, processor.longest_audio) if limit is not None), default=None),
        longest_video=video,
    )
    dataset = SpeechDataset(plan.train_rows, clips, processor, augmentation, optim.seed)
    transcripts = transcript_tokens([(row.id, row.text) for row in plan.train_rows], model.config, processor)
    with closing(Bars()) as bars:
        store_clips(dataset, plan.valid_rows, data.workers, skipped, bars)
        names = [row.id for row in plan.train_rows]
        sizes = [size for size in zip(names, dataset.frames, transcripts, strict=True) if size[1]]
        if sizes:  # else the sampler says that there are none
            model.config.segment_seconds = round(sum(size[1] for size in sizes) / len(sizes) / FRAME_RATE, 2)
        check_clips(sizes, model.config, _schedule(recipe, plan).bounds())
        if data.cache == "tokens":
            encoders = fingerprint(model.audio_encoder, model.video_encoder)
            noises = [hashlib.blake2b(noise.tobytes()).hexdigest() for noise in augmentation.noises]
            after = ("feature_", "token_")  # how the names begin of what is done to features and transcripts
            augment = {name: value for name, value in asdict(recipe.augment).items() if not name.startswith(after)}
            half = optim.precision == "bf16"
            key = (encoders, processor.to_dict(), noises, augment, *(("bf16",) if half else ()))
            # Features that chance does not touch are the same for every seed of the training.
            seed = optim.seed if augmentation.is_random(clips.audio, clips.video) else OptimRecipe.seed
            dataset.features = FeatureStore(cache / "tokens", data.variants, key, seed, half)
            store_features(dataset, model, skipped, bars)
    return dataset


def _trainer(
    recipe: Recipe,
    plan: Plan,
    arguments: TrainingArguments,
    model: MomeForSpeechRecognition,
    dataset: SpeechDataset,
    validate: Validate,
    skipped: SkippedClips,
) -> MatryoshkaTrainer:
    optim = recipe.optim
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(Path(recipe.output) / "tensorboard")
    names = [row.id for row in dataset.rows]
    sampler = FrameBudgetSampler(dataset.frames, recipe.data.max_frames, optim.seed, names)
    trainer = MatryoshkaTrainer(
        model,
        arguments,
        dataset,
        sampler,
        _schedule(recipe, plan),
        optim.task_weights,
        validate if plan.validated else None,
        optim.connector_learning_rate,
        optim.rate_weights,
        TopKSchedule(optim.top_k, optim.seed),
        optim.spare_memory,
        skipped,
        optim.average_last,
    )
    trainer.remove_callback(ProgressCallback)
    return trainer


class Validation:
    """Word error rate of the validation clips at several rates."""

    def __init__(
        self, rates: list[Rates], batch: int, processor: MomeProcessor, clips: ClipStore, rows: list[ManifestRow]
    ):
        self.rates, self.batch = rates, batch
        self.processor, self.clips, self.rows = processor, clips, rows

    def __call__(self, model: MomeForSpeechRecognition) -> dict[str, float]:
        """Transcribe the clips, each in one process unless the model is sharded; for example ``{"wer/4,2": 0.03}``."""
        transcriber = Transcriber(model, self.processor)
        errors = [WordErrors() for _ in self.rates]
        # As each pass of a sharded model needs all processes, they transcribe the same clips.
        for rows in own_batches(self.rows, self.batch, together=sharded(model)):
            clips = [self.clips.load(row) for row in rows]
            texts: list[list[str]] = [[] for _ in self.rates]
            for transcripts in transcriber.transcribe_batch(clips, self.rates, num_beams=1):
                for own, transcript in zip(texts, transcripts, strict=True):
                    own.append(transcript.text)
            for number, own in enumerate(texts):
                errors[number] += sum(word_errors([row.text for row in rows], own), WordErrors())
        return error_rates(self.rates, errors)


def _keep_batches(arguments: TrainingArguments, checkpoint: Path | None) -> None:
    """Accumulate so that an update has as many batches as before, if another number of processes resumes a run.

    Raises:
        MomeError: that number does not divide the batches of an update.
    """
    if checkpoint is None:
        return
    now = arguments.world_size
    batches = batches_of(checkpoint, arguments.gradient_accumulation_steps)
    if batches % now:
        fitting = [str(count) for count in range(1, batches + 1) if batches % count == 0]
        raise MomeError(
            f"{checkpoint} has updates of {batches} batches, which {now} processes cannot share: resume with "
            f"{' or '.join(fitting)} processes"
        )
    arguments.gradient_accumulation_steps = batches // now


def _arguments(recipe: Recipe, plan: Plan) -> TrainingArguments:
    optim, validated = recipe.optim, plan.validated
    every = recipe.validation.every_steps
    return TrainingArguments(
        output_dir=recipe.output,
        num_train_epochs=optim.epochs,
        max_steps=-1 if optim.steps is None else optim.steps,
        learning_rate=optim.learning_rate,
        lr_scheduler_type="constant_with_warmup" if optim.scheduler == "constant" else optim.scheduler,
        warmup_steps=optim.warmup_steps,
        weight_decay=optim.weight_decay,
        adam_beta1=optim.betas[0],
        adam_beta2=optim.betas[1],
        max_grad_norm=optim.clip_norm,
        disable_tqdm=False,  # by default it depends on Transformers' verbosity
        gradient_accumulation_steps=optim.accumulate,
        bf16=optim.precision == "bf16",
        use_cpu=not torch.cuda.is_available(),
        seed=optim.seed,
        logging_steps=optim.log_steps,
        logging_first_step=True,  # so that short runs log too
        eval_strategy="steps" if validated else "no",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=None,  # RunFolder.keep deletes old checkpoints
        logging_nan_inf_filter=False,  # it would hide losses that are not finite
        greater_is_better=False,
        remove_unused_columns=False,
        dataloader_num_workers=recipe.data.workers,
        ddp_find_unused_parameters=True,
        report_to=optim.report_to,
        load_best_model_at_end=bool(validated),
        metric_for_best_model=f"eval_wer/{validated[0]}" if validated else None,
    )
