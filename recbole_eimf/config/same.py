"""Which settings decide a run's figures, from what the catalogue says that each key affects.

What a resumed run, ``tune`` and ``compare`` regard as the same experiment, and what pre-trained experts share. Keys that
the catalogue does not know count: a model of somebody's may read them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from recbole_eimf.config.key import Key
from recbole_eimf.config.keys import defaults, our_keys
from recbole_eimf.config.recbole_keys import checked_recbole_keys


def _affecting(*kinds: str) -> frozenset[str]:
    return frozenset(name for name, each in known_keys().items() if each.affects in kinds)


def known_keys() -> dict[str, Key]:
    """Every key of the catalogue, ours and RecBole's."""
    return {**checked_recbole_keys(), **our_keys()}


#: keys that name what a run reads: made absolute where a worker stands elsewhere
PATHS = tuple(sorted(_affecting("path", "content")))
#: of those, files that decide figures by what is in them
CONTENT = tuple(sorted(_affecting("content")))
#: keys that change no figure; a file of CONTENT counts by its content
INDIFFERENT = _affecting("path", "output", "content", "machine")
#: keys that a pre-trained expert does not depend on; an expert without text depends on less
NOT_OF_EXPERTS = INDIFFERENT | _affecting("figures")
ONLY_OF_TEXT_EXPERTS = _affecting("text expert")


def renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that an earlier version wrote, under today's names: ``esim`` is ``recipe``.

    >>> renamed({"esim": "paper"}), renamed({"esim": "strong", "recipe": "published"})
    ({'recipe': 'paper'}, {'recipe': 'published'})
    """
    now = {key: value for key, value in values.items() if key != "esim"}
    if "esim" in values and values.get("recipe") is None and values.get("model", "EIMF") == "EIMF":
        now["recipe"] = values["esim"]
    return now


def differing_settings(
    old: Mapping[str, Any], new: Mapping[str, Any], free: Collection[str] = ()
) -> dict[str, tuple[Any, Any]]:
    """Key -> (value in ``old``, value in ``new``) where two sets of settings differ in what decides figures.

    A key that only one side knows counts if it is not its default: versions add keys.

    Args:
        old, new: settings as JSON values, files by a digest of their content; free: keys that may differ.

    >>> differing_settings({"epochs": 5, "gamma": 0.1}, {"epochs": 6, "gamma": 0.1, "num_threads": 2})
    {'epochs': (5, 6)}
    """
    default = defaults()
    old, new = renamed(old), renamed(new)
    keys = sorted({*old, *new} - INDIFFERENT.difference(CONTENT) - set(free))
    pairs = {key: (old.get(key, default.get(key)), new.get(key, default.get(key))) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
