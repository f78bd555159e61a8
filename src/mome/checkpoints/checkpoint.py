"""Checkpoints: the trained weights, and references to the frozen backbones or copies of them."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mome.adapters import adapter_modules, is_adapter_key
from mome.adapters.files import save_tensors
from mome.checkpoints.backbones import load_backbone
from mome.checkpoints.bits import EightBitLinear, quantization, quantize
from mome.checkpoints.folder import INSIDE, WEIGHTS, model_folder, part_folder, read_config, read_weights
from mome.checkpoints.names import CHECKPOINT_FILES
from mome.checkpoints.settings import blaming
from mome.checkpoints.source import is_hub_id
from mome.checkpoints.vocabulary import added_rows, vocabulary_weights
from mome.config import MomeConfig
from mome.config.fields import BACKBONES, Compatibility
from mome.encoders import AudioEncoder
from mome.encoders.avhubert import AVHubertModel
from mome.errors import MomeError, listed
from mome.files import set_default_permissions
from mome.hub import upload

Model = TypeVar("Model", bound="SavedModel")

STATISTICS = (".running_mean", ".running_var")
"""Ends of the names of a batch norm's running statistics."""

_HEAD_TOKENS, _HEAD_SCALE = "ctc.alignment.tokens", "ctc.alignment.log_scale"
_LARGEST_SCALE = 20  # a logarithm; scales of cosines are about 4
_WHAT = "a MoME speech recogniser"  # of an upload
_FROM_AUTO = ("_from_auto", "_commit_hash", "adapter_kwargs")  # keywords that Transformers' Auto classes add


class SavedModel(PreTrainedModel):
    """``save_pretrained`` and ``from_pretrained`` of the recogniser."""

    config: MomeConfig
    audio_encoder: AudioEncoder | None
    video_encoder: AVHubertModel | None
    language_model: PreTrainedModel
    merged: frozenset[str]
    """Backbones, of :data:`BACKBONES`, into which a LoRA was merged since they were loaded."""

    def trained_state_dict(self, state: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The tensors of a checkpoint: those that training changes, and those that are not in the backbones' files.

        These are the connector, the adapters, the CTC head and the unfrozen backbones; the rows added to the language
        model's vocabulary (``added_embeddings`` and, if the head is not tied, ``added_head``); and, with
        ``config.video_statistics``, the running statistics of the video encoder's batch norms.

        Args:
            state: a complete state dict to use instead of the model's own.
        """
        names: dict[int, str] = {}  # tied weights have the first of their names
        for key, value in self.state_dict(keep_vars=True).items():
            names.setdefault(id(value), key)
        state = self.state_dict() if state is None else state
        trained = {key: state[key] for key in names.values() if self._is_stored(key)}
        count = self.config.added_tokens
        if count and "language_model" not in self.config.unfrozen:
            weights = vocabulary_weights(self.language_model)
            trained |= {rows: state[names[id(weight)]][-count:] for rows, weight in weights.items()}
        return trained

    def _is_stored(self, key: str) -> bool:
        kind = key.partition(".")[0]
        if kind == "alignment":  # of training alone
            return False
        if kind not in BACKBONES or kind in self.config.unfrozen or is_adapter_key(key):
            return True
        return self.config.video_statistics and kind == "video_encoder" and key.endswith(STATISTICS)

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | os.PathLike[str],
        *,
        self_contained: bool = False,
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Write ``config.json`` and ``model.safetensors`` (trained weights), each to a temporary name first.

        Args:
            save_directory: a folder, created if it does not exist.
            self_contained: copy all backbones into sub-folders. A backbone that is nowhere else (loaded from a
                self-contained checkpoint, or initialised at random) is always copied. Needed after a LoRA was merged
                into a backbone.
            is_main_process: other processes of a distributed run write nothing.
            state_dict: weights to save instead of the model's own.
            push_to_hub: upload the folder's files afterwards, the processor's included if they are there.
            kwargs: ``repo_id`` (the folder's name by default) and the upload options of :meth:`push_to_hub`.

        Raises:
            MomeError: a LoRA was merged into a backbone that is not copied; the language model was loaded with weights
                of 8 bits, or is to be copied and has weights of bitsandbytes; with ``push_to_hub``, a backbone is in a
                local folder and not copied, or the upload fails.
        """
        if not is_main_process:
            return
        if any(isinstance(module, EightBitLinear) for module in self.language_model.modules()):
            raise MomeError(
                "the language model has weights of 8 bits, which are not saved: load it without language_model_dtype"
            )
        copied = self_contained or _is_nowhere_else(self.config.language_model)
        if copied and getattr(self.language_model, "is_quantized", False):
            raise MomeError("the language model has fewer bits, which are not copied: save with self_contained=False")
        self._check_adapters(self_contained)
        if push_to_hub and not self_contained:
            self._refuse_local_backbones()
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        trained = self.trained_state_dict(state_dict)
        config = type(self.config).from_dict(self.config.to_dict())
        config.architectures = [type(self).__name__]
        for kind, backbone in self._pretrained_parts().items():
            reference = getattr(config, kind)
            if self_contained or _is_nowhere_else(reference):
                backbone.save_pretrained(folder / kind, state_dict=_without_adapters(backbone))
                set_default_permissions(*(folder / kind).glob("*.safetensors"))
                setattr(config, kind, INSIDE + kind)
                setattr(config, f"{kind}_revision", None)
                setattr(config, f"{kind}_rounding", None)  # the copy holds rounded weights
            elif kind in config.unfrozen and isinstance(backbone, AVHubertModel):
                backbone.config.write_notice(folder)
        for part in (config.audio_config, config.video_config, config.text_config):
            if part is not None:
                part.name_or_path = ""  # the place it was loaded from may not exist elsewhere
        save_tensors(trained, folder / WEIGHTS, {"format": "pt"})
        config.save_pretrained(folder)
        if push_to_hub:
            upload(folder, kwargs.pop("repo_id", None) or folder.name, CHECKPOINT_FILES, what=_WHAT, **kwargs)

    def push_to_hub(self, repo_id: str, *, self_contained: bool = False, **kwargs: Any) -> str:  # type: ignore[override]
        """Upload ``config.json``, the trained weights and, if self-contained, the backbones.

        The processor must be uploaded too, by its own ``push_to_hub``. ``save_pretrained(folder, push_to_hub=True)``
        uploads a folder to which both were saved.

        Args:
            repo_id: ``owner/name``, or ``name`` for the user's own account; created if it does not exist.
            self_contained: as for :meth:`save_pretrained`.
            kwargs: ``commit_message``, ``commit_description``, ``token``, ``private``, ``revision`` and ``create_pr``,
                as for Transformers' models.

        Returns:
            The URL of the commit.

        Raises:
            MomeError: a backbone is in a local folder and not copied, or the upload fails.
        """
        with tempfile.TemporaryDirectory() as folder:
            if not self_contained:
                self._refuse_local_backbones()
            self.save_pretrained(folder, self_contained=self_contained)
            return upload(Path(folder), repo_id, CHECKPOINT_FILES, what=_WHAT, **kwargs)

    def _check_adapters(self, self_contained: bool) -> None:
        """Raise :class:`MomeError` if a checkpoint would lack the model's adapters or merged weights."""
        parts = self._pretrained_parts()
        for kind, option in (("language_model", "adapter"), ("video_encoder", "video_adapter")):
            part, reference = kind.replace("_", " "), getattr(self.config, kind)
            if kind in parts and any(adapter_modules(parts[kind])) != (getattr(self.config, option) is not None):
                raise MomeError(
                    f"config.{option} does not say what is attached to the {part}: merge by the recogniser's own "
                    f"merge, and set config.{option} to what was attached afterwards"
                )
            if kind in self.merged and not (
                self_contained or _is_nowhere_else(reference) or kind in self.config.unfrozen
            ):
                raise MomeError(
                    f"the {option} was merged into the {part}, and {reference} is without it: "
                    "save with self_contained=True"
                )

    def has_backbone(self, kind: str) -> bool:
        """Whether the model has this pre-trained part."""
        return kind in self._pretrained_parts()

    def check_backbone(self, kind: str, backbone: PreTrainedModel, source: object) -> None:
        """Raise :class:`MomeError` if a loaded backbone has other names or shapes than planned."""
        planned = _without_adapters(self._pretrained_parts()[kind])
        loaded = backbone.state_dict()
        grown = {key for key in loaded if "embed" in key or "head" in key} if self.config.added_tokens else set()
        differing = sorted(planned.keys() ^ loaded.keys()) or [
            key
            for key, value in loaded.items()
            if value.shape[1:] != planned[key].shape[1:]
            or (value.shape[:1] != planned[key].shape[:1] and key not in grown)
        ]
        if differing:
            what = kind.replace("_", " ")
            raise MomeError(f"{source}/config.json describes another {what}: {listed(differing, 3)} differ in size")

    def _refuse_local_backbones(self) -> None:
        """Raise :class:`MomeError` if the configuration refers to a backbone in a local folder."""
        for kind in self._pretrained_parts():
            reference = getattr(self.config, kind) or INSIDE
            if not reference.startswith(INSIDE) and not is_hub_id(reference):
                raise MomeError(
                    f"the {kind.replace('_', ' ')} is in {reference}, which others do not have: upload with "
                    "self_contained=True, or refer to a model on the hub"
                )

    def _pretrained_parts(self) -> dict[str, PreTrainedModel]:
        parts: dict[str, PreTrainedModel] = {}
        if self.audio_encoder is not None:
            parts["audio_encoder"] = self.audio_encoder.encoder
        if self.video_encoder is not None:
            parts["video_encoder"] = self.video_encoder
        return parts | {"language_model": self.language_model}

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        config: MomeConfig | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        dtype: torch.dtype | str = torch.float32,
        device_map: str | int | torch.device | None = None,
        attn_implementation: str | None = None,
        quantization_config: Any = None,
        language_model_dtype: str | None = None,
        compat: Compatibility | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load a checkpoint and the backbones it refers to.

        Args:
            pretrained_model_name_or_path: a folder or a hub id.
            config: replaces the folder's configuration.
            revision: of the hub repository.
            token: for private and gated repositories, those of the backbones included.
            cache_dir: replaces the hub's usual cache.
            local_files_only: do not use the network.
            dtype: of all weights; ``"auto"`` is the one that the language model was saved in.
            device_map: the one device to load to, such as ``"cuda:0"``.
            attn_implementation: of the language model (``"sdpa"``, ``"flash_attention_2"``, …).
            quantization_config: of the language model, passed on to Transformers.
            language_model_dtype: ``"int8"`` or ``"int4"``, of the language model's linear layers instead, see
                :func:`mome.checkpoints.bits.quantization`.
            compat: replaces the configuration's. The processor needs the same (``MomeProcessor.from_folder``), as
                :func:`mome.load` gives it.
            kwargs: the keywords that the Auto classes add; no others are supported.

        Raises:
            MomeError: something is missing, or the weights do not fit the configuration.
            ValueError: a keyword or its value is not supported.
        """
        _refuse_unknown(kwargs)
        dtype, device = _dtype(dtype), _device(device_map)
        hub = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
        folder = model_folder(pretrained_model_name_or_path, revision, **hub)
        config = config or read_config(folder)
        if compat is not None:
            config.compat = compat
            config.check_options()
        weights = read_weights(folder)
        plan = _planned(cls, config, folder)
        _check_fit(plan.trained_state_dict(), weights, folder)
        in_place = False
        if language_model_dtype is not None:
            if quantization_config is not None:
                raise ValueError("quantization_config and language_model_dtype exclude each other: give one of them")
            quantization_config = quantization(language_model_dtype, device or torch.device("cpu"), dtype)
            in_place = quantization_config is None
        chosen = {"attn_implementation": attn_implementation, "quantization_config": quantization_config}
        options = {name: value for name, value in chosen.items() if value is not None}
        parts = _load_backbones(plan, config, folder, dtype, options, hub)
        if dtype == "auto":
            dtype = next(iter(parts.values())).dtype if parts else torch.get_default_dtype()
        model = cls(config, **parts).to(dtype=dtype)  # type: ignore[call-arg]
        model.load_trained(weights, folder)
        if in_place:
            quantize(model.language_model)
        return cast(Self, model.to(device=device).eval())

    def load_trained(self, state: dict[str, Tensor], source: object) -> None:
        """Load the tensors of :meth:`trained_state_dict`.

        Args:
            state: the tensors by name.
            source: what messages call the file or folder that they come from.

        Raises:
            MomeError: a tensor is missing, unknown, of another shape or not finite, or the CTC head's tokens are not in
                the vocabulary; nothing is loaded then.
        """
        _check_fit(self.trained_state_dict(), state, source)
        _check_head(state, self.config.text_config.vocab_size + self.config.added_tokens, source)
        rows = added_rows(self.language_model, self.config.added_tokens)
        self.load_state_dict(state, strict=False)
        for name in rows.keys() & state.keys():
            rows[name].copy_(state[name])


def _planned(kind: type[Model], config: MomeConfig, folder: Path) -> Model:
    """The model on the meta device: sizes from a damaged file could need any amount of memory."""
    with blaming(folder / "config.json", "describes no model that can be built"), torch.device("meta"):
        return kind(copy.deepcopy(config))


def _load_backbones(
    plan: SavedModel,
    config: MomeConfig,
    folder: Path,
    dtype: torch.dtype | str,
    options: Mapping[str, Any],
    hub: Mapping[str, Any],
) -> dict[str, PreTrainedModel]:
    """Load the backbones that a checkpoint refers to.

    Args:
        plan: the model on the meta device.
        config: the checkpoint's configuration.
        folder: the checkpoint.
        dtype: of the weights; ``"auto"`` is that of the language model's files. A backbone that is rounded to a
            coarser dtype may be returned in it.
        options: passed on to ``from_pretrained`` of the language model.
        hub: as for :func:`model_folder`.

    Raises:
        MomeError: a backbone is missing, damaged or of other sizes than planned.
    """
    parts: dict[str, PreTrainedModel] = {}
    for kind in reversed(BACKBONES):  # the language model first: "auto" is its dtype
        reference = getattr(config, kind)
        if reference is None:
            if plan.has_backbone(kind) and kind not in config.unfrozen:
                raise MomeError(
                    f"{folder}/config.json does not say where the {kind} is: add {kind}, a folder or hub id"
                )
            continue
        where = part_folder(folder, reference, kind) if reference.startswith(INSIDE) else reference
        revision, rounding = (getattr(config, f"{kind}_{of}") for of in ("revision", "rounding"))
        quantized = "quantization_config" in options
        exact = dtype == torch.float32 and not (kind == "language_model" and quantized)  # load in float32, then round
        first = dtype if rounding is None or exact else _dtype(rounding)
        parts[kind] = load_backbone(kind, where, revision, first, options, **hub)
        if not quantized:
            plan.check_backbone(kind, parts[kind], folder)
        if rounding is not None and exact:
            _round(parts[kind], getattr(torch, rounding))
        dtype = parts[kind].dtype if dtype == "auto" else dtype
    return parts


def _check_fit(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], source: object) -> None:
    problems = [f"missing {key}" for key in expected if key not in state]
    problems += [f"unknown {key}" for key in state if key not in expected]
    problems += [
        f"{key} is {tuple(state[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    if not problems:
        problems = [f"{key} holds numbers that are not finite" for key in state if not torch.isfinite(state[key]).all()]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise MomeError(f"the weights in {source} do not fit config.json: {'; '.join(problems[:3])}{more}")


def _check_head(state: Mapping[str, Tensor], vocabulary: int, source: object) -> None:
    tokens = state.get(_HEAD_TOKENS)
    if tokens is None:
        return
    ascending = tokens.dtype == torch.int64 and bool((tokens[1:] > tokens[:-1]).all())
    if not ascending or tokens[0] < 0 or tokens[-1] >= vocabulary:
        raise MomeError(f"the weights in {source} are damaged: {_HEAD_TOKENS} are not ascending ids of tokens")
    if state[_HEAD_SCALE] > _LARGEST_SCALE:
        raise MomeError(f"the weights in {source} are damaged: {_HEAD_SCALE} is too large")


def _refuse_unknown(keywords: dict[str, Any]) -> None:
    for name, value in keywords.items():
        if name == "torch_dtype":
            raise ValueError("torch_dtype is not supported: it is called dtype now")
        if name not in _FROM_AUTO and (name != "trust_remote_code" or value):
            raise ValueError(f"{name} is not supported when a recogniser is loaded: leave it out")


@torch.no_grad()
def _round(backbone: nn.Module, dtype: torch.dtype) -> None:
    """Round the state dict's tensors; buffers that are not saved, such as Gemma's factors, stay exact."""
    for value in backbone.state_dict().values():
        if value.is_floating_point():
            value.copy_(value.to(dtype))


def _dtype(dtype: torch.dtype | str) -> torch.dtype | str:
    found = getattr(torch, dtype, None) if isinstance(dtype, str) and dtype != "auto" else dtype
    if found != "auto" and not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise ValueError(
            f'dtype={dtype!r} is not supported: give a floating-point dtype of PyTorch, its name or "auto"'
        )
    return found


def _device(device_map: Any) -> torch.device | None:
    try:
        return None if device_map is None else torch.empty(0, device=device_map).device
    except (RuntimeError, TypeError, AssertionError):  # AssertionError: PyTorch was built without that device
        raise ValueError(f'device_map={device_map!r} is not supported: give one device, such as "cuda:0"') from None


def _is_nowhere_else(reference: str | None) -> bool:
    return reference is None or reference.startswith(INSIDE)


def _without_adapters(backbone: nn.Module) -> dict[str, Tensor]:
    return {k: v for k, v in backbone.state_dict().items() if not is_adapter_key(k)}
