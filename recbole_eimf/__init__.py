"""LLM-assisted sequential recommendation as a plugin for RecBole 1.2.1.

``register()`` makes RecBole find our models; ``run()`` is the front door as a function; ``Recommender`` serves what a
run has trained. Importing this needs neither RecBole nor torch.
"""

from __future__ import annotations

from typing import Any

from recbole_eimf.core.parts import require
from recbole_eimf.core.version import __version__

__all__ = ["Recommender", "__version__", "register", "run"]


def register() -> None:
    """Register our models with RecBole (see :func:`recbole_eimf.experiment.plugin.register`)."""
    require("recbole")
    from recbole_eimf.experiment import plugin

    plugin.register()


def run(model: str, dataset: str, **overrides: Any):
    """Train and evaluate one model (see :func:`recbole_eimf.experiment.quick_start.run`)."""
    require("recbole")
    from recbole_eimf.experiment import quick_start

    return quick_start.run(model, dataset, **overrides)


def __getattr__(name: str) -> Any:
    if name == "Recommender":  # when it is asked for: it imports torch and pandas
        from recbole_eimf.serving.recommender import Recommender

        return Recommender
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
