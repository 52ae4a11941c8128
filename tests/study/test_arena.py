"""The arena: standings against scipy and Demšar's numbers, and a page that is made from the tables' files alone."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import f, friedmanchisquare, rankdata

from recbole_eimf.__main__ import main as command_line
from recbole_eimf.cli.study import main as run_command
from recbole_eimf.config.contract import contract_of
from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.experiment.result import _best
from recbole_eimf.study import arena, compare
from recbole_eimf.study.joined import by_method
from recbole_eimf.study.rows import complete
from recbole_eimf.study.runs import configured
from recbole_eimf.study.search.space import shipped_space, text_ways
from recbole_eimf.study.standings import by_backbone, critical_difference, friedman, rank_within, standings
from recbole_eimf.study.study import chosen, find_study, read_study
from recbole_eimf.study.table.notes import BARE_REMI, SHARED
from recbole_eimf.study.table.summary import Figure, View
from tests.conftest import TITLES, planted_sequences, write_atomic


def table(dataset, figures, protocol="leave_one_out", comparisons=(), side_load=None):
    """What ``results.json`` says of rows whose seeds found ``figures``."""
    rows = {
        name: {"ndcg@10": {"seeds": dict(zip(("2020", "2021", "2022"), values))}} for name, values in figures.items()
    }
    runs = {name: [run(name, seed, side_load) for seed in range(len(values))] for name, values in figures.items()}
    view = {"mask_history": True, "rows": rows, "tested": {}, "comparisons": list(comparisons)}
    entries = [
        {"name": name, "model": name.partition("[")[0], "runs": runs[name], "settings": {"ties": "shuffle"}}
        for name in figures
    ]
    return {"dataset": dataset, "protocol": protocol, "views": [view], "rows": entries, "finished": 1, "planned": 2}


def run(name, seed, side_load):
    side = side_load if name.startswith("EIMF[") else None
    cost = {"parameters": 100, "train_seconds": 2.0 + seed, "seconds_per_epoch": 0.5}
    return {**cost, "seed": seed, "side_load": side}


def test_the_page_says_what_targets_a_table_under_one_time_for_all_has():
    made = table("a", {"SASRec": [1.0]}, "global_time")
    made["rows"][0]["settings"] |= {"time_target": "last", "refit": True}
    made["rows"][0]["runs"][0]["borders"] = ["2014-03-07", "2014-05-13"]
    said = arena._facts(made, 1)
    assert "time_target=last" in said
    assert "training up to 2014-03-07, test after 2014-05-13, trained again on all before the test" in said
    assert "time_target" not in arena._facts(table("a", {"SASRec": [1.0]}), 1)
    assert "drawn" not in said
    made["rows"][0]["settings"]["eval_args"] = {"mode": {"valid": "uni9", "test": "uni9"}}
    assert "each target ranked among 9 items drawn uniformly (uni9), which is no evidence" in arena._facts(made, 1)


def test_demsars_critical_differences():
    """Table 5a of Demšar (2006): q of 2 to 10 classifiers, times sqrt(k (k + 1) / (6 N))."""
    quantiles = {2: 1.960, 3: 2.343, 4: 2.569, 5: 2.728, 6: 2.850, 7: 2.949, 8: 3.031, 9: 3.102, 10: 3.164}
    for rows, quantile in quantiles.items():
        expected = quantile * np.sqrt(rows * (rows + 1) / (6 * 14))
        assert critical_difference(rows, 14) == pytest.approx(expected, rel=1e-3)


def test_friedmans_test_is_scipys_and_imans():
    values = np.random.default_rng(0).random((8, 5)) + np.arange(5) * 0.1
    ranks = np.stack([rankdata(-row) for row in values])
    assert ranks.tolist() == [rank_within(row) for row in values.tolist()]
    chi = friedmanchisquare(*values.T).statistic
    expected = f.sf(7 * chi / (8 * 4 - chi), 4, 28)
    assert friedman(ranks) == pytest.approx(float(expected))
    assert friedman(ranks[:1]) is None, "one table tells nothing"
    assert friedman(ranks[:, :1]) is None, "nor does one row"
    two = friedmanchisquare(*values[:2].T).statistic
    wins = 5  # of eight tables, between two rows: chi is that of a sign test
    pair = np.array([[1.0, 2.0]] * wins + [[2.0, 1.0]] * (8 - wins))
    chi = (2 * wins - 8) ** 2 / 8
    assert friedman(pair) == pytest.approx(float(f.sf(7 * chi / (8 - chi), 1, 7)))
    assert friedman(ranks[:2]) == pytest.approx(float(f.sf(two / (2 * 4 - two), 4, 4)))


@pytest.mark.parametrize("table", [(1.0, 2.0), (1.0, 2.0, 3.0), (1.5, 1.5, 3.0), (1.0, 2.0, 3.0, 4.0), (2.0, 2.0, 2.0)])
@pytest.mark.parametrize("tables", [2, 3])
def test_where_all_tables_agree_the_p_value_is_that_of_every_order_counted(table, tables):
    orders = list(itertools.permutations(table))
    agreeing = sum(1 for drawn in itertools.product(orders, repeat=tables) if len(set(drawn)) == 1)
    assert friedman(np.tile(table, (tables, 1))) == pytest.approx(agreeing / len(orders) ** tables)
    assert friedman(np.tile([1.0, 2.0], (2, 1))) == pytest.approx(1 / 2)
    assert friedman(np.tile([1.0, 2.0, 3.0], (2, 1))) == pytest.approx(1 / 6)


def test_where_one_table_has_ties_the_p_value_is_the_share_of_orders_that_agree_as_much():
    tables = [(1.5, 1.5, 3.0), (1.0, 2.0, 3.0), (1.0, 2.0, 3.0)]
    drawn = itertools.product(*({*itertools.permutations(table)} for table in tables))
    apart = np.array([np.square(np.sum(ranks, axis=0) - 6).sum() for ranks in drawn])
    assert friedman(np.array(tables)) == pytest.approx((apart > apart.max() - 1e-9).mean())


def test_friedmans_test_corrects_for_ties_and_ranks_means_over_seeds_anew():
    values = np.random.default_rng(1).integers(0, 3, (9, 4)).astype(float)
    ranks = np.stack([rankdata(-row) for row in values])
    chi = friedmanchisquare(*values.T).statistic  # scipy's corrects for ties
    expected = f.sf(8 * chi / (9 * 3 - chi), 3, 24)
    assert friedman(ranks) == pytest.approx(float(expected))
    means = 2.5 + (ranks - 2.5) / 3  # in the same order, but nearer to each other, as means over seeds are
    means += np.random.default_rng(2).choice([-1, 1], means.shape) * 1e-13  # and equal but for rounding
    assert friedman(means) == pytest.approx(float(expected))


def test_no_outcome_is_rarer_than_that_all_tables_agree():
    for tables in (10, 30):
        agree = np.tile([1.0, 2.0], (tables, 1))
        nearly = np.r_[agree[1:], [[2.0, 1.0]]]
        assert friedman(agree) == pytest.approx(2.0 ** (1 - tables))
        assert friedman(nearly) >= friedman(agree)


def test_ranks_are_means_over_seeds_then_over_tables():
    first = table("a", {"Popularity": [1.0], "SASRec": [3.0, 3.0], "EIMF[SASRec]": [2.0, 4.0]})
    second = table("b", {"Popularity": [5.0], "SASRec": [3.0], "EIMF[SASRec]": [4.0], "late": [9.0]})
    found = standings([first, second], "ndcg@10")
    assert found.tables == ["a, leave_one_out", "b, leave_one_out"]
    assert found.seeds == [2, 1]
    by_name = {row.name: row for row in found.rows}
    assert by_name["EIMF[SASRec]"].ranks == (1.5, 2.0)
    assert by_name["SASRec"].ranks == (1.5, 3.0)
    assert by_name["Popularity"].ranks == (3.0, 1.0)  # one run, which counts for every seed
    assert [row.name for row in found.rows] == ["EIMF[SASRec]", "Popularity", "SASRec"]
    assert found.left_out == {"late": "no such row in a, leave_one_out, 9.00 in b, leave_one_out"}
    assert by_name["EIMF[SASRec]"].figures[0] == pytest.approx((3.0, 2**0.5))
    assert by_name["Popularity"].floor
    assert not by_name["SASRec"].floor
    assert found.alike() == [(0, 2)]  # two tables tell nobody apart


def of_seeds(dataset, figures, **more):
    """A table whose rows have figures for seeds of their own."""
    made = table(dataset, {name: list(seeds.values()) for name, seeds in figures.items()}, **more)
    for name, seeds in figures.items():
        made["views"][0]["rows"][name]["ndcg@10"]["seeds"] = {str(seed): value for seed, value in seeds.items()}
    return made


def test_where_less_is_better_the_smallest_is_first():
    made = table("a", {"wide": [0.3, 0.3, 0.4], "narrow": [0.7, 0.8, 0.9]})
    for figures in made["views"][0]["rows"].values():
        figures["giniindex@10"] = figures["ndcg@10"]
    assert [row.name for row in standings([made], "giniindex@10").rows] == ["wide", "narrow"]
    assert [row.name for row in standings([made], "ndcg@10").rows] == ["narrow", "wide"]
    figures = {"wide": {"giniindex@10": Figure(52.0, 1.0)}, "narrow": {"giniindex@10": Figure(71.0, 1.0)}}
    assert View(True, True, figures, []).marks("giniindex@10") == {"wide": "best", "narrow": "second"}
    assert (_best("giniindex@10", [0.7, 0.5]), _best("ndcg@10", [0.7, 0.5]), _best("rmse", [2.0, 1.0])) == (0.5, 0.7, 1)


def test_a_trained_row_of_one_seed_is_ranked_by_that_seed_alone():
    made = of_seeds("a", {"A": {2020: 3.0, 2021: 1.0, 2022: 1.0}, "B": {2020: 2.0}, "Popularity": {2020: 2.5}})
    found = standings([made], "ndcg@10")
    assert [(row.name, row.rank) for row in found.rows] == [("A", 1.0), ("Popularity", 2.0), ("B", 3.0)]
    assert found.seeds == [1]
    made = of_seeds("a", {"A": {2020: 3.0, 2021: 1.0}, "B": {2020: 2.0, 2021: 2.0}, "own": {2020: 2.5}})
    assert standings([made], "ndcg@10").seeds == [1]
    made["rows"][2]["counting"] = True  # one run stands for every seed
    found = standings([made], "ndcg@10")
    assert (found.seeds, {row.name: row.ranks for row in found.rows}) == (
        [2], {"A": (2.0,), "B": (2.5,), "own": (1.5,)}
    )  # fmt: skip
    assert {row.name: row.floor for row in found.rows} == {"A": False, "B": False, "own": True}


def test_rows_that_share_no_seed_are_not_ranked():
    first = of_seeds("a", {"A": {2021: 3.0, 2022: 1.0}, "B": {2021: 2.0}, "C": {2020: 9.0}, "Popularity": {2020: 1.0}})
    second = of_seeds("b", {"A": {2020: 3.0}, "B": {2020: 2.0}, "C": {2020: 9.0}, "Popularity": {2020: 1.0}})
    found = standings([first, second], "ndcg@10")
    assert [row.name for row in found.rows] == ["A", "B", "Popularity"]
    assert found.left_out == {"C": "shares no seed with the other rows in a, leave_one_out: has 2020"}
    assert found.seeds == [1, 1]
    evenly = of_seeds("a", {"A": {10: 3.0}, "B": {9: 2.0}, "C": {9: 4.0, 10: 1.0}})
    found = standings([evenly], "ndcg@10")
    assert ([row.name for row in found.rows], list(found.left_out)) == (["C", "B"], ["A"]), "the smallest seed of two"
    apart = of_seeds("a", {"A": {2021: 3.0}, "B": {2020: 2.0}})
    with pytest.raises(DataError, match="fewer than two rows"):
        standings([apart], "ndcg@10")
    floors = table("a", {"Popularity": [1.0], "Markov": [2.0]})
    assert [row.rank for row in standings([floors], "ndcg@10").rows] == [1.0, 2.0]


def test_what_a_row_costs_is_a_mean_and_rows_of_one_rank_stand_by_name():
    figures = {"b": [1.0, 2.0, 5.0], "a": [1.0, 1.0, 6.0], "c": [0.0, 0.0, 9.0]}
    found = standings([table("x", figures), table("y", figures)], "ndcg@10")
    ranks = {"a": (1.5 + 2 + 2) / 3, "b": (1.5 + 1 + 3) / 3, "c": (3 + 3 + 1) / 3}
    assert [(row.name, row.rank) for row in found.rows] == [(name, pytest.approx(ranks[name])) for name in "abc"]
    assert {(row.parameters, row.seconds, row.epoch) for row in found.rows} == {(100, 3.0, 0.5)}
    unfinished = table("x", figures)
    unfinished["views"][0]["rows"]["c"]["ndcg@10"]["seeds"]["2021"] = None
    assert standings([unfinished], "ndcg@10").left_out == {"c": "no figure yet in x, leave_one_out"}


def test_rows_that_are_not_told_apart_are_joined_in_longest_runs():
    figures = {name: [float(value)] for name, value in zip("abcd", (4, 3, 2, 1))}
    found = standings([table(str(n), figures) for n in range(9)], "ndcg@10")
    assert [row.rank for row in found.rows] == [1.0, 2.0, 3.0, 4.0]
    assert found.difference == pytest.approx(2.569 * (20 / 54) ** 0.5, rel=1e-3)  # 1.563
    assert found.alike() == [(0, 1), (1, 2), (2, 3)]
    assert found.p_value == pytest.approx(math.factorial(4) ** -8)
    for difference, runs in ((1.0, []), (1.001, [(0, 1), (1, 2), (2, 3)]), (2.5, [(0, 2), (1, 3)]), (9.0, [(0, 3)])):
        assert dataclasses.replace(found, difference=difference).alike() == runs
    uneven = [dataclasses.replace(row, rank=rank) for row, rank in zip(found.rows, (1.0, 2.0, 2.5, 3.0))]
    assert dataclasses.replace(found, rows=uneven, difference=1.1).alike() == [(0, 1), (1, 3)], "no run within a run"


def test_gains_and_llm_calls_are_the_tables_own():
    told = {"row": "EIMF[SASRec]", "other": "SASRec", "metric": "ndcg@10", "relative": 12.5, "adjusted": 0.01}
    figures = {"SASRec": [1.0], "EIMF[SASRec]": [2.0]}
    side = {"llm_used": True, "exemplars": 158}
    made = [table("a", figures, comparisons=[told], side_load=side), table("b", figures, side_load=side)]
    best = standings(made, "ndcg@10").rows[0]
    assert (best.gains[0].relative, best.gains[0].p_value, best.gains[1]) == (12.5, 0.01, None)
    assert best.calls == 316
    both = {"llm_used": True, "exemplars": 158, "knowledge": {"items_known": 7}}
    assert standings([table("a", figures, side_load=both)], "ndcg@10").rows[0].calls == 165
    made = [table("a", figures, side_load={"llm_used": False, "exemplars": 158})]
    assert standings(made, "ndcg@10").rows[0].calls == 0, "keywords are no calls"
    with pytest.raises(DataError, match="fewer than two rows"):
        standings([table("a", {"SASRec": [1.0]})], "ndcg@10")


def test_a_gain_in_a_metric_that_was_not_tested_is_that_of_the_means():
    """As in a metric of the arena that the table does not show: relative to the backbone, without a p-value."""
    made = table("a", {"SASRec": [4.0], "EIMF[SASRec]": [4.5], "late[SASRec]": [6.0], "x[REMI]": [1.0], "REMI": [0.0]})
    rows = made["views"][0]["rows"]
    for name, mean in (("SASRec", 4.0), ("EIMF[SASRec]", 4.5), ("x[REMI]", 1.0), ("REMI", 0.0)):
        rows[name]["ndcg@10"]["mean"] = mean
    gains = {row.name: row.gains[0] for row in standings([made], "ndcg@10").rows}
    assert gains["EIMF[SASRec]"].relative == pytest.approx(12.5)
    assert gains["EIMF[SASRec]"].p_value is None
    assert gains["SASRec"] is None, "it is the backbone"
    assert gains["x[REMI]"] is None, "of nothing there is no share"
    assert gains["late[SASRec]"] is None, "no mean yet"


def test_a_gain_is_over_the_backbone_that_was_trained_alike():
    made = table("a", {"SASRec": [4.0], "backbone paper[SASRec]": [2.0], "EIMF paper[SASRec]": [3.0]})
    for name, of_row in made["views"][0]["rows"].items():
        of_row["ndcg@10"]["mean"] = float(of_row["ndcg@10"]["seeds"]["2020"])
        entry = next(entry for entry in made["rows"] if entry["name"] == name)
        entry["model"] = "EIMF" if name.startswith("EIMF") else "IBIM"
        entry["keys"] = {"backbone": "SASRec"} | ({"recipe": "paper"} if "paper" in name else {})
    made["rows"][2]["against"] = ["backbone paper[SASRec]"]
    over = {row.name: row.gains[0].relative for row in standings([made], "ndcg@10").rows if row.gains[0]}
    assert over == pytest.approx({"EIMF paper[SASRec]": 50.0, "backbone paper[SASRec]": -50.0})
    (apart,) = by_method([made])
    over = {row.name: row.gains[0].relative for row in standings([apart], "ndcg@10").rows if row.gains[0]}
    assert over == pytest.approx({"EIMF paper[backbone]": 50.0, "backbone paper[backbone]": -50.0})
    made["rows"][2]["against"] = ["SASRec"]  # as older tables have it
    assert {row.name: row.gains[0] for row in standings([made], "ndcg@10").rows}["EIMF paper[SASRec]"].relative == -25


def test_replies_are_counted_where_there_are_some_and_a_row_without_seeds_has_no_figure():
    made = table("a", {"SASRec": [1.0], "EIMF[SASRec]": [2.0], "waits[SASRec]": []}, side_load={"llm_used": True})
    found = standings([made], "ndcg@10")
    assert {row.name: row.calls for row in found.rows} == {"SASRec": 0, "EIMF[SASRec]": 0}
    assert found.left_out == {"waits[SASRec]": "no figure yet in a, leave_one_out"}
    untold = table("a", {"SASRec": [1.0], "EIMF[SASRec]": [2.0]}, side_load={"knowledge": {"items_known": 7}})
    assert {row.name: row.calls for row in standings([untold], "ndcg@10").rows} == {"SASRec": 0, "EIMF[SASRec]": 7}


def test_rows_are_told_apart_within_each_backbone():
    figures = {"Popularity": [1.0], "SASRec": [2.0], "REMI": [9.0], "a[SASRec]": [3.0], "a[REMI]": [8.0]}
    made = [table("x", figures)]
    found = by_backbone(standings(made, "ndcg@10"), made)
    assert {name: [row.name for row in one.rows] for name, one in found.items()} == {
        "SASRec": ["a[SASRec]", "SASRec", "Popularity"], "REMI": ["REMI", "a[REMI]", "Popularity"]
    }  # fmt: skip
    assert [row.rank for row in found["SASRec"].rows] == [1.0, 2.0, 3.0]
    del figures["a[REMI]"]
    made = [table("x", figures)]
    assert list(by_backbone(standings(made, "ndcg@10"), made)) == [""]
    made = [table("x", {"REMI": [9.0], "a[REMI]": [8.0], "a[SASRec]": [3.0]})]  # SASRec failed
    assert list(by_backbone(standings(made, "ndcg@10"), made)) == ["REMI"]


def test_the_page_is_made_of_the_tables_files(tmp_path):
    for name, dataset in (("x", "<b>a</b>"), ("y", "b")):
        (tmp_path / name).mkdir()
        figures = {"Popularity": [1.0], "SASRec": [2.0, 2.1], "EIMF[SASRec]": [3.0, 2.0]}
        (tmp_path / name / "results.json").write_text(json.dumps(table(dataset, figures)))
    (tmp_path / "x" / "index.html").touch()
    found = arena.write([tmp_path / "x", tmp_path / "y", tmp_path / "later"], tmp_path, "T", "ndcg@10", "<cmd>", ["!"])
    page = (tmp_path / "index.html").read_text()
    assert "<b>a</b>" not in page
    assert "&lt;cmd&gt;" in page
    assert page.count("<svg") == 2
    assert 'href="x/index.html"' in page
    assert 'href="y/index.html"' not in page, "no page of its own"
    told = json.loads((tmp_path / "arena.json").read_text())
    assert [row["name"] for row in told["rows"]] == [row.name for row in found.rows]
    assert told["difference"] == found.difference
    assert "EIMF[SASRec]" in arena.standings_table(found)
    (tmp_path / "y" / "results.json").write_text("{")
    with pytest.raises(DataError, match=r"y/results\.json: damaged"):
        arena.write([tmp_path / "y"], tmp_path, "T", "ndcg@10", "c")


def test_tables_without_two_rows_are_named_and_the_others_ranked(tmp_path):
    figures = {"Popularity": [1.0], "SASRec": [2.0]}
    for name, of_table in (("x", figures), ("y", {}), ("z", {"SASRec": [1.0]})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(table(name, figures) | table(name, of_table)))
    places = [tmp_path / name for name in "xyz"]
    found = arena.write(places, tmp_path, "T", "ndcg@10", "c")
    assert found.tables == ["x, leave_one_out"]
    said = "Not ranked, for fewer than two rows have NDCG@10 there: y, leave_one_out; z, leave_one_out."
    assert said in (tmp_path / "index.html").read_text()
    assert json.loads((tmp_path / "arena.json").read_text())["remarks"] == [said]
    with pytest.raises(DataError, match="fewer than two rows with ndcg@10"):
        arena.write(places[1:], tmp_path, "T", "ndcg@10", "c")


@pytest.mark.usefixtures("undrawn")
def test_a_page_that_cannot_be_made_does_not_keep_the_later_tables_from_being_made(tmp_path, monkeypatch, capsys):
    """The first run of the second table was never finished; then a table whose rows all fail."""
    study = read_study(find_study("arena"))
    figures = {"Popularity": [1.0], "SASRec": [2.0]}
    order = []

    def carried_out(experiment, folder, effort):
        order.append(experiment)
        folder.mkdir(parents=True, exist_ok=True)
        rows = outcome[experiment]
        (folder / "results.json").write_text(json.dumps(table(experiment, rows)))
        return arena.Arena(folder, None, () if rows else (f"{experiment}/2020",))

    monkeypatch.setattr(arena, "experiment_of_study", lambda study, dataset, *_, **__: Titled(dataset))
    monkeypatch.setattr(arena, "check", lambda *_: None)
    monkeypatch.setattr(arena, "carry_out", carried_out)
    out = tmp_path / "out"
    later = out / "b-leave_one_out"
    later.mkdir(parents=True)
    (later / "results.json").write_text(json.dumps(table("b", {})))
    given = {"protocol": "leave_one_out"}
    outcome = {"a": figures, "b": figures, "c": figures}
    found = arena.run_arena(study, ["a", "b", "c"], given, "c", out, None, metrics="NDCG@10")
    assert (order, len(found.standings.tables), found.failed) == (["a", "b", "c"], 3, ())
    outcome = {"a": {}, "b": {}, "c": figures}
    order.clear()
    for name in "bc":
        (out / f"{name}-leave_one_out" / "results.json").write_text("{")  # damaged: each is written anew
    found = arena.run_arena(study, ["a", "b", "c"], given, "c", out, None, metrics="NDCG@10")
    assert (order, found.standings.tables, found.failed) == (
        ["a", "b", "c"], ["c, leave_one_out"], ("a/2020", "b/2020")
    )  # fmt: skip
    assert "no page over all tables yet" in capsys.readouterr().out
    outcome = dict.fromkeys("abc", {})
    order.clear()
    with pytest.raises(DataError, match=r"all tables are made, but no page over them.*Failed: a/2020, b/2020, c/2020"):
        arena.run_arena(study, ["a", "b", "c"], given, "c", out, None, metrics="NDCG@10")
    assert order == ["a", "b", "c"]


class Titled(str):
    """A data set's name in place of an experiment."""

    @property
    def title(self):
        return str(self)


@pytest.mark.usefixtures("undrawn")
def test_an_arena_stopped_at_the_start_of_its_second_table_goes_on(tmp_path, monkeypatch):
    """A table is written before its first run."""
    for name in ("first", "second"):
        write_atomic(tmp_path, name, planted_sequences(), TITLES)
    study = tmp_path / "small.yaml"
    study.write_text("seeds: 1\nprotocols: [leave_one_out]\nfloors: False\nrows: [Popularity, Markov]\n")
    command = ["study", str(study), "--dataset=first,second", f"--out={tmp_path / 'out'}", "--parallel=0"]
    command += [f"--data_path={tmp_path}", "--topk=[5]", "--valid_metric=NDCG@5", "--metrics=NDCG@5"]
    make = compare._make

    def stopped(plan, missing):
        if plan.experiment.dataset == "second":
            raise KeyboardInterrupt
        make(plan, missing)

    monkeypatch.setattr(compare, "_make", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_command(command[1:])
    monkeypatch.setattr(compare, "_make", make)
    assert json.loads((tmp_path / "out" / "second-leave_one_out" / "results.json").read_text())["finished"] == 0
    assert command_line(command) == 0
    told = json.loads((tmp_path / "out" / "arena.json").read_text())
    assert (told["tables"], told["remarks"]) == (["first, leave_one_out", "second, leave_one_out"], [])


def test_the_page_ranks_at_every_k_and_says_what_the_tables_say(tmp_path):
    figures = {"Popularity": [1.0], "REMI": [2.0, 2.1], "EIMF[REMI]": [3.0, 2.9]}
    made = table("a", figures, side_load={"knowledge": {"items_known": 7}})
    for of_row in made["views"][0]["rows"].values():
        seeds = {seed: 10 - value for seed, value in of_row["ndcg@10"]["seeds"].items()}
        of_row["ndcg@50"] = {"seeds": seeds, "mean": sum(seeds.values()) / len(seeds)}
    made["notes"] = [f"{SHARED} up to 2 runs shared a machine.", BARE_REMI]
    made["made_with"] = [{"recbole_eimf": "0.2.0", "commit": "abcdef"}]
    made["rows"][1]["shown"] = "REMI, no hard negatives"
    made["rows"][2]["keys"] = {"interest_source": "shuffled"}
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "results.json").write_text(json.dumps(made))
    found = arena.write([tmp_path / "x"], tmp_path, "T", "ndcg@10", "c")
    assert [row.name for row in found.rows] == ["EIMF[REMI]", "REMI", "Popularity"]
    assert [row.placebo for row in found.rows] == [True, False, False]
    assert found.rows[0].calls == 7
    told = json.loads((tmp_path / "arena.json").read_text())
    other = told["others"]["ndcg@50"]
    assert [row["name"] for row in other["rows"]] == ["Popularity", "REMI", "EIMF[REMI]"]
    assert other["rows"][2]["gains"][0]["relative"] == pytest.approx(100 * (7.05 - 7.95) / 7.95)
    assert other["rows"][2]["gains"][0]["p_value"] is None, "not tested at that k"
    page = (tmp_path / "index.html").read_text()
    for text in ('value="10"', 'value="50"', "REMI, no hard negatives", "runs shared a machine in a, leave_one_out",
                 "ComiRec-SA with REMI", "recbole_eimf 0.2.0, commit abcdef"):  # fmt: skip
        assert text in page
    assert page.count("<svg") == 4
    assert len(re.findall(r'\bid="', page)) == len(set(re.findall(r'\bid="[^"]*"', page)))


@pytest.mark.usefixtures("undrawn")
def test_the_command_makes_every_table_and_goes_on(planted, tmp_path, capsys):
    """Two protocols, of which data without times have one; the second call makes nothing anew."""
    study = tmp_path / "small.yaml"
    study.write_text(
        "seeds: 1\nmetrics: [NDCG@5]\nprotocols: [leave_one_out, global_time]\nfloors: False\n"
        "rows: [Popularity, Markov]\n"
    )
    command = ["study", str(study), "--dataset=planted", f"--out={tmp_path / 'out'}", "--parallel=0"]
    command += [f"--data_path={planted}", "--mask_history=False", "--topk=[5]", "--valid_metric=NDCG@5"]
    command += ["--time_target=last"]  # which one of the two protocols reads
    assert command_line(command) == 0
    said = capsys.readouterr().out
    assert "planted has no times, and no table under global_time." in said
    assert "Markov" in said
    folder = tmp_path / "out" / "planted-leave_one_out"
    assert (folder / "table.md").is_file()
    made = (folder / "runs" / "Markov" / "2020" / "result.json").stat().st_mtime_ns
    assert command_line(command) == 0
    assert (folder / "runs" / "Markov" / "2020" / "result.json").stat().st_mtime_ns == made
    with pytest.raises(ConfigError, match="arena of many tables"):
        run_command([str(study), "eimf_ablation", "--dataset=planted"])


def test_times_are_looked_for_with_the_keys_that_the_tables_read_the_data_with(tmp_path):
    """Columns of other names, said on the command line or in the study's file."""
    (tmp_path / "renamed").mkdir()
    lines = [f"u{u}\ti{i}\t{100 * u + i}" for u in range(9) for i in range(1, 9)]
    text = "\n".join(["uid:token\tiid:token\twhen:float", *lines]) + "\n"
    (tmp_path / "renamed" / "renamed.inter").write_text(text)
    columns = {"USER_ID_FIELD": "uid", "ITEM_ID_FIELD": "iid", "TIME_FIELD": "when"}
    given = {**columns, "load_col": {"inter": list(columns.values())}, "data_path": str(tmp_path), "refit": True}
    assert arena._has_times(
        "renamed", {**given, "mask_history": "both", "time_target": "last", "interest_source": "keywords"}
    )
    study = tmp_path / "own.yaml"
    study.write_text(json.dumps({"rows": ["Popularity", "Markov"], "protocols": ["global_time"], "keys": given}))
    made = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(arena, "check", lambda experiment, *_: made.append(experiment.shared["protocol"]))
        patched.setattr(arena, "carry_out", lambda *_: SimpleNamespace(failed=()))
        with pytest.raises(DataError):  # nothing was made
            arena.run_arena(read_study(study), ["renamed"], {}, "...", tmp_path / "out", compare.Effort(0))
    assert made == ["global_time"]


def test_the_shipped_arena_has_each_method_over_each_backbone_and_its_placebo(planted):
    rows = {row.name: row for row in read_study(find_study("arena")).rows}
    for backbone in ("SASRec", "GRU4Rec", "REMI"):
        assert rows[f"AlphaFuse[{backbone}]"].keys == {"backbone": backbone, "item_text": "null_space"}
        assert rows[f"AlphaFuse[{backbone}]"].against == (backbone, f"ids plus text[{backbone}]")
        assert rows[f"EIMF placebo[{backbone}]"].keys["interest_source"] == "shuffled"
        assert rows[f"text placebo[{backbone}]"].keys["text_source"] == "shuffled"
        paper = {"backbone": backbone, "recipe": "paper"}
        alike, placebo = f"backbone paper[{backbone}]", f"EIMF paper placebo[{backbone}]"
        assert (rows[alike].model, rows[alike].keys) == ("IBIM", paper)
        alone = f"EIMF paper text alone[{backbone}]"
        assert rows[f"EIMF paper[{backbone}]"].against == (alike, placebo, alone), "not a backbone of another form"
        assert rows[placebo].keys == {**paper, "interest_source": "shuffled"}
        assert rows[alone].keys == {**paper, "use_interests": False}
    assert "PAD[REMI]" not in rows, "towers have one state a target"
    for row in rows.values():  # --tune-first has something to search for each, and every key is one
        config, _ = configured(row, "planted", {"data_path": str(planted)})
        if not row.counting:
            backbone = contract_of(config.model_class).backbone_name(config)
            space = shipped_space(row.model, backbone, config["recipe"], text_ways(config))
            assert space
            own = {"AlphaFuse": "id_dimension", "UniSRec": "adaptor_experts", "VQ-Rec": "code_pieces"}
            assert own.get(row.name.partition("[")[0]) in {None, *space}


def test_item_knowledge_has_rows_and_placebos_of_its_own():
    study = read_study(find_study("arena_knowledge"))
    rows = {row.name: row for row in study.rows}
    assert {row.name for row in read_study(find_study("arena")).rows} < set(rows)
    for name in ("item profiles", "next prior"):
        real, placebo = rows[f"{name}[REMI]"], rows[f"{name} placebo[REMI]"]
        assert dict(placebo.keys) == {**real.keys, "knowledge_source": "shuffled"}
        assert f"{name} placebo[REMI]" in real.against
    assert not {"knowledge_source", "interest_source"} & study.varied(), "the user says where they come from"


def test_a_part_of_a_study_is_named_by_rows_methods_or_backbones():
    study = read_study(find_study("arena"))
    assert [row.name for row in chosen(study, ["AlphaFuse"])] == [
        "AlphaFuse[SASRec]", "AlphaFuse[GRU4Rec]", "AlphaFuse[REMI]"
    ]  # fmt: skip
    found = chosen(study, ["[REMI]", "PAD[SASRec]"])
    assert {"REMI", "EIMF[REMI]", "PAD[SASRec]"} <= {row.name for row in found}
    assert next(row for row in found if row.name == "PAD[SASRec]").against == ()
    with pytest.raises(ConfigError, match="--only=AlphaFused: no row of arena. Did you mean") as error:
        chosen(study, ["AlphaFused"])
    listed = str(error.value).partition("There are: ")[2].rstrip(".").split(", ")
    assert listed[0].startswith("AlphaFuse[")
    assert sorted(listed) == sorted(row.name for row in study.rows)


def test_over_says_which_backbones_a_study_stands_over():
    path = find_study("arena")
    whole = read_study(path).rows
    some = read_study(path, ["SASRec", "REMI"]).rows
    assert [row.name for row in some] == [row.name for row in whole if "GRU4Rec" not in row.name]
    assert {row.name: row for row in some}["AlphaFuse[REMI]"] in whole
    one = {row.name: row for row in complete(read_study(path, ["REMI"]).rows)}
    assert "PAD[REMI]" not in one, "towers have one state a target"
    assert one["eSASRec"].against == (), "what it is measured against is not there"
    other = {row.name: row for row in complete(read_study(path, ["ComiRecSA"]).rows)}
    assert other["EIMF[ComiRecSA]"].keys["backbone"] == "ComiRecSA"
    assert other["EIMF[ComiRecSA]"].against[0] == "ComiRecSA"
    own = "examples.last_and_mean:LastAndMean"
    mine = {row.name: row for row in complete(read_study(path, [own]).rows)}
    assert (mine[own].model, mine[own].keys["backbone"], mine[f"EIMF[{own}]"].against[0]) == ("IBIM", own, own)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["eimf_ablation", "--over=SASRec"], "--over=SASRec: the study eimf_ablation has no list of backbones (over)"),
        (["arena", "--over=SASrec"], "--over=SASrec: no backbone 'SASrec'. Did you mean 'SASRec'"),
        (["arena", "--over=[REMI, ComiRec]"], "--over=REMI,ComiRec: no backbone 'ComiRec'"),
        (["arena", "--over=examples.last_and_mean:Last"], "backbone=examples.last_and_mean:Last: "),
    ],
)
def test_a_wrong_over_is_one_line(arguments, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        run_command([*arguments, "--dataset=planted"])


def test_a_method_is_added_in_one_file(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "base: arena\ntitle: Mine too\nkeys: {epochs: 3}\nrows:\n  - {name: Smoothed, "
        "model: 'examples.smoothed:Smoothed', over: [REMI], against: [backbone, AlphaFuse]}\n"
    )
    found, below = read_study(mine), read_study(find_study("arena"))
    assert [row.name for row in found.rows] == [*(row.name for row in below.rows), "Smoothed[REMI]"]
    assert found.rows[-1].against == ("REMI", "AlphaFuse[REMI]")
    assert found.keys == {**below.keys, "epochs": 3}
    assert (found.title, found.protocols, found.seeds) == ("Mine too", below.protocols, below.seeds)
    mine.write_text(f"base: {mine}\nrows: [SASRec]")
    with pytest.raises(ConfigError, match="leads back to itself"):
        read_study(mine)


def test_looking_for_times_warns_of_nothing(caplog):
    """Of a mask that the study's own keys set to something else, say."""
    assert arena._has_times("ml-100k", {})
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("over: [SASRec]\nrows: [{name: a, model: IBIM, over: [REMI]}]", r"row 'a': over='REMI' is not in"),
        ("over: [SASRec]\nrows: [{model: IBIM, over: True}]", "stands over backbones, and needs a name"),
        ("protocols: [leave_two_out]\nrows: [SASRec]", "protocols: no 'leave_two_out'"),
    ],
)
def test_a_bad_arena_is_one_line(tmp_path, text, said):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_study(path)
