"""RecBole's own checkpoints, which are pickles."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def trusted_checkpoints() -> Iterator[None]:
    """Inside, ``torch.load`` reads RecBole's checkpoints, which pickle the whole Config.

    Since 2.6 torch refuses them by default (``weights_only``). A checkpoint can run code when it is loaded: load only
    files that you or people you trust have written.
    """
    original = torch.load

    @functools.wraps(original)
    def load(*args: Any, **kwargs: Any) -> Any:
        kwargs.setdefault("weights_only", False)
        return original(*args, **kwargs)

    torch.load = load
    try:
        yield
    finally:
        torch.load = original
