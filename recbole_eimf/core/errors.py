"""Errors that a user can act on.

Every message names the place (file, line, column or configuration key), the bad value and the remedy. The command
line prints them without a traceback; as exceptions they are ordinary ``ValueError`` s.
"""

from __future__ import annotations

import difflib
import importlib
import os
import pkgutil
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType


class UserError(ValueError):
    """Bad input: the message names the place, the value and the remedy."""


class ConfigError(UserError):
    """A configuration key that is unknown, or has a value that is not allowed.

    ``key``: the key whose value it is, where one key is to blame.
    """

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


def blamed_key(error: UserError) -> str | None:
    """The configuration key whose value an error is about, as it carries it or its message begins with it.

    >>> blamed_key(ConfigError("epochs=-1: allowed is ...")), blamed_key(ConfigError("no such file"))
    ('epochs', None)
    """
    named = re.match(r"(\w+)=", str(error))
    return getattr(error, "key", None) or (named[1] if named else None)


class DataError(UserError):
    """A data file that is missing, broken or does not fit the others."""


class DiskError(UserError):
    """A folder or disk that takes no file."""


class InterestSourceError(UserError):
    """An interest source (LLM endpoint, reply file) that cannot deliver."""


#: said of an empty value
EMPTY = "no value (a variable of the shell that is not set?). Give one, or leave the option out."


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest known word, or ``""``.

    >>> suggestion("preferense", ["preference", "damping"])
    " Did you mean 'preference'?"
    >>> suggestion("zzz", ["preference"])
    ''
    """
    spelt = {each.lower(): each for each in map(str, known)}
    close = difflib.get_close_matches(str(word).lower(), spelt, n=1, cutoff=0.7)
    return f" Did you mean '{spelt[close[0]]}'?" if close else ""


def near_module(error: ImportError) -> str:
    """The :func:`suggestion` of a module in the package of the one that is missing, or ``""``.

    >>> near_module(ModuleNotFoundError(name="recbole_eimf.core.erors"))
    " Did you mean 'recbole_eimf.core.errors'?"
    """
    package, _, missing = (error.name or "").rpartition(".")
    folders = getattr(sys.modules.get(package), "__path__", None)
    if not isinstance(error, ModuleNotFoundError) or folders is None:
        return ""
    near = suggestion(missing, (module.name for module in pkgutil.iter_modules(folders)))
    return near.replace("'", f"'{package}.", 1)


def imported(key: str, path: str) -> ModuleType:
    """The module of ``package.module:Name``, which a user has given as the value of ``key``.

    Raises:
        ConfigError: there is none of that name, or it fails while it is imported, with where in the user's own file.
    """
    module = path.partition(":")[0]
    said = f"{key}={path}: "
    if {"/", "\\"} & {*module} or module.endswith(".py"):
        dotted = ".".join(part for part in module.removesuffix(".py").replace("\\", "/").split("/") if part.strip("."))
        raise ConfigError(f"{said}{module} is a file. Give it as it is imported, {dotted}:{path.partition(':')[2]}.")
    if not module or module.startswith("."):
        raise ConfigError(f"{said}cannot import {module or 'a module without a name'}. Give package.module:Name.")
    try:
        return importlib.import_module(module)
    except ImportError as error:
        near = near_module(error)
        if isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]:
            near = (
                " Start `python -m recbole_eimf` in the folder that holds it, or name that folder in the environment "
                "variable PYTHONPATH."
            )
        raise ConfigError(f"{said}cannot import {module} ({error}).{near}") from error
    except (Exception, SystemExit) as error:  # a script without a guard ends the program
        raise ConfigError(f"{said}importing {module} raised {raised(error)}") from error


def raised(error: BaseException) -> str:
    """What an error of a user's own code is, and where: ``KeyError: 'beta' (mine/net.py, line 3)``.

    The place is the deepest one that is neither Python's nor of an installed package nor ours; a syntax error says its
    own.
    """
    words = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    installed = (sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    others = (*installed, f"{Path(__file__).parents[1]}{os.sep}", "<")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(others)]
    if not frames or isinstance(error, SyntaxError):
        return words
    return f"{words} ({_near_path(frames[-1].filename)}, line {frames[-1].lineno})"


def _near_path(path: str) -> str:
    """A path as it is called from the working folder, where it lies below it."""
    near = os.path.relpath(path) if os.path.splitdrive(path)[0] == os.path.splitdrive(os.getcwd())[0] else path
    return path if near.startswith(os.pardir) else near


def counted(number: int, thing: str) -> str:
    """A number of things.

    >>> counted(1, "item"), counted(2000, "user")
    ('1 item', '2,000 users')
    """
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def closest_first(word: str, known: Iterable[str]) -> list[str]:
    """Return the known words, those that are like ``word`` first, the closest at the front.

    >>> closest_first("placebo", ["SASRec", "EIMF", "placebo[SASRec]"])
    ['placebo[SASRec]', 'SASRec', 'EIMF']
    """
    words = list(known)
    close = difflib.get_close_matches(word, words, n=len(words) or 1)
    within = [each for each in words if word and word.lower() in each.lower()]
    return list(dict.fromkeys([*close, *within, *words]))
