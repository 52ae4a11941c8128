"""Options of ``tune``, ``compare`` and ``study``: each may be written with dashes or with underscores."""

from __future__ import annotations

import argparse
from typing import Any

from recbole_eimf.core.errors import ConfigError


class OptionsParser(argparse.ArgumentParser):
    """argparse whose complaints are errors of ours, and whose options have both spellings.

    >>> parser = OptionsParser("tune")
    >>> parser.add_option("max_epochs", type=int)
    >>> [vars(parser.parse_args([f"{name}=3"])) for name in ("--max-epochs", "--max_epochs")]
    [{'max_epochs': 3}, {'max_epochs': 3}]
    """

    def __init__(self, prog: str) -> None:
        super().__init__(prog=prog, add_help=False, allow_abbrev=False)

    def error(self, message: str) -> None:
        raise ConfigError(f"{message}. See python -m recbole_eimf {self.prog} --help.")

    def add_option(self, name: str, **how: Any) -> None:
        """Add ``--name``, with underscores and with dashes."""
        self.add_argument(*dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}")), **how)
