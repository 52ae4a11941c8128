"""One user's best items under a score prior: found through an index, and proved to be brute force's.

What like text adds is a product too (:meth:`ScorePrior.weighed_text`): side by side with the model's own vectors it
makes one vector an item, whose product with an interest and the history's text side by side is the sum of both, and the
greatest over the interests stays the greatest. What lists and counts add is nothing for most items, and is put onto
the few others' products, which a flat index has of all items anyway. So the ceiling of what an index leaves out holds
as without a prior (:mod:`recbole_eimf.serving.index`). A graph's does not: the items that a list lifts may stand
anywhere in it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_eimf.model.score_prior import ScorePrior
from recbole_eimf.serving.index import Best, FlatIndex, proved, rounding

#: sums that what is added goes through, at most
_SUMS = 8


class PriorIndex:
    """A flat index over a model's vectors and its prior.

    Args:
        prior: with its weights; vectors: float32 [N, d], row 0 is padding; bias: [N] or None.
    """

    def __init__(self, prior: ScorePrior, vectors: Tensor, bias: Tensor | None = None) -> None:
        self.prior, self.vectors, self.bias = prior, vectors, bias
        joined = vectors
        if prior.weighs_text:
            joined = torch.cat([vectors, prior.weighed_text(torch.arange(len(vectors)))], 1)
        self.flat = FlatIndex(joined, bias, for_many=False)

    def best(
        self, interests: Tensor, sequence: Tensor, k: int, barred: Tensor | None = None, user: int = 0
    ) -> Best | None:
        """The k best items of one user, or None where all items are to be looked at.

        Args:
            interests: [K, d]; sequence: the latest items of the history, int64 [L]; k, barred, user: as in
                :func:`~recbole_eimf.serving.index.search_with_proof`.
        """
        added = self.prior.counted(sequence)
        asked, own = interests, None
        if self.prior.weighs_text:
            own = self.prior.text_query(sequence[None], torch.tensor([len(sequence)]))[0]
            asked = torch.cat([interests, own.expand(len(interests), -1)], 1)

        def exact(wanted: Tensor) -> Tensor:
            scores = (interests.double() @ self.vectors[wanted].double().T).amax(0) + added[wanted]
            scores = scores if self.bias is None else scores + self.bias[wanted]
            return (scores if own is None else scores + self.prior.weighed_text(wanted).double() @ own.double()).float()

        off = float(rounding(asked.norm(dim=1).max(), self.flat.longest, asked.shape[1]))
        off += _SUMS * torch.finfo(torch.float32).eps * float(added.abs().max())
        return proved(lambda: self.flat.query(asked, added), exact, len(self.vectors), k, off, barred, user)
