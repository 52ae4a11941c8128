"""The search on Ray: what it writes, early stopping, going on after a kill, and RecBole's own Ray objective."""

from __future__ import annotations

import csv
import importlib
import inspect
import json
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import recbole_eimf
from recbole_eimf.__main__ import main
from recbole_eimf.cli import tune as command
from recbole_eimf.config.config import read_yaml
from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.core.folders import SEARCH_FILE
from recbole_eimf.experiment import plugin
from recbole_eimf.study.search import tune
from recbole_eimf.study.search.outcome import SearchOutcome
from recbole_eimf.study.search.plot import importance, plot_search
from recbole_eimf.study.search.space import Dimension, draw_settings
from recbole_eimf.study.search.trial import Job, Trial, _reason, close_trial, read_trial, run_trial
from tests.conftest import REPOSITORY
from tests.forked import Forked, command_line
from tests.study.held import EPOCHS

ONE = tune.SearchEffort(samples=6, max_epochs=4, grace=1, cpus_per_trial=1, gpus_per_trial=0)
ALONE = {"compare_with": [], "show_progress": False}


@pytest.fixture(scope="module")
def _ray():
    """One small Ray for the module's searches; a search uses the one that runs and leaves it running."""
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
        patched.setenv("PYTHONPATH", str(REPOSITORY))  # workers import models of the tests
        ray.init(num_cpus=1, include_dashboard=False, object_store_memory=80 * 2**20, log_to_driver=False)
        yield
        ray.shutdown()


@pytest.fixture
def keys(planted, semantic_cache):
    sizes = {"hidden_size": 16, "inner_size": 16, "MAX_ITEM_LIST_LENGTH": 8, "train_batch_size": 32, "epochs": 4}
    text = {"semantic_cache": str(semantic_cache), "text_encoder": "tfidf-svd"}
    return {"data_path": str(planted), "topk": [1, 5], "valid_metric": "NDCG@5", **text, **sizes}


def space_file(folder: Path, text: str) -> Path:
    (folder / "space.yaml").write_text(text, encoding="utf-8")
    return folder / "space.yaml"


def table(out: Path) -> dict[int, dict[str, str]]:
    with open(out / "trials.csv", encoding="utf-8") as stream:
        return {int(row["trial"]): row for row in csv.DictReader(stream)}


@pytest.mark.usefixtures("_ray")
def test_a_search_finishes_stops_and_fails_trials_and_its_best_is_what_a_run_gives(keys, tmp_path):
    """A rate that learns nothing, and a head count that does not fit the size; the first trial has neither."""
    space = space_file(tmp_path, "learning_rate: {choice: [1.0e-7]}\nn_heads: {choice: [2, 3]}\n")
    given = {**keys, "interest_source": "keywords"}
    found = tune.search("EIMF", "planted", "out", ONE, space, **given)
    rows = table(tmp_path / "out")
    assert len(rows) == 3  # the configuration as it stands, and all there is to draw
    for number, row in rows.items():
        if row["n_heads"] == "3":
            assert row["status"] == "failed"
            assert "3" in row["error"]
            assert (tmp_path / "out" / "trials" / f"{number:03d}" / "error.txt").is_file()
        elif row["learning_rate"] == "1e-07":
            assert (row["status"], row["epochs"]) == ("stopped", "1")
        else:
            assert (row["status"], row["epochs"]) == ("finished", "4")
    scores = {n: float(row["valid_ndcg@5"]) for n, row in rows.items() if row["status"] != "failed"}
    assert found.best.number == max(scores, key=scores.get)
    assert found.best.settings == {"learning_rate": 0.003, "n_heads": 2}

    # nothing of the test part is in any file
    assert not any("test" in column for column in rows[0])
    for path in (tmp_path / "out").rglob("result.json"):
        held = json.loads(path.read_text())
        assert held["test"] == {}
        assert held["side_load"]["training_users_with_interests"] > 0
    assert not list((tmp_path / "out" / "trials").rglob("*.pth"))
    assert not list((tmp_path / "out" / "trials").rglob("model.safetensors"))
    assert not (tmp_path / "out" / "ray").exists()
    assert (tmp_path / "out" / "search.png").read_bytes().startswith(b"\x89PNG")

    # best.yaml alone repeats the best trial
    again = recbole_eimf.run("EIMF", "planted", ["out/best.yaml"], num_threads=1, state="ERROR", **ALONE)
    assert again.valid["ndcg@5"] == found.best.score
    assert read_yaml("out/best.yaml")["learning_rate"] == 0.003


@pytest.mark.usefixtures("_ray")
def test_a_killed_search_goes_on_where_it_was(keys, tmp_path, capsys):
    """kill -9, then Ctrl-C, then to the end: epochs that were trained stay trained, with the same numbers."""
    space = space_file(tmp_path, "learning_rate: {choice: [0.003, 0.01]}\n")
    model, epochs = "tests.study.held:Held", 6
    asked = {**keys, "stopping_step": 100}
    options = ["--samples=2", f"--max-epochs={epochs}", f"--grace={epochs}", "--cpus=1", "--out=out"]
    options += [f"--space={space}", *(f"--{k}={v}" for k, v in asked.items())]
    arguments = ["tune", f"--model={model}", "--dataset=planted", *options]
    histories = [tmp_path / f"out/trials/{n:03d}/history.json" for n in range(2)]

    def until(trial: int, how: signal.Signals) -> tuple[int, str]:
        """Start it, and end it when that trial waits."""
        held = tmp_path / f"held-{trial:03d}"
        (tmp_path / "hold").write_text(f"{trial:03d}")
        process = Forked(command_line, *arguments, cwd=tmp_path, together=True)
        deadline = time.time() + 300
        while time.time() < deadline and process.poll() is None:
            if held.exists():
                break
            time.sleep(0.02)
        assert process.poll() is None, process.stdout.read()
        assert held.exists(), "the trial came to nothing"
        process.send_signal(how)
        shown, _ = process.communicate(timeout=120)
        return process.returncode, shown

    until(0, signal.SIGKILL)
    killed = json.loads(histories[0].read_text())
    assert len(killed) == EPOCHS
    assert not (tmp_path / "out/best.yaml").exists()
    code, shown = until(1, signal.SIGINT)
    assert code == 130
    assert "1 of 2 trials done; the same command goes on" in shown
    assert "Traceback" not in shown
    (tmp_path / "hold").unlink()
    done = json.loads(histories[0].read_text())
    # wall-clock seconds tell that these very epochs were kept, not trained again
    assert done[: len(killed)] == killed
    assert len(done) == epochs
    cut = json.loads(histories[1].read_text())
    assert len(cut) == EPOCHS
    assert main(arguments) == 0
    assert json.loads(histories[0].read_text()) == done
    assert json.loads(histories[1].read_text())[: len(cut)] == cut
    whole = recbole_eimf.run(
        model, "planted", None, epochs=epochs, learning_rate=float(table(tmp_path / "out")[1]["learning_rate"]),
        num_threads=1, show_progress=False, state="ERROR", **{k: v for k, v in asked.items() if k != "epochs"},
    )  # fmt: skip
    assert float(table(tmp_path / "out")[1]["valid_ndcg@5"]) == whole.valid["ndcg@5"]

    # the folder is this search's: all of it is done, and another search is refused
    capsys.readouterr()
    assert main(arguments) == 0
    assert "2 of them done before" in capsys.readouterr().out
    assert main([*arguments, "--score_scale=7.0"]) == 2
    assert "other settings: score_scale was 14.0, is 7.0" in capsys.readouterr().err


def test_a_key_that_only_some_trials_read_makes_another_search(keys, tmp_path):
    """The configuration as it stands reads no text; trials that try it do."""
    space = space_file(tmp_path, "item_text: {choice: [none, add, concat]}\nlearning_rate: {log: [0.001, 0.01]}\n")
    (tmp_path / "out").mkdir()

    def claimed(**given):
        given = {**keys, "text_encoder": "tfidf-svd", **given}
        base = tune._config("IBIM", "planted", given)
        searched = tune._space(space, base, given)
        drawn = draw_settings(searched, 5, base["seed"], {key: base[key] for key in searched})
        assert len({settings["item_text"] for settings in drawn}) > 1
        job = tune._job("IBIM", "planted", given, base, drawn, 5, tmp_path / "out")
        tune._claim(job, searched, base, {"max_epochs": 5, "grace": 1})

    claimed()
    for other in ({"text_encoder": "minilm"}, {"text_source": "shuffled"}, {"text_whitening": "half"}):
        with pytest.raises(ConfigError, match=f"other settings: {next(iter(other))} was"):
            claimed(**other)
    claimed()


@pytest.fixture
def in_this_process(monkeypatch):
    """Trials as they are, without Ray, for what a search does before it runs any: no worker has to import torch."""
    pytest.importorskip("ray")

    def run_trials(job, pending, found, *_):
        for number in pending:
            run_trial({"number": number}, job, 0, 1)
            found.add(close_trial(job, number, failed=False))

    monkeypatch.setattr("ray.tune.report", lambda told: None)
    monkeypatch.setattr(tune, "_run_trials", run_trials)


@pytest.mark.usefixtures("in_this_process")
def test_a_search_begins_with_what_another_found(keys, tmp_path, capsys):
    """Of its settings those that are searched here; where it has moved since, that one trial is made again."""
    space = space_file(tmp_path, "learning_rate: {log: [0.001, 0.01]}\nn_layers: {int: [1, 2]}\n")
    asked = {"samples": 2, "max_epochs": 1, "space": space, "out": "out", "gpus_per_trial": 0, **keys}
    del asked["epochs"]
    (tmp_path / "best.yaml").write_text("learning_rate: 0.0042\ngamma: 0.3\n", encoding="utf-8")
    earlier = tmp_path / "out/trials/001-earlier"
    plain = recbole_eimf.tune("IBIM", "planted", **asked)
    made = [(tmp_path / f"out/trials/{n:03d}/trial.json").stat().st_mtime_ns for n in range(2)]
    begun = recbole_eimf.tune("IBIM", "planted", begin_with="best.yaml", **asked)
    assert begun.trials[1].settings == {"learning_rate": 0.0042, "n_layers": 2}  # layers as they stand
    assert begun.trials[1].score is not None
    assert begun.trials[0] == plain.trials[0]
    again = [(tmp_path / f"out/trials/{n:03d}/trial.json").stat().st_mtime_ns for n in range(2)]
    assert [again[n] == made[n] for n in range(2)] == [True, False]
    assert json.loads((earlier / "trial.json").read_text())["score"] == plain.trials[1].score  # paid for: kept
    # the folder is this search's, whatever a key that IBIM does not read says
    assert recbole_eimf.tune("IBIM", "planted", begin_with="best.yaml", damping=0.8, **asked).trials == begun.trials
    # one that was cut off has the state of other settings: it is not gone on with
    folder = tmp_path / "out/trials/001"
    (folder / "trial.json").unlink()
    (folder / "history.json").write_text("[]", encoding="utf-8")
    (tmp_path / "best.yaml").write_text("learning_rate: 0.0024\n", encoding="utf-8")
    moved = recbole_eimf.tune("IBIM", "planted", begin_with="best.yaml", **asked)
    assert (
        moved.trials[1].settings["learning_rate"] == json.loads((folder / "settings.json").read_text())["learning_rate"]
    )
    assert moved.trials[1].settings["learning_rate"] == 0.0024
    assert (tmp_path / "out/trials/001-earlier-2/settings.json").is_file()

    capsys.readouterr()
    (tmp_path / "best.yaml").write_text("gamma: 0.3\n", encoding="utf-8")
    base = [f"--{k}={v}" for k, v in {"model": "IBIM", "dataset": "planted", **keys, "space": space}.items()]
    assert main(["tune", *base, "--begin-with=best.yaml", "--out=other"]) == 2
    assert "begin_with=best.yaml: none of its keys is searched here" in capsys.readouterr().err
    assert main(["tune", *base, "--begin-with=none.yaml", "--out=other"]) == 2
    assert "none.yaml" in capsys.readouterr().err
    (tmp_path / "best.yaml").write_text("learning_rate: fast\n", encoding="utf-8")
    assert main(["tune", *base, "--begin-with=best.yaml", "--out=other"]) == 2
    assert "best.yaml: learning_rate='fast'" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="learning_rate"):
        recbole_eimf.tune("IBIM", "planted", begin_with={"learing_rate": 0.004}, **{**asked, "out": "other"})
    with pytest.raises(ConfigError, match="begin_with: learning_rate"):
        recbole_eimf.tune("IBIM", "planted", begin_with={"learning_rate": -1.0}, **{**asked, "out": "other"})
    assert not (tmp_path / "other").exists()


def test_a_trial_is_judged_with_the_score_prior_that_its_run_ends_with(tmp_path):
    """ASHA goes by the model alone, epoch by epoch; the weights of the prior come last."""
    job = Job("IBIM", "data", {}, [{"n_layers": 1}, {"n_layers": 2}], "ndcg@5", True, str(tmp_path))
    for number, alone in enumerate((0.2, 0.3)):
        job.folder(number).mkdir(parents=True)
        told = [{"epoch": 0, "train_seconds": 1.0, "valid": {"ndcg@5": alone}}]
        (job.folder(number) / "history.json").write_text(json.dumps(told))
    (job.folder(0) / "result.json").write_text(json.dumps({"valid": {"ndcg@5": 0.5}, "epochs": 1}))
    ended, stopped = (close_trial(job, number, failed=False) for number in range(2))
    assert (ended.score, ended.curve, ended.status) == (0.5, [[1, 0.2]], "finished")
    assert (stopped.score, stopped.status) == (0.3, "stopped")


@pytest.mark.parametrize(("bigger", "best", "curve"), [(True, 2, [0.3, 0.3, 0.4]), (False, 1, [0.3, 0.2, 0.2])])
@pytest.mark.parametrize("failed", [False, True])
def test_a_trial_s_curve_is_of_its_best_score_so_far(tmp_path, bigger, best, curve, failed):
    """Epoch 3 was not scored on validation, and what a failed trial left of an earlier try is no result."""
    job = Job("IBIM", "data", {}, [{"n_layers": 1}], "ndcg@5", bigger, str(tmp_path))
    scores = [0.3, 0.2, 0.4]
    told = [{"epoch": epoch, "train_seconds": 1.0, "valid": {"ndcg@5": score}} for epoch, score in enumerate(scores)]
    job.folder(0).mkdir(parents=True)
    (job.folder(0) / "history.json").write_text(json.dumps([*told, {"epoch": 3, "train_seconds": 1.0}]))
    if failed:
        (job.folder(0) / "result.json").write_text(json.dumps({"valid": {"ndcg@5": 0.9}, "epochs": 1}))
    trial = close_trial(job, 0, failed)
    assert trial.status == ("failed" if failed else "stopped")
    assert (trial.score, trial.best_epoch, trial.epochs) == (scores[best], best, 4)
    assert trial.curve == [[epoch, score] for epoch, score in enumerate(curve, start=1)]
    assert read_trial(job, 0) == (None if failed else trial), "what failed is still to run"


@pytest.mark.parametrize("bigger", [True, False])
def test_of_equal_epochs_a_trial_names_the_last_as_its_checkpoint_does(tmp_path, bigger):
    job = Job("IBIM", "data", {}, [{"n_layers": 1}], "ndcg@5", bigger, str(tmp_path))
    scores = (0.3, 0.3, 0.2 if bigger else 0.4)
    told = [
        {"epoch": epoch, "train_seconds": 1.0, "valid": {"ndcg@5": score, "hit@5": epoch / 10}}
        for epoch, score in enumerate(scores, start=-1)
    ]
    job.folder(0).mkdir(parents=True)
    (job.folder(0) / "history.json").write_text(json.dumps(told))
    trial = close_trial(job, 0, failed=False)
    assert (trial.best_epoch, trial.valid, trial.epochs) == (0, {"ndcg@5": 0.3, "hit@5": 0.0}, 2)


def test_of_equal_scores_the_earlier_trial_is_the_best():
    """The first one is the configuration as it stands."""
    for bigger in (True, False):
        job = Job("EIMF", "d", {}, [], "ndcg@5", bigger, "nowhere")
        trials = [Trial(n, "finished", {"gamma": n}, score=0.5) for n in range(3)]
        assert SearchOutcome(job, {}, {}, trials).best.number == 0


def test_a_trial_that_is_made_again_takes_its_own_place():
    found = SearchOutcome(Job("EIMF", "d", {}, [], "ndcg@5", True, "nowhere"), {}, {}, [])
    for number, status, score in ((1, "failed", None), (0, "finished", 0.2), (2, "finished", 0.3), (1, "stopped", 0.1)):
        found.add(Trial(number, status, {}, score=score))
    assert [(trial.number, trial.score) for trial in found.trials] == [(0, 0.2), (1, 0.1), (2, 0.3)]
    assert found.start == 0.2


def test_the_best_configuration_has_the_search_s_paths_and_other_keys_as_they_were_given():
    """A search makes paths absolute, and trains as long as it is told, without the test part."""
    asked = {"data_path": "/d", "knowledge_file": "/k", "epochs": 4, "skip_test": True}
    job = Job("EIMF", "d", asked, [], "ndcg@5", True, "nowhere")
    given = {"data_path": "d", "knowledge_file": "k", "epochs": 90, "gamma": 0.1, "seed": 1}
    found = SearchOutcome(job, {}, given, [Trial(0, "finished", {"gamma": 0.5}, score=1.0)])
    assert found.settings == {"data_path": "/d", "knowledge_file": "/k", "epochs": 90, "gamma": 0.5, "seed": 1}


def test_a_trial_that_goes_on_reports_the_epochs_it_had_first(tmp_path, monkeypatch):
    """By how many epochs it has trained, which is what a scheduler's rungs are counted in."""
    pytest.importorskip("ray")
    job = Job("IBIM", "data", {}, [{"n_layers": 1}], "ndcg@5", True, str(tmp_path))
    (tmp_path / SEARCH_FILE).write_text("{}")
    job.folder(0).mkdir(parents=True)
    history = [{"epoch": 0, "valid": {"ndcg@5": 0.3}}, {"epoch": 1}, {"epoch": 2, "valid": {"ndcg@5": 0.2}}]
    (job.folder(0) / "history.json").write_text(json.dumps(history))

    def trained(model, dataset, saved, report, **keys):
        assert keys["n_layers"] == 1
        for epoch, score in ((3, 0.5), (4, 0.4)):
            report(epoch, score)

    told = []
    monkeypatch.setattr("ray.tune.report", told.append)
    monkeypatch.setattr(importlib.import_module("recbole_eimf.experiment.run"), "run", trained)
    run_trial({"number": 0}, job, 0, 1)
    assert [(one["epoch"], one["score"]) for one in told] == [(1, 0.3), (3, 0.3), (4, 0.5), (5, 0.5)]


def test_a_search_trains_as_long_as_it_is_told_and_never_looks_at_the_test_part(keys, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setattr(
        tune, "_run_missing_trials", lambda found, epochs, grace, effort: (found.job.given, epochs, grace)
    )
    wanted = [(None, None, 4, 1), (20, None, 20, 5), (90, None, 90, 10), (20, 7, 20, 7)]
    for number, (limit, asked, epochs, grace) in enumerate(wanted):
        effort = tune.SearchEffort(max_epochs=limit, grace=asked)
        given, *found = tune.search("IBIM", "planted", f"out{number}", effort, **keys)
        assert (found, given["epochs"], given["skip_test"]) == ([epochs, grace], epochs, True)
    with pytest.raises(ConfigError, match="grace=9: epochs that every trial has, and a trial has 4 at most"):
        tune.search("IBIM", "planted", "out", tune.SearchEffort(grace=9), **keys)


def test_keys_that_share_a_sum_keep_it_in_what_a_search_begins_with():
    space = {"alpha": Dimension("uniform", (0.0, 0.5)), "beta": Dimension("rest", (0.5, "alpha"))}
    first = {"alpha": 0.4, "beta": 0.1}
    for given, second in (({"alpha": 0.05}, (0.05, 0.45)), ({"beta": 0.2}, (0.3, 0.2))):
        found = tune._second(given, space, first)
        assert (found["alpha"], found["beta"]) == pytest.approx(second)


def test_asha_is_as_strict_after_a_stop_as_before():
    """A trial is stopped at a rung by what trials of an earlier start scored there."""
    from types import SimpleNamespace

    from ray.tune.schedulers import ASHAScheduler

    def decision(replayed, grace=1):
        scheduler = ASHAScheduler("epoch", "score", "max", max_t=9, grace_period=grace, stop_last_trials=False)
        tune._replay(scheduler, replayed)
        weak = SimpleNamespace(trial_id="weak")
        scheduler.on_trial_add(None, weak)
        return scheduler.on_trial_result(None, weak, {"epoch": grace, "score": 0.1})

    assert decision([]) == "CONTINUE"
    assert decision([Trial(0, "finished", {}, curve=[[1, 0.5], [2, 0.6]])]) == "STOP"
    assert decision([Trial(0, "finished", {}, curve=[[1, 0.05], [2, 0.6]])]) == "CONTINUE"
    assert decision([Trial(0, "stopped", {}, curve=[[1, 0.5]])], grace=2) == "CONTINUE", "it never came to that rung"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--samples=0"], "--samples=0"),
        (["--cpus-per-trial=64", "--cpus=1", "--max-epochs=1"], "--cpus-per-trial=64: this machine offers 1 CPU"),
        (["--learning_rat=1"], "learning_rate"),
        (["--space=no.yaml"], "no.yaml"),
        (["--dataset=no-such"], "no-such.inter"),
        (["--eval_step=0"], "eval_step=0"),
        (["--ray_address=h:1", "--cpus=2"], "--cpus=2"),
        (["--space_file=foo.yaml"], "--space_file=foo.yaml: tune has no such option or key. Write --space=FILE"),
        (["--config_file_list=a.yaml"], "--config_file_list=a.yaml: tune has no such option or key. Write --config_f"),
        (["--effort=3"], "--effort=3: tune has no such option or key. Write --samples"),
    ],
)
def test_errors_come_before_any_trial(keys, arguments, told, capsys, tmp_path):
    named = [a.partition("=")[0] for a in arguments]
    base = [f"--{k}={v}" for k, v in {"model": "IBIM", "dataset": "planted", **keys}.items() if f"--{k}" not in named]
    assert main(["tune", *base, *arguments, "--out=out"]) == 2
    shown = capsys.readouterr().err
    assert told in shown
    assert "Traceback" not in shown
    assert not list(tmp_path.glob("out/trials/*"))


def test_no_key_that_is_typed_meets_a_parameter_of_the_search():
    parameters = inspect.signature(tune.search).parameters.values()
    named = {one.name for one in parameters if one.kind is not inspect.Parameter.VAR_KEYWORD}
    options, _ = command._parser().parse_known_args([])
    assert named - set(vars(options)) == set(command._INSTEAD)


def made_up(count: int) -> SearchOutcome:
    """Trials whose score depends on one setting alone."""
    space = {"learning_rate": Dimension("log", (1e-4, 1e-2)), "gamma": Dimension("uniform", (0, 1)),
             "item_text": Dimension("choice", ("none", "add"))}  # fmt: skip
    settings = [tune.draw_settings(space, count + 1, 0, {})[n + 1] for n in range(count)]
    job = Job("EIMF", "planted", {}, settings, "ndcg@5", True, "nowhere")
    return SearchOutcome(job, space, {}, [Trial(n, "finished", s, score=s["gamma"]) for n, s in enumerate(settings)])


def test_importance_finds_the_setting_that_matters(tmp_path):
    found = made_up(12)
    drops = {key: mean for key, (mean, _) in importance(found, found.trials).items()}
    assert drops["gamma"] > 10 * max(drops["learning_rate"], drops["item_text"])
    for trials in (found, made_up(2), made_up(1)):
        plot_search(trials, tmp_path / "plot.png")
        assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_the_best_trial_heeds_the_direction_and_skips_failures():
    found = made_up(6)
    assert found.best.settings["gamma"] == max(t.settings["gamma"] for t in found.trials)
    down = SearchOutcome(Job("EIMF", "d", {}, [], "loss", False, "nowhere"), found.space, {}, found.trials)
    assert down.best.settings["gamma"] == min(t.settings["gamma"] for t in found.trials)
    found.trials = [Trial(0, "failed", {}, score=9.0, error="ValueError: no")]
    assert found.best is None
    with pytest.raises(DataError, match="ValueError: no"):
        found.require_best()


# ---------------------------------------------------------------------- RecBole's own route
def _as_recbole_wrote_it(config, config_file_list):
    """RecBole's objective with our models registered but without the answer to its second report."""
    from recbole_eimf.experiment import plugin

    plugin.register()
    return getattr(plugin.objective_function, plugin._PATCHED)(config)


def _recbole_search(objective, keys, folder):
    from ray import tune as ray_tune
    from ray.tune.schedulers import ASHAScheduler

    config = {**keys, "model": "IBIM", "dataset": "planted", "epochs": 1, "show_progress": False, "state": "ERROR"}
    return ray_tune.run(
        ray_tune.with_parameters(objective, config_file_list=None),
        config={**config, "learning_rate": ray_tune.choice([0.01])},
        scheduler=ASHAScheduler(metric="recall@5", mode="max", max_t=10, grace_period=1, reduction_factor=2),
        storage_path=str(folder), resources_per_trial={"cpu": 1}, verbose=0,
    )  # fmt: skip


@pytest.mark.usefixtures("_ray")
def test_recboles_ray_objective_works_after_register(keys, tmp_path):
    from ray.tune import TuneError

    with pytest.raises(TuneError, match="did not include the specified metric"):
        _recbole_search(_as_recbole_wrote_it, keys, tmp_path / "before")
    plugin.register()
    from recbole.quick_start import objective_function

    found = _recbole_search(objective_function, keys, tmp_path / "after")
    best = found.get_best_trial("recall@5", "max", "last")
    assert 0 < best.last_result["recall@5"] <= 1


def test_recboles_objective_returns_its_dictionary_outside_ray(keys):
    """RecBole's HyperTuning (hyperopt) reads what the objective returns."""
    plugin.register()
    from recbole.quick_start import objective_function

    found = objective_function({**keys, "model": "IBIM", "dataset": "planted", "epochs": 1, "state": "ERROR"})
    assert found["valid_score_bigger"] is True
    assert found["best_valid_result"]["ndcg@5"] > 0


def test_a_failed_first_trial_does_not_hide_the_time_that_is_left(tmp_path, monkeypatch):
    """Nothing has finished: the limit of epochs tells, unless a trial was trained in phases."""
    pytest.importorskip("ray")
    from recbole_eimf.study.search import display

    monkeypatch.setattr(display.time, "time", lambda: 1000.0)
    job = Job("IBIM", "data", {}, [{"gamma": 0.1}] * 3, "ndcg@5", True, str(tmp_path))

    def trained(number: int, **more) -> None:
        folder = job.folder(number)
        folder.mkdir(parents=True, exist_ok=True)
        told = [{"epoch": e, "train_seconds": 20.0, **more} for e in range(3)]
        (folder / "history.json").write_text(json.dumps(told))
        os.utime(folder / "history.json", (1000.0, 1000.0))

    def one(number: int) -> SimpleNamespace:
        return SimpleNamespace(config={"number": number})

    with display.Display(job, [0, 1, 2], SearchOutcome(job, {}, {}, []), 9) as shown:
        for number in (0, 1):
            shown.on_trial_start(0, [], one(number))
            trained(number)
        shown.on_trial_error(0, [], one(0))
        found = display_estimate(shown)
        assert (found.how, found.left) == ("at most", pytest.approx(6 * 20 + 9 * 20))
    trained(0, phase="pretrain-id")
    with display.Display(job, [0, 1, 2], SearchOutcome(job, {}, {}, []), 9) as again:
        again.on_trial_start(0, [], one(1))
        again.on_trial_error(0, [], one(0))
        assert display_estimate(again).left is None


def test_a_search_tells_how_long_it_takes_by_the_trials_that_are_done(tmp_path, monkeypatch, capsys):
    """Phases of a trial count, which report no score: a trial of PAD is pre-trained for minutes."""
    pytest.importorskip("ray")
    from recbole_eimf.study.search import display

    clock = [1000.0]
    monkeypatch.setattr(display.time, "time", lambda: clock[0])
    job = Job("PAD", "data", {}, [{"gamma": 0.1}] * 4, "ndcg@5", True, str(tmp_path))
    found = SearchOutcome(job, {}, {}, [])

    def trained(number: int, phase: str, epochs: int, more=None) -> None:
        folder = job.folder(number) / phase
        folder.mkdir(parents=True, exist_ok=True)
        told = [{"epoch": e, "train_seconds": 2.0, "phase": phase, **(more or {})} for e in range(epochs)]
        (folder / "history.json").write_text(json.dumps(told))
        os.utime(folder / "history.json", (clock[0], clock[0]))

    def one(number: int) -> SimpleNamespace:
        return SimpleNamespace(config={"number": number})

    with display.Display(job, [0, 1, 2, 3], found, 9) as shown:
        shown.on_trial_start(0, [], one(0))
        trained(0, "pretrain-id", 5)
        words = shown._words(shown._look(), display_estimate(shown))
        assert words == "0 of 4 trials, time left: not known yet; trial 0 epoch 6"
        trained(0, "", 3, {"valid": {"ndcg@5": 0.25}})
        shown.on_trial_result(0, [], one(0), {"epoch": 3, "score": 0.25})
        clock[0] += 60
        shown.on_trial_complete(0, [], one(0))
        assert found.trials[0].seconds == pytest.approx(2.0 * 8)  # pre-training too
        shown.on_trial_start(0, [], one(1))
        words = shown._words(shown._look(), display_estimate(shown))
        assert words == "1 of 4 trials, about 3 min left; best ndcg@5 0.2500 (trial 0); trial 1 epoch 1 of at most 9"
        shown.on_trial_error(0, [], one(1))
    assert "1 of 4 trials, about 2 min left" in shown._words(shown._look(), display_estimate(shown))
    with display.Display(job, [1, 2, 3], found, 9) as again:  # after a stop: by the trial that was done before it
        words = again._words(again._look(), display_estimate(again))
    assert words == "1 of 4 trials, about 1 min left; best ndcg@5 0.2500 (trial 0)"
    written = capsys.readouterr()
    assert "trial 1 failed: the worker's process ended" in written.out
    assert "1 of 4 trials, about 2 min left; best ndcg@5 0.2500 (trial 0); 1 failed" in written.err


def display_estimate(shown):
    from recbole_eimf.study.progress import estimate_time_left

    return estimate_time_left(shown._look())


@pytest.mark.parametrize(
    ("said", "told"), [("Traceback\nOSError: x\n", "OSError: x"), ("", "was it out of memory, or the")]
)
def test_what_stopped_a_trial_is_told_even_where_the_disk_took_no_word_of_it(tmp_path, said, told):
    (tmp_path / "error.txt").write_text(said)
    assert told in _reason(tmp_path)
    (tmp_path / "error.txt").unlink()
    assert "was it out of memory" in _reason(tmp_path)
