"""The bar of compare: what is left is told in seconds of training, against planted folders and clocks."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace

import pytest

from recbole_eimf.study import progress
from recbole_eimf.study.progress import Reading, estimate_time_left
from recbole_eimf.study.rows import parse_model
from recbole_eimf.study.runs import Run

FLOORS = [Reading(name, name, True, "done", seconds=1.0) for name in ("Popularity", "Markov", "DecayedItemKNN")]


def waiting(row: str, seed: int = 2020, limit: int | None = 100) -> Reading:
    return Reading(f"{row}/{seed}", row, False, "waiting", limit=limit)


def running(row: str, epochs: float, pace: float, limit: int | None = 100) -> Reading:
    return Reading(f"{row}/2020", row, False, "running", epochs, limit, pace)


def test_floors_of_a_second_say_nothing_about_training():
    found = estimate_time_left([*FLOORS, waiting("SASRec"), waiting("EIMF")])
    assert (found.left, found.share) == (None, 0.0)
    found = estimate_time_left([*FLOORS, running("SASRec", 10, 6.0), waiting("SASRec", 2021)])
    assert found.left == pytest.approx(90 * 6.0 + 100 * 6.0)  # 19 minutes, not the 2 s that two more floors would take
    assert found.share == pytest.approx((3 + 60) / (3 + 1200))
    assert found.how == "at most"  # early stopping


def test_finished_runs_of_a_row_count_more_than_the_epochs_it_may_have():
    done = Reading("SASRec/2020", "SASRec", False, "done", seconds=100.0)
    found = estimate_time_left([*FLOORS, done, running("SASRec", 20, 2.0), waiting("EIMF")])
    assert found.left == pytest.approx((100 - 40) + 100)  # of EIMF nothing is known but what SASRec takes
    assert found.how == "about"
    slower = running("SASRec", 20, 9.0)  # than the finished one, of which 30 epochs were enough
    assert estimate_time_left([replace(done, epochs=30.0), slower]).left == pytest.approx(10 * 9.0)
    assert estimate_time_left(
        [*FLOORS, done, waiting("SASRec", 2021), waiting("SASRec", 2022)], 2
    ).left == pytest.approx(100)
    # two workers, but one run is left: it takes its own time
    assert estimate_time_left([*FLOORS, done, waiting("SASRec", 2021)], 2).left == pytest.approx(100)


def test_rows_of_which_nothing_is_known_are_bounded_as_those_they_are_judged_by():
    found = estimate_time_left([*FLOORS, running("SASRec", 10, 6.0), waiting("EIMF")])
    assert (found.left, found.how) == (pytest.approx(90 * 6.0 + 100 * 6.0), "at most")
    phased = running("PAD", 100, 60.0, limit=None)  # has taken longer than SASRec may, and nobody knows its end
    assert estimate_time_left([running("SASRec", 10, 6.0), phased]).how == "about"


def test_another_row_that_stopped_early_tells_how_many_epochs_to_expect():
    done = Reading("SASRec/2020", "SASRec", False, "done", epochs=20.0, seconds=100.0)
    found = estimate_time_left([*FLOORS, done, running("EIMF", 5, 6.0), waiting("EIMF", 2021)])
    assert (found.left, found.how) == (pytest.approx(15 * 6.0 + 20 * 6.0), "about")  # not 95
    assert estimate_time_left([done, running("EIMF", 30, 6.0)]).left == pytest.approx(6.0)  # past SASRec: one more
    assert estimate_time_left([done, running("EIMF", 5, 6.0, limit=10)]).left == pytest.approx(5 * 6.0)


def test_a_run_that_takes_longer_than_expected_is_nearly_done_and_phases_have_no_limit():
    done = Reading("SASRec/2020", "SASRec", False, "done", seconds=100.0)
    late = estimate_time_left([done, running("SASRec", 70, 2.0)])
    assert late.left == pytest.approx(0.02 * 71 * 2)
    assert late.share < 1
    phased = estimate_time_left([done, running("PAD", 30, 2.0, limit=None)])
    assert (phased.how, phased.left) == ("at least", pytest.approx(40))


def test_nobody_knows_how_long_a_run_goes_on_that_took_longer_than_all_that_is_known():
    done, late = Reading("SASRec/2020", "SASRec", False, "done", seconds=100.0), running("PAD", 100, 2.0, limit=None)
    found = estimate_time_left([done, late])
    assert (found.left, found.share) == (None, pytest.approx(300 / 500))  # taken to be half done
    assert progress.progress_in_words([done, late], found).startswith(
        "1 of 2 runs, time left: not known yet; PAD/2020 epoch 101"
    )
    waits = estimate_time_left([done, late, waiting("SASRec", 2021)])  # what is known is not kept back
    assert (waits.left, waits.how) == (pytest.approx(100), "at least")


def test_all_made_and_failed_runs_take_no_time():
    failed = Reading("EIMF/2020", "EIMF", False, "failed")
    found = estimate_time_left([*FLOORS, failed])
    assert (found.share, found.left) == (1.0, 0.0)
    assert progress.progress_in_words([*FLOORS, failed], found) == "3 of 4 runs, all made; 1 failed"


@pytest.fixture
def run(tmp_path):
    return Run(parse_model("SASRec"), "planted", 7, tmp_path, {}, {"epochs": 200})


def plant(folder, epochs: int, at: float, **more):
    folder.mkdir(exist_ok=True)
    history = [{"epoch": e, "train_seconds": 3.0, "valid_seconds": 1.0, **more} for e in range(epochs)]
    path = folder / "history.json"
    path.write_text(json.dumps(history))
    os.utime(path, (at, at))


def test_a_run_moves_within_an_epoch(run, tmp_path):
    assert progress.read(run, False, 0.0).state == "waiting"
    (tmp_path / "running").touch()
    assert progress.read(run, False, 0.0) == Reading("SASRec/7", "SASRec", False, "running", limit=200)
    plant(tmp_path, 6, at=1000.0)
    read = [progress.read(run, False, now) for now in (1000.0, 1002.0, 1100.0)]
    assert [one.epochs for one in read] == pytest.approx([6.0, 6.5, 6.98])
    assert (read[0].pace, read[0].limit) == (4.0, 200)
    found = estimate_time_left(read[1:2])
    assert found.left == pytest.approx(193.5 * 4)
    words = progress.progress_in_words(read[1:2], found)
    assert words == "0 of 1 runs, at most 13 min left; SASRec/7 epoch 7 of at most 200"


def test_a_second_training_has_as_many_epochs_as_the_first_one_chose(tmp_path):
    """With refit a run is not half done when validation has stopped it, nor is the rest unknown."""
    settings = {"epochs": 20, "refit": True, "valid_metric": "NDCG@10", "valid_metric_bigger": True}
    run = Run(parse_model("SASRec"), "planted", 7, tmp_path, {}, settings)
    waits = progress.read(run, False, 0.0)
    (tmp_path / "running").touch()
    plant(tmp_path, 5, at=1000.0)
    history = json.loads((tmp_path / "history.json").read_text())
    for epoch, score in zip(history, (0.1, 0.2, 0.4, 0.3, 0.3)):
        epoch["valid"] = {"ndcg@10": score}
    (tmp_path / "history.json").write_text(json.dumps(history))
    os.utime(tmp_path / "history.json", (1000.0, 1000.0))
    first = progress.read(run, False, 1000.0)
    assert (waits.again, first.limit, first.again, first.total) == (20, 20, 20, None)
    assert (estimate_time_left([first]).how, estimate_time_left([first]).left) == (
        "at most",
        pytest.approx((40 - 5) * 4.0),
    )
    assert progress.progress_in_words([first], estimate_time_left([first])).endswith("SASRec/7 epoch 6 of at most 20")

    plant(tmp_path / "refit", 2, at=1010.0)
    second = progress.read(run, False, 1010.0)
    assert (second.epochs, second.total) == (7.0, 5 + 3)
    assert (estimate_time_left([second]).how, estimate_time_left([second]).left) == ("about", pytest.approx(1 * 4.0))
    assert progress.progress_in_words([second], estimate_time_left([second])).endswith(
        "SASRec/7 epoch 8 of 8, trained again"
    )

    (tmp_path / "result.json").write_text('{"train_seconds": 5.0, "epochs": 5, "refit": {"epochs": 3}}')
    assert progress.read(run, False, 0.0).epochs == 8


def test_the_epochs_of_every_phase_count(tmp_path):
    run = Run(parse_model("PAD"), "planted", 7, tmp_path, {}, {"epochs": 200})
    (tmp_path / "running").touch()
    plant(tmp_path / "pretrain-id", 50, 5.0, phase="pretrain-id")
    (tmp_path / "pretrain-id" / "best.safetensors").touch()  # without a state: taken from another run
    plant(tmp_path / "align-aligned", 3, 10.0, phase="align-aligned")
    for name in ("best.safetensors", "last.safetensors"):
        (tmp_path / "align-aligned" / name).touch()
    (tmp_path / "history.json").write_text(json.dumps([{"epoch": -1, "train_seconds": 0.0, "phase": "finetune"}]))
    os.utime(tmp_path / "history.json", (20.0, 20.0))
    found = progress.read(run, False, 20.0)
    assert (found.epochs, found.limit) == (
        3.0,
        None,
    )  # neither those of another run nor the evaluation before fine-tuning


def test_a_finished_run_says_what_it_took(run, tmp_path):
    (tmp_path / "result.json").write_text('{"train_seconds": 5.0, "epochs": 3}')
    assert progress.read(run, False, 0.0).seconds == 5.0  # made by an older version
    (tmp_path / "run.json").write_text('{"seconds": 9.5}')
    assert progress.read(run, False, 0.0) == Reading("SASRec/7", "SASRec", False, "done", 3, seconds=9.5)


def test_the_bar_moves_while_a_run_lasts(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_IN_FILE", 0.01)
    monkeypatch.setattr(progress, "_ON_TERMINAL", 0.01)
    told, looks = threading.Event(), iter(range(3))

    def read(one, failed, now):
        if next(looks, None) is None:  # the first look is the bar's own, the others nobody asked for
            told.set()
        return Reading("a", "a", False, "waiting")

    monkeypatch.setattr(progress, "read", read)
    with progress.progress_bar([run], 0) as tell:
        assert told.wait(20)
        tell(run, "the disk is full")
    assert "failed: SASRec/7: the disk is full" in capsys.readouterr().out


def test_what_waits_for_a_row_that_is_trained_in_phases_is_not_known_by_the_limit_of_one():
    phased = Reading("PAD/2020", "PAD", False, "running", epochs=30, pace=2.0)
    assert estimate_time_left([phased, waiting("PAD", 2021, limit=10)]).left is None
    done = Reading("SASRec/2020", "SASRec", False, "done", epochs=20.0, seconds=100.0)
    found = estimate_time_left([done, phased, waiting("PAD", 2021, limit=10)])
    assert (found.how, found.left) == ("at least", pytest.approx(40 + 100, abs=5))
