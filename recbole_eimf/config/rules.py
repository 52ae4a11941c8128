"""Rules of several values that are held twice: when a configuration is checked, so that nothing begins in vain, and
where the values are used, for whoever calls that from Python."""

from __future__ import annotations

from collections.abc import Sequence

from recbole_eimf.core.errors import ConfigError


def check_window_stride(stride: int | None, length: int) -> None:
    """``window_stride`` against the ``length`` of sequences: a larger one would leave items between windows out.

    Raises:
        ConfigError: it is outside.
    """
    if stride is not None and not 1 <= stride <= length:
        raise ConfigError(f"window_stride={stride}: 1 to MAX_ITEM_LIST_LENGTH={length}.")


def check_split_ratios(ratios: Sequence[float]) -> None:
    """Shares of users that train, validate, test.

    Raises:
        ConfigError: they are not three, one is negative, or they do not sum to 1.
    """
    if len(ratios) != 3 or min(ratios) < 0 or abs(sum(ratios) - 1) > 1e-6:
        raise ConfigError(
            f"split_ratios={list(ratios)}: three shares >= 0 that sum to 1 are needed, e.g. [0.8,0.1,0.1]."
        )


def check_exemplars(preference: float | None, exemplar_ratio: float | None) -> None:
    """How many exemplars there are: at most one of the two says it.

    Raises:
        ConfigError: both do.
    """
    if preference is not None and exemplar_ratio is not None:
        raise ConfigError(
            f"preference={preference!r}, exemplar_ratio={exemplar_ratio!r}: both say how many exemplars there are. "
            f"Give one, with None for the other."
        )
