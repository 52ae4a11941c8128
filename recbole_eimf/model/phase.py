"""A phase of a model that is trained in several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Phase:
    """A phase before the last.

    name: of its folder and progress bar; model: what is trained and left at its best epoch; keys: over the run's
    configuration (``None`` values are ignored); cached: share the outcome with other runs; select: choose the best
    epoch on validation, or take the last one where the phase's loss does not rank.
    """

    name: str
    model: nn.Module
    keys: Mapping[str, Any]
    cached: bool = False
    select: bool = True
