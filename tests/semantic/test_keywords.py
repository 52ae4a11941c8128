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
