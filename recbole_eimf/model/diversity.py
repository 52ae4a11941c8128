"""ComiRec's controllable aggregation (Cen et al. 2020, section 3.3): score against diversity of categories."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from recbole_eimf.config import keys
from recbole_eimf.config.keys import InterestModelSettings
from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.data.history_mask import masks_history
from recbole_eimf.data.item_text import read_item_text


def greedy_diverse(scores: Tensor, category: Tensor, weight: float, count: int, pool: int) -> Tensor:
    """Pick items one by one, each with the greatest score + weight · (picked items of another category).

    Greedy maximisation (algorithm 2) of sum of scores + weight · number of pairs in different categories.

    Args:
        scores: [B, N]; category: [N] ids; count: items to pick; pool: candidates, the best by score.

    Returns:
        [B, count] items in the order they were picked.
    """
    value, items = scores.topk(pool)
    kind = category[items]
    picked = []
    for _ in range(count):
        best = value.argmax(1, keepdim=True)
        picked.append(items.gather(1, best))
        # less for the same category instead of more for every other one: the same order
        value = value - weight * (kind == kind.gather(1, best))
        value = value.scatter(1, best, -torch.inf)
    return torch.cat(picked, 1)


def aggregated(
    of_interest: Iterable[Tensor], category: Tensor, weight: float, count: int, hidden: Tensor | None = None
) -> Tensor:
    """Scores with the greedily diverse picks above everything else, the first one highest (algorithm 2).

    The candidates are the union of the best ``count`` items of *every* interest, however small one's scores are beside
    another's; a candidate's score is the greatest that any interest gives it.

    Args:
        of_interest: scores [B, N] by each interest; category: [N] ids; weight, count: see :func:`greedy_diverse`.
        hidden: [B, L] items that are picked last (0: none), or None.

    Returns:
        [B, N]
    """
    scores, candidate = None, None
    for own in of_interest:
        scores = own if scores is None else torch.maximum(scores, own)
        candidate = torch.zeros_like(own, dtype=torch.bool) if candidate is None else candidate
        found = _without(own, hidden).topk(min(count, own.shape[1] - 1)).indices
        candidate.scatter_(1, found, True)
    count = min(count, scores.shape[1] - 1)
    left = _without(scores, hidden).masked_fill(~candidate, -torch.inf)
    pool = int(candidate.sum(1).max())
    picked = greedy_diverse(left, category, weight, count, pool)
    place = torch.arange(count, 0, -1, device=scores.device)
    # where fewer than `count` can be picked, the last pick is one of before: its first place is the one that counts
    top = scores.amax(1, keepdim=True) + place
    return scores.scatter_reduce(1, picked, top, "amax")


def _without(scores: Tensor, hidden: Tensor | None) -> Tensor:
    """A copy in which hidden items come last, and padding is none."""
    left = scores.clone()
    if hidden is not None:
        left.scatter_(1, hidden, torch.finfo(scores.dtype).min)
    left[:, 0] = -torch.inf
    return left


class ControllableAggregation(nn.Module):
    """Re-ranks scores so that the greedily diverse picks stand on top.

    Picks as many items as the largest ``topk``; candidates are that many for every interest. An item without a category
    differs from every other. With ``mask_history`` what the user had is picked last: a pick that is no candidate would
    leave its place to nobody.

    Raises:
        ConfigError: there is no column ``category_field``, or no item of the data set has a category.
    """

    def __init__(self, config, dataset) -> None:
        super().__init__()
        wanted = keys.read(InterestModelSettings, config)
        self.weight = wanted.diversity_lambda
        self.count = max(config["topk"])
        self.mask_history = masks_history(config)
        asked = f"diversity_lambda={self.weight}, category_field={wanted.category_field!r}"
        path = Path(config["data_path"]) / f"{config['dataset']}.item"
        try:
            known = read_item_text(
                path, config["ITEM_ID_FIELD"], [wanted.category_field], config["field_separator"], config["encoding"]
            )
        except DataError as error:
            raise ConfigError(
                f"{asked}: the categories cannot be read. Choose a column of the .item file, or diversity_lambda=0. "
                f"({error})"
            ) from error
        names = [known.get(token) for token in dataset.field2id_token[config["ITEM_ID_FIELD"]]]
        ids = {name: i for i, name in enumerate(sorted(set(filter(None, names))))}
        if not ids:
            raise ConfigError(f"{asked}: no item of {config['dataset']} has one; choose another.")
        category = [len(ids) + item if name is None else ids[name] for item, name in enumerate(names)]
        # read from the data set, not from a checkpoint: a weight can be tried on a model trained without it
        self.register_buffer("category", torch.tensor(category), persistent=False)

    def forward(self, of_interest: Iterable[Tensor], had: Tensor) -> Tensor:
        """Scores [B, N] by each interest, [B, L] what users had (0: none) -> [B, N]: the picks above everything else,
        the first one highest."""
        return aggregated(of_interest, self.category, self.weight, self.count, had if self.mask_history else None)
