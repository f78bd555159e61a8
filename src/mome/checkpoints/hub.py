"""The Hugging Face hub: only the files that are needed, and one line that says what to do where it refuses.

Downloads are ``huggingface_hub``'s: a transfer that breaks is taken up where it broke, and files that arrived are kept
for the next call. Where the hub cannot be asked (``HF_HUB_OFFLINE``, no network), its cache answers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, get_cached_repo_tree, is_offline_mode, snapshot_download
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # of the HTTP library, whichever the hub's client uses
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import filter_repo_objects, tqdm

from mome.checkpoints.settings import shards
from mome.config import MomeConfig
from mome.config.fields import BACKBONES
from mome.errors import MomeError

SITE = "https://huggingface.co"
LOGIN = "log in with 'hf auth login' or set HF_TOKEN"

# Of tokenizers, whichever files theirs has.
TOKENIZER: tuple[str, ...] = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
)
# What the processor's, tokenizer's and model's save_pretrained write, and the model card.
CHECKPOINT_FILES: tuple[str, ...] = (
    "config.json",
    "model.safetensors",
    "README.md",
    "NOTICE.md",
    *("processor_config.json", "preprocessor_config.json", "chat_template.jinja"),
    *TOKENIZER,
    *(f"{part}/*.{kind}" for part in BACKBONES for kind in ("json", "safetensors", "md", "txt", "jinja", "model")),
)
# Of a backbone: first what is small, then one of these sets of weights, in Transformers' order.
_SINGLE = ("model.safetensors", "pytorch_model.bin")
_INDICES = {name: f"{name}.index.json" for name in _SINGLE}
_SETTINGS = ("config.json", "generation_config.json", *_INDICES.values())

_ERRORS = (HTTPError, HFValidationError, OSError)


class _NoBar(tqdm):
    """Progress of what is too small to show."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **{**options, "disable": True})


@dataclass(frozen=True)
class Repository:
    """A model on the hub, and how it is asked for.

    Attributes:
        name: ``owner/name``.
        label: what a message calls it, such as ``the language model owner/name``.
        revision: branch, tag or commit; ``None`` is the main branch.
        options: ``token``, ``cache_dir`` and ``local_files_only`` of the hub's own functions.
        remedy: what to do where there is no such model, instead of the general advice.
    """

    name: str
    label: str
    revision: str | None
    options: dict[str, Any]
    remedy: str | None = None

    def checkpoint(self) -> Path:
        """The local folder of a recogniser, downloaded as far as it is not there.

        Raises:
            MomeError: it is not to be had, or the repository is of another kind.
        """
        folder = self._fetch(["config.json"], self.revision, quiet=True)
        if not (folder / "config.json").is_file():
            raise MomeError(f"{self.label} is not a speech recogniser of this package: it has no config.json")
        try:
            kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
        except (OSError, ValueError, AttributeError):
            return folder  # whoever reads it will say so
        if kind != MomeConfig.model_type:
            raise MomeError(f"{self.label} is of type {kind}, not a speech recogniser of this package")
        return self._completed(folder, filter_repo_objects(self._files(folder), allow_patterns=list(CHECKPOINT_FILES)))

    def backbone_settings(self) -> Path:
        """The local folder of a backbone's configuration; nothing large is downloaded.

        Raises:
            MomeError: it is not to be had.
        """
        return self._fetch(_SETTINGS, self.revision, quiet=True)

    def preprocessing(self, files: Collection[str]) -> Path:
        """The local folder of a backbone's configuration and those of ``files`` that it has, at least one.

        Raises:
            MomeError: they are not to be had.
        """
        folder = self._fetch(("config.json", *files), self.revision, quiet=True)
        if not any((folder / file).is_file() for file in files):
            raise MomeError(f"{self.label} is not in its repository") if self._is_listed(folder) else self._absent()
        return folder

    def backbone(self) -> Path:
        """The local folder of a backbone and its weights, downloaded as far as they are not there.

        Raises:
            MomeError: they are not to be had.
        """
        folder = self.backbone_settings()
        there = self._files(folder)
        for single, index in _INDICES.items():
            if single in there:
                return self._completed(folder, [single])
            if (folder / index).is_file():
                return self._completed(folder, shards(folder / index))
        if self._is_listed(folder):
            raise MomeError(f"{self.label} has no weights in its repository, neither {' nor '.join(_SINGLE)}")
        raise self._absent()

    def explain(self, error: BaseException) -> MomeError:
        """One line for whatever the hub's functions raised."""
        for cause in _causes(error):
            if isinstance(cause, GatedRepoError):
                return MomeError(
                    f"{self.label} is gated: accept its licence at {SITE}/{self.name}, then {LOGIN} of the same account"
                )
            if isinstance(cause, RepositoryNotFoundError | HFValidationError):
                remedy = self.remedy or f"correct the name or, if it is private, {LOGIN}"
                return MomeError(f"{self.label} is neither a folder here nor to be had from the hub: {remedy}")
            if isinstance(cause, RevisionNotFoundError):
                return MomeError(
                    f"{self.label} has no revision {self.revision or 'main'}: see {SITE}/{self.name}/commits/main"
                )
            if isinstance(cause, DisabledRepoError):
                return MomeError(f"{self.label} was disabled on the hub: see {SITE}/{self.name}")
            if isinstance(cause, LocalTokenNotFoundError):
                return MomeError(f"{self.label} was asked for with token=True, but you are not logged in: {LOGIN}")
            if isinstance(cause, HfHubHTTPError):
                return MomeError(f"{self.label} cannot be downloaded: {_refusal(cause)}")
        if any(isinstance(cause, LocalEntryNotFoundError | OfflineModeIsEnabled) for cause in _causes(error)):
            return self._absent()
        if isinstance(error, HTTPError):
            return MomeError(
                f"the download of {self.label} broke off ({_first_line(error)}): try again, complete files are kept"
            )
        reason = getattr(error, "strerror", None) or _first_line(error)
        return MomeError(f"{self.label} cannot be downloaded to {self._cache()}: {reason}")

    def _fetch(self, files: Collection[str], revision: str | None, quiet: bool = False) -> Path:
        options = {**self.options, "tqdm_class": _NoBar} if quiet else self.options
        try:
            return Path(snapshot_download(self.name, revision=revision, allow_patterns=list(files), **options))
        except _ERRORS as error:
            raise self.explain(error) from error

    def _completed(self, folder: Path, files: Iterable[str]) -> Path:
        """The folder of one commit once it has these files."""
        missing = [file for file in files if not (folder / file).is_file()]
        if missing and not all((self._fetch(missing, folder.name) / file).is_file() for file in missing):
            raise self._absent()
        return folder

    def _absent(self) -> MomeError:
        """Nobody can be asked, and the cache has it not."""
        if is_offline_mode():
            why, remedy = "HF_HUB_OFFLINE is set", "unset it once to download it, or give a folder"
        elif self.options.get("local_files_only"):
            why, remedy = "local_files_only forbids the network", "leave it out once to download it, or give a folder"
        else:
            why, remedy = "the hub cannot be reached", "check the network, or give a folder"
        remedy = self.remedy or remedy
        return MomeError(f"{self.label} is no folder here nor complete in the hub's cache, and {why}: {remedy}")

    def _cache(self) -> Path:
        return Path(self.options.get("cache_dir") or constants.HF_HUB_CACHE)

    def _is_listed(self, folder: Path) -> bool:
        try:
            get_cached_repo_tree(self.name, revision=folder.name, cache_dir=self.options.get("cache_dir"))
        except CachedRepoTreeNotFoundError:
            return False
        return True

    def _files(self, folder: Path) -> set[str]:
        """What the repository holds; where only its cached files are known, as of other programs' caches, those."""
        if not self._is_listed(folder):
            return {path.name for path in folder.iterdir()}
        tree = get_cached_repo_tree(self.name, revision=folder.name, cache_dir=self.options.get("cache_dir"))
        return {file.path for file in tree}


def could_be_id(name: str) -> bool:
    """Whether a name that is no folder could be the hub's ``owner/name``, or ``name`` of the hub's first models."""
    path = Path(name)
    return (
        not os.path.exists(name) and not path.is_absolute() and not name.startswith((".", "~")) and len(path.parts) <= 2
    )


def upload(
    folder: Path,
    repo: str,
    *,
    message: str,
    description: str | None = None,
    token: str | bool | None = None,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> str:
    """Upload a recogniser's files, whatever else lies in its folder, and return the address of the commit.

    Args:
        folder: a model folder.
        repo: ``owner/name``, or ``name`` of one's own; made if it is not there.
        message: of the commit.
        description: of the commit.
        token: instead of the login's.
        private: whether a new repository is private.
        revision: the branch, made if it is not there.
        create_pr: propose the commit instead.

    Raises:
        MomeError: the hub refuses or cannot be reached.
    """
    api = HfApi(token=token)
    try:
        repo_id = api.create_repo(repo, exist_ok=True, private=private).repo_id
        if revision is not None and not create_pr and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            allow_patterns=list(CHECKPOINT_FILES),
            commit_message=message,
            commit_description=description,
            revision=revision,
            create_pr=create_pr,
        )
    except _ERRORS as error:
        raise MomeError(f"{repo} cannot be written on the hub: {_why_not_written(error)}") from error
    return str(commit)


def _why_not_written(error: BaseException) -> str:
    for cause in _causes(error):
        if isinstance(cause, OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE is set: unset it to upload"
        if isinstance(cause, LocalTokenNotFoundError):
            return f"you are not logged in: {LOGIN}"
        if isinstance(cause, HFValidationError):
            return "it is no possible name: give owner/name"
        if isinstance(cause, HfHubHTTPError):
            if cause.response.status_code in (401, 403, 404):
                return f"your login does not allow it ({cause.response.status_code}): {LOGIN} of a token that may write"
            return _refusal(cause)
    if isinstance(error, HTTPError):
        return f"it cannot be reached ({_first_line(error)}): check the network"
    return _first_line(error)


def _refusal(error: HfHubHTTPError) -> str:
    status = error.response.status_code
    if status in (401, 403):
        return f"the hub refuses your login ({status}): {LOGIN} anew"
    if status == 429:
        return "the hub had too many requests from here: try again later, or log in with 'hf auth login'"
    if status >= 500:
        return f"the hub is out of order ({status}): try again later"
    return f"the hub answers {error.server_message or _first_line(error)}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it was raised from, so far as it was."""
    while error is not None:
        yield error
        error = error.__cause__


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
