"""Which way a metric is good."""

from __future__ import annotations


def less_is_better(metric: str) -> bool:
    """Whether the smaller figure is the better one, by RecBole's list (``GiniIndex``, ``AveragePopularity``, errors).

    >>> less_is_better("giniindex@10"), less_is_better("RMSE"), less_is_better("ndcg@10")
    (True, True, False)
    """
    from recbole.evaluator.register import smaller_metrics

    return metric.partition("@")[0].lower() in smaller_metrics
