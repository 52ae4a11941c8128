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
from recbole_eimf.evaluator.collector import RankingCollector
from recbole_eimf.semantic.store import atomic_path, write_json
from recbole_eimf.trainer.state import optimiser_parts, read_state, restore_optimiser, write_state

STATE_FILE = "last.safetensors"


class _KeepingEvaluator(Evaluator):
    """RecBole's evaluator, which also keeps what it was last given: per-user hits for slices and significance."""

    last: Any = None

    def evaluate(self, dataobject):
        self.last = dataobject
        return super().evaluate(dataobject)


def rank_reproducibly(trainer: Trainer) -> None:
    """Let a trainer, RecBole's too, rank with a defined order among equal scores and keep what it ranked."""
    trainer.eval_collector = RankingCollector(trainer.config)
    trainer.evaluator = _KeepingEvaluator(trainer.config)


class InterestTrainer(Trainer):
    """RecBole's trainer plus: a checkpoint at every evaluation from which a run goes on, and a history in JSON.

    With ``output_dir`` set, ``<output_dir>/model.pth`` is the best model (RecBole's checkpoint format),
    ``last.safetensors`` the latest state with optimiser and random states, ``history.json`` the losses and validation
    metrics.
    """

    #: attributes that a resumed run goes on with
    kept: tuple[str, ...] = ("cur_step", "best_valid_score", "best_valid_result", "best_epoch", "history", "finished")

    def __init__(self, config, model) -> None:
        super().__init__(config, model)
        rank_reproducibly(self)
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
        if epoch < 0 and self.best_valid_result:
            return None  # RecBole saves a resumed run that has no epochs left: over its best one
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
        tensors, groups = optimiser_parts(self.optimizer)
        tensors |= {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {"random.torch": torch.get_rng_state(), "random.loader": self._loader.generator.get_state()}
        if torch.cuda.is_available():
            states = torch.cuda.get_rng_state_all()
            tensors |= {f"random.cuda.{device}": state for device, state in enumerate(states)}
        _, keys, *rest = np.random.get_state()
        tensors["random.numpy"] = torch.from_numpy(keys.astype(np.int64))
        kept = {name: getattr(self, name) for name in self.kept}
        kept["best_valid_score"] = float(self.best_valid_score)
        kept["best_valid_result"] = {k: float(v) for k, v in (self.best_valid_result or {}).items()}
        values = {**kept, "epoch": epoch, "groups": groups, "numpy": rest, "python": random.getstate()[1]}
        write_state(self.folder / STATE_FILE, tensors, values)

    def resume(self, train_data) -> bool:
        """Go on from the state in ``output_dir``.

        Returns:
            Whether there was a state to go on from.

        Raises:
            DataError: the file is broken, or belongs to a model of other shapes.
        """
        path = self.folder / STATE_FILE if self.folder is not None else None
        if path is None or not path.is_file():
            return False
        try:
            tensors, values = read_state(path)
            model = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
            self.model.load_state_dict(model)
            restore_optimiser(self.optimizer, tensors, values["groups"])
        except Exception as error:
            raise DataError(
                f"{path}: cannot go on from this state ({error}). Run with the settings it was made with, "
                f"another output_dir, or without --resume=True."
            ) from error
        self.start_epoch = values["epoch"] + 1
        for name in self.kept:
            setattr(self, name, values[name])
        torch.set_rng_state(tensors["random.torch"])
        for key, state in tensors.items():
            if key.startswith("random.cuda.") and torch.cuda.is_available():
                torch.cuda.set_rng_state(state, int(key.rsplit(".", 1)[1]))
        train_data.generator.set_state(tensors["random.loader"])
        np.random.set_state(("MT19937", tensors["random.numpy"].numpy().astype(np.uint32), *values["numpy"]))
        random.setstate((3, tuple(values["python"]), None))
        self.logger.info(f"going on after epoch {values['epoch']} of {path}")
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
