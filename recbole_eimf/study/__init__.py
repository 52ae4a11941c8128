"""Tables over models and seeds, searches, the papers' experiments; called, it makes one of those."""

import sys
from types import ModuleType
from typing import Any


class _Study(ModuleType):
    """This package, which ``recbole_eimf.study("eimf_ablation", "ml-100k")`` calls.

    A package, once imported, takes the place of any function of its name in the package above it.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from recbole_eimf.study.study import run_study

        return run_study(*args, **kwargs)


sys.modules[__name__].__class__ = _Study
