"""One run from configuration to result: what the command line, tuning and comparisons all call."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
from recbole.data import create_dataset, data_preparation
from recbole.model.abstract_recommender import AbstractRecommender
from recbole.utils import init_logger, init_seed, set_color

from recbole_eimf.config import keys
from recbole_eimf.config.config import EIMFConfig
from recbole_eimf.config.contract import contract_of, is_ours
from recbole_eimf.config.keys import RunSettings
from recbole_eimf.config.layers import concerning
from recbole_eimf.config.models import BACKBONES, MODELS, short_name
from recbole_eimf.config.stock_needs import stock_class
from recbole_eimf.config.yaml_file import read_yaml
from recbole_eimf.core import distributed
from recbole_eimf.core.disk import check_writable, writing
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.core.files import write_json
from recbole_eimf.core.locks import folder_locked
from recbole_eimf.core.parts import require
from recbole_eimf.core.version import __version__
from recbole_eimf.data.dataset import LazySequenceDataset
from recbole_eimf.data.history_mask import masks_history
from recbole_eimf.evaluator.ranks import Ranks, collected_ranks
from recbole_eimf.evaluator.slices import check_bounds
from recbole_eimf.experiment import plugin, run_log
from recbole_eimf.model.backbones.backbone import backbone_class
from recbole_eimf.semantic.dataset import dataset_class
from recbole_eimf.trainer import checkpoint as saved_model
from recbole_eimf.trainer.choice import trainer_class
from recbole_eimf.trainer.memory import keep_freed_memory
from recbole_eimf.trainer.resuming import check_resumed, note_changes, start_afresh
from recbole_eimf.trainer.saving import KeepsBestModel, keeping_best_model
from recbole_eimf.trainer.trainer import CountingTrainer, InterestTrainer, rank_reproducibly


@dataclass
class RunResult:
    """What a run found.

    Metrics are fractions. ``epochs`` counts trained epochs, ``best_epoch`` (from 0) is the one that was tested;
    ``train_seconds`` is training alone, validation not counted; ``parameters`` are the trained ones; ``side_load`` is
    the coverage of text and interests; ``slices`` the test metrics by training frequency of the target (``unseen``,
    ``cold``, ``median``, ``warm`` and those of ``slice_bounds``), with the number of ``targets`` and ``users`` of each;
    ``config`` holds every setting; ``compared`` the runs made beside this one.
    """

    model: str
    backbone: str | None
    dataset: str
    protocol: str
    mask_history: bool
    seed: int
    valid: dict[str, float]
    test: dict[str, float]
    epochs: int
    best_epoch: int
    train_seconds: float
    seconds_per_epoch: float
    parameters: int
    side_load: dict[str, Any] | None
    slices: dict[str, dict[str, float]] = field(default_factory=dict)
    version: str = __version__
    config: dict[str, Any] = field(default_factory=dict)
    compared: list[RunResult] = field(default_factory=list)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> RunResult:
        """The result that ``result.json`` holds."""
        return cls(**{**values, "compared": [cls.from_json(other) for other in values["compared"]]})

    @property
    def name(self) -> str:
        """``EIMF(SASRec)``, ``PAD(SASRec)``, ``SASRec`` for IBIM, other models' names; a placebo says so."""
        backbone = short_name(self.backbone)
        if self.model == "IBIM":
            return backbone or "IBIM"
        if self.model not in MODELS or not MODELS[self.model].named_over:
            return self.model
        if self.model != "EIMF":
            return f"{self.model}({backbone})"
        placebo = bool(self.side_load) and str(self.side_load.get("source", "")).startswith("shuffled")
        control = " placebo" if placebo else "" if self.config.get("use_interests", True) else " text only"
        return f"EIMF({backbone}){control}"


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
    """
    processes = distributed.asked({**_file_keys(config_file_list), **overrides})
    if processes is not None:
        return _run_in_processes(processes, (model, dataset, config_file_list), callback, overrides)
    plugin.register_models()
    import_path = model if isinstance(model, str) and ":" in model else None
    config = EIMFConfig(model, dataset, config_file_list, {**overrides, "model_import": import_path})
    if config["log_wandb"]:
        require("wandb")
    wanted = keys.read(RunSettings, config.final_config_dict)
    distributed.join(config["device"])
    with _own_folder(wanted):
        result = _run_one(config, wanted, callback)
        result.compared = _run_all_compared(config, wanted, config_file_list, overrides)
        if wanted.output_dir and distributed.is_first():
            write_json(Path(wanted.output_dir) / "result.json", dataclasses.asdict(result))
    return result


def _own_folder(wanted: RunSettings) -> contextlib.AbstractContextManager:
    """``output_dir`` for this run alone: a second one would write between its files."""
    alone = wanted.output_dir and distributed.is_first()
    return folder_locked(Path(wanted.output_dir), "output_dir") if alone else contextlib.nullcontext()


def _file_keys(files: list[str] | None) -> dict[str, Any]:
    return {key: value for path in files or () for key, value in read_yaml(path).items()}


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
        distributed.spawn(processes, _run_and_write, (folder / "result.json", *what, {**keys, "nproc": 1}), folder)
        return RunResult.from_json(json.loads((folder / "result.json").read_text(encoding="utf-8")))


def _run_and_write(path: Path, model: str | type, dataset: str, files: list[str] | None, overrides: dict) -> None:
    result = run(model, dataset, files, **overrides)
    if distributed.place().local_rank == 0:
        write_json(path, dataclasses.asdict(result))


def _run_all_compared(config: EIMFConfig, wanted: RunSettings, files: list[str] | None, overrides: dict) -> list:
    # a data set's YAML may ask for company beside EIMF; for other models only an explicit wish counts
    asked = config["model"] == "EIMF" or "compare_with" in config.external_config_dict
    return [_run_compared(other, config, files, overrides) for other in (wanted.compare_with if asked else ())]


def evaluate(
    checkpoint: str | Path,
    ranks_folder: str | Path | None = None,
    model: str | type | None = None,
    **overrides: Any,
) -> dict[str, float]:
    """Score a saved model on the test part, from behaviour alone: no text, no interests, no LLM.

    Args:
        checkpoint, model: see :func:`load`.
        ranks_folder: where to write ``test_ranks.safetensors``, for paired tests.
        overrides: keys that change the evaluation (``mask_history``, ``topk``, ``metrics``, ``data_path``, ...).

    Returns:
        Test metrics, fractions.
    """
    config, net, (train_data, _, test_data) = load(checkpoint, model, **overrides)
    trainer = _trainer(config, net)
    trainer.eval_collector.data_collect(train_data)
    found = trainer.evaluate(test_data, load_best_model=False)
    ranks = _ranks(trainer, test_data._dataset, train_data._dataset) if ranks_folder else None
    if ranks is not None:
        ranks.write(ranks_folder)
    return {name: float(value) for name, value in found.items()}


def load(
    checkpoint: str | Path, model: str | type | None = None, **overrides: Any
) -> tuple[EIMFConfig, torch.nn.Module, tuple]:
    """A saved model with its configuration and (train, valid, test) loaders, by default without text and interests.

    No code of the folder's choice runs (:mod:`recbole_eimf.trainer.checkpoint`).

    Args:
        checkpoint: ``output_dir`` of a run, or the ``model.safetensors`` in it.
        model: the class of a model that is neither ours nor RecBole's, or its ``package.module:Class``: importing it
            runs that module's code.
        overrides: keys that change the configuration it was trained with.

    Raises:
        DataError: no model there, a damaged one, or other data than it was trained on.
        ConfigError: the model's class, or its backbone's, is not one of ours or RecBole's, and ``model``, or the key
            ``backbone``, does not name it.
    """
    plugin.register_models()
    folder = saved_model.model_folder(checkpoint)
    description = saved_model.read_description(folder)
    model_class = saved_model.model_class_of(description, folder, model)
    if description["model_import"]:
        plugin.register_model(model_class)
    unwanted = {"compare_with": [], "output_dir": None, "save_split": None}
    given = {"inference_only": True, **overrides, **unwanted}
    stored = concerning(model_class, saved_model.keys_of(description))
    _check_backbone_is_named(stored.get("backbone"), overrides, folder)
    config = EIMFConfig(model_class, description["dataset"], [stored], given)
    loaders = _loaders(config)
    saved_model.check_data(description, loaders[0]._dataset, model_class, folder)
    net = _new_model(config, loaders[0]._dataset).to(config["device"])
    saved_model.read_weights(net, folder)
    return config, net, loaders


def _check_backbone_is_named(stored: Any, overrides: dict[str, Any], folder: Path) -> None:
    """A folder must not choose what is imported: a backbone that is not ours is named by who loads it."""
    if ":" in str(stored) and overrides.get("backbone") != stored:
        raise ConfigError(
            f"{folder}: built over backbone={stored}, which is not one of ours, and importing it runs its code. If you "
            f"trust it, name it: backbone={stored!r}."
        )


def build(config: EIMFConfig) -> tuple[LazySequenceDataset, list[LazySequenceDataset]]:
    """Load a configuration's data set and split it: (whole, [train, valid, test])."""
    whole = _dataset_class(config)(config)
    return whole, whole.build()


def _dataset_class(config) -> type:
    return dataset_class(config.model_class)


def _run_one(
    config: EIMFConfig, wanted: RunSettings, callback: Callable[[int, float], None] | None = None
) -> RunResult:
    if wanted.resume and not wanted.output_dir:
        raise ConfigError("resume=True: output_dir is not set; it names the folder of the run to go on with.")
    check_bounds(wanted.slice_bounds)
    _check_evaluation(config)
    _check_compiled(config, wanted)
    if config["enable_amp"] and wanted.amp_dtype == "float16" and not config["enable_scaler"]:
        raise ConfigError("amp_dtype=float16: small gradients vanish in it; add enable_scaler=True, or use bfloat16.")
    keep_freed_memory()
    if wanted.num_threads:
        torch.set_num_threads(wanted.num_threads)
    changes = _settle_folder(config, wanted)
    init_seed(config["seed"], config["reproducibility"])
    with _logging(config):
        getLogger().info(f"recbole_eimf {__version__}: {config['model']} on {config['dataset']}")
        return _trained(config, wanted, changes, callback)


def _trained(
    config: EIMFConfig,
    wanted: RunSettings,
    changes: Mapping[str, tuple[Any, Any]],
    callback: Callable[[int, float], None] | None,
) -> RunResult:
    logger = getLogger()
    with distributed.first_alone():
        train_data, valid_data, test_data = _loaders(config)
    train = train_data._dataset

    init_seed(config["seed"] + config["local_rank"], config["reproducibility"])
    model = _new_model(config, train).to(config["device"])
    logger.info(model)
    trainer = _trainer(config, model)
    if type(model).full_sort_predict is AbstractRecommender.full_sort_predict:
        pairs = len(valid_data._dataset) * train.item_num
        logger.warning(
            f"{config['model']} scores one item of one user at a time: {pairs:,} pairs an evaluation, minutes "
            f"per million on a CPU. --eval_step=5 evaluates less often."
        )
    if wanted.resume:
        _resume(trainer, train_data, changes)
    saved = not isinstance(trainer, CountingTrainer) or bool(wanted.output_dir)
    shown = config["show_progress"]
    try:
        _, valid = trainer.fit(train_data, valid_data, saved=saved, show_progress=shown, callback_fn=callback)
    except KeyboardInterrupt:
        done = [*getattr(trainer, "earlier", []), *trainer.history]
        if wanted.output_dir and done and distributed.is_first():
            phase = f" of {done[-1]['phase']}" if "phase" in done[-1] else ""
            logger.warning(f"interrupted after epoch {done[-1]['epoch']}{phase}; go on with --resume=True")
        raise
    if wanted.skip_test:
        result = _result(config, model, trainer, valid or {}, {}, train)
        _note_metrics(trainer, result)
        return result
    test = trainer.evaluate(test_data, load_best_model=saved, show_progress=False)
    result = _result(config, model, trainer, valid or {}, test, train)
    ranks = _ranks(trainer, test_data._dataset, train)
    if ranks is not None:
        result.slices = ranks.by_slice(sorted(config["topk"]))
        if wanted.output_dir and distributed.is_first():
            ranks.write(wanted.output_dir)
    _note_metrics(trainer, result)
    logger.info(set_color("best valid ", "yellow") + f": {result.valid}")
    logger.info(set_color("test result", "yellow") + f": {result.test}")
    return result


def _settle_folder(config: EIMFConfig, wanted: RunSettings) -> Mapping[str, tuple[Any, Any]]:
    """Make ``output_dir`` this run's: gone on with, or cleared of an earlier one; what changed since it was begun."""
    if not wanted.output_dir:
        if distributed.is_first():
            check_writable(config["checkpoint_dir"], "checkpoint_dir")
        return {}
    folder = Path(wanted.output_dir)
    config["checkpoint_dir"] = wanted.output_dir
    with distributed.first_alone():
        if wanted.resume:
            return check_resumed(config, folder, wanted.resume == "force")
        if distributed.is_first():
            check_writable(folder, "output_dir")  # of a run that is compared: a folder of its own
            start_afresh(folder)
    return {}


def _resume(trainer: KeepsBestModel, train_data, changes: Mapping[str, tuple[Any, Any]]) -> None:
    if not isinstance(trainer, InterestTrainer):
        raise ConfigError(
            f"resume=True: {trainer.config['model']} has a trainer of RecBole's own, which keeps no state to go on "
            f"from. Leave it out: the run starts again."
        )
    trainer.resume(train_data)
    if distributed.is_first():
        note_changes(Path(trainer.config["output_dir"]), getattr(trainer, "whole_config", trainer.config), changes)


def _note_metrics(trainer: KeepsBestModel, result: RunResult) -> None:
    """Let the model's folder say how good it is, and under which protocol."""
    folder = trainer.model_folder
    if folder is None or not (folder / saved_model.CONFIG_FILE).is_file() or not distributed.is_first():
        return
    protocol = ("protocol", "mask_history", "valid_metric", "split_seed", "split_ratios", "topk")
    measured = {"valid": result.valid, "test": result.test, "best_epoch": result.best_epoch}
    description = saved_model.read_description(folder)
    description["metrics"] = measured | {key: result.config.get(key) for key in protocol}
    saved_model.write_description(folder, description)
    getLogger().info(f"model: {folder}")


def _check_evaluation(config: EIMFConfig) -> None:
    mode = config["eval_args"]["mode"]
    if distributed.joined() and set(mode.values()) != {"full"}:
        raise ConfigError(
            f"eval_args mode={mode}: several processes only rank the whole catalogue (mode: full). Use nproc=1."
        )


def _check_compiled(config: EIMFConfig, wanted: RunSettings) -> None:
    """Before text is encoded; RecBole's own models are looked at when the trainer is made."""
    name = contract_of(config.model_class).backbone_name(config)
    if wanted.torch_compile and name and not backbone_class(name).has_transformer:
        able = ", ".join(known for known in BACKBONES if backbone_class(known).has_transformer)
        raise ConfigError(
            f"torch_compile=True: backbone={name} has no transformer encoder to compile; {able} have. Leave it out."
        )


def _loaders(config: EIMFConfig) -> tuple:
    # RecBole's own path, told which data set class a stock model gets here
    import recbole.data.dataset as known

    name = f"{config['model']}Dataset"
    before = getattr(known, name, None)
    setattr(known, name, _dataset_class(config))
    folder = config["checkpoint_dir"]
    if not (config["save_dataset"] or config["save_dataloaders"]):
        config["checkpoint_dir"] = os.devnull  # else RecBole would unpickle data sets that lie there
    try:
        dataset = create_dataset(config)
        getLogger().info(dataset)
        return data_preparation(config, dataset)
    finally:
        config["checkpoint_dir"] = folder
        if before is None:
            delattr(known, name)
        else:
            setattr(known, name, before)


def _new_model(config: EIMFConfig, train: LazySequenceDataset) -> torch.nn.Module:
    if is_ours(config.model_class):
        return config.model_class(config, train)
    with plugin.trusted_checkpoints():  # S3Rec reads what its first stage wrote
        return config.model_class(config, train)


def _trainer(config: EIMFConfig, model: torch.nn.Module) -> InterestTrainer:
    from recbole.utils import ModelType, get_trainer

    if is_ours(config.model_class):
        return trainer_class(config.model_class)(config, model)
    known = stock_class(config.model_class)  # a subclass is trained as what it derives from
    stock = get_trainer(config["MODEL_TYPE"], known.__name__ if known else config["model"])
    _check_stock_model(config, model, stock)
    if config["MODEL_TYPE"] == ModelType.TRADITIONAL:
        return CountingTrainer(config, model)
    if stock.__name__ not in ("Trainer", "TraditionalTrainer"):
        trainer = keeping_best_model(stock)(config, model)  # a model with phases of its own keeps its trainer
        rank_reproducibly(trainer)
        return trainer
    return InterestTrainer(config, model)


def _check_stock_model(config: EIMFConfig, model: torch.nn.Module, trainer: type) -> None:
    """Several processes average gradients; what a model of RecBole's learns in other ways would stay in one of them."""
    from recbole.utils import ModelType

    plain = trainer.__name__ == "Trainer" and config["MODEL_TYPE"] != ModelType.TRADITIONAL
    if distributed.joined() and (not plain or model.other_parameter()):
        raise ConfigError(f"model={config['model']}: does not learn by gradients alone. Use nproc=1.")


@contextlib.contextmanager
def _logging(config: EIMFConfig) -> Iterator[None]:
    """Log as RecBole does, to the console and a file, while a run lasts; what the host program has set up stays.

    A host that already writes to the console gets our lines through its own handlers.
    """
    root = logging.getLogger()
    level, theirs = root.level, list(root.handlers)
    root.handlers = []  # RecBole adds none where there is one
    try:
        if not distributed.is_first():
            root.setLevel(logging.ERROR)
        elif config["output_dir"]:
            run_log.start(Path(config["output_dir"]), config["state"])
        else:
            with writing("log"):  # RecBole's place, and its name for the file
                init_logger(config)
    finally:
        ours, root.handlers = root.handlers, theirs
    consoles = (sys.stdout, sys.stderr)
    doubled = any(getattr(handler, "stream", None) in consoles for handler in theirs)
    for handler in ours:
        if not doubled or isinstance(handler, logging.FileHandler):
            root.addHandler(handler)
    try:
        yield
    finally:
        for handler in ours:
            root.removeHandler(handler)
            handler.close()
        root.setLevel(level)


def _result(config, model, trainer, valid, test, train) -> RunResult:
    history = [*getattr(trainer, "earlier", []), *getattr(trainer, "history", [])]
    history = [epoch for epoch in history if epoch["epoch"] >= 0]  # -1 is an evaluation before any training
    seconds = sum(epoch["train_seconds"] for epoch in history)
    backbone = contract_of(config.model_class).backbone_name(config)
    side = getattr(train, "side", None)
    return RunResult(
        model=config["model"],
        backbone=backbone,
        dataset=config["dataset"],
        protocol=config["protocol"],
        mask_history=masks_history(config),
        seed=config["seed"],
        valid={k: float(v) for k, v in valid.items()},
        test={k: float(v) for k, v in test.items()},
        epochs=len(history),
        best_epoch=getattr(trainer, "best_epoch", -1),
        train_seconds=round(seconds, 3),
        seconds_per_epoch=round(seconds / max(len(history), 1), 4),
        parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        side_load=side.report if side is not None else None,
        config=_plain(config.final_config_dict),
    )


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Settings as JSON values; nothing in a configuration of ours is secret (keys are named, never held)."""
    plain = (str, int, float, bool, list, dict, type(None))
    return {k: v if isinstance(v, plain) else str(v) for k, v in sorted(values.items())}


def _ranks(trainer, test: LazySequenceDataset, train: LazySequenceDataset) -> Ranks | None:
    """Where the last evaluation ranked the targets of ``test``; ``None`` after value metrics (AUC, ...), which rank
    nothing."""
    struct = getattr(trainer.evaluator, "last", None)
    if struct is None or "rec.items" not in struct:
        return None
    return collected_ranks(struct.get("rec.items").numpy(), test, train, trainer.config["slice_bounds"] or ())


# ---------------------------------------------------------------------- floors and the backbone beside a model
def _run_compared(name: str, config: EIMFConfig, files: list[str] | None, overrides: dict[str, Any]) -> RunResult:
    """Train ``name`` with the same data and effort.

    ``name`` is a model, ``backbone`` (the model's own backbone alone) or ``placebo`` (the model with every user's
    interests replaced by a random exemplar's).
    """
    if name == "backbone":
        model = "IBIM"
        given = {**concerning(model, overrides), "backbone": contract_of(config.model_class).backbone_name(config)}
        # settings of the model's YAML that concern training apply to its backbone too
        shared = [f.name for part in (keys.ItemSettings, keys.DataSettings) for f in dataclasses.fields(part)]
        given |= {key: config[key] for key in [*shared, "train_batch_size", "learning_rate", "epochs", "stopping_step"]}
    elif name == "placebo":
        model = config["model"]
        given = {**overrides, "interest_source": "shuffled", "shuffled_source": config["interest_source"]}
    else:
        model, given = name, concerning(name, {k: v for k, v in overrides.items() if k != "backbone"})
    given |= {"compare_with": [], "state": "WARNING"}
    if config["output_dir"]:
        given["output_dir"] = str(Path(config["output_dir"]) / f"compared-{name}")
    if distributed.is_first():
        print(f"\n{name}, for comparison:")
    other = EIMFConfig(model, config["dataset"], files, given)
    return _run_one(other, keys.read(RunSettings, other.final_config_dict))


def table(results: list[RunResult], metrics: list[str] | None = None) -> str:
    """A small text table of test metrics, in percent; the best of each column is marked with ``*``.

    Without ``metrics``: those at the smallest and the largest k; with one target per user recall is the hit rate, and
    one of them is enough. Runs that skipped the test show validation.
    """
    of_run = [run.test or run.valid for run in results]
    if metrics is None:
        places = sorted({int(m.split("@")[1]) for m in of_run[0]})
        kinds = ("hit", "ndcg") if results[0].protocol == "leave_one_out" else ("recall", "hit", "ndcg")
        shown = [f"{kind}@{k}" for k in dict.fromkeys((*places[:1], *places[-1:])) for kind in kinds]
        metrics = [m for m in shown if m in of_run[0]] or list(of_run[0])
    best = {m: max(values.get(m, float("nan")) for values in of_run) for m in metrics}
    head = ["model", *metrics, "epochs", "s/epoch", "parameters"]
    rows = [
        [
            r.name,
            *(f"{100 * values[m]:.2f}{'*' if values[m] == best[m] else ' '}" if m in values else "- " for m in metrics),
            str(r.epochs),
            f"{r.seconds_per_epoch:.1f}",
            f"{r.parameters:,}",
        ]
        for r, values in zip(results, of_run, strict=True)
    ]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths)))
             for row in [head, *rows]]  # fmt: skip
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def summary(result: RunResult) -> str:
    """What a user wants to read at the end of a run."""
    first = (
        f"{result.dataset}, {result.protocol}, history {'masked' if result.mask_history else 'not masked'}, "
        f"{'test' if result.test else 'validation'}, %, seed {result.seed}"
    )
    lines = [first, table([result, *result.compared])]
    side = result.side_load
    if side and "source" in side:
        used = (
            "an LLM's replies"
            if side["llm_used"]
            else "a function of yours"
            if ":" in side["source"]
            else ("NO LLM: keywords of the clusters' titles")
        )
        lines.append(
            f"interests: {side['source']} ({used}), {side['training_users_with_interests']} of "
            f"{side['training_users']} training users covered"
        )
    return "\n".join(lines)
