"""A model over small data, for tests that look at one model."""

from __future__ import annotations

import pytest
import torch

from recbole_eimf.experiment import assembly


@pytest.fixture
def built(make_config):
    """``built(model, **keys)``: (the model as it starts, its training part)."""

    def make(model, **keys):
        torch.manual_seed(0)
        config = make_config(model, **keys)
        train = assembly.loaders(config)[0]._dataset
        return config.model_class(config, train), train

    return make
