"""compare: names and keys are checked before any run, a finished run is made once, a failed one becomes a row."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import recbole_eimf
from recbole_eimf.__main__ import main as command_line
from recbole_eimf.cli import compare as compare_command
from recbole_eimf.core.errors import ConfigError, DataError, UserError
from recbole_eimf.data import history_mask
from recbole_eimf.study import compare, execute, runs
from recbole_eimf.study.rows import complete, over_their_own, parse_model, parse_models, read_rows
from recbole_eimf.study.search.outcome import SearchOutcome
from recbole_eimf.study.search.trial import Job, Trial
from recbole_eimf.trainer.trainer import InterestTrainer


@pytest.fixture
def keys(planted, semantic_cache):
    sizes = {"hidden_size": 16, "inner_size": 16, "MAX_ITEM_LIST_LENGTH": 8, "train_batch_size": 64, "epochs": 2}
    text = {"semantic_cache": str(semantic_cache), "text_encoder": "tfidf-svd"}
    return {"data_path": str(planted), "topk": [1, 5], "valid_metric": "NDCG@5", **text, **sizes}


def arguments(keys: dict, *options: str) -> list[str]:
    given = [f"--{key}={str(value).replace(' ', '')}" for key, value in keys.items()]
    return ["--dataset=planted", "--out=out", "--parallel=0", *given, *options]


def planned(names: str, keys: dict, seeds=(2020, 2021), **more) -> list[runs.Run]:
    return runs.plan(complete(parse_models(names)), "planted", seeds, keys, Path("out/runs"), **more)


# ---------------------------------------------------------------------- names
def test_what_names_mean():
    assert (parse_model("SASRec").model, parse_model("SASRec").keys) == ("IBIM", {"backbone": "SASRec"})
    assert (parse_model("RecBole[SASRec]").model, parse_model("RecBole[SASRec]").keys) == ("SASRec", {})
    own = "examples.last_and_mean:LastAndMean"  # a backbone of the user's own is a row as ours are
    assert (parse_model(own).model, parse_model(own).keys) == ("IBIM", {"backbone": own})
    assert parse_model(f"EIMF[{own}]").against[:2] == (own, f"placebo[{own}]")
    assert parse_model(f"placebo[{own}]").keys == {"backbone": own, "interest_source": "shuffled"}
    framework = parse_model("EIMF[REMI]")
    assert (framework.model, framework.keys) == ("EIMF", {"backbone": "REMI"})
    assert framework.against == ("REMI", "placebo[REMI]", "text[REMI]")
    placebo = parse_model("placebo[REMI]")
    assert (placebo.model, placebo.keys) == ("EIMF", {"backbone": "REMI", "interest_source": "shuffled"})
    assert parse_model("placebo[PAD]").keys["text_source"] == "shuffled"
    assert parse_model("Pop").model == "Pop"
    assert parse_model("recbole_eimf.model.baselines.counting:Markov").counting
    assert [row.name for row in complete(parse_models("Markov, SASRec"))] == [
        "Popularity", "DecayedItemKNN", "Markov", "SASRec",
    ]  # fmt: skip


def test_a_recipes_protocol_does_not_mix_users_in_one_table(keys, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    mixed = arguments(keys, "--models=SASRec,Markov", "--recipe=alphafuse", "--seeds=1")
    assert command_line(["compare", *mixed]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "protocol is" in said
    assert "rows of one table answer for the same users. Write --protocol=" in said


def test_a_framework_s_bare_name_is_measured_against_the_backbone_that_it_has():
    rows = parse_models("SASRec,GRU4Rec,PAD,EIMF,placebo[SASRec],MoRec,MIND,TextKNN,DecayedItemKNN")

    def against(**shared):
        return {row.name: row.against for row in complete(over_their_own(rows, shared)) if row.against}

    placebo = {"placebo[SASRec]": ("SASRec",)}
    over = {name: ("SASRec",) for name in ("PAD", "MoRec")}
    assert against() == {**over, **placebo, "EIMF": ("SASRec", "placebo[SASRec]")}
    assert against(backbone="GRU4Rec") == {**placebo, **{name: ("GRU4Rec",) for name in ("PAD", "MoRec", "EIMF")}}


def test_names_are_read_before_anything_else_has_made_recbole_ready(monkeypatch):
    monkeypatch.delattr(np, "float_")  # as NumPy 2 has it; RecBole's Config reads it
    assert parse_model("placebo[EIMF[REMI]]").keys["interest_source"] == "shuffled"
    assert np.float_ is np.float64


@pytest.mark.parametrize(
    ("names", "match"),
    [("SASRek", "'SASRek'.*Did you mean 'SASRec'"), ("EIMF[SASRek]", "Did you mean 'SASRec'"),
     ("EIFM[SASRec]", "Did you mean 'EIMF'"), ("RecBole[REMI]", "RecBole has none"), ("EIMF[SASRec", "not of the form"),
     ("REMI[SASRec]", "REMI is a backbone itself"), ("SASRec,SASRec", "SASRec is given twice"),
     ("EIMF(SASRec)", r"Did you mean 'EIMF\[SASRec\]'"),
     ("nowhere.to:Be", "cannot import nowhere.to"), ("RecBole[SASRek]", "Did you mean 'SASRec'")],
)  # fmt: skip
def test_a_wrong_name_is_an_error_before_any_run(keys, names, match):
    with pytest.raises(ConfigError, match=match):
        compare_command.main(arguments(keys, f"--models={names}"))
    assert not Path("out").exists()


def test_a_file_of_rows(tmp_path):
    file = tmp_path / "rows.yaml"
    file.write_text(
        "rows:\n- SASRec\n- {name: strong, model: 'EIMF[SASRec]', keys: {gamma: 0.3}}\n"
        "- {name: wide, model: IBIM, backbone: REMI, keys: {hidden_size: 32}, against: [strong]}\n"
    )
    sasrec, strong, wide = complete(read_rows(file), with_floors=False)
    assert (strong.keys, strong.against) == ({"backbone": "SASRec", "gamma": 0.3}, ("SASRec",))  # no placebo is there
    assert (wide.model, wide.keys, wide.against) == ("IBIM", {"backbone": "REMI", "hidden_size": 32}, ("strong",))
    for text, match in [
        ("rows:\n- {modl: SASRec}", "unknown field 'modl'.*Did you mean 'model'"),
        ("rows:\n- {name: a, model: SASRec, against: b}", "against='b' is not another row"),
        ("rows: SASRec", "not a list"),
        ("row: [SASRec]", "one list called rows"),
    ]:
        file.write_text(text)
        with pytest.raises(ConfigError, match=match):
            complete(read_rows(file))


# ---------------------------------------------------------------------- planning
def test_a_placebo_of_items_shuffles_the_knowledge_that_its_row_has(keys):
    rows = complete([parse_model("NextKNN"), parse_model("shuffled_knowledge[NextKNN]")])
    given = {**keys, "knowledge_source": "batch", "batch_file": "replies.jsonl"}
    Path("replies.jsonl").touch()
    made = {run.label: run.given for run in runs.plan(rows, "planted", (2020,), given, Path("out/runs"))}
    placebo = made["shuffled_knowledge[NextKNN]"]
    assert (placebo["knowledge_source"], placebo["shuffled_knowledge"]) == ("shuffled", "batch")
    assert made["NextKNN"]["knowledge_source"] == "batch"


def test_rows_of_one_folder_are_an_error_that_names_both(keys):
    rows = [parse_model("EIMF[SASRec]"), replace(parse_model("EIMF[SASRec]"), name="EIMF-SASRec")]
    said = "rows 'EIMF[SASRec]' and 'EIMF-SASRec': both would have the folder runs/EIMF-SASRec. Give one of them"
    with pytest.raises(ConfigError, match=re.escape(said)):
        runs.plan(rows, "planted", (2020,), keys, Path("out/runs"))
    assert len(runs.plan(rows[:1], "planted", (2020, 2021), keys, Path("out/runs"))) == 2


def test_counting_models_run_once_and_the_placebo_shuffles_what_its_row_trains_with(keys, tmp_path):
    (tmp_path / "replies.jsonl").write_text("{}")
    given = {**keys, "interest_source": "file", "interest_file": "replies.jsonl"}
    made = planned("SASRec,EIMF[SASRec],placebo[SASRec],Pop", given)
    assert [run.label for run in made] == [
        "Popularity", "Markov", "DecayedItemKNN", "SASRec/2020", "EIMF[SASRec]/2020", "placebo[SASRec]/2020", "Pop",
        "SASRec/2021", "EIMF[SASRec]/2021", "placebo[SASRec]/2021",
    ]  # fmt: skip
    placebo = made[5].given
    assert (placebo["interest_source"], placebo["shuffled_source"]) == ("shuffled", "file")
    assert made[4].given["interest_source"] == "file"
    assert made[4].given["interest_file"] == str(tmp_path / "replies.jsonl")  # a worker stands elsewhere
    assert len({run.folder for run in made}) == len(made)


def test_a_run_of_a_shorter_search_is_set_aside(keys, capsys):
    """More trials found other settings: what was trained before is kept beside the table, not in its way."""

    def at(trials=0, **found):
        rows = [parse_model("SASRec")]
        tuned = {"SASRec": found} if trials else None
        return runs.plan(rows, "planted", (2020,), keys, Path("out/runs").resolve(), False, tuned, trials=trials)[-1]

    def train(run, number):
        run.folder.mkdir(parents=True)
        (run.folder / "run.json").write_text(json.dumps({"settings": dict(run.settings), "trials": run.trials}))
        (run.folder / "result.json").write_text(json.dumps({"number": number}))

    train(at(4, learning_rate=0.001), 1)
    assert at(4, learning_rate=0.001).finished
    for trials, found in ((0, {}), (8, {"n_layers": 1}), (2, {"learning_rate": 0.002})):
        with pytest.raises(ConfigError, match="other settings: learning_rate was 0.001"):
            at(trials, **found)  # no search, another key, a shorter search: as ever
    assert not at(8, learning_rate=0.002).finished
    assert "SASRec/2020: its search has found other settings since" in capsys.readouterr().out
    train(at(8, learning_rate=0.002), 2)
    assert not at(9, learning_rate=0.003).finished
    (Path("out/earlier/SASRec/2020")).rename("out/gone")
    train(at(9, learning_rate=0.003), 3)
    assert not at(10, learning_rate=0.004).finished
    kept = {
        path.parent.name: json.loads(path.read_text())["number"] for path in Path("out/earlier").rglob("result.json")
    }
    assert kept == {"2020": 3, "2020-2": 2}
    # a run of a version that did not write trials down: as many as its search has had
    run = at(8, learning_rate=0.004)
    train(run, 4)
    (run.folder / "run.json").write_text(json.dumps({"settings": dict(run.settings)}))
    for number in range(12):
        (Path("out/tune/SASRec/trials") / f"{number:03d}").mkdir(parents=True)
        (Path("out/tune/SASRec/trials") / f"{number:03d}" / "trial.json").write_text("{}")
    with pytest.raises(ConfigError, match="a search of 12 trials: --tune-first=12 goes on"):
        at(8, learning_rate=0.005)
    assert not at(12, learning_rate=0.005).finished


def test_a_folder_belongs_to_its_settings(keys, planted, tmp_path):
    file = tmp_path / "replies.jsonl"
    file.write_text("{}")
    given = {**keys, "interest_file": str(file)}

    def stored(**changes):
        run = planned("SASRec", {**given, **changes}, (2020,))[-1]
        run.folder.mkdir(parents=True, exist_ok=True)
        (run.folder / "run.json").write_text(json.dumps({"settings": dict(run.settings)}))
        return run

    finished = stored().folder / "result.json"
    planned("SASRec", given)  # nothing finished yet: no objection
    finished.write_text("{}")
    planned("SASRec", {**given, "state": "ERROR", "num_threads": 3, "eval_batch_size": 7})  # change no figure
    with pytest.raises(ConfigError, match="with other settings: epochs was 2, is 3"):
        planned("SASRec", {**given, "epochs": 3})
    moved = tmp_path / "moved.jsonl"
    moved.write_text("{}")
    planned("SASRec", {**given, "interest_file": str(moved)})
    # a run that failed may be mended by other settings; one that was interrupted may not change them unsaid
    finished.unlink()
    (finished.parent / "last.safetensors").touch()
    with pytest.raises(ConfigError, match="epochs was 2, is 3"):
        planned("SASRec", {**given, "epochs": 3})
    (finished.parent / "error.txt").write_text("no\n")
    planned("SASRec", {**given, "epochs": 3})


_OLD = {"mmd_bandwidth": 1.0, "text_projection_layers": 2}  # PAD's keys of an earlier version


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("SASRec", {"gate_buckets": 3, "interest_file": "other", "text_encoder": "other", "gamma": 0.7, **_OLD}, []),
        ("SASRec", {"score_scale": 3.0, "backbone": "GRU4Rec"}, ["backbone", "score_scale"]),
        ("TextKNN", {"interest_file": "other", "llm_model": "other", **_OLD}, []),
        ("TextKNN", {"text_encoder": "other", "knn_decay": 0.9}, ["knn_decay", "text_encoder"]),
        ("Markov", {"epochs": 9, "learning_rate": 0.5, "hidden_size": 9, "loss_type": "BPR"}, []),  # has no network
        ("Markov", {"eval_step": 0, "recency_half_life": 30}, ["eval_step", "recency_half_life"]),
        ("EIMF[SASRec]", {"interest_file": "other", **_OLD}, ["interest_file"]),
        ("text[SASRec]", {"interest_file": "other", "gate_buckets": 3, "gamma": 0.7}, ["gamma"]),
        ("PAD", {"gate_buckets": 3, "interest_file": "other", "mmd_bandwidth": 1.0}, ["gate_buckets", "mmd_bandwidth"]),
        ("RecBole[SASRec]", {"gate_buckets": 3, "interest_file": "other", "n_layers": 5}, ["n_layers"]),
        ("RecBole[FEARec]", {"gate_buckets": 3, "tau": 0.5}, ["tau"]),
        ("examples.smoothed:Smoothed", {"gate_buckets": 3}, ["gate_buckets"]),  # nobody knows what it reads
    ],
)
def test_what_a_rows_model_does_not_read_is_no_other_setting(name, changes, told, keys, tmp_path):
    """Neither an upgrade nor other replies throw away runs whose figures they cannot change."""
    (tmp_path / "replies.jsonl").write_text("{}")
    file = {"interest_source": "file", "interest_file": str(tmp_path / "replies.jsonl")}
    given = {**keys, **file, "allow_unknown_keys": True}
    run = planned(name, given, (2020,))[-1]
    run.folder.mkdir(parents=True)
    (run.folder / "run.json").write_text(json.dumps({"settings": {**run.settings, **changes}}))
    (run.folder / "result.json").write_text("{}")
    if not told:
        assert planned(name, given, (2020,))[-1].finished
        return
    with pytest.raises(ConfigError) as caught:
        planned(name, given, (2020,))
    said = str(caught.value).split("other settings: ")[1]
    assert [part.split(" was ")[0] for part in said.split(". Use")[0].split("; ")] == told


@pytest.mark.parametrize(
    ("option", "match"),
    [("--gama=1", "^unknown key 'gama'.*Did you mean 'gamma'"), ("--seed=3", "instead there is --seeds"),
     ("--seeds=0", "seeds=0"), ("--seeds=3,3", "different seeds"), ("--parallel=-1", "parallel=-1: at least 0"),
     ("--metrics=Recall@7", "recall@7 is not computed"), ("--protocol=user_spilt", "Did you mean 'user_split'"),
     ("--mask_history=maybe", "^mask_history='maybe'"), ("--learning_rate=x", "^learning_rate='x'"),
     ("stray", "--key=value"), ("--seeds=x", "a number of seeds"),
     ("--seeds=2020", r"The one seed 2020 is written \[2020\]"),
     ("--ray_address=127.0.0.1:9", "no Ray cluster answers there")],
)  # fmt: skip
def test_a_wrong_option_or_key_is_an_error_before_any_run(keys, option, match):
    given = [one for one in arguments(keys, "--models=SASRec") if one.partition("=")[0] != option.partition("=")[0]]
    with pytest.raises(ConfigError, match=match):
        compare_command.main([*given, option])
    assert not Path("out/runs").exists()


def test_a_metric_that_no_run_computes_is_told_with_what_computes_it(keys, tmp_path):
    """``--metrics`` is what tables show: who wrote the brackets that the error advised had the same error again."""
    given = {key: value for key, value in keys.items() if key not in ("topk", "metrics")}
    wanted = arguments({**given, "valid_metric": "NDCG@5"}, "--models=Popularity", "--metrics=[MAP@5]")
    Path("more.yaml").write_text("topk: [1, 5]\n")
    with pytest.raises(ConfigError, match=r"map@5 is not computed.*a file of --config_files says which others, by li"):
        compare_command.main([*wanted, "--config_files=more.yaml"])
    Path("more.yaml").write_text("metrics: [Recall, NDCG, MAP]\ntopk: [1, 5]\n")
    assert compare_command.main([*wanted, "--config_files=more.yaml"]) == 0
    assert json.loads(Path("out/results.json").read_text())["shown_metrics"] == ["map@5"]


def test_a_wrong_value_of_a_row_s_own_key_names_the_row(keys, tmp_path):
    Path("table.yaml").write_text("rows:\n- SASRec\n- {name: mine, model: SASRec, keys: {learning_rate: x}}\n")
    with pytest.raises(ConfigError, match="^table.yaml, line 3, row 'mine': learning_rate='x'"):
        compare_command.main(arguments(keys, "--models_file=table.yaml", "--learning_rate=0.01"))


def test_data_or_replies_that_are_not_there_are_an_error_before_any_run(keys, tmp_path):
    with pytest.raises(DataError, match="no such file"):
        compare_command.main(arguments({**keys, "data_path": str(tmp_path)}, "--models=SASRec"))
    with pytest.raises(ConfigError, match="interest_file is not set"):
        compare_command.main(arguments(keys, "--models=SASRec,EIMF[SASRec]", "--interest_source=file"))
    assert not Path("out/runs").exists()


# ---------------------------------------------------------------------- runs, in this process
OWN_MODELS = """
import os, pathlib, torch
from recbole_eimf.model.ibim import IBIM

class Broken(IBIM):
    def __init__(self, config, dataset):
        if not os.path.exists(os.environ["MENDED"]):
            raise RuntimeError("the hard disk | is\\nfull")
        super().__init__(config, dataset)

class Telling(IBIM):
    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        told = f"{os.getpid()} {torch.get_num_threads()} {os.getcwd()}"
        pathlib.Path(os.environ["TELL"], str(config["seed"])).write_text(told)
"""


@pytest.fixture
def own_models(tmp_path, monkeypatch):
    (tmp_path / "own_models_of_test.py").write_text(OWN_MODELS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("TELL", str(tmp_path))
    monkeypatch.setenv("MENDED", str(tmp_path / "mended"))


@pytest.mark.usefixtures("undrawn")
def test_a_failed_run_is_a_row_and_a_finished_one_is_not_made_again(keys, own_models, tmp_path, capsys):
    given = ["compare", *arguments(keys, "--models=REMI,own_models_of_test:Broken", "--seeds=1", "--backbone=SASRec")]
    assert command_line(given) == 1
    text = Path("out/table.md").read_text()
    assert r"| own_models_of_test:Broken | failed: RuntimeError: the hard disk \| is |" in text
    results = {path: path.stat().st_mtime_ns for path in Path("out/runs").rglob("result.json")}
    assert len(results) == 4
    assert "failed: own_models_of_test:Broken/2020" in capsys.readouterr().out
    error = next(Path("out/runs").rglob("error.txt"))
    assert "Traceback" in error.read_text()

    (tmp_path / "mended").touch()
    assert command_line(given) == 0
    again = {path: path.stat().st_mtime_ns for path in Path("out/runs").rglob("result.json")}
    assert len(again) == 5
    assert {path: again[path] for path in results} == results
    assert not error.exists()
    capsys.readouterr()
    assert command_line(given) == 0
    assert "runs to make" not in capsys.readouterr().out
    assert "failed" not in Path("out/table.md").read_text()

    assert os.getcwd() == str(tmp_path)
    assert not (tmp_path / "log").exists()  # RecBole's files went to the runs' folders
    whole = recbole_eimf.run("IBIM", "planted", **keys, backbone="REMI", seed=2020, state="ERROR", show_progress=False)
    row = next(r for r in json.loads(Path("out/results.json").read_text())["rows"] if r["name"] == "REMI")
    assert row["runs"][0]["test"] == whole.test  # a row's own keys are stronger than --backbone


@pytest.mark.usefixtures("undrawn")
def test_stopped_in_the_middle_it_goes_on_to_the_same_figures(keys, monkeypatch):
    keys = {**keys, "epochs": 5}
    given = ["compare", *arguments(keys, "--models=SASRec", "--seeds=2")]
    saved, original = [], InterestTrainer._save_state

    def stop_at_third_epoch(trainer, epoch):
        original(trainer, epoch)
        saved.append(trainer.config["model"])
        if saved.count("IBIM") == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(InterestTrainer, "_save_state", stop_at_third_epoch)
        assert command_line(given) == 130
    assert "3 of 5 runs finished" in Path("out/table.md").read_text()  # the floors stand in a table already
    trained, train = [], InterestTrainer._train_epoch

    def count(trainer, data, epoch, *rest, **more):
        trained.append((trainer.config["seed"], epoch))
        return train(trainer, data, epoch, *rest, **more)

    with monkeypatch.context() as patched:
        patched.setattr(InterestTrainer, "_train_epoch", count)
        assert command_line(given) == 0
    assert trained == [(2020, 3), (2020, 4), *((2021, epoch) for epoch in range(5))]
    whole = recbole_eimf.run("IBIM", "planted", **keys, seed=2020, state="ERROR", show_progress=False)
    assert json.loads(Path("out/runs/SASRec/2020/result.json").read_text())["test"] == whole.test


def test_seconds_of_a_run_that_goes_on_count_the_sessions_before(keys, monkeypatch):
    """190 of 200 epochs were made before a kill; other settings begin again."""
    run = planned("SASRec", keys, (2020,))[-1]
    job = execute._job(run, execute.Workers())
    kept = {name: job[name] for name in ("row", "model", "dataset", "given", "settings", "runs_at_once")}
    clock, resumed = [1000.0], []
    monkeypatch.setattr(execute, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def trained(model, dataset, **given):
        resumed.append(given["resume"])
        clock[0] += 7
        (run.folder / "result.json").write_text(json.dumps({"mask_history": False}))

    monkeypatch.setattr("recbole_eimf.experiment.run.run", trained)
    for change, expected in (({}, 190 * 2.5 + 7), ({"epochs": 3}, 7)):
        run.folder.mkdir(parents=True, exist_ok=True)
        history = [{"epoch": n, "train_seconds": 2.0, "valid_seconds": 0.5} for n in range(190)]
        (run.folder / "history.json").write_text(json.dumps(history))
        (run.folder / "run.json").write_text(json.dumps({**kept, "settings": {**kept["settings"], **change}}))
        (run.folder / "result.json").unlink(missing_ok=True)
        execute._train(job, run.folder)
        assert run.notes()["seconds"] == expected
    assert resumed == [True, False]


def test_history_masked_and_not(keys):
    given = arguments(keys, "--models=SASRec", "--seeds=1", "--mask_history=both", "--metrics=NDCG@5")
    assert compare_command.main(given) == 0
    found = json.loads(Path("out/results.json").read_text())
    masked, unmasked = found["views"]
    assert (masked["mask_history"], unmasked["mask_history"]) == (True, False)
    for mask, view in ((True, masked), (False, unmasked)):
        alone = recbole_eimf.run("Markov", "planted", **keys, mask_history=mask, state="ERROR", show_progress=False)
        assert view["rows"]["Markov"]["ndcg@5"]["mean"] == pytest.approx(100 * alone.test["ndcg@5"])
    assert masked["rows"]["Markov"] != unmasked["rows"]["Markov"]


def test_the_history_is_masked_in_the_table_as_it_was_in_its_runs(keys):
    """A recipe says it too (PAD's published one), and from Python it may come as a word."""

    def masks(models, **more):
        rows = parse_models(models) if isinstance(models, str) else models
        return compare._plan_and_tune(
            compare.experiment_of(rows, "planted", {**keys, **more}, "..."), Path("out"), compare.Effort(0)
        ).masks

    assert masks("SASRec") == (False,)
    assert masks("PAD,MoRec", recipe="published") == (True,)
    assert masks("PAD,MoRec", recipe="published", mask_history=False) == (False,)
    assert masks("RecBole[SASRec]", mask_history="False") == (False,)
    assert masks("SASRec", mask_history="both", protocol="user_split") == (False, True)
    drawn = {"backbone": "REMI", "eval_args": {"mode": "uni3"}}
    with pytest.raises(ConfigError, match="eval_args: mode is uni3 in row 'REMI' and full in row 'Popularity': rows"):
        masks([*parse_models("SASRec"), replace(parse_model("REMI"), keys=drawn)])
    assert masks("SASRec", eval_args={"mode": "uni3"}) == (False,)
    own = [*parse_models("SASRec"), replace(parse_model("REMI"), keys={"backbone": "REMI", "mask_history": True})]
    with pytest.raises(ConfigError, match="mask_history is True in row 'REMI' and False in row 'Popularity', by its"):
        masks(own)
    assert masks(own, mask_history="both", protocol="leave_one_out") == (True, False)
    own[1] = replace(own[1], keys={"backbone": "REMI", "mask_history": "auto"})
    with pytest.raises(ConfigError, match="row 'REMI': mask_history=auto: rows of one table"):
        masks(own)


@pytest.mark.parametrize("repeats", [True, False])
def test_a_table_decides_by_its_data_whether_the_history_is_masked(keys, tmp_path, capsys, monkeypatch, repeats):
    """Once, for all its rows; a row that says otherwise is told before anything is trained."""
    if not repeats:
        monkeypatch.setattr(history_mask, "FEW_REPEATS", 1.1)
    given = arguments({**keys, "epochs": 1}, "--models=SASRec", "--seeds=1", "--mask_history=auto", "--metrics=NDCG@5")
    assert compare_command.main(given) == 0
    said = "stays among the candidates" if repeats else "is masked"
    assert capsys.readouterr().out.count(f"mask_history=auto: the history {said} (") == 1
    assert [view["mask_history"] for view in json.loads(Path("out/results.json").read_text())["views"]] == [not repeats]
    assert {json.loads(p.read_text())["mask_history"] for p in Path("out/runs").rglob("result.json")} == {not repeats}
    assert compare_command.main(given) == 0, "the same command goes on"
    rows = [*parse_models("SASRec"), replace(parse_model("REMI"), keys={"backbone": "REMI", "mask_history": repeats})]
    other = compare.experiment_of(rows, "planted", {**keys, "mask_history": "auto"}, "...")
    with pytest.raises(ConfigError, match=f"mask_history is {repeats} in row 'REMI' and {not repeats} in row"):
        compare.check(other, Path("other"), compare.Effort(0))


def test_a_failed_run_is_begun_again_with_what_mends_it(keys):
    """Out of memory, so that a smaller batch is given: what the failed one has left is not gone on with."""
    keys, given = {**keys, "epochs": 1}, ["--models=SASRec", "--seeds=1"]
    assert compare_command.main(arguments(keys, *given)) == 0
    folder = Path("out/runs/SASRec/2020")
    (folder / "result.json").unlink()
    (folder / "error.txt").write_text("RuntimeError: out of memory\n")
    smaller = {**keys, "train_batch_size": 32}
    for path in Path("out/runs").glob("[PMD]*/2020/result.json"):  # floors have no batches, but their settings
        path.unlink()
        (path.parent / "error.txt").touch()
    assert compare_command.main(arguments(smaller, *given)) == 0
    assert not (folder / "error.txt").exists()
    assert json.loads((folder / "config.json").read_text())["settings"]["train_batch_size"] == 32
    assert json.loads((folder / "run.json").read_text())["settings"]["train_batch_size"] == 32
    whole = recbole_eimf.run("IBIM", "planted", **smaller, seed=2020, state="ERROR", show_progress=False)
    assert json.loads((folder / "result.json").read_text())["test"] == whole.test


def test_a_failed_run_that_is_made_again_and_stopped_is_one_that_was_stopped(keys, monkeypatch):
    """Of the old failure nothing is left to begin it anew for: it is gone on with, or other settings are refused."""

    def stopped(model, dataset, output_dir, **more):
        (Path(output_dir) / "last.safetensors").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("recbole_eimf.experiment.run.run", stopped)
    run = planned("SASRec", {**keys, "train_batch_size": 32}, (2020,))[-1]
    run = replace(run, folder=run.folder.resolve())
    run.folder.mkdir(parents=True)
    (run.folder / "error.txt").write_text("RuntimeError: out of memory\n")
    with pytest.raises(KeyboardInterrupt):
        list(execute.execute_all([run], execute.Workers(0)))
    assert not (run.folder / "error.txt").exists()
    with pytest.raises(ConfigError, match="train_batch_size was 32, is 16"):
        planned("SASRec", {**keys, "train_batch_size": 16}, (2020,))


@pytest.mark.usefixtures("undrawn")
def test_tuning_first_searches_the_same_for_every_row(keys, monkeypatch):
    from recbole_eimf.study.search import tune

    asked = {}

    def search(model, dataset, out, effort, begin_with=None, **given):
        asked[Path(out).name] = model, effort.samples, given.get("backbone"), given["epochs"]
        if model == "IBIM":
            raise DataError("none of 4 trials gave a score.")
        job = Job(model, dataset, {}, [], "ndcg@5", True, str(out))
        tried = [
            Trial(0, "finished", {"gamma": 0.1}, score=0.25),
            Trial(1, "stopped", {"gamma": 0.71234, "hidden_dropout_prob": 0.3}, score=0.375),
        ]
        return SearchOutcome(job, {}, given, tried)

    monkeypatch.setattr(tune, "search", search)
    chosen = "--models=SASRec,EIMF[SASRec]"
    assert (
        compare_command.main(arguments(keys, chosen, "--seeds=1", "--tune-first=4", "--hidden_dropout_prob=0.5")) == 0
    )
    assert asked["SASRec"] == ("IBIM", 4, "SASRec", 2)
    assert asked["EIMF-SASRec"] == ("EIMF", 4, "SASRec", 2)
    rows = {row["name"]: row["settings"] for row in json.loads(Path("out/results.json").read_text())["rows"]}
    assert (rows["EIMF[SASRec]"]["gamma"], rows["EIMF[SASRec]"]["hidden_dropout_prob"]) == (0.71234, 0.3)
    assert rows["SASRec"]["hidden_dropout_prob"] == 0.5
    text, page = Path("out/table.md").read_text(), Path("out/index.html").read_text()
    assert "4 trials each, on validation" in text
    assert "| EIMF[SASRec] | 2 | 25.00 | 37.50 | 1 | gamma=0.712, hidden_dropout_prob=0.3 |" in text
    assert "What each row's search found" in page.replace("&#39;", "'")
    assert re.search(r'<td class="words">\s*gamma=0.712, hidden', page)  # a line that may wrap
    found = {row["name"]: row["search"] for row in json.loads(Path("out/results.json").read_text())["rows"]}
    assert (found["EIMF[SASRec]"]["settings"]["gamma"], found["EIMF[SASRec]"]["start"]) == (0.71234, 0.25)
    assert found["SASRec"] is None
    assert "SASRec is not tuned:** none of 4 trials" in text
    # the same command again: a run in its folder has the settings of the search, not those before it
    assert (
        compare_command.main(arguments(keys, chosen, "--seeds=1", "--tune-first=4", "--hidden_dropout_prob=0.5")) == 0
    )


@pytest.mark.usefixtures("undrawn")
def test_what_a_backbones_search_found_is_tried_in_every_row_over_it(keys, monkeypatch):
    from recbole_eimf.study.search import tune

    begun = {}

    def search(model, dataset, out, effort, begin_with=None, **given):
        begun[Path(out).name] = begin_with
        job = Job(model, dataset, {}, [], "ndcg@5", True, str(out))
        return SearchOutcome(job, {}, given, [Trial(0, "finished", {"learning_rate": 0.001 * len(begun)}, 0.5)])

    monkeypatch.setattr(tune, "search", search)
    rows = ["{model: 'EIMF[SASRec]'}", "{model: 'EIMF[GRU4Rec]'}", "{model: SASRec}",
            "{name: added, model: SASRec, keys: {item_text: add}}"]  # fmt: skip
    Path("rows.yaml").write_text("".join(["rows:\n", *(f"- {row}\n" for row in rows)]), encoding="utf-8")
    assert compare_command.main(arguments(keys, "--models_file=rows.yaml", "--seeds=1", "--tune-first=4")) == 0
    assert next(iter(begun)) == "SASRec"  # before the rows over it
    found = {"learning_rate": 0.001}
    assert begun.pop(next(name for name in begun if name.startswith("added"))) == found
    assert begun == {"SASRec": None, "EIMF-SASRec": found, "EIMF-GRU4Rec": None, "DecayedItemKNN": None}
    assert "second trial of every row over it" in Path("out/table.md").read_text()
    begun.clear()
    Path("out").rename("made")
    for wrong in ("--metrics=Recall@77", "--text_fields=[nothing]"):  # before hours of search
        with pytest.raises(UserError, match=wrong.partition("=")[2].strip("[]").lower()):
            compare_command.main(arguments(keys, "--models=EIMF[SASRec]", "--seeds=1", "--tune-first=4", wrong))
    assert not begun


# ---------------------------------------------------------------------- on Ray
def test_on_ray_every_run_has_a_process_of_its_own_with_its_threads(keys, own_models, tmp_path):
    rows = [parse_model("own_models_of_test:Telling")]
    made = runs.plan(rows, "planted", (2020, 2021), {**keys, "backbone": "SASRec"}, Path("out/runs").resolve())
    # one slot: without a process per run both would be in the same
    ended = [event for event in execute.execute_all(made, execute.Workers(parallel=1, cpus=2)) if event is not None]
    assert {run.label: why for run, why in ended} == {run.label: None for run in made}
    told = [(tmp_path / seed).read_text().split(" ", 2) for seed in ("2020", "2021")]
    assert len({told[0][0], told[1][0], str(os.getpid())}) == 3
    assert [threads for _, threads, _ in told] == ["2", "2"]
    assert told[0][2] == str(made[0].folder)
    assert all(run.finished for run in made)
