"""A model trained again on everything for what is deployed."""

from __future__ import annotations

import json

import pytest
import torch

import recbole_eimf
from recbole_eimf.experiment import refit
from recbole_eimf.serving.export import export, read_run
from recbole_eimf.serving.recommender import Recommender
from recbole_eimf.serving.refit import refitted
from recbole_eimf.study.explore.explore import ExploreOptions, explore
from recbole_eimf.trainer.phases import EarlierPhaseTrainer
from tests.data.test_ties import write
from tests.data.test_time_split import EVENTS
from tests.semantic.llm_server import Answer, LLMServer


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
        given = {**small, **places, **quiet, **keys}
        return recbole_eimf.run(model, given.pop("dataset", "planted"), None, **given)

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


@pytest.mark.parametrize("source", ["openai", "shuffled"])
def test_nobody_is_asked_again_for_a_refusal_that_was_paid_for(trained, tmp_path, monkeypatch, caplog, source):
    """Neither by another seed's run, nor by a refit, which needs neither endpoint nor key."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-the-test")
    first = []

    def answer(asked, n):
        first.append(asked.prompt)
        return Answer(
            content="I'm sorry, but I cannot help with that." if asked.prompt == first[0] else Answer().content
        )

    keys = {"interest_source": source, "exemplar_ratio": 0.1, "epochs": 1, "yes": True, "llm_concurrency": 1}
    keys |= {"shuffled_source": "openai"} if source == "shuffled" else {}
    keys |= {"semantic_cache": str(tmp_path / "cache"), "state": "WARNING"}
    with LLMServer(answer) as server:
        keys["llm_base_url"] = server.url
        made = trained("EIMF", **keys)
        asked = len(server.asked)
        again = trained("EIMF", **keys, overwrite=True)
        assert len(server.asked) == asked
    assert "1 replies are of no use and are not asked for again" in caplog.text
    assert again.test == made.test
    assert again.side_load["exemplars_without_interests"] == 1
    monkeypatch.delenv("OPENAI_API_KEY")
    served = Recommender.load(export(tmp_path / "out", tmp_path / "again", refit=True))
    assert served.catalogue.counts.sum() == len(served.users.histories.flatten())


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


def test_no_epoch_of_a_last_phase_is_trained_again_where_none_was_best(trained, tmp_path, monkeypatch):
    trained("ProfileDistillation", epochs=1, profile_epochs=1, exemplar_ratio=0.2)
    path = tmp_path / "out" / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "best_epoch": -1}))
    asked, train_again = [], refit.train_again

    def told(config, train, epochs, *args, **kwargs):
        asked.append(epochs)
        return train_again(config, train, epochs, *args, **kwargs)

    monkeypatch.setattr(refit, "train_again", told)
    export(tmp_path / "out", tmp_path / "again", text="no", refit=True)
    assert asked == [0]


@pytest.mark.parametrize("ties", ["source", "shuffle"])
def test_what_was_asked_is_what_is_shown_and_served_after_a_refit(trained, tmp_path, ties):
    """``refit`` trains again on histories that go on further in time: nobody was asked about those."""
    places = {"data_path": str(write(tmp_path / "data", EVENTS)), "protocol": "global_time", "refit": True}
    keys = {**places, "ties": ties, "exemplar_ratio": 0.3, "interest_source": "keywords", "epochs": 1}
    found = trained("EIMF", dataset="baskets", **keys)
    shown = explore(tmp_path / "out", ExploreOptions(chart="pca", honesty=False), say=lambda text: None)
    assert shown["interests"]["changed"] is None
    assert shown["run"]["training_users"] == found.side_load["training_users"]
    assert len(shown["clusters"]) == found.side_load["exemplars"]
    model = Recommender.load(export(tmp_path / "out", tmp_path / "model"))
    assert [str(one) for one in model._parts.sentences.exemplars.to_pylist()] == [
        str(cluster["exemplar"]) for cluster in shown["clusters"]
    ]
    assert model.recommend([["i1"]], 2, explain=True)["sentence"].notna().all()


@pytest.mark.parametrize(("model", "keys"), [("IBIM", {"item_text": "add"}), ("EIMF", {"interest_source": "keywords"})])
def test_a_run_with_shuffled_ties_is_trained_again_on_everything(trained, tmp_path, caplog, model, keys):
    """As every table's; numbers of an encoder that is fitted anew are not those that sentences were learned in."""
    places = {"data_path": str(write(tmp_path / "data", EVENTS)), "protocol": "global_time", "ties": "shuffle"}
    trained(model, dataset="baskets", **places, **keys, epochs=1)
    again = Recommender.load(export(tmp_path / "out", tmp_path / "again", refit=True))
    assert again.catalogue.counts.sum() == sum(map(len, EVENTS.values()))
    assert ("no sentences are kept" in caplog.text) == (model == "EIMF")


def test_the_weights_of_a_prior_are_those_that_validation_chose(trained, tmp_path):
    trained("IBIM", epochs=1, score_prior="similar+together")
    folder = tmp_path / "out"
    found = read_run(folder)
    with torch.no_grad():
        found.net.prior.weight.copy_(torch.tensor([1.5, 0.0, 0.0, 2.5]))
    assert refitted(found).net.prior.weight.tolist() == [1.5, 0.0, 0.0, 2.5]
