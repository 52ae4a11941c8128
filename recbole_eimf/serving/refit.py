"""``export --refit``: the model trained again on everything, for as many epochs as were best on validation.

Held-out items are the latest, and worth most to whoever is served; nothing is left to choose the epoch by, so it is
taken from the run. What trains is what the run trained with: the same keys, item text and interests (no LLM is asked).
"""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from recbole_eimf.config.contract import contract_of
from recbole_eimf.core.files import read_json
from recbole_eimf.core.run_folder import HISTORY_FILE
from recbole_eimf.data.protocol import Spans
from recbole_eimf.experiment import refit
from recbole_eimf.experiment.load import load
from recbole_eimf.semantic.dataset import unsplit
from recbole_eimf.semantic.kept import as_files
from recbole_eimf.semantic.side_load import pipeline_of


def refitted(run):
    """A :class:`recbole_eimf.serving.export.Run` whose model was trained on all interactions.

    Raises:
        ConfigError: the model draws negatives by RecBole.
    """
    epochs = run.result["best_epoch"] + 1
    in_phases = contract_of(run.config.model_class).in_phases
    refit.check(run.config, "--refit")
    with tempfile.TemporaryDirectory() as folder, _paid_for(run) as kept:
        shown = {"gpu_id": "", "state": "WARNING", "show_progress": True}
        config, _, loaders = load(run.folder, inference_only=False, **{**shown, **run.given, **kept})
        config["output_dir"], config["checkpoint_dir"] = None, folder
        train = _everything(config, loaders[0]._dataset.side)
        # a model that only counts has no epoch to be best
        net, _, batches = refit.train_again(
            config, train, epochs if in_phases else max(epochs, 1), of_phases=_phases(run) if in_phases else None
        )
    refit.weigh_alike(net, run.net)
    served = run.config.model_class(run.config, train).to(run.config["device"])
    served.load_state_dict(net.state_dict())  # text is folded into the item table
    return replace(run, net=served.eval(), loaders=(batches, *run.loaders[1:]), asked=run.asked_about)


def _paid_for(run):
    """Keys that load the run's interests without asking an LLM, as a context."""
    source = (run.result.get("side_load") or {}).get("source", "")
    if not source.endswith("openai"):
        return contextlib.nullcontext({"yes": False})
    return as_files(pipeline_of(run.config, run.asked_about), source)


def _phases(run) -> dict[str, int]:
    """How many epochs of each phase before the last were best."""
    histories = sorted(Path(run.folder).glob(f"*/{HISTORY_FILE}"))
    epochs = [epoch for path in histories for epoch in read_json(path, "Train the model again.")]
    metric = run.config["valid_metric"]
    bigger = bool(run.config["valid_metric_bigger"])
    return refit.phase_epochs((epoch for epoch in epochs if "phase" in epoch), metric, bigger)


def _everything(config, side):
    """The training part of a split that holds nothing out."""
    whole = unsplit(config)
    users = np.flatnonzero(np.diff(whole.offsets))
    start, end = whole.offsets[users], whole.offsets[users + 1]
    train = whole._part(Spans(users, start, end, end), whole._training_view_name())
    train.side = None if side is None else side.known_to(train)
    return train
