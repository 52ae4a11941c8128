"""Where a trainer keeps its best model: a folder of two files without a pickle (recbole_eimf/trainer/checkpoint.py)."""

from __future__ import annotations

import re
from pathlib import Path

from recbole.trainer import Trainer
from recbole.utils import get_local_time

from recbole_eimf.config.config import EIMFConfig
from recbole_eimf.config.contract import contract_of
from recbole_eimf.config.models import short_name
from recbole_eimf.config.placebo import is_placebo, reads
from recbole_eimf.core import distributed
from recbole_eimf.core.files import atomic_path, fingerprint
from recbole_eimf.trainer import checkpoint

_NAME_LENGTH = 100  # of a file; systems take 255, and a time and an ending are added


class KeepsBestModel(Trainer):
    """A trainer of RecBole's that writes ``model.safetensors`` and ``config.json`` in place of a pickle.

    They lie in ``output_dir``, or, without one, in ``<checkpoint_dir>/<model>-<backbone>-<data set>-<time>``.
    ``save_pth=True`` writes RecBole's checkpoint ``model.pth`` too, for RecBole's own doors. Where RecBole itself made
    the configuration (``run_recbole``), its checkpoint is what it expects: ``<checkpoint_dir>/<the same name>.pth``.
    """

    best_epoch = -1

    def __init__(self, config, model) -> None:
        Path(config["checkpoint_dir"]).mkdir(parents=True, exist_ok=True)  # RecBole's way fails if two try at once
        super().__init__(config, model)
        self.enable_scaler = self.enable_scaler and self.device.type == "cuda"  # RecBole asks whether there is a GPU
        front_door = isinstance(config, EIMFConfig)
        self.writes_pth = bool(config["save_pth"]) or not front_door
        #: where the best model lies; None: in RecBole's checkpoint alone
        self.model_folder: Path | None = None
        folder = Path(config["checkpoint_dir"]) / f"{run_name(config)}-{get_local_time()}"
        if config["output_dir"]:
            self.model_folder = Path(config["output_dir"])
        elif front_door:
            self.model_folder = folder
        if self.model_folder is None:
            self.saved_model_file = f"{folder}.pth"
        else:
            self.saved_model_file = str(self.model_folder / checkpoint.PTH_FILE)
        self._described = False

    def describe(self, train_data) -> None:
        """Write ``config.json``, once, before anything is trained; a folder that RecBole would share gets a number."""
        if self._described or self.model_folder is None or not distributed.is_first():
            return
        self._described = True
        checkpoint.check_saveable(self.model)
        if self.config["resume"] and (self.model_folder / checkpoint.CONFIG_FILE).is_file():
            return  # what it was begun with
        if not self.config["output_dir"]:
            self.model_folder = _new_folder(self.model_folder)
            self.saved_model_file = str(self.model_folder / checkpoint.PTH_FILE)
        whole = getattr(self, "whole_config", self.config)
        checkpoint.write_description(self.model_folder, checkpoint.describe(whole, train_data._dataset))

    def fit(self, train_data, valid_data=None, verbose=True, saved=True, show_progress=False, callback_fn=None):
        """RecBole's ``fit``."""
        if saved:
            self.describe(train_data)
        found = super().fit(train_data, valid_data, verbose, saved, show_progress, callback_fn)
        mine = saved and self.model_folder is not None and distributed.is_first()
        if mine and not (self.model_folder / checkpoint.MODEL_FILE).is_file():
            # a training that chooses no epoch (S3Rec's first stage) ends with the model to keep
            checkpoint.write_weights(self.model_folder, self.model, self.epochs - 1)
        return found

    def _save_checkpoint(self, epoch, verbose=True, **kwargs):
        if "saved_model_file" in kwargs:
            return super()._save_checkpoint(epoch, verbose=verbose, **kwargs)
        if epoch < 0 and self.best_valid_result:
            return None  # RecBole saves a resumed run that has no epochs left: over its best one
        epoch = self._epoch_to_save(epoch)
        self.write(epoch)
        self.best_epoch = epoch
        return None

    def _epoch_to_save(self, epoch: int) -> int:
        """Of a resumed run without epochs left, which RecBole calls -1, the last: a kill came before it was saved."""
        return self.start_epoch - 1 if epoch < 0 and self.start_epoch else epoch

    def write(self, epoch: int) -> None:
        """Write the model as it is now, as that of an epoch: to its folder, and as a pickle where one is asked for."""
        if not distributed.is_first():
            return
        if self.model_folder is not None:
            checkpoint.write_weights(self.model_folder, self.model, epoch)
        if self.writes_pth:
            with atomic_path(self.saved_model_file) as temporary:  # a kill while saving keeps the previous best
                super()._save_checkpoint(epoch, verbose=False, saved_model_file=str(temporary))

    def evaluate(self, eval_data, load_best_model=True, model_file=None, show_progress=False):
        """RecBole's ``evaluate``; the best model is read by the process that wrote it and sent to the others."""
        if eval_data and load_best_model and model_file is None and self.model_folder is not None:
            self.read_best()
            load_best_model = False
        return super().evaluate(eval_data, load_best_model, model_file, show_progress)

    def read_best(self) -> None:
        """Take the best model out of its folder; several processes get it from the one that wrote it."""
        if distributed.is_first():
            checkpoint.read_weights(self.model, self.model_folder)
        if distributed.joined():
            distributed.copy_from_first(self.model)


def keeping_best_model(stock: type[Trainer]) -> type[Trainer]:
    """A trainer of RecBole's own that keeps its best model as ours do."""
    return type(stock.__name__, (KeepsBestModel, stock), {})


def run_name(config) -> str:
    """What a run trains, as the name of a file: ``EIMF-SASRec-placebo-ml-100k``."""
    asked = contract_of(config.model_class)
    backbone = short_name(asked.backbone_name(config))
    parts = [config["model"], backbone if backbone != config["model"] else None]
    if backbone:
        parts.append("placebo" if any(is_placebo({key: config[key]}) for key in reads(config)) else None)
    if config["model"] == "EIMF" and config["use_interests"] is False:
        parts.append("text-only")
    name = re.sub(r"[^\w.=+-]+", "-", "-".join(str(part) for part in [*parts, config["dataset"]] if part))
    return name if len(name) <= _NAME_LENGTH else f"{name[:_NAME_LENGTH]}-{fingerprint(name)[:6]}"


def _new_folder(wanted: Path) -> Path:
    for number in range(1, 1000):
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:  # another run of the same second
            continue
    raise FileExistsError(wanted)
