"""YAML without code, and values as they are typed on a command line."""

from __future__ import annotations

import ast
import contextlib
import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from recbole_eimf.config.recbole_keys import text_keys
from recbole_eimf.core.errors import EMPTY, ConfigError, blamed_key

_TAG = "tag:yaml.org,2002:"
#: keys that have a use for an empty value
_MAY_BE_EMPTY = ("gpu_id",)


class _TwiceError(yaml.MarkedYAMLError):
    """A mapping has a key twice; YAML's own loaders take the last value without a word."""


class _NotTextError(yaml.MarkedYAMLError):
    """A key is no text: YAML reads ``no``, ``on`` and ``5`` as other things, and no key of ours is one."""


class _SafeLoader(yaml.SafeLoader):
    """YAML without code, where ``1e-4`` is a number, a date stays text, and so does a model called ``4.10``; a key that
    stands twice in a mapping is an error."""

    #: without YAML's dates: no key is one, and those of ``time_dates`` are text
    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in each if tag != f"{_TAG}timestamp"]
        for first, each in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        """A mapping as it stands there, before what ``<<`` takes over joins it."""
        node = super().compose_mapping_node(anchor)
        seen: dict[tuple[str, str], yaml.Node] = {}
        for name, _ in node.value:
            if not isinstance(name, yaml.ScalarNode) or name.tag == f"{_TAG}merge":  # `<<` may take over several
                continue
            if name.tag != f"{_TAG}str":
                kind = name.tag.rpartition(":")[2]
                raise _NotTextError(problem=f"key {name.value!r} is read as {kind}", problem_mark=name.start_mark)
            first = seen.setdefault((name.tag, name.value), name)
            if first is not name:
                before = f"first in line {first.start_mark.line + 1}"
                raise _TwiceError(problem=f"key {name.value!r} is given twice, {before}", problem_mark=name.start_mark)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """What a mapping holds; values of keys that are text as they stand there, in lists (of a grid) too."""
        for place, (name, value) in enumerate(node.value):
            if isinstance(name, yaml.ScalarNode) and name.value in text_keys():
                node.value[place] = name, _as_text(value)
        return super().construct_mapping(node, deep)


def _as_text(node: yaml.Node) -> yaml.Node:
    """A node, or a list of them, in which numbers are the text they were written as; not the node itself, which may
    have an anchor and stand for a number elsewhere."""
    if isinstance(node, yaml.SequenceNode):
        return yaml.SequenceNode(node.tag, [_as_text(each) for each in node.value], node.start_mark, node.end_mark)
    if node.tag in (f"{_TAG}int", f"{_TAG}float"):
        return yaml.ScalarNode(f"{_TAG}str", node.value, node.start_mark, node.end_mark)
    return node


_SafeLoader.add_implicit_resolver(
    f"{_TAG}float",
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
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # TypeError: {{}}, {[1]: 2}
        try:
            return yaml.load(text, Loader=_SafeLoader)  # noqa: S506 (a SafeLoader)
        except _TwiceError as error:
            raise ConfigError(f"{text}: {error.problem.partition(',')[0]}. Keep one.") from error
        except yaml.YAMLError:
            return text
    if isinstance(value, dict | list | tuple):
        _refuse_twice(text)
    return value


def _refuse_twice(text: str) -> None:
    """Raise ConfigError for a Python dictionary with a key twice, of which Python takes the last without a word."""
    for node in ast.walk(ast.parse(text.strip(), mode="eval")):
        names = (
            [name.value for name in node.keys if isinstance(name, ast.Constant)] if isinstance(node, ast.Dict) else []
        )
        twice = [name for at, name in enumerate(names) if name in names[:at]]
        if twice:
            raise ConfigError(f"{text}: key {twice[0]!r} is given twice. Keep one.")


def value_of(key: str, text: str) -> Any:
    """Read a value that is typed for a key: as :func:`parse_value`, but what looks like a number is text where text is
    meant.

    >>> value_of("llm_model", "4.10"), value_of("output_dir", "2024_01"), value_of("epochs", "2024_01")
    ('4.10', '2024_01', 202401)
    """
    value = parse_value(text)
    looks_odd = not isinstance(value, str | bool | list | tuple | dict | set | None)
    return text.strip() if looks_odd and key in text_keys() else value


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
        if not text.strip() and key not in _MAY_BE_EMPTY:
            blank = f'{text!r}: white space alone. Write it in quotes of its own: --{key}="{text!r}".'
            raise ConfigError(f"--{key}={blank if text else f': {EMPTY}'}")
        if texts.get(key, text) != text:
            raise ConfigError(f"--{key} is given twice: {texts[key]!r} and {text!r}. Keep one.")
        texts[key] = text
        values[key] = value_of(key, text)
    return values


class Placed(dict):
    """A mapping of a file that knows where its keys stand: ``places`` has ``FILE, line N`` of each."""

    places: Mapping[str, str] = {}


def places_of(mapping: Any) -> dict[str, str]:
    """Where the keys of a mapping stand; of one that no file holds, nothing."""
    return dict(mapping.places) if isinstance(mapping, Placed) else {}


class _PlacingLoader(_SafeLoader):
    """As its base; mappings that are the value of one of the names ``placed`` are :class:`Placed`."""

    placed: tuple[str, ...] = ()
    path: Path

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        content = super().construct_mapping(node, deep=True)
        for name, value in node.value:
            if name.value in self.placed and type(content[name.value]) is dict:
                lines = {each.value: each.start_mark.line + 1 for each, _ in value.value}
                found = content[name.value] = Placed(content[name.value])
                found.places = {key: f"{self.path}, line {line}" for key, line in lines.items()}
        return content


def read_yaml(path: Path | str, placed: Iterable[str] = ()) -> dict[str, Any]:
    """Read a YAML mapping.

    Args:
        path: of the file; placed: names of mappings in it, at any depth, that are to be :class:`Placed`.

    Raises:
        ConfigError: naming file and line, and the key where one is given twice.
    """
    path = Path(path)
    loader = type("_Loader", (_PlacingLoader,), {"placed": tuple(placed), "path": path}) if placed else _SafeLoader
    try:
        content = yaml.load(path.read_bytes().decode("utf-8-sig"), Loader=loader)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such configuration file.") from error
    except OSError as error:
        raise ConfigError(f"{path}: not a readable configuration file ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}, line {line}: not UTF-8 text. Save the file as UTF-8.") from error
    except _TwiceError as error:
        raise ConfigError(f"{path}, line {error.problem_mark.line + 1}: {error.problem}. Keep one.") from error
    except _NotTextError as error:
        line = error.problem_mark.line + 1
        raise ConfigError(f"{path}, line {line}: {error.problem}, and no key is that. Mend it, or quote it.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: not YAML ({getattr(error, 'problem', error)}).") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected 'key: value' lines, got a {type(content).__name__}.")
    return content


@cache
def _shipped(path: Path, changed: int) -> dict[str, Any]:
    return read_yaml(path)


def read_shipped(path: Path) -> dict[str, Any]:
    """As :func:`read_yaml`, of a file of a package, which a process parses once unless it is edited: a table makes
    many configurations, and each reads a dozen files."""
    return copy.deepcopy(_shipped(path, path.stat().st_mtime_ns))


def named_files(value: Any) -> list[str]:
    """The paths that ``config_files`` names: a list, one path, or several with blanks between.

    >>> named_files("a.yaml b.yaml"), named_files(["a b.yaml"]), named_files(None)
    (['a.yaml', 'b.yaml'], ['a b.yaml'], [])
    """
    if isinstance(value, list | tuple):
        return [str(path) for path in value]
    text = "" if value is None else str(value)
    return [text] if Path(text).is_file() else text.split()


def model_and_dataset(model: Any, dataset: Any, files: Iterable[str | Path]) -> tuple[str, str | None]:
    """(model, data set) of a command: those that were typed, else those of its files; EIMF where nobody names one."""
    said = read_files(files)
    model, dataset = model or said.get("model") or "EIMF", dataset or said.get("dataset")
    return str(model), None if dataset is None else str(dataset)


def read_files(files: Iterable[str | Path] | None) -> dict[str, Any]:
    """What configuration files say, the later ones stronger. Raises as :func:`read_yaml`."""
    return {key: value for path in files or () for key, value in read_yaml(path).items()}


def line_of(path: Path, key: str) -> int:
    """The line of a YAML mapping on which a key stands, from 1; 0 where it does not."""
    node = yaml.compose(path.read_bytes().decode("utf-8-sig"), Loader=_SafeLoader)
    lines = [name.start_mark.line + 1 for name, _ in node.value if name.value == key] if node else []
    return lines[-1] if lines else 0


@contextlib.contextmanager
def values_placed(said_in: Mapping[str, str | Path]) -> Iterator[None]:
    """Inside, a ConfigError of a key's value says in which file and line it stands.

    Args:
        said_in: key -> the configuration file that gives it, where nothing stronger does.
    """
    try:
        yield
    except ConfigError as error:
        key = blamed_key(error)
        if key not in said_in or str(said_in[key]) in str(error):
            raise
        path = said_in[key]
        raise ConfigError(f"{path}, line {line_of(Path(path), key)}: {error}", key) from error
