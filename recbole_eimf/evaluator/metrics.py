"""Metrics that RecBole does not have, as RecBole metrics."""

from __future__ import annotations

import numpy as np
from recbole.evaluator.base_metric import TopkMetric


class NDCGHits(TopkMetric):
    """``NDCG_hits``: DCG over the ideal DCG of the *hits*, as the ComiRec family (MIND, ComiRec, REMI) reports it.

    ``sum_{places p of hits} 1 / log2(p + 1) / sum_{p = 1..hits} 1 / log2(p + 1)``, zero without a hit; places count
    from 1 in the ordered list. RecBole's NDCG divides by the ideal of min(k, targets) instead, so it is never larger.
    """

    def calculate_metric(self, dataobject) -> dict[str, float]:
        hits, _ = self.used_info(dataobject)
        return self.topk_result("ndcg_hits", self.metric_info(hits))

    def metric_info(self, pos_index: np.ndarray, pos_len: np.ndarray | None = None) -> np.ndarray:
        """Per user, for every k up to the largest.

        Args:
            pos_index: whether the item at each place is a target, bool [R, k].

        Returns:
            float64 [R, k]

        >>> config = {"topk": [3], "metric_decimal_place": 4}
        >>> NDCGHits(config).metric_info(np.array([[True, False, True], [False, False, True]])).round(4).tolist()
        [[1.0, 1.0, 0.9197], [0.0, 0.0, 0.5]]
        """
        gain = 1 / np.log2(np.arange(pos_index.shape[1]) + 2)
        ideal = np.concatenate([[1.0], np.cumsum(gain)])  # the first: nothing found, nothing to divide
        return np.cumsum(pos_index * gain, axis=1) / ideal[np.cumsum(pos_index, axis=1)]


#: What ``metrics: [...]`` may name beside RecBole's own, by lower-case name.
METRICS = {"ndcg_hits": NDCGHits}
