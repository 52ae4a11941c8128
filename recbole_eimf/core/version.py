"""Which recbole_eimf this is, and what it runs with."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__version__ = "0.2.0.dev0"

_CHECKOUT = Path(__file__).resolve().parents[2]


@cache
def made_with() -> dict[str, str]:
    """What a figure was made with besides its settings: our version, the commit of a git checkout (``-dirty`` if its
    files were changed), Python, and the packages that compute."""
    found = {"recbole_eimf": __version__}
    if commit := _commit():
        found["commit"] = commit
    found["Python"] = platform.python_version()
    for package in ("recbole", "torch", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # copied onto the path
            continue
    return found


def _commit() -> str | None:
    if not (_CHECKOUT / ".git").exists():  # installed: a repository around it is another project's
        return None
    command = ["git", "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
    try:
        asked = subprocess.run(command, cwd=_CHECKOUT, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):  # no git, or not allowed to look
        return None
    return asked.stdout.strip() or None
