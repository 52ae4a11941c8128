import math
from collections import Counter

import numpy as np
import pytest

from recbole_eimf.semantic.sources.keywords import keyword_replies

PENS = [f"{colour} gel pen, fine point" for colour in ("red", "blue", "green", "black")]
CHAIRS = [f"{kind} office chair with armrest" for kind in ("mesh", "leather", "folding", "ergonomic")]
NAILS = [f"{colour} nail polish lacquer" for colour in ("pink", "purple", "silver", "gold")]


def words(reply):
    return {word for phrase in reply.interests for word in phrase.split(", ")}


def test_two_themes_of_a_cluster_become_two_phrases():
    reply = keyword_replies({"u": PENS + CHAIRS, "v": NAILS}, max_interests=2)["u"]
    assert (reply.source, reply.status, reply.response, reply.user_id) == ("keywords", "ok", None, "u")
    phrases = [set(phrase.split(", ")) for phrase in reply.interests]
    assert len(phrases) == 2
    assert any({"gel", "pen"} <= phrase and "chair" not in phrase for phrase in phrases)
    assert any({"office", "chair"} <= phrase and "pen" not in phrase for phrase in phrases)


def test_what_all_clusters_share_describes_none():
    clusters = {user: [f"brand {title}" for title in titles] for user, titles in (("u", PENS), ("v", NAILS))}
    replies = keyword_replies(clusters, max_interests=1, terms_per_interest=2)
    assert replies["u"].interests == ("fine, gel",)
    assert replies["v"].interests == ("lacquer, nail",)


def test_the_same_in_every_run_and_order_of_clusters():
    clusters = {"u": PENS + CHAIRS, "v": NAILS, "w": CHAIRS + NAILS}
    first = keyword_replies(clusters)
    assert keyword_replies(clusters) == first
    assert keyword_replies(dict(reversed(clusters.items()))) == first


@pytest.mark.parametrize("limit", [1, 3])
def test_limits(limit):
    reply = keyword_replies({"u": PENS + CHAIRS + NAILS}, max_interests=limit, terms_per_interest=2)["u"]
    assert len(reply.interests) == limit
    assert all(len(phrase.split(", ")) <= 2 for phrase in reply.interests)


@pytest.mark.parametrize(
    ("titles", "interests"),
    [
        (["Stapler"], ("stapler",)),
        (["", "  ", "Stapler"], ("stapler",)),
        (["of the"], ("of the",)),
        (["茶"], ("茶",)),
        (["コーヒー 豆入り"], ("コーヒー, 豆入り",)),
        (["C-3PO 42"], ("c-3po 42",)),
        (["Pen", "pen", "PEN "], ("pen",)),
        ([f"Red pen {n}" for n in range(9)], ("pen, red",)),  # three groups, and one that is not empty
    ],
)
def test_odd_titles(titles, interests):
    assert keyword_replies({"u": titles, "other": NAILS})["u"].interests == interests


@pytest.mark.parametrize("titles", [[], [""], ["  ", "\n"]])
def test_a_cluster_without_titles_is_failed_and_disturbs_no_other(titles):
    replies = keyword_replies({"empty": titles, "u": NAILS})
    assert (replies["empty"].status, replies["empty"].interests) == ("failed", ())
    assert "no title" in replies["empty"].error
    assert replies["u"].status == "ok"


def test_nothing_at_all():
    assert keyword_replies({}) == {}
    assert keyword_replies({"u": []})["u"].status == "failed"


def test_twenty_thousand_titles():
    titles = [f"{'pen' if n % 2 else 'chair'} model{n} {'abcdefghij'[n % 10] * 3}" for n in range(20_000)]
    assert {"pen", "chair"} <= words(keyword_replies({"u": titles})["u"])


def test_terms_are_those_of_highest_class_based_tf_idf():
    """tf(t, group) * log(1 + G / g(t)), a title counting as often as it stands there; ties go by the alphabet."""
    rng = np.random.default_rng(0)
    vocabulary = np.array([a + b for a in ("bo", "ka", "mi", "ru", "zu") for b in ("lt", "nd", "rk", "sp")])
    clusters = {
        f"u{c}": [" ".join(rng.choice(vocabulary[: 8 + c], 3)) for _ in range(rng.integers(2, 30))] for c in range(9)
    }
    clusters["u0"] += clusters["u0"][:2] * 3
    groups = {user: Counter(word for title in titles for word in title.split()) for user, titles in clusters.items()}
    used = Counter(word for counts in groups.values() for word in counts)
    assert set(used.values()) > {1, 9}
    replies = keyword_replies(clusters, max_interests=1, terms_per_interest=3)
    for user, counts in groups.items():
        score = {word: number * math.log(1 + 9 / used[word]) for word, number in counts.items()}
        best = sorted(score, key=lambda word: (-round(score[word], 9), word))[:3]  # noqa: B023
        assert replies[user].interests == (", ".join(best),)


def test_the_largest_theme_comes_first_by_how_often_its_titles_stand_there():
    for often, seldom in ((PENS, CHAIRS), (CHAIRS, PENS)):
        reply = keyword_replies({"u": seldom + often * 3, "v": NAILS}, max_interests=2)["u"]
        assert often[0].split()[-1] in reply.interests[0] or often[0].split()[1] in reply.interests[0]
        assert len(reply.interests) == 2


def test_as_many_phrases_as_the_root_of_the_number_of_titles():
    titles = [f"{a}{b} thing{a}" for a in "abcdefgh" for b in "vwxyz"]  # 40 different ones: ceil of 6.3
    assert len(keyword_replies({"u": titles, "v": NAILS})["u"].interests) == 7
    many = [f"{a}{b}{c} thing{a}" for a in "abcdefgh" for b in "vwxyz" for c in "kl"]  # 80, and 9 are too many
    reply = keyword_replies({"u": many})["u"]
    assert len(reply.interests) == 8
    assert max(len(phrase.split(", ")) for phrase in reply.interests) == 4
    assert len(keyword_replies({"u": titles[:16], "v": NAILS})["u"].interests) <= 4
