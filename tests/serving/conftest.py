"""Runs in memory, trained or not, and the lists that the evaluator collects of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from recbole_eimf.experiment import assembly
from recbole_eimf.experiment.result import RunResult
from recbole_eimf.serving import model_folder
from recbole_eimf.serving.catalogue import Catalogue, Users
from recbole_eimf.serving.counts import Counts
from recbole_eimf.serving.export import Run, write_run
from recbole_eimf.serving.parts import Parts
from recbole_eimf.serving.recommender import Recommender
from recbole_eimf.serving.save import write

STOCK = {"train_neg_sample_args": None}  # RecBole's models under a softmax


def evaluated_lists(config, net, test) -> np.ndarray:
    """int64 [users, max(topk)]: what the metrics of an evaluation come from."""
    trainer = assembly.trainer(config, net)
    trainer.eval_collector.data_collect(test)
    trainer.evaluate(test, load_best_model=False)
    return trainer.evaluator.last.get("rec.items").numpy()


def result_of(config, net) -> dict:
    """What ``result.json`` would say of a model that nobody trained."""
    backbone = net.backbone_name(config) if hasattr(net, "backbone_name") else None
    found = RunResult(
        config["model"], backbone, config["dataset"], config["protocol"], bool(config["mask_history"]), 0,
        {}, {"hit@5": 0.5}, 1, 0, 0.0, 0.0, 1, None,
    )  # fmt: skip
    return dataclasses.asdict(found)


@pytest.fixture
def made_run(make_config, wide):
    """``made_run(model, **keys)``: a run over the data set ``wide`` whose model has random parameters."""

    def make(model: str, change=None, **keys) -> Run:
        keys = {"data_path": str(wide), "inference_only": True, "topk": [5, 20], **keys}
        config = make_config(model, **{"dataset": "wide", **keys})
        torch.manual_seed(1)
        loaders = assembly.loaders(config)
        net = config.model_class(config, loaders[0]._dataset).to(config["device"]).eval()
        if change is not None:
            with torch.no_grad():
                change(net)
        return Run(Path("run"), result_of(config, net), config, net, loaders)

    return make


def histories_of(run: Run) -> tuple[list[str], list[list[str]]]:
    """(tokens of the test users, their histories as tokens)."""
    test = run.loaders[2]._dataset
    tokens = test.field2id_token[test.iid_field]
    users = test.field2id_token[test.uid_field][test.spans.user].tolist()
    flat = test.flat.numpy()
    return users, [tokens[flat[a:b]].tolist() for a, b in zip(test.spans.start, test.spans.middle)]


@pytest.fixture
def exported(made_run, tmp_path):
    """``exported(model, **keys)``: (run, its folder, the recommender loaded from it)."""

    def make(model: str, change=None, index: str = "auto", **keys) -> tuple[Run, Path, Recommender]:
        run = made_run(model, change, **keys)
        folder = write_run(run, tmp_path / "model", index=index, onnx=False, refit=False, text="no", histories=True)
        return run, folder, Recommender.load(folder)

    return make


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """``toy(folder, bought)``: a model folder of Popularity over items B1, B2, ..., which were ``bought`` so often; the
    working folder is a new one. Of a model so small the batch, the command and the folder can be tried at once."""
    monkeypatch.chdir(tmp_path)

    def make(folder: str, bought: Sequence[int] = (1, 2, 3, 4, 5)) -> Path:
        counts = np.array([0, *bought])
        tokens = pa.array(["[PAD]", *(f"B{i}" for i in range(1, len(counts)))])
        titles = pa.array([None, *(f"thing {i}" for i in range(1, len(counts)))], pa.string())
        keys = {"MAX_ITEM_LIST_LENGTH": 5}
        tensors = {"popularity": torch.from_numpy(counts.astype(np.float32))}
        parts = Parts(Catalogue(tokens, titles, counts), counts=Counts("Popularity", len(counts), keys, tensors))
        histories = model_folder.lists_of(np.array([1, 2], dtype=np.int32), np.array([0, 0, 2, 2]))
        evaluation = {
            "protocol": "leave_one_out", "mask_history": True, "seed": 1, "valid": {}, "test": {"hit@5": 0.5},
            "slices": None, "epochs": 1, "best_epoch": 0, "side_load": None, "compared": [], "topk": [5],
            "eval_batch_size": 512, "eval_chunk_items": None,
        }  # fmt: skip
        config = {
            "model": "Popularity", "backbone": None, "name": "Popularity", "evaluation": evaluation, "encoder": None,
            "keys": keys, "diversity": None, "text": None, "index": "auto", "refit": False,
            "data": {"dataset": "toy", "items": len(bought), "users": 2, "training_interactions": int(counts.sum())},
        }  # fmt: skip
        write(Path(folder), parts, config, Users(pa.array(["[PAD]", "u1", "nothing yet"]), histories))
        return Path(folder)

    return make
