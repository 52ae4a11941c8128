"""LLM-assisted sequential recommendation as a plugin for RecBole 1.2.1.

Importing this needs neither RecBole nor torch; what stands below is loaded when it is first asked for.

====================  =================================================================================
``run``               train a model on a data set and test it
``load``              a saved model with its configuration and loaders
``evaluate``          a saved model's test metrics
``compare``           several models, several seeds, one table
``tune``              search a model's settings
``study``             a paper's experiment from a YAML file
``prepare``           write atomic files from raw data
``interests``         the LLM stage alone
``register``          let RecBole find our models
``Recommender``       serve what a run has trained
====================  =================================================================================
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from recbole_eimf.core.parts import require
from recbole_eimf.core.version import __version__

if TYPE_CHECKING:
    from recbole_eimf.data.prepare.raw import prepare
    from recbole_eimf.experiment.interests import interests
    from recbole_eimf.experiment.load import evaluate, load
    from recbole_eimf.experiment.plugin import register
    from recbole_eimf.experiment.result import RunResult
    from recbole_eimf.experiment.run import run
    from recbole_eimf.serving.recommender import Recommender
    from recbole_eimf.study.compare import compare
    from recbole_eimf.study.search.tune import tune
    from recbole_eimf.study.study import run_study as study

#: name -> (where it stands, packages it cannot do without)
_PLACES: dict[str, tuple[str, tuple[str, ...]]] = {
    "run": ("recbole_eimf.experiment.run", ("recbole",)),
    "RunResult": ("recbole_eimf.experiment.result", ("recbole",)),
    "load": ("recbole_eimf.experiment.load", ("recbole",)),
    "evaluate": ("recbole_eimf.experiment.load", ("recbole",)),
    "compare": ("recbole_eimf.study.compare", ("recbole",)),
    "tune": ("recbole_eimf.study.search.tune", ("recbole",)),
    "prepare": ("recbole_eimf.data.prepare.raw", ()),
    "interests": ("recbole_eimf.experiment.interests", ("recbole",)),
    "Recommender": ("recbole_eimf.serving.recommender", ()),
    "register": ("recbole_eimf.experiment.plugin", ("recbole",)),
}
__all__ = ["Recommender", "RunResult", "__version__", "compare", "evaluate", "interests", "load", "prepare", "register",
           "run", "study", "tune"]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "study":
        return import_module("recbole_eimf.study")  # a package that can be called
    if name not in _PLACES:
        raise AttributeError(f"module 'recbole_eimf' has no attribute {name!r}")
    place, needed = _PLACES[name]
    require(*needed)
    return getattr(import_module(place), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES, "study"})
