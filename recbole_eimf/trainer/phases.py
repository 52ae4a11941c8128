"""Training in phases: each is a training of its own with a progress bar, a checkpoint and early stopping.

With ``output_dir`` set, a phase before the last keeps ``best.safetensors``, ``last.safetensors`` and ``history.json``
in ``<output_dir>/<phase>``; the last one writes into ``output_dir`` itself, as every model does. A run goes on in
whatever phase it was stopped. Pre-trained experts are also kept in ``<semantic_cache>/phases`` under a hash of
everything that decides them, so that runs which differ in later phases only train them once, side by side too: a run
waits for the one that is training what it needs.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from recbole.utils import init_seed
from torch import Tensor, nn
from tqdm.std import tqdm

from recbole_eimf.config.same import NOT_OF_EXPERTS, ONLY_OF_TEXT_EXPERTS
from recbole_eimf.core import distributed
from recbole_eimf.core.bars import bar
from recbole_eimf.core.errors import DataError
from recbole_eimf.core.files import fingerprint, write_json
from recbole_eimf.core.locks import made_once
from recbole_eimf.core.run_folder import BEST_FILE, HISTORY_FILE, STATE_FILE
from recbole_eimf.core.version import __version__
from recbole_eimf.model.phase import Phase
from recbole_eimf.trainer.state import read_state, write_state
from recbole_eimf.trainer.trainer import InterestTrainer

#: keys that cannot change what a phase learns: names, and the text itself is looked at
_INDIFFERENT = {"model", "dataset", "MODEL_TYPE"} | NOT_OF_EXPERTS


def with_keys(config, keys: Mapping[str, Any]):
    """A copy of a configuration with other values for some keys."""
    other = copy.copy(config)
    other.final_config_dict = {**config.final_config_dict, **{k: v for k, v in keys.items() if v is not None}}
    return other


def seed_phase(config, train_data, name: str) -> None:
    """Start a phase from the run's seed and its own name, whatever ran before: resumed, cached and whole runs agree."""
    seed = (config["seed"] + zlib.crc32(name.encode())) % 2**31
    init_seed(seed, config["reproducibility"])
    train_data.generator.manual_seed(seed)


class _BarTrainer(InterestTrainer):
    """One progress bar for a whole phase, in place of RecBole's one for every epoch."""

    _bar: tqdm | None = None

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
        step = loss_func or self._loss
        if show_progress:
            if self._bar is None:
                batches = len(train_data)
                self._bar = bar(total=self.epochs * batches, initial=epoch_idx * batches, desc=self.phase)
            step = self._counted(step)
        return super()._train_epoch(train_data, epoch_idx, step, False)

    def _counted(self, step: Callable) -> Callable:
        def counted(batch):
            self._bar.update()
            return step(batch)

        return counted

    def _valid_epoch(self, valid_data, show_progress=False):
        score, result = super()._valid_epoch(valid_data, False)
        if self._bar is not None:
            self._bar.set_postfix_str(f"epoch {self._epoch['epoch']}, {self.valid_metric} {score:.4f}")
        return score, result

    def fit(self, *args, **kwargs):
        try:
            return super().fit(*args, **kwargs)
        finally:
            if self._bar is not None:
                self._bar.close()
                self._bar = None


class EarlierPhaseTrainer(_BarTrainer):
    """Trains a phase before the last and leaves its model at the best epoch."""

    def __init__(self, config, phase: Phase) -> None:
        folder = str(Path(config["output_dir"]) / phase.name) if config["output_dir"] else None
        own = {**phase.keys, "output_dir": folder}
        if not phase.select:  # the last epoch stays, which is kept where epochs are evaluated
            own["eval_step"] = 1
        super().__init__(with_keys(config, own), phase.model)
        self.model_folder = None  # the phase's best model is in the whole one
        self.phase = phase.name
        self.select = phase.select
        self.best: dict[str, Tensor] | None = None

    def run(self, train_data, valid_data, show_progress: bool, resume: bool) -> None:
        """Train, or go on from the phase's folder; then load the best epoch into the model."""
        seed_phase(self.config, train_data, self.phase)
        if resume and self.resume(train_data) and (self.folder / BEST_FILE).is_file():
            self.best, _ = read_state(self.folder / BEST_FILE)
        self.fit(train_data, valid_data, saved=True, show_progress=show_progress)
        self.model.load_state_dict(self.best)

    def describe(self, train_data) -> None:
        """Nothing: the whole run's model is described, not its parts."""

    def _save_checkpoint(self, epoch, verbose=True, **kwargs):
        if epoch < 0 and self.best is not None and self._chooses:
            return  # RecBole saves a resumed run that has no epochs left: over its best one
        self.best_epoch = epoch = self._epoch_to_save(epoch)
        self.best = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
        if self._writes:
            write_state(self.folder / BEST_FILE, self.best, {"epoch": epoch})

    def _valid_epoch(self, valid_data, show_progress=False):
        if self.select:
            return super()._valid_epoch(valid_data, show_progress)
        self.model.eval()
        self._epoch |= {"valid_seconds": 0.0, "valid": {}}
        return self._epoch["epoch"] * (1.0 if self.valid_metric_bigger else -1.0), {}


class PhaseTrainer(_BarTrainer):
    """Runs a model's phases, then trains the model itself.

    A model that has phases is also evaluated *before* its last one, which counts as epoch -1 when the best epoch is
    chosen: fine-tuning may harm. ``history`` holds the last phase (and that evaluation), ``earlier`` the epochs before.
    """

    kept = (*InterestTrainer.kept, "earlier")

    def __init__(self, config, model) -> None:
        last = {}
        if model.last_phase == "finetune":
            wanted = model.wanted
            epochs = wanted.finetune_epochs if wanted.fine_tune else 0
            last = {"learning_rate": wanted.finetune_learning_rate, "epochs": epochs}
        super().__init__(with_keys(config, last), model)
        self.whole_config = config
        self.phase = model.last_phase
        self.earlier: list[dict[str, Any]] = []
        self.epochs_of: Mapping[str, int] | None = None  # by phase, where an earlier training chose them
        self._wants_resume = False

    def resume(self, train_data) -> bool:
        """Remember to go on: in which phase, :meth:`fit` finds out."""
        self._wants_resume = True
        return self.folder is not None and any(self.folder.glob(f"**/{STATE_FILE}"))

    def fit(self, train_data, valid_data=None, verbose=True, saved=True, show_progress=False, callback_fn=None):
        """All phases; the returned score and result are the last one's."""
        self._loader = train_data
        if saved:
            self.describe(train_data)
        if not (self._wants_resume and super().resume(train_data)):
            had_phases = self._run_earlier_phases(train_data, valid_data, show_progress)
            seed_phase(self.config, train_data, self.phase)
            if had_phases and valid_data and self.config["eval_step"] > 0:
                self._evaluate_before(train_data, valid_data, saved, callback_fn)
        return super().fit(train_data, valid_data, verbose, saved, show_progress, callback_fn)

    def _run_earlier_phases(self, train_data, valid_data, show_progress: bool) -> bool:
        found = False
        for phase in self.model.phases(train_data._dataset):
            found = True
            shared = phase.cached and self.epochs_of is None
            cache = self._cache_file(phase, train_data, valid_data) if shared else None
            if cache is None:
                self._run_phase(phase, train_data, valid_data, show_progress)
                continue
            with contextlib.ExitStack() as alone:
                if distributed.is_first():  # the others wait for its word
                    alone.enter_context(made_once(cache, self.logger.warning))
                if distributed.agreed(cache.is_file()):
                    self.earlier += self._from_cache(cache, phase)
                    continue
                history = self._run_phase(phase, train_data, valid_data, show_progress)
                if distributed.is_first():
                    write_state(cache, phase.model.state_dict(), {"history": history})
        return found

    def _run_phase(self, phase: Phase, train_data, valid_data, show_progress: bool) -> list[dict[str, Any]]:
        """Train a phase: its epochs."""
        if self.epochs_of is not None:
            phase = replace(phase, keys={**phase.keys, "epochs": self.epochs_of.get(phase.name, 0)})
        tables = [module for module in self.model.modules() if getattr(module, "before_lookup", None) is not None]
        of_the_last = [table.before_lookup for table in tables]
        trainer = EarlierPhaseTrainer(self.whole_config, phase)
        try:
            trainer.run(train_data, valid_data, show_progress, self._wants_resume)
        finally:
            self.earlier += trainer.history
        for table, hook in zip(tables, of_the_last):  # rows wait for the last phase's optimiser again
            table.before_lookup = hook
        return trainer.history

    def _evaluate_before(self, train_data, valid_data, saved: bool, callback_fn: Callable | None) -> None:
        self.eval_collector.data_collect(train_data)
        self._epoch = {"epoch": -1, "train_seconds": 0.0, "losses": [], "phase": self.phase}
        self.history.append(self._epoch)
        score, result = self._valid_epoch(valid_data)
        if saved:
            self._save_checkpoint(-1, verbose=False)
        self.best_valid_score, self.best_valid_result = score, result
        self.logger.info(f"{self.phase}: before its first epoch  valid {self.valid_metric} {100 * score:.2f} %")
        self._after_evaluation(-1)
        if callback_fn:
            callback_fn(-1, score)

    # ------------------------------------------------------------------ pre-trained parts of other runs
    def _cache_file(self, phase: Phase, train_data, valid_data) -> Path | None:
        if not self.config["phase_cache"]:
            return None
        config = with_keys(self.whole_config, phase.keys)
        identity = phase_identity(config, phase, self.model, train_data, valid_data)
        return Path(self.config["semantic_cache"]) / "phases" / f"{phase.name}-{identity}.safetensors"

    def _from_cache(self, path: Path, phase: Phase) -> list[dict[str, Any]]:
        try:
            state, values = read_state(path)
            phase.model.load_state_dict(state)
        except Exception as error:
            raise DataError(f"{path}: not a pre-trained expert of this model ({error}). Delete the file.") from error
        self.logger.info(f"{phase.name}: taken from {path}, {len(values['history'])} epochs")
        if self._writes:
            write_state(self.folder / phase.name / BEST_FILE, state, {"from": str(path)})
            write_json(self.folder / phase.name / HISTORY_FILE, values["history"])
        return values["history"]


def phase_identity(config, phase: Phase, whole: nn.Module, train_data, valid_data) -> str:
    """A hash of everything that decides the outcome of a phase of ``whole``: data, text, settings; not of what comes
    after it."""
    kinds = [(tower.kind, tower.index) for tower in phase.model.towers]
    with_text = any(kind != "id" for kind, _ in kinds)
    ignored = _INDIFFERENT | (set() if with_text else ONLY_OF_TEXT_EXPERTS)
    ignored -= {"amp_dtype"} if config["enable_amp"] else set()
    values = {k: v for k, v in config.final_config_dict.items() if k not in ignored}
    texts = [whole.text] if with_text or config["item_init"] == "pca_text" else []
    texts += [whole.next_text] if any(kind == "next" for kind, _ in kinds) else []
    seen = [text.cpu().numpy() for text in texts if text is not None]
    for loader in filter(None, (train_data, valid_data)):
        spans = loader._dataset.spans
        seen += [loader._dataset.flat.numpy(), spans.user, spans.start, spans.middle, spans.end]
    digests = [hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest() for array in seen]
    return fingerprint(__version__, phase.name, kinds, values, digests)
