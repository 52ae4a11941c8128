"""``run``: a model trained on a data set, in one process or several, with the runs beside it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recbole_eimf.config import keys
from recbole_eimf.config.config import EIMFConfig
from recbole_eimf.config.contract import contract_of
from recbole_eimf.config.keys import RunSettings
from recbole_eimf.config.layers import concerning
from recbole_eimf.config.models import load_model_class
from recbole_eimf.config.placebo import PLACEBOS, SHUFFLED, check_placebo, own_placebo
from recbole_eimf.config.reading import ignored, switched_off, unasked
from recbole_eimf.config.same_experiment import unread
from recbole_eimf.config.yaml_file import read_files
from recbole_eimf.core import distributed
from recbole_eimf.core.errors import ConfigError, UserError
from recbole_eimf.core.files import write_json
from recbole_eimf.core.folders import check_kind
from recbole_eimf.core.locks import folder_locked
from recbole_eimf.core.parts import require
from recbole_eimf.core.run_folder import COMPARED, RESULT_FILE
from recbole_eimf.experiment import plugin
from recbole_eimf.experiment.one_run import run_one
from recbole_eimf.experiment.result import RunResult
from recbole_eimf.semantic.needs import check_needs
from recbole_eimf.trainer.resuming import check_replaced


def run(
    model: str | type,
    dataset: str,
    config_file_list: list[str] | None = None,
    callback: Callable[[int, float], None] | None = None,
    **overrides: Any,
) -> RunResult:
    """Train a model on a data set and evaluate its best epoch.

    Args:
        model: a name of ours or RecBole's, ``package.module:Class``, or a class.
        dataset: the name of a folder of atomic files under ``data_path``, or of RecBole's download list.
        config_file_list: YAML files, the later ones stronger.
        callback: called after every validation with the epoch and its ``valid_metric``; epochs count from 0, of a model
            trained in phases those of the last one, and -1 is the evaluation before it.
        overrides: any configuration key; strongest. ``nproc`` above 1 trains with that many processes (a script that
            calls this then needs ``if __name__ == "__main__":``); under ``torchrun`` every process calls this.

    Returns:
        The result; with ``output_dir`` set it is also ``<output_dir>/result.json``, beside ``model.safetensors`` with
        ``config.json`` (:mod:`recbole_eimf.trainer.checkpoint`; ``save_pth=True`` adds RecBole's ``model.pth``),
        ``history.json`` and ``test_ranks.safetensors`` (where every test target was ranked: read it with
        :func:`recbole_eimf.evaluator.ranks.read_ranks`). Without ``output_dir`` the model is
        ``saved/<model>-<backbone>-<data set>-<time>``.

    Raises:
        UserError: bad keys, files or sources, before any long work.

    Example:
        >>> import recbole_eimf
        >>> result = recbole_eimf.run(
        ...     "Popularity", "ml-100k", compare_with=[], show_progress=False, state="ERROR"
        ... )
        >>> result.to_frame()[["model", "ndcg@10"]].round(4).values.tolist()
        [['Popularity', 0.0223]]
    """
    processes = distributed.asked({**read_files(config_file_list), **overrides})
    if processes is not None:
        return _run_in_processes(processes, (model, dataset, config_file_list), callback, overrides)
    plugin.adapt_recbole()
    import_path = model if isinstance(model, str) and ":" in model else None
    config = EIMFConfig(model, dataset, config_file_list, {**overrides, "model_import": import_path})
    if config["log_wandb"]:
        require("wandb")
    wanted = keys.read(RunSettings, config.final_config_dict)
    check_placebo(config, config.external_config_dict)
    check_needs(config)
    _tell_unread(config)
    beside = _company(config, wanted, config_file_list, overrides)
    distributed.join(config["device"])
    with _own_folder(wanted):
        if wanted.output_dir and not wanted.resume and distributed.is_first():
            check_replaced(config, Path(wanted.output_dir))
        result = run_one(config, wanted, callback)
        result.compared = [_run_compared(name, other) for name, other in beside.items()]
        if wanted.output_dir and distributed.is_first():
            write_json(Path(wanted.output_dir) / RESULT_FILE, dataclasses.asdict(result))
    return result


def _tell_unread(config: EIMFConfig) -> None:
    """Say which keys do nothing without another one. Rows of tables share keys that not all of them read: they are
    made without ``show_progress``, and quiet."""
    if config["show_progress"] is False or not distributed.is_first():
        return
    given = config.external_config_dict
    for name, on in switched_off(config.model_class, given, config).items():
        switch = on.partition("=")[0]
        print(
            f"{name}={given[name]} is not read: {switch}={config[switch]}. Add --{on}, or leave {name} out.",
            file=sys.stderr,
        )
    for name in unasked(unread(config), given):
        print(
            f"{name}={given[name]} is not read: model={config['model']}, as it is configured, has no use for it. Leave "
            f"it out, or train a model that has (EIMF reads an LLM's words on users).",
            file=sys.stderr,
        )


def _own_folder(wanted: RunSettings) -> contextlib.AbstractContextManager:
    """``output_dir`` for this run alone: a second one would write between its files."""
    if not (wanted.output_dir and distributed.is_first()):
        return contextlib.nullcontext()
    check_kind(Path(wanted.output_dir), "run", "output_dir")
    return folder_locked(Path(wanted.output_dir), "output_dir")


def _run_in_processes(
    processes: distributed.Processes, what: tuple, callback: Callable | None, overrides: dict[str, Any]
) -> RunResult:
    """:func:`run` with several processes; the result is what the first one on this machine wrote down."""
    if callback is not None:
        raise ConfigError(
            f"nproc={processes.nproc}: other processes cannot call your callback. Leave it out, or start your script "
            f"with torchrun, whose processes all call it."
        )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        keys = {key: value for key, value in overrides.items() if key not in distributed.KEYS}
        distributed.spawn(processes, _run_and_write, (folder / RESULT_FILE, *what, {**keys, "nproc": 1}), folder)
        return RunResult.from_json(json.loads((folder / RESULT_FILE).read_text(encoding="utf-8")))


def _run_and_write(path: Path, model: str | type, dataset: str, files: list[str] | None, overrides: dict) -> None:
    result = run(model, dataset, files, **overrides)
    here = distributed.place()
    if here is None or here.local_rank == 0:
        write_json(path, dataclasses.asdict(result))


# ---------------------------------------------------------------------- floors and the backbone beside a model
def _company(
    config: EIMFConfig, wanted: RunSettings, files: list[str] | None, overrides: dict[str, Any]
) -> dict[str, EIMFConfig]:
    """What is trained beside a run: name -> its configuration, checked before the run itself begins.

    Raises:
        UserError: a placebo of a model that reads no words, or keys and files that one of them cannot have.
    """
    # a data set's YAML may ask for company beside EIMF; for other models only an explicit wish counts
    if config["model"] != "EIMF" and "compare_with" not in config.external_config_dict:
        return {}
    if "placebo" in wanted.compare_with and own_placebo(config) is None:
        raise ConfigError(
            f"compare_with=placebo: {config['model']} reads no interests, item text or knowledge as it is set here, so "
            f"there is nothing to shuffle. Leave placebo out."
        )
    found = {}
    for name in wanted.compare_with:
        try:
            found[name] = _beside(name, config, files, overrides)
            check_needs(found[name])
        except UserError as error:
            raise type(error)(f"compare_with={name}: {error}") from error
    return found


def _beside(name: str, config: EIMFConfig, files: list[str] | None, overrides: dict[str, Any]) -> EIMFConfig:
    """The configuration of ``name``, with the same data and effort.

    ``name`` is a model, ``backbone`` (the model's own backbone alone, under its loss) or ``placebo`` (the model with
    what its claim is about taken away: every user's interests are a random exemplar's, or every item's text another's).
    """
    if name == "backbone":
        # PAD's binary losses are those of towers: its id expert alone is the backbone under them
        binary = config["loss"] in ("bce", "gbce")
        model = "PAD" if binary else "IBIM"
        given = {**concerning(model, overrides), "backbone": contract_of(config.model_class).backbone_name(config)}
        given |= {"experts": "id", "fine_tune": False} if binary else {}
        # settings of the model's YAML that concern training apply to its backbone too
        shared = [f.name for part in (keys.ItemSettings, keys.DataSettings) for f in dataclasses.fields(part)]
        given |= {key: config[key] for key in [*shared, "train_batch_size", "learning_rate", "epochs", "stopping_step"]}
    elif name == "placebo":
        model = config["model"]
        own = own_placebo(config)
        assert own is not None  # _company has seen to it
        given = {**overrides, **PLACEBOS[own]}
        for source, real in SHUFFLED.items():
            if given.get(source) == "shuffled" and config[source] != "shuffled":
                given[real] = config[source]  # what is shuffled is what the run has
    else:
        model, given = name, concerning(name, {k: v for k, v in overrides.items() if k != "backbone"})
    given |= {"compare_with": []}
    if config["output_dir"]:
        given["output_dir"] = str(Path(config["output_dir"]) / f"{COMPARED}{name}")
    # keys of the user's files are those of the run, which what stands beside it need not read
    said = read_files(files)
    for key in ignored(load_model_class(model), said):
        del said[key]
    other = EIMFConfig(model, config["dataset"], [said], given)
    other.data_told = other.times_told = True
    return other


def _run_compared(name: str, config: EIMFConfig) -> RunResult:
    if distributed.is_first():
        print(f"\n{name}, for comparison:")
    return run_one(config, keys.read(RunSettings, config.final_config_dict))
