"""Lazy sequences: the same rows as RecBole's augmentation, split as the protocols say, and no leakage."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recbole.config import Config
from recbole.data.dataset import SequentialDataset

from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.data import protocol, views
from recbole_eimf.data.dataset import TARGET_LIST
from recbole_eimf.experiment import assembly
from tests.conftest import TITLES, planted_sequences, write_atomic

SIZES = [0, 1, 2, 3, 4, 9, 23]


@pytest.fixture
def spans():
    offsets = np.concatenate([[0], np.cumsum(SIZES)])
    return offsets, protocol.leave_one_out(offsets)


def test_leave_one_out_holds_out_the_last_two(spans):
    offsets, split = spans
    for user, size in enumerate(SIZES):
        held = {0: 0, 1: 0, 2: 0, 3: 1}.get(size, 2)
        rows = np.flatnonzero(split.train.user == user)
        assert len(rows) == (size > 0)
        if size:
            assert split.train.middle[rows[0]] == offsets[user + 1] - held
        for part, back, needed in ((split.valid, 2, 2), (split.test, 1, 1)):
            row = np.flatnonzero(part.user == user)
            assert len(row) == (held >= needed)
            if len(row):
                target = offsets[user + 1] - back
                assert (part.start[row[0]], part.middle[row[0]], part.end[row[0]]) == (
                    offsets[user],
                    target,
                    target + 1,
                )


def test_user_split_is_by_user_seeded_and_80_20_within_a_user():
    offsets = np.concatenate([[0, 0], np.cumsum(np.random.default_rng(0).integers(1, 30, 200))])
    split = protocol.user_split(offsets, seed=5)
    length = np.diff(offsets)
    parts = [set(p.user.tolist()) for p in (split.train, split.valid, split.test)]
    assert set.union(*parts) == set(np.flatnonzero(length >= 2).tolist())
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert len(parts[0]) == int(0.8 * len(set.union(*parts)))
    for part in (split.valid, split.test):
        size = part.end - part.start
        assert (part.middle - part.start == np.maximum((size * 0.8).astype(int), 1)).all()
        assert (part.end > part.middle).all()
    assert (protocol.user_split(offsets, seed=5).test.user == split.test.user).all()
    assert set(protocol.user_split(offsets, seed=6).test.user) != set(split.test.user)


@pytest.mark.parametrize("ratios", [None, (0.5, 0.3, 0.2), (0.25, 0.25, 0.5)])
def test_the_parts_of_a_user_split_are_drawn_one_after_the_other(ratios):
    length = np.arange(40) % 5
    offsets = np.concatenate([[0], np.cumsum(length)])
    split = protocol.user_split(offsets, 3, *([] if ratios is None else [ratios]))
    users = np.random.default_rng(3).permutation([user for user in range(40) if length[user] >= 2]).tolist()
    first, second, _ = ratios or (0.8, 0.1, 0.1)
    ends = int(len(users) * first), int(len(users) * first) + int(len(users) * second)
    wanted = [sorted(part) for part in (users[: ends[0]], users[ends[0] : ends[1]], users[ends[1] :])]
    assert [getattr(split, part).user.tolist() for part in protocol.PARTS] == wanted
    for shares in ((0.5, 0.5), (-0.1, 0.6, 0.5), (0.5, 0.3, 0.1), (0.5, 0.3, 0.3)):
        with pytest.raises(ConfigError, match="three shares"):
            protocol.user_split(offsets, 3, shares)
    with pytest.raises(ConfigError, match="leaves no user for valid"):
        protocol.user_split(offsets, 3, (0.5, 0.0, 0.5))


def test_user_split_says_when_a_part_would_be_empty():
    with pytest.raises(ConfigError, match="no user for valid"):
        protocol.user_split(np.array([0, 3, 6]), seed=0)
    with pytest.raises(ConfigError, match="sum to 1"):
        protocol.user_split(np.array([0, 3, 6]), seed=0, ratios=(0.5, 0.1, 0.1))


@pytest.mark.parametrize("max_length", [1, 3, 50])
def test_sequence_and_prefix_views_have_the_same_targets(spans, max_length):
    _, split = spans
    flat = torch.arange(1, sum(SIZES) + 1)
    rng = np.random.default_rng(0)
    targets = {}
    for name in ("sequence", "prefix"):
        view = views.training_view(name, flat, split.train, max_length)
        span, start, end = view.rows(np.arange(len(view)), rng)
        assert (end - start <= max_length).all()
        assert (end > start).all()
        assert (view.size == end - start).all()
        assert (start >= split.train.start[span]).all()
        assert (end < split.train.middle[span]).all()
        many = view.targets if name == "sequence" else np.ones(len(view), dtype=int)
        positions = [range(b + 1 - count, b + 1) for b, count in zip(end, many)]
        targets[name] = sorted(p for row in positions for p in row)
    assert targets["sequence"] == targets["prefix"]
    assert len(set(targets["prefix"])) == len(targets["prefix"])


def test_random_cuts_stay_inside_and_reach_every_target_from_min_history_on(spans):
    _, split = spans
    flat = torch.arange(1, sum(SIZES) + 1)
    view = views.training_view("random_cut", flat, split.train, 5, min_history=4, visits=2)
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        span, start, end = view.rows(np.arange(len(view)), rng)
        first, stop = split.train.start[span], split.train.middle[span]
        assert (end < stop).all()
        assert (start >= first).all()
        assert ((end - first >= 4) | (end == stop - 1)).all()
        assert (end - start <= 5).all()
        seen |= set(end.tolist())
    long_user = np.flatnonzero(split.train.user == 6)[0]
    expected = set(range(split.train.start[long_user] + 4, split.train.middle[long_user]))
    assert expected <= seen


@pytest.mark.parametrize("stride", [1, 2, 4, 7])
def test_windows_go_back_from_the_end_until_one_begins_where_the_user_does(stride):
    sizes = [0, 1, 2, 5, 8, 9, 10, 15, 23]
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    whole = protocol.Spans(np.arange(len(sizes)), offsets[:-1], offsets[1:], offsets[1:])
    view = views.SequenceView(torch.arange(sum(sizes)), whole, 7, stride)
    wanted = []
    for user, size in enumerate(sizes):
        last, begin = size - 1, None
        while last > 0 and begin != 0:
            begin = max(last - 7, 0)
            wanted.append((user, offsets[user] + begin, offsets[user] + last))
            last -= stride
    assert list(zip(*view.rows(np.arange(len(view)), np.random.default_rng(0)))) == wanted


def test_every_visit_of_a_user_is_a_row_and_who_has_one_item_alone_has_none(spans):
    _, split = spans
    flat = torch.arange(1, sum(SIZES) + 1)
    many = [row for row, size in enumerate(split.train.middle - split.train.start) if size > 1]
    assert len(many) < len(split.train)
    for visits in (1, 3):
        view = views.training_view("random_cut", flat, split.train, 5, visits=visits)
        span, start, end = view.rows(np.arange(len(view)), np.random.default_rng(0))
        assert sorted(span.tolist()) == sorted(visits * many)
        assert (end > start).all()


def test_a_row_that_is_cut_at_random_has_the_size_of_its_longest_history(spans):
    _, split = spans
    view = views.training_view("random_cut", torch.arange(1, sum(SIZES) + 1), split.train, 5)
    rng = np.random.default_rng(0)
    longest = np.zeros(len(view), dtype=int)
    for _ in range(100):
        _, start, end = view.rows(np.arange(len(view)), rng)
        longest = np.maximum(longest, end - start)
    assert view.size.tolist() == longest.tolist()


def test_a_row_that_is_evaluated_has_the_size_of_its_history_and_not_of_what_is_asked_for():
    asked = protocol.Spans(np.arange(3), np.array([0, 3, 13]), np.array([2, 7, 30]), np.array([3, 13, 40]))
    view = views.EvaluationView(torch.arange(40), asked, 5)
    _, start, end = view.rows(np.arange(3), np.random.default_rng(0))
    assert view.size.tolist() == (end - start).tolist() == [2, 4, 5]


def test_gather_rows_pads_on_the_right():
    flat = torch.tensor([5, 6, 7, 8])
    got = views.gather_rows(flat, np.array([0, 2, 3]), np.array([3, 4, 3]), None)
    assert got.tolist() == [[5, 6, 7], [7, 8, 0], [0, 0, 0]]


def build(make_config, model="IBIM", **keys):
    config = make_config(model, **keys)
    whole, parts = assembly.datasets(config)
    return config, whole, parts


@pytest.mark.parametrize("max_length", [3, 50])
def test_rows_are_those_of_recboles_own_augmentation_and_split(tmp_path, make_config, max_length):
    """Independent check: RecBole's SequentialDataset on the same file (times made distinct, so that it can sort)."""
    rng = np.random.default_rng(1)
    sequences = [rng.integers(0, 12, size).tolist() for size in (1, 2, 3, 4, 5, 9, 20)]
    write_atomic(tmp_path, "tiny", sequences)
    path = tmp_path / "tiny" / "tiny.inter"
    lines = path.read_text().splitlines()
    rows = [line.split("\t") for line in lines[1:]]
    path.write_text("\n".join([lines[0], *("\t".join([u, i, o, o]) for u, i, _, o in rows)]) + "\n")
    keys = {"data_path": str(tmp_path), "MAX_ITEM_LIST_LENGTH": max_length}
    _, _, ours = build(make_config, model="SASRec", dataset="tiny", training_view="prefix", **keys)
    stock_keys = {**keys, "load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "train_neg_sample_args": None}
    theirs = SequentialDataset(Config("SASRec", "tiny", None, stock_keys)).build()

    def as_set(part, index):
        found = part[index]
        return sorted(
            (int(u), tuple(s[:n].tolist()), int(t))
            for u, s, n, t in zip(found["user_id"], found["item_id_list"], found["item_length"], found["item_id"])
        )

    for mine, stock in zip(ours, theirs):
        assert len(mine) == len(stock)
        assert as_set(mine, np.arange(len(mine))) == as_set(stock, np.arange(len(stock)))


def test_order_column_decides_where_float32_times_cannot(tmp_path, make_config):
    folder = tmp_path / "close"
    folder.mkdir()
    times = [1318896000 + n for n in range(8)]  # float32 holds these to about a minute
    assert len({np.float32(t) for t in times}) == 1
    rows = [f"u\ti{n}\t{t}" for n, t in enumerate(times)]
    np.random.default_rng(0).shuffle(rows)
    (folder / "close.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n" + "\n".join(rows) + "\n")
    config, _, (train, valid, test) = build(make_config, dataset="close", data_path=str(tmp_path))
    names = train.field2id_token["item_id"]
    assert [names[i] for i in train.sequences()[1][0]] == [f"i{n}" for n in range(6)]
    assert names[int(valid[0]["item_id"])] == "i6"
    assert names[int(test[0]["item_id"])] == "i7"


@pytest.mark.parametrize(("length", "stride"), [(50, None), (5, None), (5, 1), (5, 5), (1, None)])
def test_sequence_rows_carry_every_target_once_after_what_came_before_it(make_config, length, stride):
    _, _, (train, _, _) = build(make_config, MAX_ITEM_LIST_LENGTH=length, window_stride=stride)
    rows = train.rows(np.arange(len(train)))
    shortest = length - (stride or max(length // 2, 1)) + 1  # history that a target has, where there is that much
    found = []
    for user, items, targets, count in zip(
        rows["user_id"], rows["item_id_list"], rows[TARGET_LIST], rows["item_length"]
    ):
        assert (items[count:] == 0).all()
        assert (targets[count:] == 0).all()
        sequence = train.sequences()[1][int(user) - 1].tolist()
        for place in targets.nonzero()[:, 0].tolist():
            history = items[: place + 1].tolist()
            # which of the user's targets this is: the planted items of a user may repeat
            at = [
                n for n in range(1, len(sequence))
                if sequence[n] == targets[place] and sequence[max(n - len(history), 0) : n] == history
            ]  # fmt: skip
            assert at
            assert any(len(history) >= min(n, shortest) for n in at)
            found.append((int(user), int(targets[place])))
    expected = [(n + 1, item) for n, s in enumerate(train.sequences()[1]) for item in s.tolist()[1:]]
    assert sorted(found) == sorted(expected)
    assert train.view.targets.sum() == len(expected)


def test_a_stride_out_of_range_is_refused(make_config):
    with pytest.raises(ConfigError, match="window_stride=9"):
        build(make_config, MAX_ITEM_LIST_LENGTH=5, window_stride=9)


def test_memory_is_one_row_per_interaction(make_config):
    _, whole, parts = build(make_config, MAX_ITEM_LIST_LENGTH=500)
    for part in (whole, *parts):
        assert all(value.dim() == 1 for value in part.inter_feat.interaction.values())


@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_visits_every_row_once(make_config, shuffle):
    config = make_config("IBIM", train_batch_size=16, shuffle=shuffle)
    train, _, _ = assembly.loaders(config)
    batches = list(train)
    assert len(batches) == len(train)
    users = torch.cat([b["user_id"] for b in batches])
    expected = torch.from_numpy(train._dataset.spans.user[train._dataset.view.span])
    assert sorted(users.tolist()) == sorted(expected.tolist())
    again = torch.cat([b["user_id"] for b in train])
    assert torch.equal(users, again) != shuffle


def test_rows_of_like_length_share_a_batch_and_batches_and_rows_come_in_an_order_of_their_own(make_config):
    train, _, _ = assembly.loaders(make_config("IBIM", train_batch_size=4))
    train.batches_sorted_together = 5
    size, order = train._dataset.view.size, np.random.default_rng(0).permutation(train.sample_size)
    wanted = []
    for begin in range(0, len(order), 20):
        part = sorted(order[begin : begin + 20].tolist(), key=lambda row: size[row])
        wanted += [part[place : place + 4] for place in range(0, len(part), 4)]
    found = [batch.tolist() for batch in train._batches(order, np.random.default_rng(1))]
    assert sorted(found) == sorted(wanted)
    assert found != wanted, "from short to long, five batches at a time"
    epochs = [{frozenset(batch["user_id"].tolist()) for batch in train} for _ in range(2)]
    assert epochs[0] != epochs[1], "the same rows together in every epoch"


def test_mask_history_hides_everything_before_the_target(make_config):
    config = make_config("IBIM", mask_history=True)
    _, _, test_data = assembly.loaders(config)
    _, (row, item), positive_row, positive_item = next(iter(test_data))
    part = test_data._dataset
    for r in range(5):
        history = part.flat[part.spans.start[r] : part.spans.middle[r]]
        assert item[row == r].tolist() == history.tolist()
        assert positive_item[positive_row == r].tolist() == [int(part.flat[part.spans.middle[r]])]


def tokens(part):
    users, sequences = part.sequences()
    names, items = part.field2id_token["user_id"], part.field2id_token["item_id"]
    return {names[u]: [items[i] for i in s] for u, s in zip(users, sequences)}


@pytest.mark.parametrize("order", ["source", "shuffle", "together"])
def test_nothing_held_out_reaches_training_through_ties(tmp_path, make_config, order):
    """Give every held-out event of a user the item of another one: training and prompts see no difference."""
    from recbole_eimf.semantic.side_load import corpus_of

    rng = np.random.default_rng(3)
    days = [[(i, n // 2) for n, i in enumerate(rng.permutation(10)[:7])] for _ in range(40)]

    def parts(folder, users):
        rows = [f"u{u}\ti{i}\t{day}\t{n}" for u, events in enumerate(users) for n, (i, day) in enumerate(events)]
        write_atomic(folder, "x", [[0]], TITLES)
        head = "user_id:token\titem_id:token\ttimestamp:float\torder:float"
        (folder / "x" / "x.inter").write_text("\n".join([head, *rows]) + "\n")
        return build(make_config, "IBIM", dataset="x", data_path=str(folder), ties=order)

    config, _, (train, _, _) = parts(tmp_path / "a", days)
    kept = tokens(train)
    changed = []
    for u, events in enumerate(days):
        mine = [event for event in events if f"i{event[0]}" in kept[f"u{u}"]]
        assert len(mine) == len(kept[f"u{u}"]) < len(events)
        # a last day of its own keeps a held-out event last whatever the draw says of its item
        held = [(int(rng.integers(10)), 90 + n) for n in range(len(events) - len(mine))]
        changed.append(mine + held[:2])
    other_config, _, (other, _, _) = parts(tmp_path / "b", changed)
    assert tokens(other) == kept
    one, two = corpus_of(config, train), corpus_of(other_config, other)
    assert dict(zip(one.users, one.histories)) == dict(zip(two.users, two.histories))


@pytest.mark.parametrize("chosen", ["leave_one_out", "user_split"])
def test_nothing_held_out_reaches_training_or_esim(tmp_path, make_config, chosen):
    """Change every held-out item, and under a user split everything of held-out users: training sees no difference."""
    from recbole_eimf.semantic.side_load import corpus_of

    sequences = planted_sequences(60)
    write_atomic(tmp_path / "a", "x", sequences, TITLES)
    keys = {"dataset": "x", "protocol": chosen, "interest_source": "keywords"}
    config, _, (train, valid, test) = build(make_config, "EIMF", data_path=str(tmp_path / "a"), **keys)
    held = {part.field2id_token["user_id"][u] for part in (valid, test) for u in part.spans.user}

    rng = np.random.default_rng(9)
    changed = []
    for u, sequence in enumerate(sequences):
        if chosen == "leave_one_out":
            changed.append([*sequence[:-2], *rng.integers(0, 10, 2).tolist()])
        else:
            changed.append(rng.integers(0, 10, len(sequence)).tolist() if f"u{u}" in held else sequence)
    assert changed != sequences
    write_atomic(tmp_path / "b", "x", changed, TITLES)
    other_config, _, (other, _, _) = build(make_config, "EIMF", data_path=str(tmp_path / "b"), **keys)

    assert tokens(train) == tokens(other)
    one, two = corpus_of(config, train), corpus_of(other_config, other)
    assert dict(zip(one.users, one.histories)) == dict(zip(two.users, two.histories))
    if chosen == "user_split":
        assert not held & set(one.users)
    names, other_names = train.field2id_token["user_id"], other.field2id_token["user_id"]

    def interests(part, named):
        found = {}
        for u, exemplar in enumerate(part.side.user_exemplar.tolist()):
            if exemplar >= 0:
                vectors = part.side.interests[exemplar][part.side.interest_mask[exemplar]]
                found[named[u]] = vectors.double().sum(0)
        return found

    mine, theirs = interests(train, names), interests(other, other_names)
    assert mine.keys() == theirs.keys() == tokens(train).keys()
    assert all(torch.allclose(mine[u], theirs[u], atol=1e-5) for u in mine)
    counts = dict(zip(train.field2id_token["item_id"], train.item_counts()))
    assert counts == dict(zip(other.field2id_token["item_id"], other.item_counts()))


def test_missing_data_set_says_both_ways_at_once(make_config, tmp_path):
    with pytest.raises(DataError, match=r"(?s)nowhere.*prepare.*not on the list"):
        build(make_config, dataset="nowhere", data_path=str(tmp_path))


def test_unknown_protocol_and_view_are_errors(make_config):
    with pytest.raises(ConfigError, match="protocol='leave_two_out'.*leave_one_out"):
        make_config("IBIM", protocol="leave_two_out")
    with pytest.raises(ConfigError, match="training_view"):
        make_config("IBIM", training_view="rows")
    for backbone in ("ComiRecSA", "REMI", "MIND", "Caser"):
        with pytest.raises(ConfigError, match=f"training_view=sequence: {backbone} has one state a history"):
            make_config("IBIM", training_view="sequence", backbone=backbone)
    with pytest.raises(ConfigError, match="training_view=sequence: Caser"):
        make_config("PAD", training_view="sequence", backbone="Caser")
    for backbone in ("SASRec", "GRU4Rec", "DNN"):
        make_config("IBIM", training_view="sequence", backbone=backbone)
    for model in ("IBIM", "PAD", "ProfileDistillation", "BERT4Rec"):
        with pytest.raises(ConfigError, match=f"training_view=interactions: {model} reads histories"):
            make_config(model, training_view="interactions")
    for model in ("Popularity", "DecayedItemKNN", "Pop"):
        make_config(model, training_view="interactions")
