"""The extensions that the documentation shows work as they stand, from the command line's keys to a result."""

import sys

import pytest

import recbole_eimf
from recbole_eimf.__main__ import main
from recbole_eimf.core.errors import ConfigError, InterestSourceError
from recbole_eimf.experiment.result import summary

QUICK = {"epochs": 1, "text_encoder": "tfidf-svd", "hidden_size": 16, "embedding_size": 16, "inner_size": 32,
         "show_progress": False, "state": "ERROR", "compare_with": [], "topk": [5], "valid_metric": "NDCG@5",
         "metrics": ["NDCG", "Hit"], "MAX_ITEM_LIST_LENGTH": 8}  # fmt: skip


def run(planted, semantic_cache, model="EIMF", **keys):
    paths = {"data_path": str(planted), "semantic_cache": str(semantic_cache)}
    return recbole_eimf.run(model, "planted", **{**QUICK, **paths, **keys})


def test_a_backbone_of_ones_own_needs_no_key_of_its_own(planted, semantic_cache, monkeypatch):
    """The command of docs/extend.md gives none."""
    monkeypatch.delitem(QUICK, "hidden_size")
    assert run(planted, semantic_cache, backbone="examples.last_and_mean:LastAndMean").parameters > 10 * 64


@pytest.mark.parametrize("model", ["IBIM", "EIMF"])
def test_a_backbone_of_ones_own_learns_the_planted_cycles(planted, semantic_cache, model):
    fast = {"learning_rate": 0.02, "train_batch_size": 64}
    found = run(planted, semantic_cache, model, backbone="examples.last_and_mean:LastAndMean", epochs=15, **fast)
    assert found.name == ("EIMF(LastAndMean)" if model == "EIMF" else "LastAndMean")
    assert found.test["hit@5"] > 0.7  # five of ten items by chance: 0.5; untrained 0.54


def test_a_model_of_ones_own_reads_its_key(planted, semantic_cache):
    keys = {"model": "examples.smoothed:Smoothed", "backbone": "SASRec", "allow_unknown_keys": True}
    plain = run(planted, semantic_cache, **keys, label_smoothing=0.0)
    assert plain.test == run(planted, semantic_cache, "IBIM", backbone="SASRec").test
    assert plain.test != run(planted, semantic_cache, **keys, label_smoothing=0.9).test


def test_a_model_of_ones_own_is_exported_where_it_is_named(planted, semantic_cache, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "examples.smoothed:Smoothed"
    run(planted, semantic_cache, model=name, backbone="SASRec", allow_unknown_keys=True, output_dir="out")
    monkeypatch.delitem(sys.modules, "examples.smoothed")
    assert main(["export", "--run", "out", "--out", "folder"]) == 2  # a folder does not choose what is imported
    assert f"--model={name} of `export`" in " ".join(capsys.readouterr().err.split())
    assert main(["export", "--run", "out", "--out", "folder", f"--model={name}"]) == 0
    assert len(recbole_eimf.Recommender.load("folder").recommend([["i1"]], k=3)) == 3


def test_a_backbone_of_ones_own_is_said_not_to_be_served(planted, semantic_cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "examples.last_and_mean:LastAndMean"
    run(planted, semantic_cache, "IBIM", backbone=name, output_dir="out")
    with pytest.raises(ConfigError, match="LastAndMean is a class of your own.*recbole_eimf.load"):
        recbole_eimf.Recommender.from_run("out")


def test_a_source_of_ones_own_gives_interests_and_a_placebo(planted, semantic_cache):
    name = "examples.first_words:first_words"
    found = run(planted, semantic_cache, interest_source=name, exemplar_ratio=0.1)
    side = found.side_load
    assert (side["source"], side["llm_used"]) == (name, False)
    assert f"{name} (a function of your own)" in summary(found)
    assert side["interests"] > side["exemplars"]
    assert side["training_users_with_interests"] == side["training_users"]
    placebo = run(planted, semantic_cache, interest_source="shuffled", shuffled_source=name, exemplar_ratio=0.1)
    assert placebo.side_load["source"] == f"shuffled {name}"


def silent(clusters):
    return {}


def stranger(clusters):
    return {"nobody": ["nail art"]}


def broken(clusters):
    raise RuntimeError("no lexicon")


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("examples.first_words:first_word", ConfigError, "Did you mean 'first_words'"),
        ("examples.nowhere:source", ConfigError, "cannot import examples.nowhere"),
        ("no_such_name:source", ConfigError, "importing no_such_name raised NameError: .*nothing"),
        ("tests.test_examples:broken", InterestSourceError, "RuntimeError: no lexicon"),
        ("tests.test_examples:stranger", InterestSourceError, "the first is 'nobody'"),
        ("tests.test_examples:silent", InterestSourceError, "holds an interest"),
        ("keyword", ConfigError, "interest_source='keyword'"),
    ],
)
def test_a_source_that_cannot_deliver_is_named(planted, semantic_cache, name, error, words, tmp_path, monkeypatch):
    (tmp_path / "no_such_name.py").write_text("nothing\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(error, match=words):
        run(planted, semantic_cache, interest_source=name)
