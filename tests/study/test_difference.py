"""``differ``: the tests of a table between runs that were made apart, over all targets or a slice."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from recbole_eimf.__main__ import main
from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.evaluator.significance import holm
from recbole_eimf.study.difference import differ
from tests.study.made import gains, ranks_of

#: places of nine users' targets, by seed (-1: not among the first five)
BETTER = {2020: [0, 0, 1, -1, 0, 2, 0, 4, 0], 2021: [1, 0, 0, 2, 0, 0, -1, 0, 3]}
WORSE = {2020: [3, -1, 1, -1, 2, -1, 0, 4, -1], 2021: [-1, 2, -1, -1, 0, 3, -1, 1, 3],
         2022: [4, -1, 0, -1, 1, 1, -1, -1, 2]}  # fmt: skip


def leave(folder, seed, places, mask=False, ranks=None, **more):
    """What a finished run leaves that is read here."""
    folder.mkdir(parents=True)
    config = {"ties": more.pop("ties", "shuffle"), **more.pop("config", {})}
    result = {"seed": seed, "dataset": "mine", "protocol": "user_split", "mask_history": mask, "config": config, **more}
    (folder / "result.json").write_text(json.dumps(result))
    (ranks or ranks_of(places)).write(folder)
    return str(folder)


@pytest.fixture
def sides(tmp_path):
    """(a folder of two seeds' runs, a table and its row of three)."""
    for seed, places in BETTER.items():
        leave(tmp_path / "better" / str(seed), seed, places)
    table = tmp_path / "table"
    for seed, places in WORSE.items():
        leave(table / "runs" / "EIMF-SASRec" / str(seed), seed, places)
    rows = [{"name": "EIMF[SASRec]", "runs": [{"seed": seed} for seed in WORSE]}, {"name": "MIND", "runs": []}]
    (table / "results.json").write_text(json.dumps({"rows": rows}))
    return str(tmp_path / "better"), f"{table}:EIMF[SASRec]"


def slow_test(first, second, metric, users):
    """(means, difference, p by every assignment of signs) of one target a user."""
    mine, theirs = (
        np.mean([gains(places, metric) for places in side.values()], axis=0)[users] for side in (first, second)
    )
    apart = mine - theirs
    flipped = [abs(np.mean(apart * signs)) for signs in itertools.product((1, -1), repeat=len(apart))]
    return 100 * mine.mean(), 100 * theirs.mean(), np.mean(np.array(flipped) >= abs(apart.mean()) - 1e-12)


@pytest.mark.parametrize(("slice", "users"), [(None, slice(0, 9)), ("cold", slice(0, 4)), ("warm", slice(4, 9))])
@pytest.mark.parametrize("metric", ["ndcg@5", "hit@1", "recall@3"])
def test_it_is_the_paired_test_of_the_seeds_means(sides, metric, slice, users):
    (one,) = differ(sides, [metric], [slice] if slice else []).found
    mean, other, p = slow_test(BETTER, WORSE, metric, users)
    assert (one.mean, one.other_mean, one.points) == pytest.approx((mean, other, mean - other))
    assert one.relative == pytest.approx(100 * (mean - other) / other)
    assert one.p_value == one.adjusted == pytest.approx(p)
    assert (one.side, one.other, one.metric, one.slice, one.users) == (*sides, metric, slice, users.stop - users.start)
    assert one.interval[0] < one.points < one.interval[1]
    for seed in (2020, 2021):  # 2022 has no partner
        first, second = (100 * gains(side[seed], metric)[users].mean() for side in (BETTER, WORSE))
        expected = pytest.approx(100 * (first - second) / second) if second else None
        assert one.by_seed[seed] == expected
    assert set(one.by_seed) == {2020, 2021}


def test_all_that_is_asked_together_is_corrected_together(sides, tmp_path):
    third = leave(tmp_path / "third", 2020, WORSE[2020])
    found = differ([*sides, third], ["ndcg@5", "hit@1"], ["all"])
    asked = [(one.other, one.metric, one.slice) for one in found.found]
    # "unseen" holds no target
    assert asked == [(other, metric, name) for other in (sides[1], third) for metric in ("ndcg@5", "hit@1")
                     for name in (None, "cold", "warm")]  # fmt: skip
    expected = holm(np.array([one.p_value for one in found.found]))
    assert [one.adjusted for one in found.found] == pytest.approx(expected.tolist())
    assert max(one.adjusted - one.p_value for one in found.found) > 0


def test_a_slice_that_holds_every_target_is_not_asked_about_twice(tmp_path):
    everything = replace(ranks_of(BETTER[2020]), slices={"warm": (0, None), "cold": (1, 3), "1-5": (1, 5)})
    a, b = (leave(tmp_path / name, 2020, None, ranks=everything) for name in "ab")
    assert [one.slice for one in differ([a, b], ["hit@1"], ["all"]).found] == [None, "cold"]
    assert differ([a, b], ["hit@1"], ["warm"]).found[0].slice == "warm"


def test_the_command_prints_and_writes_it(sides, tmp_path, capsys):
    out = tmp_path / "new" / "found.json"
    assert main(["differ", *sides, "--metrics=NDCG@5,HR@1", "--slices=cold", f"--out={out}"]) == 0
    shown = capsys.readouterr().out
    assert f"A  {sides[0]}, seeds 2020, 2021\nB  {sides[1]}, seeds 2020, 2021, 2022\n" in shown
    assert "mine, user_split, ties=shuffle, history not masked: 9 users, 9 targets" in shown
    assert all(words in shown for words in ("over B: NDCG@5, cold", "over B: HR@1, cold", "over 2 tests"))
    written = json.loads(out.read_text())
    assert written["command"].startswith("python -m recbole_eimf differ ")
    assert (written["protocol"], written["ties"], written["mask_history"]) == ("user_split", "shuffle", False)
    assert written["seeds"] == {sides[0]: [2020, 2021], sides[1]: [2020, 2021, 2022]}
    assert [(one["metric"], one["slice"], one["users"]) for one in written["tests"]] == [
        ("ndcg@5", "cold", 4), ("hit@1", "cold", 4),
    ]  # fmt: skip
    mean, _, _ = slow_test(BETTER, WORSE, "ndcg@5", slice(0, 4))
    assert written["tests"][0]["mean"] == pytest.approx(mean)
    assert main(["differ", *sides]) == 0  # ranked to five places: NDCG@5 and Recall@5
    assert "Recall@5" in capsys.readouterr().out


def test_a_run_scored_both_ways_is_asked_either_way(tmp_path):
    for name, places in (("a", BETTER), ("b", WORSE)):
        leave(tmp_path / name, 2020, places[2020])
        (tmp_path / name / "test_other_mask").mkdir()
        ranks_of(places[2021]).write(tmp_path / name / "test_other_mask")
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    for mask, seed in ((None, 2020), (False, 2020), (True, 2021)):
        found = differ([a, b], ["ndcg@5"], mask_history=mask)
        assert found.found[0].mean == pytest.approx(100 * gains(BETTER[seed], "ndcg@5").mean())
        assert found.asked["mask_history"] == bool(mask)
    masked = leave(tmp_path / "c", 2020, WORSE[2020], mask=True)
    with pytest.raises(DataError, match=r"mask_history is False in one and True in the other.*--mask_history=True or"):
        differ([a, masked])
    assert differ([a, masked], ["ndcg@5"], mask_history=True).found[0].mean == pytest.approx(
        100 * gains(BETTER[2021], "ndcg@5").mean()
    )
    with pytest.raises(ConfigError, match="--mask_history=False: .*c was scored with mask_history=True alone"):
        differ([a, masked], mask_history=False)


def test_runs_that_were_asked_other_questions_are_refused(sides, tmp_path):
    cases = {
        "ties is shuffle in one and source in the other": {"ties": "source"},
        "mode is full in one and uni100 in the other": {"config": {"eval_args": {"mode": "uni100"}}},
        "protocol is user_split in one and leave_one_out in the other": {"protocol": "leave_one_out"},
        "not tested on the same users": {"ranks": replace(ranks_of(WORSE[2020]), identity="other")},
    }
    for number, (words, more) in enumerate(cases.items()):
        other = leave(tmp_path / f"case-{number}", 2020, WORSE[2020], **more)
        with pytest.raises(DataError, match=words):
            differ([sides[0], other])
    elsewhere = leave(tmp_path / "slices", 2020, None, ranks=replace(ranks_of(WORSE[2020]), slices={"cold": (1, 9)}))
    with pytest.raises(DataError, match="--slices=cold: holds other targets in .*slices"):
        differ([sides[0], elsewhere], slices=["cold"])
    leave(tmp_path / "mixed" / "1", 2020, BETTER[2020])
    leave(tmp_path / "mixed" / "2", 2021, BETTER[2021], ties="source")
    with pytest.raises(DataError, match="mixed: its runs were not asked the same"):
        differ([sides[0], str(tmp_path / "mixed")])
    leave(tmp_path / "alike" / "1", 2020, BETTER[2020])
    leave(tmp_path / "alike" / "2", 2020, BETTER[2021])
    with pytest.raises(DataError, match="alike: two of its runs have the seed 2020"):
        differ([sides[0], str(tmp_path / "alike")])


def test_sides_that_are_not_there_are_named_with_what_is(sides, tmp_path):
    table = sides[1].removesuffix(":EIMF[SASRec]")
    (tmp_path / "empty").mkdir()
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.json").write_text("{}")
    (tmp_path / "begun" / "last.safetensors").write_text("")
    for given, words in {
        table: r"is the folder of a table; name a row of it, .*:ROW. It has EIMF\[SASRec\], MIND",
        f"{table}:EIMF[SASrec]": r"no such row. Did you mean 'EIMF\[SASRec\]'",
        f"{table}:MIND": "no run of it is finished yet",
        str(tmp_path / "nothing"): "no such folder",
        str(tmp_path / "empty"): "no finished run in it",
        str(tmp_path / "begun"): "the run is not finished",
        sides[0]: "is given twice",
    }.items():
        with pytest.raises((ConfigError, DataError), match=words):
            differ([sides[0], given])
    (tmp_path / "table" / "runs" / "EIMF-SASRec" / "2021").rename(tmp_path / "gone")
    with pytest.raises(DataError, match="2021 is not there.*Copy the table's folder whole"):
        differ([sides[0], sides[1]])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--metrics=NDCG@6"], "--metrics=ndcg@6: .*k from 1 to 5"),
        (["--metrics=MAP@5"], "--metrics=map@5: .*NDCG"),
        (["--slices=could"], "--slices=could: no such slice. Did you mean 'cold'.*There are cold, warm"),
        (["--slices=unseen"], "--slices=unseen: no such slice. There is, but no target is in it"),
        (["--slice=cold"], "--slice: no such option. Did you mean 'slices'"),
        (["--mask_history=both"], "--mask_history=both: True or False"),
        (["--out="], "--out=: "),
    ],
)
def test_a_wrong_question_is_named(sides, arguments, words, capsys):
    assert main(["differ", *sides, *arguments]) == 2
    assert re.search(words, capsys.readouterr().err)


def test_one_side_is_not_enough(sides, capsys):
    assert main(["differ", sides[0]]) == 2
    assert "1 side given; from 2 to 26 are needed" in capsys.readouterr().err
    assert main(["differ"]) == 2
    assert "usage: python -m recbole_eimf differ A B" in capsys.readouterr().err
