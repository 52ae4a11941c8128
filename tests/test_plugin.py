"""RecBole's own doors, and a run end to end on real data (ml-100k, which ships inside the recbole package)."""

from __future__ import annotations

import contextlib
import json
import pickle
import subprocess
import sys

import pytest
import torch

import recbole_eimf
from recbole_eimf.core.trust import trusted_checkpoints
from recbole_eimf.experiment import plugin
from tests.conftest import REPOSITORY
from tests.forked import Forked

SMALL = {"epochs": 2, "show_progress": False, "state": "ERROR", "MAX_ITEM_LIST_LENGTH": 10, "hidden_size": 16,
         "inner_size": 16, "text_encoder": "tfidf-svd", "compare_with": []}  # fmt: skip


def test_register_is_idempotent_and_keeps_anomaly_detection_off():
    """RecBole's sine.py turns it on when it is imported; tests/test_recbole_models.py: the user's own stays."""
    from recbole.trainer.trainer import Trainer

    assert "recbole.model.sequential_recommender.sine" in sys.modules
    plugin.register_models()
    first = Trainer.evaluate
    plugin.register_models()
    assert Trainer.evaluate is first
    assert not torch.is_anomaly_enabled()


def test_get_model_finds_ours():
    from recbole.utils import get_model

    from recbole_eimf.model.eimf import EIMF

    assert get_model("EIMF") is EIMF
    assert get_model("SASRec").__module__ == "recbole.model.sequential_recommender.sasrec"


def test_torch_load_is_only_trusting_inside():
    original = torch.load
    with trusted_checkpoints():
        assert torch.load is not original
    assert torch.load is original


def test_recboles_own_run_works_for_our_models_and_checkpoints_load_without_text(semantic_cache):
    import recbole_eimf

    recbole_eimf.register()
    from recbole.quick_start import load_data_and_model, run_recbole

    # the best known films tell as much: RecBole makes a row of each rating
    config = {**SMALL, "semantic_cache": str(semantic_cache), "checkpoint_dir": "saved", "item_text": "add",
              "item_inter_num_interval": "[200,inf)", "user_inter_num_interval": "[15,inf)",
              "train_batch_size": 256}  # fmt: skip
    result = run_recbole(model="EIMF", dataset="ml-100k", config_dict=dict(config))
    assert result["best_valid_result"]["ndcg@10"] > 0.04
    (path,) = (f for f in __import__("pathlib").Path("saved").glob("EIMF-*.pth"))
    loaded, model, dataset, train, valid, test = load_data_and_model(str(path))
    assert loaded["inference_only"] is True
    assert model.esim is None
    from recbole.utils import get_trainer

    trainer = get_trainer(loaded["MODEL_TYPE"], loaded["model"])(loaded, model)
    trainer.eval_collector.data_collect(train)
    again = trainer.evaluate(test, load_best_model=False)
    assert dict(again) == pytest.approx(dict(result["test_result"]))


def run_stock_sasrec(data_path: str) -> None:
    recbole_eimf.register()
    from recbole.quick_start import run_recbole

    sizes = {"MAX_ITEM_LIST_LENGTH": 3, "hidden_size": 8, "inner_size": 8, "n_layers": 1}
    columns = {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}}
    own = {"data_path": data_path, "epochs": 1, "train_neg_sample_args": None, "show_progress": False, "state": "ERROR"}
    result = run_recbole(model="SASRec", dataset="wide", config_dict={**own, **sizes, **columns})
    print("test", result["test_result"]["recall@10"])


def test_recboles_own_sasrec_finishes(wide, tmp_path):
    """Stock RecBole 1.2.1 trains and then dies in torch.load on these versions."""
    with Forked(run_stock_sasrec, str(wide), cwd=tmp_path) as process:
        said, error = process.communicate(300)
    assert process.returncode == 0, error[-2000:]
    assert "test 0." in said


def call_pickled(function: bytes) -> None:
    from recbole.utils import get_model

    assert "recbole.model.sequential_recommender.eimf" not in sys.modules
    with contextlib.suppress(Exception):  # it begins a run of nothing
        pickle.loads(function)(0)
    print(get_model("EIMF"))


def test_spawned_processes_register_first(tmp_path):
    """RecBole spawns workers by a function's import path: it must be ours, so that a bare process knows our models."""
    recbole_eimf.register()
    from recbole.quick_start import quick_start

    from recbole_eimf.model.eimf import EIMF

    with Forked(call_pickled, pickle.dumps(quick_start.run_recboles), cwd=tmp_path) as process:
        said, error = process.communicate(120)
    assert said.splitlines()[-1:] == [str(EIMF)], error[-2000:]


def test_front_door_writes_a_full_result(tmp_path, semantic_cache):
    arguments = ["--model=EIMF", "--dataset=ml-100k", f"--semantic_cache={semantic_cache}", "--epochs=1",
                 "--text_encoder=tfidf-svd", "--hidden_size=16", "--inner_size=16", "--MAX_ITEM_LIST_LENGTH=10",
                 "--train_batch_size=512", "--item_inter_num_interval=[100,inf)", "--output_dir=out"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "run_recbole_eimf.py"), *arguments],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    for row in ("EIMF(SASRec) ", "EIMF(SASRec) placebo", "\nSASRec ", "Popularity", "Markov", "NO LLM"):
        assert row in done.stdout
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    for key in ("model", "backbone", "dataset", "protocol", "seed", "valid", "test", "epochs", "train_seconds",
                "parameters", "side_load", "config"):  # fmt: skip
        assert result[key] not in (None, {}), key
    assert result["side_load"]["training_users_with_interests"] == 943
    assert result["side_load"]["llm_used"] is False
    assert result["config"]["gamma"] == 0.3  # every setting, those of the YAML files too
    assert {r["model"] for r in result["compared"]} == {"EIMF", "IBIM", "Popularity", "Markov"}


@pytest.mark.parametrize(
    "arguments",
    [["--dataset=ml-100k", "--gama=1"], ["--dataset=no-such"], ["--model=Nope", "--dataset=ml-100k"], ["x"]],
)
def test_user_errors_are_a_line_not_a_traceback(arguments, capsys):
    from recbole_eimf.__main__ import run_command

    assert run_command(arguments) == 2
    shown = capsys.readouterr().err
    assert "error:" in shown
    assert "Traceback" not in shown


class MyOwnIBIM(__import__("recbole_eimf.model.ibim", fromlist=["IBIM"]).IBIM):
    """A third party's model."""


def test_a_third_partys_model_runs_by_import_path(make_config, planted, semantic_cache):
    result = recbole_eimf.run(
        "tests.test_plugin:MyOwnIBIM", "planted", data_path=str(planted), backbone="SASRec", topk=[1, 5],
        valid_metric="NDCG@5", **{k: v for k, v in SMALL.items() if k != "compare_with"},
    )  # fmt: skip
    assert result.model == "MyOwnIBIM"
    assert result.backbone == "SASRec"


@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec", "BERT4Rec", "Caser", "SINE", "Pop"])
def test_recboles_models_run_as_they_are_on_lazy_sequences(model, wide):
    keys = {k: v for k, v in SMALL.items() if k not in ("compare_with", "text_encoder")}
    extra = {"SINE": {"prototype_size": 5, "interest_size": 2, "embedding_size": 16}}.get(model, {})
    result = recbole_eimf.run(model, "wide", data_path=str(wide), topk=[1, 5], valid_metric="NDCG@5", **keys, **extra)
    assert 0 < result.test["hit@5"] <= 1


def test_save_pth_is_what_recboles_own_door_reads(planted, tmp_path):
    import recbole_eimf

    recbole_eimf.register()
    from recbole.quick_start import load_data_and_model

    keys = {**SMALL, "data_path": str(planted), "topk": [5], "valid_metric": "NDCG@5", "epochs": 1}
    keys |= {"score_prior": "together", "prior_weights": "grid"}  # chosen after the best epoch was saved
    recbole_eimf.run("IBIM", "planted", output_dir=str(tmp_path / "out"), save_pth=True, **keys)
    _, model, *_ = load_data_and_model(str(tmp_path / "out" / "model.pth"))
    _, same, _ = recbole_eimf.load(tmp_path / "out")
    assert all(torch.equal(value, same.state_dict()[name]) for name, value in model.state_dict().items())
    assert model.prior.weight.any()


def test_a_run_of_our_own_leaves_recbole_as_it_is(planted):
    """Only ``register()`` tells RecBole of our models, data sets, loaders and YAML files."""
    keys = {k: v for k, v in SMALL.items() if k != "compare_with"} | {"epochs": 1, "state": "ERROR"}
    code = f"""
import sys
import recbole.trainer, recbole.data.dataset, recbole.data.utils, recbole.utils.case_study
from recbole.config import Config
def held():
    places = (recbole.trainer, recbole.data.dataset, recbole.data.utils, recbole.utils.case_study, Config)
    return [dict(vars(place)) for place in places]
before = held()
import recbole_eimf
result = recbole_eimf.run("IBIM", "planted", data_path={str(planted)!r}, compare_with=["backbone"], **{keys!r})
assert len(result.compared) == 1
assert all(mine == theirs for mine, theirs in zip(held(), before, strict=True))
assert "recbole.model.sequential_recommender.ibim" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
