"""The split by one time for all: rows against loops, nothing of the future, floors that weigh by recency."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from recbole_eimf.core.errors import ConfigError, DataError, UserError
from recbole_eimf.data import time_split
from recbole_eimf.data.loader import loader_class
from recbole_eimf.data.ties import moments
from recbole_eimf.evaluator.ranks import collected_ranks
from recbole_eimf.experiment import assembly
from recbole_eimf.model.pad.experts import frequency_buckets
from recbole_eimf.semantic.side_load import corpus_of, exchange_of
from tests.data.test_ties import write

DAY = 86_400


def history(users=60, seed=0):
    """user -> (item, second), ascending; days with several events, users who come late, items that appear late."""
    rng = np.random.default_rng(seed)
    found = {}
    for u in range(users):
        days = np.sort(rng.integers(0, 100, rng.integers(1, 12)) + (60 if u % 5 == 0 else 0))
        found[f"u{u}"] = [(int(rng.integers(0, 10 if d > 130 else 8)), int(d) * DAY + 1_300_000_000) for d in days]
    return found


EVENTS = history()
TIMES = np.array([t for events in EVENTS.values() for _, t in events], dtype=float)
T_VAL, T_TEST = np.quantile(TIMES, [0.8, 0.9])


@pytest.fixture
def parts(make_config, tmp_path):
    def build(model="IBIM", events=EVENTS, folder="x", **keys):
        given = {"dataset": "baskets", "data_path": str(write(tmp_path / folder, events)), "protocol": "global_time"}
        config = make_config(model, **{**given, **keys})
        return config, assembly.datasets(config)[1]

    return build


def named(part):
    """Every row as (user, history, targets)."""
    users, items = part.field2id_token["user_id"], [t[1:] for t in part.field2id_token["item_id"]]
    flat, spans = part.flat.tolist(), part.spans
    return sorted((users[u], [int(items[i]) for i in flat[a:b]], [int(items[i]) for i in flat[b:c]])
                  for u, a, b, c in zip(spans.user, spans.start, spans.middle, spans.end))  # fmt: skip


def expected(after, until, target):
    rows = []
    for user, events in EVENTS.items():
        asked = [n for n, (_, t) in enumerate(events) if after < t <= until and n > 0]
        items = [i for i, _ in events]
        if asked and target == "all":
            rows.append((user, items[: asked[0]], [items[n] for n in asked]))
        elif asked:
            chosen = {"successive": asked, "first": asked[:1], "last": asked[-1:]}[target]
            rows += [(user, items[:n], [items[n]]) for n in chosen]
    return sorted(rows)


@pytest.mark.parametrize("target", time_split.TARGETS)
def test_rows_are_those_of_the_definition(parts, target):
    _, (train, valid, test) = parts(time_target=target)
    known = {u: [i for i, t in events if t <= T_VAL] for u, events in EVENTS.items()}
    assert named(train) == sorted((u, items, []) for u, items in known.items() if items)
    assert named(valid) == expected(T_VAL, T_TEST, target)
    assert named(test) == expected(T_TEST, np.inf, target)
    assert len({u for u, _, _ in named(test)} - known.keys()) == 0
    ranks = collected_ranks(np.zeros((len(test.spans), 5), dtype=np.int64), test, train)
    new = {
        test.field2id_token["user_id"][ranks.user[r]] for r, n in zip(ranks.target_row, ranks.marks["new_user"]) if n
    }
    assert new == {u for u, _, _ in named(test) if not known[u]} != set()
    found = ranks.by_slice([5])
    counts = Counter(i for items in known.values() for i in items)
    pairs = {(n, i) for n, (_, _, targets) in enumerate(named(test)) for i in targets}
    assert found["unseen"]["targets"] == sum(counts[i] == 0 for _, i in pairs)
    assert found["seen"]["targets"] == sum(counts[i] > 0 for _, i in pairs)
    assert not ranks.marks["seen"][ranks.target_count == 0].any()


def spans_by_loops(offsets, time, until, target, moment):
    """(training, validation, test, before the test) as lists of (user, start, middle, end), from the docstring."""
    found = [], [], [], []
    for user, (a, b) in enumerate(zip(offsets, offsets[1:])):
        events = range(a, b)
        groups = [[p for p in events if moment[p] == m] for m in sorted({moment[p] for p in events})]
        for part, until_then in ((0, until[0]), (3, until[1])):
            known = sum(time[p] <= until_then for p in events)
            if known:
                found[part].append((user, a, a + known, a + known))
        for part, (after, last) in ((1, until), (2, (until[1], np.inf))):
            asked = [g for g in groups[1:] if after < time[g[0]] <= last]
            if target == "all":
                rows = [[p for g in asked for p in g]] if asked else []
            else:
                rows = {"successive": asked, "first": asked[:1], "last": asked[-1:]}[target]
            found[part].extend((user, a, row[0], row[-1] + 1) for row in rows)
    return found


@pytest.mark.parametrize("target", time_split.TARGETS)
@pytest.mark.parametrize("together", [False, True])
def test_spans_agree_with_loops(target, together):
    draw = np.random.default_rng(7)
    for _ in range(20):
        length = np.concatenate([[0], [3], draw.integers(0, 7, 6)])  # row 0 is padding; the last may have none
        offsets = np.concatenate([[0], np.cumsum(length)])
        user = np.repeat(np.arange(len(length)), length)
        time = np.concatenate([np.sort(draw.integers(0, 9, n)) for n in length]).astype(float)
        moment = moments(user, time) if together else None
        split = time_split.global_time(offsets, time, (3.0, 6.0), target, moment)
        wanted = spans_by_loops(offsets, time, (3.0, 6.0), target, np.arange(len(user)) if moment is None else moment)
        for part, rows in zip((split.train, split.valid, split.test, split.before_test), wanted):
            assert list(zip(*(getattr(part, field).tolist() for field in ("user", "start", "middle", "end")))) == rows


def test_an_event_weighs_half_of_one_a_half_life_later():
    days = np.array([0.0, 3.0, 10.0, 17.0]) * DAY + 1.3e9
    assert time_split.recency_weights(days, 7.0) == pytest.approx([0.5 ** (17 / 7), 0.25, 0.5, 1.0])
    for ticks in (1e3, 1e6, 1e9):
        assert time_split.recency_weights(days * ticks, 7.0) == pytest.approx([0.5 ** (17 / 7), 0.25, 0.5, 1.0])
    assert len(time_split.recency_weights(days[:0], 7.0)) == 0


def test_dates_are_of_utc_wherever_one_is(monkeypatch):
    dates = ("2014-03-07", "2014-05-13"), ("2014-03-07T05:00:00+05:00", "2014-05-12T22:00-02:00")
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        found = [time_split.borders(np.array([1.0e9, 1.4e9]), (), two) for two in dates]
    time.tzset()
    assert found == 2 * [(1394150400.0, 1399939200.0)]


def test_text_of_later_items_alone_is_an_error_and_no_nan(parts, tmp_path):
    """tfidf-svd, which is fitted on what training knows, says so itself."""
    folder = write(tmp_path / "x", EVENTS)
    items = folder / "baskets" / "baskets.item"
    _, (train, _, _) = parts("Popularity")
    later = [t for t, n in zip(train.field2id_token["item_id"], train.item_counts()) if not n and t != "[PAD]"]
    assert later
    for encoder in ("minilm", "tfidf-svd"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tests.data.test_time_split.write", lambda *_: folder)
            titles = "".join(f"{token}\tsome thing\n" for token in later)
            items.write_text("item_id:token\ttitle:token_seq\n" + titles)
            said = "with text none is known to training" if encoder == "minilm" else "tfidf-svd"
            with pytest.raises(DataError if encoder == "minilm" else UserError, match=said):
                parts("TextKNN", text_encoder=encoder)


@pytest.mark.parametrize("ticks", [1, 10**3, 10**6, 10**9])
def test_dates_are_found_in_times_of_any_unit(ticks):
    time = (np.arange(100) * DAY + 1_500_000_000) * ticks
    low, high = time_split.borders(time, (), ("2017-08-01", "2017-09-01"))
    assert (low, high) == (1_501_545_600 * ticks, 1_504_224_000 * ticks)
    shown = time_split.shown_borders((low, high), time)
    assert [each[:10] for each in shown] == ["2017-08-01", "2017-09-01"]


def test_the_least_time_of_a_unit_is_of_that_unit():
    """1973-03-03 in milliseconds, and the year 5138 in seconds, are the same number."""
    assert [time_split.ticks_per_second(np.full(3, least)) for least in (1e8, 1e11, 1e14, 1e17)] == [1, 1e3, 1e6, 1e9]
    below = [time_split.ticks_per_second(np.full(3, np.nextafter(least, 0))) for least in (1e8, 1e11, 1e14, 1e17)]
    assert below == [1, 1, 1e3, 1e6]


def test_what_was_counted_ages_ago_weighs_something_still():
    """In a float32, which counts are kept in, too."""
    weight = time_split.recency_weights(np.array([0.0, 400.0, 1000.0]) * DAY + 1.3e9, 1.0)
    assert (weight.astype(np.float32) > 0).all()
    assert weight[2] == 1


def test_dates_stand_in_for_quantiles():
    time = np.array([1.0e9, 1.1e9, 1.39e9, 1.4e9])
    wanted = time_split.borders(time, (), ("2014-03-07", "1399939200"))
    assert wanted == (1394150400.0, 1399939200.0)
    assert time_split.borders(time * 1000, (), ("2014-03-07", "2014-05-13")) == (1394150400e3, 1399939200e3)
    assert time_split.borders(time, (0.25, 0.5)) == tuple(np.quantile(time, [0.25, 0.5]))
    for quantiles, dates in [((0.9, 0.8), ()), ((0.5,), ()), ((), ("2014-03-07", "soon")), ((), ("5", "5"))]:
        with pytest.raises(ConfigError, match="time_"):
            time_split.borders(time, quantiles, dates)


def test_times_are_compared_in_double_precision(parts):
    """Two seconds are one in float32, whose steps are two minutes wide there."""
    events = {f"u{u}": [(n, 1_400_000_000 + 10 * u + n) for n in range(5)] for u in range(4)}
    _, (train, _, test) = parts(events=events, time_dates=["1400000012", "1400000021"])
    assert [(u, len(h)) for u, h, _ in named(train)] == [("u0", 5), ("u1", 3)]
    assert Counter(u for u, _, _ in named(test)) == {"u2": 3, "u3": 4}


def test_dates_are_taken_as_a_command_line_gives_them(parts):
    _, listed = parts(time_dates=["2011-04-01", "2011-05-01"])
    _, typed = parts(time_dates="2011-04-01,2011-05-01", folder="y")
    assert [named(part) for part in typed] == [named(part) for part in listed]
    assert all(len(part) for part in typed)
    _, bare = parts(time_dates="20110401,20110501", folder="z")
    assert [named(part) for part in bare] == [named(part) for part in listed]


def test_a_number_like_a_day_is_a_number_where_times_are_as_small():
    time_ = np.array([20_140_101.0, 20_140_305.0, 1.5e9])
    assert time_split.borders(time_, (), ("20140101", "20140301")) == (20_140_101.0, 20_140_301.0)
    assert time_split.borders(np.array([1.3e9, 1.5e9]), (), ("20140101", "20140301")) == (1388534400.0, 1393632000.0)


@pytest.mark.parametrize(
    ("dates", "what"),
    [
        (("2010-01-01", "2010-02-01"), "train on"),
        (("2011-04-01T00:00:01", "2011-04-01T00:00:02"), "validate on"),
        (("2011-04-01", "2031-01-01"), "test on"),
    ],
)
def test_borders_that_leave_a_part_empty_are_named_with_the_datas_times(parts, dates, what):
    with pytest.raises(ConfigError) as error:
        parts(time_dates=list(dates))
    first, last = (time.strftime("%Y-%m-%d", time.gmtime(t)) for t in (TIMES.min(), TIMES.max()))
    for words in (f"time_dates={list(dates)}", what, dates[0].replace("T", " "), first, last):
        assert words in str(error.value)


def test_a_first_event_of_each_is_nothing_to_train_on(parts):
    events = {f"u{u}": [(n, 1_400_000_000 + 1000 * n + u) for n in range(4)] for u in range(4)}
    with pytest.raises(DataError, match="to train on under protocol=global_time"):
        parts(events=events, time_dates=["1400000005", "1400001005"])


def test_data_without_times_and_other_orders_are_refused(parts):
    flat = {u: [(i, n) for n, (i, _) in enumerate(events)] for u, events in EVENTS.items()}
    with pytest.raises(DataError, match="global_time.*no times"):
        parts(events=flat)
    turned = {u: events[::-1] for u, events in EVENTS.items()}
    with pytest.raises(DataError, match="ORDER_FIELD"):
        parts(events=turned, folder="y")


def test_together_asks_for_whole_times(parts):
    _, (_, valid, test) = parts(ties="together", time_target="successive")
    for part in (valid, test):
        assert all(part.moment[b - 1] != part.moment[b] for b in part.spans.middle)
        assert all(len(set(part.moment[b:c])) == 1 for b, c in zip(part.spans.middle, part.spans.end))


@pytest.mark.parametrize("keys", [{}, {"ties": "together"}, {"time_target": "all"}])
def test_shuffled_histories_hold_what_came_before_and_targets_stay(parts, keys):
    """A user asked again and again has the earlier targets in a later history, in an order of chance there alone."""
    straight, mixed = ([named(part) for part in parts(**keys, shuffled_history=flag)[1]] for flag in (False, True))
    for one, other in zip(straight, mixed):
        assert sorted((u, sorted(h), sorted(t)) for u, h, t in one) == sorted(
            (u, sorted(h), sorted(t)) for u, h, t in other
        )
        assert one != other


def test_an_event_of_a_shuffled_history_keeps_its_time(parts):
    """Else a count by age would weigh items by the times of others."""
    for part in parts(shuffled_history=True)[1]:
        users, items = part.field2id_token["user_id"], [t[1:] for t in part.field2id_token["item_id"]]
        for u, a, c in zip(part.spans.user, part.spans.start, part.spans.end):
            held = {(int(items[i]), t) for i, t in zip(part.flat[a:c].tolist(), part.times[a:c])}
            assert held <= {(i, float(t)) for i, t in EVENTS[users[u]]}
        assert (np.diff(part.times) < 0).sum() > len(part.spans)
    counted = [
        assembly.model(config, train) for config, (train, *_) in (
            parts("Popularity", shuffled_history=flag, recency_half_life=1) for flag in (False, True))
    ]  # fmt: skip
    np.testing.assert_allclose(*(model.popularity.numpy() for model in counted))


def test_nothing_after_the_border_reaches_training_prompts_text_or_gates(parts):
    """Change every later item: training rows, prompts, clusters, text statistics and counts stay what they are."""
    rng = np.random.default_rng(3)
    changed = {u: [(i if t <= T_VAL else int(rng.integers(10)), t) for i, t in events] for u, events in EVENTS.items()}
    sides = []
    for folder, events in (("a", EVENTS), ("b", changed)):
        config, (train, _, _) = parts("EIMF", events, folder, interest_source="keywords")
        corpus = corpus_of(config, train)
        names, items = train.field2id_token["user_id"], train.field2id_token["item_id"]
        fitted = {items[i] for i in np.flatnonzero(train.side.fitted.numpy())}
        vectors = {t: train.side.item_text[i].tolist() for i, t in enumerate(items) if t in fitted}
        groups = {names[u]: int(e) for u, e in enumerate(train.side.user_exemplar) if e >= 0}
        mates = {u: sorted(v for v in groups if groups[v] == e) for u, e in groups.items()}
        counts = {t: int(c) for t, c in zip(items, train.item_counts()) if c}
        gates = {t: int(b) for t, b in zip(items, frequency_buckets(train.item_counts(), 4)) if t in fitted}
        sides.append((dict(zip(corpus.users, corpus.histories)), fitted, vectors, mates, counts, gates, named(train)))
    one, two = sides
    assert one[2].keys() == two[2].keys()
    assert all(one[2][t] == pytest.approx(two[2][t], abs=1e-6) for t in one[2])
    assert one[:2] + one[3:] == two[:2] + two[3:]
    assert not one[1] & {"i8", "i9"}


def test_items_that_come_later_tell_no_starting_vector_and_no_label(parts):
    """Give the items that training does not know other titles: what the others start from and learn from stays."""
    from recbole_eimf.model.item_table import ItemTable

    config, (train, _, _) = parts("EIMF", interest_source="keywords", item_init="pca_text", text_labels=0.3)
    known = train.side.fitted
    later = train.side.item_has_text & ~known
    assert later.any()
    tables, labels = [], []
    for shift in (0.0, 5.0):
        text = train.side.item_text.clone()
        text[later] += shift
        train.side = replace(train.side, item_text=text)
        torch.manual_seed(0)
        net = config.model_class(config, train)
        table = next(module for module in net.modules() if isinstance(module, ItemTable))
        tables.append(table.embedding.weight[: len(known)][known])
        labels.append((net.labels.text_items[known], net.labels.text_weight[known]))
        assert not later[labels[-1][0]].any()
        assert not later[net.esim.items_with_text].any()
        assert torch.isinf(net.esim.absent[later]).all()
    assert torch.equal(*tables)
    assert all(torch.equal(one, other) for one, other in zip(*labels))


def with_other_titles_of_later_items(config, train):
    """A configuration's model, and the same made where titles of items that training does not know say other things."""
    later = train.side.item_has_text & ~train.side.fitted
    assert later.any()
    for shift in (0.0, 5.0):
        text = train.side.item_text.clone()
        text[later] = text[later] * (1 + shift) + shift * torch.arange(text.shape[1])
        train.side = replace(train.side, item_text=text)
        torch.manual_seed(0)
        yield config.model_class(config, train)


def test_the_placebo_of_text_gives_training_no_text_of_later_items(parts):
    """Nor those that come before the test, where a model is trained again, any of what comes after it."""
    real, shuffled = (parts("TextKNN", text_source=s, refit=True)[1][0] for s in ("real", "shuffled"))
    has, known = real.side.item_has_text, real.side.seen
    again = torch.from_numpy(real.before_test.item_counts() > 0)
    assert (has & ~known).any()
    for there in (has & known, has & again & ~known, has & ~again):
        texts = (sorted(map(tuple, part.side.item_text[there].tolist())) for part in (real, shuffled))
        assert next(texts) == next(texts)
    assert not torch.equal(real.side.item_text, shuffled.side.item_text)


@pytest.mark.parametrize("refit", [True, False])
def test_the_placebo_of_knowledge_gives_no_item_words_about_later_ones(parts, planted_knowledge, refit):
    """Eras by the times of events: before training ends, before the test (where a model is trained again), after."""
    keys = {"knowledge_source": "shuffled", "knowledge_file": str(planted_knowledge), "refit": refit}
    config, (train, _, _) = parts("NextKNN", **keys)
    first = {}
    for events in EVENTS.values():
        for item, when in events:
            first[f"i{item}"] = min(when, first.get(f"i{item}", when))
    exchange = exchange_of(config, train)
    between = 1 if refit else 2
    wanted = {i: 0 if when <= T_VAL else between if when <= T_TEST else 2 for i, when in first.items()}
    assert {item: exchange.era[item] for item in first} == wanted
    assert len({*wanted.values()}) > 1
    assert exchange.seed == config["seed"]


@pytest.mark.parametrize(
    ("model", "keys"),
    [("IBIM", {"item_text": "null_space"}), ("IBIM", {"item_text": "codes", "code_pieces": 2, "code_centroids": 3}),
     ("IBIM", {"item_text": "add", "text_whitening": "full"}), ("LLMESR", {}), ("LLM2BERT4Rec", {}), ("TextKNN", {}),
     ("PAD", {"text_whitening": "full", "item_init": "pca_text"})],
)  # fmt: skip
def test_nothing_that_is_made_of_titles_knows_those_of_later_items(parts, model, keys):
    """What training's own items have of text does not move when the others' titles do."""
    config, (train, _, _) = parts(model, **keys)
    known, found = train.side.fitted, []
    for net in with_other_titles_of_later_items(config, train):
        held = {**dict(net.named_buffers()), **dict(net.named_parameters())}
        of_items = {name: value[: len(known)][known] for name, value in held.items() if len(known) <= len(value)}
        found.append(of_items)
    assert found[0]
    for name, value in found[0].items():
        assert torch.allclose(value, found[1][name], atol=1e-6), name


@pytest.mark.parametrize(
    ("model", "keys"),
    [("IBIM", {"item_text": "add"}), ("IBIM", {"item_text": "add", "num_negatives": 3}), ("LLMESR", {}),
     ("IBIM", {"item_text": "add", "backbone": "REMI", "remi_beta": 1.0}), ("IBIM", {"item_init": "pca_text"}),
     ("MoRec", {}), ("MoRec", {"num_negatives": 3}), ("Hybrid", {"fusion": "add"}),
     ("IBIM", {"backbone": "BERT4Rec", "item_text": "add"})],
)  # fmt: skip
def test_no_model_learns_from_the_titles_of_later_items(parts, model, keys):
    """Losses of a batch and gradients are the same whatever these titles are: they do not even compete."""
    config, (train, _, _) = parts(model, train_batch_size=64, **keys)
    batch = next(iter(loader_class(config, "train")(config, train, None, shuffle=False)))
    found = []
    for net in with_other_titles_of_later_items(config, train):
        torch.manual_seed(1)
        loss = net.eval().calculate_loss(batch)
        found.append(sum(loss) if isinstance(loss, tuple) else loss)
        assert net.full_sort_predict(batch).shape[1] == train.item_num
    assert found[0].item() == pytest.approx(found[1].item(), abs=1e-5)


@pytest.mark.parametrize("kind", ["similar", "next"])
def test_vectors_and_labels_of_what_training_knows_are_shared_among_these(parts, planted_knowledge, kind):
    """A later item is made of the others, never the others of it: by likeness, and by what an LLM says follows."""
    keys = {"knowledge_source": "file", "knowledge_file": str(planted_knowledge), "next_neighbours": 2}
    config, (train, _, _) = parts("IBIM", vector_graph=kind, next_labels=0.2, next_label_items=4, **keys)
    side = train.side
    known = side.fitted
    later = side.item_has_text & ~known
    *said, ids, vectors, neighbours = side.next_among.args
    found = []
    for shift in (0.0, 5.0):  # of the titles of later items
        text, moved = side.item_text.clone(), vectors.copy()
        text[later] += shift * torch.arange(text.shape[1])
        moved[later.numpy()[ids]] += shift * np.arange(vectors.shape[1])
        among = partial(side.next_among.func, *said, ids, moved, neighbours)
        train.side = replace(side, item_text=text, next_among=among)
        net = config.model_class(config, train)
        made, labels = net.backbone.item_embedding.mixture.to_dense(), net.next_labels
        assert not made[known][:, later].any()
        assert made[later][:, known].any()
        assert (made.diagonal()[known] < 1).any()
        assert known[labels.items[labels.weight > 0]].all()
        found.append((made[known], labels.items[known], labels.weight[known]))
    for one, other in zip(*found):
        torch.testing.assert_close(one, other)


def test_what_is_scored_without_training_reaches_items_that_come_later(parts, planted_knowledge):
    keys = {"knowledge_source": "file", "knowledge_file": str(planted_knowledge)}
    config, (train, _, _) = parts("NextKNN", **keys)
    later = (train.side.item_has_text & ~train.side.fitted).numpy()
    assert config.model_class(config, train)._matrix()[:, later].nnz
    assert not train.side.next_known[:, later].nnz


def test_what_phrases_are_centred_on_knows_no_later_titles(parts, planted_knowledge):
    """Every item may be named, by its cosine from the mean of the titles that training knows."""
    keys = {"knowledge_source": "file", "knowledge_file": str(planted_knowledge), "next_neighbours": 99}
    _, (train, _, _) = parts("NextKNN", **keys)
    said, phrases, ids, vectors, _ = train.side.next_among.args
    mean = vectors[train.side.fitted.numpy()[ids]].mean(0)
    expected = np.zeros((train.item_num, train.item_num))
    for item, rows in enumerate(said):
        for asked in phrases[rows] - mean:
            for other, vector in zip(ids, vectors - mean):
                if other != item:
                    cosine = asked @ vector / np.linalg.norm(asked) / np.linalg.norm(vector)
                    expected[item, other] += max(cosine, 0)
    np.testing.assert_allclose(train.side.next_items.toarray(), expected, atol=1e-5)


@pytest.mark.parametrize("model", ["Popularity", "Markov", "DecayedItemKNN", "IBIM"])
def test_recent_interactions_weigh_more(parts, model):
    config, (train, _, _) = parts(
        model, score_prior="together", recency_half_life=7.0, knn_decay=1.0, knn_shrink=1.0, knn_neighbours=99
    )
    net = config.model_class(config, train)
    latest = max(t for events in EVENTS.values() for _, t in events if t <= T_VAL)
    ids = {token: n for n, token in enumerate(train.field2id_token["item_id"])}
    kept = {u: [(ids[f"i{i}"], 0.5 ** ((latest - t) / (7 * DAY))) for i, t in events if t <= T_VAL]
            for u, events in EVENTS.items()}  # fmt: skip
    counts, after = np.zeros(net.n_items), np.zeros((net.n_items, net.n_items))
    together = np.zeros_like(after)
    for events in kept.values():
        best = {}
        for i, w in events:
            counts[i] += w
            best[i] = max(best.get(i, 0), w)
        for (i, _), (j, w) in zip(events, events[1:]):
            after[i, j] += w
        for i, v in best.items():
            for j, w in best.items():
                together[i, j] += np.sqrt(v * w)
    if model == "Popularity":
        assert net.popularity.tolist() == pytest.approx(counts.tolist(), rel=1e-5)
        return
    if model in ("DecayedItemKNN", "IBIM"):
        own = together.diagonal().copy()
        np.fill_diagonal(together, 0)
        after = together / (np.sqrt(np.outer(own, own)) + 1.0)
    if model == "IBIM":  # whose score prior counts the same, its rows' largest entries one in the mean
        assert net.prior._matrix("together").toarray() == pytest.approx(
            after / after[after.any(1)].max(1).mean(), rel=1e-5
        )
        return
    assert net._matrix().toarray() == pytest.approx(after, rel=1e-5)


@pytest.mark.parametrize("model", ["Markov", "DecayedItemKNN"])
def test_what_was_counted_long_ago_stays_above_what_never_was(parts, model):
    """With a half-life of a day counts of months ago are far below a ten-thousandth, and above popularity's share."""
    config, (train, _, _) = parts(model, recency_half_life=1.0)
    net = config.model_class(config, train)
    assert net.value[net.value > 0].min() < 1e-5
    last = torch.arange(1, net.n_items)
    history = last[:, None]
    if model == "DecayedItemKNN":  # what speaks is forty steps back
        nobody = torch.full((len(last), 39), int(net.popularity[1:].argmin()) + 1)
        assert not net._matrix()[nobody[0, 0].item()].nnz
        history = torch.cat([history, nobody], 1)
    asked = {net.ITEM_SEQ: history, net.ITEM_SEQ_LEN: torch.full((len(last),), history.shape[1])}
    scores = net.full_sort_predict(asked)
    counted = torch.from_numpy(net._matrix()[last.numpy()].toarray() > 0)
    mixed = counted.any(1) & (net.popularity[1:] > 0).logical_and(~counted[:, 1:].all(1))
    assert mixed.any()
    for of_row, found in zip(scores[mixed][:, 1:], counted[mixed][:, 1:]):
        assert of_row[found].min() > of_row[~found].max()
        assert torch.equal(of_row[~found] > 0, net.popularity[1:][~found] > 0)  # what never was: by popularity


def test_replies_made_before_the_border_load_under_it(shared, make_config, tmp_path):
    """Beauty's replies for the time split: every prompt is one over today's history, ties shuffled or not."""
    from recbole_eimf.data.prepare.write import prepare_csv

    data = shared / "datasets" / "amazon-beauty"
    prepare_csv(data / "interactions.csv.gz", tmp_path, "beauty", items=data / "items.csv.gz")
    keys = {"data_path": str(tmp_path), "protocol": "global_time", "ties": "shuffle", "interest_source": "file",
            "interest_file": str(shared / "interests" / "amazon-beauty-global-time" / "interests.jsonl")}  # fmt: skip
    config = make_config("EIMF", "beauty", **keys, inference_only=True)
    train = assembly.datasets(config)[1][0]
    from recbole_eimf.semantic.side_load import pipeline_of

    loaded = pipeline_of(config, train).side_loaded
    usable, counts = loaded.usable, loaded.counts
    assert (len(usable), counts["replies_of_this_history"], counts["replies_of_another_history"]) == (485, 485, 0)


@pytest.mark.parametrize("keys", [{}, {"backbone": "BERT4Rec"}, {"num_negatives": 4, "negative_correction": False}])
def test_where_text_is_read_items_of_the_future_do_not_compete(make_config, tmp_path, monkeypatch, keys):
    """The loss over the items that training knows, which are not the first ones; their biases too, and draws."""
    late = {f"u{n}": [(0, 1), (2, 2), (4, 3), (6, 4), (n % 4 * 2, 5)] for n in range(8)}
    events = {"v": [(0, 1), (1, 80), (3, 90), (5, 95), (7, 99)]} | late  # ids go by the first event of a file
    folder = write(tmp_path / "gaps", events)
    given = {"dataset": "baskets", "data_path": str(folder), "protocol": "global_time", "time_dates": ["50", "85"]}
    still = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "text_encoder": "tfidf-svd", "item_text": "add"}
    config = make_config("IBIM", **{**given, **still, "backbone": "SASRec", **keys})
    torch.manual_seed(0)
    train, _, _ = assembly.datasets(config)[1]
    net = config.model_class(config, train).train()
    known = train.item_counts().nonzero()[0]
    assert len(known) < net.n_items - 2
    assert known.max() > len(known), "there is a gap"
    if net.negatives is not None:
        assert net.negatives.candidates.tolist() == known.tolist()
        assert net.negatives.draw(4, 1).others == 4
        net.negatives.corrected = True
        assert net.negatives.draw(4, 1).others == len(known) - 1
        return
    batch = train.rows(np.arange(4))
    bias = net.backbone.item_bias
    if bias is not None:
        with torch.no_grad():
            bias.copy_(torch.linspace(-1, 1, len(bias)))
    torch.manual_seed(1)
    states, vectors, readout = net._forward(batch)
    positive = (readout * vectors[states.target]).sum(1)
    scores = readout @ vectors[known].T
    if bias is not None:
        positive, scores = positive + bias[states.target], scores + bias[known]
    wanted = (scores.exp().sum(1).log() - positive).mean()
    got = net._softmax_loss(readout, states.target, vectors, positive, positive)
    assert got.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_shuffled_histories_are_those_of_their_seed(parts):
    one, same, two = (named(parts(shuffled_history=True, ties_seed=seed)[1][0]) for seed in (1, 1, 2))
    assert one == same != two
    assert [(user, sorted(items)) for user, items, _ in one] == [(user, sorted(items)) for user, items, _ in two]


def test_a_share_of_the_users_stays_a_share_when_they_are_trained_again(parts):
    """Those who were drawn, and the same share of those who came later."""
    between = int((T_VAL + T_TEST) / 2)
    events = EVENTS | {f"late{n}": [(n, between), (n + 1, between + 1)] for n in range(7)}
    given = {"events": events, "time_dates": [str(T_VAL), str(T_TEST)], "refit": True}
    drawn, whole = parts(train_share=0.5, **given)[1][0], parts(**given)[1][0]
    before, all_before = ({*part.before_test.spans.user.tolist()} for part in (drawn, whole))
    first, all_first = ({*part.spans.user.tolist()} for part in (drawn, whole))
    assert len(first) == round(0.5 * len(all_first))
    assert before & all_first == first, "the very same"
    later = all_before - all_first
    assert later
    assert len(before & later) == round(0.5 * len(later)) > 0
