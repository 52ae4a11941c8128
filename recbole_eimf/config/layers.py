"""Where the shipped YAML files and prompt templates are."""

from __future__ import annotations

from pathlib import Path

from recbole_eimf.core.errors import DataError


def properties_folder() -> Path:
    """Return the folder that holds ``model/``, ``dataset/`` and ``prompts/``.

    An installed wheel carries it inside the package, a checkout (also an editable install) beside it.
    Raises DataError if neither exists, which is a broken installation.

    >>> (properties_folder() / "prompts" / "interests.txt").is_file()
    True
    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "properties", package.parent / "properties"):
        # a folder of that name without prompts is someone else's
        if (folder / "prompts").is_dir():
            return folder
    raise DataError(
        f"{package}: the shipped properties folder is neither in the package nor beside it. Install recbole_eimf again."
    )
