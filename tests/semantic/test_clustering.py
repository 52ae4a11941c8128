"""Affinity propagation against a loop written from Frey and Dueck's formulas, and on data whose answer is known."""

import gzip
import logging
from pathlib import Path

import numpy as np
import pytest

from recbole_eimf.core.errors import ConfigError, DataError, UserError
from recbole_eimf.semantic.clustering import cluster, cluster_solver, neighbours, sparse_affinity
from recbole_eimf.semantic.clustering.cluster import ClusterSettings, closest_to_mean, cluster_users
from recbole_eimf.semantic.clustering.neighbours import neighbour_graph
from recbole_eimf.semantic.clustering.sparse_affinity import propagate

OFFICE = Path(__file__).resolve().parents[3] / "shared" / "datasets" / "amazon-office" / "items.csv.gz"


def settings(**kwargs):
    """Return settings with a preference where one is given, without the default ratio."""
    return ClusterSettings(**({"exemplar_ratio": None} if "preference" in kwargs else {}) | kwargs)


def cloud(n=60, d=3, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def planted(groups=12, size=30, spread=0.05, seed=0):
    """Return rows around well separated centres, shuffled, and the group of each."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(groups, 8)) * 3
    truth = rng.permutation(np.repeat(np.arange(groups), size))
    return (centres[truth] + spread * rng.normal(size=(len(truth), 8))).astype(np.float32), truth


def partition(labels):
    """Return a partition as a set of row sets: no label numbers."""
    return {frozenset(np.flatnonzero(labels == label)) for label in np.unique(labels)}


def net_similarity(points, result, preference):
    return -((points - points[result.exemplars[result.labels]]) ** 2).sum() + len(result.exemplars) * preference


def slow_messages(points, weight, preference, damping, iterations):
    """Algorithm 1 with one loop per index (and a(i,k), i != k, of Frey and Dueck, which the paper leaves out)."""
    n = len(points)
    s = [[-weight[i] * sum((a - b) ** 2 for a, b in zip(points[i], points[k])) for k in range(n)] for i in range(n)]
    for k in range(n):
        s[k][k] = preference
    r, a = [[0.0] * n for _ in range(n)], [[0.0] * n for _ in range(n)]
    for _ in range(iterations):
        new = [[s[i][k] - max(a[i][j] + s[i][j] for j in range(n) if j != k) for k in range(n)] for i in range(n)]
        r = [[damping * r[i][k] + (1 - damping) * new[i][k] for k in range(n)] for i in range(n)]
        for k in range(n):
            for i in range(n):
                support = sum(max(0.0, r[j][k]) for j in range(n) if j not in (i, k))
                value = support if i == k else min(0.0, r[k][k] + support)
                a[i][k] = damping * a[i][k] + (1 - damping) * value
    return np.array(r), np.array(a)


# messages -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_messages_on_a_full_graph_equal_the_loops(weighted):
    points = cloud(14).astype(np.float64)
    weight = np.arange(1, 15) % 4 + 1.0 if weighted else np.ones(14)
    graph = neighbour_graph(points, 13)
    result = propagate(
        graph, weight, -2.0, damping=0.7, max_iter=25, convergence_iter=99, noise=0.0, dtype=np.float64,
        keep_messages=True,
    )  # fmt: skip
    responsible, available = slow_messages(points, weight, -2.0, 0.7, 25)
    # the graph's distances are float32
    for found, expected in zip(result.messages, (responsible, available), strict=True):
        np.testing.assert_allclose(found.reshape(14, 14), expected, atol=1e-4)
    np.testing.assert_array_equal(result.exemplar, np.diag(responsible + available) > 0)
    np.testing.assert_array_equal(result.choice, np.argmax(responsible + available, axis=1))


def test_ties_are_handled_like_the_loops():
    points = np.array([[0.0], [1.0], [2.0], [3.0], [10.0], [11.0]])
    result = propagate(
        neighbour_graph(points, 5), np.ones(6), -1.0, damping=0.5, max_iter=7, convergence_iter=99, noise=0.0,
        keep_messages=True,
    )  # fmt: skip
    responsible, available = slow_messages(points, np.ones(6), -1.0, 0.5, 7)
    for found, expected in zip(result.messages, (responsible, available), strict=True):
        np.testing.assert_allclose(found.reshape(6, 6), expected, atol=1e-4)


def test_graph_is_symmetric_and_holds_the_nearest():
    points = cloud(200, 5)
    graph = neighbour_graph(points, 7)
    dense = np.full((200, 200), np.nan)
    dense[graph.row, graph.col] = graph.distance
    expected = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    nearest = np.argsort(expected, axis=1)[:, :8]  # itself included
    linked = np.zeros((200, 200), dtype=bool)
    linked[np.arange(200)[:, None], nearest] = True
    np.testing.assert_array_equal(~np.isnan(dense), linked | linked.T)
    np.testing.assert_allclose(dense[~np.isnan(dense)], expected[~np.isnan(dense)], atol=1e-5)
    np.testing.assert_array_equal(graph.row[graph.diagonal], graph.col[graph.diagonal])


def test_approximate_graph_finds_most_neighbours(monkeypatch):
    points = cloud(3000, 8)
    exact = neighbour_graph(points, 10)
    monkeypatch.setattr(neighbours, "EXACT_SEARCH_UP_TO", 1000)
    graph = neighbour_graph(points, 10)
    again = neighbour_graph(points, 10)
    assert 0.97 <= graph.recall <= 1
    np.testing.assert_array_equal(graph.col, again.col)
    pairs = {(a, b) for a, b in zip(exact.row, exact.col)}
    assert len(pairs & {(a, b) for a, b in zip(graph.row, graph.col)}) > 0.95 * len(pairs)


def test_lists_to_visit_hold_the_share_of_neighbours_they_are_said_to(monkeypatch):
    points = cloud(1600, 8)
    monkeypatch.setattr(neighbours, "_LIST", 50)
    monkeypatch.setattr(neighbours, "_SAMPLE", len(points))  # the sample is everyone: no error of sampling
    visited, said = [], neighbours._lists_to_visit
    monkeypatch.setattr(neighbours, "_lists_to_visit", lambda *args: visited.append(said(*args)) or visited[-1])
    distance, found, recall = neighbours._search_lists(points, 9, seed=0)
    squared = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    true = np.argsort(squared, axis=1)[:, :9]
    share = np.mean([len(set(a) & set(b)) / 9 for a, b in zip(found, true)])
    assert share == pytest.approx(recall, abs=2e-3)  # ties and rounding aside
    assert 0.97 <= recall < 1
    assert 1 < visited[0][0] < 32
    np.testing.assert_allclose(distance, np.take_along_axis(squared, found.astype(int), axis=1), atol=1e-4)
    assert [len(set(row)) for row in found] == [9] * len(points)


def test_messages_do_not_depend_on_blocks_and_threads(monkeypatch):
    graph = neighbour_graph(cloud(300, 4), 12)
    weight = np.arange(300) % 3 + 1.0

    def run():
        return propagate(graph, weight, -3.0, damping=0.8, max_iter=30, convergence_iter=99, keep_messages=True)

    whole = run()
    monkeypatch.setattr(sparse_affinity, "_BLOCK_EDGES", 100)
    blocks = run()
    monkeypatch.setattr(sparse_affinity.faiss, "omp_get_max_threads", lambda: 5)
    threads = run()
    monkeypatch.setattr(sparse_affinity, "_SLABS", 1)
    one_slab = run()
    for other in (blocks, threads):
        np.testing.assert_array_equal(other.messages, whole.messages)
        np.testing.assert_array_equal(other.choice, whole.choice)
    np.testing.assert_allclose(one_slab.messages[1], whole.messages[1], atol=1e-4)  # sums in another order


def test_among_very_many_points_a_few_may_swing(monkeypatch):
    graph = neighbour_graph(cloud(300, 4), 12)
    rounds = {}
    for settled in (10_000, 10):  # nobody; 30 of 300
        monkeypatch.setattr(sparse_affinity, "_SETTLED", settled)
        result = propagate(graph, np.ones(300), -3.0, damping=0.8, max_iter=400, convergence_iter=20)
        assert result.converged
        rounds[settled] = result.iterations
    assert rounds[10] < rounds[10_000]


def test_a_number_of_exemplars_nobody_wants_is_not_followed_to_its_end():
    graph = neighbour_graph(cloud(2000, 4), 12)

    def run(**wanted):
        return propagate(graph, np.ones(2000), -3.0, damping=0.9, max_iter=600, convergence_iter=30, **wanted)

    whole = run()
    count = whole.exemplar.sum()
    assert whole.converged
    assert not whole.abandoned
    for wanted in [(1, count // 2), (2 * count, 4 * count)]:
        left = run(wanted=wanted)
        assert left.abandoned
        assert not left.converged
        assert left.iterations < whole.iterations
        assert left.exemplar.sum() == pytest.approx(count, rel=0.02)
    assert not sparse_affinity._settles_outside([0] * 60, 5, 10)  # nobody yet: the exchange has only begun
    near = run(wanted=(0.9 * count, 1.1 * count))
    np.testing.assert_array_equal(near.exemplar, whole.exemplar)
    assert not near.abandoned


def test_among_very_many_points_a_search_takes_no_result_from_messages_left_before_their_end(monkeypatch):
    points = cloud(1500, 6)
    monkeypatch.setattr(neighbours, "EXACT_SEARCH_UP_TO", 100)
    monkeypatch.setattr(cluster, "_CALIBRATION", 10_000)  # a first guess that is far off
    runs, run = [], cluster_solver.propagate
    monkeypatch.setattr(cluster_solver, "propagate", lambda *args, **more: runs.append(run(*args, **more)) or runs[-1])
    result = cluster_users(points, settings(exemplar_ratio=0.06, method="sparse", neighbours=100))
    assert runs[0].abandoned
    assert not runs[-1].abandoned
    assert result.converged
    assert abs(len(result.exemplars) - 90) <= 5
    monkeypatch.setattr(cluster, "_MOST_TRIALS", 1)  # nothing but the one that was left
    result = cluster_users(points, settings(exemplar_ratio=0.06, method="sparse", neighbours=100))
    assert runs[-2].abandoned
    assert runs[-1].converged
    assert any("No preference leaves 90" in note for note in result.notes)


def test_messages_first_assignment_ends_as_the_exact_one(monkeypatch):
    points, _ = planted(groups=30, size=40, spread=0.8)
    exact = cluster_users(points, settings(preference=-6.0, method="sparse", neighbours=60))
    monkeypatch.setattr(neighbours, "EXACT_SEARCH_UP_TO", 100)
    monkeypatch.setattr(neighbours, "_LIST", 100)
    asked, assign = [], cluster_solver.Solver._assign
    monkeypatch.setattr(cluster_solver.Solver, "_assign", lambda *args: asked.append(1) or assign(*args))
    result = cluster_users(points, settings(preference=-6.0, method="sparse", neighbours=60))
    assert len(asked) == 1 + sum("Trying again" in note for note in result.notes)  # only the last one of an attempt
    assert result.net_similarity == pytest.approx(exact.net_similarity, rel=2e-3)
    distance = ((points[:, None] - points[result.exemplars][None]) ** 2).sum(axis=2)
    np.testing.assert_array_equal(result.labels, np.argmin(distance, axis=1))


def test_a_graph_too_narrow_for_the_share_is_widened_not_searched_in_vain(monkeypatch):
    # half as many exemplars as there are groups of 60, and nobody's 50 neighbours reach into another group
    points, _ = planted(groups=40, size=60, spread=0.3)
    monkeypatch.setattr(neighbours, "EXACT_SEARCH_UP_TO", 100)
    result = cluster_users(points, settings(exemplar_ratio=20 / 2400, method="sparse", neighbours=50))
    assert 19 <= len(result.exemplars) <= 21
    assert result.neighbours > 50
    assert any("too narrow" in note for note in result.notes)


def test_who_chose_no_exemplar_goes_to_the_nearest():
    points = np.array([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]], dtype=np.float32)
    solver = cluster_solver.Solver(points, np.ones(6, np.float32), settings(method="sparse"), False)
    # rows 0 and 3 chose rows 2 and 5, which are none; row 4, an exemplar itself, chose row 1
    labels = solver._chosen(np.array([1, 4]), np.array([2, 1, 1, 5, 1, 4]))
    np.testing.assert_array_equal(labels, [0, 0, 0, 1, 1, 1])


def test_a_trial_with_far_too_few_exemplars_is_finished_only_if_it_is_the_closest():
    points, _ = planted()  # 12 groups: no preference leaves far more than 12 and far fewer than 360
    solver = cluster_solver.Solver(points, np.ones(len(points), np.float32), settings(method="sparse"), False)
    bare = solver.attempt(-2.0, wanted=100)
    assert bare.labels is None
    assert len(bare.exemplars) == 12
    whole = solver.attempt(-2.0)
    np.testing.assert_array_equal(solver.finish(bare).labels, whole.labels)
    result = cluster._search(solver, 40)
    assert result.labels is not None


@pytest.mark.parametrize(
    ("trials", "kept"),
    [
        ([(20, False), (8, True), (20, True)], 2),  # as many as are wanted, but not settled
        ([(8, True), (17, True), (30, True)], 1),  # none is near enough: the nearest, not the last
        ([(8, True), (17, False), (30, True)], 2),
    ],
)
def test_a_search_keeps_the_nearest_number_that_settled(monkeypatch, trials, kept):
    """Trials told by (exemplars, settled), for 20 wanted ones."""
    points, made = cloud(200), []

    def attempt(solver, preference, *_):
        count, settled = trials[len(made)]
        labels = np.arange(200) % count
        made.append(cluster_solver.Solution(preference, np.arange(count), labels, -1.0, 0.0, settled, 9, "dense", None))
        return made[-1]

    monkeypatch.setattr(cluster_solver.Solver, "attempt", attempt)
    monkeypatch.setattr(cluster_solver.Solver, "solve", lambda solver, preference, solution: solution)
    monkeypatch.setattr(cluster, "_MOST_TRIALS", 3)
    chosen = settings(exemplar_ratio=0.1, method="dense", on_nonconvergence="error")
    found = cluster._search(cluster_solver.Solver(points, np.ones(200, np.float32), chosen, False), 20)
    assert len(made) == 3
    assert found is made[kept]


def test_a_search_begins_where_users_not_different_ones_say():
    points, begins = cloud(200), []
    for users in (1.0, 3.0):  # of each point
        solver = cluster_solver.Solver(points, np.full(200, users, np.float32), settings(method="dense"), False)
        begins.append(cluster._first_guess(solver, 20))
    assert begins[1] - begins[0] == pytest.approx(np.log(3))


# clusterings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("method", ["dense", "sparse"])
def test_full_neighbourhood_equals_scikit_learn(seed, method):
    from sklearn.cluster import AffinityPropagation

    points = cloud(80, 3, seed)
    reference = AffinityPropagation(damping=0.9, max_iter=600, convergence_iter=30, preference=-6.0).fit(points)
    result = cluster_users(points, settings(preference=-6.0, method=method, neighbours=79))
    assert partition(result.labels) == partition(reference.labels_)
    np.testing.assert_array_equal(result.exemplars, reference.cluster_centers_indices_)
    assert result.converged
    assert result.net_similarity == pytest.approx(net_similarity(points, result, -6.0), rel=1e-5)
    assert result.notes == ()


@pytest.mark.parametrize("seed", range(4))
def test_where_two_points_only_have_each_other_it_is_no_worse(seed):
    """Either could stand for the other: scikit-learn's tiny noise may leave both, ours parts them."""
    points = cloud(80, 3, seed)
    dense = cluster_users(points, settings(preference=-1.0, method="dense"))
    sparse = cluster_users(points, settings(preference=-1.0, method="sparse", neighbours=79))
    assert sparse.net_similarity >= dense.net_similarity - 1e-3 * abs(dense.net_similarity)
    assert len(sparse.exemplars) == pytest.approx(len(dense.exemplars), abs=2)


@pytest.mark.parametrize("method", ["dense", "sparse"])
def test_planted_clusters_are_recovered(method):
    points, truth = planted()
    result = cluster_users(points, settings(preference=-2.0, method=method, neighbours=40))
    assert partition(result.labels) == partition(truth)
    assert result.method == method
    assert (result.neighbours == 40) == (method == "sparse")
    assert result.exemplars.dtype == result.labels.dtype == np.int64
    np.testing.assert_array_equal(result.labels[result.exemplars], np.arange(12))
    assert (np.diff(result.exemplars) > 0).all()


@pytest.mark.parametrize("method", ["dense", "sparse"])
def test_everyone_belongs_to_the_nearest_exemplar_of_all(method):
    points = cloud(300, 4)
    result = cluster_users(points, settings(preference=-4.0, method=method, neighbours=60))
    distance = ((points[:, None] - points[result.exemplars][None]) ** 2).sum(axis=2)
    np.testing.assert_array_equal(result.labels, distance.argmin(axis=1))


@pytest.mark.parametrize("method", ["dense", "sparse"])
def test_row_order_and_repetition_change_nothing(method):
    points, truth = planted(seed=3)
    chosen = settings(preference=-2.0, method=method, neighbours=40)
    one, two = cluster_users(points, chosen), cluster_users(points, chosen)
    np.testing.assert_array_equal(one.labels, two.labels)
    np.testing.assert_array_equal(one.exemplars, two.exemplars)
    assert one.net_similarity == two.net_similarity
    shuffle = np.random.default_rng(1).permutation(len(points))
    shuffled = cluster_users(points[shuffle], chosen)
    assert partition(shuffled.labels) == partition(truth[shuffle])
    assert set(shuffle[shuffled.exemplars]) == set(one.exemplars)


@pytest.mark.parametrize("method", ["dense", "sparse"])
def test_identical_users_count_as_often_as_they_are(method):
    points, truth = planted(groups=6, size=10)
    repeats = np.random.default_rng(0).integers(1, 9, size=len(points))
    rows = np.repeat(np.arange(len(points)), repeats)
    many = cluster_users(points[rows], settings(preference=-2.0, method=method, neighbours=59))
    assert partition(many.labels) == partition(truth[rows])
    assert many.net_similarity == pytest.approx(net_similarity(points[rows], many, -2.0), rel=1e-5)
    for exemplar in many.exemplars:  # the first of its twins
        assert exemplar == np.flatnonzero(rows == rows[exemplar])[0]


def test_all_users_identical():
    for method in ("dense", "sparse"):
        result = cluster_users(np.ones((50, 4)), ClusterSettings(method=method))
        np.testing.assert_array_equal(result.exemplars, [0])
        assert not result.labels.any()


def test_one_and_two_users():
    assert cluster_users(np.ones((1, 3)), settings(preference=-1.0)).exemplars.tolist() == [0]
    pair = np.array([[0.0], [1.0], [1.0]])
    assert cluster_users(pair, settings(preference=-0.5)).exemplars.tolist() == [0, 1]
    # the heavier one stands for both: one user is moved, not two
    assert cluster_users(pair, settings(preference=-2.0)).exemplars.tolist() == [1]
    more = np.array([[0.0], [0.0], [1.0], [1.0], [1.0]])  # two would be moved
    assert cluster_users(more, settings(preference=-1.5)).exemplars.tolist() == [0, 2]
    assert cluster_users(more, settings(preference=-2.5)).exemplars.tolist() == [2]


def test_no_preference_is_no_clustering():
    result = cluster_users(np.ones((5, 2)), ClusterSettings(exemplar_ratio=None))
    np.testing.assert_array_equal(result.exemplars, np.arange(5))
    np.testing.assert_array_equal(result.labels, np.arange(5))
    assert (result.method, result.preference, result.net_similarity) == ("none", None, 0.0)


def test_the_lower_the_preference_the_fewer_exemplars():
    counts = [len(cluster_users(cloud(200), settings(preference=p)).exemplars) for p in (-0.1, -1.0, -10.0, -50.0)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 4 * counts[-1]


@pytest.mark.parametrize(("ratio", "method", "d"), [(0.03, "sparse", 16), (0.1, "dense", 3), (0.4, "sparse", 5)])
def test_exemplar_ratio_is_hit(ratio, method, d):
    points = cloud(800, d)
    result = cluster_users(points, ClusterSettings(exemplar_ratio=ratio, method=method, neighbours=100))
    assert len(result.exemplars) == pytest.approx(ratio * 800, rel=0.06)
    again = cluster_users(points, settings(preference=result.preference, method=method, neighbours=100))
    np.testing.assert_array_equal(again.labels, result.labels)


def test_exemplar_ratio_begins_with_a_subsample(monkeypatch, caplog):
    monkeypatch.setattr(cluster, "_CALIBRATION", 400)
    caplog.set_level(logging.INFO)
    result = cluster_users(cloud(2000, 16), ClusterSettings(method="sparse", exemplar_ratio=0.05))
    assert len(result.exemplars) == pytest.approx(100, rel=0.06)
    assert "exemplars of 400 users, 20 wanted" in caplog.text


def test_exemplar_ratio_that_no_preference_gives():
    points, _ = planted(groups=6, size=40, spread=1e-4)
    result = cluster_users(points, ClusterSettings(exemplar_ratio=17 / 240, method="dense"))
    assert any("No preference leaves 17 exemplars within 5%" in note for note in result.notes)
    everyone = cluster_users(cloud(30), ClusterSettings(exemplar_ratio=1.0))
    assert len(everyone.exemplars) == 30
    assert "each is its own exemplar" in everyone.notes[0]


# when it does not work out ------------------------------------------------------------------------------------------


def test_a_search_in_which_nobody_is_an_exemplar_ends_with_the_remedy(monkeypatch):
    def none(solver, preference, *_):
        nobody = np.empty(0, np.int64)
        return cluster_solver.Solution(preference, nobody, None, -np.inf, 0.0, False, 9, "dense", None)

    monkeypatch.setattr(cluster_solver.Solver, "attempt", none)
    monkeypatch.setattr(cluster_solver.Solver, "solve", none)
    with pytest.raises(UserError, match="exemplar_ratio: no preference near .* settles with about 6 exemplars"):
        cluster_users(cloud(60), ClusterSettings(exemplar_ratio=0.1, method="dense"))


def test_messages_that_do_not_settle_are_an_error_with_the_remedy():
    points = cloud(100)
    for method in ("dense", "sparse"):
        with pytest.raises(UserError, match="exemplars still change after 12 iterations.*damping.*cluster_neighbours"):
            cluster_users(
                points,
                settings(preference=-1.0, method=method, max_iter=12, convergence_iter=11, on_nonconvergence="error"),
            )


@pytest.mark.parametrize("method", ["dense", "sparse"])
def test_damping_is_raised_and_said_so(method, caplog):
    chosen = settings(preference=-1.0, method=method, max_iter=45, damping=0.6, neighbours=99, convergence_iter=40)
    result = cluster_users(cloud(100), chosen)
    assert result.converged
    assert "Trying again with damping 0.8 and at most 90 iterations" in result.notes[0]
    assert result.notes[0] in caplog.text


def test_a_graph_that_is_too_narrow_is_widened_and_said_so(caplog):
    points = cloud(800, 8)
    reference = cluster_users(points, settings(preference=-80.0, method="dense"))
    with pytest.raises(UserError, match="too narrow"):
        cluster_users(
            points, settings(preference=-80.0, method="sparse", neighbours=16, on_nonconvergence="error", damping=0.95)
        )
    result = cluster_users(points, settings(preference=-80.0, method="sparse", neighbours=16, damping=0.95))
    assert result.neighbours is None or result.neighbours > 16
    assert "too narrow for this preference. Trying again with 64 neighbours" in result.notes[0]
    assert result.notes[0] in caplog.text
    assert result.net_similarity == pytest.approx(reference.net_similarity, rel=5e-3)
    straight = cluster_users(points, settings(preference=-80.0, method="sparse", on_nonconvergence="dense"))
    assert straight.method == "dense"
    np.testing.assert_array_equal(straight.labels, reference.labels)


def test_a_graph_that_may_not_be_widened_is_an_error():
    with pytest.raises(UserError, match="too narrow.*cluster_neighbours .now"):
        cluster_users(cloud(800, 8), settings(preference=-80.0, method="sparse", neighbours=16, memory_limit_mb=1))


def test_a_little_too_narrow_is_tolerated_where_nothing_else_is_allowed(monkeypatch):
    monkeypatch.setattr(cluster_solver, "_TOLERABLE_REGRET", 1.0)
    chosen = settings(preference=-80.0, method="sparse", neighbours=16, on_nonconvergence="error", damping=0.95)
    result = cluster_users(cloud(800, 8), chosen)
    assert "Tolerated, as no wider one is allowed" in result.notes[0]


def test_accepting_what_did_not_settle(caplog):
    points, _ = planted()
    chosen = {"preference": -2.0, "max_iter": 14, "convergence_iter": 13, "on_nonconvergence": "accept"}
    result = cluster_users(points, settings(method="sparse", neighbours=40, **chosen))
    assert not result.converged
    assert "Accepted as it is" in result.notes[0]
    assert result.notes[0] in caplog.text
    distance = ((points[:, None] - points[result.exemplars][None]) ** 2).sum(axis=2)
    np.testing.assert_array_equal(result.labels, distance.argmin(axis=1))


def test_cluster_without_its_exemplar_takes_the_middlemost_member():
    points = np.array([[0.0], [1.0], [2.0], [10.0], [11.0], [13.0]])
    exemplar = np.array([False, False, False, True, False, False])
    choice = np.array([2, 2, 2, 3, 3, 3])
    # those who chose row 2, which is none itself, get row 1; row 3 stays
    np.testing.assert_array_equal(cluster_solver.with_fallback(points, np.ones(6), exemplar, choice), [1, 3])


def test_every_point_is_measured_against_its_own_centre():
    points, centres, labels = cloud(5000), cloud(3, seed=1), np.arange(5000) % 3  # 4096 are looked at together
    expected = ((points.astype(np.float64) - centres[labels]) ** 2).sum(axis=1)
    np.testing.assert_allclose(cluster_solver._pair_distance(points, centres, labels), expected)


def test_closest_to_mean():
    points = cloud(40)
    labels = np.arange(40) % 3
    weight = np.arange(40) % 5 + 1.0
    for chosen in (None, weight):
        found = closest_to_mean(points, labels, chosen)
        for label in range(3):
            members = np.flatnonzero(labels == label)
            mean = np.average(points[members], axis=0, weights=None if chosen is None else chosen[members])
            assert found[label] == members[((points[members] - mean) ** 2).sum(axis=1).argmin()]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"method": "spares"}, "clustering: 'spares' is not one of auto, dense, sparse. Did you mean 'sparse'"),
        ({"preference": -1.0}, "both say how many exemplars"),
        ({"preference": 1.0, "exemplar_ratio": None}, "preference=1.0: allowed is a number, below 0"),
        ({"exemplar_ratio": 3}, "exemplar_ratio=3: allowed is a number, above 0 and at most 1"),
        ({"damping": 1.0}, "damping=1.0"),
        ({"neighbours": 0}, "cluster_neighbours=0"),
        ({"max_iter": 20}, "max_iter: 20 leaves no room for 30"),
    ],
)
def test_settings_name_the_bad_value(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        ClusterSettings(**kwargs)


def test_rows_that_are_no_numbers():
    points = cloud(10)
    points[4, 1] = np.nan
    with pytest.raises(DataError, match="1 of 10 rows are not finite numbers, the first is row 4"):
        cluster_users(points, ClusterSettings())
    with pytest.raises(DataError, match=r"got shape \(3,\)"):
        cluster_users(np.ones(3), ClusterSettings())


def test_all_pairs_that_do_not_fit_are_refused():
    with pytest.raises(
        ConfigError,
        match="clustering=dense needs about 3 MB for 300 distinct users, and 1 are allowed. Use clustering=sparse",
    ):
        cluster_users(cloud(300), settings(preference=-1.0, method="dense", memory_limit_mb=1))


@pytest.mark.skipif(not OFFICE.exists(), reason="shared/datasets/amazon-office is not beside the checkout")
def test_real_titles_sparse_agrees_with_dense():
    """Titles of Amazon Office under tfidf-svd: where both settle, counts within 1 % and net similarity within 0.1 %."""
    import pandas as pd

    from recbole_eimf.semantic.encoders.build import build_encoder
    from recbole_eimf.semantic.encoders.text_encoder import EncoderSettings

    with gzip.open(OFFICE, "rt", encoding="utf-8") as stream:
        titles = pd.read_csv(stream)["title"].dropna().tolist()[:1200]
    vectors = build_encoder(EncoderSettings(name="tfidf-svd", dimension=64), titles).encode(titles)
    dense = cluster_users(vectors, settings(preference=-3.0, method="dense"))
    sparse = cluster_users(vectors, settings(preference=-3.0, method="sparse", neighbours=128))
    assert len(sparse.exemplars) == pytest.approx(len(dense.exemplars), rel=0.01, abs=1)
    assert sparse.net_similarity == pytest.approx(dense.net_similarity, rel=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_all_pairs_and_a_full_graph_agree_where_users_stand_together(seed):
    """It costs as much to move a point as users stand on it, whatever stands on its exemplar."""
    points = np.repeat(cloud(40, 2, seed), np.random.default_rng(seed).integers(1, 12, 40), axis=0)
    dense, sparse = (
        cluster_users(points, settings(preference=-6.0, method=method, neighbours=39)) for method in ("dense", "sparse")
    )
    np.testing.assert_array_equal(dense.exemplars, sparse.exemplars)
    assert 3 < len(dense.exemplars) < 30


def test_what_dropping_an_exemplar_gains_counts_users():
    """Dropping 4.0 moves three users on it by 1 and one beside it by 2.25 - 0.25, to 5.0; it saves 6."""
    points = np.array([[0.0], [4.0], [3.5], [5.0]], dtype=np.float32)
    solver = cluster_solver.Solver(points, np.array([9, 3, 1, 9], np.float32), settings(preference=-6.0), False)
    found = solver.finish(cluster_solver.Solution(-6.0, np.array([0, 1, 3]), None, 0.0, 0.0, True, 1, "dense", None))
    assert found.labels.tolist() == [0, 1, 1, 2]
    assert found.net_similarity == pytest.approx(-3 * 6 - 0.25)
    assert found.regret == pytest.approx((6 - 3 * 1 - (2.25 - 0.25)) / 18.25)


def test_points_that_rounding_brings_together_are_neighbours_still():
    points = np.array([[0.0], [1e-30], [1.0]], dtype=np.float32)
    graph = neighbour_graph(points, 2)
    rows = np.split(graph.col, graph.start[1:-1])
    assert [row.tolist() for row in rows] == [[0, 1, 2]] * 3


def test_a_number_at_the_end_of_what_is_looked_for_is_not_outside():
    for count, outside in ((4, True), (5, False), (7, False), (8, True)):
        assert sparse_affinity._settles_outside([count] * 200, 5, 7) is outside


@pytest.mark.parametrize("method", ["dense", "sparse"])
def test_a_ratio_is_of_the_users_not_of_different_ones(method):
    points = np.repeat(cloud(40), 3, axis=0)
    assert abs(len(cluster_users(points, settings(exemplar_ratio=0.1, method=method)).exemplars) - 12) <= 2
