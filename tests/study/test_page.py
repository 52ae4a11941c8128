"""What tables and pages say beyond their figures: every form of it, and the page in a real browser."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace

import pytest

from recbole_eimf.evaluator.ranks import RANKS_FILE
from recbole_eimf.study.report import plot, report
from recbole_eimf.study.rows import complete, parse_models
from recbole_eimf.study.runs import Run
from recbole_eimf.study.table import content, table
from recbole_eimf.study.table.summary import Experiment, summarise
from tests.browser import browser  # noqa: F401
from tests.study.made import COMMAND, SETTINGS, USERS, finish, note_run


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def changed(runs, **more) -> None:
    """Let the result of every finished run hold more."""
    for run in runs:
        if run.finished:
            path = run.folder / "result.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | more))


# ---------------------------------------------------------------------- every form
def test_the_csv_files_hold_every_difference_with_its_interval_and_every_slice(made):  # noqa: F811
    experiment, runs, _ = made
    summary = summarise(experiment, runs, [False])
    lines = read(table.comparisons_csv(summary))
    assert len(lines) == len(summary.views[0].comparisons)
    c = summary.views[0].found("EIMF[SASRec]", "placebo[SASRec]", "ndcg@5")
    row = next(x for x in lines if (x["model"], x["other"], x["metric"]) == (c.row, c.other, c.metric))
    told = [float(row[name]) for name in ("points", "relative", "low", "high", "p", "corrected_p")]
    ends = [100 * end for end in c.test.confidence_interval]
    assert told == pytest.approx([c.points, c.relative, *ends, c.test.p_value, c.adjusted])
    cold = next(x for x in read(table.slices_csv(summary)) if (x["model"], x["slice"]) == ("SASRec", "cold"))
    assert (cold["targets"], cold["mask_history"]) == ("4", "False")
    assert float(cold["ndcg@5"]) == pytest.approx(summary.slices["SASRec"]["cold"]["ndcg@5"])


def test_a_difference_that_is_not_tested_has_no_p(made):  # noqa: F811
    experiment, runs, _ = made
    for run in runs:
        if run.row.name == "SASRec":
            (run.folder / RANKS_FILE).unlink()
    row = read(table.comparisons_csv(summarise(experiment, runs, [False])))[0]
    assert row["points"] != ""
    assert [row[name] for name in ("low", "high", "p", "corrected_p")] == [""] * 4


def test_the_csv_of_rows_says_commit_order_and_coverage(made):  # noqa: F811
    experiment, runs, _ = made
    side = {"items": 12, "items_with_text": 10, "exemplars": 6, "exemplars_not_in_training": 2,
            "users_moved_to_nearest_exemplar": 31, "knowledge": {"items_known": 9, "items_with_text": 10}}  # fmt: skip
    for run in runs:
        run.settings["ties"] = "shuffle"
        if run.finished:
            note_run(run, made_with={"recbole_eimf": "0.2.0", "commit": "abc" if run.seed == 2020 else "def"})
        if run.row.name == "EIMF[SASRec]":
            changed([run], side_load=side | {"users_moved_to_nearest_exemplar": 31 + 2 * (run.seed - 2020)})
    summary = summarise(experiment, runs, [False])
    found = {row["model"]: row for row in read(table.as_csv(summary))}
    row = found["EIMF[SASRec]"]
    assert (row["ties"], row["commit"], found["DecayedItemKNN"]["commit"]) == ("shuffle", "abc def", "abc")
    names = ("items_with_text", "exemplars_not_in_training", "users_moved_to_nearest_exemplar", "knowledge.items_known")
    assert [row[name] for name in names] == ["10", "2", "32", "9"]
    assert "items an LLM knows" in table.markdown(summary)


def test_unseen_and_zero_are_one_column_in_every_form(made):  # noqa: F811
    experiment, runs, _ = made
    part = {"targets": 3, "users": 3, "ndcg@5": 0.125, "recall@5": 0.25}
    names = ["unseen", "cold", "0", "1-5"]
    changed(runs, slices=dict.fromkeys(names, part))
    summary = summarise(experiment, runs, [False])
    assert list(table.machine(summary)["slices"]["rows"]["SASRec"]) == ["unseen", "cold", "1-5"]
    assert {row["slice"] for row in read(table.slices_csv(summary))} == {"unseen", "cold", "1-5"}
    page = report.page(summary).replace("<br>", " ")
    for text in (table.markdown(summary), table.latex(summary), page):
        assert "unseen (3 targets)" in text
        assert not re.search(r"\b0 \(3 targets\)", text)
    changed(runs, slices={"0": part})  # alone it is what it is called
    assert list(table.machine(summarise(experiment, runs, [False]))["slices"]["rows"]["SASRec"]) == ["0"]


def test_a_slice_that_holds_every_target_is_no_column(made):  # noqa: F811
    experiment, runs, _ = made
    sizes = {"cold": 4, "tied": 2, "untied": 7, "new_user": 9, "repeat": 0}
    changed(runs, slices={name: {"targets": n, "recall@5": 0.5} for name, n in sizes.items()})
    summary = summarise(experiment, runs, [False])
    assert content.slice_names(summary) == [("cold", 4), ("tied", 2), ("untied", 7)]
    assert table.machine(summary)["slices"]["rows"]["SASRec"]["new_user"]["targets"] == 9


def test_a_table_says_where_unmasked_histories_are_ranked_for_nothing(made):  # noqa: F811
    experiment, runs, _ = made
    for repeats, told in ((0, True), (1, False)):
        sizes = {"tied": 40, "untied": 60, "repeat": repeats}
        changed(runs, slices={name: {"targets": n, "recall@5": 0.5} for name, n in sizes.items()})
        text = table.markdown(summarise(experiment, runs, [False]))
        assert ("0.0 % of the targets are repeats: mask_history=False ranks users' own histories" in text) == told
        assert f"{repeats}.0 % of the targets are repeats" in text


def test_a_table_says_how_many_targets_a_masked_history_misses(made):  # noqa: F811
    experiment, runs, _ = made
    sizes = {"tied": 400, "untied": 600, "repeat": 26}
    changed(runs, mask_history=True, slices={name: {"targets": n, "recall@5": 0.5} for name, n in sizes.items()})
    summary = summarise(experiment, runs, [True])
    for text in (table.markdown(summary), report.page(summary)):
        assert "2.6 % of the targets are repeats, which a masked history misses" in text


def test_a_shared_machine_stands_above_the_seconds(made):  # noqa: F811
    experiment, runs, _ = made
    assert "| s/epoch |" in table.markdown(summarise(experiment, runs, [False]))
    for run in runs:
        if run.finished:
            note_run(run, runs_at_once=2)
    summary = summarise(experiment, runs, [False])
    for text in (table.markdown(summary), table.latex(summary), report.page(summary)):
        assert text.count("s/epoch, shared machine") == 2  # the table and its runs


def test_means_over_fewer_seeds_are_named(made):  # noqa: F811
    experiment, runs, _ = made
    gone = next(run for run in runs if run.row.name == "placebo[SASRec]" and run.seed == 2021)
    (gone.folder / "result.json").unlink()
    told = "Means over fewer seeds than others': placebo[SASRec] 2020."
    assert told in table.markdown(summarise(experiment, runs, [False]))
    assert "DecayedItemKNN 2020" not in table.markdown(summarise(experiment, runs, [False]))


def test_replies_that_name_held_out_items_count_among_the_unused(made):  # noqa: F811
    experiment, runs, _ = made
    told = {"exemplars_not_in_training": 2, "replies_that_know_held_out_items": 5, "text_source": "noise"}
    changed(runs, side_load=told)
    grid = content.coverage(summarise(experiment, runs, [False]))
    found = dict(zip([c.title for c in grid.columns[1:]], [e.text for e in grid.rows[0].entries]))
    assert (found["replies unused"], found["of them naming held-out items"], found["text"]) == ("7", "5", "noise")


# ---------------------------------------------------------------------- figures
def test_floors_that_read_text_are_floors_in_the_table_too(tmp_path):
    rows = complete(parse_models("TextKNN,SASRec"))
    runs = [Run(row, "d", 2020, tmp_path / row.name, {}, SETTINGS) for row in rows]
    for run in runs:
        finish(run, [0] * USERS)
    summary = summarise(Experiment("t", "d", rows, (2020,), {}, COMMAND), runs, [False])
    kinds = {row.name: row.kind for row in content.main(summary, summary.views[0], summary.metrics).rows}
    assert kinds == {"Popularity": "floor", "Markov": "floor", "DecayedItemKNN": "floor", "TextKNN": "last-floor",
                     "SASRec": ""}  # fmt: skip


@pytest.mark.parametrize(("frame", "inner"), [("placebo", "PAD"), ("noise_text", "EIMF[SASRec]"),
                                              ("shuffled_history", "SASRec")])  # fmt: skip
def test_every_placebo_is_hatched(tmp_path, frame, inner):
    name = f"{frame}[{inner}]"
    rows = complete(parse_models(f"{inner},{name}"))
    runs = [Run(row, "d", 2020, tmp_path / str(n), {}, SETTINGS) for n, row in enumerate(rows)]
    look = plot.looks(summarise(Experiment("t", "d", rows, (2020,), {}, COMMAND), runs, [False]).lines)
    assert look[name].hatch
    assert look[name].dash != look[inner].dash


# ---------------------------------------------------------------------- in a browser
_SEEN = """
const seen = (e) => e.getClientRects().length > 0;
const heads = (id) => [...document.querySelectorAll(id + " th")].filter(seen).map((e) => e.textContent);
const over = [...document.querySelectorAll("body *")].filter((e) => seen(e) && !e.closest(".scroll, svg"));
return {
  differences: heads("#differences-1"),
  wide: over.filter((e) => e.getBoundingClientRect().right > innerWidth + 0.5).map((e) => e.outerHTML),
  scrolls: [...document.querySelectorAll(".scroll")].filter((e) => e.scrollWidth > e.clientWidth).length,
  used: document.querySelector("table").getBoundingClientRect().width / document.body.clientWidth,
};
"""


def test_the_page_uses_its_width_and_shows_the_tests_at_every_k(made, browser, tmp_path):  # noqa: F811
    experiment, runs, _ = made
    (tmp_path / "index.html").write_text(
        report.page(summarise(replace(experiment, metrics=("ndcg@5", "hit@5")), runs, [False])), encoding="utf-8"
    )
    window = browser(1280, 900)
    window.get((tmp_path / "index.html").as_uri())
    for width in (1280, 390):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        window.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        for k in ("1", "5", ""):
            window.find_element("css selector", f'#places button[value="{k}"]').click()
            found = window.execute_script(_SEEN)
            assert found["differences"] == ["points(relative)", "NDCG@5", "HR@5"]
            assert found["wide"] == []
            assert found["used"] > 0.8
            assert found["scrolls"] == 0 or width < 600, "nothing is wider than a window of that size"
