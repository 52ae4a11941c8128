"""The catalogue of models: what names mean, and a third party's backbone end to end."""

import sys

import pytest
import torch

import recbole_eimf
from recbole_eimf.config import models
from recbole_eimf.config.config import EIMFConfig
from recbole_eimf.config.layers import concerning
from recbole_eimf.config.models import FLOORS, MODELS
from recbole_eimf.config.placebo import PLACEBOS, own_placebo
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.experiment.result import RunResult
from recbole_eimf.semantic.needs import needed
from recbole_eimf.semantic.sources.own import own_source
from recbole_eimf.study import runs
from recbole_eimf.study.rows import complete, parse_models

MINE = "tests.config.backbones_of_mine"


@pytest.fixture
def small(planted, semantic_cache):
    return {"data_path": str(planted), "semantic_cache": str(semantic_cache), "text_encoder": "tfidf-svd",
            "hidden_size": 16, "MAX_ITEM_LIST_LENGTH": 8, "topk": [1, 5], "valid_metric": "NDCG@5", "epochs": 1,
            "compare_with": ["backbone"], "show_progress": False, "state": "ERROR"}  # fmt: skip


@pytest.mark.parametrize("model", ["EIMF", "PAD"])
def test_a_third_partys_backbone_trains_and_is_served_again(model, small, tmp_path):
    phases = {"pretrain_epochs": 1, "align_epochs": 1} if model == "PAD" else {}
    result = recbole_eimf.run(model, "planted", backbone=f"{MINE}:LastItem", output_dir="out", **phases, **small)
    assert result.name == f"{model}(LastItem)"
    assert result.backbone == f"{MINE}:LastItem"
    assert result.compared[0].name == "LastItem"
    assert result.test["hit@5"] > 0
    with pytest.raises(ConfigError, match="out: built over backbone=.*LastItem.*importing it runs its code"):
        recbole_eimf.evaluate("out")  # a folder does not choose what is imported
    found = recbole_eimf.evaluate("out", backbone=f"{MINE}:LastItem", state="ERROR")
    assert found == pytest.approx(result.test)


def test_a_backbone_starts_from_the_settings_of_what_it_derives_from(make_config):
    mine, known = (make_config("IBIM", backbone=name) for name in (f"{MINE}:MyGRU", "GRU4Rec"))
    differ = {k for k in known.final_config_dict if mine[k] != known[k]}
    assert differ <= {"backbone"}


@pytest.mark.parametrize(
    ("keys", "match"),
    [({"backbone": "nowhere.at_all:Net"}, "backbone=nowhere.at_all:Net: cannot import nowhere.at_all"),
     ({"backbone": "examples.smothed:X"}, r"No module named 'examples.smothed'\). Did you mean 'examples.smoothed'"),
     ({"backbone": f"{MINE}:LastItme"}, "has no class LastItme.*Did you mean 'LastItem'"),
     ({"backbone": f"{MINE}:NoBackbone"}, "NoBackbone is not a backbone"),
     ({"backbone": f"{MINE}:MyGRU:x"}, "has no class"),
     ({"backbone": "nowhere:Net"}, r"\(No module named 'nowhere'\)\. Start .* environment variable PYTHONPATH"),
     ({"backbone": ":Net"}, "backbone=:Net: cannot import a module without a name"),
     ({"backbone": "tests/config/nets.py:Net"}, r"nets\.py is a file\. .* imported, tests\.config\.nets:Net"),
     ({"backbone": f"{MINE}.LastItem"}, f"Did you mean '{MINE}:LastItem'"),
     ({"model": f"{MINE}.LastItem"}, f"Did you mean '{MINE}:LastItem'"),
     ({"backbone": "tests.config.test_models:row_name"}, "row_name is a function; a class is needed"),
     ({"model": "SASRec", "backbone": "GRU4Rec"}, "backbone=GRU4Rec: model=SASRec takes none.*--model=IBIM"),
     ({"model": "REMI", "backbone": "GRU4Rec"}, "model=REMI is built over REMI"),
     ({"compare_with": ["Popularty"]}, "compare_with=Popularty.*Did you mean 'Popularity'")],
)  # fmt: skip
def test_a_backbone_or_company_that_does_not_fit_is_refused_before_any_work(make_config, keys, match):
    with pytest.raises(ConfigError, match=match):
        make_config(keys.get("model", "EIMF"), **{k: v for k, v in keys.items() if k != "model"})


@pytest.mark.parametrize("key", ["model", "backbone", "interest_source"])
@pytest.mark.parametrize(
    ("text", "match"),
    [("import math\nraise RuntimeError('no licence')", r"raised RuntimeError: no licence \(.*mine_now\.py, line 2\)"),
     ("def f(:", r"raised SyntaxError: .*mine_now\.py, line 1\)"),
     ("import sys\nsys.exit('bye')", r"raised SystemExit: bye \(.*mine_now\.py, line 2\)"),
     ("int('x')", r"raised ValueError: .*mine_now\.py, line 1\)"),
     ("import nobody_has_this", "cannot import mine_now .*'nobody_has_this'")],
)  # fmt: skip
def test_a_module_that_fails_as_it_is_imported_is_named(make_config, tmp_path, monkeypatch, key, text, match):
    (tmp_path / "mine_now.py").write_text(f"{text}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    ask = own_source if key == "interest_source" else lambda name: make_config(**{"model": "EIMF", key: name})
    with pytest.raises(ConfigError, match=f"^{key}=mine_now:Net: .*{match}"):
        ask("mine_now:Net")


def test_a_recipe_goes_to_the_rows_that_have_it(small):
    shared = {k: v for k, v in small.items() if k != "compare_with"} | {"recipe": "strong"}
    rows = complete(parse_models("SASRec,PAD"))
    assert [row.name for row in rows[:3]] == list(FLOORS)
    planned = {run.row.name: run for run in runs.plan(rows, "planted", [2020], shared, runs.Path("out"))}
    assert planned["PAD"].settings["pretrain"] == "all"
    assert planned["PAD"].given["recipe"] == "strong"
    assert "recipe" not in planned["SASRec"].given
    assert "recipe" not in planned["Markov"].given
    assert runs.takers(rows, shared) == ["PAD"]
    with pytest.raises(ConfigError, match="recipe=stron: no model of the table has it.*Did you mean 'strong'"):
        runs.plan(rows, "planted", [2020], {**shared, "recipe": "stron"}, runs.Path("out"))


def test_a_run_beside_another_takes_what_concerns_it():
    shared = {"recipe": "strong", "backbone": "SASRec", "epochs": 3}
    assert concerning("PAD", shared) == shared
    assert concerning("REMI", shared) == {"epochs": 3}
    assert concerning("SASRec", shared) == {"epochs": 3}
    assert concerning("EIMF", {"esim": "paper"}) == {"recipe": "paper"}


def row_name(model, backbone):
    return RunResult(model, backbone, "d", "leave_one_out", False, 0, {}, {}, 0, -1, 0.0, 0.0, 0, None).name


def test_names_of_rows_say_the_backbone_where_there_is_a_choice():
    """Two rows of one model over two backbones need two names; where there is none to choose it would be noise."""
    for card in MODELS.values():
        names = {row_name(card.name, backbone) for backbone in ("SASRec", "a.b:C")}
        assert len(names) == (2 if len(card.backbones) > 1 else 1), card.name


@pytest.mark.parametrize(
    ("model", "backbone", "name"),
    [
        ("EIMF", "SASRec", "EIMF(SASRec)"),
        ("EIMF", "a.b:C", "EIMF(C)"),
        ("PAD", "GRU4Rec", "PAD(GRU4Rec)"),
        ("MoRec", "SASRec", "MoRec(SASRec)"),
        ("LLMESR", "SASRec", "LLMESR(SASRec)"),
        ("ProfileDistillation", "REMI", "ProfileDistillation(REMI)"),
        ("IBIM", "SASRec", "SASRec"),
        ("IBIM", "a.b:C", "C"),
        ("REMI", "REMI", "REMI"),
        ("LLM2BERT4Rec", "BERT4Rec", "LLM2BERT4Rec"),
        ("Popularity", None, "Popularity"),
        ("TextKNN", None, "TextKNN"),
        ("SASRec", None, "SASRec"),
    ],
)
def test_names_of_rows(model, backbone, name):
    assert row_name(model, backbone) == name


def test_a_config_of_recboles_is_checked_too(planted):
    from recbole.config import Config

    with pytest.raises(ConfigError, match="tau=0"):
        Config("EIMF", "planted", config_dict={"data_path": str(planted), "tau": 0})
    assert EIMFConfig("EIMF", "planted", None, {"data_path": str(planted)})["recipe"] == "strong"


@pytest.mark.parametrize("wanted", [False, True])
def test_naming_recboles_models_leaves_anomaly_detection_as_it_was(monkeypatch, wanted):
    """RecBole's sine.py turns it on when it is imported; tables asked for names before anything undid that."""
    package = sys.modules["recbole.model.sequential_recommender"]

    def imported(name):
        torch.autograd.set_detect_anomaly(True)
        return package

    monkeypatch.delitem(sys.modules, package.__name__)
    monkeypatch.setattr(models.importlib, "import_module", imported)
    torch.autograd.set_detect_anomaly(wanted)
    try:
        assert "SASRec" in models.known_model_names()
        assert torch.is_anomaly_enabled() is wanted
    finally:
        torch.autograd.set_detect_anomaly(False)


def named(model, side=None, /, **config):
    return RunResult(
        model, "SASRec", "d", "leave_one_out", False, 0, {}, {}, 0, -1, 0.0, 0.0, 0, side, config=config
    ).name


def test_a_placebo_is_called_one_whatever_its_model_reads(planted):
    seen = {}
    for card in MODELS.values():
        own = own_placebo(EIMFConfig(card.name, "planted", None, {"data_path": str(planted)}))
        if own:
            seen[card.name] = own
            assert named(card.name, {}, **PLACEBOS[own]) == f"{named(card.name)} placebo"
    assert {
        "EIMF": "shuffled_interests",
        "PAD": "shuffled_text",
        "NextKNN": "shuffled_knowledge",
    }.items() <= seen.items()
    assert named("EIMF", {"source": "keywords"}, text_source="real") == "EIMF(SASRec)"
    assert named("IBIM", shuffled_history=True) == "SASRec placebo"


def test_what_reads_no_words_is_no_placebo_of_them(planted):
    """As the run says: by what it loaded beside the interactions, whichever key asks for that."""
    at = {"data_path": str(planted), "text_source": "shuffled"}
    for more, reads in (
        ({}, False),
        ({"item_text": "add"}, True),
        ({"item_init": "pca_text"}, True),
        ({"score_prior": "similar"}, True),
        ({"vector_graph": "similar"}, True),
        ({"place_unseen": True}, True),
    ):
        config = EIMFConfig("IBIM", "planted", None, {**at, **more})
        side = {} if needed(config)[0] else None
        assert (side is not None) == reads, more
        assert named("IBIM", side, **config.final_config_dict) == ("SASRec placebo" if reads else "SASRec")


def test_eimf_without_interests_is_called_text_only():
    assert named("EIMF", use_interests=False) == "EIMF(SASRec) text only"
