"""What a configuration key is: type, range, default, help and what it affects; and how a value is held against it.

The catalogue (:mod:`recbole_eimf.config.keys`, :mod:`recbole_eimf.config.recbole_keys`) is written as frozen
dataclasses whose fields are made by :func:`key`. Everything else is derived from them.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeVar

from recbole_eimf.core.errors import ConfigError, suggestion

Settings = TypeVar("Settings")

#: what a key affects -> what that means
AFFECTS = {
    "figures": "a run's figures, but not what a pre-trained expert (PAD's phase 1) learns",
    "expert": "a run's figures, and what a pre-trained expert learns",
    "text expert": "a run's figures, and what a pre-trained expert that reads text learns",
    "content": "a run's figures, by the content of the file it names",
    "path": "where something is read from; no figures",
    "output": "where something is written; no figures",
    "machine": "how the work is done or shown; no figures",
}
Affects = Literal["figures", "expert", "text expert", "content", "path", "output", "machine"]


class _OfRecBole:
    """The default of a key whose value comes from a YAML file: RecBole's, or that of a model or backbone of ours."""

    def __repr__(self) -> str:
        return "set by the model"


OF_MODEL = _OfRecBole()


@dataclass(frozen=True)
class Range:
    """Bounds of a number, or of each number of a list."""

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None

    def holds(self, value: float) -> bool:
        """Whether a number lies within; NaN and infinities never do.

        >>> Range(above=0).holds(0), Range(least=0, below=1).holds(0.5), Range().holds(float("nan"))
        (False, True, False)
        """
        return (
            math.isfinite(value)
            and (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        low = f"at least {_number(self.least)}" if self.least is not None else ""
        low = f"above {_number(self.above)}" if self.above is not None else low
        high = f"at most {_number(self.most)}" if self.most is not None else ""
        high = f"below {_number(self.below)}" if self.below is not None else high
        return " and ".join(filter(None, (low, high)))


def _number(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


@dataclass(frozen=True)
class Form:
    """What text must look like: ``words`` for people, ``pattern`` a regular expression for the whole of it."""

    words: str
    pattern: str

    def holds(self, value: Any) -> bool:
        """Whether a value, written as text, has the form; the parts of a list are written with commas."""
        parts = value if isinstance(value, list | tuple) else [value]
        return re.fullmatch(self.pattern, ",".join(map(str, parts))) is not None


@dataclass(frozen=True)
class Key:
    """One configuration key, ours or RecBole's.

    ``hint`` is its type; ``default`` may be :data:`OF_MODEL`; ``section`` the name of its part; ``affects`` one of
    :data:`AFFECTS`; ``form`` what text must look like; ``secret``: a wrong value may be a password, and is not shown;
    ``protocol``: the only one that reads it; ``switch``: the key that has it read, and that one's values that do (none:
    all but its default); ``training``: whether it decides which interactions train, in what order.
    """

    name: str
    hint: Any
    default: Any
    help: str
    section: str
    affects: Affects
    range: Range
    form: Form | None = None
    secret: bool = False
    protocol: str | None = None
    training: bool = False
    switch: tuple[str, ...] = ()

    @property
    def allowed(self) -> str:
        """What a value may be, in words."""
        return self.form.words if self.form else _described(_options(self.hint), self.range)

    def check(self, value: Any) -> Any:
        """The value as the program uses it: lists as tuples, words that YAML reads as something else as words.

        Raises:
            ConfigError: naming the key, the value and what is allowed.
        """
        for option in _options(self.hint):
            accepted, found = _fits(value, option, self.range)
            if accepted and (self.form is None or value is None or self.form.holds(value)):
                return found
        shown = "***" if self.secret else repr(value)
        such = f", such as {self.plain_default}" if isinstance(self.default, tuple) and self.default else ""
        raise ConfigError(f"{self.name}={shown}: allowed is {self.allowed}{such}.{self._near(value)}", self.name)

    def _near(self, value: Any) -> str:
        choices = [c for option in _options(self.hint) for c in _choices(option)]
        return suggestion(value, map(str, choices)) if isinstance(value, str) else ""

    def choices(self) -> list[str]:
        """The words it may be; empty where it is no choice of words."""
        return [str(choice) for option in _options(self.hint) for choice in _choices(option)]

    @property
    def is_text(self) -> bool:
        """Whether it is text and nothing else: what is typed for it is no number, whatever it looks like."""
        return {*_options(self.hint)} <= {str, type(None)} and str in _options(self.hint)

    @property
    def plain_default(self) -> Any:
        """The default as a YAML file holds it."""
        return list(self.default) if isinstance(self.default, tuple) else self.default


def key(
    default: Any,
    help: str,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    affects: Affects = "figures",
    form: Form | None = None,
    secret: bool = False,
    protocol: str | None = None,
    training: bool = False,
    switch: tuple[str, ...] = (),
) -> Any:
    """A field of the catalogue: default, a line of help, bounds (``least`` and ``most`` included), what it affects, the
    only ``protocol`` that reads it, which the help then begins with, whether it decides what ``training`` sees, and the
    ``switch`` without which nothing reads it."""
    bounds = Range(least, above, most, below)
    help = f"of {protocol}: {help}" if protocol else help
    known = {"help": help, "range": bounds, "affects": affects, "form": form, "secret": secret, "protocol": protocol,
             "training": training, "switch": switch}  # fmt: skip
    return dataclasses.field(default=default, metadata=known)


@cache
def keys_of(part: type) -> tuple[Key, ...]:
    """The keys of one part of the catalogue."""
    hints = typing.get_type_hints(part)
    section = (part.__doc__ or part.__name__).strip().split("\n")[0].rstrip(".")
    return tuple(
        Key(field.name, hints[field.name], field.default, section=section, **field.metadata)
        for field in dataclasses.fields(part)
    )


def read(part: type[Settings], config: Mapping[str, Any] | Any) -> Settings:
    """Build ``part`` from a configuration, checking type, allowed values and range of each key.

    Raises:
        ConfigError: naming the key, the value and what is allowed.
    """
    values = {k.name: k.check(config[k.name]) if k.name in config else k.default for k in keys_of(part)}
    return part(**values)


# ---------------------------------------------------------------------- types
def _options(hint: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)


def _choices(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) is Literal else ()


def _fits(value: Any, hint: Any, bounds: Range) -> tuple[bool, Any]:
    if hint is Any:
        return True, value
    if hint is type(None):
        return value is None, None
    if choices := _choices(hint):
        # YAML reads a bare none, on, off as null or a boolean: take the word that is meant
        names = {None: "none", True: "on", False: "off"}
        word = names.get(value, value) if isinstance(value, bool | None) else value
        return isinstance(word, str | int) and word in choices, word
    if typing.get_origin(hint) is tuple:
        return _fits_list(value, typing.get_args(hint)[0], bounds)
    if hint in (int, float):
        number = (int, float) if hint is float else int
        return isinstance(value, number) and not isinstance(value, bool) and bounds.holds(value), value
    if hint is str and isinstance(value, int | float) and not isinstance(value, bool):
        return True, str(value)  # a file or model called 123
    if hint is str:
        return isinstance(value, str) and value != "", value
    return isinstance(value, typing.get_origin(hint) or hint), value


def _fits_list(value: Any, inner: Any, bounds: Range) -> tuple[bool, Any]:
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        return False, None
    checked = [_fits(item.strip() if isinstance(item, str) else item, inner, bounds) for item in items]
    return all(ok for ok, _ in checked), tuple(item for _, item in checked)


_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "True or False", dict: "a mapping",
          type(None): "None", Any: "anything"}  # fmt: skip
_SEVERAL = {int: "whole numbers", float: "numbers", str: "texts"}


def _described(options: tuple[Any, ...], bounds: Range) -> str:
    words: list[str] = []
    limit = f", {bounds}" if str(bounds) else ""
    for option in options:
        if choices := _choices(option):
            words += map(str, choices)
        elif typing.get_origin(option) is tuple:
            inner = typing.get_args(option)[0]
            words.append(f"a list of {_SEVERAL.get(inner, str(inner))}{limit and f', each {bounds}'}")
        else:
            words.append(_WORDS.get(typing.get_origin(option) or option, str(option)) + (
                limit if option in (int, float) else ""))  # fmt: skip
    return " or ".join(words) if len(words) < 3 else ", ".join(words[:-1]) + " or " + words[-1]
