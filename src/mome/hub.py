"""The Hugging Face hub: uploads, and one-line messages for the hub's errors."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # that of the hub client's HTTP library
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from mome.errors import MomeError, in_one_line

SITE = "https://huggingface.co"
LOGIN = "log in with 'hf auth login' or set HF_TOKEN"
HUB_ERRORS = (HTTPError, HFValidationError, OSError)  # raised by huggingface_hub's functions


def upload(
    folder: Path,
    repo: str,
    files: Collection[str],
    *,
    what: str,
    commit_message: str | None = None,
    commit_description: str | None = None,
    token: str | bool | None = None,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    **others: Any,
) -> str:
    """Upload files from a folder, no others, and return the URL of the commit.

    Args:
        folder: where the files are.
        repo: ``owner/name``, or ``name`` for the user's own account; created if it does not exist.
        files: their names or patterns of them.
        what: what the files are, for the default message of the commit.
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
            allow_patterns=list(files),
            commit_message=commit_message or f"Upload {what}",
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


def why_not_read(error: BaseException) -> str:
    """Why a repository cannot be read, for an exception of ``huggingface_hub``, and what to do."""
    for cause in causes(error):
        match cause:
            case RepositoryNotFoundError() | RevisionNotFoundError() | HFValidationError():
                return f"there is no such repository or revision: correct the name or, if it is private, {LOGIN}"
            case HfHubHTTPError():
                return refusal(cause)
    return f"it cannot be reached ({in_one_line(error)}): check the network, or give a folder"
