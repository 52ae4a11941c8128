"""Choosing weights on validation: of models that count and have nothing to train, and of a prior once a model is."""

from __future__ import annotations

from recbole_eimf.core import distributed
from recbole_eimf.model.score_prior import PARTS, WEIGHTS, ScorePrior
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

    Returns:
        Validation metrics under the chosen weights; the trainer holds them as its best.
    """
    kept = trainer.model_folder is not None
    best = trainer.evaluate(valid_data, load_best_model=kept)  # what stands in the file weighs nothing yet
    chosen = _tried if trainer.config["prior_weights"] == "grid" else _fitted
    best = chosen(trainer, prior, valid_data, best)
    if kept:
        trainer.write(trainer.best_epoch)
    trainer.best_valid_result = best
    return best


def _fitted(trainer: InterestTrainer, prior: ScorePrior, valid_data, alone: dict[str, float]) -> dict[str, float]:
    """Weights of the greatest likelihood; none where the model alone is better by ``valid_metric``."""
    weights = fit(evidence(trainer, prior, valid_data), prior.bucket if len(prior.bucket) else None)
    for part, weight in zip(prior.parts, weights):
        prior.set_weight(part, weight)
    if distributed.joined():  # each process has seen its share of the users
        distributed.copy_from_first(trainer.model)
    metric = trainer.valid_metric.lower()
    found = trainer.evaluate(valid_data, load_best_model=False)
    if (found[metric] > alone[metric]) != trainer.valid_metric_bigger:
        prior.weight.zero_()
        found = alone
    trainer.logger.info(f"score prior: weights {prior.weight.tolist()} ({', '.join(PARTS)}), {metric} {found[metric]}")
    return found


def _tried(trainer: InterestTrainer, prior: ScorePrior, valid_data, best: dict[str, float]) -> dict[str, float]:
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
        trainer.logger.info(f"score prior: {part} weighs {chosen}, {metric} {best[metric]}")
    return dict(best)
