"""A trained model on disk: ``model.safetensors`` and ``config.json`` in one folder, without a pickle.

``model.safetensors`` holds the best epoch's tensors under their names in ``state_dict()`` (text is folded into the item
table), those of RecBole's ``other_parameter()`` as ``other.<name>``; its header says which ``epoch`` it was (JSON, key
``values``). ``config.json`` is written when training begins and holds:

=================  =====================================================================================================
``format``         ``"recbole_eimf model"``
``format_version`` 1; a reader refuses versions it does not know
``version``        of this package, when the model was trained
``model``          name of the class; ``backbone``: its backbone's name, or null
``model_import``   ``package.module:Class`` of a model that is neither ours nor RecBole's, else null
``dataset``        name
``given``          every key the user gave, as it was typed (paths, too)
``settings``       every setting that decides figures with its value, defaults included: all that builds the net
``files``          a digest of every file that decides figures (``config.same_experiment.content_digests``)
``data``           number of ``users`` and ``items`` (without padding), and a digest of the ``user_tokens`` and the
                   ``item_tokens`` in the order of the net's rows: another data set is refused
``metrics``        null until the run is finished; then ``valid`` and ``test`` (fractions), ``best_epoch``, and the
                   protocol they were measured under (``protocol``, ``mask_history``, ``valid_metric``, ...)
``changed``        only in a run that went on with other settings than it was begun with: what they were
=================  =====================================================================================================

Reading runs no code from the folder. The class is one of ours or RecBole's by its name; another one is imported only if
the caller names it (``model="package.module:Class"``) or has imported its module already. Settings that would have
RecBole unpickle files (``dataset_save_path``, ``dataloaders_save_path``) are not taken over.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from recbole_eimf.config.config import is_ours, recbole_keys
from recbole_eimf.config.contract import contract_of
from recbole_eimf.config.keys import our_keys
from recbole_eimf.config.models import MODELS, load_model_class
from recbole_eimf.config.same_experiment import INDIFFERENT, content_digests, plain_settings
from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.core.files import TwiceError, json_of, write_json
from recbole_eimf.core.run_folder import CONFIG_FILE, MODEL_FILE, PTH_FILE
from recbole_eimf.core.version import __version__
from recbole_eimf.trainer.pickled import read_pickled
from recbole_eimf.trainer.state import read_state, write_state

FORMAT, FORMAT_VERSION = "recbole_eimf model", 1
_OTHER = "other."
#: keys of a run that mean nothing to whoever reads its model: what it wrote, how it was started, what RecBole unpickles
_OF_THE_RUN = {
    "model", "dataset", "resume", "output_dir", "checkpoint_dir", "save_split", "save_pth", "compare_with", "yes",
    "log_wandb", "wandb_project", "save_dataset", "dataset_save_path", "save_dataloaders", "dataloaders_save_path",
    "nproc", "ip", "port", "world_size", "offset", "local_rank", "config_files", "model_import", "num_threads",
    "recipe", "skip_test", "gpu_id", "use_gpu",
}  # fmt: skip
#: settings that RecBole's Config works out itself
_DERIVED = {
    "model", "dataset", "MODEL_TYPE", "MODEL_INPUT_TYPE", "eval_type", "valid_metric_bigger", "train_neg_sample_args",
    "valid_neg_sample_args", "test_neg_sample_args",
}  # fmt: skip


# ---------------------------------------------------------------------- config.json
def describe(config, dataset) -> dict[str, Any]:
    """What ``config.json`` says of a model that is about to be trained.

    Args:
        config: of the whole run; dataset: a part of the data set, or all of it.
    """
    model_class = config.model_class
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "version": __version__,
        "model": config["model"],
        "backbone": contract_of(model_class).backbone_name(config),
        "model_import": import_path(model_class),
        "dataset": config["dataset"],
        **settings_of(config),
        "data": data_fingerprint(dataset),
        "metrics": None,
    }


def settings_of(config) -> dict[str, Any]:
    """The entries ``given``, ``settings`` and ``files`` of ``config.json``."""
    return {
        "given": json.loads(json.dumps(config.external_config_dict, default=str)),
        "settings": plain_settings(config),
        "files": content_digests(config),
    }


def import_path(model_class: type) -> str | None:
    """``package.module:Class`` of a class that is neither ours nor RecBole's, which are known by their names."""
    package = model_class.__module__.split(".")[0]
    known = package == "recbole" or (package == "recbole_eimf" and model_class.__name__ in MODELS)
    return None if known else f"{model_class.__module__}:{model_class.__qualname__}"


def data_fingerprint(dataset) -> dict[str, Any]:
    """Counts of a data set and digests of its tokens in the order of their numbers: which row is which item."""
    users, items = (dataset.field2id_token[field] for field in (dataset.uid_field, dataset.iid_field))
    return {
        "users": len(users) - 1,
        "items": len(items) - 1,
        "user_tokens": _token_digest(users),
        "item_tokens": _token_digest(items),
    }


def _token_digest(tokens: np.ndarray) -> str:
    return hashlib.sha256("\n".join(map(str, tokens[1:].tolist())).encode()).hexdigest()[:16]


def check_data(description: Mapping[str, Any], dataset, model_class: type, folder: Path) -> None:
    """Refuse a data set other than the one a model was trained on.

    Other users are allowed where they have no vectors: a model of ours reads a history, whoever has it.

    Raises:
        DataError: the items differ, or the users of a model that may have vectors for them.
    """
    trained, now = description["data"], data_fingerprint(dataset)
    if trained is None:  # converted from a pickle that did not say
        return
    for kind in ("item", "user"):
        if trained[f"{kind}_tokens"] == now[f"{kind}_tokens"] or (kind == "user" and is_ours(model_class)):
            continue
        alike = trained[kind + "s"] == now[kind + "s"]
        here = "as many, but others (renamed?) or in another order" if alike else str(now[kind + "s"])
        raise DataError(
            f"{folder / CONFIG_FILE}: the model was trained on {description['dataset']} with {trained[kind + 's']} "
            f"{kind}s; here are {here}. Give the data it was trained on (data_path, and the filters and load_col of "
            f"that run)."
        )


def write_description(folder: Path, description: Mapping[str, Any]) -> None:
    """Write ``config.json``."""
    write_json(folder / CONFIG_FILE, description)


def read_description(folder: Path) -> dict[str, Any]:
    """Read ``config.json`` of a run's folder.

    Raises:
        DataError: there is none, or it is something else, or of a newer version than this one.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise DataError(_nothing_there(folder))
    try:
        found = json_of(path.read_text(encoding="utf-8"))
        known = found["format"] == FORMAT
        version = found["format_version"]
    except TwiceError as error:
        raise DataError(f"{path}: {error}. Keep one.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a model's description ({error!r}). Name the output_dir of a run.") from error
    if not known or version != FORMAT_VERSION:
        raise DataError(
            f"{path}: version {version} of {found['format']!r}, written by version {found.get('version')}; this is "
            f"version {__version__} and reads version {FORMAT_VERSION} of {FORMAT!r}. Use one that is as new."
        )
    lacking = [key for key in ("model", "dataset", "given", "settings", "data") if key not in found]
    if lacking:
        raise DataError(f"{path}: not a model's description (no {', '.join(lacking)}). Name the output_dir of a run.")
    return found


def _nothing_there(folder: Path) -> str:
    pickled = folder / PTH_FILE
    if pickled.is_file():
        return (
            f"{pickled}: an older run's model, a pickle, which no command reads. Convert it (nothing in it is run): "
            f"python -c \"from recbole_eimf.trainer.checkpoint import convert; convert('{pickled}')\""
        )
    return f"{folder}: no {MODEL_FILE} and {CONFIG_FILE} in it. Name the output_dir of a run that saved a model."


def model_folder(path: str | Path) -> Path:
    """The folder of a model, given as the folder itself or as one of its files.

    Raises:
        DataError: there is no model; for a pickle the message says how to convert it.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    if path.suffix == ".pth" and not (folder / MODEL_FILE).is_file():
        raise DataError(_nothing_there(folder) if path.name == PTH_FILE else _foreign_pickle(path))
    if not path.exists() and path.suffix != ".pth":
        raise DataError(f"{path}: no such folder or file. Name the output_dir of a run that saved a model.")
    if not (folder / MODEL_FILE).is_file():
        raise DataError(_nothing_there(folder))
    return folder


def _foreign_pickle(path: Path) -> str:
    if not path.is_file():
        return f"{path}: no such file. Name the output_dir of a run that saved a model."
    return (
        f"{path}: RecBole's checkpoint, a pickle, which can run code when it is read. If you trust it, read it with "
        f"recbole.quick_start.load_data_and_model after recbole_eimf.register()."
    )


# ---------------------------------------------------------------------- the class and the configuration
def model_class_of(description: Mapping[str, Any], folder: Path, allowed: str | type | None = None) -> type:
    """The class of a saved model.

    Args:
        allowed: what the caller trusts: a class, or ``package.module:Class``, which is imported.

    Raises:
        ConfigError: the folder names a class that is not ours, not RecBole's, not imported and not ``allowed``.
    """
    named = description.get("model_import")
    if isinstance(allowed, type):
        return allowed
    if allowed is not None and ":" in allowed:
        if named != allowed:
            raise ConfigError(f"model={allowed}: {folder / CONFIG_FILE} is of {named or description['model']}.")
        return _recommender(load_model_class(allowed), allowed)
    if not named:
        return _recommender(load_model_class(str(description["model"]).replace(":", " ")), description["model"])
    module, _, name = str(named).partition(":")
    if module not in sys.modules:
        raise ConfigError(
            f"{folder / CONFIG_FILE}: the model is {named}, which is neither of recbole_eimf nor of RecBole, and "
            f"importing it runs that module's code. If you trust it, name it: model={named} in Python, "
            f"--model={named} of `export`, `explore` and `agreement` (`recommend` then takes what `export` wrote)."
        )
    return _recommender(load_model_class(named), named)


def _recommender(found: Any, name: str) -> type:
    from recbole.model.abstract_recommender import AbstractRecommender

    if not (isinstance(found, type) and issubclass(found, AbstractRecommender)):
        raise ConfigError(f"model={name}: not a recommender of RecBole's kind. Name the class of a model.")
    return found


def keys_to_build_with(description: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration keys that build a saved model again on the data it was trained on."""
    known = recbole_keys() | {*our_keys()}
    values = {k: v for k, v in description["settings"].items() if k not in _DERIVED and k in known}
    return {k: v for k, v in {**values, **description["given"]}.items() if k not in _OF_THE_RUN}


# ---------------------------------------------------------------------- model.safetensors
def write_weights(folder: Path, model: nn.Module, epoch: int) -> None:
    """Write a model's tensors, atomically.

    Raises:
        ConfigError: the model keeps something that is no tensor and no number, which only a pickle could hold.
    """
    check_saveable(model)
    tensors, values = dict(model.state_dict()), {}
    own = {id(module) for module in model.modules()}
    for name, value in model.other_parameter().items():
        if id(value) in own:
            continue  # RecBole lists modules whose tensors are in the state_dict anyway
        if sparse.issparse(value):
            whole = value.tocsr()
            parts = {"data": whole.data, "indices": whole.indices, "indptr": whole.indptr}
            tensors |= {f"{_OTHER}{name}.{part}": torch.as_tensor(array) for part, array in parts.items()}
            values[name] = {"kind": "csr", "shape": list(whole.shape)}
        elif isinstance(value, Tensor | np.ndarray):
            tensors[f"{_OTHER}{name}"] = torch.as_tensor(value)
            values[name] = {"kind": "tensor" if isinstance(value, Tensor) else "array"}
        elif value is None or isinstance(value, int | float | str):
            values[name] = {"kind": "value", "value": value}
        else:
            raise _not_saveable(model, name, value)
    write_state(folder / MODEL_FILE, tensors, {"epoch": epoch, "other": values})


def check_saveable(model: nn.Module) -> None:
    """Raise ConfigError for a model that :func:`write_weights` will not write, before it is trained."""
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise _not_saveable(model, f"state_dict()[{name!r}]", value)


def _not_saveable(model: nn.Module, name: str, value: Any) -> ConfigError:
    return ConfigError(
        f"model={type(model).__name__}: {name} is a {type(value).__name__}; {MODEL_FILE} holds tensors and numbers. "
        f"Leave it out of the model's state_dict and other_parameter_name, or run RecBole's own run_recbole after "
        f"recbole_eimf.register(), which pickles."
    )


def read_weights(model: nn.Module, folder: Path) -> int:
    """Load ``model.safetensors`` into a model; returns the epoch it is of.

    Raises:
        DataError: the file is missing, broken, or of other shapes.
    """
    path = folder / MODEL_FILE
    if not path.is_file():
        raise DataError(_nothing_there(folder))
    try:
        tensors, values = read_state(path)
    except Exception as error:  # safetensors raises its own type for a truncated header
        raise DataError(
            f"{path}: not a readable safetensors file ({error}). It is damaged: copy it again, or remove the folder "
            f"and train anew."
        ) from error
    other = {name: _other(tensors, name, held) for name, held in values.get("other", {}).items()}
    try:
        model.load_state_dict({name: value for name, value in tensors.items() if not name.startswith(_OTHER)})
    except RuntimeError as error:
        raise DataError(f"{path}: does not fit this model or data set ({error}).") from error
    device = next((value.device for value in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    model.load_other_parameter({k: v.to(device) if isinstance(v, Tensor) else v for k, v in other.items()})
    return values["epoch"]


def _other(tensors: dict[str, Tensor], name: str, held: Mapping[str, Any]) -> Any:
    if held["kind"] == "csr":
        parts = tuple(tensors[f"{_OTHER}{name}.{part}"].numpy() for part in ("data", "indices", "indptr"))
        return sparse.csr_matrix(parts, shape=held["shape"])
    if held["kind"] == "value":
        return held["value"]
    value = tensors[f"{_OTHER}{name}"]
    return value if held["kind"] == "tensor" else value.numpy()


# ---------------------------------------------------------------------- from a pickle


def convert(pth: str | Path) -> Path:
    """Write ``model.safetensors`` and ``config.json`` beside a ``model.pth`` of an older run, or of ``save_pth=True``.

    Only numbers and settings are taken from the pickle, and nothing that it names is called: it need not be trusted.
    What it does not say (which data it was, metrics) is null in ``config.json``; the data are then not checked.

    Returns:
        The folder.

    Raises:
        DataError: the file is not such a checkpoint.
    """
    pth = Path(pth)
    if not pth.is_file():
        raise DataError(f"{pth}: no such file.")
    found = read_pickled(pth)
    description = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "version": __version__,
        "model": found.model,
        "backbone": found.settings.get("backbone"),
        "model_import": found.settings.get("model_import"),
        "dataset": found.dataset,
        "given": found.given,
        "settings": {key: value for key, value in found.settings.items() if key not in INDIFFERENT},
        "files": {},
        "data": None,
        "metrics": None,
    }
    write_state(pth.parent / MODEL_FILE, found.tensors, {"epoch": found.epoch, "other": {}})
    write_description(pth.parent, description)
    return pth.parent
