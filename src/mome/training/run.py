"""A training run, from the recipe to the saved model."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from transformers import ProgressCallback, TrainingArguments, set_seed

from mome.data.augmentation import Augmentation
from mome.data.datasets import SpeechDataset
from mome.data.manifests import ManifestRow, read_manifest
from mome.data.sampling import FrameBudgetSampler
from mome.data.stores import ClipStore, FeatureStore, fingerprint
from mome.decoding import Transcriber
from mome.decoding.capacity import check_clips, longest_seconds, transcript_tokens
from mome.errors import MomeError
from mome.files import disk_errors, write_text
from mome.media.noise import load_noise
from mome.model import MomeForSpeechRecognition, MomeProcessor
from mome.rates import Rates
from mome.text.wer import WordErrors, word_errors
from mome.training.build import build, model_config
from mome.training.loading import load_recipe
from mome.training.progress import Bars, StderrProgress
from mome.training.recipe import Recipe
from mome.training.run_folder import RunFolder, save_processor
from mome.training.schedule import RateSchedule
from mome.training.trainer import MatryoshkaTrainer


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
    for package in ("accelerate", "tensorboard"):
        if find_spec(package) is None:
            raise MomeError(f"training needs {package}: pip install 'mome[train]'")
    recipe = load_recipe(name, list(overrides))
    plan = _plan(recipe)
    arguments = _arguments(recipe, plan)  # which start the process group, if there are several processes
    folder = RunFolder(Path(recipe.output))
    with arguments.main_process_first(local=False):
        checkpoint = folder.claim(recipe, resume)
    set_seed(recipe.optim.seed)
    model, processor = build(recipe)
    if recipe.optim.gradient_checkpointing:
        model.activation_checkpointing_enable()
    with disk_errors(folder.path), closing(StderrProgress()) as progress:
        trainer = _trainer(recipe, plan, arguments, model, processor)
        trainer.add_callback(progress)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if trainer.is_world_process_zero():
        _save(recipe, trainer, processor, folder.path)
    _release(trainer)
    return folder.path


def _release(trainer: MatryoshkaTrainer) -> None:
    """End the process group, once nothing holds it: its threads would abort the interpreter's end."""
    trainer.model_wrapped = trainer.model
    trainer.accelerator.free_memory()
    trainer.accelerator.end_training()


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
    augmentation = Augmentation(noises, tuple(augment.snr), augment.crop, augment.flip, augment.time_mask)
    return Plan(recipe.optim.rates_of(rate_set), validated, train_rows, valid_rows, augmentation)


def _rows(recipe: Recipe, split: str) -> list[ManifestRow]:
    rows = [row for manifest in recipe.data.manifests for row in read_manifest(Path(manifest), split)]
    if not rows:
        raise MomeError(f"no clip of the split '{split}' in {', '.join(recipe.data.manifests)}")
    return rows


def _some(rows: list[ManifestRow], limit: int | None) -> list[ManifestRow]:
    """``limit`` rows, drawn because neighbours in a manifest are often alike, the same ones in every run."""
    if limit is None or limit >= len(rows):
        return rows
    chosen = np.random.default_rng(0).choice(len(rows), limit, replace=False)
    return [rows[index] for index in sorted(chosen)]


def _trainer(
    recipe: Recipe,
    plan: Plan,
    arguments: TrainingArguments,
    model: MomeForSpeechRecognition,
    processor: MomeProcessor,
) -> MatryoshkaTrainer:
    optim, data = recipe.optim, recipe.data
    cache, augmentation = Path(data.cache_folder), plan.augmentation
    schedule = RateSchedule(plan.rates, optim.seed, optim.rates_per_step, optim.one_rate_per_task, optim.rates_up_to)
    sound, video = longest_seconds(model.config, plan.rates, 1)  # check_clips counts the transcripts too
    clips = ClipStore(
        cache / "clips",
        audio=set(optim.tasks) != {"vsr"},
        video=set(optim.tasks) != {"asr"},
        longest=min((limit for limit in (sound, processor.longest_audio) if limit is not None), default=None),
        longest_video=video,
    )
    features = None
    transcripts = transcript_tokens([(row.id, row.text) for row in plan.train_rows], model.config, processor)
    with closing(Bars()) as bars:
        clips.prepare([*plan.train_rows, *plan.valid_rows], data.workers, bars)
        frames = [clips.frames(row) for row in plan.train_rows]
        names = [row.id for row in plan.train_rows]
        check_clips(list(zip(names, frames, transcripts, strict=True)), model.config, schedule.bounds())
        if data.cache == "tokens":
            encoders = fingerprint(model.audio_encoder, model.video_encoder)
            noises = [hashlib.blake2b(noise.tobytes()).hexdigest() for noise in augmentation.noises]
            key = (encoders, processor.to_dict(), noises, asdict(recipe.augment))
            features = FeatureStore(cache / "tokens", data.variants, key, optim.seed)
            features.prepare(plan.train_rows, clips, augmentation, model, processor, bars)
    dataset = SpeechDataset(plan.train_rows, clips, processor, augmentation, optim.seed, features)
    sampler = FrameBudgetSampler(frames, data.max_frames, optim.seed)
    validate = None
    if plan.validated:
        validate = Validation(plan.validated, recipe.validation.batch, processor, clips, plan.valid_rows)
    trainer = MatryoshkaTrainer(
        model, arguments, dataset, sampler, schedule, optim.task_weights, validate, optim.rate_weights
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
        """Transcribe the clips; returns for example ``{"wer/4,2": 0.03}``."""
        transcriber = Transcriber(model, self.processor)
        hypotheses: list[list[str]] = [[] for _ in self.rates]
        for start in range(0, len(self.rows), self.batch):
            clips = [self.clips.load(row) for row in self.rows[start : start + self.batch]]
            for transcripts in transcriber.transcribe_batch(clips, self.rates, num_beams=1):
                for texts, transcript in zip(hypotheses, transcripts, strict=True):
                    texts.append(transcript.text)
        references = [row.text for row in self.rows]
        return {
            f"wer/{rates}": sum(word_errors(references, texts), WordErrors()).wer
            for rates, texts in zip(self.rates, hypotheses, strict=True)
        }


def _arguments(recipe: Recipe, plan: Plan) -> TrainingArguments:
    optim, validated = recipe.optim, plan.validated
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(Path(recipe.output) / "tensorboard")
    every = recipe.validation.every_steps
    return TrainingArguments(
        output_dir=recipe.output,
        num_train_epochs=optim.epochs,
        max_steps=-1 if optim.steps is None else optim.steps,
        learning_rate=optim.learning_rate,
        lr_scheduler_type="cosine",
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
        report_to=["tensorboard"],
        load_best_model_at_end=bool(validated),
        metric_for_best_model=f"eval_wer/{validated[0]}" if validated else None,
    )
