"""Tables: every number against a slow count; what is tested against what, and what is told apart."""

from __future__ import annotations

import csv
import html
import io
import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from recbole_eimf.core.files import finite
from recbole_eimf.evaluator.significance import PairedTest
from recbole_eimf.study import compare
from recbole_eimf.study.report import report
from recbole_eimf.study.rows import Row, complete, parse_models
from recbole_eimf.study.runs import OTHER_MASK, Run
from recbole_eimf.study.table import comparisons, content, notes, table
from recbole_eimf.study.table.comparisons import Comparison
from recbole_eimf.study.table.summary import Experiment, Figure, Line, View, summarise
from tests.study.made import COMMAND, DEPTH, SETTINGS, USERS, finish, gains, ranks_of, rows_of


def test_metrics_of_scores_have_no_k():
    from recbole_eimf.study.table.summary import _is_value

    assert [_is_value(metric) for metric in ("AUC", "LogLoss", "NDCG", "Hit", "mine")] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_means_deviations_and_marks(made):
    experiment, runs, places = made
    summary = summarise(experiment, runs, [False])
    assert summary.metrics == ["recall@1", "hit@1", "ndcg@1", "recall@5", "hit@5", "ndcg@5"]
    figures = summary.views[0].figures
    assert set(figures) == {"DecayedItemKNN", "SASRec", "EIMF[SASRec]", "placebo[SASRec]"}
    for metric in ("recall@1", "ndcg@5"):
        for row in ("SASRec", "EIMF[SASRec]"):
            values = [100 * gains(places[row, seed], metric).mean() for seed in (2020, 2021)]
            assert figures[row][metric].mean == pytest.approx(np.mean(values))
            assert figures[row][metric].deviation == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    assert figures["DecayedItemKNN"]["hit@5"].deviation is None  # one run has no deviation
    ordered = sorted(figures, key=lambda row: -figures[row]["ndcg@5"].mean)
    assert summary.views[0].marks("ndcg@5") == {ordered[0]: "best", ordered[1]: "second"}


def test_equal_means_share_a_place(made):
    experiment, runs, _ = made
    for run in runs:
        if run.finished:
            for file in run.folder.iterdir():
                file.unlink()
            run.folder.rmdir()
            finish(run, [0] * 8 + [-1] if run.row.name != "SASRec" else [0] * 7 + [-1, -1])
    marks = summarise(experiment, runs, [False]).views[0].marks("recall@5")
    assert marks == {"DecayedItemKNN": "best", "EIMF[SASRec]": "best", "placebo[SASRec]": "best", "SASRec": "second"}


def test_means_that_a_sum_rounds_apart_share_a_place_and_no_others_do():
    figures = {name: {"hit@5": Figure(mean, None)} for name, mean in (("a", 0.1 + 0.2), ("b", 0.3), ("c", 0.29999))}
    assert View(True, True, figures, []).marks("hit@5") == {"a": "best", "b": "best", "c": "second"}


def exact_p(difference: np.ndarray) -> float:
    """Two-sided sign-flip p-value, by every assignment of signs."""
    every = [abs(np.dot(signs, difference)) for signs in itertools.product((1, -1), repeat=len(difference))]
    return float(np.mean([value >= abs(difference.sum()) - 1e-9 for value in every]))


def slow_holm(values: list[float]) -> list[float]:
    adjusted = [0.0] * len(values)
    running = 0.0
    for position, index in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        running = max(running, (len(values) - position) * values[index])
        adjusted[index] = min(running, 1.0)
    return adjusted


def test_improvement_and_significance_over_backbone_and_placebo(made):
    experiment, runs, places = made
    view = summarise(experiment, runs, [False]).views[0]
    asked = [("EIMF[SASRec]", "SASRec"), ("EIMF[SASRec]", "placebo[SASRec]"), ("placebo[SASRec]", "SASRec")]
    assert content.pairs(view) == asked
    assert len(view.comparisons) == 3 * 6
    means = {
        key: {row: np.mean([gains(places[row, seed], key) for seed in (2020, 2021)], axis=0) for row, _ in asked}
        | {row: np.mean([gains(places[row, seed], key) for seed in (2020, 2021)], axis=0) for _, row in asked}
        for key in ("recall@1", "hit@1", "ndcg@1", "recall@5", "hit@5", "ndcg@5")
    }
    p_values = [exact_p(means[c.metric][c.row] - means[c.metric][c.other]) for c in view.comparisons]
    for comparison, p, adjusted in zip(view.comparisons, p_values, slow_holm(p_values)):
        mine, theirs = means[comparison.metric][comparison.row], means[comparison.metric][comparison.other]
        assert comparison.points == pytest.approx(100 * (mine - theirs).mean())
        expected = 100 * (mine.mean() / theirs.mean() - 1) if theirs.mean() else None
        assert comparison.relative == pytest.approx(expected)
        assert comparison.test.p_value == pytest.approx(p, abs=1e-9)
        assert comparison.adjusted == pytest.approx(adjusted, abs=1e-9)
        assert comparison.significant == (adjusted < 0.05)


@pytest.mark.parametrize(("adjusted", "sure"), [(0.049, True), (0.05, False), (0.09, False), (None, False)])
def test_a_difference_is_significant_by_its_corrected_p_value(adjusted, sure):
    test = PairedTest(0.1, 0.001, (0.05, 0.15), 9)
    for points in (10.0, -10.0):  # a loss is as sure
        compared = Comparison("a", "b", "ndcg@5", points, None, test, adjusted)
        assert compared.significant == sure
        assert content._difference(compared).sure is (None if adjusted is None else sure)
        line = Line(Row("a", "IBIM", against=("b",)), [])
        assert content._signs(View(True, True, {}, [compared]), line, "ndcg@5") == (0,) * sure


def test_means_that_a_table_prints_apart_share_no_place():
    figures = {row: {"ndcg@5": Figure(mean, None)} for row, mean in {"a": 9.96, "b": 10.04, "c": 10.01}.items()}
    assert View(True, True, figures, []).marks("ndcg@5") == {"b": "best", "c": "second"}


def test_a_table_shows_the_ends_of_the_list_or_the_two_deepest_ks(made):
    experiment, runs, _ = made
    for run in runs:
        run.settings["topk"] = [1, 3, 5, 10]
    found = {}
    for protocol in ("leave_one_out", "user_split"):
        for run in runs:
            run.settings["protocol"] = protocol
        found[protocol] = summarise(experiment, runs, [False]).metrics
    assert found["leave_one_out"] == ["hit@1", "ndcg@1", "hit@10", "ndcg@10"]
    assert found["user_split"] == [f"{kind}@{k}" for k in (5, 10) for kind in ("recall", "hit", "ndcg")]


def test_the_improvement_is_over_the_first_other_row_in_the_metric_of_the_checkpoints(made):
    experiment, runs, places = made
    summary = summarise(experiment, runs, [False])
    assert summary.main == "recall@5"
    assert summarise(replace(experiment, metrics=("ndcg@5",)), runs, [False]).main == "ndcg@5"
    grid = content.main(summary, summary.views[0], summary.metrics)
    title = "Recall@5 over base, %"
    column = [column.title for column in grid.columns].index(title) - 1
    cells = {row.name: row.entries[column].text for row in grid.rows if row.entries}
    mean = {row: np.mean([gains(places[row, seed], "recall@5").mean() for seed in (2020, 2021)])
            for row in ("SASRec", "EIMF[SASRec]", "placebo[SASRec]")}  # fmt: skip
    assert cells["EIMF[SASRec]"] == f"{100 * (mean['EIMF[SASRec]'] / mean['SASRec'] - 1):+.1f}"
    assert mean["SASRec"] != mean["placebo[SASRec]"]
    assert cells["SASRec"] == ""


def test_what_is_averaged_are_numbers_that_every_seed_has(made):
    experiment, runs, _ = made
    run = next(run for run in runs if run.row.name == "EIMF[SASRec]" and run.seed == 2021)
    path = run.folder / "result.json"
    stored = json.loads(path.read_text())
    del stored["test"]["ndcg@1"]
    path.write_text(json.dumps({**stored, "epochs": 8}))
    summary = summarise(experiment, runs, [False])
    figures = summary.views[0].figures
    assert "ndcg@1" not in figures["EIMF[SASRec]"]
    assert "ndcg@1" in figures["SASRec"]
    line = next(line for line in summary.lines if line.row.name == "EIMF[SASRec]")
    assert (line.mean_of("epochs"), line.mean_of("side_load.clusters")) == (5.5, 7)
    assert line.mean_of("side_load.llm_used") is None


def test_a_run_that_was_made_again_is_tested_again(made):
    experiment, runs, places = made
    asked = ("EIMF[SASRec]", "SASRec", "recall@5")
    before = summarise(experiment, runs, [False]).views[0].found(*asked).test
    for run in runs:
        if run.row.name == "EIMF[SASRec]":
            ranks_of([0] * USERS).write(run.folder)
    after = summarise(experiment, runs, [False]).views[0].found(*asked).test
    theirs = np.mean([gains(places["SASRec", seed], "recall@5") for seed in (2020, 2021)], axis=0)
    assert after.difference == pytest.approx(1 - theirs.mean())
    assert after.difference != before.difference


def test_a_framework_over_several_backbones_is_tested_over_all_of_them_together(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(comparisons, "flips_for", lambda tests, level: told.append(tests) or 10_000)
    rng, places, runs = np.random.default_rng(5), {}, []
    rows = complete(parse_models("SASRec,EIMF[SASRec],GRU4Rec,EIMF[GRU4Rec],placebo[GRU4Rec]"))
    for row, seed in itertools.product(rows, (2020, 2021)):
        if not row.floor and not (row.name == "EIMF[GRU4Rec]" and seed == 2021):  # one run is not there yet
            runs.append(Run(row, "d", seed, tmp_path / row.name / str(seed), {}, {**SETTINGS, "interest_source": "x"}))
            places.setdefault(row.name, []).append(rng.integers(-1, 6, USERS))
            finish(runs[-1], np.where(places[row.name][-1] >= DEPTH, -1, places[row.name][-1]))
    view = summarise(Experiment("t", "d", rows, (2020, 2021), {}, COMMAND), runs, [False]).views[0]
    pooled = [c for c in view.comparisons if " backbones" in c.row]
    assert {(c.row, c.other) for c in pooled} == {("EIMF over 2 backbones", "their backbones")}
    assert len(pooled) == 6
    of = lambda row, metric: np.mean([gains(p, metric) for p in places[row]], axis=0)  # noqa: E731
    for comparison in pooled:
        mine = (of("EIMF[SASRec]", comparison.metric) + of("EIMF[GRU4Rec]", comparison.metric)) / 2
        theirs = (of("SASRec", comparison.metric) + of("GRU4Rec", comparison.metric)) / 2
        assert comparison.points == pytest.approx(100 * (mine - theirs).mean())
        assert comparison.relative == pytest.approx(100 * (mine.mean() / theirs.mean() - 1))
        assert comparison.test.p_value == pytest.approx(exact_p(mine - theirs), abs=1e-9)
        assert comparison.adjusted >= comparison.test.p_value
    p_values = [c.test.p_value for c in view.comparisons]
    assert [c.adjusted for c in view.comparisons] == pytest.approx(slow_holm(p_values))
    assert told == [len(p_values)], "all of these are corrected for"


def test_controls_of_another_backbone_are_not_taken_together():
    ask = lambda row, other: comparisons._Question(row, other, [(row, other)], "ndcg@5")  # noqa: E731
    crossed = [ask("EIMF[A]", "placebo[B]"), ask("EIMF[B]", "placebo[A]"), ask("EIMF[A]", "B"), ask("EIMF[B]", "A")]
    assert comparisons._pooled(crossed) == []
    (found,) = comparisons._pooled([ask("EIMF[A]", "placebo[A]"), ask("EIMF[B]", "placebo[B]"), *crossed])
    assert found[:3] == (
        "EIMF over 2 backbones",
        "placebo over them",
        [("EIMF[A]", "placebo[A]"), ("EIMF[B]", "placebo[B]")],
    )


def test_a_table_of_many_tests_refines_its_smallest_p_values(made, monkeypatch):
    experiment, runs, _ = made
    told, passed, tested = [], [], comparisons.paired_test
    monkeypatch.setattr(comparisons, "flips_for", lambda tests, level: told.append((tests, level)) or 10_000 + tests)
    monkeypatch.setattr(comparisons, "paired_test", lambda *a, flips, **k: passed.append(flips) or tested(*a, **k))
    summarise(experiment, runs, [False])
    assert told == [(1, 0.05)], "runs are still to come: the next page is soon"
    told.clear()
    passed.clear()
    view = summarise(experiment, [run for run in runs if run.finished or run.error()], [False]).views[0]
    assert told == [(len(view.comparisons), 0.05)]
    assert passed == [10_000 + len(view.comparisons)] * len(view.comparisons)


def test_a_row_that_read_a_file_of_shuffled_replies_is_called_a_placebo(made):
    experiment, runs, _ = made
    for source in ("file", "shuffled file"):
        mine = [run for run in runs if run.row.name == "EIMF[SASRec]"]
        for run in mine:
            path = run.folder / "result.json"
            side = {"source": source, "llm_used": True, "items": 3, "items_with_text": 3}
            path.write_text(json.dumps({**json.loads(path.read_text()), "side_load": side}))
        summary = summarise(experiment, runs, [False])
        line = next(line for line in summary.lines if line.row.name == "EIMF[SASRec]")
        shuffled = source != "file"
        assert line.placebo == shuffled
        assert line.shown == "EIMF[SASRec]" + " (placebo)" * shuffled


def test_a_table_among_drawn_items_does_not_say_that_all_were_ranked(made):
    experiment, runs, _ = made
    for mode, said in (("full", "all items ranked"), ("pop9", "each target ranked among 9 items drawn by popularity")):
        for run in runs:
            run.settings["eval_args"] = {"mode": {"valid": mode, "test": mode}}
        summary = summarise(experiment, runs, [False])
        for form in (table.markdown(summary), table.latex(summary), report.page(summary)):
            assert said in form
            assert ("all items ranked" in form) == (mode == "full")


def test_rows_that_were_trained_again_are_named(made):
    experiment, runs, _ = made
    for number, run in enumerate(run for run in runs if run.finished):
        file = run.folder / "result.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"refit": {"epochs": 3}}))
        said = " ".join(notes.notes(summarise(experiment, runs, [False]), ("*", "+"), []))
        if number == 1:
            assert "**DecayedItemKNN, SASRec** (not the others): trained again on all before the test" in said
    assert "Rows were trained again" in said


def test_a_table_under_one_time_for_all_says_which_targets_which_dates_and_how_old_its_models_are(made):
    experiment, runs, _ = made

    def said():
        summary = summarise(experiment, runs, [False])
        return notes.facts(summary, summary.views[0]), " ".join(notes.notes(summary, ("*", "+"), []))

    age = "**Measures the age of models too:**"
    assert "time_target" not in said()[0]
    assert age not in said()[1]
    for run in runs:
        run.settings.update(protocol="global_time", time_target="first", time_quantiles=[0.8, 0.9], refit=False)
    assert "; time_target=first (the first later item), training up to 80 %, test after 90 % of all" in said()[0]
    assert f"{age} the test begins where validation ends" in said()[1]
    for run in runs:
        if run.finished:
            file = run.folder / "result.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | {"borders": ["2014-03-07", "2014-05-13"]}))
    facts, told = said()
    assert "training up to 2014-03-07, test after 2014-05-13, not trained again before the test (refit=False)" in facts
    assert f"{age} the test begins 67 days after training ends" in told
    assert "--refit=True" in told
    page = report.page(summarise(experiment, runs, [False]))
    assert "training up to 2014-03-07, test after 2014-05-13" in page
    for run in runs:
        run.settings["refit"] = True
    facts, told = said()
    assert "trained again on all before the test (refit=True)" in facts
    assert age not in told
    runs[0].settings["time_target"] = "all"
    assert "; rows differ: time_target=all" in said()[0]


def test_floors_that_forget_stand_in_tables_under_one_time_for_all_alone():
    plain = ["Popularity", "Markov", "DecayedItemKNN"]
    for protocol in (None, "leave_one_out", "user_split"):
        assert [row.name for row in complete(parse_models("SASRec"), protocol=protocol)] == [*plain, "SASRec"]
    rows = complete(parse_models("SASRec"), protocol="global_time")
    assert [row.name for row in rows] == [*plain, *(f"{name}, recent" for name in plain), "SASRec"]
    assert [dict(row.keys) for row in rows[3:6]] == [{"recency_half_life": "chosen"}] * 3
    assert all(row.floor and row.counting for row in rows[:6])
    assert not Row("mine", "Popularity", {"recency_half_life": 7}).floor
    assert Line(Row("TextKNN", "TextKNN"), []).floor
    assert not Line(Row("mine", "TextKNN", {"knn_decay": 0.5}), []).floor
    assert [row.name for row in complete(parse_models("SASRec"), False, "global_time")] == ["SASRec"]
    mine = Row("SASRec", "IBIM", {"backbone": "SASRec"}, ("Popularity, recent",))
    assert complete([mine], protocol="global_time")[-1].against == ("Popularity, recent",)
    assert complete([mine])[-1].against == (), "not under every protocol"
    made = compare.experiment_of(parse_models("SASRec"), "d", {"protocol": "global_time"}, "c")
    assert "Markov, recent" in [row.name for row in made.rows]


def test_a_table_says_which_half_lives_were_chosen(made):
    experiment, runs, _ = made
    run = next(run for run in runs if run.row.name == "DecayedItemKNN")
    file, said = run.folder / "result.json", []
    for days in (7.0, None):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"chosen": {"recency_half_life": days}}))
        said.append(" ".join(notes.notes(summarise(experiment, runs, [False]), ("*", "+"), [])))
    assert "(recency_half_life=chosen): DecayedItemKNN: 7 days." in said[0]
    assert "(recency_half_life=chosen): DecayedItemKNN: none." in said[1]


def test_recall_is_left_out_where_each_row_has_one_target_for_it_is_the_hit_rate(made):
    experiment, runs, _ = made
    for run in runs:
        run.settings.update(protocol="global_time", time_target="successive", ties="shuffle")
    summary = summarise(experiment, runs, [False])
    assert summary.metrics == ["hit@1", "ndcg@1", "hit@5", "ndcg@5"]
    assert len(summary.views[0].comparisons) == 3 * 4, "one question is not tested twice"
    assert summary.main == "hit@5", "the same figures as recall@5, which chose the checkpoints"
    asked = replace(experiment, metrics=("recall@5", "hit@5"))
    assert summarise(asked, runs, [False]).metrics == ["recall@5", "hit@5"], "who asks for it has it"
    every = [f"{kind}@{k}" for k in (1, 5) for kind in ("recall", "hit", "ndcg")]
    for several in ({"time_target": "all"}, {"ties": "together"}):
        runs[0].settings.update(several)
        assert summarise(experiment, runs, [False]).metrics == every
        runs[0].settings.update(time_target="successive", ties="shuffle")
    runs[0].settings.update(protocol="leave_one_out", time_target="all")  # which only global_time reads
    assert summarise(experiment, runs, [False]).metrics == ["hit@1", "ndcg@1", "hit@5", "ndcg@5"]
    runs[0].settings.update(ties="together")  # the items of a user's last time are targets together
    assert summarise(experiment, runs, [False]).metrics == every
    runs[0].settings.update(ties="shuffle")
    for run in runs:
        run.settings["metrics"] = ["Recall", "NDCG"]
    assert summarise(experiment, runs, [False]).metrics == ["recall@1", "ndcg@1", "recall@5", "ndcg@5"]


def test_users_who_are_asked_several_times_are_tested_as_one_each(made):
    experiment, runs, places = made
    user = np.array([4, 4, 4, 4, 6, 6, 7, 7, 8])
    for run in runs:
        if run.finished:
            replace(ranks_of(places[run.row.name, run.seed]), user=user).write(run.folder)
    summary = summarise(experiment, runs, [False])
    view = summary.views[0]
    of = lambda row, metric: np.mean([gains(places[row, seed], metric) for seed in (2020, 2021)], axis=0)  # noqa: E731
    for comparison in view.comparisons:
        apart = of(comparison.row, comparison.metric) - of(comparison.other, comparison.metric)
        sums = np.array([apart[user == name].sum() for name in (4, 6, 7, 8)])
        assert comparison.test.p_value == pytest.approx(exact_p(sums), abs=1e-9)
        assert (comparison.points, comparison.test.users) == (pytest.approx(100 * apart.mean()), 4)
    for text in (table.markdown(summary), table.latex(summary), report.page(summary)):
        assert "4 test users asked 9 times with 9 targets" in text
        assert "a user's rows together" in html.unescape(text)
    assert ("times asked", "9") in report._about(summary)
    told = {row["model"]: row for row in csv.DictReader(io.StringIO(table.as_csv(summary)))}["SASRec"]
    assert (told["test_users"], told["test_targets"]) == ("4", "9")


def test_a_clear_difference_is_marked_in_every_form(made, tmp_path):
    experiment, runs, _ = made
    moved = [Run(r.row, r.dataset, r.seed, tmp_path / "clear" / r.label, {}, r.settings) for r in runs]
    for run in moved:
        if not run.row.floor:
            finish(run, [0] * USERS if run.row.name == "EIMF[SASRec]" else [4] * USERS)
    shown = Experiment("t", "d", experiment.rows, (2020, 2021), {}, COMMAND, metrics=("ndcg@5",))
    summary = summarise(shown, moved, [False])
    best = next(c for c in summary.views[0].comparisons if c.row == "EIMF[SASRec]")
    assert best.adjusted == pytest.approx(3 * 2 / 2**USERS)
    by_name = {row[0]: row for row in rows_of(table.markdown(summary))}
    assert by_name["EIMF[SASRec]"][1] == r"**100.00 ± 0.00**\*†"
    assert by_name["placebo[SASRec]"][1] == "<u>38.69 ± 0.00</u>"
    assert r"\textbf{100.00 $\pm$ 0.00}$^*$$^\dagger$" in table.latex(summary)
    assert "<b>100.00 ± 0.00</b><sup>*</sup><sup>†</sup>" in report.page(summary)


def test_runs_of_other_users_are_not_paired(made):
    experiment, runs, _ = made
    run = next(run for run in runs if run.row.name == "SASRec")
    ranks = ranks_of([0] * USERS)
    object.__setattr__(ranks, "identity", "others")
    ranks.write(run.folder)
    view = summarise(experiment, runs, [False]).views[0]
    tested = {(c.row, c.other): c.test is not None for c in view.comparisons}
    assert tested[("EIMF[SASRec]", "SASRec")] is False
    assert tested[("EIMF[SASRec]", "placebo[SASRec]")] is True


def test_slices_are_means_over_seeds(made):
    experiment, runs, places = made
    found = summarise(experiment, runs, [False]).slices["EIMF[SASRec]"]
    cold = [100 * gains(places["EIMF[SASRec]", seed], "ndcg@5")[:4].mean() for seed in (2020, 2021)]
    assert found["cold"]["targets"] == 4
    assert found["cold"]["ndcg@5"] == pytest.approx(np.mean(cold), abs=1e-3)


def test_slices_that_hold_nobody_or_everybody_are_no_columns(made):
    experiment, runs, _ = made
    sizes = {"tied": 3, "untied": 6, "cold": 4, "0": 2, "none": 0, "all": 9}
    for run in runs:
        if run.finished:
            path = run.folder / "result.json"
            stored = json.loads(path.read_text())
            parts = {name: {"targets": size, "recall@5": size / 10} for name, size in sizes.items()}
            path.write_text(json.dumps(stored | {"slices": parts}))
    summary = summarise(experiment, runs, [False])
    assert content.slice_names(summary) == [("tied", 3), ("untied", 6), ("cold", 4), ("0", 2)]
    assert content.slice_metric(summary) == "recall@5"
    grid = content.slices(summary, "recall@5")
    assert [entry.text for entry in grid.rows[0].entries] == ["30.00", "60.00", "40.00", "20.00"]


def test_every_form_of_a_table_says_which_targets_a_slice_holds(made):
    experiment, runs, _ = made
    names = ("unseen", "cold", "median", "warm", "1-5", ">20", "tied", "untied", "history_1-5", "history_>20", "none")
    parts = {name: {"targets": name != "none", "recall@5": 0.5} for name in names} | {"seen": {"targets": 8}}
    parts["untied"]["targets"] = 8
    for run in runs:
        if run.finished:
            stored = json.loads((run.folder / "result.json").read_text())
            (run.folder / "result.json").write_text(json.dumps(stored | {"slices": parts}))
    summary = summarise(experiment, runs, [False])
    thirds = "rare to frequent in training, a third of its interactions each"
    assert content.slices_said(summary) == [
        ("unseen", "no training interaction"), ("cold, median, warm", thirds),
        ("1-5, >20", "so many training interactions"), ("tied", "the time of the item before it"),
        ("untied", "another time than the item before it"),
        ("history_1-5, history_>20", "the user had so many events before"), ("seen", "all but the unseen"),
    ]  # fmt: skip
    folder = runs[0].folder.parents[2]
    table.write(summary, folder)
    report.write(summary, folder)
    assert f"\n- cold, median, warm: {thirds}\n" in (folder / "table.md").read_text()
    assert f"\n% cold, median, warm: {thirds}\n" in (folder / "table.tex").read_text()
    assert f"<i>cold, median, warm</i>: {thirds}; <i>1-5, &gt;20</i>: so" in (folder / "index.html").read_text()


def test_both_ways_to_treat_history_are_two_tables(made):
    experiment, runs, _ = made
    run = next(run for run in runs if run.row.name == "EIMF[SASRec]")
    other = run.folder / OTHER_MASK
    ranks_of([0] * USERS).write(other)
    (other / "metrics.json").write_text(json.dumps({"recall@5": 1.0}))
    summary = summarise(experiment, runs, [False, True])
    first, second = summary.views
    assert (first.mask_history, first.chosen, second.mask_history, second.chosen) == (False, True, True, False)
    assert second.figures["EIMF[SASRec]"]["recall@5"].mean == 100
    assert first.figures["EIMF[SASRec]"]["recall@5"].mean < 100
    text = table.markdown(summary)
    assert "history not masked (mask_history=False)" in text
    assert "history masked (mask_history=True)" in text


def test_of_one_user_there_is_no_interval_and_json_stays_json():
    """An infinite one is no word of JSON, and none for people."""
    assert finite({"a": [float("nan"), 1.0], "b": (float("inf"), None)}) == {"a": [None, 1.0], "b": [None, None]}
    alone = PairedTest(0.1, 1.0, (-float("inf"), float("inf")), 1)
    assert content._interval(Comparison("a", "b", "ndcg@10", 10.0, 1.0, alone)) == content.EMPTY
