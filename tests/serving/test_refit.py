"""A model trained again on everything for what is deployed."""

from __future__ import annotations

import json

import pytest

import recbole_eimf
from recbole_eimf.serving.export import export
from recbole_eimf.serving.recommender import Recommender
from recbole_eimf.trainer.phases import EarlierPhaseTrainer


@pytest.fixture
def trained(planted, semantic_cache, tmp_path):
    def make(model, **keys):
        small = {
            "MAX_ITEM_LIST_LENGTH": 8,
            "hidden_size": 16,
            "inner_size": 32,
            "topk": [1, 5],
            "valid_metric": "NDCG@5",
        }
        places = {"data_path": str(planted), "semantic_cache": str(semantic_cache), "output_dir": str(tmp_path / "out")}
        quiet = {"show_progress": False, "state": "ERROR", "compare_with": [], "text_encoder": "tfidf-svd"}
        return recbole_eimf.run(model, "planted", None, **small, **places, **quiet, **keys)

    return make


@pytest.mark.parametrize(
    ("model", "keys"), [("EIMF", {"item_text": "add", "epochs": 2}), ("IBIM", {"epochs": 1}), ("Markov", {})]
)
def test_every_interaction_trains(trained, tmp_path, model, keys):
    trained(model, **keys)
    first = Recommender.load(export(tmp_path / "out", tmp_path / "model", text="no"))
    again = Recommender.load(export(tmp_path / "out", tmp_path / "again", text="no", refit=True))
    histories = first.users.histories.flatten()
    assert first.catalogue.counts.sum() < len(histories)
    assert again.catalogue.counts.sum() == len(histories)
    assert json.loads((tmp_path / "again" / "config.json").read_text())["refit"] is True
    assert "trained again on everything" in (tmp_path / "again" / "README.md").read_text()
    scores = [found.recommend([["i1", "i2"]], 10)["score"].tolist() for found in (first, again)]
    assert scores[0] != scores[1]


@pytest.mark.parametrize(("model", "phases"), [("PAD", 3), ("MoRec", 0)])
def test_each_phase_trains_again_for_the_epochs_that_were_best(trained, tmp_path, monkeypatch, model, phases):
    trained(model, epochs=2, align_epochs=1, phase_cache=False, n_layers=1)
    made, fit = {}, EarlierPhaseTrainer.fit

    def told(trainer, *args, **kwargs):
        made[trainer.phase] = trainer.epochs
        return fit(trainer, *args, **kwargs)

    monkeypatch.setattr(EarlierPhaseTrainer, "fit", told)
    again = Recommender.load(export(tmp_path / "out", tmp_path / "again", text="no", refit=True))
    assert again.catalogue.counts.sum() == len(again.users.histories.flatten())
    expected = {}
    for path in (tmp_path / "out").glob("*/history.json"):
        scores = [epoch["valid"]["ndcg@5"] for epoch in json.loads(path.read_text())]
        expected[path.parent.name] = scores.index(max(scores)) + 1
    assert made == expected
    assert len(made) == phases
