"""What losses and layers are tested against: formulas as papers print them, in plain Python, one number at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor


def softmax(values: Sequence[float]) -> list[float]:
    top = max(values)
    exps = [math.exp(v - top) for v in values]
    return [e / sum(exps) for e in exps]


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a @ b) / (a.norm() * b.norm()))
