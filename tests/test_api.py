"""The functions of the package: what they return, that they are found without loading anything, and their examples."""

import importlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import recbole_eimf
from recbole_eimf.core.errors import ConfigError
from tests.conftest import REPOSITORY

KEYS = {"epochs": 1, "show_progress": False, "state": "ERROR", "hidden_size": 8, "inner_size": 8, "n_layers": 1}


def test_importing_loads_nothing_and_names_everything():
    code = (
        "import sys, recbole_eimf\n"
        "assert set(recbole_eimf.__all__) <= set(dir(recbole_eimf))\n"
        "print([name for name in ('torch', 'recbole', 'pandas', 'ray') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("name", sorted({*recbole_eimf.__all__} - {"__version__", "RunResult", "Recommender"}))
def test_every_function_can_be_called_and_says_what_it_takes(name):
    """``study`` is a package too: that it was imported must not take the function away."""
    import recbole_eimf.study.study

    found = getattr(recbole_eimf, name)
    assert callable(found)
    text = recbole_eimf.study.study.run_study.__doc__ if name == "study" else found.__doc__
    assert name == "register" or all(part in text for part in ("Args:", "Returns:", "Raises:", "Example:"))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'recbole_eimf' has no attribute 'rum'"):
        recbole_eimf.rum  # noqa: B018


@pytest.mark.parametrize(
    ("model", "keys", "name", "expected"),
    [
        ("EIMF", {}, "placebo", {"interest_source": "shuffled", "text_source": "real"}),
        ("EIMF", {"use_interests": False}, "placebo", {"text_source": "shuffled"}),
        ("PAD", {"align_epochs": 1}, "placebo", {"text_source": "shuffled"}),
        ("PAD", {"recipe": "published", "align_epochs": 1, "n_layers": 1}, "backbone",
         {"model": "PAD", "experts": "id", "fine_tune": False, "loss": "bce", "num_negatives": 1}),
        ("IBIM", {"score_prior": "next", "knowledge_source": "batch", "batch_file": "replies.jsonl"}, "placebo",
         {"knowledge_source": "shuffled", "shuffled_knowledge": "batch", "text_source": "real"}),
        ("IBIM", {"item_text": "add", "item_text_source": "profile", "knowledge_source": "file",
                  "knowledge_file": "replies.jsonl"}, "placebo",
         {"knowledge_source": "shuffled", "shuffled_knowledge": "file"}),
        ("PAD", {"align_epochs": 1}, "backbone", {"model": "IBIM", "backbone": "SASRec"}),
    ],
)  # fmt: skip
def test_what_a_run_is_compared_with(planted, tmp_path, monkeypatch, model, keys, name, expected):
    """The placebo takes away what the model reads, and the backbone is trained under the model's loss."""
    seen = []
    Path("replies.jsonl").touch()
    monkeypatch.setattr(
        importlib.import_module("recbole_eimf.experiment.run"),
        "run_one",
        lambda config, wanted, *_: seen.append(config) or SimpleNamespace(),
    )
    given = {**KEYS, "data_path": str(planted), "compare_with": [name], "semantic_cache": str(tmp_path), **keys}
    recbole_eimf.run(model, "planted", **given)
    assert {key: seen[1][key] for key in expected} == expected


def test_a_placebo_of_what_reads_no_words_is_refused(planted):
    with pytest.raises(ConfigError, match="compare_with=placebo: IBIM reads no interests"):
        recbole_eimf.run("IBIM", "planted", data_path=str(planted), compare_with=["placebo"], **KEYS)
    with pytest.raises(ConfigError, match="loss=bce: IBIM is trained by a softmax"):
        recbole_eimf.run("IBIM", "planted", data_path=str(planted), recipe="published", **KEYS)


def test_a_result_is_a_frame_with_a_row_per_model(planted):
    result = recbole_eimf.run("IBIM", "planted", data_path=str(planted), compare_with=["Popularity"], **KEYS)
    frame = result.to_frame()
    assert list(frame.model) == ["SASRec", "Popularity"]
    assert frame["ndcg@10"].tolist() == [result.test["ndcg@10"], result.compared[0].test["ndcg@10"]]
    assert set(frame.epochs) == {1}
    assert str(result).startswith("planted, leave_one_out")


@pytest.mark.usefixtures("undrawn")
def test_a_comparison_is_a_frame_with_a_row_per_model_and_metric(planted, tmp_path):
    given = {key: value for key, value in KEYS.items() if key not in ("show_progress", "state")}
    found = recbole_eimf.compare(
        ["SASRec"],
        "planted",
        tmp_path / "out",
        seeds=[7],
        metrics=["NDCG@10"],
        parallel=0,
        data_path=str(planted),
        **given,
    )
    assert not found.failed
    assert {"SASRec", "Popularity", "Markov"} <= set(found.to_frame().iloc[:, 0])
    assert "SASRec" in str(found)


def test_interests_are_a_frame_with_a_row_per_exemplar(planted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = recbole_eimf.interests(
        "planted", "keywords", tmp_path / "out", data_path=str(planted), text_encoder="tfidf-svd",
        semantic_cache=str(tmp_path / "cache"),
    )  # fmt: skip
    frame = found.to_frame()
    assert frame.users.sum() == len(found.assignment)
    assert (tmp_path / "out" / "interests.jsonl").is_file()
    assert all(frame.interests.map(len))
