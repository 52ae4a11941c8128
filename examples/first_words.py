"""A source of interests of your own, without any LLM: what the titles of a user's items begin with.

python run_recbole_eimf.py --model=EIMF --dataset=ml-100k --interest_source=examples.first_words:first_words
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from recbole_eimf.semantic.sources.own import Cluster


def first_words(clusters: Sequence[Cluster]) -> dict[str, list[str]]:
    """For each cluster's exemplar up to five phrases, most important first. An exemplar left out has no interests."""
    found = {}
    for cluster in clusters:
        beginnings = Counter(" ".join(title.split()[:2]) for title in cluster.titles)
        found[cluster.user_id] = [phrase for phrase, _ in beginnings.most_common(5)]
    return found
