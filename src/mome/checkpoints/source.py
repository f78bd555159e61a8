"""Resolve "a folder or a hub id" to a folder on this machine.

A hub id is first looked for in the folder that the variable ``MOME_BACKBONES`` names, as ``DIR/owner/name``; what is
there stands for every revision. Other files are downloaded by ``huggingface_hub``, which resumes broken transfers,
keeps complete files, and uses its cache when the hub cannot be reached (``HF_HUB_OFFLINE``, no network).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from huggingface_hub import constants, get_cached_repo_tree, is_offline_mode, snapshot_download
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import tqdm, validate_repo_id

from mome.checkpoints.bundled import BUNDLED, bundled_folder
from mome.checkpoints.settings import INDICES, is_folder, shards
from mome.config.fields import BACKBONES
from mome.errors import MomeError, in_one_line, shortened
from mome.hub import HUB_ERRORS, LOGIN, SITE, causes, refusal

FOLDER_VARIABLE = "MOME_BACKBONES"
SETTINGS = ("config.json", "generation_config.json", *INDICES.values())  # of a backbone


def local_folder(name: str | os.PathLike[str]) -> Path | None:
    """The folder of this name, or ``None``; ``mome-tiny`` and its parts (``mome-tiny/audio_encoder``) are known.

    Raises:
        MomeError: the bundled model is missing from the installation, or as :func:`offline_folder`.
    """
    first, _, part = str(name).partition("/")
    bundled = first in BUNDLED and part in ("", *BACKBONES)
    folder = bundled_folder(first) / part if bundled else Path(name)
    return folder if is_folder(folder) else offline_folder(str(name))


def offline_folder(name: str) -> Path | None:
    """The folder of a hub id inside that of ``MOME_BACKBONES``; ``None`` if it is not there or the variable not set.

    Raises:
        MomeError: the variable names no folder.
    """
    chosen = os.environ.get(FOLDER_VARIABLE)
    if not chosen or not is_hub_id(name):
        return None
    parent = Path(chosen).expanduser()
    if not is_folder(parent):
        raise MomeError(
            f"{FOLDER_VARIABLE} names {shortened(chosen, 120)}, which is not a folder: correct or unset it, "
            "or fill it with 'make backbones'"
        )
    folder = parent / name
    return folder if is_folder(folder) else None


def is_hub_id(name: str) -> bool:
    """Whether a name is a possible ``owner/name`` of the hub, and no file or folder here."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name and not os.path.exists(name)


@dataclass(frozen=True)
class Source:
    """A model in a folder or in a repository on the hub.

    Attributes:
        name: the folder, ``mome-tiny`` or a part of it, or ``owner/name``.
        what: what messages call the model, such as ``the language model owner/name``.
        revision: branch, tag or commit on the hub; ``None`` is the main branch.
        remedy: advice if there is no such model; replaces the general one.
        hub: ``token``, ``cache_dir`` and ``local_files_only``, passed on to ``huggingface_hub``.
    """

    name: str
    what: str
    revision: str | None = None
    remedy: str | None = None
    hub: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def folder(self) -> Path | None:
        """The folder, if it is on this machine; nothing is downloaded."""
        return local_folder(self.name)

    def settings(self, files: Collection[str] = SETTINGS) -> Path:
        """Download those of these small files that the model has, and return its folder.

        Raises:
            MomeError: there is no such model, or the hub refuses it or cannot be reached.
        """
        if self.folder is not None:
            return self.folder
        if not is_hub_id(self.name):
            remedy = self.remedy or "correct it"
            raise MomeError(f"{self.what} is neither a folder here nor a hub id such as owner/name: {remedy}")
        return self._fetch(files, self.revision, tqdm_class=partial(tqdm, disable=True))

    def preprocessing(self, files: Collection[str]) -> Path:
        """Download the configuration and those of ``files`` that the model has, and return its folder.

        Raises:
            MomeError: as :meth:`settings`, or the model has none of ``files``.
        """
        folder = self.settings(("config.json", *files))
        if not any((folder / file).is_file() for file in files):
            if self.folder is not None:
                raise MomeError(f"{self.what} is not in {folder}: copy or download it again")
            raise self._lacking(folder, "is not in its repository")
        return folder

    def complete(self, folder: Path, patterns: Collection[str]) -> Path:
        """Download the model's files of these patterns to the folder that :meth:`settings` gave, and return it.

        Raises:
            MomeError: a file cannot be downloaded.
        """
        if self.folder is None:
            self._add(folder, [file for file in self._listed(folder) or () if _matches(file, patterns)])
        return folder

    def weights(self, folder: Path) -> Path:
        """Download a backbone's weights to the folder that :meth:`settings` gave, and return it.

        Of several formats, Transformers' first choice is taken.

        Raises:
            MomeError: the model has no weights, or they cannot be downloaded.
        """
        if self.folder is not None:
            return folder
        listed = self._listed(folder)
        there = {path.name for path in folder.iterdir()} if listed is None else listed
        for single, index in INDICES.items():
            if single in there:
                return self._add(folder, [single])
            if (folder / index).is_file():
                return self._add(folder, shards(folder / index))
        raise self._lacking(folder, f"has no weights in its repository, neither {' nor '.join(INDICES)}")

    def _fetch(self, files: Collection[str], revision: str | None, **options: Any) -> Path:
        try:
            found = snapshot_download(
                self.name, revision=revision, allow_patterns=list(files), **{**self.hub, **options}
            )
        except HUB_ERRORS as error:
            raise self._explain(error) from error
        return Path(found)

    def _add(self, folder: Path, files: Collection[str]) -> Path:
        """Download these files of the folder's commit, if they are missing."""
        missing = [file for file in files if not (folder / file).is_file()]
        if missing:
            self._fetch(missing, revision=folder.name)
        if not all((folder / file).is_file() for file in missing):
            raise self._absent()
        return folder

    def _listed(self, folder: Path) -> set[str] | None:
        """The repository's files at this commit; ``None`` if the cache was filled by another program."""
        try:
            tree = get_cached_repo_tree(self.name, revision=folder.name, cache_dir=self.hub.get("cache_dir"))
        except CachedRepoTreeNotFoundError:
            return None
        return {file.path for file in tree}

    def _lacking(self, folder: Path, complaint: str) -> MomeError:
        return self._absent() if self._listed(folder) is None else MomeError(f"{self.what} {complaint}")

    def _absent(self) -> MomeError:
        """The error if the hub cannot be reached and its cache lacks the files."""
        if is_offline_mode():
            why, remedy = "HF_HUB_OFFLINE is set", "unset it once to download it"
        elif self.hub.get("local_files_only"):
            why, remedy = "local_files_only forbids the network", "leave it out once to download it"
        else:
            why, remedy = "the hub cannot be reached", "check the network"
        chosen = os.environ.get(FOLDER_VARIABLE)
        here = f"here or in {chosen}" if chosen else "here"
        remedy = self.remedy or (
            f"{remedy}, give a folder, or set {FOLDER_VARIABLE} to a folder that has it ('make backbones' fills one)"
        )
        return MomeError(f"{self.what} is neither a folder {here} nor complete in the hub's cache, and {why}: {remedy}")

    def _explain(self, error: BaseException) -> MomeError:
        """One line for an exception of ``huggingface_hub``."""
        for cause in causes(error):
            match cause:
                case GatedRepoError():
                    accept = f"accept its licence at {SITE}/{self.name}, then {LOGIN} of the same account"
                    return MomeError(f"{self.what} is gated: {accept}")
                case RepositoryNotFoundError() | HFValidationError():
                    remedy = self.remedy or f"correct the name or, if it is private, {LOGIN}"
                    return MomeError(f"{self.what} is neither a folder here nor found on the hub: {remedy}")
                case RevisionNotFoundError():
                    see = f"see {SITE}/{self.name}/commits/main"
                    return MomeError(f"{self.what} has no revision {self.revision or 'main'}: {see}")
                case LocalTokenNotFoundError():
                    return MomeError(
                        f"{self.what} cannot be downloaded with token=True, as you are not logged in: {LOGIN}"
                    )
                case HfHubHTTPError():
                    return MomeError(f"{self.what} cannot be downloaded: {refusal(cause)}")
        if any(isinstance(cause, LocalEntryNotFoundError | OfflineModeIsEnabled) for cause in causes(error)):
            return self._absent()
        reason = getattr(error, "strerror", None) or in_one_line(error)
        if isinstance(error, HTTPError):
            return MomeError(f"the download of {self.what} broke off ({reason}): try again, complete files are kept")
        cache = self.hub.get("cache_dir") or constants.HF_HUB_CACHE
        return MomeError(f"{self.what} cannot be downloaded to {cache}: {reason}")


def _matches(file: str, patterns: Collection[str]) -> bool:
    return any(fnmatch(file, pattern) for pattern in patterns)
