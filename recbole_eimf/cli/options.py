"""Options of commands: each may be written with dashes or with underscores."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from typing import Any

from recbole_eimf.cli.parser import Parser
from recbole_eimf.config.config import ELSEWHERE, check_keys, may_be_secret, recbole_keys
from recbole_eimf.config.same import known_keys
from recbole_eimf.config.yaml_file import named_files, parse_command_line, read_yaml
from recbole_eimf.core.errors import ConfigError, suggestion
from recbole_eimf.data.protocol import PROTOCOLS
from recbole_eimf.study.compare import Effort, check_shared


def table_parser(prog: str) -> Parser:
    """The options that ``compare`` and ``study`` share; every other argument is a key."""
    parser = Parser(prog, others=True)
    for name in ("dataset", "out", "seeds", "metrics", "title", "protocol"):
        parser.add_option(name)
    parser.add_option("config_files", nargs="+", default=[])
    for name, kind, default in (("parallel", int, 1), ("cpus_per_run", int, 1), ("gpus_per_run", float, None),
                                ("tune_first", int, 0), ("ray_address", str, None)):  # fmt: skip
        parser.add_option(name, type=kind, default=default)
    return parser


def parse_table_options(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> tuple[argparse.Namespace, dict]:
    """(options, the keys of all rows): configuration files first, the command line stronger. ``options.said_in``: key
    -> the file that decides it.

    Raises:
        ConfigError: an argument that is neither an option nor ``--key=value``, a key that a table sets itself, no data
            set, a number out of range.
    """
    options, rest = parser.parse_known_args(arguments)
    shared: dict[str, Any] = {}
    said_in: dict[str, str] = {}
    for path in (path for text in options.config_files for path in named_files(text)):
        values = read_yaml(path)
        shared.update(values)
        said_in.update(dict.fromkeys(values, path))
    typed = parse_command_line(rest)
    shared.update(typed)
    if not shared.get("allow_unknown_keys"):
        check_spelling(parser, rest)
    options.said_in = {key: path for key, path in said_in.items() if key not in typed}
    if not shared.get("allow_unknown_keys"):
        check_keys({key: shared[key] for key in said_in}, said_in=said_in)
    options.dataset = str(options.dataset or shared.pop("dataset", "") or "")
    if not options.dataset:
        raise ConfigError("--dataset is missing, for example --dataset=ml-100k (ships with RecBole).")
    if options.protocol:
        if options.protocol not in PROTOCOLS:
            near = suggestion(options.protocol, PROTOCOLS)
            raise ConfigError(f"--protocol={options.protocol}: allowed are {', '.join(PROTOCOLS)}.{near}")
        shared["protocol"] = options.protocol
        options.said_in.pop("protocol", None)
    check_shared(shared)
    return options, shared


def check_spelling(parser: argparse.ArgumentParser, rest: Sequence[str]) -> None:
    """Look at what is no option: as a key nobody would know it, where an option was meant. Raises ConfigError."""
    known = recbole_keys() | {*known_keys(), *ELSEWHERE}
    for argument in rest:
        name = argument.partition("=")[0]
        if not name.startswith("--") or name.removeprefix("--") in known:
            continue
        if near := suggestion(name, parser._option_string_actions):
            parser.error(f"{name}: no such option, and no key.{near}")


def effort_of(options: argparse.Namespace) -> Effort:
    """How the runs of a table are made. Raises ConfigError for a number out of range."""
    return Effort(**{name: getattr(options, name) for name in Effort.__dataclass_fields__})


def command_text(name: str, arguments: Sequence[str]) -> str:
    """The command to print, so that it can be given again."""
    return f"python -m recbole_eimf {name} {shlex.join(map(_unsecret, arguments))}"


def _unsecret(argument: str) -> str:
    """An argument as it may be written into a table: a key of somebody's own model may hold a password."""
    key, sign, value = argument.partition("=")
    known = key.removeprefix("--").replace("-", "_") in known_keys()
    return f"{key}=***" if sign and not known and may_be_secret(key, value) else argument
