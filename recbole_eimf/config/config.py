"""RecBole's configuration with our models, our YAML files, and every key checked before any work."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterable, Mapping
from functools import cache
from logging import getLogger
from pathlib import Path
from typing import Any

import recbole
import torch
import yaml
from recbole.config import Config

from recbole_eimf.config import checks
from recbole_eimf.config.contract import contract_of, is_ours
from recbole_eimf.config.keys import our_keys
from recbole_eimf.config.layers import merged, our_layers
from recbole_eimf.config.models import known_model_names, load_model_class
from recbole_eimf.config.old_names import OLD_NAMES, today
from recbole_eimf.config.reading import check_read
from recbole_eimf.config.recbole_keys import checked_recbole_keys
from recbole_eimf.config.stock_needs import check_settings, stock_class, stock_defaults
from recbole_eimf.config.yaml_file import (
    line_of,
    parse_command_line,
    parse_value,
    read_yaml,
    value_of,
    values_placed,
)
from recbole_eimf.core import distributed
from recbole_eimf.core.disk import LONGEST_NAME
from recbole_eimf.core.errors import ConfigError, suggestion

__all__ = ["EIMFConfig", "check_configuration", "check_keys", "is_ours", "known_model_names", "parse_command_line",
           "parse_value", "plugin_defaults", "read_yaml", "recbole_keys"]  # fmt: skip

# Keys RecBole reads that stand in none of its YAML files.
_RECBOLE_EXTRA_KEYS = {
    "model", "dataset", "config_files", "config_file", "encoding", "nproc", "ip", "port", "world_size", "offset",
    "group_offset", "local_rank", "numerical_features", "discretization", "reg_weight", "embedding_size",
    "MODEL_TYPE", "MODEL_INPUT_TYPE", "user_inter_num_interval", "item_inter_num_interval", "tool", "params_file",
    "val_interval", "item_price", "tail_ratio", "loss_type", "transform", "save_dataset", "wandb_project",
}  # fmt: skip
#: what only files of `study` and options of `compare` and `tune` say -> where it is said
ELSEWHERE = {
    "seeds": "`compare --seeds=5` trains with several; one run takes --seed=2020",
    "rows": "rows belong in a study's file, or in `compare --models_file=FILE.yaml`",
    "grid": "a grid belongs in a study's file: `study FILE.yaml`",
    "columns": "columns belong in a study's file: `study FILE.yaml`",
    "axis": "an axis belongs in a study's file: `study FILE.yaml`",
    "keys": "keys belong in a study's file: `study FILE.yaml`",
    "floors": "floors belong in a study's file; a run takes --compare_with=[Popularity,Markov]",
    "title": "`compare --title=...` names a table",
    "models": "`compare --models=SASRec,EIMF[SASRec]` trains several; one run takes --model=EIMF",
    "out": "`compare` and `tune` take --out; a run takes --output_dir",
    "samples": "`tune --samples=20` searches",
}


@cache
def recbole_keys() -> frozenset[str]:
    """Every key RecBole knows: its argument lists, its YAML files, and a few it reads without listing them."""
    from recbole.utils import dataset_arguments, evaluation_arguments, general_arguments, training_arguments

    keys = {*general_arguments, *training_arguments, *evaluation_arguments, *dataset_arguments, *_RECBOLE_EXTRA_KEYS}
    for path in (Path(recbole.__file__).parent / "properties").rglob("*.yaml"):
        if path.name not in ("url.yaml", "kg_url.yaml"):
            # a hundred files, whose keys alone are wanted: ten times as fast as our own reading
            keys.update(yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or ())
    return frozenset(keys) | {*checked_recbole_keys()}


def _shown(key: str, value: Any) -> str:
    """An unknown key's value, unless it may be a secret: what is on the screen is soon in a log."""
    return "its value is not repeated: it may be a secret" if may_be_secret(key, value) else f"value {value!r}"


def may_be_secret(key: str, value: Any) -> bool:
    """Whether the value of a key that nobody here knows may be a password or an API key."""
    named = re.search(r"api_?key|secret|password|(access|auth)_?token", str(key), re.I)
    return bool(named) or str(value).startswith("sk-")


def check_keys(
    given: Mapping[str, Any], also_known: Iterable[str] = (), said_in: Mapping[str, str | Path] | None = None
) -> None:
    """Raise ConfigError for a key that neither RecBole nor we know, with the closest one that exists.

    Args:
        said_in: key -> the file that gives it.
    """
    known = recbole_keys() | {*our_keys(), *OLD_NAMES} | set(also_known)
    for key in given:
        if key in known:
            continue
        path = (said_in or {}).get(key)
        place = f"{path}, line {line_of(Path(path), key)}: " if path else ""
        if key in ELSEWHERE:
            raise ConfigError(
                f"{place}{key}={given[key]!r}: not a key of a run. {ELSEWHERE[key][0].upper()}{ELSEWHERE[key][1:]}.",
                key,
            )
        raise ConfigError(
            f"{place}unknown key '{key}' ({_shown(key, given[key])}).{suggestion(key, known)} "
            f"If your own model reads it, add --allow_unknown_keys=True.",
            key,
        )


def plugin_defaults(model_class: type | None, model: str, dataset: str, external: Mapping[str, Any]) -> dict[str, Any]:
    """What the catalogue and our YAML files say, see :func:`recbole_eimf.config.layers.our_layers`."""
    return merged(our_layers(model_class, model, dataset, external))


class Settled(dict):
    """All keys of a configuration as they will be; one that nobody sets is None, as RecBole's Config has it."""

    def __missing__(self, key: str) -> None:
        return None


def check_configuration(config: Config) -> None:
    """Check a configuration whose layers are loaded, before RecBole changes the form of anything.

    Raises:
        ConfigError: naming key, value and remedy.
    """
    given, internal = config.external_config_dict, config.internal_config_dict
    final = Settled({**internal, **given, "model": config.model, "dataset": config.dataset})
    checks.check_values(given, internal, final)
    # to say what would be so anyway is no wish that might be ignored
    wishes = {key: value for key, value in given.items() if key not in internal or internal[key] != value}
    checks.check_together(wishes, final)
    checks.check_backbone(config.model_class, wishes)
    checks.check_protocol(wishes, final)
    checks.check_compared(wishes, final)
    checks.check_columns(wishes, final)
    contract_of(config.model_class).check_configuration(final)
    checks.check_able(config.model_class, final)
    if not final["inference_only"]:  # a saved model has had its training
        check_read(config.model_class, wishes)


def plain_name(key: str, name: Any) -> str:
    """``name`` if it can be the name of a folder and begin the names of files. Raises ConfigError naming the key."""
    name = str(name)
    if not name or name[0] == "." or set(name) & set("/\\\0\n\r\t"):
        raise ConfigError(
            f"{key}={name}: not the plain name of a data set. Give the name of its folder here, and the folder above "
            f"it as data_path."
        )
    if len(name.encode()) > LONGEST_NAME:
        raise ConfigError(f"{key}={name[:40]}...: {len(name.encode())} bytes; a name has at most {LONGEST_NAME}.")
    return name


@cache
def say_once(words: str) -> None:
    """Say it once: a table makes many configurations."""
    getLogger().warning(words)


@cache
def _parsed(file: str, loader: type) -> dict[str, Any] | None:
    """A YAML file of RecBole's as its own loader reads it."""
    with open(file, encoding="utf-8") as stream:
        return yaml.load(stream.read(), Loader=loader)  # noqa: S506 (a file of the package)


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
        if not is_ours(self.model_class):
            check_settings(self)

    def _convert_config_dict(self, config_dict):
        return {key: value_of(key, v) if isinstance(v, str) else v for key, v in config_dict.items()}

    def _load_config_files(self, file_list):
        merged_files: dict[str, Any] = {}
        self.said_in: dict[str, str] = {}
        for part in file_list or ():  # a mapping is what a file once said
            values = part if isinstance(part, Mapping) else read_yaml(part)
            if not isinstance(part, Mapping):
                self.said_in.update(dict.fromkeys(values, str(part)))
            merged_files.update(values)
        return merged_files

    def _load_cmd_line(self):
        return {}  # the front door passes the command line as config_dict; a library must not read sys.argv

    def _merge_external_config_dict(self):
        super()._merge_external_config_dict()
        if not self.external_config_dict.get("allow_unknown_keys"):
            check_keys(self.external_config_dict, said_in=self.said_in)
        if OLD_NAMES.keys() & self.external_config_dict:
            getLogger().warning(
                "esim is called recipe now; --recipe=paper is the paper's whole form, and --esim=paper was half of it"
            )
            self.external_config_dict = today(self.external_config_dict)

    def _set_default_parameters(self):
        data_path = self.final_config_dict["data_path"]
        if not hasattr(self.model_class, "input_type") and "loss_type" not in self.final_config_dict:
            raise ConfigError(
                f"model={self.model}: does not say how it learns. Add --loss_type=CE (all items compete with the "
                f"target) or --loss_type=BPR (drawn items do)."
            )
        super()._set_default_parameters()
        if self.dataset != checks.BUNDLED:
            return
        folder = checks.data_folder(self.dataset, data_path)  # RecBole takes its own without a look at data_path
        self.final_config_dict["data_path"] = str(folder)
        if "data_path" in self.external_config_dict and checks.is_bundled(folder):
            say_once(f"data_path={data_path}: has no {self.dataset}; the one inside the recbole package is used")

    def _init_device(self):
        """The device, by ``use_gpu`` and ``gpu_id``; one of several processes takes the GPU of its number on this
        machine, and only the first of all shows what it does.

        RecBole lets its default ``gpu_id: 0`` decide over ``CUDA_VISIBLE_DEVICES``, reads no ``use_gpu``, and believes
        in ``gpu_id=-1`` only where CUDA has not begun yet. Here what the environment shows stays as it is unless a
        ``gpu_id`` is given, and whoever asks for a processor gets one.
        """
        here, values = distributed.place(), self.final_config_dict
        if here is None and "local_rank" in values:  # RecBole's own processes
            if "nproc" not in values:
                raise ConfigError(
                    f"local_rank={values['local_rank']}: the program sets it. Leave it out; --nproc=2 trains with two "
                    f"processes."
                )
            super()._init_device()
            return
        if here is not None:
            values["world_size"] = here.world_size
            if here.rank:
                values |= {"state": "error", "show_progress": False, "log_wandb": False}
        gpu = values["gpu_id"]
        gpu = ",".join(map(str, gpu)) if isinstance(gpu, tuple | list) else "" if gpu is None else str(gpu)
        wanted = values["use_gpu"] is not False and gpu not in ("", "-1")
        if wanted and "gpu_id" in self.external_config_dict:
            os.environ["CUDA_VISIBLE_DEVICES"] = gpu
        elif wanted:
            gpu = os.environ.get("CUDA_VISIBLE_DEVICES", gpu)
        values |= {"gpu_id": gpu, "single_spec": True, "local_rank": 0}
        if not wanted:  # by this RecBole's trainers decide whether to ask a GPU how full it is
            values["use_gpu"] = False
        values["device"] = torch.device("cuda" if wanted and torch.cuda.is_available() else "cpu")
        if here is not None and values["device"].type == "cuda":
            gpus = torch.cuda.device_count()
            if gpus < here.local_world_size:
                raise ConfigError(
                    f"gpu_id={values['gpu_id']}: {gpus} GPUs for {here.local_world_size} processes on this machine. "
                    f"Name one for each, for example --gpu_id=0,1; --gpu_id='' is the CPU."
                )
            values["device"] = torch.device("cuda", here.local_rank)
            torch.cuda.set_device(here.local_rank)

    def _get_model_and_dataset(self, model, dataset):
        model, model_class, dataset = super()._get_model_and_dataset(model, dataset)
        return model, model_class, plain_name("dataset", dataset)

    def _update_internal_config_dict(self, file):
        """RecBole's, but that a process parses a file of RecBole's package once."""
        values = copy.deepcopy(_parsed(file, self.yaml_loader))
        if values is not None:
            self.internal_config_dict.update(values)
        return values

    def _load_internal_config_dict(self, model, model_class, dataset):
        stock = stock_class(model_class)
        # a subclass of RecBole's in anybody's module starts from what it derives from
        super()._load_internal_config_dict(stock.__name__ if stock else model, model_class, dataset)
        ours = is_ours(model_class)
        given, stock_values = self.external_config_dict, dict(self.internal_config_dict)
        values = plugin_defaults(model_class if ours else None, model, dataset, given)
        if not ours:
            values |= stock_defaults(model_class, stock_values, values, given)
        self.internal_config_dict.update(values)
        typed = self.variable_config_dict
        with values_placed({key: path for key, path in self.said_in.items() if key not in typed}):
            check_configuration(self)
