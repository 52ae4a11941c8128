"""PAD and its kin over small data."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_eimf.experiment import assembly


@pytest.fixture
def built(make_config):
    def make(model="PAD", dataset="planted", **keys):
        torch.manual_seed(0)
        config = make_config(model, dataset, backbone=keys.pop("backbone", "SASRec"), **keys)
        train = assembly.loaders(config)[0]
        return config.model_class(config, train._dataset), train

    return make


def batch_of(train, count=12):
    return train._dataset.rows(np.arange(count))
