"""Telling interests from what a model says in their place: refusals, placeholders, unfilled forms, error objects.

What it looks for stands in ``properties/prompts/refusals.yaml``, as regular expressions by language.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import yaml

from recbole_eimf.config.layers import properties_folder

_GROUPS = ("placeholder", "template", "refusal", "phrase", "denial")  # of expressions in the file
_PLAIN = str.maketrans("’‘‛′`´“”„«»", "''''''\"\"\"\"\"")
_AROUND = " \t\"'*_#.,;:!?<>[](){}|/\\-–—=~。，、！？：；「」『』【】（）《》…"
_AFTER = re.compile(r"\s*(?:[:：(（—–;；]|\s-\s).*", re.DOTALL)
_NO_ERROR = frozenset({"none", "null", "no", "false", "n/a"})
_NUMBER = re.compile(r"^(?:[#\d.)]+\s*)+|[\s_#-]*\d+$")
# Refusals say so at once; a reply that is far longer than this is text about something else.
_LOOKED_AT = 400


def refused(text: str) -> str | None:
    """Say what ``text`` is in place of an interest: "placeholder", "template", "refusal", or None for an interest.

    >>> refused("N/A"), refused("<interest 1>"), refused("I'm sorry, but I cannot help with that.")
    ('placeholder', 'template', 'refusal')
    >>> refused("Sorry! and other family board games")
    """
    plain = _plain(text)
    expressions = _expressions()
    whole, head = _core(plain), _core(_AFTER.sub("", plain))
    if expressions["template"].fullmatch(whole):
        return "template"
    if expressions["placeholder"].fullmatch(whole) or expressions["placeholder"].fullmatch(head):
        return "placeholder"
    opening = plain.lstrip(_AROUND.replace("<", "")).rstrip(" *\"'") or plain
    if expressions["refusal"].match(opening) or any(expressions[group].search(plain) for group in ("phrase", "denial")):
        return "refusal"
    return None


def denies(text: str) -> bool:
    """Say whether what stands before a list says that there is nothing to list.

    >>> denies("I cannot determine the user's interests, because:"), denies("I apologize. Here they are:")
    (True, False)
    """
    return bool(_expressions()["denial"].search(_plain(text)))


def is_error_object(value: Any) -> bool:
    """Say whether a JSON value is an object that reports an error, as services and gateways send them.

    >>> is_error_object({"code": 429, "message": "slow down"}), is_error_object({"1": "Nail art"})
    (True, False)
    """
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, Mapping) or not value:
        return False
    keys = {str(key).strip().casefold().replace("-", "_").replace(" ", "_"): inner for key, inner in value.items()}
    known = _phrases()["error_keys"]
    if any(keys.get(key) and str(keys[key]).casefold() not in _NO_ERROR for key in known["decisive"]):
        return True
    return not keys.keys().isdisjoint(known["telling"]) and keys.keys() <= {*known["usual"], *known["decisive"]}


def _plain(text: str) -> str:
    return " ".join(text[:_LOOKED_AT].translate(_PLAIN).replace("_", " ").split()).casefold()


def _core(text: str) -> str:
    """The text without the brackets, punctuation and numbers around it."""
    return _NUMBER.sub("", text.strip(_AROUND)).strip(_AROUND)


@cache
def _phrases() -> dict[str, Any]:
    path = properties_folder() / "prompts" / "refusals.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@cache
def _expressions() -> dict[str, re.Pattern[str]]:
    return {
        group: re.compile("|".join(f"(?:{line})" for lines in _phrases()[group].values() for line in lines))
        for group in _GROUPS
    }
