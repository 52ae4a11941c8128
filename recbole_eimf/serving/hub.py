"""Models on the Hugging Face hub (extra [hub]): folders, uploaded and fetched as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole_eimf.core.errors import DataError
from recbole_eimf.core.parts import require


def fetched(repository: str, revision: str | None, **options: Any) -> Path:
    """A local copy of a model; a folder of that name is taken as it is.

    Raises:
        MissingPartError: huggingface_hub is not installed. DataError: no such model, or the hub cannot be reached.
    """
    if Path(repository).is_dir():
        return Path(repository)
    require("huggingface_hub")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, revision=revision, **options))
    except Exception as error:  # its HTTP library's errors among them, which are not its own
        raise DataError(f"{repository}: no folder here, and not fetched from the hub ({error}).") from error


def pushed(folder: Path, repository: str, private: bool, **options: Any) -> str:
    """Upload a model folder; returns its address. The token is huggingface_hub's own affair (HF_TOKEN, or a login).

    Raises:
        MissingPartError: huggingface_hub is not installed. DataError: the hub refuses, or cannot be reached.
    """
    require("huggingface_hub")
    from huggingface_hub import HfApi

    hub = HfApi()
    try:
        address = hub.create_repo(repository, private=private, exist_ok=True)
        hub.upload_folder(repo_id=repository, folder_path=folder, **options)
    except Exception as error:
        raise DataError(f"{repository}: not uploaded to the hub ({error}).") from error
    return str(address)
