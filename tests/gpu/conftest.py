"""Tests on a real GPU. ``GPU_TESTS_DEVICE=cpu`` runs what of them a processor can run: a try of the tests."""

from __future__ import annotations

import os

import pytest
import torch
from recbole.utils import init_seed

from recbole_eimf.experiment import assembly

WANTED = os.environ.get("GPU_TESTS_DEVICE", "cuda")


@pytest.fixture(autouse=True)
def _needs_a_gpu():
    if WANTED == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA here")


@pytest.fixture(scope="session")
def on_gpu() -> bool:
    return WANTED == "cuda"


@pytest.fixture
def keys(planted, semantic_cache, on_gpu) -> dict:
    """What makes a run small, quick and quiet, on the GPU."""
    sizes = {"hidden_size": 16, "inner_size": 16, "embedding_size": 16, "n_layers": 1, "MAX_ITEM_LIST_LENGTH": 8}
    quiet = {"show_progress": False, "state": "ERROR", "compare_with": [], "phase_cache": False}
    text = {"semantic_cache": str(semantic_cache), "text_encoder": "tfidf-svd"}
    figures = {"topk": [1, 5], "valid_metric": "NDCG@5", "train_batch_size": 40, "epochs": 3, "learning_rate": 0.01}
    return {"data_path": str(planted), "use_gpu": on_gpu, **figures, **text, **sizes, **quiet}


@pytest.fixture
def build(make_config, on_gpu):
    """(trainer, model, loaders) of a configuration."""

    def made(model, backbone=None, use_gpu=on_gpu, **more):
        given = {"use_gpu": use_gpu, "train_batch_size": 40, **more}
        config = make_config(model, **({"backbone": backbone} if backbone else {}), **given)
        init_seed(1, True)
        loaders = assembly.loaders(config)
        init_seed(1, True)
        net = config.model_class(config, loaders[0]._dataset).to(config["device"])
        return assembly.trainer(config, net), net, loaders

    return made
