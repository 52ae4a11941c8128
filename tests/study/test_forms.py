"""Every form of a table says what the others say, and gaps are told."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from recbole_eimf.core.errors import ConfigError
from recbole_eimf.study.report import report
from recbole_eimf.study.report.template import heading
from recbole_eimf.study.table import content, notes, table
from recbole_eimf.study.table.summary import Experiment, summarise
from tests.study.made import COMMAND, USERS, finish, gains, note_run, ranks_of, rows_of

pytestmark = pytest.mark.usefixtures("undrawn")


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
        assert "recbole_eimf 0.1.0, commits fedcba, 0123abc, torch 2.13.0" in text
    machine = table.machine(mixed)
    assert machine["made_with"] == [other, one]
    assert machine["rows"][3]["runs"][0]["runs_at_once"] == 3


def test_slices_of_other_bounds_than_those_asked_for_are_told(made):
    experiment, runs, _ = made
    asked = [replace(run, slice_bounds=(2,)) for run in runs]

    def made_with(run, bounds):
        file = run.folder / "result.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "config": {"slice_bounds": bounds}}))

    finished = [run for run in asked if run.finished]
    for run in finished:
        made_with(run, [2])
    for text in told_by_every_form(summarise(experiment, asked, [False])):
        assert "Slices have the bounds" not in text
    made_with(finished[-1], [1, 5])
    for text in told_by_every_form(summarise(experiment, asked, [False])):
        assert f"not slice_bounds=[2]: [1, 5] of {finished[-1].row.name}. Remove" in text


def test_versions_that_differ_in_their_commit_alone_are_said_once():
    one, other = ({"recbole_eimf": "0.1.0", "commit": commit, "torch": "2.13.0"} for commit in ("0123abc", "fedcba"))
    older = one | {"torch": "2.12.0"}
    bare = {"recbole_eimf": "0.1.0"}
    assert notes.versions_texts([one, older, other, bare, one]) == [
        "recbole_eimf 0.1.0, commits 0123abc, fedcba, torch 2.13.0",
        "recbole_eimf 0.1.0, commit 0123abc, torch 2.12.0",
        "recbole_eimf 0.1.0",
    ]


def test_a_heading_does_not_break_within_a_range():
    assert heading("history_1-5 (12 targets)") == '<span class="whole">history_1-5</span><br>(12 targets)'
    assert heading(">20 (3 targets)") == "&gt;20<br>(3 targets)"
    assert heading("validation NDCG@10") == "validation NDCG@10"


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
