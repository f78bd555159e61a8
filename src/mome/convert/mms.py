"""Convert checkpoints of MMS-LLaMA to model folders.

Such a file of fairseq's trainer holds what was trained, and the statistics of AV-HuBERT's batch norms. The frozen
backbones are not in it, so the folder refers to them. The predictor of the speech rate has a file of its own.

Source: the state dicts that the published code writes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mome.checkpoints.backbones import load_tokenizer
from mome.checkpoints.checkpoint import STATISTICS
from mome.checkpoints.source import local_folder
from mome.checkpoints.vocabulary import prepare_padding
from mome.clip import FRAME_RATE
from mome.config import MomeConfig
from mome.config.fields import BACKBONES
from mome.convert.avhubert import flat_settings
from mome.convert.avsr import CARD, LICENSE, check_scale
from mome.convert.avsr_backbones import named_config, whisper_extractor
from mome.convert.fitting import checked, count_modules, read_size
from mome.convert.unpickle import plain, read_checkpoint
from mome.convert.writing import Account, Unused, check_free, fill_card, new_folder, save_weights
from mome.errors import MomeError
from mome.model.model import MomeForSpeechRecognition
from mome.model.processor import MomeProcessor

SOURCE = "https://github.com/JeongHun0716/MMS-LLaMA"
INSTRUCTION = "Recognize this speech in English. Input : "
BEAMS, LORA_SCALE, LORA_DROPOUT = 5, 2.0, 0.05
HEADS = 16  # of the Q-Former, which takes those of BERT Large
LONGEST = 20  # seconds that the learned queries are for, at half the speech rate that they suffice for
RATES: dict[str, Any] = {
    "audio_rates": [16],
    "video_rates": [8],
}  # nominal: the length and the speech rate give the number of tokens
NEEDED_SETTINGS: dict[str, Any] = {
    "use_qformer": True,
    "window_level": False,
    "modality_fuse": "concat",
    "use_sr_predictor": True,
}
"""Settings, by the published names, that :class:`mome.connectors.qformer.QFormerConnector` needs."""

_QUERIES, _TOKEN = "query_tokens", "sr_token"
_LORA = re.compile(r"llama\.model\.layers\.\d+\..+\.(\w+)\.lora_[AB]\.default\.weight")
_LAYER = re.compile(r"Qformer\.bert\.encoder\.layer\.(\d{1,3})\..+")
_INNER = r"Qformer\.bert\.encoder\.layer\.\d+\.(?:intermediate_query|output_query)\.dense\."
_UNUSED = {
    "the Q-Former's part for text": r"Qformer\.(cls|bert\.embeddings\.(?!LayerNorm)|bert\.encoder\.layer\.\d+\."
    r"(intermediate|output)\.).*",
    "about the language model's weights in 4 bits": r"llama\..+\.weight\..+",
    "for training only": r"avhubert\..+\.num_batches_tracked",
}
_NAMES = [  # of this package, with those of the published code, to be replaced in this order
    (r"^connector\.queries$", _QUERIES),
    (r"^connector\.fusion\.downsample\.", "afeat_1d_conv."),
    (r"^connector\.projector\.", "avfeat_to_llm.layers."),
    (r"^connector\.qformer\.layernorm\.", "Qformer.bert.embeddings.LayerNorm."),
    (r"^connector\.qformer\.", "Qformer.bert."),
    (r"^(Qformer\..*attention)\.attention\.", r"\1.self."),
    (r"^connector\.predictor\.token$", f"sr_predictor.{_TOKEN}"),
    (r"^connector\.predictor\.head\.", "sr_predictor.sr_predictor."),
    (r"^connector\.predictor\.", "sr_predictor."),
    (r"^(sr_predictor\..*\.)pos_conv_embed\.conv\.", r"\1pos_conv.0."),
    (r"^(sr_predictor\..*)\.parametrizations\.weight\.original0$", r"\1.weight_g"),
    (r"^(sr_predictor\..*)\.parametrizations\.weight\.original1$", r"\1.weight_v"),
    (r"^(sr_predictor\..*\.\d+)\.attention\.", r"\1.self_attn."),
    (r"^(sr_predictor\..*\.\d+)\.layer_norm\.", r"\1.self_attn_layer_norm."),
    (r"^(sr_predictor\..*\.\d+)\.feed_forward\.intermediate_dense\.", r"\1.fc1."),
    (r"^(sr_predictor\..*\.\d+)\.feed_forward\.output_dense\.", r"\1.fc2."),
    (r"^video_encoder\.", "avhubert.w2v_model."),
    (r"^language_model\.(.+)\.lora\.down\.weight$", r"llama.\1.lora_A.default.weight"),
    (r"^language_model\.(.+)\.lora\.up\.weight$", r"llama.\1.lora_B.default.weight"),
]


@dataclass(frozen=True)
class Sources:
    """What a checkpoint of MMS-LLaMA needs besides itself.

    Attributes:
        language_model, audio_encoder, video_encoder: hub ids or folders of its frozen backbones.
        speech_rate: the checkpoint of its speech-rate predictor.
        lora_scale: factor of the language model's low-rank updates; ``None``: that of the file's settings.
    """

    language_model: str
    audio_encoder: str
    video_encoder: str
    speech_rate: Path
    lora_scale: float | None = None

    def __post_init__(self) -> None:
        check_scale(self.lora_scale)


def convert(checkpoint: Path, out: Path, sources: Sources) -> Account:
    """Convert a checkpoint to a new folder that :func:`mome.load` reads.

    Returns:
        An account of the tensors of the checkpoint and of the predictor's.

    Raises:
        MomeError: a file is missing, unsafe or of another system, the backbones do not fit it, or ``out`` exists or
            cannot be written; nothing is written then.
    """
    check_free(out)
    content, source = read_checkpoint(checkpoint), str(checkpoint)
    state = _state(content, _QUERIES, f"{source} is not a checkpoint of MMS-LLaMA")
    state |= _predictor(sources.speech_rate)
    try:
        settings = flat_settings(plain(content.get("cfg")))
    except RecursionError as error:
        raise MomeError(f"{source}: its settings are nested without end") from error
    tokenizer = load_tokenizer(sources.language_model)
    if None in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        raise MomeError(f"the tokenizer of {sources.language_model} has no start or end token: give Llama's")
    prepare_padding(tokenizer)
    config, notes = read_config(state, settings, sources, source)
    config.start_ids = [tokenizer.bos_token_id, *tokenizer(INSTRUCTION, add_special_tokens=False).input_ids]
    config.check_options()
    weights, unused = fit(config, state, source)
    notes.append("the language model was trained in 4 bits, and is used as it is: quantization_config of mome.load")
    llm, (rates, *_) = config.text_config, config.rate_set.rates()
    tokens = config.connector_config.tokens(rates, 0, FRAME_RATE).fused
    title = (
        f"MMS-LLaMA: {tokens} or more tokens a second, language model of {llm.num_hidden_layers} layers of width "
        f"{llm.hidden_size}"
    )
    account = Account.of(title, weights.values(), unused, notes, LICENSE)
    extractor = whisper_extractor(config.audio_config, do_normalize=False)
    processor = MomeProcessor.for_config(config, tokenizer, extractor)
    processor.bos_taught = True
    with new_folder(out) as folder:
        save_weights(weights, folder)
        config.architectures = [MomeForSpeechRecognition.__name__]
        config.save_pretrained(folder)
        processor.save_pretrained(folder)
        card = fill_card(CARD, checkpoint, account, kind="mms-llama", source=SOURCE)
        (folder / "README.md").write_text(card, encoding="utf-8")
    return account


def _state(content: Mapping[Any, Any], mark: str, complaint: str) -> dict[str, Tensor]:
    """The weights of a fairseq checkpoint, of which one name ends in ``mark``."""
    state = content.get("model", content)
    named = isinstance(state, Mapping) and all(isinstance(key, str) for key in state)
    if not named or not any(key.endswith(mark) for key in state):
        raise MomeError(f"{complaint}: it has no {mark}")
    return dict(state)


def _predictor(path: Path) -> dict[str, Tensor]:
    """The weights of a speech-rate predictor, below ``sr_predictor.`` whatever its file calls it."""
    state = _state(read_checkpoint(path), _TOKEN, f"{path} is not a checkpoint of MMS-LLaMA's speech-rate predictor")
    prefix = next(key for key in state if key.endswith(_TOKEN)).removesuffix(_TOKEN)
    return {f"sr_predictor.{key.removeprefix(prefix)}": value for key, value in state.items()}


def read_config(
    state: Mapping[str, Tensor], settings: Mapping[str, Any], sources: Sources, source: str
) -> tuple[MomeConfig, list[str]]:
    """Read the recogniser's configuration, except for its token ids.

    Args:
        state: tensors by their published names.
        settings: of the published model, flat.
        sources: the backbones.
        source: what messages call the checkpoint.

    Returns:
        The configuration, and lines on assumptions.

    Raises:
        MomeError: the model is of a kind that the package does not have, or its sizes are unknown.
    """
    for key, needed in NEEDED_SETTINGS.items():
        if settings.get(key, needed) != needed:
            raise MomeError(f"{source} was made with {key}={settings[key]}; only {key}={needed} is supported")
    queries, hidden = (read_size(state, (_QUERIES, 3, axis)) or 0 for axis in (1, 2))
    per_second = queries // (2 * LONGEST)
    given = settings.get("queries_per_sec", per_second)
    if not per_second or not hidden or given != per_second:
        raise MomeError(f"{source} has {queries} queries of width {hidden}, which does not fit {given} a second")
    rank = read_size(state, (r"llama\..+\.lora_A\.default\.weight", 2, 0))
    if rank is None:
        raise MomeError(f"{source} does not show the rank of its LoRA: it has no lora_A.default.weight")
    scale, notes = sources.lora_scale, []
    alpha = settings.get("lora_alpha")
    if scale is None and isinstance(alpha, int | float) and alpha > 0:
        scale = alpha / rank
    if scale is None:
        scale = LORA_SCALE
        notes.append(f"the file does not show the factor of its LoRA, so assumed: {LORA_SCALE} (--lora-scale)")
    layers = count_modules(int(match[1]) for match in map(_LAYER.fullmatch, state) if match)
    connector = {
        "type": "qformer",
        "queries_per_second": per_second,
        "longest": LONGEST,
        "hidden": hidden,
        "layers": layers,
        "heads": HEADS,
        "inner": read_size(state, (_INNER + "weight", 2, 0), (_INNER + "bias", 1, 0)) or 4 * hidden,
    }
    targets = dict.fromkeys(match[1] for match in map(_LORA.fullmatch, state) if match)
    lora = {"type": "lora", "bottleneck": rank, "scale": scale, "targets": list(targets), "dropout": LORA_DROPOUT}
    types = {"audio_encoder": "whisper", "video_encoder": "avhubert", "language_model": None}
    parts = {kind: named_config(kind, getattr(sources, kind), types[kind]) for kind in BACKBONES}
    for part in parts.values():
        part.name_or_path = ""
    places: dict[str, Any] = {kind: getattr(sources, kind) for kind in BACKBONES}
    for kind, place in places.items():  # a relative path would be wrong after the folder is moved
        if (folder := local_folder(place)) is not None:
            places[kind] = str(folder.resolve())
    config = MomeConfig(
        audio_config=parts["audio_encoder"],
        video_config=parts["video_encoder"],
        text_config=parts["language_model"],
        **places,
        **RATES,
        connector=connector,
        adapter=lora,
        video_statistics=any(key.endswith(STATISTICS) for key in state),
        tasks=["avsr"],
        prompts={"avsr": ""},
        prompt_ids={"avsr": []},
        generation={"num_beams": BEAMS},
    )
    return config, notes


def fit(config: MomeConfig, state: Mapping[str, Tensor], source: str) -> tuple[dict[str, Tensor], list[Unused]]:
    """Name the checkpoint's tensors as the model does; return them, and the tensors that the model does not need.

    Raises:
        MomeError: names, shapes or types differ from the model's.
    """
    with torch.device("meta"):
        expected = MomeForSpeechRecognition(config).trained_state_dict()
    published = {key: published_name(key) for key in expected}
    reasons = {key: why for why, names in _UNUSED.items() for key in filter(re.compile(names).fullmatch, state)}
    weights = {key: state[name] for key, name in published.items() if name in state}
    known = reasons.keys() | published.values()
    weights |= {key: value for key, value in state.items() if key not in known}
    what = f"{source} does not fit the model that it and its backbones describe"
    weights = checked(weights, expected, what, lambda key: published.get(key, key))
    groups = Counter((key.partition(".")[0], why) for key, why in reasons.items())
    return weights, [Unused(f"{part}.*", count, why) for (part, why), count in groups.items()]


def published_name(key: str) -> str:
    """The published name of a tensor of this package."""
    for ours, theirs in _NAMES:
        key = re.sub(ours, theirs, key)
    return key
