"""Tables made apart: what may become one table, and methods ranked whatever they stand over."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from recbole_eimf.__main__ import main as command_line
from recbole_eimf.core.errors import DataError
from recbole_eimf.study import arena
from recbole_eimf.study.joined import Part, by_method, join_parts, read_parts
from recbole_eimf.study.standings import standings
from tests.conftest import REPOSITORY
from tests.study.test_arena import table

FLOOR = {"Popularity": [1.0]}


def of_backbone(name, alone, eimf, dataset="a", **more):
    """A table of one backbone and EIMF over it, as a command of its own made it."""
    made = table(dataset, {**FLOOR, name: alone, f"EIMF[{name}]": eimf}, **more)
    for of_row in made["views"][0]["rows"].values():
        seeds = list(of_row["ndcg@10"]["seeds"].values())
        of_row["ndcg@10"]["mean"] = sum(seeds) / len(seeds)
    made["views"][0]["tested"] = {row: {"users": 9, "targets": 9, "identity": "x"} for row in made["views"][0]["rows"]}
    pair = {"row": f"EIMF[{name}]", "other": name, "metric": "ndcg@10", "relative": 12.5, "adjusted": 0.01}
    made["views"][0]["comparisons"] = [pair]
    return made


def parts(*tables):
    return [Part(content, f"part{n}") for n, content in enumerate(tables)]


def test_parts_of_one_data_set_and_protocol_become_one_table():
    one, other = of_backbone("SASRec", [3.0, 3.2], [4.0, 4.1]), of_backbone("REMI", [2.0, 2.1], [2.5, 2.4])
    before = copy.deepcopy((one, other))
    (whole,) = join_parts(parts(one, other))
    assert (one, other) == before, "what was read stays as it was"
    names = [row["name"] for row in whole.content["rows"]]
    assert names == ["Popularity", "SASRec", "EIMF[SASRec]", "REMI", "EIMF[REMI]"]
    assert set(whole.content["views"][0]["rows"]) == set(names)
    assert set(whole.content["views"][0]["tested"]) == set(names)
    assert len(whole.content["views"][0]["comparisons"]) == 2
    assert (whole.content["finished"], whole.content["planned"], whole.page) == (9, 9, None)
    found = standings([whole.content], "ndcg@10")
    assert [row.name for row in found.rows] == ["EIMF[SASRec]", "SASRec", "EIMF[REMI]", "REMI", "Popularity"]
    assert {row.name: row.gains[0].relative for row in found.rows if row.gains[0]} == dict.fromkeys(
        ("EIMF[SASRec]", "EIMF[REMI]"), 12.5
    )
    apart = join_parts(parts(one, {**other, "protocol": "global_time"}, {**other, "dataset": "b"}))
    assert [part.content for part in apart] == [one, {**other, "protocol": "global_time"}, {**other, "dataset": "b"}]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t["views"][0].update(mask_history=False), "mask_history is True in one and False in the other"),
        (lambda t: t["rows"][0]["settings"].update(ties="source"), "ties is shuffle in one and source in the other"),
        (lambda t: t["rows"][0]["settings"].update(eval_args={"mode": "uni9"}), "ranked among is full in one and uni9"),
        (lambda t: t["rows"][0]["settings"].pop("ties"), "ties is shuffle in one and source in the other"),
        (lambda t: t["views"][0]["tested"]["Popularity"].update(users=8), "the number of test users is 9 in one and 8"),
        (lambda t: t["views"][0]["tested"]["Popularity"].update(targets=7), "the number of targets is 9 in one and 7"),
        (lambda t: t["views"][0]["tested"]["Popularity"].update(identity="y"), "digest of what was asked is x in one"),
        (lambda t: t["views"][0]["rows"]["Popularity"]["ndcg@10"].update(mean=1.5), "Popularity: part0 and part1 have"),
    ],
)
def test_parts_that_asked_otherwise_are_no_one_table(change, said):
    other = of_backbone("REMI", [2.0], [2.5])
    change(other)
    with pytest.raises(DataError, match=said) as raised:
        join_parts(parts(of_backbone("SASRec", [3.0], [4.0]), other))
    assert "part0" in str(raised.value)
    assert "part1" in str(raised.value)


def without(made, name):
    """A table whose row is planned and has no run yet."""
    made = copy.deepcopy(made)
    next(row for row in made["rows"] if row["name"] == name)["runs"] = []
    del made["views"][0]["rows"][name], made["views"][0]["tested"][name]
    return made


def test_a_row_that_one_part_finished_is_taken_from_it():
    whole = of_backbone("SASRec", [3.0, 3.2], [4.0, 4.1])
    begun = without(without(whole, "SASRec"), "EIMF[SASRec]")
    for order in ((begun, whole), (whole, begun), (without(begun, "Popularity"), whole)):
        (joined,) = join_parts(parts(*copy.deepcopy(order)))
        found = standings([joined.content], "ndcg@10")
        assert [row.name for row in found.rows] == ["EIMF[SASRec]", "SASRec", "Popularity"]
        assert [row.seconds for row in found.rows] == [2.5, 2.5, 2.0]
        assert joined.content["finished"] == 5
    empty = copy.deepcopy(begun)
    empty["views"][0]["rows"]["SASRec"] = {}
    (joined,) = join_parts(parts(empty, whole))
    assert joined.content["views"][0]["rows"] == whole["views"][0]["rows"], "figures that are not there hide none"
    slower = copy.deepcopy(whole)
    slower["rows"][1]["runs"][0]["train_seconds"] = 99.0
    (joined,) = join_parts(parts(whole, slower))
    assert joined.content["rows"] == whole["rows"], "where both have a row, the first one's stands"
    fewer = of_backbone("SASRec", [3.0], [4.0])
    with pytest.raises(DataError, match=r"SASRec\]?: part0 and part1 have it for the seeds 0, 1 and 0\. "):
        join_parts(parts(whole, fewer))


def test_what_two_parts_tested_is_kept_once_for_each_pair_and_metric():
    def told(row, other, metric, adjusted):
        return {"row": row, "other": other, "metric": metric, "relative": 1.0, "adjusted": adjusted}

    one, other = (of_backbone("SASRec", [3.0], [4.0]) for _ in range(2))
    mine = [told("EIMF[SASRec]", "SASRec", "ndcg@10", 0.01), told("EIMF[SASRec]", "SASRec", "hit@10", 0.02)]
    theirs = [told("EIMF[SASRec]", "SASRec", "ndcg@10", 0.03), told("EIMF[SASRec]", "Popularity", "ndcg@10", 0.04)]
    one["views"][0]["comparisons"], other["views"][0]["comparisons"] = mine, theirs
    (whole,) = join_parts(parts(one, other))
    assert whole.content["views"][0]["comparisons"] == [*mine, theirs[1]]


def test_versions_that_parts_were_made_with_are_kept_once_each():
    one, other = (of_backbone("SASRec", [3.0], [4.0]) for _ in range(2))
    one["made_with"] = [{"torch": "2.4"}, {"torch": "2.5"}]
    other["made_with"] = [{"torch": "2.5"}, {"torch": "2.6"}]
    (whole,) = join_parts(parts(one, other))
    assert whole.content["made_with"] == [{"torch": version} for version in ("2.4", "2.5", "2.6")]


def test_a_page_of_several_tables_is_no_table_s_own(tmp_path):
    made = of_backbone("SASRec", [3.0], [4.0])
    for name, content in (("one", made), ("several", {"tables": [made, {**made, "dataset": "b"}]})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(content), encoding="utf-8")
        (tmp_path / name / "index.html").touch()
    found = read_parts([tmp_path / "one", tmp_path / "several"])
    assert [part.page for part in found] == [tmp_path / "one" / "index.html", None, None]


def test_a_planned_row_is_planned_for_every_seed_and_one_that_only_counts_for_one():
    begun = without(without(of_backbone("SASRec", [3.0, 3.2], [4.0, 4.1]), "EIMF[SASRec]"), "Popularity")
    begun["seeds"] = [2020, 2021]
    (joined,) = join_parts(parts(begun, copy.deepcopy(begun)))
    assert (joined.content["finished"], joined.content["planned"]) == (2, 2 + 2 + 1)


def test_a_row_that_one_part_alone_plans_is_planned_for_that_parts_seeds():
    short, long = of_backbone("SASRec", [3.0], [4.0]), of_backbone("REMI", [3.0], [4.0])
    long = without(long, "EIMF[REMI]")
    short["seeds"], long["seeds"] = [2020], [2020, 2021, 2022]
    (joined,) = join_parts(parts(short, long))
    assert [row["name"] for row in joined.content["rows"]] == [
        "Popularity", "SASRec", "EIMF[SASRec]", "REMI", "EIMF[REMI]"
    ]  # fmt: skip
    assert joined.content["planned"] == 1 + 1 + 1 + 3 + 3
    third = without(of_backbone("GRU4Rec", [3.0], [4.0]), "EIMF[GRU4Rec]")
    third["seeds"] = [2020]
    (whole,) = join_parts(parts(short, long, third))
    assert whole.content["planned"] == joined.content["planned"] + 1 + 1, "what the second part planned stays"


def test_a_row_that_one_part_planned_and_the_other_finished_is_planned_as_the_other_did():
    begun, made = without(of_backbone("SASRec", [3.0], [4.0]), "EIMF[SASRec]"), of_backbone("SASRec", [3.0], [4.0])
    begun["seeds"], made["seeds"] = [2020, 2021, 2022, 2023, 2024], [2020]
    (joined,) = join_parts(parts(begun, made))
    assert {row["name"]: joined.content["planned_runs"][row["name"]] for row in joined.content["rows"]} == {
        "Popularity": 1, "SASRec": 5, "EIMF[SASRec]": 1
    }  # fmt: skip


def test_methods_are_ranked_whatever_they_stand_over():
    """Over SASRec EIMF is first and its text form second, over REMI the other way: both rank 1.5, the backbone 3."""
    over_sasrec = of_backbone("SASRec", [3.0], [5.0])
    over_remi = of_backbone("REMI", [1.5], [2.0])
    for made, name, value in ((over_sasrec, "text[SASRec]", 4.0), (over_remi, "text[REMI]", 2.5)):
        more = table("a", {name: [value]})
        more["rows"][0] |= {"shown": f"{name}!"}
        made["rows"] += more["rows"]
        made["views"][0]["rows"] |= more["views"][0]["rows"]
    over_remi["rows"][1]["shown"] = "REMI, bare"
    (whole,) = join_parts(parts(over_sasrec, over_remi))
    found = arena.methods_over_backbones([whole.content], "ndcg@10")
    assert found.tables == ["a, leave_one_out, over SASRec", "a, leave_one_out, over REMI, bare"]
    by_name = {row.shown: row for row in found.rows}
    assert by_name["EIMF"].ranks == (1.0, 2.0)
    assert by_name["text"].ranks == (2.0, 1.0)
    assert by_name["backbone alone"].rank == 3.0
    assert by_name["Popularity"].rank == 4.0
    assert by_name["EIMF"].gains[1].relative == 12.5
    assert arena.methods_over_backbones([over_sasrec], "ndcg@10") is None, "one backbone is what the table shows"


def test_a_backbone_without_a_row_over_it_ranks_no_method():
    figures = {"Popularity": [1.0], "eSASRec": [5.0], "SASRec": [2.0], "EIMF[SASRec]": [3.0], "EIMF[REMI]": [3.0]}
    made = table("a", figures)
    assert [block["protocol"] for block in by_method([made])] == ["leave_one_out, over SASRec"]
    assert [row["name"] for row in by_method([made])[0]["rows"]] == ["Popularity", "backbone", "EIMF[backbone]"]


def test_a_row_without_figures_over_a_backbone_ranks_no_method():
    assert by_method([without(of_backbone("SASRec", [3.0], [4.0]), "EIMF[SASRec]")]) == []


def test_a_test_against_what_stands_over_another_backbone_is_left_out():
    made = of_backbone("SASRec", [3.0], [4.0])
    made["views"][0]["comparisons"].append({"row": "EIMF[SASRec]", "other": "REMI", "metric": "ndcg@10"})
    (alone,) = by_method([made])
    assert [(one["row"], one["other"]) for one in alone["views"][0]["comparisons"]] == [("EIMF[backbone]", "backbone")]


def test_the_command_joins_folders_and_files(tmp_path, capsys):
    for folder, made in (("one", of_backbone("SASRec", [3.0], [4.0])), ("two", of_backbone("REMI", [2.0], [2.5]))):
        (tmp_path / folder / "a-leave_one_out").mkdir(parents=True)
        (tmp_path / folder / "a-leave_one_out" / "results.json").write_text(json.dumps(made))
    several = tmp_path / "several.json"
    several.write_text(json.dumps({"arena": {}, "tables": [of_backbone("SASRec", [3.0], [3.5], "b<")]}))
    (tmp_path / "one" / "a-leave_one_out" / "index.html").write_text("")
    out = tmp_path / "out"
    given = [str(tmp_path / "one"), str(tmp_path / "two" / "a-leave_one_out"), str(several)]
    assert command_line(["standings", *given, f"--out={out}", "--metrics=ndcg@10"]) == 0
    printed = capsys.readouterr().out
    blocks = "1: a, leave_one_out, over SASRec\n2: a, leave_one_out, over REMI"
    assert f"methods, whatever they stand over:\n{blocks}" in printed
    page = (out / "index.html").read_text()
    assert "Methods, whatever they stand over" in page
    assert "b&lt;" in page
    assert "href=" not in page.partition("</ul>")[0], "a joined table has no page of its own"
    told = json.loads((out / "arena.json").read_text())
    assert told["tables"] == ["a, leave_one_out", "b<, leave_one_out"]
    assert [row["shown"] for row in told["methods"]["ndcg@10"]["rows"]] == ["EIMF", "backbone alone", "Popularity"]
    assert command_line(["standings", given[0], given[2], f"--out={out}"]) == 0
    assert 'href="../one/a-leave_one_out/index.html"' in (out / "index.html").read_text()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["nowhere"], "error: nowhere: no such file or folder"),
        (["empty"], "error: empty: no table in it"),
        (["broken.json"], "error: broken.json: damaged"),
        (["list.json"], "error: list.json: no table"),
        (["other.json"], "error: other.json: no table"),
        (["good.json", "--metrics=ndcg@10,hit@10"], "--metrics=ndcg@10,hit@10: rows are ranked by one metric"),
        (["good.json", "--metrics=ndcg@7"], "fewer than two rows with ndcg@7"),
        (["good.json", "--form=1"], "--form: no such option"),
    ],
)
def test_what_is_no_table_is_one_line(given, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    for name, text in (("broken", "{"), ("list", "[1]"), ("other", '{"rows": []}')):
        Path(f"{name}.json").write_text(text)
    Path("good.json").write_text(json.dumps(of_backbone("SASRec", [3.0], [4.0])))
    assert command_line(["standings", *given]) == 2
    assert said in capsys.readouterr().err
    assert not Path("standings").exists(), "nothing was made"


def test_the_published_tables_of_office_join():
    """Three commands made them, one for each backbone."""
    names = ("arena_office", "arena_office_profiles", "arena_office_remi", "arena_office_gru4rec")
    (whole,) = join_parts(read_parts([REPOSITORY / "benchmarks" / "results" / f"{name}.json" for name in names]))
    found = arena.methods_over_backbones([whole.content], "ndcg@10")
    assert len(found.tables) == 3
    page = (REPOSITORY / "docs" / "results" / "arena.md").read_text(encoding="utf-8")
    section = page.partition("## Whatever they stand over")[2].partition("\n## ")[0]
    printed = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line[:1] == "|"][2:]
    rows = [[row.shown, f"{row.rank:.2f}", *(f"{mean:.2f}" for mean, _ in row.figures)] for row in found.rows]
    assert printed == rows
