"""From a recipe to its model: the configuration, and the model itself with pre-trained backbones."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoConfig, PreTrainedTokenizerBase

from mome.adapters import ADAPTERS, AdapterConfig, adapter_config_from_dict
from mome.checkpoints.backbones import backbone_config, load_backbone, load_extractor, load_tokenizer
from mome.checkpoints.bits import keep_gradients, quantization, round_weights
from mome.checkpoints.names import has_tokenizer
from mome.checkpoints.settings import blaming, check_settings
from mome.checkpoints.source import local_folder
from mome.checkpoints.vocabulary import MARKERS, add_markers, prepare_padding
from mome.config import MomeConfig
from mome.config.fields import BACKBONES, MOST_TOKENS
from mome.connectors import connector_config
from mome.encoders import audio_encoder
from mome.errors import MomeError, shortened
from mome.model import MomeForSpeechRecognition, MomeProcessor
from mome.training.loading import SHIPPED, load_recipe
from mome.training.recipe import MODEL_OPTIONS, ModelRecipe, OptimRecipe, Recipe


def load_config(name: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> MomeConfig:
    """Load a recipe and make its model's configuration, without downloads if its backbones are well known.

    See :func:`load_recipe` and :func:`model_config`.
    """
    recipe = load_recipe(name, overrides)
    config = model_config(recipe, download=False)
    if recipe.model.markers:  # placeholders: only their number counts before there is a tokenizer
        config.audio_markers, config.video_markers = (list(pair) for pair in MARKERS.values())
    tokenizer = local_tokenizer(recipe.model.language_model)
    if tokenizer is not None:
        write_texts(config, recipe.model, tokenizer)
    else:
        guess_texts(config, recipe.model)
    return config


def model_config(recipe: Recipe, download: bool = True) -> MomeConfig:
    """Make the configuration of a recipe's model, without any weights.

    Args:
        recipe: the recipe.
        download: whether to ask the hub for the backbones' configurations even if they are among those that the
            package knows (``recipes/base/backbones.yaml``).

    Raises:
        MomeError: a backbone's configuration is not found, an option of adapter or connector is wrong, or the recipe
            asks for rates that the model does not have.
    """
    model = recipe.model
    audio = _backbone_config("audio_encoder", model.audio_encoder, model.audio_encoder_revision, download)
    video = _backbone_config("video_encoder", model.video_encoder, model.video_encoder_revision, download)
    text = _backbone_config("language_model", model.language_model, model.language_model_revision, download)
    if audio is not None:
        audio_encoder(audio, f"the audio encoder {model.audio_encoder}")
    if audio is None and video is None:
        raise MomeError("the recipe has neither model.audio_encoder nor model.video_encoder: give one or both")
    for modality, encoder in (("audio", audio), ("video", video)):
        joint = modality == "audio" and connector_config(model.connector).joint
        if encoder is None and not joint and (rates := getattr(model, f"{modality}_rates")):
            raise MomeError(
                f"model.{modality}_rates={rates} need model.{modality}_encoder: name one, or give "
                f"model.{modality}_rates=[]"
            )
    values = {name: getattr(model, name) for name in MODEL_OPTIONS}
    values["adapter"] = _bottleneck(model.adapter, text)
    try:
        config = MomeConfig(
            audio_config=audio.to_dict() if audio else None,
            video_config=video.to_dict() if video else None,
            text_config=text.to_dict() if text else None,
            tasks=recipe.optim.tasks,
            **values,
        )
        outline(config)  # raises for wrong options before anything is loaded
    except MomeError:
        raise
    except Exception as error:  # of any kind: heads that do not divide a width, a size that is no number
        reason = shortened(str(error) or type(error).__name__, 200)
        raise MomeError(f"no model can be built from the options under 'model': {reason}") from error
    recipe.optim.rates_of(config.rate_set)
    for top_k in recipe.optim.top_k or ():
        config.check_top_k(top_k, "optim.top_k")
    recipe.validation.rates_of(config.rate_set)
    return config


def outline(config: MomeConfig) -> MomeForSpeechRecognition:
    """Build a configuration's model on the meta device, without memory for its weights."""
    with torch.device("meta"):
        return MomeForSpeechRecognition(config)


def _bottleneck(adapter: dict[str, Any] | None, language_model: Any) -> dict[str, Any] | None:
    """Replace a bottleneck such as ``width/32`` or ``3.5M`` by a number, in the options of an adapter.

    The first is a part of the language model's width, rounded down; the second, the bottleneck with which the number of
    parameters that a token uses is nearest to so many million.
    """
    value = (adapter or {}).get("bottleneck")
    if adapter is None or not isinstance(value, str):
        return adapter
    width = language_model.hidden_size
    part, millions = re.fullmatch(r"width/([1-9][0-9]*)", value), re.fullmatch(r"([0-9]+(\.[0-9]+)?)M", value)
    if part is not None:
        return {**adapter, "bottleneck": max(width // int(part[1]), 1)}
    if millions is None:
        raise MomeError(
            f"model.adapter.bottleneck={value} is not possible: give a whole number, or a part of the language "
            "model's width such as width/32, or the active parameters in millions such as 3.5M"
        )
    option = ADAPTERS.get(str(adapter.get("type")), AdapterConfig).group_option
    one_group = {option: 1} if isinstance(adapter.get(option), str) else {}  # a token uses the parameters of one

    def distance(bottleneck: int) -> float:
        config = adapter_config_from_dict({**adapter, **one_group, "bottleneck": bottleneck})
        return abs(config.count(language_model).active - float(millions[1]) * 1e6)

    return {**adapter, "bottleneck": min(range(1, width + 1), key=distance)}


def _backbone_config(kind: str, name: str | None, revision: str | None, download: bool) -> Any:
    if name is None:
        return None
    if not download and not Path(name).is_dir():
        known = yaml.safe_load((SHIPPED / "base" / "backbones.yaml").read_text())
        if name in known:
            return AutoConfig.for_model(**known[name])
    return backbone_config(kind, name, revision)


def write_texts(config: MomeConfig, model: ModelRecipe, tokenizer: PreTrainedTokenizerBase) -> None:
    """Set the token ids of the instruction and the prompts in the configuration.

    Raises:
        MomeError: the recipe asks for a start token that the tokenizer does not have, or a text is too long.
    """
    for option in ("bos", "bos_taught"):
        if getattr(model, option) and tokenizer.bos_token_id is None:
            raise MomeError(f"the tokenizer of {model.language_model} has no start token: leave out model.{option}")

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False).input_ids if text else []

    config.start_ids = [tokenizer.bos_token_id] * model.bos + ids(model.instruction)
    config.prompt_ids = {task: ids(text) for task, text in config.prompts.items()}
    _check_lengths(config)


def guess_texts(config: MomeConfig, model: ModelRecipe) -> None:
    """Set one token for each word and punctuation mark, as most tokenizers do, if there is no tokenizer.

    Raises:
        MomeError: a text is too long.
    """

    def words(text: str) -> list[str]:
        return re.findall(r"\w+|[^\w\s]", text)

    config.start_ids = ["BOS"] * model.bos + words(model.instruction)
    config.prompt_ids = {task: words(text) for task, text in config.prompts.items()}
    _check_lengths(config)


def _check_lengths(config: MomeConfig) -> None:
    """Raise :class:`MomeError` if a text has more tokens than a configuration or the language model can hold."""
    texts = {"model.instruction": config.start_ids}
    texts |= {f"model.prompts.{task}": ids for task, ids in config.prompt_ids.items()}
    positions = getattr(config.text_config, "max_position_embeddings", None)
    for key, ids in texts.items():
        if len(ids) > MOST_TOKENS:
            raise MomeError(f"{key} has {len(ids)} tokens, more than the {MOST_TOKENS} possible: shorten it")
        fed = len(ids) if ids is config.start_ids else len(config.start_ids) + len(ids)
        if positions is not None and fed >= positions:
            with_start = "" if fed == len(ids) else " with model.instruction"
            raise MomeError(
                f"{key}{with_start} has {fed} tokens, and the language model holds {positions} in all, "
                "the clip and its transcript included: shorten it"
            )


def find_tokenizer(language_model: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a language model, or of the self-contained checkpoint that the language model is in.

    Raises:
        MomeError: it is not found or damaged.
    """
    processor = processor_around(language_model)
    return load_tokenizer(language_model, revision) if processor is None else processor.tokenizer


def local_tokenizer(language_model: str) -> PreTrainedTokenizerBase | None:
    """As :func:`find_tokenizer`, but without asking the hub: ``None`` if there is none in a local folder.

    Raises:
        MomeError: it is damaged.
    """
    folder = local_folder(language_model)
    own = folder is not None and has_tokenizer(folder)
    return find_tokenizer(language_model) if own or processor_around(language_model) is not None else None


def processor_around(name: str) -> MomeProcessor | None:
    """The processor of the self-contained checkpoint that a backbone is in; ``None`` if it is in none."""
    checkpoint = (local_folder(name) or Path(name)).parent
    if not (checkpoint / "processor_config.json").is_file():
        return None
    check_settings(checkpoint)
    with blaming(f"the processor files of {checkpoint}", "are missing or damaged"):
        return MomeProcessor.from_pretrained(checkpoint, trust_remote_code=False)


def build(recipe: Recipe, dtype: torch.dtype = torch.float32) -> tuple[MomeForSpeechRecognition, MomeProcessor]:
    """Load the frozen backbones and put new projectors and adapters on them.

    Raises:
        MomeError: a backbone is missing or unfit, the model is larger than the machine's memory, or
            ``optim.language_model_dtype`` needs a package that is missing.
    """
    config, names = model_config(recipe), recipe.model
    _check_memory(config, dtype)
    tokenizer = find_tokenizer(names.language_model, names.language_model_revision)
    extractor = None
    encoder = config.audio_encoder_class
    if names.audio_encoder is not None and encoder is not None and encoder.extractor is not None:
        extractor = _extractor(encoder.extractor, names.audio_encoder, names.audio_encoder_revision)
    if names.markers:
        add_markers(config, tokenizer, padding=tokenizer.pad_token_id is None)
        # None where the language model's embedding has rows to spare.
        config.added_tokens = max(len(tokenizer) - config.text_config.vocab_size, 0)
    prepare_padding(tokenizer)
    options = {"language_model": _fewer_bits(recipe.optim)}
    write_texts(config, names, tokenizer)
    config.check_options()  # again, now with tokens: the tokenizer may be another language model's
    parts: dict[str, Any] = {
        kind: load_backbone(
            kind, getattr(config, kind), getattr(config, f"{kind}_revision"), dtype, options.get(kind, {})
        )
        for kind in BACKBONES
        if getattr(config, kind) is not None
    }
    for kind in BACKBONES:  # relative paths would be wrong after the checkpoint is moved
        reference = getattr(config, kind)
        if reference is not None and Path(reference).is_dir():
            setattr(config, kind, str(Path(reference).resolve()))
    model = MomeForSpeechRecognition(config, **parts).to(dtype=dtype)  # type: ignore[call-arg]
    if recipe.optim.language_model_dtype == "bfloat16":
        round_weights(model.language_model)
    elif recipe.optim.language_model_dtype == "int4":
        keep_gradients(model.language_model)
    processor = MomeProcessor.for_config(config, tokenizer, extractor)
    processor.bos_taught = names.bos_taught
    return model, processor


def _fewer_bits(optim: OptimRecipe) -> dict[str, Any]:
    """How Transformers is to load the language model."""
    if optim.language_model_dtype != "int4":
        return {}
    computed = torch.bfloat16 if optim.precision == "bf16" else torch.float32
    try:
        return {"quantization_config": quantization("int4", torch.device("cpu"), computed)}
    except MomeError as error:
        raise MomeError(f"optim.language_model_dtype={error}") from error


def _check_memory(config: MomeConfig, dtype: torch.dtype) -> None:
    """Raise :class:`MomeError` if the model does not fit, before the system kills the process."""
    parameters = list(outline(config).parameters())
    # A trained parameter has a gradient and AdamW's two moments besides its value.
    numbers = sum(value.numel() * (4 if value.requires_grad else 1) for value in parameters)
    needed, memory = numbers * dtype.itemsize, _memory()
    if needed > memory:
        raise MomeError(
            f"the recipe's model needs {needed / 1e9:.0f} GB to train, and the memory here is {memory / 1e9:.0f} GB: "
            "choose smaller backbones, projectors or adapters"
        )


def _memory() -> int:
    """Bytes of memory of this machine and its GPUs."""
    if not hasattr(os, "sysconf"):  # Windows
        return sys.maxsize
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return machine + sum(torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count()))


def _extractor(kind: type, name: str, revision: str | None) -> Any:
    processor = processor_around(name)
    return load_extractor(kind, name, revision) if processor is None else processor.feature_extractor
