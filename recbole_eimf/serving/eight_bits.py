"""A catalogue's vectors in eight bits each: half of bfloat16's bytes to read for one user, and what that costs.

Every vector is written as whole numbers from -127 to 127 times a scale of its own, a user's interests with one scale
for all, so that the greatest product over the interests is taken among whole numbers, which are summed without
rounding. By Cauchy and Schwarz, with e what writing left of an interest h and of a vector x, a product is off by at
most

    |e_h| |x| + (|h| + |e_h|) |e_x|,

which :meth:`EightBits.scores` says of all items at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MOST = 127
#: of turning whole sums into numbers of single precision and scaling them twice
_SCALED = 4 * torch.finfo(torch.float32).eps
#: lengths are themselves summed in single precision
_LENGTHS = 1 + 1e-4


class EightBits:
    """Vectors float32 [N, d] in eight bits.

    Args:
        vectors: float32 [N, d]; longest: the greatest length of one.
    """

    def __init__(self, vectors: Tensor, longest: float) -> None:
        self.longest = longest
        self.scale = _scale(vectors.abs().amax(1))
        self.table = _written(vectors, self.scale[:, None])
        step = 1 << 18  # the differences are as large as the vectors: a part at a time
        off = [
            (vectors[i : i + step] - self.table[i : i + step] * self.scale[i : i + step, None]).norm(dim=1).max()
            for i in range(0, len(vectors), step)
        ]
        #: how far a written vector is from its own
        self.off = float(torch.stack(off).max()) * _LENGTHS

    def scores(self, interests: Tensor) -> tuple[Tensor, float]:
        """Interests [K, d] -> (the greatest product over them for each item, float32 [N], how far one may be off)."""
        scale = _scale(interests.abs().max())
        asked = _written(interests, scale)
        long = float(interests.norm(dim=1).max()) * _LENGTHS
        off = float((interests - asked * scale).norm(dim=1).max()) * _LENGTHS
        products = torch._int_mm(asked, self.table.T)
        scores = products.amax(0).float().mul_(self.scale).mul_(scale)
        reach = (long + off) * (self.longest + self.off)
        return scores, off * self.longest + (long + off) * self.off + reach * _SCALED


def _scale(greatest: Tensor) -> Tensor:
    return greatest.clamp(min=torch.finfo(torch.float32).tiny * 2**20) / _MOST


def _written(values: Tensor, scale: Tensor) -> Tensor:
    return (values / scale).round_().to(torch.int8)
