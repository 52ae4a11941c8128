"""``place_unseen=True``: items that training never saw are ranked where their text puts them, once a model is trained.

Without it their vectors are those they started with, and a model that knows items by id alone can find none of them.
What is counted of items (item kNN, a score prior) is then counted of their neighbours too.
"""

from __future__ import annotations

import torch
from torch import nn

from recbole_eimf.core.errors import ConfigError
from recbole_eimf.model.baselines.counting import CountingModel
from recbole_eimf.model.item_table import ItemTable
from recbole_eimf.model.placing import neighbours


def check(config, model: nn.Module) -> None:
    """Refuse a model that has neither vectors nor neighbours of items, before it is trained. Raises ConfigError."""
    if config["place_unseen"] and not _tables(model) and not _counts(model):
        raise ConfigError(
            f"place_unseen=True: {config['model']} has no vectors of items that could be placed. Leave it out."
        )


@torch.no_grad()
def place(model: nn.Module, train) -> int:
    """Place the items with text that ``train`` lacks, in every table of a trained model, and in what it counts.

    Args:
        train: what the model was trained on, with ``side``
            (:class:`~recbole_eimf.semantic.side_load.SideInformation`).

    Returns:
        How many were placed.
    """
    side, seen = train.side, torch.from_numpy(train.item_counts() > 0)
    new = (side.item_has_text & ~seen).nonzero().squeeze(1)
    known = side.item_has_text & seen
    if not len(new) or not known.any():
        return 0
    near = neighbours(side.item_text[new], side.item_text.half(), known)
    tables = _tables(model)
    device = next(model.parameters()).device
    rows, near = new.to(device), near._replace(rows=near.rows.to(device), weight=near.weight.to(device))
    for table in tables:
        table.place(rows, near)
    if (bias := getattr(model, "item_bias", None)) is not None:
        bias[rows] = near.mean(bias)
    if (prior := getattr(model, "prior", None)) is not None:
        prior.place(rows, near)
    if _counts(model):
        model.place(rows, near)
    return len(new)


def _counts(model: nn.Module) -> bool:
    return isinstance(model, CountingModel) and hasattr(model, "value")


def _tables(model: nn.Module) -> list[ItemTable]:
    return [module for module in model.modules() if isinstance(module, ItemTable)]
