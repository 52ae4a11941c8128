"""Events of one time: shuffled, together or as the source has them, and what replies may know under each."""

from __future__ import annotations

import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from recbole_eimf.config.layers import properties_folder
from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.data import protocol, ties
from recbole_eimf.data.prepare.write import prepare_csv
from recbole_eimf.evaluator.ranks import collected_ranks
from recbole_eimf.experiment import assembly
from recbole_eimf.experiment.interests import training_pipeline
from recbole_eimf.semantic import export
from recbole_eimf.semantic.side_load import corpus_of
from tests.conftest import TITLES

#: user -> (item, day) in the source's order; days of several items ascend by id, as in Amazon's files
BASKETS = {
    "a": [(0, 1), (3, 1), (5, 1), (2, 2), (1, 3), (4, 3), (6, 3)],
    "b": [(1, 1), (2, 2), (7, 2), (0, 4), (5, 5)],
    "c": [(4, 2), (6, 2), (8, 2), (9, 2)],
    "d": [(9, 1), (8, 3), (7, 4), (1, 5), (2, 5), (3, 6)],
}


def write(folder, baskets=BASKETS, name="baskets"):
    target = folder / name
    target.mkdir(parents=True, exist_ok=True)
    rows = [f"{u}\ti{i}\t{t}\t{n}" for u, events in baskets.items() for n, (i, t) in enumerate(events)]
    head = "user_id:token\titem_id:token\ttimestamp:float\torder:float"
    (target / f"{name}.inter").write_text("\n".join([head, *rows]) + "\n")
    items = [f"i{i}\t{title}" for i, title in enumerate(TITLES)]
    (target / f"{name}.item").write_text("\n".join(["item_id:token\ttitle:token_seq", *items]) + "\n")
    return folder


@pytest.fixture
def parts(make_config, tmp_path):
    def build(model="IBIM", **keys):
        keys = {"dataset": "baskets", "data_path": str(write(tmp_path)), **keys}
        return assembly.datasets(make_config(model, **keys))

    return build


def sequences(whole, spans=None):
    """user -> its items in today's order, of the whole data or of a part's histories."""
    users, items = whole.field2id_token["user_id"], whole.field2id_token["item_id"]
    flat = whole.flat.numpy()
    spans = spans or whole.spans
    return {users[u]: [int(items[i][1:]) for i in flat[a:b]]
            for u, a, b in zip(spans.user, spans.start, spans.end) if b > a}  # fmt: skip


def test_a_shuffle_moves_events_of_one_time_alone(parts):
    seen = set()
    for seed in range(8):
        whole, _ = parts(ties="shuffle", ties_seed=seed)
        for user, items in sequences(whole).items():
            days = dict(BASKETS[user])
            assert [days[i] for i in items] == [day for _, day in BASKETS[user]]
            assert sorted(items) == sorted(days)
            seen.add((user, tuple(items)))
    assert len([1 for user, _ in seen if user == "c"]) > 3, "a day of four items has many orders"
    assert sequences(parts()[0]) == {user: [i for i, _ in events] for user, events in BASKETS.items()}


def test_a_user_s_order_depends_on_seed_user_and_items_alone(make_config, tmp_path, parts):
    """Neither the other users nor the source's order, nor the training seed, have a part in it."""
    whole, _ = parts(ties="shuffle", seed=1)
    turned = {
        user: sorted(events, key=lambda e: (e[1], -e[0])) for user, events in reversed(BASKETS.items()) if user != "b"
    }
    folder = write(tmp_path / "other", turned)
    config = make_config("IBIM", "baskets", data_path=str(folder), ties="shuffle", seed=2)
    other = sequences(assembly.datasets(config)[0])
    assert other == {user: items for user, items in sequences(whole).items() if user != "b"}


def test_each_order_of_a_tie_is_as_likely():
    user = np.repeat([f"u{n}" for n in range(3000)], 3).astype(object)
    item = np.tile(np.array(["x", "y", "z"], dtype=object), 3000)
    order = ties.shuffled(np.repeat(np.arange(3000), 3), user, item, seed=5).reshape(-1, 3) % 3
    _, counts = np.unique(order, axis=0, return_counts=True)
    assert len(counts) == 6
    assert abs(counts - 500).max() < 80, "four deviations of a multinomial"


def by_hand(events):
    """Leave-one-out by whole times: (training items, validation set, test set), None where there is none."""
    days = sorted({day for _, day in events})
    groups = [[i for i, day in events if day == d] for d in days]
    test = valid = None
    if sum(map(len, groups[:-1])) >= 2:
        test = set(groups.pop())
        if sum(map(len, groups[:-1])) >= 2:
            valid = set(groups.pop())
    return {i for group in groups for i in group}, valid, test


def test_together_holds_out_whole_times(parts):
    whole, (train, valid, test) = parts(ties="together")
    names, items = whole.field2id_token["user_id"], whole.field2id_token["item_id"]

    def targets(part):
        row, item = (x.numpy() for x in part.targets(np.arange(len(part.spans))))
        return {names[u]: {int(items[i][1:]) for i in item[row == r]} for r, u in enumerate(part.spans.user)}

    for user, events in BASKETS.items():
        trained, validated, tested = by_hand(events)
        assert set(sequences(train)[user]) == trained
        assert targets(valid).get(user) == validated
        assert targets(test).get(user) == tested
    row, item = (x.numpy() for x in test.targets(np.arange(len(test.spans))))
    assert not test.tied_targets(np.arange(len(test.spans))).any()


def test_together_without_ties_is_leave_one_out():
    offsets = np.concatenate([[0], np.cumsum([0, 1, 2, 3, 4, 9])])
    plain, together = protocol.leave_one_out(offsets), protocol.leave_one_out(offsets, np.arange(offsets[-1]))
    for part in ("train", "valid", "test"):
        one, two = getattr(plain, part), getattr(together, part)
        assert all((a == b).all() for a, b in zip(vars(one).values(), vars(two).values()))


def test_together_cuts_users_between_times(parts):
    _, (_, valid, test) = parts(ties="together", protocol="user_split", split_ratios=[0.5, 0.25, 0.25])
    for part in (valid, test):
        for start, middle, end in zip(part.spans.start, part.spans.middle, part.spans.end):
            assert start < middle < end
            assert part.moment[middle - 1] != part.moment[middle]


def test_slices_tell_tied_targets_from_others(parts):
    for chosen in ("source", "shuffle"):
        _, (train, _, test) = parts(ties=chosen)
        ranks = collected_ranks(np.zeros((len(test.spans), 3), dtype=np.int64), test, train)
        names = test.field2id_token["user_id"]
        tied = {names[ranks.user[r]]: bool(t) for r, t in zip(ranks.target_row, ranks.marks["tied"])}
        assert tied == {"a": True, "b": False, "c": True, "d": False}
        assert (ranks.marks["untied"] == ~ranks.marks["tied"]).all()
        assert ranks.by_slice([1])["tied"]["targets"] == 2


@pytest.mark.parametrize("times", ["same", "order", "position"])
def test_data_without_times_says_so(make_config, tmp_path, caplog, times):
    """A constant time, or one that only counts, is none: every target may be tied, and nothing is shuffled."""
    fake = {"same": lambda n: 7, "order": lambda n: n, "position": lambda n: n + 1}[times]
    baskets = {user: [(i, fake(n)) for n, (i, _) in enumerate(events)] for user, events in BASKETS.items()}
    keys = {"data_path": str(write(tmp_path, baskets))}
    whole, (_, _, test) = assembly.datasets(make_config("IBIM", "baskets", ties="shuffle", **keys))
    assert "Nothing is shuffled" in caplog.text
    assert sequences(whole) == {user: [i for i, _ in events] for user, events in BASKETS.items()}
    assert test.tied_targets(np.arange(len(test.spans))).all()
    with pytest.raises(ConfigError, match="ties=together"):
        assembly.datasets(make_config("IBIM", "baskets", ties="together", **keys))


def test_an_order_of_chance_is_splitmix64_s_of_user_item_and_seed():
    """Another order of the same seed would be another table."""
    user, item = np.repeat(["u", "v"], 40).astype(object), np.array([f"i{n}" for n in range(80)], dtype=object)

    def mixed(number):
        number = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        number = (number ^ (number >> 27)) * 0x94D049BB133111EB % 2**64
        return number ^ (number >> 31)

    for seed in (0, 7):
        of_user, of_item = (pd.util.hash_array(tokens).tolist() for tokens in (user, item))
        drawn = [mixed(u ^ mixed((i + seed) % 2**64)) for u, i in zip(of_user, of_item)]
        wanted = sorted(range(80), key=lambda n: (n // 40, drawn[n]))
        assert ties.shuffled(np.arange(80) // 40, user, item, seed).tolist() == wanted


def adjacent_repeats(sequence, item):
    """Share of the neighbours in one sequence that are the same item."""
    same = sequence[1:] == sequence[:-1]
    return (same & (item[1:] == item[:-1])).sum() / same.sum()


@pytest.mark.parametrize("events", [6, 40])
def test_a_user_s_repeats_are_not_drawn_side_by_side(events):
    """Of a day with few items and many repeats as many are neighbours as in a uniform permutation."""
    draw, users = np.random.default_rng(2), 4000
    user = np.repeat(np.arange(users), events)
    item = draw.choice(4, users * events, p=(0.5, 0.3, 0.1, 0.1))
    tokens = [np.array([f"{kind}{n}" for n in each], dtype=object) for kind, each in (("u", user), ("i", item))]
    order = ties.shuffled(user, *tokens, seed=1)
    assert (user[order] == user).all()
    per_user = np.stack([np.bincount(item[user == u], minlength=4) for u in range(300)])
    order = order[user[order] < 300]
    uniform = (per_user * (per_user - 1)).sum() / (300 * events * (events - 1))
    assert adjacent_repeats(user[order], item[order]) == pytest.approx(uniform, rel=0.1)


def test_a_repeat_moves_no_other_event_of_its_user():
    """The first of each item keeps the place among the others that it has where nothing repeats."""
    user, item = np.full(30, "u", dtype=object), np.array([f"i{n}" for n in range(30)], dtype=object)
    alone = item[ties.shuffled(np.zeros(30, int), user, item, seed=4)].tolist()
    twice = np.append(item, ["i3", "i3", "i8"]).astype(object)
    order = ties.shuffled(np.zeros(33, int), np.full(33, "u", dtype=object), twice, seed=4)
    assert twice[order[order < 30]].tolist() == alone


def test_what_one_sequence_of_a_user_has_is_no_repeat_in_another():
    """Rows of successive targets hold the same history again and again."""
    item = np.array([f"i{n}" for n in range(9)] * 2, dtype=object)
    row = np.repeat([0, 1], 9)
    order = ties.shuffled(row, np.full(18, "u", dtype=object), item, seed=3, sequence=row)
    assert (item[order[:9]] == item[order[9:]]).all()
    assert order[:9].tolist() == ties.shuffled(row[:9], np.full(9, "u", dtype=object), item[:9], seed=3).tolist()


def test_who_sorts_by_time_has_times(parts):
    """``ORDER_FIELD`` may be ``TIME_FIELD``: then the order is no second column that the times could be a copy of."""
    plain, _ = parts(ties="shuffle", load_col={"inter": ["user_id", "item_id", "timestamp"]})
    whole, _ = parts(ties="shuffle", ORDER_FIELD="timestamp")
    assert sequences(whole) == sequences(plain) != sequences(parts()[0])
    _, (train, _, test) = parts(ORDER_FIELD="timestamp", protocol="global_time", time_dates=["2", "3"])
    assert len(train.spans) > 0 < len(test.spans)


def test_what_only_counts_is_no_time():
    user, days = np.array([0, 0, 0, 1, 1]), np.array([3.0, 5.0, 5.0, 4.0, 9.0])
    position = np.array([0.0, 1.0, 2.0, 0.0, 1.0])
    assert ties.has_times(user, days, position)
    assert ties.has_times(user, days, None)
    for none in (None, days[:0], np.full(5, 7.0), position, position + 1):
        assert not ties.has_times(user, none, None)
    assert ties.has_times(user, days, days), "an order would tell tied events apart"
    ascending = np.array([3.0, 5.0, 6.0, 4.0, 9.0])
    assert not ties.has_times(user, ascending, ascending), "the order under another name, filters having left gaps"
    for real in (ascending + 9e8, ascending + 0.5):
        assert ties.has_times(user, real, real), "too large for a count, or no whole numbers"
    assert not ties.has_times(user[:1], days[:1], None)
    assert ties.moments(user, days).dtype == np.int32


@pytest.mark.parametrize("timed", [True, False])
def test_ties_are_counted_pair_by_pair(timed):
    draw = np.random.default_rng(4)
    events = {u: sorted(draw.integers(0, 4, draw.integers(1, 6)).tolist()) for u in range(40)}
    user = np.concatenate([[u] * len(times) for u, times in events.items()])
    time, item, id_rank = np.concatenate(list(events.values())), draw.integers(0, 7, len(user)), draw.permutation(7)
    pairs = [n for n in range(1, len(user)) if user[n] == user[n - 1]]
    tied = [n for n in pairs if not timed or time[n] == time[n - 1]]
    up = [n for n in pairs if id_rank[item[n]] > id_rank[item[n - 1]]]
    lasts = [max(n for n in range(len(user)) if user[n] == u) for u in events]
    distinct = {(u, i) for u, i in zip(user.tolist(), item.tolist())}
    assert ties.count_ties(user, item, time if timed else None, id_rank) == ties.TieCounts(
        len(pairs), len(tied), len({*tied} & {*up}), len({*up} - {*tied}), 40, len({*lasts} & {*tied}), len(user),
        len(user) - len(distinct),
    )  # fmt: skip


def test_repeats_are_counted_where_users_times_items_pass_32_bits():
    user, item = np.array([0, 1 << 16, 1 << 16], dtype=np.int32), np.array([0, 0, (1 << 16) - 1], dtype=np.int32)
    assert ties.count_ties(user, item, None, np.arange(1 << 16)).repeats == 0


@pytest.mark.parametrize(("user", "time", "last"), [([0, 1, 1], [1, 2, 2], 1), ([0, 0], [1, 1], 1), ([], [], 0)])
def test_the_last_two_of_a_user_are_that_user_s(user, time, last):
    found = ties.count_ties(np.array(user, int), np.zeros(len(user), int), np.array(time), np.zeros(1, int))
    assert (found.last_tied, found.users, found.events) == (last, len(set(user)), len(user))


@pytest.mark.parametrize(("tied", "ascending", "said"), [(0, 0, False), (1, 1, True), (10, 6, False), (10, 7, True)])
def test_an_order_is_suspicious_where_more_than_chance_would_have_it_ascend(tied, ascending, said):
    assert ties.TieCounts(20, tied, ascending, 3, 9, 1, 30, 0).suspicious == said


# ---------------------------------------------------------------------- replies
def replies(path, made_of):
    template = (properties_folder() / "prompts" / "interests.txt").read_text(encoding="utf-8").rstrip("\n")
    lines = []
    for user, items in made_of.items():
        prompt = template.replace("{history}", "".join(f"[{TITLES[i]} (i{i})]" for i in items))
        digest = hashlib.sha256(prompt.encode()).hexdigest()
        lines.append({"user_id": user, "response": json.dumps({"1": f"wish of {user}"}), "prompt_sha256": digest})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {"interest_source": "file", "interest_file": str(path)}


def test_replies_of_the_source_s_order_serve_unless_they_know_what_is_held_out(parts, tmp_path, caplog):
    """Under every seed: what is not used is exactly the replies whose prompt names an item that is held out today."""
    asked = {user: [i for i, _ in events][: -2 if len(events) > 3 else None] for user, events in BASKETS.items()}
    keys = replies(tmp_path / "replies.jsonl", asked)
    counts = set()
    for seed in range(12):
        _, (train, _, _) = parts("EIMF", ties="shuffle", ties_seed=seed, **keys)
        knowing = {user for user, items in sequences(train).items() if set(asked[user]) - set(items)}
        report = train.side.report
        assert report.get("replies_that_know_held_out_items", 0) == len(knowing)
        assert report["replies_of_this_history"] == len(asked) - len(knowing)
        assert report["exemplars"] == len(asked) - len(knowing)
        assert report["training_users_with_interests"] == len(asked), "their members move to the nearest"
        counts.add(len(knowing))
    assert max(counts) > 0
    assert "held out for their user" in caplog.text


def test_nobody_keeps_a_cluster_that_was_found_with_an_item_that_is_held_out_today(parts, tmp_path):
    """Of an assignment made in the source's order; who lost no item keeps its place, and an exemplar is its own."""
    asked = {user: [i for i, _ in events][: -2 if len(events) > 3 else None] for user, events in BASKETS.items()}
    exemplars = list(asked)[:2]
    keys = replies(tmp_path / "replies.jsonl", {user: asked[user] for user in exemplars})
    far = {user: exemplars[n % 2] if user not in exemplars else user for n, user in enumerate(asked)}
    path = tmp_path / "assignment.csv"
    path.write_text("user_id,exemplar_user_id\n" + "".join(f"{user},{own}\n" for user, own in far.items()))
    keys["assignment_file"] = str(path)
    counts = set()
    for seed in range(12):
        _, (train, _, _) = parts("EIMF", ties="shuffle", ties_seed=seed, **keys)
        lost = {user for user, items in sequences(train).items() if set(asked[user]) - set(items)} - set(exemplars)
        report = train.side.report
        if report.get("replies_that_know_held_out_items"):
            continue  # then all users of one exemplar move
        assert (
            report.get("users_assigned_with_held_out_items", 0)
            == report["users_moved_to_nearest_exemplar"]
            == len(lost)
        )
        counts.add(len(lost))
    assert max(counts) > 0
    _, (train, _, _) = parts("EIMF", ties="source", **keys)
    assert "users_assigned_with_held_out_items" not in train.side.report


def test_keywords_exported_in_the_source_s_order_are_made_anew(parts, tmp_path):
    """They are words of what a whole cluster bought, and no digest says of what."""
    _, (train, _, _) = parts(ties="source")
    corpus = corpus_of(train.config, train)
    origin = export.Origin(
        "baskets", "leave_one_out", export.fingerprint_of(corpus.users, corpus.histories), None, "", 1
    )
    found = SimpleNamespace(
        exemplars=corpus.users[:1], texts=[("a",)], digests=[None], assignment={corpus.users[0]: 0},
        source="keywords", llm_used=False, made_by="keywords", report={"interests": 1}, replies={},
    )  # fmt: skip
    export.write_export(tmp_path / "export", found, origin, None)
    keys = {"interest_source": "file", "interest_file": str(tmp_path / "export")}
    parts("EIMF", ties="source", **keys)
    with pytest.raises(DataError, match=r"(?s)keywords of the titles.*Leave interest_file out"):
        parts("EIMF", ties="shuffle", ties_seed=3, **keys)


@pytest.mark.parametrize(
    ("keys", "warned"),
    [({}, True), ({"interest_source": "batch"}, True), ({"ties": "shuffle"}, False),
     ({"interest_source": "keywords"}, False), ({"protocol": "user_split", "split_ratios": [0.5, 0.25, 0.25]}, False)],
)  # fmt: skip
def test_who_is_about_to_pay_for_replies_in_the_source_s_order_is_told(make_config, tmp_path, caplog, keys, warned):
    """Of users a to d the last training item of three has the time of the one that validation holds out."""
    given = make_config("EIMF").external_config_dict | {"data_path": str(write(tmp_path)), "interest_source": "openai"}
    training_pipeline("baskets", None, given | keys, lambda settings: None)
    assert ("ties=source: 3 of 4 users" in caplog.text) == warned
    assert caplog.text.count("ask with --ties=shuffle") == warned


def test_replies_of_whole_histories_are_refused_whatever_the_order(parts, tmp_path):
    whole = replies(tmp_path / "replies.jsonl", {user: [i for i, _ in events] for user, events in BASKETS.items()})
    with pytest.raises(DataError, match="allow_foreign_replies"):
        parts("EIMF", ties="shuffle", **whole)


def test_prompts_are_in_the_source_s_order_and_know_no_held_out_item(parts):
    for seed in range(5):
        whole, (train, valid, test) = parts(ties="shuffle", ties_seed=seed)
        corpus = corpus_of(whole.config, train)
        for user, history in zip(corpus.users, corpus.histories):
            trained = set(sequences(train)[user])
            assert [int(i[1:]) for i in history] == [i for i, _ in BASKETS[user] if i in trained]


# ---------------------------------------------------------------------- prepare
def test_prepare_tells_ties_repeats_and_lengths(tmp_path):
    lines = [f"{u},{i},{t}" for u, events in BASKETS.items() for i, t in events] + ["b,1,9"]
    (tmp_path / "x.csv").write_text("\n".join(["user_id,item_id,timestamp", *lines]) + "\n")
    report = prepare_csv(tmp_path / "x.csv", tmp_path, "x")
    text = report.table()
    assert "sequence lengths: 4 to 7, median 6, mean 5.8" in text
    assert "repeats: 1 of 23" in text
    assert "rank new items alone" not in text
    assert "ties: 9 of 19 neighbouring pairs (47.4 %) have one time, the last two of 50.0 % of the users" in text
    assert "ascend in 100.0 % of them, in 30.0 % of the other pairs" in text
    assert "WARNING: the order inside one time looks like that of the item ids" in text
    assert json.loads((tmp_path / "x" / "prepare.json").read_text())["remarks"] == report.remarks


@pytest.mark.parametrize(
    ("items", "said"),
    [("8 9 10 11 100", "item ids ascend as numbers in 100.0 %"), ("1 10 100 11 2", "item ids ascend in 100.0 %"),
     ("a8 a9 a10 a11 a100", "item ids ascend in 50.0 %"), ("1 2 3 4 " + 5000 * "9", "item ids ascend in 100.0 %")],
)  # fmt: skip
def test_ids_ascend_as_the_numbers_or_the_text_that_the_file_was_sorted_by(tmp_path, items, said):
    lines = [f"u,{item},7" for item in items.split()] + ["u,z,8" if "a" in items else "u,0,8"]
    (tmp_path / "x.csv").write_text("\n".join(["user_id,item_id,timestamp", *lines]) + "\n")
    assert said in prepare_csv(tmp_path / "x.csv", tmp_path, "x").table()


def test_prepare_tells_data_without_times(tmp_path):
    (tmp_path / "x.csv").write_text("user_id,item_id\na,3\na,1\na,2\nb,9\nb,4\n")
    report = prepare_csv(tmp_path / "x.csv", tmp_path, "x", no_time=True)
    assert "there are no times, only an order: all 3 neighbouring pairs may be tied" in report.table()
    assert "WARNING" not in report.table()
    assert "repeats: 0 of 5 interactions (0.0 %) are with an item that the user had before; rank new items alone" in (
        report.table()
    )
