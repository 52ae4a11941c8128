"""What answers requests, as one thing that is replaced as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recbole_eimf.model.score_prior import ScorePrior
from recbole_eimf.serving import index as search
from recbole_eimf.serving.catalogue import Catalogue
from recbole_eimf.serving.counts import Counts
from recbole_eimf.serving.encoder import Encoder
from recbole_eimf.serving.prior_index import PriorIndex
from recbole_eimf.serving.sentences import Sentences
from recbole_eimf.serving.title_map import TitleMap


@dataclass(frozen=True)
class Parts:
    """All that answers a request; replaced as a whole when items are added, so that no request sees half of it.

    encoder: None for counting models; vectors: [N, D], row 0 is padding; bias: [N] or None; counts: of counting models;
    index: for few users at a time, None is all products; category: int64 [N] for ComiRec's aggregation, or None; text:
    what places new items, or None; sentences: what EIMF's reasons are made of, or None; prior: what is added to the
    products, or None.
    """

    catalogue: Catalogue
    encoder: Encoder | None = None
    vectors: Tensor | None = None
    bias: Tensor | None = None
    counts: Counts | None = None
    index: search.Index | PriorIndex | None = None
    category: Tensor | None = None
    text: TitleMap | None = None
    sentences: Sentences | None = None
    prior: ScorePrior | None = None

    @property
    def max_length(self) -> int:
        """How many of the latest items of a history are read."""
        return (self.encoder or self.counts).max_length

    def interests(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Histories as rows of the catalogue, none empty -> [B, K, D]."""
        with torch.inference_mode():
            return self.encoder(*padded(rows, self.encoder))


def padded(rows: Sequence[Sequence[int]], reader: Encoder | Counts) -> tuple[Tensor, Tensor]:
    """The latest items of histories: ([B, L] right-padded, [B] lengths)."""
    latest = [history[-reader.max_length :] for history in rows]
    length = [len(history) for history in latest]
    table = np.zeros((len(rows), reader.width or max(length)), dtype=np.int64)
    for row, history in enumerate(latest):
        table[row, : len(history)] = history
    return torch.from_numpy(table), torch.tensor(length)


def with_index(parts: Parts, kind: str, folder: Path | None = None) -> Parts:
    """``parts`` with the index that ``kind`` asks for; ``auto`` is flat where an index pays.

    Raises:
        ConfigError: no such kind. DataError: ``folder`` has no readable ``index.faiss`` and ``kind`` is hnsw.
    """
    search.check_index_kind(kind)
    items = len(parts.catalogue)
    if kind == "none" or (kind == "auto" and items < search.FEWEST_ITEMS):
        return parts
    if parts.encoder is None:
        return parts
    if parts.prior is not None:  # of a graph too, in a folder of before: export refuses it now
        return replace(parts, index=PriorIndex(parts.prior, parts.vectors, parts.bias))
    if kind == "hnsw":
        file = None if folder is None else folder / "index.faiss"
        biased = parts.bias is not None
        made = search.HNSWIndex.over(parts.vectors, parts.bias) if file is None else None
        return replace(parts, index=made or search.HNSWIndex.read(file, parts.vectors, biased))
    return replace(parts, index=search.FlatIndex(parts.vectors, parts.bias))
