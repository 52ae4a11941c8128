"""Tables: every number against a slow count, every form says what the others say, gaps are told."""

from __future__ import annotations

import csv
import html
import io
import itertools
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from recbole_eimf.core.errors import ConfigError
from recbole_eimf.evaluator.ranks import Ranks
from recbole_eimf.evaluator.significance import PairedTest
from recbole_eimf.study.report import plot, report
from recbole_eimf.study.rows import complete, parse_models
from recbole_eimf.study.runs import OTHER_MASK, Run
from recbole_eimf.study.table import content, notes, table
from recbole_eimf.study.table.summary import Comparison, Experiment, Figure, View, summarise

USERS, DEPTH = 9, 5
SETTINGS = {"protocol": "user_split", "valid_metric": "Recall@5", "topk": [1, 5], "metrics": ["Recall", "Hit", "NDCG"]}
COMMAND = "python -m recbole_eimf compare --models 'SASRec,EIMF[SASRec]' & more"


def ranks_of(places) -> Ranks:
    """One target per user, at this place (-1: not found)."""
    places = np.asarray(places, dtype=np.int32)
    hits = (places[:, None] == np.arange(DEPTH)).astype(np.uint8)
    rows, items = np.arange(len(places)), np.arange(1, len(places) + 1)
    counts = np.where(rows < 4, 1, 9)
    slices = {"cold": (1, 3), "warm": (4, None), "unseen": (0, 0)}
    return Ranks(rows, hits, np.ones(len(places), np.int32), rows, items, places, counts, "same", slices)


def finish(run: Run, places, mask: bool = False, **more) -> None:
    """Leave what a finished run leaves."""
    ranks = ranks_of(places)
    test = {f"{kind}@{k}": ranks.mean(f"{kind}@{k}") for k in (1, 5) for kind in ("recall", "hit", "ndcg")}
    result = {"seed": run.seed, "test": test, "valid": {}, "mask_history": mask, "epochs": 3, "seconds_per_epoch": 0.5,
              "train_seconds": 1.5, "parameters": 1234, "slices": ranks.by_slice([1, 5]), **more}  # fmt: skip
    run.folder.mkdir(parents=True)
    ranks.write(run.folder)
    (run.folder / "result.json").write_text(json.dumps(result))
    history = [{"epoch": e, "losses": [3.0 - e, 1.0], "valid": {"recall@5": 0.1 * e}} for e in range(3)]
    (run.folder / "history.json").write_text(json.dumps(history))


@pytest.fixture
def made(tmp_path):
    """SASRec and the like with two seeds each, of random but different quality; Popularity never ran, Markov failed."""
    rng = np.random.default_rng(3)
    rows = complete(parse_models("SASRec,EIMF[SASRec],placebo[SASRec]"))
    runs, places = [], {}
    for seed in (2020, 2021):
        for row in rows:
            if row.counting and seed == 2021:
                continue
            source = row.keys.get("interest_source", "keywords")
            settings = {**SETTINGS, "backbone": row.keys.get("backbone"), "interest_source": source}
            runs.append(Run(row, "data_1", seed, tmp_path / row.name / str(seed), {}, settings))
            if row.name == "Markov":
                runs[-1].folder.mkdir(parents=True)
                (runs[-1].folder / "error.txt").write_text("MemoryError: 5 % of <it> & {more}\n\nTraceback ...")
            elif row.name != "Popularity":
                shift = 3 if row.name == "EIMF[SASRec]" else 0
                drawn = np.clip(rng.integers(-1 + shift, 8, USERS) - shift, -1, None)
                places[row.name, seed] = np.where(drawn >= DEPTH, -1, drawn)
                finish(runs[-1], places[row.name, seed], side_load={"llm_used": True, "clusters": 7})
    experiment = Experiment(
        "A title", "data_1", rows, (2020, 2021), {}, COMMAND, columns={"exemplars": "side_load.clusters"}
    )
    return experiment, runs, places


def gains(places, metric: str) -> np.ndarray:
    """Per user, from the place of the one target."""
    kind, k = metric.split("@")
    found = [0 <= place < int(k) for place in places]
    return np.array([(1 / np.log2(p + 2) if kind == "ndcg" else 1.0) if ok else 0.0 for p, ok in zip(places, found)])


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
    assert Comparison("a", "b", "ndcg@5", 10.0, None, test, adjusted).significant == sure


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


def test_a_framework_over_several_backbones_is_tested_over_all_of_them_together(tmp_path):
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


def test_rows_that_were_trained_again_are_named(made):
    experiment, runs, _ = made
    for number, run in enumerate(run for run in runs if run.finished):
        file = run.folder / "result.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"refit": {"epochs": 3}}))
        said = " ".join(notes.notes(summarise(experiment, runs, [False]), ("*", "+"), []))
        if number == 1:
            assert "**DecayedItemKNN, SASRec** (not the others): trained again on all before the test" in said
    assert "Rows were trained again" in said


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


def rows_of(markdown: str) -> list[list[str]]:
    lines = [line for line in markdown.split("\n\n")[2].split("\n") if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_every_form_tells_the_same_and_what_it_is_about(made):
    experiment, runs, places = made
    summary = summarise(experiment, runs, [False])
    markdown, tex, page = table.markdown(summary), table.latex(summary), report.page(summary)
    for text in (markdown, tex.replace(r"\_", "_").replace(r"\%", "%"), page):
        for fact in ("data_1", "user_split", "mask_history=False", "2020, 2021", "test, %"):
            assert fact in text
    rows = rows_of(markdown)
    assert len({len(row) for row in rows}) == 1
    by_name = {row[0]: row for row in rows}
    value = 100 * np.mean([gains(places["SASRec", seed], "hit@5").mean() for seed in (2020, 2021)])
    column = rows[0].index("HR@5")
    assert f"{value:.2f}" in by_name["SASRec"][column]
    assert by_name["SASRec"][rows[0].index("exemplars")] == "7"
    assert by_name["SASRec"][rows[0].index("parameters")] == "1,234"
    assert by_name["DecayedItemKNN"][rows[0].index("epochs")] == "–"  # nothing was trained
    read = {row["model"]: row for row in csv.DictReader(io.StringIO(table.as_csv(summary)))}
    assert float(read["SASRec"]["hit@5"]) == pytest.approx(value)
    assert read["Markov"]["hit@5"] == ""
    machine = json.loads(json.dumps(table.machine(summary)))
    assert machine["views"][0]["rows"]["SASRec"]["hit@5"]["mean"] == pytest.approx(value)
    assert machine["command"] == COMMAND
    assert machine["rows"][3]["settings"]["topk"] == [1, 5]
    body = tex[tex.index(r"\midrule") : tex.index(r"\bottomrule")]
    columns = {line.count(" & ") for line in body.split("\n") if " & " in line and "multicolumn" not in line}
    assert columns == {len(rows[0]) - 1}
    assert tex.count("{") - tex.count(r"\{") == tex.count("}") - tex.count(r"\}")


def test_what_failed_or_is_missing_is_told(made):
    experiment, runs, _ = made
    summary = summarise(experiment, runs, [False])
    markdown, tex, page = table.markdown(summary), table.latex(summary), report.page(summary)
    assert "| Markov | failed: MemoryError: 5 % of <it> & {more} |" in markdown
    assert "| Popularity | not run yet |" in markdown
    assert "**Incomplete:** 7 of 9 runs finished" in markdown
    assert r"failed: MemoryError: 5 \% of $<$it$>$ \& \{more\}" in tex
    assert "failed: MemoryError: 5 % of &lt;it&gt; &amp; {more}" in page
    assert {row["error"] for row in csv.DictReader(io.StringIO(table.as_csv(summary)))} == {
        "", "seed 2020: MemoryError: 5 % of <it> & {more}"
    }  # fmt: skip
    assert "NO LLM" not in markdown.upper()


def test_a_table_says_what_it_cannot_say(made):
    experiment, runs, _ = made
    alone = [run for run in runs if "placebo" not in run.row.name]
    rows = [row for row in experiment.rows if "placebo" not in row.name]
    kept = Experiment("t", "data_1", rows, (2020, 2021), {}, COMMAND)
    assert "EIMF over SASRec stands without its placebo" in table.markdown(summarise(kept, alone, [False]))
    assert "without its placebo" not in table.markdown(summarise(experiment, runs, [False]))
    path = next(run.folder for run in runs if run.row.name == "EIMF[SASRec]") / "result.json"
    path.write_text(path.read_text().replace('"llm_used": true', '"llm_used": false'))
    assert "no LLM was used" in table.markdown(summarise(experiment, runs, [False]))


def test_rows_are_called_what_they_are(made):
    """A paper's name without one of the paper's two parts says so, and of EIMF which form it is."""
    experiment, runs, _ = made
    plain = table.markdown(summarise(experiment, runs, [False]))
    assert "hard negatives" not in plain
    assert "form" not in plain.lower().replace("differ", "")
    for run in runs:
        if run.row.model in ("EIMF", "IBIM"):
            hard = 1.0 if run.row.name == "EIMF[SASRec]" else 0.0
            recipe = {"recipe": "paper" if hard else "strong"} if run.row.model == "EIMF" else {}
            run.settings.update(backbone="REMI", remi_beta=hard, **recipe)
    told = table.markdown(summarise(experiment, runs, [False]))
    assert "| SASRec, no hard negatives |" in told
    assert "| EIMF[SASRec] − SASRec, no hard negatives |" in told
    assert "| SASRec, no hard negatives | 2020 |" in told
    assert "| EIMF[SASRec] |" in told
    assert "The paper's form (recipe=paper): EIMF[SASRec]." in told
    assert "Our form, not the paper's (recipe=strong): placebo[SASRec]." in told
    assert "REMI without its hard negatives (remi_beta=0)" in told


def told_by_every_form(summary) -> tuple[str, str, str]:
    plain = table.latex(summary).replace(r"\_", "_").replace(r"\%", "%").replace("$-$", "−").replace("$<$", "<")
    page = html.unescape(re.sub(r"<[^>]*>", " ", report.page(summary)))
    return table.markdown(summary), plain, " ".join(page.split())


def test_every_form_tells_of_how_many_users_and_how_sure_it_is(made):
    experiment, runs, _ = made
    summary = summarise(experiment, runs, [False])
    c = summary.views[0].found("EIMF[SASRec]", "SASRec", "ndcg@5")
    low, high = (100 * end for end in c.test.confidence_interval)
    for text in told_by_every_form(summary):
        assert f"{USERS} test users with {USERS} targets" in text
        assert f"{low:+.2f} to {high:+.2f}" in text
        assert f"{c.points:+.2f}" in text
    markdown = table.markdown(summary)
    p, corrected = content.p_value(c.test.p_value), content.p_value(c.adjusted)
    line = f"{c.points:+.2f} | {c.relative:+.1f} | {low:+.2f} to {high:+.2f} | {p} | {corrected} |"
    assert f"| EIMF[SASRec] − SASRec | NDCG@5 | {line}" in markdown
    assert f"<small>p {html.escape(p)}, corrected {html.escape(corrected)}</small>" in report.page(summary)
    machine = table.machine(summary)["views"][0]
    assert machine["tested"]["SASRec"] == {"users": USERS, "targets": USERS, "identity": "same"}
    stored = next(one for one in machine["comparisons"] if (one["row"], one["metric"]) == (c.row, "ndcg@5"))
    assert stored["test"]["p_value"] == c.test.p_value
    assert stored["test"]["confidence_interval"] == c.test.confidence_interval


def test_every_form_holds_every_run_with_the_epoch_that_was_tested_and_why(made):
    experiment, runs, places = made
    for run in runs:
        if run.row.name == "SASRec":
            path = run.folder / "result.json"
            stored = json.loads(path.read_text()) | {"best_epoch": run.seed - 2020, "valid": {"recall@5": 0.125}}
            path.write_text(json.dumps(stored))
    summary = summarise(experiment, runs, [False])
    grid = content.runs(summary, summary.views[0], ["ndcg@5"])
    assert [column.title for column in grid.columns] == [
        "model", "seed", "NDCG@5", "validation Recall@5", "best epoch", "epochs", "s/epoch",
    ]  # fmt: skip
    value = {seed: 100 * gains(places["SASRec", seed], "ndcg@5").mean() for seed in (2020, 2021)}
    found = [[entry.text for entry in row.entries] for row in grid.rows if row.name == "SASRec"]
    assert found == [[str(s), f"{value[s]:.2f}", "12.50", str(s - 2019), "3", "0.50"] for s in (2020, 2021)]
    floor = next(row for row in grid.rows if row.name == "DecayedItemKNN")
    assert [entry.text for entry in floor.entries[-3:]] == ["–"] * 3
    for text in told_by_every_form(summary):
        assert re.search(r"SASRec\W+2021\W.*12\.50\W+2\W+3\W+0\.50", text)
    read = {row["model"]: row for row in csv.DictReader(io.StringIO(table.as_csv(summary)))}["SASRec"]
    assert [float(v) for v in read["ndcg@5_seeds"].split()] == pytest.approx(list(value.values()))
    assert (read["best_epoch"], read["valid_recall@5"], read["test_users"]) == ("0 1", "12.5 12.5", str(USERS))
    seeds = table.machine(summary)["views"][0]["rows"]["SASRec"]["ndcg@5"]["seeds"]
    assert seeds == pytest.approx(value)


def note_run(run: Run, **told) -> None:
    (run.folder / "run.json").write_text(json.dumps(told))


def test_commit_versions_and_a_shared_machine_are_told(made):
    experiment, runs, _ = made
    one, other = ({"recbole_eimf": "0.1.0", "commit": commit, "torch": "2.13.0"} for commit in ("0123abc", "fedcba"))
    trained = [run for run in runs if run.finished and not run.row.counting]
    for run in trained:
        note_run(run, made_with=one, runs_at_once=1, machine={"cores": 4, "load": 4.0})
    alone = summarise(experiment, runs, [False])
    for text in told_by_every_form(alone):
        assert "recbole_eimf 0.1.0, commit 0123abc, torch 2.13.0" in text
        assert "not to be compared" not in text
        assert "different versions" not in text
    note_run(trained[0], made_with=other, runs_at_once=3, machine={"cores": 4, "load": 10.0})
    mixed = summarise(experiment, runs, [False])
    for text in told_by_every_form(mixed):
        assert (
            "up to 3 runs shared a machine; the machine was busy (up to 2.5 processes wanted each of its cores)" in text
        )
        assert "Runs were made with different versions:" in text
    machine = table.machine(mixed)
    assert machine["made_with"] == [other, one]
    assert machine["rows"][3]["runs"][0]["runs_at_once"] == 3


def test_what_text_and_interests_reached_is_told(made):
    experiment, runs, _ = made
    for run in runs:
        if run.row.name == "EIMF[SASRec]":
            side = {
                "items": 12, "items_with_text": 10, "source": "file", "llm_used": True, "exemplars": 6,
                "exemplars_not_in_training": 2, "users_moved_to_nearest_exemplar": 31 + 2 * (run.seed - 2020),
                "training_users": 90, "training_users_with_interests": 88, "failed_replies": {"refused": 2, "cut": 1},
            }  # fmt: skip
            for file in run.folder.iterdir():
                file.unlink()
            run.folder.rmdir()
            finish(run, [0] * USERS, side_load=side)
    grid = content.coverage(summarise(experiment, runs, [False]))
    row = next(row for row in grid.rows if row.name == "EIMF[SASRec]")
    found = dict(zip([column.title for column in grid.columns[1:]], [entry.text for entry in row.entries]))
    assert found == {
        "interests": "file", "items with text": "10 of 12", "exemplars": "6", "replies unused": "2",
        "replies failed": "3", "users moved to the nearest exemplar": "32", "users with interests": "88 of 90",
    }  # fmt: skip


@pytest.mark.parametrize("targets", [1, 2])
def test_map_is_explained_where_users_have_several_targets(made, targets):
    experiment, runs, _ = made
    for run in runs:
        if run.finished:
            path = run.folder / "result.json"
            stored = json.loads(path.read_text())
            path.write_text(json.dumps(stored | {"test": {**stored["test"], "map@5": 0.1}}))
            if targets == 2:
                ranks = ranks_of([0] * USERS)
                twice = {name: np.repeat(getattr(ranks, name), 2) for name in vars(ranks) if name.startswith("target_")}
                replace(ranks, **twice).write(run.folder)
        run.settings["metrics"] = ["Recall", "Hit", "NDCG", "MAP"]
    shown = replace(experiment, metrics=("map@5", "ndcg@5"))
    for text in told_by_every_form(summarise(shown, runs, [False])):
        assert ("MAP@k is RecBole's" in text) == (targets == 2)
        assert "MAP@5" in text
    assert "MAP@k" not in table.markdown(summarise(replace(experiment, metrics=("ndcg@5",)), runs, [False]))


def test_targets_that_training_never_saw_are_one_column(made):
    experiment, runs, _ = made
    for run in runs:
        if run.finished:
            path = run.folder / "result.json"
            stored = json.loads(path.read_text())
            part = stored["slices"]["cold"]
            path.write_text(json.dumps(stored | {"slices": {"unseen": part, "cold": part, "0": part, "1-5": part}}))
    summary = summarise(experiment, runs, [False])
    assert [name for name, _ in content.slice_names(summary)] == ["unseen", "cold", "1-5"]


def test_metrics_that_nobody_computes_are_refused(made):
    experiment, runs, _ = made
    wanted = Experiment("t", "d", experiment.rows, (2020,), {}, COMMAND, metrics=("recal@5",))
    with pytest.raises(ConfigError, match="recal@5.*Did you mean 'recall@5'"):
        summarise(wanted, runs, [False])


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.ids, self.used, self.tags, self.links = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href"):
                self.links.append(value)
            self.used += re.findall(r"url\(#(.+?)\)", value or "")


def test_the_page_is_one_file_with_its_figures(made):
    experiment, runs, _ = made
    parsed = _Page()
    parsed.feed(report.page(summarise(experiment, runs, [False])))
    assert parsed.tags.count("svg") == 6 + 2 + 2  # bars of every metric, slices at every k, loss and validation
    assert len(parsed.ids) == len(set(parsed.ids))
    local = {link.removeprefix("#") for link in parsed.links}
    assert all(link.startswith("#") for link in parsed.links)
    assert local | set(parsed.used) <= set(parsed.ids)
    assert parsed.tags.count("script") == 1  # the page's own few lines: no src, as no link leads out
    assert "link" not in parsed.tags


def test_without_a_script_every_metric_is_there_to_read(made):
    experiment, runs, _ = made
    page = report.page(summarise(experiment, runs, [False]))
    assert re.search(r'<div id="places" [^>]*hidden>', page)  # the switch does nothing then
    assert "<body>" in page  # nothing is chosen: the rules that hide begin with .only-
    assert all(f'<th class="k k{k}">NDCG@{k}</th>' in page for k in (1, 5))


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
#: in a frame of a phone's width: what is wider than the frame and not in a box that scrolls, and what each button shows
LOOK = """
<iframe id="phone" width="390" height="800" srcdoc="{page}"></iframe><script>
phone.onload = () => {{
  const page = phone.contentDocument, found = {{shown: {{}}, wide: []}};
  const visible = (e) => e.getClientRects().length > 0;
  found.first = page.querySelector("[aria-pressed=true]").value;
  for (const button of page.querySelectorAll("#places button")) {{
    button.click();
    const heads = [...page.querySelectorAll("table.wide th.k")].filter(visible).map((e) => e.textContent);
    const figures = [...page.querySelectorAll("figure.k")].filter(visible).map((e) => e.getAttribute("aria-label"));
    found.shown[button.value] = {{heads, figures}};
    const outside = [...page.querySelectorAll("body *")].filter((e) => visible(e) && !e.closest(".scroll, svg"));
    found.wide.push(...outside.filter((e) => e.getBoundingClientRect().right > 390.5).map((e) => e.outerHTML));
    found.width = Math.max(found.width || 0, page.documentElement.scrollWidth);
  }}
  document.title = JSON.stringify(found);
}};
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="no chromium on the path: the page is not looked at in a browser")
def test_in_a_browser_the_switch_works_and_a_phone_is_wide_enough(made, tmp_path):
    experiment, runs, _ = made
    page = report.page(summarise(experiment, runs, [False]))
    file = tmp_path / "look.html"
    file.write_text(f"<!doctype html><meta charset=utf-8>{LOOK.format(page=html.escape(page))}", encoding="utf-8")
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
               "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000")  # fmt: skip
    asked = subprocess.run(
        [BROWSER, *options, "--dump-dom", file.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    found = json.loads(html.unescape(re.search(r"<title>(.+?)</title>", asked.stdout).group(1)))
    assert found["first"] == "5"  # the k that checkpoints are chosen by
    for k, places in (("1", [1]), ("5", [5]), ("", [1, 5])):
        names = [f"{kind}@{place}" for place in places for kind in ("Recall", "HR", "NDCG")]
        assert found["shown"][k]["heads"] == names
        assert found["shown"][k]["figures"] == [f"{name}, %" for name in names]
    assert found["wide"] == []
    assert found["width"] <= 390


def test_a_page_before_the_first_run_ended(made, tmp_path):
    experiment, runs, _ = made
    waiting = [Run(r.row, r.dataset, r.seed, tmp_path / "none" / r.label, {}, r.settings) for r in runs]
    summary = summarise(experiment, waiting, [False])
    assert "not run yet" in report.page(summary)
    assert "0 of 9 runs" in table.markdown(summary)
    assert plot.bars(summary, summary.views[0], summary.metrics) is None


def test_the_strongest_floor_is_the_darkest(made, tmp_path):
    experiment, runs, _ = made
    quality = {"Popularity": 2, "Markov": 0, "DecayedItemKNN": 1}  # the place of every target
    moved = [Run(r.row, r.dataset, r.seed, tmp_path / "floors" / r.label, {}, r.settings) for r in runs]
    for run in moved:
        finish(run, [quality.get(run.row.name, 3)] * (USERS - 2) + [-1] * (2 - (run.row.name == "Markov")))
    look = plot.looks(summarise(experiment, moved, [False]).lines)
    light = {row: sum(int(look[row].colour[i : i + 2], 16) for i in (1, 3, 5)) for row in quality}
    assert light["Markov"] < min(light["Popularity"], light["DecayedItemKNN"])


def test_floors_that_read_text_are_drawn_as_floors(tmp_path):
    rows = complete(parse_models("TextKNN,ItemKNN+text,SASRec"))
    runs = [Run(row, "d", 2020, tmp_path / row.name, {}, SETTINGS) for row in rows]
    places = {"ItemKNN+text": 0, "DecayedItemKNN": 1, "TextKNN": 2, "Markov": 3}
    for run in runs:
        finish(run, [places.get(run.row.name, 4)] * (USERS - 1) + [0 if run.row.name == "ItemKNN+text" else -1])
    look = plot.looks(summarise(Experiment("t", "d", rows, (2020,), {}, COMMAND), runs, [False]).lines)
    light = {row: sum(int(one.colour[i : i + 2], 16) for i in (1, 3, 5)) for row, one in look.items()}
    assert min(light, key=light.get) == "ItemKNN+text"
    assert len({light[row] for row in ("ItemKNN+text", "DecayedItemKNN", "TextKNN", "Markov", "Popularity")}) == 5
    assert look["SASRec"].colour == "#0072B2"


def test_phases_have_training_curves_also_without_a_last_one(tmp_path):
    row = parse_models("PAD")[0]
    run = Run(row, "d", 2020, tmp_path / "run", {}, SETTINGS)
    finish(run, [0] * USERS)
    (run.folder / "history.json").write_text(
        '[{"epoch": -1, "losses": [], "valid": {"recall@5": 0.2}, "phase": "last"}]'
    )
    for phase in ("pretrain-id", "align"):
        (run.folder / phase).mkdir()
        epochs = [{"epoch": e, "losses": [1.0], "valid": {"recall@5": 0.1}, "phase": phase} for e in range(2)]
        (run.folder / phase / "history.json").write_text(json.dumps(epochs))
    summary = summarise(Experiment("t", "d", [row], (2020,), {}, COMMAND), [run], [False])
    drawn = plot.curves(summary)
    assert [key.name for key in drawn.key] == ["PAD, pretrain-id", "PAD, align"]  # as they were trained
    assert "solid" in drawn.key[-1].style
    assert len({key.style for key in drawn.key}) == 2
    assert "PAD, align" in report.page(summary)


def test_a_placebo_can_be_told_from_what_it_stands_for(made):
    experiment, runs, _ = made
    look = plot.looks(summarise(experiment, runs, [False]).lines)
    assert len({(one.colour, one.hatch) for one in look.values()}) == len(look)
    assert look["placebo[SASRec]"].dash != look["EIMF[SASRec]"].dash
