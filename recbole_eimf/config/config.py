"""RecBole's configuration with our models, our YAML files and our keys checked."""

from __future__ import annotations

import ast
import datetime
import os
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import recbole
import torch
import yaml
from recbole.config import Config

from recbole_eimf.config import keys
from recbole_eimf.config.layers import properties_folder
from recbole_eimf.config.models import load_model_class
from recbole_eimf.core import distributed
from recbole_eimf.core.errors import ConfigError, suggestion

# Keys RecBole reads that stand in none of its YAML files.
_RECBOLE_EXTRA_KEYS = {
    "model", "dataset", "config_files", "config_file", "encoding", "nproc", "ip", "port", "world_size", "offset",
    "group_offset", "local_rank", "numerical_features", "discretization", "reg_weight", "embedding_size",
    "MODEL_TYPE", "MODEL_INPUT_TYPE", "user_inter_num_interval", "item_inter_num_interval", "tool", "params_file",
    "val_interval", "item_price", "tail_ratio", "loss_type", "transform", "save_dataset", "wandb_project",
}  # fmt: skip


class _SafeLoader(yaml.SafeLoader):
    """YAML without code, where ``1e-4`` is a number and a date stays text."""


_SafeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)$"),
    list("-+0123456789."),
)


def parse_value(text: str) -> Any:
    """Read a command-line value: a Python literal, else YAML, else the text itself. Nothing is evaluated.

    >>> parse_value("1e-3"), parse_value("[10,20]"), parse_value("[Recall, NDCG]"), parse_value("None")
    (0.001, [10, 20], ['Recall', 'NDCG'], None)
    >>> parse_value("[5,inf)"), parse_value("true"), parse_value("a=b")
    ('[5,inf)', True, 'a=b')
    """
    if text.strip() in ("None", ""):
        return None
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        try:
            value = yaml.load(text, Loader=_SafeLoader)  # noqa: S506 (a SafeLoader)
        except yaml.YAMLError:
            return text
    # a date stays the text it was
    return text if isinstance(value, datetime.date) else value


def parse_command_line(arguments: Iterable[str]) -> dict[str, Any]:
    """Turn ``--key=value`` arguments into a dictionary.

    Raises:
        ConfigError: an argument of another form, or a key given twice with different values.
    """
    values: dict[str, Any] = {}
    texts: dict[str, str] = {}
    for argument in arguments:
        key, sign, text = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not sign or not key:
            raise ConfigError(f"argument {argument!r}: write --key=value, without spaces around '='.")
        if texts.get(key, text) != text:
            raise ConfigError(f"--{key} is given twice: {texts[key]!r} and {text!r}. Keep one.")
        texts[key] = text
        values[key] = parse_value(text)
    return values


@cache
def recbole_keys() -> frozenset[str]:
    """Every key RecBole knows: its argument lists, its YAML files, and a few it reads without listing them."""
    from recbole.utils import dataset_arguments, evaluation_arguments, general_arguments, training_arguments

    keys = {*general_arguments, *training_arguments, *evaluation_arguments, *dataset_arguments, *_RECBOLE_EXTRA_KEYS}
    for path in (Path(recbole.__file__).parent / "properties").rglob("*.yaml"):
        if path.name in ("url.yaml", "kg_url.yaml"):
            continue
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_SafeLoader)
        keys.update(content or ())
    return frozenset(keys)


@cache
def shipped_keys() -> frozenset[str]:
    """Every key of ours: the typed settings, and what the shipped YAML files set for a model."""
    found = set(keys.known_keys())
    for path in properties_folder().rglob("*.yaml"):
        found.update(read_yaml(path))
    return frozenset(found)


def check_keys(given: Mapping[str, Any], also_known: Iterable[str] = ()) -> None:
    """Raise ConfigError for a key that neither RecBole nor we know, with the closest one that exists."""
    known = recbole_keys() | shipped_keys() | set(also_known)
    for key in given:
        if key not in known:
            raise ConfigError(
                f"unknown key '{key}' (value {given[key]!r}).{suggestion(key, known)} "
                f"If your own model reads it, add --allow_unknown_keys=True."
            )


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Read a YAML mapping. Raises ConfigError naming file and line."""
    path = Path(path)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_SafeLoader)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such configuration file.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: not YAML ({getattr(error, 'problem', error)}).") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected 'key: value' lines, got a {type(content).__name__}.")
    return content


def plugin_defaults(model_class: type | None, model: str, dataset: str, external: Mapping[str, Any]) -> dict[str, Any]:
    """What our YAML says, weakest first: settings, overall, the backbone's (RecBole's, ours), those of the model's
    ancestors and its own, the form of EIMF (``esim``), the data set's, the recipe's.

    Args:
        model_class: the model's class; None is a model that is not ours.
        model, dataset: names; external: the user's keys.

    Raises:
        ConfigError: there is no such recipe.
    """
    folder = properties_folder()
    values: dict[str, Any] = keys.defaults()
    # a subclass of ours in anybody's module starts from what it derives from
    family = [cls.__name__ for cls in reversed(model_class.__mro__) if is_ours(cls)] if model_class else [model]
    own = [path for name in family if (path := folder / "model" / f"{name}.yaml").is_file()]
    model_values = {key: value for path in own for key, value in read_yaml(path).items()}
    files = [folder / "overall.yaml"]
    recipe = external.get("recipe")
    recipes = _recipe_files(folder / "recipe", model, str(recipe)) if recipe else []
    backbone = external.get("backbone", model_values.get("backbone"))
    if isinstance(backbone, str):
        files.append(Path(recbole.__file__).parent / "properties" / "model" / f"{backbone}.yaml")
        files.append(folder / "backbone" / f"{backbone}.yaml")
    files += own
    form = external.get("esim", model_values.get("esim"))
    if form is not None:
        files.append(folder / "esim" / f"{form}.yaml")
    files += [folder / "dataset" / f"{dataset}.yaml", *recipes]
    for path in files:
        if path.is_file():
            values.update(read_yaml(path))
    return values


def _recipe_files(folder: Path, model: str, recipe: str) -> list[Path]:
    """``<recipe>.yaml``, for every model, and over it ``<Model>-<recipe>.yaml``; one of them must exist."""
    files = [path for path in (folder / f"{recipe}.yaml", folder / f"{model}-{recipe}.yaml") if path.is_file()]
    if not files:
        known = {name for path in folder.glob("*.yaml") for name in [path.stem.removeprefix(f"{model}-")]}
        known = sorted(name for name in known if "-" not in name)
        raise ConfigError(
            f"recipe={recipe}: no such recipe of {model}.{suggestion(recipe, known)} There are: {', '.join(known)}."
        )
    return files


class EIMFConfig(Config):
    """RecBole's Config that finds our models and YAML files, checks keys, and evaluates no user input.

    Strongest first: ``config_dict`` (which holds the command line), ``config_file_list``, our YAML, RecBole's YAML.

    Raises:
        ConfigError: an unknown key, a value that is not allowed, an unknown model.
    """

    def __init__(self, model=None, dataset=None, config_file_list=None, config_dict=None):
        if isinstance(model, str):
            model = load_model_class(model)
        super().__init__(model, dataset, config_file_list, config_dict)
        # a typed reading of every part: a bad value is an error now, not after an hour
        for part in keys.ALL_SETTINGS:
            keys.read(part, self.final_config_dict)

    def _convert_config_dict(self, config_dict):
        return {key: parse_value(v) if isinstance(v, str) else v for key, v in config_dict.items()}

    def _load_config_files(self, file_list):
        merged: dict[str, Any] = {}
        for path in file_list or ():
            merged.update(read_yaml(path))
        return merged

    def _load_cmd_line(self):
        return {}  # the front door passes the command line as config_dict; a library must not read sys.argv

    def _merge_external_config_dict(self):
        super()._merge_external_config_dict()
        if not self.external_config_dict.get("allow_unknown_keys"):
            check_keys(self.external_config_dict)

    def _init_device(self):
        """RecBole's choice; one of several processes takes the GPU of its number on this machine, and only the first of
        all shows what it does."""
        here = distributed.place()
        if here is None:
            super()._init_device()
            return
        values = self.final_config_dict
        values["world_size"] = here.world_size
        if here.rank:
            values |= {"state": "error", "show_progress": False, "log_wandb": False}
        if "gpu_id" not in self.external_config_dict:
            all_here = ",".join(str(gpu) for gpu in range(here.local_world_size))
            values["gpu_id"] = os.environ.get("CUDA_VISIBLE_DEVICES") or all_here
        super()._init_device()
        if values["device"].type == "cuda":
            gpus = torch.cuda.device_count()
            if gpus < here.local_world_size:
                raise ConfigError(
                    f"gpu_id={values['gpu_id']}: {gpus} GPUs for {here.local_world_size} processes on this machine. "
                    f"Name one for each, for example --gpu_id=0,1; --gpu_id='' is the CPU."
                )
            values["device"] = torch.device("cuda", here.local_rank)
            torch.cuda.set_device(here.local_rank)

    def _load_internal_config_dict(self, model, model_class, dataset):
        super()._load_internal_config_dict(model, model_class, dataset)
        if not is_ours(model_class):  # register() adds our YAML for our models whoever makes the Config
            self.internal_config_dict.update(plugin_defaults(None, model, dataset, self.external_config_dict))


def is_ours(model_class: type) -> bool:
    """Whether a model class is one of this plugin's, or derives from one."""
    return getattr(model_class, "recbole_eimf_model", False)
