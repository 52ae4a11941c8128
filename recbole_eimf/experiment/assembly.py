"""What a configuration stands for, made: its data set, loaders, model and trainer."""

from __future__ import annotations

import pickle
from logging import getLogger
from pathlib import Path

import recbole.data.utils as recbole_data
import torch
from recbole.data.dataloader.abstract_dataloader import AbstractDataLoader
from recbole.utils import ModelType, get_trainer

from recbole_eimf.config.config import EIMFConfig
from recbole_eimf.config.contract import is_ours
from recbole_eimf.config.same_experiment import deciding_settings, differing_settings, in_words
from recbole_eimf.config.stock_needs import stock_class
from recbole_eimf.core import distributed
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.core.files import read_json, write_json
from recbole_eimf.core.trust import trusted_checkpoints
from recbole_eimf.data.dataset import LazySequenceDataset
from recbole_eimf.data.loader import loader_class, samples_nothing
from recbole_eimf.experiment.run_log import DETAIL
from recbole_eimf.semantic.dataset import dataset_class
from recbole_eimf.trainer.choice import trainer_class
from recbole_eimf.trainer.saving import KeepsBestModel, keeping_best_model
from recbole_eimf.trainer.trainer import CountingTrainer, InterestTrainer, rank_reproducibly

Loaders = tuple[AbstractDataLoader, AbstractDataLoader, AbstractDataLoader]


def datasets(config: EIMFConfig) -> tuple[LazySequenceDataset, list[LazySequenceDataset]]:
    """Load a configuration's data set and split it: (whole, [train, valid, test])."""
    whole = dataset_class(config.model_class)(config)
    return whole, whole.build()


def loaders(config: EIMFConfig) -> Loaders:
    """The (train, valid, test) loaders of a configuration.

    RecBole's pickled data sets and loaders are read where ``dataset_save_path`` or ``dataloaders_save_path`` names them
    or ``save_dataset`` or ``save_dataloaders`` writes them; never what happens to lie in ``checkpoint_dir``. Only those
    of a run with the same settings and data are: RecBole compares some of its own, and no protocol.
    """
    whole_path, parts_path = _saved_paths(config)
    whole = _saved_dataset(config, whole_path) or dataset_class(config.model_class)(config)
    if config["save_dataset"]:
        whole.save()
        _sign(config, config["checkpoint_dir"], _dataset_name(config))
    getLogger().info(whole, extra=DETAIL)
    if _signed(config, parts_path):
        saved = recbole_data.load_split_dataloaders(config)
        if saved is not None:
            return saved
    parts = whole.build()
    samplers = (None,) * 3 if samples_nothing(config) else recbole_data.create_samplers(config, whole, parts)
    train, valid, test = (
        loader_class(config, phase)(config, part, sampler, shuffle=phase == "train" and config["shuffle"])
        for phase, part, sampler in zip(("train", "valid", "test"), parts, samplers, strict=True)
    )
    if config["save_dataloaders"]:
        recbole_data.save_split_dataloaders(config, dataloaders=(train, valid, test))
        _sign(config, config["checkpoint_dir"], _loaders_name(config))
    return train, valid, test


def _dataset_name(config: EIMFConfig) -> str:
    return f"{config['dataset']}-{dataset_class(config.model_class).__name__}.pth"  # as RecBole names it


def _loaders_name(config: EIMFConfig) -> str:
    return f"{config['dataset']}-for-{config['model']}-dataloader.pth"


def _saved_paths(config: EIMFConfig) -> tuple[Path | None, Path | None]:
    """Where a data set and loaders may have been pickled by an earlier run: None where nobody asks."""
    folder = Path(config["checkpoint_dir"])
    saves = config["save_dataset"] or config["save_dataloaders"]
    whole, parts = config["dataset_save_path"], config["dataloaders_save_path"]
    return (
        Path(whole) if whole else folder / _dataset_name(config) if saves else None,
        Path(parts) if parts else folder / _loaders_name(config) if saves else None,
    )


def _sign(config: EIMFConfig, folder: str, name: str) -> None:
    """Put beside a pickle what it was made with."""
    write_json(Path(folder) / f"{name}.json", deciding_settings(config))


def _signed(config: EIMFConfig, path: Path | None) -> bool:
    """Whether a pickle was made with a configuration's settings; says what differs. It is not opened otherwise."""
    if path is None or not path.is_file():
        return False
    beside = Path(f"{path}.json")
    if not beside.is_file():
        getLogger().warning(f"{path} is not read: nothing beside it ({beside.name}) says what it was made with.")
        return False
    differ = differing_settings(read_json(beside), deciding_settings(config))
    if differ:
        getLogger().warning(f"{path} is not read: it was made with other settings: {in_words(differ)}.")
    return not differ


def _saved_dataset(config: EIMFConfig, path: Path | None) -> LazySequenceDataset | None:
    """The data set that a run with ``save_dataset`` wrote, if it was made with the same settings."""
    if not _signed(config, path):
        return None
    with open(path, "rb") as stream:
        return pickle.load(stream)


def model(config: EIMFConfig, train: LazySequenceDataset) -> torch.nn.Module:
    """The model of a configuration, untrained, on the CPU or wherever it puts itself.

    Raises:
        ConfigError: a general model of RecBole's cannot be made; some of them do not run with today's SciPy.
    """
    if is_ours(config.model_class):
        return config.model_class(config, train)
    try:
        with trusted_checkpoints():  # S3Rec reads what its first stage wrote
            return config.model_class(config, train)
    except Exception as error:
        if config["MODEL_TYPE"] != ModelType.GENERAL or stock_class(config.model_class) is not config.model_class:
            raise
        raise ConfigError(
            f"model={config['model']}: RecBole's own code cannot make it with this data, its keys and the packages "
            f"installed ({type(error).__name__}: {str(error).partition(chr(10))[0]}). Take another model."
        ) from error


def trainer(config: EIMFConfig, model: torch.nn.Module) -> KeepsBestModel:
    """The trainer of a model: ours, RecBole's own where the model brings one, or one that only counts."""
    if is_ours(config.model_class):
        return trainer_class(config.model_class, config)(config, model)
    known = stock_class(config.model_class)  # a subclass is trained as what it derives from
    stock = get_trainer(config["MODEL_TYPE"], known.__name__ if known else config["model"])
    _check_stock_model(config, model, stock)
    if config["MODEL_TYPE"] == ModelType.TRADITIONAL:
        return CountingTrainer(config, model)
    if stock.__name__ not in ("Trainer", "TraditionalTrainer"):
        own = keeping_best_model(stock)(config, model)  # a model with phases of its own keeps its trainer
        rank_reproducibly(own)
        return own
    return InterestTrainer(config, model)


def _check_stock_model(config: EIMFConfig, model: torch.nn.Module, trainer: type) -> None:
    """Several processes average gradients; what a model of RecBole's learns in other ways would stay in one of them."""
    plain = trainer.__name__ == "Trainer" and config["MODEL_TYPE"] != ModelType.TRADITIONAL
    if distributed.joined() and (not plain or model.other_parameter()):
        raise ConfigError(f"model={config['model']}: does not learn by gradients alone. Use nproc=1.")
