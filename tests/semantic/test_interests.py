"""The ESIM pipeline over a small corpus: sequence text (eq. 1) and who stands for whom (eq. 2)."""

from __future__ import annotations

import json
import time
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from recbole_eimf.config.keys import SemanticSettings
from recbole_eimf.core.errors import InterestSourceError, UserError
from recbole_eimf.semantic.corpus import Corpus
from recbole_eimf.semantic.encoders.text_encoder import EncoderSettings, TextEncoder
from recbole_eimf.semantic.llm import client
from recbole_eimf.semantic.pipeline import Pipeline
from recbole_eimf.semantic.sources.shuffled import permuted

WORDS = ["nail", "polish", "red", "blue", "hair", "brush", "dryer", "comb", "soap"]
TITLES = {
    "a": "red nail polish", "b": "blue nail polish", "c": "nail", "d": "hair dryer", "e": "hair brush", "f": "comb",
    "g": "soap",
}  # fmt: skip
#: users of two kinds; ``silent`` had only items that have no text, and stands in the middle
HISTORIES = {
    "n1": "abc", "n2": "acb", "h1": "defd", "silent": "xy", "n3": "bxa", "h2": "efd", "h3": "dg", "h4": "de",
    "n4": "ab",
}  # fmt: skip


class FirstWords(TextEncoder):
    """Counts known words among a text's first four: an encoder that truncates, as all of them do."""

    identity = "first-words"
    dimension = len(WORDS)

    def __init__(self) -> None:
        super().__init__(EncoderSettings())

    def _vectors(self, texts, progress):
        return np.array([bag(text.replace(".", "").split()[:4]) for text in texts])


def bag(words):
    counts = Counter(words)
    vector = np.array([counts[word] for word in WORDS], dtype=float)
    return vector / np.linalg.norm(vector)


def pipeline(tmp_path, **keys):
    corpus = Corpus(list(HISTORIES), [list(history) for history in HISTORIES.values()], TITLES)
    made = Pipeline(corpus, SemanticSettings(semantic_cache=str(tmp_path), **keys), "small")
    made.encoder = FirstWords()
    return made


# ---------------------------------------------------------------------- eq. 1
def test_pooled_text_is_the_mean_of_all_titles_at_unit_length(tmp_path):
    vectors, known = pipeline(tmp_path).user_vectors
    assert known.tolist() == [user != "silent" for user in HISTORIES]
    for u, history in enumerate(HISTORIES.values()):
        titles = [bag(TITLES[item].split()) for item in history if item in TITLES]
        expected = np.mean(titles, axis=0) / np.linalg.norm(np.mean(titles, axis=0)) if titles else np.zeros(len(WORDS))
        np.testing.assert_allclose(vectors[u], expected, atol=1e-6)


def test_joined_text_begins_with_the_latest_item(tmp_path):
    """Truncation drops the oldest: what a user did last decides."""
    vectors, known = pipeline(tmp_path, sequence_text="joined").user_vectors
    assert known.tolist() == [user != "silent" for user in HISTORIES]
    for u, history in enumerate(HISTORIES.values()):
        words = [word for item in reversed(history) if item in TITLES for word in TITLES[item].split()]
        expected = bag(words[:4]) if words else np.zeros(len(WORDS))
        np.testing.assert_allclose(vectors[u], expected, atol=1e-6)


def test_joined_titles_are_sentences_of_one_text(tmp_path):
    made, seen = pipeline(tmp_path, sequence_text="joined"), []
    encode = made.encoder.encode
    made.encoder.encode = lambda texts, *args: seen.extend(texts) or encode(texts, *args)
    assert made.user_vectors is not None
    assert "nail. blue nail polish. red nail polish" in seen


# ---------------------------------------------------------------------- eq. 2
def test_more_users_than_are_compared_at_once_go_to_the_nearest_exemplar():
    vectors = np.random.default_rng(0).normal(size=(5000, 3))
    users, known = [f"u{n}" for n in range(5000)], np.arange(5000) % 7 != 1  # u1 is no exemplar to go to
    made = SimpleNamespace(
        _sequence_vectors=lambda rows: (vectors[rows], known[rows]),
        corpus=SimpleNamespace(users=users, histories=range(5000)),
    )
    likest = (vectors @ vectors[[0, 2, 3]].T).argmax(1)
    expected = {user: (0, 2, 3)[best] for user, best, there in zip(users, likest, known) if there}
    assert Pipeline._nearest(made, users, users[:4]) == expected


@pytest.mark.parametrize("sequence_text", ["pooled", "joined"])
def test_every_user_belongs_to_the_nearest_exemplar(tmp_path, sequence_text):
    for attempt in ("computed", "read from the cache"):
        began = time.perf_counter()
        made = pipeline(tmp_path, preference=-0.5, sequence_text=sequence_text)
        exemplars, assignment, report = made.clusters
        assert set(made.seconds) == {"encode_items" if sequence_text == "pooled" else "encode_users", "cluster"}
        assert 0 <= min(made.seconds.values()) <= sum(made.seconds.values()) <= time.perf_counter() - began
        assert report.get("cached", False) == (attempt != "computed")
        vectors, known = made.user_vectors
        row = {user: u for u, user in enumerate(HISTORIES)}
        assert 2 <= len(exemplars) == report["clusters"] < 8
        assert set(assignment) == set(HISTORIES) - {"silent"}
        for user, cluster in assignment.items():
            far = [((vectors[row[user]] - vectors[row[e]]) ** 2).sum() for e in exemplars]
            assert far[cluster] == pytest.approx(min(far), abs=1e-6)
        assert all(assignment[exemplar] == c for c, exemplar in enumerate(exemplars))
        assert len({assignment[u] for u in ("n1", "n2", "n3", "n4")} & {assignment[u] for u in ("h1", "h2", "h4")}) == 0


def test_no_clustering_and_a_ratio_give_as_many_exemplars_as_they_say(tmp_path):
    exemplars, assignment, _ = pipeline(tmp_path, clustering="none", preference=-10.0).clusters
    assert exemplars == [user for user in HISTORIES if user != "silent"]
    assert [exemplars[c] for c in assignment.values()] == list(assignment)
    exemplars, _, _ = pipeline(tmp_path, exemplar_ratio=0.375).clusters  # of the eight users who have text
    assert len(exemplars) == 3


def test_an_exemplars_prompt_holds_the_latest_items_that_have_text_in_order(tmp_path):
    (request,) = pipeline(tmp_path, prompt_items=2).requests(["n3"])
    assert request.user_id == "n3"
    assert "[blue nail polish (b)][red nail polish (a)]" in request.prompt
    (request,) = pipeline(tmp_path, prompt_items=2).requests(["h1"])
    assert "[comb (f)][hair dryer (d)]" in request.prompt
    assert "(e)" not in request.prompt


# ---------------------------------------------------------------------- eq. 3, side-loaded
def write(tmp_path, replies, assignment=None):
    path = tmp_path / "replies.jsonl"
    path.write_text("".join(json.dumps({"user_id": u, "response": r}) + "\n" for u, r in replies.items()))
    keys = {"interest_source": "file", "interest_file": str(path)}
    if assignment is not None:
        table = tmp_path / "assignment.csv"
        table.write_text("user_id,exemplar_user_id\n" + "".join(f"{u},{e}\n" for u, e in assignment.items()))
        keys["assignment_file"] = str(table)
    return keys


NAILS, HAIR = '{"1": "nail care", "2": "colours"}', '{"1": "hair styling"}'


def test_side_loaded_users_go_where_the_file_says_and_strangers_members_to_the_nearest(tmp_path):
    given = {"n1": "n1", "n2": "h1", "h1": "h1", "h2": "stranger", "n4": "stranger", "silent": "stranger", "h3": "n1"}
    keys = write(tmp_path, {"n1": NAILS, "stranger": HAIR, "h1": HAIR}, given)
    found = pipeline(tmp_path, **keys).run(seed=0)
    assert set(found.report["seconds"]) == {"encode_items", "replies"}
    assert found.exemplars == ["n1", "h1"]
    assert found.texts == [("nail care", "colours"), ("hair styling",)]
    by_user = {user: found.exemplars[c] for user, c in found.assignment.items()}
    # n3 and h4 have no row, and silent no text to find a neighbour by
    assert by_user == {"n1": "n1", "n2": "h1", "h1": "h1", "h2": "h1", "n4": "n1", "h3": "n1"}
    assert found.report["exemplars_not_in_training"] == 1
    assert found.report["users_without_assignment"] == 2
    assert found.report["users_moved_to_nearest_exemplar"] == 2
    assert (found.source, found.llm_used) == ("file", True)


def test_only_those_who_move_and_where_they_may_go_are_encoded(tmp_path):
    """A joined text is a user's whole history: of twenty thousand users most keep the exemplar that the file gives."""
    given = {"n1": "n1", "n2": "n1", "n4": "stranger", "h1": "h1", "h2": "h1"}
    keys = write(tmp_path, {"n1": NAILS, "h1": HAIR}, given)
    made, seen = pipeline(tmp_path, sequence_text="joined", **keys), []
    encode = made.encoder.encode
    made.encoder.encode = lambda texts, *args: seen.extend(texts) or encode(texts, *args)
    found = made.run(seed=0)
    assert found.report["users_moved_to_nearest_exemplar"] == 1
    needed = {". ".join(TITLES[i] for i in reversed(HISTORIES[u]) if i in TITLES) for u in ("n1", "n4", "h1")}
    assert sorted(seen) == sorted(needed)
    assert {u: found.exemplars[c] for u, c in found.assignment.items()}["n4"] == "n1"


def test_without_an_assignment_everybody_goes_to_the_nearest_exemplar_that_answered(tmp_path):
    keys = write(tmp_path, {"n1": NAILS, "h1": HAIR, "h2": "I cannot tell."})
    found = pipeline(tmp_path, **keys).run(seed=0)
    assert found.exemplars == ["n1", "h1"]
    by_user = {user: found.exemplars[c] for user, c in found.assignment.items()}
    assert by_user == {user: f"{user[0]}1" for user in HISTORIES if user != "silent"}
    counts = {"exemplars": 2, "exemplars_without_interests": 0, "interests": 3, "clusters": 2}
    assert {name: found.report[name] for name in counts} == counts


def test_the_placebo_gives_random_exemplars_that_answered_and_nothing_else_changes(tmp_path):
    keys = write(tmp_path, {"n1": NAILS, "h1": HAIR})
    real = pipeline(tmp_path, **keys).run(seed=0)
    drawn = []
    for seed in range(40):
        placebo = pipeline(tmp_path, **{**keys, "interest_source": "shuffled"}).run(seed=seed)
        assert (placebo.exemplars, placebo.texts) == (real.exemplars, real.texts)
        assert list(placebo.assignment) == list(real.assignment)
        assert placebo.source == "shuffled file"
        drawn.append(list(placebo.assignment.values()))
    assert np.abs(np.mean(drawn, axis=0) - 0.5).max() < 0.35, "whatever exemplar a user really has"
    again = pipeline(tmp_path, **{**keys, "interest_source": "shuffled"}).run(seed=39)
    assert list(again.assignment.values()) == drawn[-1]


def test_the_permuted_placebo_keeps_how_many_share_an_exemplar(tmp_path):
    keys = write(tmp_path, {"n1": NAILS, "h1": HAIR})
    real = pipeline(tmp_path, **keys).run(seed=0)
    keys |= {"interest_source": "shuffled", "placebo_draw": "permute"}
    found = [pipeline(tmp_path, **keys).run(seed=seed).assignment for seed in (1, 1, 2, 3)]
    for each in found:
        assert list(each) == list(real.assignment)
        assert Counter(each.values()) == Counter(real.assignment.values())
        assert all(each[user] != own for user, own in real.assignment.items()), "both have four users"
    assert found[0] == found[1]


@pytest.mark.parametrize("sizes", [(5, 3, 1), (400, 30, 30, 20), (1, 1), (6, 1, 1), (4,), tuple(range(1, 30)), ()])
def test_of_permuted_users_as_few_as_can_be_keep_their_own_exemplar(sizes):
    own = [cluster for cluster, size in enumerate(sizes) for _ in range(size)]
    assignment = {f"u{n}": cluster for n, cluster in enumerate(own)}
    drawn = []
    for seed in range(10):
        found = permuted(assignment, seed)
        assert list(found) == list(assignment)
        assert sorted(found.values()) == own
        kept = sum(found[user] == cluster for user, cluster in assignment.items())
        assert kept == max(2 * max(sizes, default=0) - len(own), 0)
        drawn.append(tuple(found.values()))
    assert len(set(drawn)) > 1 or len(sizes) < 3, "the seed decides"


def test_a_permuted_user_may_get_any_other_exemplar():
    assignment = {f"u{n}": n // 5 for n in range(20)}
    times = Counter()
    for seed in range(200):
        times.update((assignment[user], other) for user, other in permuted(assignment, seed).items())
    assert set(times) == {(a, b) for a in range(4) for b in range(4) if a != b}
    assert max(times.values()) < 1.2 * min(times.values())


def test_keywords_come_from_the_titles_of_the_users_own_cluster(tmp_path):
    found = pipeline(tmp_path, preference=-0.5).run(seed=0)
    assert (found.source, found.llm_used) == ("keywords", False)
    titles = {c: set() for c in range(len(found.exemplars))}
    for user, cluster in found.assignment.items():
        titles[cluster] |= {word for item in HISTORIES[user] if item in TITLES for word in TITLES[item].split()}
    for cluster, texts in enumerate(found.texts):
        assert texts
        assert {word for text in texts for word in text.replace(",", "").split()} <= titles[cluster]


def test_a_missing_file_or_key_stops_before_anything_is_encoded(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    nothing = tmp_path / "nothing.jsonl"
    nothing.touch()
    for keys, named in (
        ({"interest_source": "file"}, "interest_file"),
        ({"interest_source": "batch"}, "batch_file"),
        ({"interest_source": "file", "interest_file": "gone.jsonl"}, "gone.jsonl"),
        ({"interest_source": "file", "interest_file": str(nothing)}, "nothing.jsonl: no reply in it"),
        (
            {"interest_source": "keywords", "interest_file": "r.jsonl"},
            "r.jsonl: interest_source=keywords does not read",
        ),
        ({"interest_source": "shuffled", "shuffled_source": "file"}, "shuffled_source=file: interest_file is not set"),
        ({"interest_source": "shuffled", "shuffled_source": "batch"}, "shuffled_source=batch: batch_file is not set"),
        (
            {"interest_source": "shuffled", "shuffled_source": "keywords", "interest_file": "r.jsonl"},
            "r.jsonl: shuffled_source=keywords does not read it. Add --shuffled_source=file",
        ),
        ({"assignment_file": "a.csv"}, "assignment_file=a.csv: interest_source=keywords does not read"),
        ({"batch_file": "b.jsonl"}, "batch_file=b.jsonl: interest_source=keywords does not read"),
        ({"interest_source": "a.b:c", "assignment_file": "a.csv"}, "interest_source=a.b:c does not read"),
        ({"batch_file": "b.jsonl", "knowledge_source": "batch"}, "batch_file=b.jsonl: no such file"),
        ({"prompt_file": "gone.txt"}, "gone.txt"),
        ({"interest_source": "openai"}, "OPENAI_API_KEY"),
    ):
        made = pipeline(tmp_path, **keys)
        made.encoder = None
        with pytest.raises(UserError, match=named):
            made.run(seed=0)


def some_known(clusters):
    """A source of the user's own that knows nothing of the first exemplar."""
    return {cluster.user_id: ["hair styling"] if n else None for n, cluster in enumerate(clusters)}


def five(clusters):
    return {clusters[0].user_id: 5}


def test_a_source_of_ones_own_may_know_nothing_of_a_user(tmp_path):
    keys = {"interest_source": f"{__name__}:some_known", "preference": -0.5}
    found = pipeline(tmp_path, **keys).run(seed=0)
    assert [*map(len, found.texts)] == [0, *[1] * (len(found.texts) - 1)]
    with pytest.raises(InterestSourceError, match="are 5; a list of texts is needed"):
        pipeline(tmp_path, **{**keys, "interest_source": f"{__name__}:five"}).run(seed=0)


def test_calls_that_cost_are_made_only_where_that_was_agreed(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-test")
    asked = []
    monkeypatch.setattr(client, "fetch_openai", lambda requests, *args, **keys: asked.extend(requests) or {})
    keys = {"interest_source": "openai", "preference": -0.5}
    with pytest.raises(InterestSourceError, match="would make paid calls.*--yes=True"):
        pipeline(tmp_path, **keys).run(seed=0)
    assert not asked
    with pytest.raises(InterestSourceError, match="not one of 4 replies holds an interest"):
        pipeline(tmp_path, **keys).run(seed=0, agreed=True)
    assert len(asked) == 4
