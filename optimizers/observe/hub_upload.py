"""Uploads a folder of exported weights to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from sgt_modules.errors import SetupError
from sgt_modules.saving.redaction import redact


def check_repo(repo: str) -> str:
    """Return a hub id, `owner/name`; raise `SetupError` for one that the hub's client does not take.

    >>> check_repo("me/notes-for-sql")
    'me/notes-for-sql'
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as problem:
        raise SetupError(f"Expected --repo as owner/name on the hub, got {repo!r}: {problem}") from problem
    if "/" not in repo:
        raise SetupError(f"Expected --repo as owner/name on the hub, got {repo!r}. Write your-account/{repo}.")
    return repo


def upload_weights(folder: Path, repo: str, *, public: bool = False) -> str:
    """Upload all files of a folder as one commit to the model repository `repo`, and return its address.

    The repository is made if it is missing, private unless `public`. The token is that of `hf auth login` or
    `HF_TOKEN`; another hub is named by `HF_ENDPOINT`.

    Raises:
        SetupError: the hub refuses (no token, no right to write there, too many requests), fails, or cannot be reached.
    """
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    api = HfApi()
    later = f"Upload later with hf upload {repo} {folder}{'' if public else ' --private'}."
    try:
        made = api.create_repo(repo, private=not public, exist_ok=True)
        api.upload_folder(repo_id=made.repo_id, folder_path=folder, commit_message="Weights and their model card")
    except OfflineModeIsEnabled:
        raise SetupError(
            f"Expected a hub for {repo!r}, but HF_HUB_OFFLINE forbids it. Unset it to upload. The weights are in "
            f"{folder}."
        ) from None
    except HfHubHTTPError as error:
        raise SetupError(
            f"The hub at {api.endpoint} does not take weights for {repo!r}: {redact(_first_line(error))}"
            f"{_advise(error.response.status_code, later)} The weights are in {folder}."
        ) from error
    except httpx.HTTPError as error:
        raise SetupError(
            f"The hub at {api.endpoint} cannot be reached: {redact(_first_line(error))} {later}"
        ) from error
    return str(made)


def _advise(status: int, later: str) -> str:
    """What to do about an HTTP status of the hub; empty where neither a log-in nor time helps.

    >>> _advise(503, "Upload later."), _advise(400, "Upload later.")
    (' Upload later.', '')
    """
    if status in (401, 403, 404):  # 404 is also the answer for what the token may not see
        return " Log in with hf auth login or set HF_TOKEN to a token that may write there."
    return f" {later}" if status == 429 or status >= 500 else ""


def _first_line(error: Exception) -> str:
    line = next((each.strip() for each in str(error).splitlines() if each.strip()), type(error).__name__)
    return line if line.endswith(".") else f"{line}."
