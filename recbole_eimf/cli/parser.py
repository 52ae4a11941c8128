"""argparse as the commands have it: complaints are errors of ours, nothing that was typed is dropped in silence."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from recbole_eimf.core.errors import EMPTY, ConfigError, suggestion


class _StoreOnce(argparse._StoreAction):
    """argparse's, of which the last one of several counts: half of somebody's files would be left out, unsaid."""

    def __call__(self, parser, namespace, values, option_string=None):
        seen = vars(namespace).setdefault(_SEEN, {})
        if self.option_strings and self.dest in seen and seen[self.dest] != values:
            several = " after one --" + self.dest.replace("_", "-") if self.nargs in ("+", "*") else ""
            remedy = f"Give all{several}" if several else "Keep one"
            raise ConfigError(
                f"{option_string} is given twice: {_shown(seen[self.dest])} and {_shown(values)}. {remedy}."
            )
        seen[self.dest] = values
        super().__call__(parser, namespace, values, option_string)


#: where a namespace notes what has been given, while arguments are read
_SEEN = "_seen"


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else repr(value)


class Parser(argparse.ArgumentParser):
    """argparse whose errors are the user's: no usage on stderr, the exit code is the caller's.

    Every option may be written with dashes or with underscores.

    Args:
        prog: the command's name; others: whether what it does not know belongs to somebody else (keys), and is no
            error; how: argparse's own.

    >>> parser = Parser("tune")
    >>> parser.add_option("max_epochs", type=int)
    >>> [vars(parser.parse_args([f"{name}=3"])) for name in ("--max-epochs", "--max_epochs")]
    [{'max_epochs': 3}, {'max_epochs': 3}]
    """

    def __init__(self, prog: str, others: bool = False, **how: Any) -> None:
        super().__init__(**{"prog": prog, "add_help": False, "allow_abbrev": False, **how})
        self.others, self.may_be_empty = others, {}
        self.register("action", None, _StoreOnce)
        self.register("action", "store", _StoreOnce)

    def error(self, message: str) -> None:
        command = self.prog if " " in self.prog else f"python -m recbole_eimf {self.prog}"
        raise ConfigError(f"{message}{'' if message[-1] in '.?' else '.'} See {command} --help.")

    def add_option(self, name: str, **how: Any) -> None:
        """Add ``--name``."""
        self.add_argument(f"--{name}", **how)

    def add_argument(self, *names: str, **how: Any) -> argparse.Action:
        """argparse's; an option ``--name`` with underscores and with dashes."""
        both = [
            f"--{name[2:].replace(*pair)}" if name.startswith("--") else name for name in names for pair in ("-_", "_-")
        ]
        return super().add_argument(*dict.fromkeys(both), **how)

    def parse_known_args(self, args=None, namespace=None):
        """argparse's.

        Raises:
            ConfigError: an option that there is not, where all of them are this parser's own, before it is said what
                else is missing; one without a value: a variable of the shell that is not set, mostly.
        """
        if not self.others:
            self._check_known(args or ())
        found, rest = super().parse_known_args(args, namespace)
        vars(found).pop(_SEEN, None)
        for action in self._actions:
            value = getattr(found, action.dest, None)
            if (value == "" or (isinstance(value, list) and "" in value)) and action.dest not in self.may_be_empty:
                name = action.option_strings[-1] if action.option_strings else action.metavar or action.dest.upper()
                raise ConfigError(f"{name}=: {EMPTY}")
        return found, rest

    def _check_known(self, arguments: Sequence[str]) -> None:
        if any(isinstance(action, argparse._SubParsersAction) for action in self._actions):
            return  # the parser of the chosen one looks
        for argument in arguments:
            if argument == "--":
                return
            name = argument.partition("=")[0]
            # to argparse what has a blank is no option, but a value
            if name.startswith("--") and " " not in name and name not in self._option_string_actions:
                self.error(f"{name}: no such option.{suggestion(name, self._option_string_actions)}")

    def given(self, arguments: Sequence[str], may_be_empty: Sequence[str] = ()) -> argparse.Namespace:
        """Read the command line.

        Args:
            may_be_empty: the options that have a use for an empty value, which to most of what reads it is no value.

        Raises:
            ConfigError: what argparse complains of, an option twice or without a value, or one that there is not.
        """
        self.may_be_empty = {*may_be_empty}
        return self.parse_args(list(arguments))
