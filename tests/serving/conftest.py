"""Runs in memory, trained or not, and the lists that the evaluator collects of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_eimf.experiment import assembly
from recbole_eimf.experiment.result import RunResult
from recbole_eimf.serving.export import Run, write_run
from recbole_eimf.serving.recommender import Recommender

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
