"""What RecBole's own models need beyond rows of items: negatives, columns, files. Checked before any work.

Nothing here holds a list of models where RecBole's classes and YAML files say it themselves: a class says how it learns
(``input_type``), a model's YAML which item columns it reads (``selected_features``, ``item_attribute``), and RecBole's
``<Model>Dataset`` whether it needs a knowledge graph.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import recbole.data.dataset
from recbole.data.dataset import KGSeqDataset
from recbole.model.layers import TransformerEncoder
from recbole.utils import InputType, ModelType

from recbole_eimf.config.contract import is_ours
from recbole_eimf.config.keys import our_keys
from recbole_eimf.config.reading import recbole_defaults
from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.core.files import first_line

#: what RecBole's documentation says of its knowledge-graph models: the files, by suffix, and their columns
_GRAPH_COLUMNS = {
    "kg": ["head_id", "relation_id", "tail_id"],
    "link": ["item_id", "entity_id"],
    "ent": ["ent_id", "ent_emb"],
    "rel": ["rel_id", "rel_emb"],
}
_GRAPH_DEFAULTS = {
    "additional_feat_suffix": ["ent", "rel"],
    "alias_of_entity_id": ["ent_id"],
    "alias_of_relation_id": ["rel_id"],
    "preload_weight": {"ent_id": "ent_emb", "rel_id": "rel_emb"},
}
_FEATURE_KEYS = ("selected_features", "item_attribute")


def stock_class(model_class: type) -> type | None:
    """RecBole's model that ``model_class`` is or derives from; ``None`` for a model of ours or of nobody's."""
    if is_ours(model_class):
        return None
    return next((cls for cls in model_class.__mro__ if "_recommender." in cls.__module__ and _is_recbole(cls)), None)


def _is_recbole(cls: type) -> bool:
    return cls.__module__.startswith("recbole.model.")


def lacks_encoder(model_class: type) -> bool:
    """Whether a model of RecBole's has no transformer encoder: no module of its classes knows RecBole's.

    False for models of others, which may have their own; of those only the built one tells.
    """
    if stock_class(model_class) is not model_class:
        return False
    modules = {cls.__module__ for cls in model_class.__mro__ if _is_recbole(cls)}
    return not any(hasattr(sys.modules[module], TransformerEncoder.__name__) for module in modules)


def needs_graph(model_class: type) -> bool:
    """Whether RecBole gives the model a data set with a knowledge graph."""
    stock = stock_class(model_class)
    kind = getattr(recbole.data.dataset, f"{stock.__name__}Dataset", None) if stock else None
    return kind is not None and issubclass(kind, KGSeqDataset)


def graph_files(config: Any) -> tuple[str, ...]:
    """The suffixes of the files that a knowledge graph is read from."""
    return ("kg", "link", *(config["additional_feat_suffix"] or ()))


def needs_negatives(model_class: type, values: Mapping[str, Any]) -> bool:
    """Whether the model learns from pairs or labels, which need sampled items; a softmax over all items does not."""
    if values.get("MODEL_TYPE") not in (ModelType.SEQUENTIAL, ModelType.GENERAL):
        return False
    kind = getattr(model_class, "input_type", None)
    return kind in (InputType.PAIRWISE, InputType.POINTWISE) or (kind is None and values.get("loss_type") == "BPR")


def stock_defaults(model_class: type, stock: Mapping[str, Any], ours: Mapping[str, Any], given: Mapping) -> dict:
    """What a model of RecBole's gets over our common defaults.

    Args:
        model_class: the model.
        stock: RecBole's defaults for it; ours: our common ones; given: the user's keys, which are stronger.

    Returns:
        RecBole's negatives if it learns from them, the columns of items, users and entities that it reads, and its own
        settings that are called like a key of ours (FOSSIL's ``alpha`` is not EIMF's).
    """
    own = recbole_defaults((stock_class(model_class) or model_class).__name__)
    values: dict[str, Any] = {name: stock[name] for name in own if name in our_keys() and name in stock}
    merged = {**stock, **ours, **values, **given}
    if needs_negatives(model_class, merged):
        values["train_neg_sample_args"] = stock.get("train_neg_sample_args") or {"distribution": "uniform"}
    load = {**(stock.get("load_col") or {}), **(ours.get("load_col") or {})}
    features = item_features(model_class, merged)
    if features:
        load["item"] = list(dict.fromkeys([merged["ITEM_ID_FIELD"], *load.get("item", ()), *features]))
    if needs_graph(model_class):
        values |= _GRAPH_DEFAULTS
        load |= _GRAPH_COLUMNS
    values["load_col"] = load
    if "save_step" in merged and "pretrain_epochs" in merged:  # else a short first stage would write nothing
        values["save_step"] = min(merged["save_step"], merged["pretrain_epochs"])
    return values


def item_features(model_class: type, values: Mapping[str, Any]) -> list[str]:
    """The item columns that a model of RecBole's reads, by its keys ``selected_features`` and ``item_attribute``."""
    stock = stock_class(model_class)
    if stock is None:
        return []
    known = recbole_defaults(stock.__name__)
    found = [values.get(key) for key in _FEATURE_KEYS if key in known]
    return [name for value in found if value for name in (value if isinstance(value, (list, tuple)) else [value])]


def check_settings(config: Any) -> None:
    """Raise ConfigError for settings under which a model of RecBole's cannot learn; ``config`` is RecBole's Config."""
    values = config.final_config_dict
    kind = values.get("MODEL_TYPE")
    if stock_class(config.model_class) and kind in (ModelType.CONTEXT, ModelType.DECISIONTREE, ModelType.KNOWLEDGE):
        raise ConfigError(
            f"model={config['model']}: RecBole's {kind.name.lower()} models read more than who had which item, "
            f"and no data set here loads that. Train it with RecBole itself, or take a sequential or general model."
        )
    arguments = values["train_neg_sample_args"]
    if needs_negatives(config.model_class, values) and arguments["distribution"] == "none":
        raise ConfigError(
            f"train_neg_sample_args=None: {config['model']} learns from items a user did not take. Leave the key out, "
            "or give --train_neg_sample_args=\"{'distribution': 'uniform', 'sample_num': 1}\"."
        )
    stage = values.get("train_stage")
    if stage is not None and kind == ModelType.GENERAL:
        raise ConfigError(f"model={config['model']}: trained in stages that only RecBole itself knows. Train it there.")
    if stage is not None and stage not in ("pretrain", "finetune"):
        raise ConfigError(f"train_stage={stage}: allowed are pretrain, finetune.")
    path = values.get("pre_model_path")
    if stage == "finetune" and not (path and Path(path).is_file()):
        raise ConfigError(
            f"pre_model_path={path or None}: train_stage=finetune goes on from the file that --train_stage=pretrain "
            f"writes, {config['model']}-{config['dataset']}-EPOCHS.pth in checkpoint_dir. No such file."
        )


def check_files(config: Any, folder: Path, token: str) -> None:
    """Raise what a model of RecBole's lacks in the atomic files of a data set.

    Args:
        config: RecBole's Config; folder, token: where the files are and their name without suffix.

    Raises:
        DataError: a knowledge-graph file is missing; ConfigError: an item column that the model reads is.
    """
    model_class = getattr(config, "model_class", None)
    if model_class is None or stock_class(model_class) is None:
        return
    if needs_graph(model_class):
        _check_graph(config, folder, token)
    wanted = item_features(model_class, config.final_config_dict)
    if not wanted:
        return
    key = next(key for key in _FEATURE_KEYS if config[key])
    path = folder / f"{token}.item"
    columns = _columns(path, config["field_separator"], config["encoding"]) if path.is_file() else []
    missing = [name for name in wanted if name not in columns]
    if missing:
        others = [name for name in columns if name != config["ITEM_ID_FIELD"]]
        ways = f"It has: {', '.join(others)}; choose with --{key}=." if others else "It has no other column."
        raise ConfigError(
            f"{key}={config[key]}: {config['model']} reads these columns of items, and {path} "
            f"{'has no ' + ', '.join(missing) if columns else 'is not there'}. "
            f"{ways if columns else 'Write one with python -m recbole_eimf prepare.'}"
        )
    loaded = (config["load_col"] or {}).get("item", wanted) if config["load_col"] else wanted
    hidden = [name for name in wanted if name not in loaded]
    if hidden:
        raise ConfigError(f"load_col: {config['model']} reads {', '.join(hidden)} of items ({key}); add it to item.")


def _check_graph(config: Any, folder: Path, token: str) -> None:
    wanted = graph_files(config)
    missing = [f"{token}.{suffix}" for suffix in wanted if not (folder / f"{token}.{suffix}").is_file()]
    if missing:
        columns = "; ".join(f".{s}: {', '.join(_GRAPH_COLUMNS[s])}" for s in wanted if s in _GRAPH_COLUMNS)
        raise DataError(
            f"model={config['model']}: needs a knowledge graph with trained vectors, and {folder} has no "
            f"{', '.join(missing)} (columns {columns}). Put them there, or choose a model that needs none."
        )


def _columns(path: Path, separator: str, encoding: str | None) -> list[str]:
    return [column.partition(":")[0] for column in first_line(path, encoding).split(separator)]
