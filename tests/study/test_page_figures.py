"""The page of a table: one file, with its figures, with and without scripts."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from recbole_eimf.study.report import arena_plot, plot, report
from recbole_eimf.study.rows import complete, parse_models
from recbole_eimf.study.runs import Run, trained_seconds
from recbole_eimf.study.standings import Standing, Standings
from recbole_eimf.study.table import table
from recbole_eimf.study.table.summary import Experiment, summarise
from tests.study.made import COMMAND, SETTINGS, USERS, finish


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


def test_names_in_the_figure_of_costs_stand_clear_of_each_other(monkeypatch):
    def row(name, rank, seconds=0.0):
        return Standing(name, rank, (rank,), ((1.0, None),), (None,), 10.0, seconds, 1.0, 0, not seconds, shown=name)

    found = [row("Markov", 3.0), row("TextKNN", 3.0), row("ItemKNN+text", 3.1), row("Popularity", 9.0)]
    found += [row("a name as long as EIMF placebo[SASRec]", 3.0, 900.0), row("SASRec", 2.0, 100.0)]
    drawn = []
    monkeypatch.setattr(arena_plot, "_svg", lambda figure: drawn.append(figure) or "<svg></svg>")
    arena_plot.cost(Standings("ndcg@10", found, ["t"], [1], None, 1.0))
    (axis,) = drawn[0].axes
    boxes = {text.get_text(): text.get_window_extent() for text in axis.texts}
    assert set(boxes) == {"Markov, TextKNN", "ItemKNN+text", "Popularity", found[4].name, "SASRec"}
    names = list(boxes)
    assert not [(one, other) for i, one in enumerate(names) for other in names[:i] if boxes[one].overlaps(boxes[other])]
    seconds = [tick.get_text() for tick in axis.get_xticklabels() if tick.get_text()]
    assert {"100", "200", "500"} <= set(seconds)


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


def test_phases_have_their_curves_where_a_model_was_trained_again(tmp_path):
    """The second training has phases of the same names, and no validation: it takes no curve's place."""
    row = parse_models("PAD")[0]
    run = Run(row, "d", 2020, tmp_path / "run", {}, SETTINGS)
    finish(run, [0] * USERS)
    told = {"losses": [1.0], "train_seconds": 2.0}
    for folder, phase, more in (
        ("pretrain-id", "pretrain-id", {"valid": {"recall@5": 0.1}}), ("", "finetune", {"valid": {"recall@5": 0.1}}),
        ("refit/pretrain-id", "pretrain-id", {}), ("refit", "finetune", {}),
    ):  # fmt: skip
        (run.folder / folder).mkdir(parents=True, exist_ok=True)
        epochs = [{"epoch": e, "phase": phase, **told, **more} for e in range(2)]
        (run.folder / folder / "history.json").write_text(json.dumps(epochs))
    assert [*run.histories()] == ["pretrain-id", "finetune", "refit/pretrain-id", "refit"]
    assert trained_seconds(run.folder) == 16.0
    drawn = plot.curves(summarise(Experiment("t", "d", [row], (2020,), {}, COMMAND), [run], [False]))
    assert [key.name for key in drawn.key] == ["PAD, pretrain-id", "PAD, finetune"]
    assert len(drawn.panels) == 2


@pytest.mark.parametrize(("step", "validated"), [(2, [2, 4]), (0, None)])
def test_curves_stand_at_their_epochs_whichever_are_validated(tmp_path, monkeypatch, step, validated):
    row = parse_models("SASRec")[0]
    run = Run(row, "d", 2020, tmp_path / "run", {}, SETTINGS)
    finish(run, [0] * USERS)
    valid = {"valid": {"recall@5": 0.1}}
    epochs = [{"epoch": e, "losses": [1.0], **(valid if step and (e + 1) % step == 0 else {})} for e in range(5)]
    (run.folder / "history.json").write_text(json.dumps(epochs))
    axes = []
    monkeypatch.setattr(plot, "_svg", lambda figure: axes.append(figure.axes[0]) or "<svg/>")
    plot.curves(summarise(Experiment("t", "d", [row], (2020,), {}, COMMAND), [run], [False]))
    places = [axis.lines[0].get_xdata().tolist() for axis in axes]
    assert places == [[1, 2, 3, 4, 5], *([validated] if validated else [])]


def test_a_placebo_can_be_told_from_what_it_stands_for(made):
    experiment, runs, _ = made
    look = plot.looks(summarise(experiment, runs, [False]).lines)
    assert len({(one.colour, one.hatch) for one in look.values()}) == len(look)
    assert look["placebo[SASRec]"].dash != look["EIMF[SASRec]"].dash
