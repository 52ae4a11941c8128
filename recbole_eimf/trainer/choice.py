"""Which trainer a model of ours gets."""

from __future__ import annotations

from recbole_eimf.trainer.phases import PhaseTrainer
from recbole_eimf.trainer.trainer import CountingTrainer, InterestTrainer


def trainer_class(model_class: type) -> type[InterestTrainer]:
    """The class a model names as ``trainer_class``; else by what it is: counted, trained in phases, or in one go."""
    default = InterestTrainer
    if getattr(model_class, "counting", False):
        default = CountingTrainer
    elif hasattr(model_class, "phases"):
        default = PhaseTrainer
    return getattr(model_class, "trainer_class", default)
