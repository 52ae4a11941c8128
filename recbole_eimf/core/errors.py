"""Errors that a user can act on.

Every message names the place (file, line, column or configuration key), the bad value and the remedy. The command
line prints them without a traceback; as exceptions they are ordinary ``ValueError`` s.
"""

from __future__ import annotations

import difflib
import pkgutil
import sys
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input: the message names the place, the value and the remedy."""


class ConfigError(UserError):
    """A configuration key that is unknown, or has a value that is not allowed.

    ``key``: the key whose value it is, where one key is to blame.
    """

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


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
