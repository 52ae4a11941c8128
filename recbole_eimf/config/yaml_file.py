"""YAML without code, and values as they are typed on a command line."""

from __future__ import annotations

import ast
import datetime
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from recbole_eimf.core.errors import ConfigError


class _SafeLoader(yaml.SafeLoader):
    """YAML without code, where ``1e-4`` is a number and a date stays text."""


_SafeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)$"),
    list("-+0123456789."),
)


def parse_value(text: str) -> Any:
    """Read a command-line value: a Python literal, else YAML, else the text itself. Nothing is evaluated.

    >>> parse_value("1e-3"), parse_value("[10,20]"), parse_value("[Recall, NDCG]"), parse_value("None")
    (0.001, [10, 20], ['Recall', 'NDCG'], None)
    >>> parse_value("[5,inf)"), parse_value("true"), parse_value("a=b")
    ('[5,inf)', True, 'a=b')
    """
    if text.strip() in ("None", ""):
        return None
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        try:
            value = yaml.load(text, Loader=_SafeLoader)  # noqa: S506 (a SafeLoader)
        except yaml.YAMLError:
            return text
    # a date stays the text it was
    return text if isinstance(value, datetime.date) else value


def parse_command_line(arguments: Iterable[str]) -> dict[str, Any]:
    """Turn ``--key=value`` arguments into a dictionary.

    Raises:
        ConfigError: an argument of another form, or a key given twice with different values.
    """
    values: dict[str, Any] = {}
    texts: dict[str, str] = {}
    arguments = list(arguments)
    for argument, following in zip(arguments, [*arguments[1:], ""]):
        key, sign, text = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not sign or not key:
            apart = argument.startswith("--") and not sign and following and not following.startswith("--")
            form = f"{argument}={following}" if apart else "--key=value"
            raise ConfigError(f"argument {argument!r}: write {form}, without spaces around '='.")
        if texts.get(key, text) != text:
            raise ConfigError(f"--{key} is given twice: {texts[key]!r} and {text!r}. Keep one.")
        texts[key] = text
        values[key] = parse_value(text)
    return values


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Read a YAML mapping. Raises ConfigError naming file and line."""
    path = Path(path)
    try:
        content = yaml.load(path.read_bytes().decode("utf-8-sig"), Loader=_SafeLoader)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such configuration file.") from error
    except OSError as error:
        raise ConfigError(f"{path}: not a readable configuration file ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}, line {line}: not UTF-8 text. Save the file as UTF-8.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: not YAML ({getattr(error, 'problem', error)}).") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected 'key: value' lines, got a {type(content).__name__}.")
    return content


def line_of(path: Path, key: str) -> int:
    """The line of a YAML mapping on which a key stands, from 1; 0 where it does not."""
    node = yaml.compose(path.read_bytes().decode("utf-8-sig"), Loader=_SafeLoader)
    lines = [name.start_mark.line + 1 for name, _ in node.value if name.value == key] if node else []
    return lines[-1] if lines else 0
