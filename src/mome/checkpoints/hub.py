"""The Hugging Face hub: the files of a model, their upload, and one-line messages for the hub's errors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # that of the hub client's HTTP library
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)

from mome.config.fields import BACKBONES
from mome.errors import MomeError, in_one_line

SITE = "https://huggingface.co"
LOGIN = "log in with 'hf auth login' or set HF_TOKEN"
HUB_ERRORS = (HTTPError, HFValidationError, OSError)  # raised by huggingface_hub's functions

TOKENIZER_FILES: tuple[str, ...] = (  # of any tokenizer
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
)
# Written by save_pretrained of the processor, the tokenizer and the model, and the model card.
CHECKPOINT_FILES: tuple[str, ...] = (
    "config.json",
    "model.safetensors",
    "README.md",
    "NOTICE.md",
    *("processor_config.json", "preprocessor_config.json", "chat_template.jinja"),
    *TOKENIZER_FILES,
    *(f"{part}/*.{kind}" for part in BACKBONES for kind in ("json", "safetensors", "md", "txt", "jinja", "model")),
)


def upload(
    folder: Path,
    repo: str,
    *,
    commit_message: str | None = None,
    commit_description: str | None = None,
    token: str | bool | None = None,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    **others: Any,
) -> str:
    """Upload the files of a recogniser from its folder, no others, and return the URL of the commit.

    Args:
        folder: a model folder.
        repo: ``owner/name``, or ``name`` for the user's own account; created if it does not exist.
        commit_message, commit_description: of the commit.
        token: replaces the token of the login.
        private: whether a new repository is private.
        revision: the branch; created if it does not exist.
        create_pr: open a pull request instead of committing to the branch.
        others: further options of Transformers' ``push_to_hub``; ignored.

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
            commit_message=commit_message or "Upload a MoME speech recogniser",
            commit_description=commit_description,
            revision=revision,
            create_pr=create_pr,
        )
    except HUB_ERRORS as error:
        raise MomeError(f"{repo} cannot be written on the hub: {_why_not_written(error)}") from error
    return str(commit)


def _why_not_written(error: BaseException) -> str:
    for cause in causes(error):
        match cause:
            case OfflineModeIsEnabled():
                return "HF_HUB_OFFLINE is set: unset it to upload"
            case LocalTokenNotFoundError():
                return f"you are not logged in: {LOGIN}"
            case HFValidationError():
                return "the name is not possible: give owner/name"
            case HfHubHTTPError() if (status := cause.response.status_code) in (401, 403, 404):
                return f"your login does not allow it ({status}): {LOGIN} of a token that may write"
            case HfHubHTTPError():
                return refusal(cause)
    reason = in_one_line(error)
    return f"it cannot be reached ({reason}): check the network" if isinstance(error, HTTPError) else reason


def refusal(error: HfHubHTTPError) -> str:
    """Why the hub refused a request, and what to do."""
    status = error.response.status_code
    if status in (401, 403):
        return f"the hub refuses your login ({status}): {LOGIN} again"
    if status == 429:
        return "the hub had too many requests from here: try again later, or log in with 'hf auth login'"
    if status >= 500:
        return f"the hub is out of order ({status}): try again later"
    return f"the hub answers {error.server_message or in_one_line(error)}"


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and the chain of errors that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__
