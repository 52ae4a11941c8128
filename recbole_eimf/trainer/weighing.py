"""Choosing weights on validation: of models that count and have nothing to train, and of a prior once a model is."""

from __future__ import annotations

from typing import Any

import torch

from recbole_eimf.core import distributed
from recbole_eimf.core.files import read_json, write_json
from recbole_eimf.core.run_folder import PRIOR_FILE
from recbole_eimf.data.loader import RankingEvalDataLoader, SampledEvalDataLoader
from recbole_eimf.model.score_prior import WEIGHTS, ScorePrior, weights_text
from recbole_eimf.trainer.prior_fit import evidence, fit
from recbole_eimf.trainer.trainer import InterestTrainer

#: weights of a prior in a row that are no better than the best so far, after which no larger one is tried
_ENOUGH = 3


class WeighingTrainer(InterestTrainer):
    """An epoch for each of the model's ``weights``; the best by ``valid_metric`` is kept and tested."""

    def __init__(self, config, model) -> None:
        super().__init__(config, model)
        self.epochs = len(model.weights)
        self.stopping_step = self.epochs  # metrics need not rise and fall once
        self.eval_step = 1

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
        self.model.set_weight(self.model.weights[epoch_idx])
        self._epoch = {"epoch": epoch_idx, "train_seconds": 0.0, "losses": [0.0]}
        self.history.append(self._epoch)
        return 0.0


def choose_prior(trainer: InterestTrainer, prior: ScorePrior, valid_data) -> dict[str, float]:
    """Weigh a trained model's prior by ``valid_metric``, part by part, and keep the weights with the best model.

    Where they were chosen for the same epoch before a stop, they stay: the model in the folder has them already, or was
    trained again on the validation targets since (``refit``).

    Returns:
        Validation metrics under the chosen weights; the trainer holds them as its best.
    """
    folder = trainer.model_folder
    chosen = _chosen_before(trainer, prior)
    if chosen is None:
        if folder is not None:
            trainer.read_best()
        prior.weight.zero_()  # of a run that goes on, the model in the folder has been weighed
        chosen = trainer.evaluate(valid_data, load_best_model=False)
        choose = _try_weights if trainer.config["prior_weights"] == "grid" else _fit_weights
        chosen = choose(trainer, prior, valid_data, chosen)
        if folder is not None:
            trainer.write(trainer.best_epoch)
            _write_chosen(trainer, prior, chosen)
    trainer.best_valid_result = chosen
    return chosen


def _identity(trainer: InterestTrainer) -> dict[str, Any]:
    """What chosen weights belong to."""
    return {"best_epoch": trainer.best_epoch, **{key: trainer.config[key] for key in ("score_prior", "prior_weights")}}


def _write_chosen(trainer: InterestTrainer, prior: ScorePrior, valid: dict[str, float]) -> None:
    if distributed.is_first():
        found = {"weights": prior.weight.tolist(), "valid": valid}
        write_json(trainer.model_folder / PRIOR_FILE, {**_identity(trainer), **found})


def _chosen_before(trainer: InterestTrainer, prior: ScorePrior) -> dict[str, float] | None:
    """Validation metrics of the weights that were chosen before a stop, which ``prior`` gets; None without any."""
    path = trainer.model_folder and trainer.model_folder / PRIOR_FILE
    if not (trainer.config["resume"] and path and path.is_file()):
        return None
    held = read_json(path, "Remove it to have the weights chosen again.")
    if {key: held.get(key) for key in _identity(trainer)} != _identity(trainer):
        return None
    prior.weight.copy_(torch.tensor(held["weights"]))
    return held["valid"]


def _fit_weights(trainer: InterestTrainer, prior: ScorePrior, valid_data, alone: dict[str, float]) -> dict[str, float]:
    """Weights of the greatest likelihood; none where the model alone is better by ``valid_metric``."""
    rankings = valid_data
    if isinstance(valid_data, SampledEvalDataLoader):  # what likelihood asks for is all items
        rankings = RankingEvalDataLoader(valid_data.config, valid_data._dataset, None)
    weights = fit(evidence(trainer, prior, rankings), prior.bucket if len(prior.bucket) else None)
    for part, weight in zip(prior.parts, weights):
        prior.set_weight(part, weight)
    if distributed.joined():  # each process has seen its share of the users
        distributed.copy_from_first(trainer.model)
    metric = trainer.valid_metric.lower()
    found = trainer.evaluate(valid_data, load_best_model=False)
    sign = 1 if trainer.valid_metric_bigger else -1
    if sign * found[metric] < sign * alone[metric]:
        prior.weight.zero_()
        found = alone
    said = weights_text(prior.weights())
    trainer.logger.info(f"score prior: {said}; valid {metric} {_metric_text(metric, found[metric])}")
    return found


def _try_weights(trainer: InterestTrainer, prior: ScorePrior, valid_data, best: dict[str, float]) -> dict[str, float]:
    """Weights of the grid, part by part."""
    metric = trainer.valid_metric.lower()
    sign = 1 if trainer.valid_metric_bigger else -1
    for part in prior.parts:
        chosen, worse = 0.0, 0
        for weight in WEIGHTS[1:]:
            prior.set_weight(part, weight)
            found = trainer.evaluate(valid_data, load_best_model=False)
            if sign * found[metric] > sign * best[metric]:
                best, chosen, worse = found, weight, 0
            else:
                worse += 1
            if worse == _ENOUGH:
                break
        prior.set_weight(part, chosen)
        trainer.logger.info(f"score prior: {part} weighs {chosen}; valid {metric} {_metric_text(metric, best[metric])}")
    return dict(best)


def _metric_text(metric: str, value: float) -> str:
    """As the lines of epochs show it."""
    return f"{100 * value:.2f} %" if "@" in metric else f"{value:.4g}"
