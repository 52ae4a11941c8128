"""``export --refit``: the model trained again on everything, for as many epochs as were best on validation.

Held-out items are the latest, and worth most to whoever is served; nothing is left to choose the epoch by, so it is
taken from the run. What trains is what the run trained with: the same keys, item text and interests (no LLM is asked).
"""

from __future__ import annotations

import tempfile
from dataclasses import replace

import numpy as np

from recbole_eimf.core.errors import ConfigError
from recbole_eimf.data.protocol import Spans
from recbole_eimf.experiment import refit
from recbole_eimf.experiment.load import load
from recbole_eimf.model.pad.towers import TowerModel
from recbole_eimf.semantic.dataset import dataset_class


def refitted(run):
    """A :class:`recbole_eimf.serving.export.Run` whose model was trained on all interactions.

    Raises:
        ConfigError: the model is trained in phases, each with a best epoch of its own, or draws negatives by RecBole.
    """
    name, epochs = run.config["model"], run.result["best_epoch"] + 1
    counting = getattr(type(run.net), "counting", False)
    if isinstance(run.net, TowerModel) or (epochs < 1 and not counting):
        raise ConfigError(
            f"--refit: {name} is trained in phases, each of which is stopped by validation. Leave --refit out."
        )
    refit.check(run.config, "--refit")
    config, _, loaders = load(run.folder, inference_only=False, gpu_id="", state="WARNING", show_progress=True)
    with tempfile.TemporaryDirectory() as folder:
        config["output_dir"], config["checkpoint_dir"] = None, folder
        train = _everything(config, loaders[0]._dataset.side)
        net, _, batches = refit.train_again(config, train, max(epochs, 1))
    served = run.config.model_class(run.config, train)
    served.load_state_dict(net.state_dict())  # text is folded into the item table
    return replace(run, net=served.eval(), loaders=(batches, *run.loaders[1:]))


def _everything(config, side):
    """The training part of a split that holds nothing out."""
    whole = dataset_class(config.model_class)(config)
    whole._change_feat_format()
    users = np.flatnonzero(np.diff(whole.offsets))
    start, end = whole.offsets[users], whole.offsets[users + 1]
    train = whole._part(Spans(users, start, end, end), whole._training_view_name())
    train.side = None if side is None else side.known_to(train)
    return train
