"""Choosing one weight on validation: for models that count and have nothing to train."""

from __future__ import annotations

from recbole_eimf.trainer.trainer import InterestTrainer


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
