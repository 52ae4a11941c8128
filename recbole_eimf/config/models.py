"""Names of models: ours, RecBole's, and any importable class."""

from __future__ import annotations

import importlib

from recbole_eimf.core.errors import ConfigError, suggestion

#: model name -> module that holds the class of that name
MODELS = {
    "EIMF": "recbole_eimf.model.eimf",
    "IBIM": "recbole_eimf.model.ibim",
    "REMI": "recbole_eimf.model.ibim",
    "ComiRecSA": "recbole_eimf.model.ibim",
    "ComiRecDR": "recbole_eimf.model.ibim",
    "MIND": "recbole_eimf.model.ibim",
    "DNN": "recbole_eimf.model.ibim",
    "LLM2BERT4Rec": "recbole_eimf.model.ibim",
    "PAD": "recbole_eimf.model.pad.pad",
    "SMEM": "recbole_eimf.model.pad.pad",
    "Hybrid": "recbole_eimf.model.baselines.text_baselines",
    "MoRec": "recbole_eimf.model.baselines.text_baselines",
    "CTRL": "recbole_eimf.model.baselines.text_baselines",
    "MAKE": "recbole_eimf.model.baselines.text_baselines",
    "DisCo": "recbole_eimf.model.baselines.text_baselines",
    "Popularity": "recbole_eimf.model.baselines.counting",
    "Markov": "recbole_eimf.model.baselines.counting",
    "DecayedItemKNN": "recbole_eimf.model.baselines.counting",
}


def load_model_class(name: str) -> type:
    """Find the class of ``--model=name``.

    Args:
        name: one of ours, one of RecBole's, or ``package.module:Class``.

    Raises:
        ConfigError: no such model, module or class; the message suggests the closest name.
    """
    if ":" in name:
        module_name, _, class_name = name.partition(":")
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            raise ConfigError(f"model={name}: cannot import {module_name} ({error}).") from error
        if not hasattr(module, class_name):
            raise ConfigError(f"model={name}: {module_name} has no {class_name}.{suggestion(class_name, vars(module))}")
        return getattr(module, class_name)
    if name in MODELS:
        return getattr(importlib.import_module(MODELS[name]), name)
    from recbole.utils import get_model

    try:
        return get_model(name)
    except (ValueError, AttributeError, ImportError) as error:  # an unknown name makes RecBole import lightgbm
        known = known_model_names()
        raise ConfigError(
            f"model={name}: no such model.{suggestion(name, known)} "
            f"Ours: {', '.join(MODELS)}; RecBole's by their names; your own as package.module:Class."
        ) from error


def known_model_names() -> list[str]:
    """Names that ``--model`` takes without an import path, ours first."""
    stock = importlib.import_module("recbole.model.sequential_recommender")
    return [*MODELS, *sorted(name for name in vars(stock) if name[0].isupper() and name not in MODELS)]
