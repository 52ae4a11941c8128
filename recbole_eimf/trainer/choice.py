"""Which trainer a model of ours gets."""

from __future__ import annotations

from typing import Any

from recbole_eimf.config.contract import contract_of
from recbole_eimf.trainer.phases import PhaseTrainer
from recbole_eimf.trainer.trainer import CountingTrainer, InterestTrainer
from recbole_eimf.trainer.weighing import WeighingTrainer


def trainer_class(model_class: type, config: Any = None) -> type[InterestTrainer]:
    """The class a model names as ``trainer_class``; else by what it is (weighed, counted, in phases, in one go).

    Args:
        config: of the run; None: what the class is without a configuration.
    """
    asked = contract_of(model_class)
    if asked.choices(config) if config is not None else asked.weights:
        return WeighingTrainer
    default = CountingTrainer if asked.counting else PhaseTrainer if asked.in_phases else InterestTrainer
    return asked.trainer_class or default
