"""The catalogues in words: ``keys [word]``, ``run --help``, docs/keys.md, a schema for editors."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, Literal

from recbole_eimf.config.config import recbole_keys
from recbole_eimf.config.key import AFFECTS, OF_MODEL, Key, keys_of
from recbole_eimf.config.keys import ALL_SETTINGS
from recbole_eimf.config.layers import house_defaults
from recbole_eimf.config.models import BACKBONES, MODELS
from recbole_eimf.config.recbole_keys import RECBOLE_PARTS
from recbole_eimf.config.same import known_keys
from recbole_eimf.core.errors import ConfigError, suggestion


def keys_with(words: Sequence[str]) -> list[Key]:
    """The keys that hold every word in name, help or section; all without a word.

    Raises:
        ConfigError: there is none; the message suggests the closest name.
    """
    keys = [
        each
        for each in every_key()
        if all(word.lower() in f"{each.name} {each.help} {each.section}".lower() for word in words)
    ]
    if not keys:
        near = suggestion(words[0], known_keys())
        raise ConfigError(f"keys {' '.join(words)}: no key has that in its name or help.{near}")
    return keys


def every_key() -> list[Key]:
    """Every key of the catalogue, once, section by section."""
    every = [each for part in ALL_SETTINGS for each in keys_of(part)]
    every += [each for part in RECBOLE_PARTS for each in keys_of(part)]
    found: dict[str, Key] = {}
    for each in every:
        found.setdefault(each.name, each)
    return list(found.values())


def listing(keys: Iterable[Key]) -> str:
    """A block for each section, a line for each key: name=default, help, what is allowed."""
    lines: list[str] = []
    section = None
    for each in keys:
        if each.section != section:
            section = each.section
            lines += ["", section]
        lines.append(f"  {each.name + '=' + default_of(each):<38} {each.help} ({each.allowed})")
    return "\n".join(lines).strip("\n")


@cache
def _of_the_house() -> dict[str, Any]:
    return house_defaults()


def default_of(each: Key) -> str:
    """The default as one would type it; ``...`` where a model or backbone sets it."""
    value = _of_the_house().get(each.name, OF_MODEL)
    if value is OF_MODEL:
        return "..."
    return str(value).replace(" ", "") if isinstance(value, list | dict) else str(value)


# ---------------------------------------------------------------------- run --help
def run_help() -> str:
    """What ``run --help`` prints: models, then keys by section."""
    models = "\n".join(f"  {card.name:<15} {card.help}" for card in MODELS.values())
    backbones = "\n".join(f"  {card.name:<15} {card.help}" for card in BACKBONES.values())
    return (
        "usage: python -m recbole_eimf run --model=EIMF --dataset=ml-100k [--config_files=a.yaml] [--key=value ...]\n\n"
        f"models (--model=; RecBole's own by their names, yours as package.module:Class)\n{models}\n\n"
        f"backbones (--backbone=; yours as package.module:Class)\n{backbones}\n\n"
        f"{listing(every_key())}\n\n"
        "`python -m recbole_eimf keys WORD` finds keys, `explain KEY --model=... --dataset=...` says what set one."
    )


# ---------------------------------------------------------------------- documents
def markdown() -> str:
    """docs/keys.md."""
    lines = [
        "# Configuration keys",
        "",
        "Every key goes on the command line (`--key=value`), into a YAML file (`--config_files=a.yaml`) or into a call",
        "(`run(..., key=value)`). `python -m recbole_eimf keys WORD` searches this page. Where the default is `...`,",
        "or a model, backbone, data set or recipe sets another, `python -m recbole_eimf explain KEY --model=NAME`",
        "shows the value, and the file and line that sets it. The last column says what a key affects:",
        "",
        *(f"- *{name}*: {meaning}" for name, meaning in AFFECTS.items()),
        "",
        "(`python -m recbole_eimf keys --markdown` makes this page from `recbole_eimf/config/`; edit the keys there.)",
    ]
    section = None
    for each in every_key():
        if each.section != section:
            section = each.section
            lines += [
                "",
                f"## {section}",
                "",
                "| key | default | allowed | what it is | affects |",
                "|---|---|---|---|---|",
            ]
        cells = (f"`{each.name}`", f"`{default_of(each)}`", each.allowed, each.help, each.affects)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


# ---------------------------------------------------------------------- editors
def json_schema() -> dict[str, Any]:
    """A JSON schema of configuration files; keys of RecBole's that the catalogue does not know may be anything."""
    typed = {each.name: _schema_of(each) for each in every_key()}
    others = {name: {"description": "RecBole's"} for name in sorted(recbole_keys() - set(typed))}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "recbole_eimf configuration",
        "type": "object",
        "properties": {**typed, **others},
        "additionalProperties": False,
    }


_TYPES = {int: "integer", float: "number", bool: "boolean", dict: "object", type(None): "null", str: "string"}


def _schema_of(each: Key) -> dict[str, Any]:
    union = typing.get_origin(each.hint) in (typing.Union, types.UnionType)
    options = typing.get_args(each.hint) if union else (each.hint,)
    forms = [form for option in options for form in [_form(option, each)] if form]
    schema: dict[str, Any] = {"description": f"{each.help} ({each.allowed})"}
    schema |= forms[0] if len(forms) == 1 else {"anyOf": forms} if forms else {}
    if _of_the_house().get(each.name, OF_MODEL) is not OF_MODEL:
        schema["default"] = _of_the_house()[each.name]
    return schema


def _form(hint: Any, each: Key) -> dict[str, Any]:
    if hint is Any:
        return {}
    if typing.get_origin(hint) is Literal:
        # YAML reads a bare none, on, off as null or a boolean
        words = list(typing.get_args(hint))
        return {
            "enum": [*words, *(bare for word, bare in (("none", None), ("on", True), ("off", False)) if word in words)]
        }
    if typing.get_origin(hint) is tuple:
        return {"type": "array", "items": _form(typing.get_args(hint)[0], each)}
    form: dict[str, Any] = {"type": _TYPES[typing.get_origin(hint) or hint]}
    if hint in (int, float):
        bounds = {"minimum": each.range.least, "exclusiveMinimum": each.range.above,
                  "maximum": each.range.most, "exclusiveMaximum": each.range.below}  # fmt: skip
        form |= {name: bound for name, bound in bounds.items() if bound is not None}
    return form
