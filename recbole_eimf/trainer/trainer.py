"""RecBole's trainer that loses nothing when it is stopped, and keeps what a comparison needs."""

from __future__ import annotations

import random
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.evaluator import Evaluator
from recbole.model.abstract_recommender import AbstractRecommender
from recbole.model.layers import TransformerEncoder
from recbole.trainer import Trainer
from recbole.utils import init_seed
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from recbole_eimf.config import keys
from recbole_eimf.config.keys import RunSettings
from recbole_eimf.core import distributed
from recbole_eimf.core.bars import bar
from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.core.files import write_json
from recbole_eimf.core.run_folder import HISTORY_FILE, STATE_FILE
from recbole_eimf.evaluator.chunked import chunk_items, ranked_in_chunks
from recbole_eimf.evaluator.collector import RankedItems, RankingCollector, check_scores
from recbole_eimf.model.products import query
from recbole_eimf.trainer.epoch import scaler_of, train_epoch
from recbole_eimf.trainer.lazy_adamw import LazyAdamW, lazy_optimiser
from recbole_eimf.trainer.memory import Kept
from recbole_eimf.trainer.saving import KeepsBestModel
from recbole_eimf.trainer.state import (
    gpu_random_state,
    optimiser_parts,
    read_state,
    restore_gpu_random_state,
    restore_optimiser,
    write_state,
)

_PAIRS_AT_ONCE = 2**16


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


def compile_encoders(model: nn.Module, **options: Any) -> None:
    """``torch.compile`` the transformer encoders of a model, in place, for batches of any size and length.

    Weights and their names stay. ``options`` go to ``torch.compile``.

    Raises:
        ConfigError: the model has no such encoder.
    """
    found = [module for module in model.modules() if isinstance(module, TransformerEncoder)]
    if not found:
        raise ConfigError(
            f"torch_compile=True: {type(model).__name__} has no transformer encoder to compile, as SASRec and BERT4Rec "
            "have. Leave it out."
        )
    for module in found:
        module.compile(dynamic=True, **options)


class _Step(nn.Module):
    """DistributedDataParallel averages the gradients of what its ``forward`` made: here, the loss."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch):
        return self.model.calculate_loss(batch)


class InterestTrainer(KeepsBestModel):
    """RecBole's trainer plus: a state at every epoch's end from which a run goes on, and a history in JSON.

    With ``output_dir`` set, ``model.safetensors`` and ``config.json`` in it are the best model
    (:mod:`recbole_eimf.trainer.checkpoint`), ``last.safetensors`` the latest state with optimiser and random states,
    ``history.json`` the losses and validation metrics.

    Of several processes (:mod:`recbole_eimf.core.distributed`) each trains and evaluates on its share; after every step
    and every evaluation all hold the same model and figures. Process 0 writes the files, and they all read them.
    """

    #: what the epochs of a model that is trained in phases belong to
    phase: str = ""
    #: attributes that a resumed run goes on with
    kept: tuple[str, ...] = ("cur_step", "best_valid_score", "best_valid_result", "best_epoch", "history", "finished")

    def __init__(self, config, model) -> None:
        super().__init__(config, model)
        rank_reproducibly(self)
        wanted = keys.read(RunSettings, config)
        self.amp_dtype = getattr(torch, wanted.amp_dtype)
        if wanted.torch_compile:
            compile_encoders(model)
        self.folder = Path(config["output_dir"]) if config["output_dir"] else None
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
        self.history: list[dict[str, Any]] = []
        self.finished = False
        self._loader = None
        self._parallel: DistributedDataParallel | None = None
        self._epoch: dict[str, Any] = {}  # the last of ``history``
        self._validates = True
        self._evaluated = bar(disable=True)  # batches of the evaluation that is going on
        self._kept = Kept()

    # ------------------------------------------------------------------ RecBole's steps, measured
    def _build_optimizer(self, **kwargs):
        # sparse gradients and rows that wait are one process's own affair
        alone = not kwargs and not distributed.joined()
        lazy = lazy_optimiser(self.model, self.config, self.enable_scaler) if alone else None
        return super()._build_optimizer(**kwargs) if lazy is None else lazy

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
        begin = time.perf_counter()
        self._seed_process(epoch_idx)
        given = (train_data, epoch_idx, loss_func or self._loss, show_progress)
        # RecBole's own processes add gradients up in RecBole's epoch
        losses = train_epoch(self, *given) if self.config["single_spec"] else super()._train_epoch(*given)
        if isinstance(self.optimizer, LazyAdamW):
            self.optimizer.catch_up_all()
        parts = distributed.mean(losses if isinstance(losses, tuple) else (losses,))
        batches = max(len(train_data), 1)
        self._epoch = {
            "epoch": epoch_idx,
            "train_seconds": time.perf_counter() - begin,
            "losses": [part / batches for part in parts],
            **({"phase": self.phase} if self.phase else {}),
        }
        self.history.append(self._epoch)
        self._kept.after_epoch()
        if not self._evaluates(epoch_idx):
            self._say_epoch()
            self._save_state(epoch_idx)
            self._write_history()
        return parts if isinstance(losses, tuple) else parts[0]

    @property
    def _chooses(self) -> bool:
        """Whether validation says which epoch is kept; else it is the last."""
        return self._validates and self.eval_step > 0

    def _evaluates(self, epoch: int) -> bool:
        return self._chooses and (epoch + 1) % self.eval_step == 0

    def _loss(self, batch):
        """The model's loss; of several processes, of this one's part of the batch, weighing what it is of the whole."""
        with torch.autocast(self.device.type, self.amp_dtype, enabled=self.enable_amp):
            if self._parallel is None:
                return self.model.calculate_loss(batch)
            losses, share = self._parallel(batch), self._loader.share
        return tuple(part * share for part in losses) if isinstance(losses, tuple) else losses * share

    def _seed_process(self, epoch: int) -> None:
        """Let the other processes draw (dropout, negatives) otherwise than process 0, and the same after a stop."""
        if not distributed.is_first():
            word = f"{self.config['seed']} {distributed.rank()} {epoch}"
            init_seed(zlib.crc32(word.encode()) % 2**31, self.config["reproducibility"])

    def _valid_epoch(self, valid_data, show_progress=False):
        begin = time.perf_counter()
        shown = show_progress and distributed.is_first()
        with bar(total=len(valid_data), ncols=100, desc="Evaluate", leave=False, disable=not shown) as self._evaluated:
            score, result = super()._valid_epoch(valid_data)
        self._epoch |= {"valid_seconds": time.perf_counter() - begin, "valid": {k: float(v) for k, v in result.items()}}
        return score, result

    def _neg_sample_batch_eval(self, batched_data):
        """RecBole's, but the batch has one row a user, as its scores have: the order of equal scores is the user's; and
        a target that the user had before is missed where histories are masked."""
        self._evaluated.update()
        interaction, scores, positive_u, positive_i = super()._neg_sample_batch_eval(batched_data)
        if scores.ndim == 2:  # else values of pairs
            row_of_pair = torch.as_tensor(batched_data[1])
            pair = torch.zeros(len(scores), dtype=torch.int64)
            pair[row_of_pair] = torch.arange(len(row_of_pair))  # any of a user's
            scores[batched_data[0].missed] = -np.inf
            interaction = interaction[pair]
        return interaction, scores, positive_u, positive_i

    def _full_sort_batch_eval(self, batched_data):
        self._evaluated.update()
        interaction, history, positive_u, positive_i = batched_data
        wanted = self.eval_collector.chunk_items
        chunk = chunk_items(wanted, len(interaction), self.tot_item_num, self.device)
        asked = query(self.model, interaction.to(self.device)) if chunk else None
        if asked is None and type(self.model).full_sort_predict is AbstractRecommender.full_sort_predict:
            return self._scored_in_pairs(batched_data)
        if asked is None:
            return super()._full_sort_batch_eval(batched_data)
        users, k = interaction[self.config["USER_ID_FIELD"]].to(self.device), max(self.config["topk"])
        items = ranked_in_chunks(asked.scores, self.tot_item_num, users, k, chunk, history, asked.vectors.dtype)
        check_scores(items, lambda: asked.scores(1, min(2, self.tot_item_num)))
        return interaction, RankedItems(items), positive_u, positive_i

    def _scored_in_pairs(self, batched_data):
        """RecBole's way for models that score (history, item) pairs alone (DIN, DIEN), a few users at a time: all pairs
        of a batch would be its users' histories times the catalogue."""
        interaction, history, positive_u, positive_i = batched_data
        step = max(_PAIRS_AT_ONCE // self.tot_item_num, 1)
        few = (interaction[begin : begin + step] for begin in range(0, len(interaction), step))
        scores = torch.cat([Trainer._full_sort_batch_eval(self, (part, None, None, None))[1] for part in few])
        if history is not None:
            scores[history] = -np.inf
        return interaction, scores, positive_u, positive_i

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
        self._validates = bool(valid_data)
        if self.finished:
            self.eval_collector.data_collect(train_data)
            return self.best_valid_score, self.best_valid_result
        if saved:
            self.describe(train_data)

        def after_epoch(epoch_idx, valid_score):
            self._after_evaluation(epoch_idx)
            if callback_fn:
                callback_fn(epoch_idx, valid_score)

        if distributed.joined():
            distributed.copy_from_first(self.model)
            # which parts of a model a step uses may differ from batch to batch; buffers do not change in training
            self._parallel = DistributedDataParallel(
                _Step(self.model), broadcast_buffers=False, find_unused_parameters=True
            )
        outcome = super().fit(train_data, valid_data, verbose, saved, show_progress, after_epoch)
        self._parallel = None
        self.finished = True
        if saved:
            self._save_state(len(self.history) and self.history[-1]["epoch"])
        return outcome

    # ------------------------------------------------------------------ going on after a stop
    def _after_evaluation(self, epoch: int) -> None:
        # RecBole stops after this; a run that was killed before it did must not train on
        self.finished = self.cur_step > self.stopping_step
        self._say_epoch()
        self._save_state(epoch)
        self._write_history()

    def _say_epoch(self) -> None:
        """One line for an epoch: its losses, a batch's mean, and how good the model is now and was at its best."""
        done, metric = self._epoch, self.valid_metric
        if done["epoch"] < 0:  # a phase says so itself
            return
        phase = f"{done['phase']}: " if "phase" in done else ""
        parts = [f"{phase}epoch {done['epoch']:>3} of {self.epochs}", f"{done['train_seconds']:.1f} s"]
        parts += ["loss " + " + ".join(f"{loss:.4g}" for loss in done["losses"])] if done["losses"] else []
        if metric in done.get("valid", {}):
            best = " (best so far)" if self.cur_step == 0 else f", best {100 * float(self.best_valid_score):.2f} %"
            parts.append(f"valid {metric} {100 * done['valid'][metric]:.2f} %{best}")
        self.logger.info("  ".join(parts))

    def _write_history(self) -> None:
        if self._writes:
            write_json(self.folder / HISTORY_FILE, self.history)

    @property
    def _writes(self) -> bool:
        return self.folder is not None and distributed.is_first()

    def _save_state(self, epoch: int) -> None:
        if not self._writes:
            return
        tensors, groups = optimiser_parts(self.optimizer)
        tensors |= {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {"random.torch": torch.get_rng_state(), "random.loader": self._loader.generator.get_state()}
        tensors |= gpu_random_state(self.device)
        _, keys, *rest = np.random.get_state()
        tensors["random.numpy"] = torch.from_numpy(keys.astype(np.int64))
        kept = {name: getattr(self, name) for name in self.kept}
        kept["best_valid_score"] = float(self.best_valid_score)
        kept["best_valid_result"] = {k: float(v) for k, v in (self.best_valid_result or {}).items()}
        values = {**kept, "epoch": epoch, "groups": groups, "numpy": rest, "python": random.getstate()[1]}
        values["scaler"] = scaler_of(self).state_dict()
        write_state(self.folder / STATE_FILE, tensors, values)

    def resume(self, train_data) -> bool:
        """Go on from the state in ``output_dir``.

        Returns:
            Whether there was a state to go on from.

        Raises:
            DataError: the file is broken, or belongs to a model of other shapes.
        """
        if self._writes:
            for half in self.folder.glob(".*.tmp"):  # of a file that was being written when the run was killed
                half.unlink()
        path = self.folder / STATE_FILE if self.folder is not None else None
        if path is None or not distributed.agreed(path.is_file()):
            return False
        try:
            tensors, values = read_state(path)
            model = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
            self.model.load_state_dict(model)
            restore_optimiser(self.optimizer, tensors, values["groups"])
            if values.get("scaler") and self.enable_scaler:
                scaler_of(self).load_state_dict(values["scaler"])
        except Exception as error:
            raise DataError(
                f"{path}: cannot go on from this state ({error}). Run with the settings it was made with, "
                f"another output_dir, or without --resume=True."
            ) from error
        self.start_epoch = values["epoch"] + 1
        for name in self.kept:
            setattr(self, name, values[name])
        if self.start_epoch < self.epochs and self.cur_step <= self.stopping_step:
            self.finished = False  # it ended for want of epochs, and was given more
        torch.set_rng_state(tensors["random.torch"])
        restore_gpu_random_state(tensors, self.device)
        train_data.generator.set_state(tensors["random.loader"])
        np.random.set_state(("MT19937", tensors["random.numpy"].numpy().astype(np.uint32), *values["numpy"]))
        random.setstate((3, tuple(values["python"]), None))
        self._write_history()  # a kill between the two files left it an epoch behind
        self.logger.info(f"going on after epoch {values['epoch']} of {path}")
        return True


class CountingTrainer(InterestTrainer):
    """One pass for models that only count."""

    def __init__(self, config, model) -> None:
        super().__init__(config, model)
        self.epochs = 1
