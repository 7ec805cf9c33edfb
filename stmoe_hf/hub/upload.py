"""A folder to a repository of the Hub, as one commit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError


class HubError(OSError):
    """What went wrong with the Hub, and what to do."""


def upload(
    folder: Path,
    repo_id: str,
    message: str,
    *,
    sdk: str | None = None,
    private: bool = False,
    token: str | None = None,
) -> str:
    """Upload a folder: all of it, or nothing. A second call goes on where a broken one ended.

    Args:
        folder: whose files become those of the repository, which is made if there is none.
        repo_id: organisation/name.
        message: of the commit.
        sdk: of a Space; unset: the repository is a model.
        private: make a new repository private.
        token: that may write there; unset: the one that the Hub's client finds.

    Returns:
        The address of the repository.

    Raises:
        HubError: the Hub refused the token or the repository, or could not be reached; with what to do.
        ValueError: `repo_id` is no name of a repository.
    """
    api = HfApi(token=token)
    kind: Any = "model" if sdk is None else "space"
    try:
        api.create_repo(repo_id, repo_type=kind, space_sdk=sdk, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, repo_type=kind, folder_path=folder, commit_message=message)
    except HfHubHTTPError as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            text = f"the Hub refused to write to {repo_id}: give a token that may write there (`hf auth login`)"
        else:
            text = f"the Hub answered {status} to the upload to {repo_id}; nothing was published, try again"
        raise HubError(text) from None
    except ValueError:  # a repository that cannot be called so
        raise
    except Exception as error:  # of whatever HTTP library the client carries
        reason = type(error).__name__
        raise HubError(
            f"the Hub at {api.endpoint} could not be reached ({reason}); nothing was published, try again"
        ) from None
    return f"{api.endpoint}/{'' if sdk is None else 'spaces/'}{repo_id}"
