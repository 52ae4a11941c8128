"""What ``explore`` counts: gains by cluster, nearest titles, the map, replies without a call."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from recbole_eimf.core.errors import ConfigError
from recbole_eimf.semantic import journal
from recbole_eimf.semantic.llm.prompt import PromptRequest, build_prompt
from recbole_eimf.semantic.reply_check import Exemplar, PromptForm
from recbole_eimf.study.explore import gains as module
from recbole_eimf.study.explore import nearness
from recbole_eimf.study.explore.chart import SIDE, charted
from recbole_eimf.study.explore.explore import _add_metrics, _tested
from recbole_eimf.study.explore.gains import cluster_means, gains
from recbole_eimf.study.explore.nearness import between_titles, far_below, nearest_titles
from recbole_eimf.study.explore.said import clusters_of_test_users, prompts_of, said_in
from tests.semantic.test_interests import HISTORIES, pipeline
from tests.study.made import ranks_of


# ---------------------------------------------------------------------- gains
def test_gains_are_those_of_a_loop_over_clusters():
    rng = np.random.default_rng(0)
    first, second = rng.random(200), rng.random(200)
    first[:3] = np.nan
    cluster = rng.integers(-1, 6, 200)
    found = gains(first, second, cluster, 7)
    every = [first[u] - second[u] for u in range(200) if cluster[u] >= 0 and u > 2]
    between = 0.0
    for c in range(6):
        own = [first[u] - second[u] for u in range(200) if cluster[u] == c and u > 2]
        assert found.users[c] == len(own)
        assert found.mean[c] == pytest.approx(sum(own) / len(own))
        assert found.share[c] == pytest.approx(sum(own) / len(every))
        between += len(own) / len(every) * (sum(own) / len(own) - np.mean(every)) ** 2
    assert found.users[6] == 0
    assert np.isnan(found.mean[6])
    assert found.difference == pytest.approx(np.mean(every))
    assert found.share.sum() == pytest.approx(found.difference)
    assert found.spread == pytest.approx(between**0.5)
    assert found.deviation == pytest.approx(np.std(every))
    assert (found.adjusted >= found.p).all()


def test_rows_of_one_user_are_tested_and_dealt_out_together():
    """Against loops over users and every deal; users have other numbers of rows, in no order."""
    rng = np.random.default_rng(1)
    whose = rng.permutation(np.repeat([9, 2, 7, 4, 5, 1, 8], [1, 4, 2, 3, 1, 6, 2]))
    of_user = {9: 0, 2: 0, 7: 0, 4: 1, 5: 1, 1: 2, 8: -1}
    cluster = np.array([of_user[user] for user in whose])
    first, second = rng.integers(0, 4, (2, len(whose))) / 3
    found = gains(first, second, cluster, 4, user=whose)
    users = [user for user in sorted(of_user) if of_user[user] >= 0]
    own = {user: [a - b for a, b, u in zip(first, second, whose) if u == user] for user in users}
    rows = sum(map(len, own.values()))
    over_all = sum(map(sum, own.values())) / rows

    def spread(groups):
        total = 0.0
        for c in range(3):
            inside = [one for user in users if groups[user] == c for one in own[user]]
            total += len(inside) / rows * (sum(inside) / max(len(inside), 1) - over_all) ** 2
        return total**0.5

    deals = [spread(dict(zip(users, deal))) for deal in itertools.permutations([of_user[user] for user in users])]
    assert found.spread == pytest.approx(spread(of_user))
    assert found.spread_by_chance == pytest.approx(np.mean(deals), rel=0.03)
    assert found.p_spread == pytest.approx(np.mean(np.array(deals) >= spread(of_user) - 1e-9), abs=0.04)
    for c in range(3):
        sums = [sum(own[user]) for user in users if of_user[user] == c]
        reached = [abs(np.dot(signs, sums)) >= abs(sum(sums)) - 1e-9
                   for signs in itertools.product((-1, 1), repeat=len(sums))]  # fmt: skip
        assert found.p[c] == pytest.approx(np.mean(reached))
    assert (found.users.tolist(), found.rows.tolist()) == ([3, 2, 1, 0], [7, 4, 6, 0])
    assert found.difference == pytest.approx(over_all)
    assert found.share.sum() == pytest.approx(over_all)
    apart = [sum(own[user]) - over_all * len(own[user]) for user in users]
    assert found.deviation == pytest.approx((6 * sum(one**2 for one in apart)) ** 0.5 / rows)


def test_asking_users_again_makes_nothing_surer():
    rng = np.random.default_rng(2)
    first, second = rng.random((2, 60))
    cluster = rng.integers(-1, 5, 60)
    first[cluster == 3] += 0.4
    plain = gains(first, second, cluster, 5)
    rows = np.repeat(np.arange(60), 10)
    often = gains(first[rows], second[rows], cluster[rows], 5, user=rows)
    assert (often.p == plain.p).all()
    assert (often.p_spread, often.users.tolist()) == (plain.p_spread, plain.users.tolist())
    for name in ("mean", "share", "spread", "spread_by_chance", "deviation", "difference"):
        assert getattr(often, name) == pytest.approx(getattr(plain, name))
    assert (gains(first[rows], second[rows], cluster[rows], 5).p < plain.p).any(), "as if they were other users"


def test_test_users_are_counted_once_however_often_they_are_asked():
    user, cluster = np.array([3, 3, 5, 5, 5, 8, 9, 9]), np.array([0, 0, 1, 1, 1, 0, -1, -1])
    places = np.array([0, 4, -1, 1, 2, 0, 3, 0])
    mine, theirs = (replace(ranks_of(at), user=user) for at in (places, places[::-1]))
    assert _tested(mine, cluster) == {"users": 4, "rows": 8, "without_cluster": 1}
    assert _tested(ranks_of(places), cluster)["rows"] == 0
    document = {"clusters": [{}, {}, {}]}
    _add_metrics(document, mine, [({"name": "other"}, theirs)], cluster, 5)
    assert [one["test_users"] for one in document["clusters"]] == [2, 1, 0]
    expected = gains(mine.per_user("ndcg@5"), theirs.per_user("ndcg@5"), cluster, 3, user=user)
    assert [one["against"][0]["p"] for one in document["clusters"]] == pytest.approx(expected.p.tolist())
    assert document["against"][0]["p_spread"] == pytest.approx(expected.p_spread, abs=1e-6)


def test_luck_is_called_luck_and_a_cluster_that_gains_is_found(monkeypatch):
    monkeypatch.setattr(module, "_PERMUTATIONS", 200)
    cluster = np.repeat(np.arange(20), 30)
    by_luck = []
    for seed in range(20):
        first, second = (np.random.default_rng([seed, side]).random(600) < 0.1 for side in (0, 1))
        by_luck.append(gains(first.astype(float), second.astype(float), cluster, 20))
    p = np.array([luck.p_spread for luck in by_luck])
    assert 0.3 < p.mean() < 0.7
    assert (p < 0.05).sum() <= 3
    assert np.mean([luck.spread - luck.spread_by_chance for luck in by_luck]) == pytest.approx(0, abs=0.01)
    first, second = first.astype(float), second.astype(float)
    first[cluster == 3] = 1.0
    found = gains(first, second, cluster, 20)
    assert found.p_spread < 0.01
    assert np.flatnonzero(found.adjusted < 0.05).tolist() == [3]
    assert found.mean[3] > 0
    turned = gains(second, first, cluster, 20)
    assert turned.mean[3] == -found.mean[3]


def test_means_leave_out_users_without_cluster_or_value():
    users, mean = cluster_means(np.array([1.0, 0.0, np.nan, 1.0]), np.array([0, 0, 0, -1]), 2)
    assert users.tolist() == [2, 0]
    assert mean[0] == 0.5
    assert np.isnan(mean[1])


# ---------------------------------------------------------------------- titles and the map
def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(params=[None, 3], ids=["at once", "in parts"])
def _in_parts(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(nearness, "_AT_A_TIME", request.param)


@pytest.mark.usefixtures("_in_parts")
def test_nearest_titles_are_those_of_a_sort():
    rng = np.random.default_rng(2)
    interests, items = unit(rng.normal(size=(7, 5))), unit(rng.normal(size=(40, 5)))
    found = nearest_titles(interests, items, 4)
    for row, interest in enumerate(interests):
        cosines = [float(interest @ item) for item in items]
        best = sorted(range(40), key=lambda n: -cosines[n])[:4]
        assert found.nearest[row].tolist() == best
        assert found.cosine[row] == pytest.approx([cosines[n] for n in best], abs=1e-6)
    assert nearest_titles(interests, items[:2], 5).nearest.shape == (7, 2)


def test_far_are_outliers_among_the_interests():
    cosines = np.array([0.5, 0.6, 0.7, 0.8, 0.9])
    assert far_below(cosines) == pytest.approx(0.6 - 1.5 * 0.2)
    assert far_below(np.zeros(0)) == -1.0


@pytest.mark.usefixtures("_in_parts")
def test_between_titles_is_the_median_of_a_loop():
    rng = np.random.default_rng(3)
    items = unit(rng.normal(size=(50, 8)))
    titles = [f"title {n}" for n in range(50)]
    best = [max(float(items[n] @ items[m]) for m in range(50) if m != n) for n in range(50)]
    assert between_titles(titles, items) == pytest.approx(np.median(best), abs=1e-5)
    twice = between_titles([*titles, *titles], np.concatenate([items, items]))
    assert twice == pytest.approx(np.median(best), abs=1e-5)  # the same title again is no neighbour
    assert between_titles(["one"], items[:1]) is None


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_the_map_keeps_neighbours_together_and_exemplars_on_it(method):
    rng = np.random.default_rng(4)
    kind = np.repeat([0, 1, 2], 40)
    vectors = unit(np.eye(12)[kind * 4] + 0.15 * rng.normal(size=(120, 12)))
    found = charted(vectors, [5, 119], 60, method)
    assert len(found.user) == 60
    assert {5, 119} <= set(found.user.tolist())
    assert len(set(found.user.tolist())) == 60
    assert found.place.min() >= 0
    assert found.place.max() == SIDE
    centre = np.array([found.place[kind[found.user] == c].mean(0) for c in range(3)])
    near = np.linalg.norm(found.place[:, None] - centre, axis=2).argmin(1)
    assert (near == kind[found.user]).mean() > 0.95
    again = charted(vectors, [5, 119], 60, method)
    assert np.array_equal(found.place, again.place)
    assert len(charted(vectors[:1], [0], 5, method).user) == 1


# ---------------------------------------------------------------------- replies
def line(user, prompt, model="m", status="ok", response='{"1": "nails"}', error=None):
    made = {"user_id": user, "prompt_sha256": PromptRequest(user, prompt).sha256, "model": model, "status": status}
    return json.dumps({**made, "response": response, "interests": [], "error": error, "usage": None})


def test_the_journal_tells_failed_replies_too(tmp_path):
    requests = [PromptRequest(user, f"of {user}") for user in ("a", "b", "c", "d")]
    lines = [
        line("a", "of a", status="failed", response="I cannot", error="refused"), line("a", "of a"),
        line("b", "of b", status="failed", response="I cannot help with that.", error="The model refused"),
        line("c", "of another day"),
        line("d", "of d", status="failed", response=None, error="no answer in 60 s"),
    ]  # fmt: skip
    (tmp_path / "j.jsonl").write_text("\n".join(lines) + "\n")
    found = journal.kept(requests, 5, journal.read_journal(tmp_path / "j.jsonl", "m"))
    assert set(found) == {"a", "b", "d"}
    assert (found["a"].status, found["a"].interests) == ("ok", ("nails",))
    assert (found["b"].status, found["b"].failure, found["b"].interests) == ("failed", "refusal", ())
    assert (found["b"].response, found["b"].error) == ("I cannot help with that.", "The model refused")
    assert (found["d"].response, found["d"].failure) == (None, "no answer")


def test_a_run_that_paid_is_read_from_its_journal_without_key_or_call(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    made = pipeline(tmp_path, interest_source="openai", llm_model="m", exemplar_ratio=0.4)
    exemplars, cluster, _ = made.clusters
    first = made.requests(exemplars)[0]
    made.journal.write_text(line(first.user_id, first.prompt) + "\n")
    said = said_in(made, "openai")
    assert said.llm_used
    assert said.texts[0] == ("nails",)
    assert said.unanswered == tuple(exemplars[1:])
    assert said.cluster == cluster
    assert prompts_of(made, said) == {first.user_id: first.prompt}


def test_a_prompt_is_shown_only_where_its_digest_proves_it():
    texts = {"a": "red nail polish", "b": "comb"}
    form = PromptForm("of {history}", 20, (texts,))
    asked = build_prompt(Exemplar("u", (texts["a"],), ("a",)), "of {history}")
    assert form.prompt_of("u", ["a", "b"], asked.sha256) == "of [red nail polish (a)]"
    assert form.prompt_of("u", ["b"], asked.sha256) is None


def test_keywords_and_placebos_are_grouped_by_the_real_clusters(tmp_path):
    made = pipeline(tmp_path, interest_source="shuffled", exemplar_ratio=0.4)
    said = said_in(made, "shuffled keywords")
    assert (said.placebo, said.llm_used, said.source) == (True, False, "keywords")
    assert said.cluster == made.clusters[1]
    assert all(reply.response is None for reply in said.replies.values())
    with pytest.raises(ConfigError, match="--interest_source=examples.first_words:first_words"):
        said_in(made, "examples.first_words:first_words")
    own = said_in(made, "examples.first_words:first_words", trusted="examples.first_words:first_words")
    assert (own.llm_used, own.cluster, sum(map(bool, own.texts))) == (False, said.cluster, len(own.exemplars))


def test_test_users_that_training_does_not_know_go_to_the_nearest_exemplar(tmp_path):
    made = pipeline(tmp_path, exemplar_ratio=0.4)
    said = said_in(made, "keywords")
    users = [*HISTORIES, "new nails", "new hair", "new silent"]
    histories = [list(history) for history in HISTORIES.values()] + [["a", "b"], ["e", "d"], ["x"]]
    found, placed = clusters_of_test_users(made, said, users, histories)
    assert found[: len(HISTORIES)].tolist() == [said.cluster.get(user, -1) for user in HISTORIES]
    assert said.exemplars[found[-3]].startswith("n")
    assert said.exemplars[found[-2]].startswith("h")
    assert found[-1] == -1
    assert placed == 2
    users, histories = ["new", "n0", "new", "new"], [["e", "d", "e"], [], ["a", "b"], ["e", "d", "e", "d"]]
    found, placed = clusters_of_test_users(made, said, users, histories)
    assert set(found[[0, 2, 3]]) == {found[2]}, "a user is in one cluster, of the shortest history"
    assert said.exemplars[found[2]].startswith("n")
    assert placed == 1
