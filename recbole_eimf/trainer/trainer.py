"""RecBole's trainer that loses nothing when it is stopped, and keeps what a comparison needs."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.evaluator import Evaluator
from recbole.trainer import Trainer

from recbole_eimf.errors import DataError
from recbole_eimf.semantic.store import atomic_path, write_json


class _KeepingEvaluator(Evaluator):
    """RecBole's evaluator, which also keeps what it was last given: per-user hits for slices and significance."""

    last: Any = None

    def evaluate(self, dataobject):
        self.last = dataobject
        return super().evaluate(dataobject)


class InterestTrainer(Trainer):
    """RecBole's trainer plus: a checkpoint at every evaluation from which a run goes on, and a history in JSON.

    With ``output_dir`` set, ``<output_dir>/model.pth`` is the best model (RecBole's checkpoint format),
    ``last.pth`` the latest state with optimiser and random states, ``history.json`` the losses and validation metrics.
    """

    def __init__(self, config, model) -> None:
        super().__init__(config, model)
        self.evaluator = _KeepingEvaluator(config)
        self.folder = Path(config["output_dir"]) if config["output_dir"] else None
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.saved_model_file = str(self.folder / "model.pth")
        self.history: list[dict[str, Any]] = []
        self.best_epoch = -1
        self.finished = False
        self._loader = None
        self._epoch: dict[str, Any] = {}

    # ------------------------------------------------------------------ RecBole's steps, measured
    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
        begin = time.perf_counter()
        losses = super()._train_epoch(train_data, epoch_idx, loss_func, show_progress)
        parts = losses if isinstance(losses, tuple) else (losses,)
        batches = max(len(train_data), 1)
        self._epoch = {
            "epoch": epoch_idx,
            "train_seconds": time.perf_counter() - begin,
            "losses": [part / batches for part in parts],
        }
        return losses

    def _valid_epoch(self, valid_data, show_progress=False):
        begin = time.perf_counter()
        score, result = super()._valid_epoch(valid_data, show_progress)
        self._epoch |= {"valid_seconds": time.perf_counter() - begin, "valid": {k: float(v) for k, v in result.items()}}
        return score, result

    def _save_checkpoint(self, epoch, verbose=True, **kwargs):
        if "saved_model_file" in kwargs or not self.config["single_spec"]:
            return super()._save_checkpoint(epoch, verbose=verbose, **kwargs)
        with atomic_path(self.saved_model_file) as temporary:  # a kill while saving keeps the previous best
            super()._save_checkpoint(epoch, verbose=False, saved_model_file=str(temporary))
        self.best_epoch = epoch
        return None

    def fit(
        self,
        train_data,
        valid_data=None,
        verbose=True,
        saved=True,
        show_progress=False,
        callback_fn=None,
    ):
        """RecBole's ``fit``; a finished run that is resumed returns its result at once."""
        self._loader = train_data
        if self.finished:
            self.eval_collector.data_collect(train_data)
            return self.best_valid_score, self.best_valid_result

        def after_epoch(epoch_idx, valid_score):
            self._after_evaluation(epoch_idx)
            if callback_fn:
                callback_fn(epoch_idx, valid_score)

        outcome = super().fit(train_data, valid_data, verbose, saved, show_progress, after_epoch)
        self.finished = True
        if self.folder is not None and saved:
            self._save_state(len(self.history) and self.history[-1]["epoch"])
        return outcome

    # ------------------------------------------------------------------ going on after a stop
    def _after_evaluation(self, epoch: int) -> None:
        self.history.append(self._epoch)
        if self.folder is not None:
            self._save_state(epoch)
            write_json(self.folder / "history.json", self.history)

    def _save_state(self, epoch: int) -> None:
        state = {
            "epoch": epoch,
            "state_dict": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "cur_step": self.cur_step,
            "best_valid_score": float(self.best_valid_score),
            "best_valid_result": dict(self.best_valid_result) if self.best_valid_result else None,
            "best_epoch": self.best_epoch,
            "history": self.history,
            "finished": self.finished,
            "random": {
                "torch": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
                "loader": self._loader.generator.get_state(),
                "numpy": list(np.random.get_state()[1:]),
                "python": list(random.getstate()[1]),
            },
        }
        with atomic_path(self.folder / "last.pth") as temporary:
            torch.save(state, temporary)

    def resume(self, train_data) -> bool:
        """Go on from ``<output_dir>/last.pth``.

        Returns:
            Whether there was a state to go on from.

        Raises:
            DataError: the file is broken, or belongs to a model of other shapes.
        """
        path = self.folder / "last.pth" if self.folder is not None else None
        if path is None or not path.is_file():
            return False
        try:
            state = torch.load(path, map_location=self.device, weights_only=False)
            self.model.load_state_dict(state["state_dict"])
            self.optimizer.load_state_dict(state["optimizer"])
        except Exception as error:
            raise DataError(
                f"{path}: cannot go on from this state ({error}). Run with the settings it was made with, "
                f"another output_dir, or without --resume=True."
            ) from error
        self.start_epoch = state["epoch"] + 1
        for name in ("cur_step", "best_valid_score", "best_valid_result", "best_epoch", "history", "finished"):
            setattr(self, name, state[name])
        drawn = state["random"]
        torch.set_rng_state(drawn["torch"].cpu())
        for device, generator_state in enumerate(drawn["cuda"]):
            torch.cuda.set_rng_state(generator_state.cpu(), device)
        train_data.generator.set_state(drawn["loader"].cpu())
        np.random.set_state(("MT19937", *drawn["numpy"]))
        random.setstate((3, tuple(drawn["python"]), None))
        self.logger.info(f"going on after epoch {state['epoch']} of {path}")
        return True


class CountingTrainer(InterestTrainer):
    """One pass for models that only count."""

    def __init__(self, config, model) -> None:
        super().__init__(config, model)
        self.epochs = 1


def trainer_class(model_class: type) -> type[InterestTrainer]:
    """The trainer of a model of ours."""
    default = CountingTrainer if getattr(model_class, "counting", False) else InterestTrainer
    return getattr(model_class, "trainer_class", default)
