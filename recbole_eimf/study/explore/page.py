"""The page of ``explore``: one file, nothing fetched; what others wrote only ever becomes text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_eimf.core.files import atomic_path, write_json
from recbole_eimf.study.explore.words import spread_in_words
from recbole_eimf.study.report.template import render

#: clusters whose prompts and replies are in the page, the largest; the JSON has all
MOST_CLUSTERS = 2000
#: rows of the tables of gains, losses and far interests
_ROWS, _FAR_ROWS, _FEWEST_FAR = 8, 60, 10
_FUNNEL = (720, 300)
_TICKS = [n * 10**power for power in range(6) for n in (1, 2, 5)]
_MARGIN = (46, 12, 14, 36)  # left, right, top, bottom


def write(document: Mapping[str, Any], out: Path, json_out: Path) -> None:
    """Write the page and, beside it, the same as JSON."""
    write_json(json_out, document)
    with atomic_path(out) as temporary:
        temporary.write_text(page(document), encoding="utf-8")


def page(document: Mapping[str, Any]) -> str:
    """The whole page of a document of :func:`recbole_eimf.study.explore.explore.explore`."""
    clusters = document["clusters"]
    shown = sorted(range(len(clusters)), key=lambda c: -clusters[c]["users"])[:MOST_CLUSTERS]
    kept = sorted(shown)
    number = {c: place for place, c in enumerate(kept)}
    against = [_compared(document, place) for place in range(len(document["against"]))]
    return render(
        "explore.html",
        doc=document,
        title=_title(document),
        about=_about(document),
        against=against,
        far=_far(document),
        trouble=_trouble(document["replies"]),
        left_out=len(clusters) - len(kept),
        data={
            "k": document["run"]["k"],
            "name": document["run"]["name"],
            "made_by": document["interests"]["made_by"],
            "placebo": document["interests"]["placebo"],
            "against": [other["name"] for other in document["against"]],
            "prompt": document["prompt"],
            "clusters": [clusters[c] | {"number": c} for c in kept],
            "map": document["map"] | {"cluster": [number.get(c, -1) for c in document["map"]["cluster"]]},
        },
    )


def _title(document: Mapping[str, Any]) -> str:
    interests, run = document["interests"], document["run"]
    what = "What an LLM said of the users" if interests["llm_used"] else "Interests of the users"
    return f"{what}: {run['name']} on {run['dataset']}"


def _about(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    run, interests, test = document["run"], document["interests"], document["test"]
    k = run["k"]
    metrics = [(name, run["test"].get(f"{kind}@{k}")) for name, kind in ((f"HR@{k}", "hit"), (f"NDCG@{k}", "ndcg"))]
    return [
        ("protocol", run["protocol"]),
        ("history", "masked" if run["mask_history"] else "not masked"),
        ("seed", str(run["seed"])),
        ("interests", f"{interests['interests']:,}, from {interests['exemplars']:,} exemplars"),
        ("source", ("shuffled " if interests["placebo"] else "") + interests["source"]),
        ("training users in clusters", f"{interests['users_in_clusters']:,} of {run['training_users']:,}"),
        ("test users", f"{test['users']:,}"),
        *([("times asked", f"{test['rows']:,}")] if test.get("rows") else []),
        *((name, f"{100 * value:.2f} %") for name, value in metrics if value is not None),
    ]


def cluster_name(cluster: Mapping[str, Any]) -> str:
    """What a cluster is called: its exemplar's first interest."""
    return cluster["interests"][0]["text"] if cluster["interests"] else f"no interests ({cluster['exemplar']})"


# ---------------------------------------------------------------------- gains and losses
def _compared(document: Mapping[str, Any], place: int) -> dict[str, Any]:
    """What the page says of one run beside: a sentence, a funnel, the clusters that add and take most."""
    clusters, other = document["clusters"], document["against"][place]
    rows = [
        {"number": c, "name": cluster_name(one), "users": one["test_users"], **one["against"][place]}
        for c, one in enumerate(clusters)
        if one["test_users"]
    ]  # fmt: skip
    by_share = sorted(rows, key=lambda row: row["share"])
    return {
        **other,
        "words": spread_in_words(other),
        "lose_rows": [row for row in by_share[:_ROWS] if row["share"] < 0],
        "gain_rows": [row for row in reversed(by_share[-_ROWS:]) if row["share"] > 0],
        "funnel": _funnel(rows, other),
    }


def _funnel(rows: Sequence[Mapping[str, Any]], other: Mapping[str, Any]) -> dict[str, Any] | None:
    """Differences over the number of users, with the band that 95 % of clusters would keep by chance."""
    if not rows:
        return None
    width, height = _FUNNEL
    left, right, top, bottom = _MARGIN
    least, most = (end(row["users"] for row in rows) for end in (min, max))
    highest = max(max(abs(100 * row["d_ndcg"]) for row in rows), 1.0) * 1.08

    def x(users: float) -> float:
        return left + (width - left - right) * (
            0.02 + 0.96 * math.log(users / least) / max(math.log(most / least), 1e-9)
        )

    def y(points: float) -> float:
        return top + (height - top - bottom) * (1 - (max(-highest, min(highest, points)) + highest) / (2 * highest))

    middle, deviation = 100 * other["difference"], 100 * other["deviation"]
    sizes = [least * (most / least) ** (step / 60) for step in range(61)]
    upper = [(x(n), y(middle + 1.96 * deviation / math.sqrt(n))) for n in sizes]
    lower = [(x(n), y(middle - 1.96 * deviation / math.sqrt(n))) for n in reversed(sizes)]
    step = _step(highest)
    return {
        "width": width,
        "height": height,
        "band": " ".join(f"{a:.1f},{b:.1f}" for a, b in upper + lower),
        "middle": round(y(middle), 1),
        "zero": round(y(0), 1),
        "left": left,
        "end": width - right,
        "floor": height - bottom,
        "points": [
            {"x": round(x(row["users"]), 1), "y": round(y(100 * row["d_ndcg"]), 1), **row} for row in rows
        ],
        "x_ticks": [(round(x(n), 1), f"{n:,}") for n in _TICKS if least <= n <= most],
        "y_ticks": [(round(y(step * n), 1), f"{step * n:+g}" if n else "0") for n in range(-3, 4)
                    if abs(step * n) <= highest],
    }  # fmt: skip


def _step(highest: float) -> float:
    """A round distance between ticks, some of them on each side.

    >>> _step(5.4), _step(12), _step(1.08)
    (2, 5, 0.5)
    """
    rough = highest / 3
    power = 10 ** math.floor(math.log10(rough))
    return next(power * nice for nice in (1, 2, 5, 10) if power * nice >= rough * 0.999)


# ---------------------------------------------------------------------- what went wrong
def _far(document: Mapping[str, Any]) -> dict[str, Any]:
    """Interests far from every title, and from everything that their exemplar had; the farthest first."""
    every = [
        {"number": c, **one} for c, cluster in enumerate(document["clusters"]) for one in cluster["interests"]
    ]  # fmt: skip
    everywhere = sorted(every, key=lambda one: one["nearest"][0]["cosine"])
    shown = max(_FEWEST_FAR, sum(one["far"] for one in every))
    own = [one for one in every if one["far_from_history"] and not one["far"]]
    own.sort(key=lambda one: one["own"]["cosine"])
    return {
        "everywhere": everywhere[: min(shown, _FAR_ROWS)],
        "own": own[:_FAR_ROWS],
        "own_of": len(own),
        "of": len(every),
    }


_SAID = {
    "exemplars_not_in_training": "replies of users who are no training users here",
    "users_without_assignment": "training users whom the assignment does not name",
    "users_moved_to_nearest_exemplar": "users moved to the nearest exemplar: theirs has no usable reply, or see below",
    "users_assigned_with_held_out_items": "users assigned when their history held an item that is held out here",
    "replies_of_this_history": "replies to the prompt over the user's training history",
    "replies_of_shorter_history": "replies to a prompt over the first items of that history",
    "replies_of_another_history": "replies to prompts that no training history gives: they may know held-out items",
    "replies_unchecked": "replies without a digest of their prompt: nobody can tell what was asked",
    "replies_that_know_held_out_items": "replies left out, for their prompts name items held out here",
}


def _trouble(replies: Mapping[str, Any]) -> list[tuple[str, int]]:
    counts = [("replies with interests", replies["ok"]), ("replies without interests", len(replies["failed"]))]
    counts += [
        ("exemplars without a reply", len(replies["missing"])),
        ("replies that nobody uses", len(replies["unused"])),
    ]
    return counts + [(words, replies[key]) for key, words in _SAID.items() if replies.get(key)]
