"""Keys that had another name in earlier versions: what people still type, and what files of then say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole_eimf.core.errors import ConfigError

#: old name -> today's
OLD_NAMES = {"esim": "recipe"}


def old_name(key: str) -> str | None:
    """What a key was called, if it was called otherwise."""
    return next((old for old, new in OLD_NAMES.items() if new == key), None)


def today(given: Mapping[str, Any]) -> dict[str, Any]:
    """The user's keys under today's names.

    >>> today({"esim": "paper", "tau": 0.1})
    {'tau': 0.1, 'recipe': 'paper'}

    Raises:
        ConfigError: both names are given and differ.
    """
    now = {key: value for key, value in given.items() if key not in OLD_NAMES}
    for old, new in OLD_NAMES.items():
        if (value := given.get(old)) is None:
            continue
        if now.get(new) not in (None, value):
            raise ConfigError(f"{old}={value}, {new}={now[new]}: {old} is {new}'s old name. Give {new} alone.")
        now[new] = value
    return now


def today_of_written(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that an earlier version wrote, all keys that it knew with those of other models, under today's names.

    >>> today_of_written({"esim": "paper"}), today_of_written({"esim": "strong", "recipe": "published"})
    ({'recipe': 'paper'}, {'recipe': 'published'})
    """
    meant = values.get("model", "EIMF") == "EIMF"  # the only model that read the old name
    named = {OLD_NAMES[key]: value for key, value in values.items() if key in OLD_NAMES and meant}
    now = {key: value for key, value in values.items() if key not in OLD_NAMES}
    return now | {key: value for key, value in named.items() if now.get(key) is None}
