"""Settings of parts that also work without a configuration (encoder, clustering, LLM client), tied to the catalogue.

A part names its fields as it likes; which configuration key a field is stands at the field, and default, range and the
words of an error are the catalogue's.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from recbole_eimf.config.keys import our_keys

Part = TypeVar("Part")


def of_key(name: str) -> Any:
    """A field of a part that is the configuration key ``name``."""
    return dataclasses.field(default=our_keys()[name].default, metadata={"key": name})


def check_part(part: Any) -> None:
    """Hold every field that is a key against the catalogue; for ``__post_init__`` of a frozen dataclass.

    Raises:
        ConfigError: naming the key, the value and what is allowed.
    """
    for field in dataclasses.fields(part):
        if "key" in field.metadata:
            value = our_keys()[field.metadata["key"]].check(getattr(part, field.name))
            object.__setattr__(part, field.name, value)


def part_of(part: type[Part], settings: Any, **others: Any) -> Part:
    """The part that a configuration's settings describe; ``others`` are fields that are no keys, or stronger."""
    keys = {field.name: field.metadata["key"] for field in dataclasses.fields(part) if "key" in field.metadata}
    return part(**{**{name: getattr(settings, key) for name, key in keys.items()}, **others})
