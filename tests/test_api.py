"""The functions of the package: what they return, that they are found without loading anything, and their examples."""

import subprocess
import sys

import pytest

import recbole_eimf
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


def test_a_result_is_a_frame_with_a_row_per_model(planted):
    result = recbole_eimf.run("IBIM", "planted", data_path=str(planted), compare_with=["Popularity"], **KEYS)
    frame = result.to_frame()
    assert list(frame.model) == ["SASRec", "Popularity"]
    assert frame["ndcg@10"].tolist() == [result.test["ndcg@10"], result.compared[0].test["ndcg@10"]]
    assert set(frame.epochs) == {1}
    assert str(result).startswith("planted, leave_one_out")


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
