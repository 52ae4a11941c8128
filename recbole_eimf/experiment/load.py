"""A saved model again: with its data, or scored on the test part."""

from __future__ import annotations

from logging import getLogger
from pathlib import Path
from typing import Any

import torch

from recbole_eimf.config.config import EIMFConfig
from recbole_eimf.config.layers import concerning
from recbole_eimf.config.same_experiment import content_digests
from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.experiment import assembly, plugin, refit, unseen
from recbole_eimf.experiment.one_run import ranks_of
from recbole_eimf.trainer import checkpoint as saved_model


def evaluate(
    checkpoint: str | Path,
    ranks_folder: str | Path | None = None,
    model: str | type | None = None,
    **overrides: Any,
) -> dict[str, float]:
    """Score a saved model on the test part, from behaviour alone: no text, no interests, no LLM.

    Args:
        checkpoint: see :func:`load`.
        model: see :func:`load`.
        ranks_folder: where to write ``test_ranks.safetensors``, for paired tests.
        overrides: keys that change the evaluation (``mask_history``, ``topk``, ``metrics``, ``data_path``, ...);
            ``place_unseen=True`` reads items' text, to place what the run left where it started.

    Returns:
        Test metrics, fractions.

    Raises:
        UserError: as :func:`load`.

    Example:
        >>> import recbole_eimf
        >>> _ = recbole_eimf.run(
        ...     "Popularity", "ml-100k", compare_with=[], show_progress=False, state="ERROR", output_dir="out"
        ... )
        >>> found = recbole_eimf.evaluate("out", state="ERROR", mask_history=True)
        >>> 0 < found["ndcg@10"] < 1
        True
    """
    config, net, (train_data, _, test_data) = load(checkpoint, model, **overrides)
    if config["place_unseen"]:
        unseen.check(config, net)
        unseen.place(net, train_data._dataset)
    trainer = assembly.trainer(config, net)
    trainer.eval_collector.data_collect(train_data)
    found = trainer.evaluate(test_data, load_best_model=False)
    if ranks_folder:
        ranks = ranks_of(trainer, test_data._dataset, train_data._dataset)
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

    Returns:
        (configuration, model, (train, valid, test)).

    Raises:
        DataError: no model there, a damaged one, or other data than it was trained on.
        ConfigError: the model's class, or its backbone's, is not one of ours or RecBole's, and ``model``, or the key
            ``backbone``, does not name it.

    Example:
        >>> import recbole_eimf
        >>> _ = recbole_eimf.run(
        ...     "Popularity", "ml-100k", compare_with=[], show_progress=False, state="ERROR", output_dir="out"
        ... )
        >>> config, model, (train, valid, test) = recbole_eimf.load("out", state="ERROR")
        >>> type(model).__name__, len(test.dataset)
        ('Popularity', 943)
    """
    plugin.adapt_recbole()
    folder = saved_model.model_folder(checkpoint)
    description = saved_model.read_description(folder)
    model_class = saved_model.model_class_of(description, folder, model)
    unwanted: dict[str, Any] = {"compare_with": [], "output_dir": None, "save_split": None}
    given = {"inference_only": True, **overrides, **unwanted}
    stored = concerning(model_class, saved_model.keys_to_build_with(description))
    stored["place_unseen"] = False  # whom the run has placed stand in its folder where they are
    stored.pop("llm_base_url", None)  # nobody is asked; older runs may hold one that is refused today
    _check_backbone_is_named(stored.get("backbone"), overrides, folder)
    config = EIMFConfig(model_class, description["dataset"], [stored], given)
    if "data_path" not in overrides:
        _check_data_are_there(config, folder)
    loaders = assembly.loaders(config)
    if loaders[0]._dataset.before_test is not None:  # what the saved model was trained on in the end
        train = loaders[0]._dataset
        train.before_test.asked = train
        loaders = (refit.loader(config, train.before_test), *loaders[1:])
    saved_model.check_data(description, loaders[0]._dataset, model_class, folder)
    config.data_changed = _data_changed(description, config)
    if config.data_changed and "data_path" not in overrides:  # who names other data means them
        getLogger().warning(
            f"{folder}: {config['dataset']}.inter in {config['data_path']} has other interactions than when the run "
            f"was trained. Histories and counts are today's, and the run's figures are not about them: put the run's "
            f"data back, or train again."
        )
    net = assembly.model(config, loaders[0]._dataset).to(config["device"])
    saved_model.read_weights(net, folder)
    return config, net, loaders


def _data_changed(description: dict[str, Any], config: EIMFConfig) -> bool:
    """Whether the file of interactions is another one than the run was trained on: the same items and users may have
    had more since, of which no table of tokens knows."""
    before = description["files"].get("data.inter")  # a model converted from a pickle does not say
    return before is not None and before != content_digests(config)["data.inter"]


def _check_data_are_there(config: EIMFConfig, folder: Path) -> None:
    """A path that the run was given below its working folder means nothing elsewhere."""
    file = Path(config["data_path"]) / f"{config['dataset']}.inter"
    if not file.is_absolute() and not file.parent.exists():
        raise DataError(
            f"{folder}: was trained on {file}, and there is no such file below {Path.cwd()}. Give the command in the "
            f"folder where the run was made (in Python: data_path=...)."
        )


def _check_backbone_is_named(stored: Any, overrides: dict[str, Any], folder: Path) -> None:
    """A folder must not choose what is imported: a backbone that is not ours is named by who loads it."""
    if ":" in str(stored) and overrides.get("backbone") != stored:
        raise ConfigError(
            f"{folder}: built over backbone={stored}, which is not one of ours, and importing it runs its code. If you "
            f"trust it, name it: backbone={stored!r} in Python, --backbone={stored} of `explore` and `agreement`."
        )
