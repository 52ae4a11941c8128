"""What ``explore`` found, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole_eimf.config.maker import IN_WORDS, made_by
from recbole_eimf.evaluator.significance import LEVEL


def explored_in_words(document: Mapping[str, Any]) -> str:
    """What the command line says of it."""
    interests, run, replies = document["interests"], document["run"], document["replies"]
    who = IN_WORDS[made_by(interests)]
    lines = [
        f"{run['name']} on {run['dataset']}: {interests['interests']:,} interests of {interests['exemplars']:,} "
        f"exemplars ({who}), {interests['users_in_clusters']:,} of {run['training_users']:,} training users in clusters"
    ]
    if interests["placebo"]:
        lines.append("A placebo: users were trained with the interests of random exemplars, not with their cluster's.")
    if interests["changed"]:
        lines.append(f"The files say something else than when the run was made: {interests['changed']}.")
    for other in document["against"]:
        lines.append(
            f"NDCG@{run['k']} over {other['name']}: {100 * other['difference']:+.2f} points; {other['gain']} clusters "
            f"gain, {other['lose']} lose. {spread_in_words(other)}"
        )
    lines.append(
        f"replies without interests: {len(replies['failed'])}, missing: {len(replies['missing'])}; interests far from "
        f"every title: {document['far']['interests']}"
    )
    honesty = document["honesty"]
    lines.append(honesty["said"] or f"What the sentences mean was not measured: {honesty['why_not']}")
    return "\n".join(lines)


def spread_in_words(other: Mapping[str, Any]) -> str:
    """Whether clusters differ by more than luck."""
    sure = other["sure_gain"] + other["sure_lose"]
    one = f"{sure or 'None'} of them {'is' if sure in (0, 1) else 'are'} sure (Holm-corrected p < {LEVEL})."
    scale = f"{100 * other['spread']:.2f} points, {100 * other['spread_by_chance']:.2f} by chance"
    if other["p_spread"] < LEVEL:
        more = f"Clusters differ by more than random groups of their sizes do ({scale}, p {other['p_spread']:.2g})."
    else:
        more = (
            f"Clusters differ no more than random groups of their sizes do ({scale}, p {other['p_spread']:.2g}): who "
            f"gains and who loses is luck as far as this shows."
        )
    return f"{one} {more}"
