"""Metrics written from their definitions, one user and one place at a time."""

from __future__ import annotations

import math

import numpy as np


def ranking(scores: list[float], user: int, barred: set[int]) -> list[int]:
    """All candidates, best first; equal scores along the user's walk through the fixed permutation."""
    size = len(scores)
    place = {item: p for item, p in enumerate(np.random.default_rng(0).permutation(size).tolist())}
    candidates = [i for i in range(1, size) if i not in barred and scores[i] > -math.inf]
    return sorted(candidates, key=lambda i: (-scores[i], (place[i] + user * 2654435761) % size))


def metrics(ranked: list[int], targets: set[int], k: int) -> dict[str, float]:
    """recall, hit, ndcg, ndcg_hits and mrr at k of one user."""
    places = [n for n, item in enumerate(ranked[:k], start=1) if item in targets]
    gain = sum(1 / math.log2(n + 1) for n in places)

    def ideal(number: int) -> float:
        return sum(1 / math.log2(n + 1) for n in range(1, number + 1))

    return {
        f"recall@{k}": len(places) / len(targets),
        f"hit@{k}": 1.0 if places else 0.0,
        f"ndcg@{k}": gain / ideal(min(k, len(targets))),
        f"ndcg_hits@{k}": gain / ideal(len(places)) if places else 0.0,
        f"mrr@{k}": 1 / places[0] if places else 0.0,
    }
