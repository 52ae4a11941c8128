"""What a configuration stands for, made: its data set, loaders, model and trainer."""

from __future__ import annotations

import pickle
from logging import getLogger
from pathlib import Path

import recbole.data.utils as recbole_data
import torch
from recbole.data.dataloader.abstract_dataloader import AbstractDataLoader
from recbole.utils import ModelType, dataset_arguments, get_trainer

from recbole_eimf.config.config import EIMFConfig
from recbole_eimf.config.contract import is_ours
from recbole_eimf.config.stock_needs import stock_class
from recbole_eimf.core import distributed
from recbole_eimf.core.errors import ConfigError
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
    or ``save_dataset`` or ``save_dataloaders`` writes them; never what happens to lie in ``checkpoint_dir``.
    """
    saves = config["save_dataset"] or config["save_dataloaders"]
    whole = _saved_dataset(config, saves) or dataset_class(config.model_class)(config)
    if config["save_dataset"]:
        whole.save()
    getLogger().info(whole, extra=DETAIL)
    if saves or config["dataloaders_save_path"]:
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
    return train, valid, test


def _saved_dataset(config: EIMFConfig, saves: bool) -> LazySequenceDataset | None:
    """The data set that a run with ``save_dataset`` wrote, if it was made with the same settings."""
    name = f"{config['dataset']}-{dataset_class(config.model_class).__name__}.pth"
    path = config["dataset_save_path"] or (saves and Path(config["checkpoint_dir"]) / name)
    if not path or not Path(path).exists():
        return None
    with open(path, "rb") as stream:
        saved = pickle.load(stream)
    same = all(config[key] == saved.config[key] for key in (*dataset_arguments, "seed", "repeatable"))
    return saved if same else None


def model(config: EIMFConfig, train: LazySequenceDataset) -> torch.nn.Module:
    """The model of a configuration, untrained, on the CPU or wherever it puts itself."""
    if is_ours(config.model_class):
        return config.model_class(config, train)
    with trusted_checkpoints():  # S3Rec reads what its first stage wrote
        return config.model_class(config, train)


def trainer(config: EIMFConfig, model: torch.nn.Module) -> KeepsBestModel:
    """The trainer of a model: ours, RecBole's own where the model brings one, or one that only counts."""
    if is_ours(config.model_class):
        return trainer_class(config.model_class)(config, model)
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
