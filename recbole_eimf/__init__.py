"""LLM-assisted sequential recommendation as a plugin for RecBole 1.2.1.

``register()`` makes RecBole find our models; ``run()`` is the front door as a function; ``Recommender`` serves what a
run has trained.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["Recommender", "register", "run"]


def register() -> None:
    """Register our models with RecBole (see :func:`recbole_eimf.experiment.plugin.register`)."""
    from recbole_eimf.experiment import plugin

    plugin.register()


def run(model: str, dataset: str, **overrides: Any):
    """Train and evaluate one model (see :func:`recbole_eimf.experiment.quick_start.run`)."""
    from recbole_eimf.experiment import quick_start

    return quick_start.run(model, dataset, **overrides)


def __getattr__(name: str) -> Any:
    if name == "Recommender":  # when it is asked for: it imports torch and pandas
        from recbole_eimf.serving.recommender import Recommender

        return Recommender
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
