"""What a target is ranked among: all items, or a few that are drawn for it (``eval_args``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_FULL = "full"
_DRAWN = {"uni": "drawn uniformly", "pop": "drawn by popularity"}


def mode_of(settings: Mapping[str, Any], part: str = "test") -> str:
    """``full``, ``uniN`` or ``popN``: the mode of a part (``valid``, ``test``) by a run's settings.

    >>> mode_of({"eval_args": {"mode": {"valid": "uni100", "test": "full"}}}), mode_of({"eval_args": {"mode": "pop5"}})
    ('full', 'pop5')
    >>> mode_of({})
    'full'
    """
    mode = (settings.get("eval_args") or {}).get("mode") or _FULL
    return str(mode.get(part, _FULL) if isinstance(mode, Mapping) else mode)


def told(settings: Mapping[str, Any]) -> str:
    """What a reader must know of figures: among few items any model looks good, and another model best.

    >>> told({})
    'all items ranked'
    >>> told({"eval_args": {"mode": "uni100"}})
    'each target ranked among 100 items drawn uniformly (uni100), which is no evidence'
    >>> told({"eval_args": {"mode": {"valid": "pop9", "test": "full"}}})
    'all items ranked (in validation 9 items drawn by popularity for each target, pop9)'
    """
    test, valid = mode_of(settings), mode_of(settings, "valid")
    if test != _FULL:
        return f"each target ranked among {_drawn(test)} ({test}), which is no evidence"
    also = "" if valid == _FULL else f" (in validation {_drawn(valid)} for each target, {valid})"
    return f"all items ranked{also}"


def _drawn(mode: str) -> str:
    return f"{mode[3:]} items {_DRAWN[mode[:3]]}"
