"""Maximum mean discrepancy between two samples (PAD section 2.2, eq. 2-3), with the kernels of PAD's RQ3.

Everything comes from one Gram matrix of the joined samples: no tensor has an axis of items, of items again and of
dimensions. Shapes: n and m vectors of d numbers.

**Decisions** where the paper is silent: the bandwidths are multiples of the mean squared distance between different
vectors of the joined sample, and are constants to the gradient; the Laplacian kernel takes the Euclidean distance,
whose mean is its bandwidth (the L1 distance would need the n x n x d tensor; both are characteristic).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_eimf.model.layer import full_precision, shortest

#: bandwidths of the five Gaussian (Laplacian) kernels, in units of the mean squared (plain) distance
BANDWIDTHS = (0.125, 0.25, 0.5, 1.0, 2.0)
#: kernels :func:`kernel_matrix` knows; only the first two are characteristic
KERNELS = ("gaussian", "laplacian", "linear", "cosine")


def squared_distances(vectors: Tensor) -> Tensor:
    """All squared Euclidean distances, from the Gram matrix: [n, d] -> [n, n], zero on the diagonal."""
    centred = vectors - vectors.mean(0).detach()  # the same distances, and less cancellation in float32
    gram = centred @ centred.T
    norm = gram.diagonal()
    distance = (norm[:, None] + norm[None, :] - 2 * gram).clamp(min=0)
    return distance.masked_fill(torch.eye(len(vectors), dtype=torch.bool, device=vectors.device), 0)


def kernel_matrix(vectors: Tensor, kernel: str, width: float = 1.0) -> Tensor:
    """The kernel of every pair: [n, d] -> [n, n]. The multi-kernel ones are sums over ``BANDWIDTHS``.

    ``width`` multiplies the Gaussian kernels' bandwidths: 2 makes them exp(-|x - y|^2 / (2 sigma^2)).
    """
    if kernel == "linear":
        return vectors @ vectors.T
    if kernel == "cosine":
        unit = F.normalize(vectors, dim=-1, eps=shortest(vectors.dtype))
        return unit @ unit.T
    distance = squared_distances(vectors)
    if kernel == "laplacian":
        # the root has no slope at zero: there, the kernel is a constant one
        zero = distance == 0
        distance = distance.masked_fill(zero, 1).sqrt().masked_fill(zero, 0)
    pairs = len(vectors) * (len(vectors) - 1)
    mean = (distance.detach().sum() / max(pairs, 1)).clamp(min=torch.finfo(distance.dtype).eps ** 2)
    scaled = distance / (mean * width if kernel == "gaussian" else mean)
    return sum((-scaled / width).exp() for width in BANDWIDTHS)


def mmd(first: Tensor, second: Tensor, kernel: str = "gaussian", unbiased: bool = False, width: float = 1.0) -> Tensor:
    """Squared MMD between two samples (eq. 2).

    Args:
        first: [n, d]; second: [m, d]. Vectors that belong to padding or stand in a sample twice are the caller's to
            leave out.
        kernel: one of ``KERNELS``.
        unbiased: leave out the diagonals (the U-statistic of Gretton et al. 2012a, eq. 3), which may be negative and
            needs two vectors in each sample; the biased form is never negative.
        width: of the Gaussian kernels, see :func:`kernel_matrix`.

    Returns:
        A scalar; zero where a sample is too small.
    """
    n, m = len(first), len(second)
    if min(n, m) < (2 if unbiased else 1):
        return first.sum() * 0 + second.sum() * 0
    with full_precision(first, second) as (first, second):  # what is left of a distance is small beside its parts
        matrix = kernel_matrix(torch.cat([first, second]), kernel, width)
    within_first, within_second, between = matrix[:n, :n], matrix[n:, n:], matrix[:n, n:]
    if unbiased:
        own_first = (within_first.sum() - within_first.diagonal().sum()) / (n * (n - 1))
        own_second = (within_second.sum() - within_second.diagonal().sum()) / (m * (m - 1))
    else:
        own_first, own_second = within_first.mean(), within_second.mean()
    return own_first + own_second - 2 * between.mean()
