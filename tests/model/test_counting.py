"""Counting floors against loops over the training sequences, in which users buy things twice."""

from __future__ import annotations

from collections import Counter, defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction

import recbole_eimf
from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.data.protocol import Spans
from recbole_eimf.experiment import assembly
from recbole_eimf.model.baselines.counting import HALF_LIVES
from recbole_eimf.model.bought_together import bought_together, interaction_weights
from tests.conftest import TITLES, write_atomic
from tests.data.test_ties import write
from tests.data.test_time_split import EVENTS


@pytest.fixture(scope="module")
def repeats(tmp_path_factory):
    """Folder with the data set ``repeats``: 25 items, few of them often, bought again and again."""
    rng = np.random.default_rng(5)
    sequences = [(rng.integers(5, size=rng.integers(4, 12)) * rng.integers(1, 6)).tolist() for _ in range(40)]
    return write_atomic(tmp_path_factory.mktemp("repeats"), "repeats", sequences)


@pytest.fixture
def built(make_config, repeats):
    def make(model, **keys):
        config = make_config(model, "repeats", data_path=str(repeats), **keys)
        train = assembly.loaders(config)[0]._dataset
        histories = [history.tolist() for history in train.sequences()[1]]
        assert any(max(Counter(history).values()) > 1 for history in histories)
        return config.model_class(config, train), histories

    return make


def rows(sequences):
    width = max(map(len, sequences))
    table = torch.tensor([s + [0] * (width - len(s)) for s in sequences])
    lengths = torch.tensor([len(s) for s in sequences])
    return Interaction({"item_id_list": table, "item_length": lengths, "item_id": torch.ones(len(sequences)).long()})


def expected_scores(main, histories, n_items):
    """``main`` [N], ties broken by popularity: less than a ten-thousandth, whatever an item's count."""
    counts = Counter(item for history in histories for item in history)
    return [main[i] + 1e-4 * counts[i] / (max(counts.values()) + 1) for i in range(n_items)]


def test_popularity_counts_interactions(built):
    net, histories = built("Popularity")
    counts = Counter(item for history in histories for item in history)
    order = net.full_sort_predict(rows([[1]]))[0].tolist()
    assert order == pytest.approx(expected_scores(counts, histories, net.n_items), rel=1e-6)
    assert net.calculate_loss(None).item() == 0


def test_markov_counts_what_followed_the_last_item_within_a_user(built):
    net, histories = built("Markov")
    followed = defaultdict(Counter)
    for history in histories:
        for before, after in zip(history, history[1:]):
            followed[before][after] += 1
    sequences = [[2, 1], [1, 2, 3], [4]]
    got = net.full_sort_predict(rows(sequences))
    for r, sequence in enumerate(sequences):
        expected = expected_scores(followed[sequence[-1]], histories, net.n_items)
        assert got[r].tolist() == pytest.approx(expected, rel=1e-6)
    assert any(sum(c.values()) for c in followed.values())


@pytest.mark.parametrize("neighbours", [2000, 3])
def test_knn_is_a_decayed_sum_of_shrunk_cosines_and_a_repeat_counts_once(built, neighbours):
    """``sim(i, j) = |U_i and U_j| / (sqrt(|U_i| |U_j|) + shrink)``, U_i being the *set* of users who had i."""
    net, histories = built("DecayedItemKNN", knn_decay=0.6, knn_neighbours=neighbours, knn_shrink=2.0)
    n = net.n_items
    users = [{u for u, history in enumerate(histories) if i in history} for i in range(n)]
    similar = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            if i != j and users[i] & users[j]:
                similar[i, j] = len(users[i] & users[j]) / ((len(users[i]) * len(users[j])) ** 0.5 + 2.0)
    kept = np.sort(similar, 1)[:, -neighbours:].min(1) if neighbours < n else np.zeros(n)
    assert neighbours > n or (kept > 0).any()
    sequences = [[1, 2, 3, 1], [4], [5, 6]]
    got = net.full_sort_predict(rows(sequences)).numpy()
    for r, sequence in enumerate(sequences):
        low, high = np.zeros(n), np.zeros(n)  # of items as similar as the last kept one, either may be kept
        for back, item in enumerate(reversed(sequence)):
            low += 0.6**back * np.where(similar[item] > kept[item], similar[item], 0)
            high += 0.6**back * np.where(similar[item] >= kept[item], similar[item], 0)
        assert (got[r] > np.array(expected_scores(low, histories, n)) - 1e-5).all()
        assert (got[r] < np.array(expected_scores(high, histories, n)) + 1e-5).all()


def test_each_item_keeps_as_many_neighbours_as_asked(built):
    net, _ = built("DecayedItemKNN", knn_neighbours=3)
    small = net.popularity / (net.popularity.max() + 1) * 1e-4
    for item in range(1, net.n_items):
        assert (net.full_sort_predict(rows([[item]]))[0] - small > 1e-5).sum() == 3


def by_hand(model, histories, times, half_life, n):
    """[N, N] or [N]: the counts of a floor, every event halved for each half-life before the latest one of all."""
    latest = max(max(each) for each in times)
    weight = [
        [1.0 if half_life is None else 0.5 ** ((latest - t) / 86_400 / half_life) for t in each] for each in times
    ]
    if model == "Popularity":
        found = np.zeros(n)
        for items, weights in zip(histories, weight):
            for item, w in zip(items, weights):
                found[item] += w
        return found
    found = np.zeros((n, n))
    for items, weights in zip(histories, weight):
        for before, after, w in zip(items, items[1:], weights[1:]):
            found[before, after] += w
    return found


@pytest.mark.parametrize("model", ["Popularity", "Markov"])
def test_a_floor_whose_half_life_is_chosen_counts_anew_for_each(built, make_config, model, tmp_path):
    config = make_config(
        model, "baskets", data_path=str(write(tmp_path, EVENTS)), protocol="global_time", recency_half_life="chosen"
    )
    train = assembly.loaders(config)[0]._dataset
    net = config.model_class(config, train)
    assert net.weights == HALF_LIVES == config.model_class.choices(config)
    assert HALF_LIVES[-1] is None, "of equals the last is kept, which forgets nothing"
    histories = [history.tolist() for history in train.sequences()[1]]
    spans = train.spans
    times = [train.times[a:b].tolist() for a, b in zip(spans.start, spans.middle)]
    for half_life in HALF_LIVES:
        net.set_weight(half_life)
        expected = by_hand(model, histories, times, half_life, net.n_items)
        found = net.popularity.numpy() if model == "Popularity" else net._matrix().toarray()
        assert found == pytest.approx(expected, rel=1e-5)
        assert net.decays == (half_life is not None)
        assert net.chosen_half_life == half_life
        fixed = make_config(
            model, "baskets", data_path=str(tmp_path), protocol="global_time", recency_half_life=half_life
        )
        plain = fixed.model_class(fixed, train)
        assert plain.weights == ()
        assert torch.equal(net.full_sort_predict(rows([[1, 2]])), plain.full_sort_predict(rows([[1, 2]])))


def test_only_what_counts_alone_chooses_a_half_life(make_config):
    for model in ("ItemKNNText", "IBIM", "TextKNN"):
        said = f"recency_half_life=chosen: {model} does not choose it; Popularity, Markov, DecayedItemKNN do"
        with pytest.raises(ConfigError, match=said):
            make_config(model, recency_half_life="chosen")


@pytest.mark.parametrize("shrink", [0.0, 1.0])
def test_counts_of_long_ago_make_likenesses_and_no_infinities(shrink):
    """Cosines of two items of one basket, 600 half-lives old, beside one of today's."""
    spans = Spans(*(np.array(each) for each in ([1, 2], [0, 2], [2, 4], [2, 4])))
    data = SimpleNamespace(flat=torch.tensor([1, 2, 3, 4]), item_num=5, spans=spans)
    old = 0.5**600
    found = bought_together(data, np.array([old, old, 1.0, 1.0]), shrink, 10).toarray()
    assert found[3, 4] == pytest.approx(1 / (1 + shrink))
    assert found[1, 2] == pytest.approx(old / (old + shrink))


@pytest.mark.parametrize("model", ["ItemKNNText", "Popularity"])
def test_weights_that_nobody_can_choose_are_an_error_before_any_work(make_config, tmp_path, semantic_cache, model):
    """Sequences of three: the last is the test's, the second a history, and validation has nobody."""
    folder = write_atomic(tmp_path, "short", [[u % 7, (u + 1) % 7, (u + 3) % 7] for u in range(20)], TITLES)
    keys = {"data_path": str(folder), "state": "ERROR", "compare_with": [], "show_progress": False}
    keys |= {"text_encoder": "tfidf-svd", "semantic_cache": str(semantic_cache)} if model == "ItemKNNText" else {}
    said = "model=ItemKNNText: validation chooses"
    if model == "Popularity":
        keys |= {"recency_half_life": "chosen"}
        rows = (folder / "short" / "short.inter").read_text().splitlines()
        parts = [row.split("\t") for row in rows[1:]]
        dated = [
            "\t".join([user, item, f"{1.5e9 + 86400 * n}", order]) for n, (user, item, _, order) in enumerate(parts)
        ]
        (folder / "short" / "short.inter").write_text("\n".join([rows[0], *dated]) + "\n")
        said = "recency_half_life=chosen: validation chooses"
    with pytest.raises(ConfigError, match=said):
        recbole_eimf.run(model, "short", **keys)


def test_recency_without_times_is_refused():
    with pytest.raises(DataError, match="recency_half_life=chosen: repeats has no times"):
        interaction_weights({"recency_half_life": "chosen"}, SimpleNamespace(times=None, dataset_name="repeats"), 7.0)
    with pytest.raises(DataError, match="recency_half_life=7.0: repeats has no times"):
        interaction_weights({"recency_half_life": 7.0}, SimpleNamespace(times=None, dataset_name="repeats"))
