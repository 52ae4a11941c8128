"""One model trained and tested, from a configuration to its result; ``run`` makes one of these and those beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
from recbole.data.dataloader.abstract_dataloader import AbstractDataLoader
from recbole.model.abstract_recommender import AbstractRecommender
from recbole.utils import init_seed, set_color

from recbole_eimf.config.config import EIMFConfig, say_once
from recbole_eimf.config.contract import CHOSEN, contract_of
from recbole_eimf.config.keys import RunSettings
from recbole_eimf.core import distributed
from recbole_eimf.core.disk import check_writable
from recbole_eimf.core.errors import ConfigError, UserError
from recbole_eimf.core.narrow import times_as_long
from recbole_eimf.data.dataset import LazySequenceDataset
from recbole_eimf.data.history_mask import masks_history
from recbole_eimf.evaluator.ranks import Ranks, collected_ranks
from recbole_eimf.experiment import assembly, refit, run_log, unseen
from recbole_eimf.experiment.result import RunResult
from recbole_eimf.model.over_backbone import OverBackbone
from recbole_eimf.trainer import checkpoint as saved_model
from recbole_eimf.trainer.memory import give_back, keep_freed_memory
from recbole_eimf.trainer.resuming import check_resumed, note_changes, start_afresh
from recbole_eimf.trainer.saving import KeepsBestModel
from recbole_eimf.trainer.trainer import CountingTrainer, InterestTrainer
from recbole_eimf.trainer.weighing import WeighingTrainer, choose_prior

#: a number format whose products take so many times as long as float32's is no gain
_SLOWER = 1.5


def run_one(config: EIMFConfig, wanted: RunSettings, callback: Callable[[int, float], None] | None = None) -> RunResult:
    """Train a configuration's model and test its best epoch; ``callback`` as for :func:`recbole_eimf.run`.

    Whether what it reads is there (:func:`~recbole_eimf.semantic.needs.check_needs`) is the caller's to ask, who knows
    what else is to be trained.
    """
    _check_evaluation(config)
    keep_freed_memory()
    if wanted.num_threads:
        torch.set_num_threads(wanted.num_threads)
    changes = _settle_folder(config, wanted)
    init_seed(config["seed"], config["reproducibility"])
    try:
        with run_log.logged(config):
            getLogger().info(config, extra=run_log.DETAIL)
            try:
                return _train_and_test(config, wanted, changes, callback)
            except UserError:
                raise  # says itself what is wrong
            except Exception:
                getLogger().info("the error that ended the run", exc_info=True, extra=run_log.DETAIL)
                raise
    finally:
        give_back()  # to the next run of a table, which may need other sizes, or to whoever called


def _train_and_test(
    config: EIMFConfig,
    wanted: RunSettings,
    changes: Mapping[str, tuple[Any, Any]],
    callback: Callable[[int, float], None] | None,
) -> RunResult:
    with distributed.first_alone():
        train_data, valid_data, test_data = assembly.loaders(config)
    train = train_data._dataset
    model, trainer = _assemble(config, train, valid_data._dataset)
    if wanted.resume:
        _resume(trainer, train_data, changes)
    saved = not isinstance(trainer, CountingTrainer) or bool(wanted.output_dir)
    valid = _fit(config, model, trainer, (train_data, valid_data), saved, callback)
    if wanted.skip_test:
        result = _result(config, model, trainer, valid, {}, train)
    else:
        result = _test(config, model, trainer, valid, train, test_data, saved)
    _note_metrics(trainer, result)
    if not wanted.skip_test:
        for name, found in (("best valid ", result.valid), ("test result", result.test)):
            getLogger().info(set_color(name, "yellow") + f": {found}", extra=run_log.DETAIL)
    return result


def _assemble(
    config: EIMFConfig, train: LazySequenceDataset, valid: LazySequenceDataset
) -> tuple[AbstractRecommender, InterestTrainer]:
    """A new model and its trainer, once it is known that what validation has to choose can be chosen.

    Raises:
        ConfigError: keys that need users in validation, or a kind of model that they do not fit.
    """
    init_seed(config["seed"] + config["local_rank"], config["reproducibility"])
    model = assembly.model(config, train).to(config["device"])
    getLogger().info(model, extra=run_log.DETAIL)
    if isinstance(model, OverBackbone):
        model.try_own_backbone(config)
    unseen.check(config, model)
    if getattr(model, "prior", None) is not None and not len(valid):
        raise ConfigError(
            f"score_prior={config['score_prior']}: its weights are chosen on validation, and no user is in that part. "
            f"Use data with longer sequences, another protocol or other borders, or score_prior=none."
        )
    if config["place_unseen"] and getattr(model, "counting", False):
        unseen.place(model, train)  # its weights are chosen with them
    trainer = assembly.trainer(config, model)
    if isinstance(trainer, WeighingTrainer) and not len(valid):
        said = f"recency_half_life={CHOSEN}" if config["recency_half_life"] == CHOSEN else f"model={config['model']}"
        raise ConfigError(
            f"{said}: validation chooses what it weighs, and no user is in that part. Use data with longer sequences, "
            f"another protocol or borders, or a model that weighs nothing."
        )
    if type(model).full_sort_predict is AbstractRecommender.full_sort_predict:
        getLogger().warning(
            f"{config['model']} scores one item of one user at a time: {len(valid) * train.item_num:,} pairs an "
            f"evaluation, minutes per million on a CPU. --eval_step=5 evaluates less often."
        )
    if config["refit"]:
        refit.check(config, "refit=True", trainer)
    _warn_of_slow_formats(config, model)
    return model, trainer


def _warn_of_slow_formats(config: EIMFConfig, model: AbstractRecommender) -> None:
    """Say what a processor without instructions for a number format makes of it: tens of times as long."""
    if config["device"].type != "cpu":
        return
    used = {"amp_dtype": config["enable_amp"], "logits_dtype": hasattr(model, "logits_dtype")}
    for key in (key for key, there in used.items() if there and config[key] != "float32"):
        slower = times_as_long(getattr(torch, config[key]))
        if slower > _SLOWER:
            switch = "enable_amp" if key == "amp_dtype" else key
            say_once(
                f"{key}={config[key]}: this processor's products take {slower:.0f} times as long in it as in float32 "
                f"(measured just now). Leave {switch} out."
            )


def _fit(
    config: EIMFConfig,
    model: AbstractRecommender,
    trainer: InterestTrainer,
    parts: tuple[AbstractDataLoader, AbstractDataLoader],
    saved: bool,
    callback: Callable[[int, float], None] | None,
) -> Mapping[str, float]:
    """Train, and choose by validation what is chosen after training; the validation metrics of what was best."""
    train_data, valid_data = parts
    shown = config["show_progress"]
    try:
        _, valid = trainer.fit(train_data, valid_data, saved=saved, show_progress=shown, callback_fn=callback)
    except KeyboardInterrupt:
        done = [*getattr(trainer, "earlier", []), *trainer.history]
        if config["output_dir"] and done and distributed.is_first():
            phase = f" of {done[-1]['phase']}" if "phase" in done[-1] else ""
            getLogger().warning(f"interrupted after epoch {done[-1]['epoch']}{phase}; go on with --resume=True")
        raise
    if config["place_unseen"]:
        _place_unseen(trainer, train_data._dataset, saved)
    prior = getattr(model, "prior", None)
    if prior is not None:
        valid = choose_prior(trainer, prior, valid_data)
    return valid or {}


def _test(
    config: EIMFConfig,
    model: AbstractRecommender,
    trainer: InterestTrainer,
    valid: Mapping[str, float],
    train: LazySequenceDataset,
    test_data: AbstractDataLoader,
    saved: bool,
) -> RunResult:
    """The result of the best epoch on the test part, with ``refit`` of a model trained again before that."""
    tested, known, again = trainer, train, None
    if config["refit"]:
        model, tested, again = refit.on_all_before_the_test(config, trainer, train)
        known = train.before_test
    best = saved and tested is trainer  # which its folder holds; a model that was trained again is at hand
    test = tested.evaluate(test_data, load_best_model=best, show_progress=False)
    result = _result(config, model, trainer, valid, test, train)
    result.refit = again
    ranks = ranks_of(tested, test_data._dataset, known)
    if ranks is not None:
        result.slices = ranks.by_slice(sorted(config["topk"]))
        result.tested = {"users": len({*ranks.user.tolist()}), "targets": len(ranks.target_row)}
        if config["output_dir"] and distributed.is_first():
            ranks.write(config["output_dir"])
    return result


def _place_unseen(trainer: KeepsBestModel, train: LazySequenceDataset, saved: bool) -> None:
    """In the best model, which may not be the last, and in its file, where one was ``saved``."""
    kept = saved and trainer.model_folder is not None
    if kept:
        trainer.read_best()
    count = unseen.place(trainer.model, train)
    getLogger().info(f"place_unseen: {count:,} items that training never saw stand where their text puts them")
    if kept:
        trainer.write(trainer.best_epoch)


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


def _result(config, model, trainer, valid, test, train) -> RunResult:
    history = [*getattr(trainer, "earlier", []), *getattr(trainer, "history", [])]
    history = [epoch for epoch in history if epoch["epoch"] >= 0]  # -1 is an evaluation before any training
    seconds = sum(epoch["train_seconds"] for epoch in history)
    backbone = contract_of(config.model_class).backbone_name(config)
    side, prior = getattr(train, "side", None), getattr(model, "prior", None)
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
        chosen=contract_of(config.model_class).chosen(config, getattr(trainer, "best_epoch", -1)),
        borders=getattr(train, "borders", None),  # loaders that an earlier version pickled have none
        prior=None if prior is None else prior.weights(),
    )


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Settings as JSON values; nothing in a configuration of ours is secret (keys are named, never held)."""
    plain = (str, int, float, bool, list, dict, type(None))
    return {k: v if isinstance(v, plain) else str(v) for k, v in sorted(values.items())}


def ranks_of(trainer, test: LazySequenceDataset, train: LazySequenceDataset) -> Ranks | None:
    """Where the last evaluation ranked the targets of ``test``; ``None`` after value metrics (AUC, ...), which rank
    nothing."""
    struct = getattr(trainer.evaluator, "last", None)
    if struct is None or "rec.items" not in struct:
        return None
    return collected_ranks(struct.get("rec.items").numpy(), test, train, trainer.config["slice_bounds"] or ())
