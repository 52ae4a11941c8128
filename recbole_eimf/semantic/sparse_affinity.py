"""Affinity propagation on a nearest-neighbour graph: messages only where two users are close.

The messages of Frey and Dueck (EIMF Algorithm 1, lines 6-9) need ``n x n`` numbers each. Almost all of them belong to
pairs so far apart that one will never represent the other. Here a message lives on an edge of the symmetrised
k-nearest-neighbour graph, so that memory and time grow with ``n k``. What is left out is a limit on the solution too: a
point can only be represented by a point of its neighbourhood, which `clustering.py` checks for afterwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import faiss
import numpy as np
from scipy import sparse
from tqdm import tqdm

EXACT_SEARCH_UP_TO = 50_000
"""Points above which neighbours come from an inverted-file index (approximate) rather than from all distances."""

_RECALL_WANTED = 0.97
_NOISE = 1e-5


@dataclass(frozen=True)
class Graph:
    """A symmetric neighbourhood graph in row order; every row also holds its own diagonal entry.

    ``start`` [n] first edge of each row, ``degree`` [n] edges per row, ``row`` and ``col`` int32 [E], ``distance``
    float32 [E] squared Euclidean (0 on the diagonal), ``diagonal`` int64 [n] the edge (i, i), ``recall`` share of true
    neighbours found (1.0 for an exact search, else measured on a sample).
    """

    start: np.ndarray
    degree: np.ndarray
    row: np.ndarray
    col: np.ndarray
    distance: np.ndarray
    diagonal: np.ndarray
    recall: float

    @property
    def size(self) -> int:
        """Number of points n."""
        return len(self.start)


@dataclass(frozen=True)
class Propagation:
    """Where the messages settled.

    ``exemplar`` bool [n], r(k,k) + a(k,k) > 0; ``choice`` int64 [n], the point that maximises a(i,k) + r(i,k)
    (Algorithm 1, line 10); ``responsibility`` and ``availability`` [E], the messages themselves.
    """

    exemplar: np.ndarray
    choice: np.ndarray
    converged: bool
    iterations: int
    responsibility: np.ndarray
    availability: np.ndarray


def neighbour_graph(points: np.ndarray, neighbours: int, seed: int = 0) -> Graph:
    """Link every point with its ``neighbours`` nearest ones, in both directions.

    ``points`` float32 [n, d] are distinct, n >= 2. The graph is exact up to `EXACT_SEARCH_UP_TO` points; beyond, an
    inverted-file index probes more and more lists until a sample's recall is 0.97. (Not HNSW: its parallel build is
    not reproducible.)
    """
    n = len(points)
    k = min(neighbours, n - 1)
    # distances do not change with the origin, but the rounding of |x|^2 + |y|^2 - 2xy does
    points = np.ascontiguousarray(points - points.mean(axis=0), dtype=np.float32)
    if n <= EXACT_SEARCH_UP_TO:
        index, recall = faiss.IndexFlatL2(points.shape[1]), 1.0
        index.add(points)
    else:
        index, recall = _inverted_file(points, k, seed)
    distance, neighbour = index.search(points, k + 1)
    row = np.repeat(np.arange(n, dtype=np.int32), k + 1)
    col, distance = neighbour.ravel(), distance.ravel()
    keep = (col != row) & (col >= 0)
    row, col, distance = row[keep], col[keep].astype(np.int32), distance[keep]
    # scipy drops stored zeros when it takes the maximum, and rounding can make a small distance zero
    directed = sparse.csr_matrix((np.maximum(distance, 1e-30), (row, col)), shape=(n, n))
    graph = directed.maximum(directed.T).tocsr() + sparse.identity(n, dtype=np.float32, format="csr")
    graph.sort_indices()
    degree = np.diff(graph.indptr)
    row = np.repeat(np.arange(n, dtype=np.int32), degree)
    diagonal = np.flatnonzero(row == graph.indices)
    graph.data[diagonal] = 0.0
    return Graph(graph.indptr[:-1].astype(np.int64), degree, row, graph.indices, graph.data, diagonal, recall)


def _inverted_file(points: np.ndarray, k: int, seed: int) -> tuple[faiss.Index, float]:
    """Build an inverted-file index that finds enough of the true neighbours; return it and its sampled recall."""
    n, d = points.shape
    lists = max(1, min(int(4 * math.sqrt(n)), n // 40))  # k-means wants some 40 points per list
    index = faiss.IndexIVFFlat(faiss.IndexFlatL2(d), d, lists)
    index.cp.seed = seed + 1
    index.cp.max_points_per_centroid = 64
    index.train(points)
    index.add(points)
    sample = points[np.random.default_rng(seed).choice(n, min(n, 300), replace=False)]
    exact = faiss.knn(sample, points, k + 1)[1]
    index.nprobe = 16
    while True:
        found = index.search(sample, k + 1)[1]
        recall = float(np.mean([len(np.intersect1d(a, b)) / (k + 1) for a, b in zip(exact, found)]))
        if recall >= _RECALL_WANTED or index.nprobe >= lists:
            return index, recall
        index.nprobe = min(lists, 2 * index.nprobe)


def propagate(
    graph: Graph,
    weight: np.ndarray,
    preference: float,
    *,
    damping: float,
    max_iter: int,
    convergence_iter: int,
    seed: int = 0,
    noise: float = _NOISE,
    dtype: type = np.float32,
    progress: bool = False,
) -> Propagation:
    """Exchange messages until the exemplars stay the same for ``convergence_iter`` rounds.

    ``weight`` [n] says how many identical users a point stands for: its similarities count that often, and the
    objective is then exactly that of the repeated points, because a twin of an exemplar is at distance 0. Frey and
    Dueck's equations (EIMF Algorithm 1, lines 6-10):

    * r(i,k) = s(i,k) - max over k' != k of a(i,k') + s(i,k')
    * a(i,k) = min(0, r(k,k) + sum over i' not in {i,k} of max(0, r(i',k)))
    * a(k,k) = sum over i' != k of max(0, r(i',k))

    with s(i,k) = -weight(i) |x_i - x_k|^2 and s(k,k) = ``preference``. ``noise``, relative and drawn from ``seed``,
    parts mirror-image solutions (either of two points that only have each other) that would keep the messages swinging.
    """
    start, degree, row, col, diagonal = graph.start, graph.degree, graph.row, graph.col, graph.diagonal
    similarity = (-graph.distance * weight[row]).astype(dtype)
    similarity[diagonal] = preference
    if noise:
        similarity *= 1 + noise * np.random.default_rng(seed).standard_normal(len(similarity), dtype=np.float32)
    available, responsible = np.zeros_like(similarity), np.zeros_like(similarity)
    exemplar, unchanged, iteration = np.zeros(graph.size, dtype=bool), 0, 0
    bar = tqdm(total=max_iter, desc="affinity propagation", disable=not progress, leave=False)
    total = available + similarity
    while iteration < max_iter:
        iteration += 1
        # responsibilities: against the best rival, which for the best entry itself is the runner-up
        best = np.maximum.reduceat(total, start)
        rival = np.repeat(best, degree)
        top = np.flatnonzero(total == rival)
        total[top] = -np.inf
        second = np.maximum.reduceat(total, start)
        if len(top) > graph.size:  # a tie for the best: the runner-up is as good
            second = np.where(np.bincount(row[top], minlength=graph.size) > 1, best, second)
        rival[top] = second[row[top]]
        np.subtract(similarity, rival, out=total)
        total *= 1 - damping
        responsible *= damping
        responsible += total
        # availabilities: support gathered by column
        np.maximum(responsible, 0, out=total)
        total[diagonal] = responsible[diagonal]
        support = np.bincount(col, weights=total, minlength=graph.size).astype(dtype)
        np.subtract(support[col], total, out=total)
        own = total[diagonal]
        np.minimum(total, 0, out=total)
        total[diagonal] = own
        total *= 1 - damping
        available *= damping
        available += total
        now = available[diagonal] + responsible[diagonal] > 0
        unchanged = unchanged + 1 if np.array_equal(now, exemplar) else 0
        exemplar = now
        bar.update()
        if unchanged >= convergence_iter and exemplar.any():
            break
        np.add(available, similarity, out=total)
    bar.close()
    evidence = available + responsible
    top = np.flatnonzero(evidence == np.repeat(np.maximum.reduceat(evidence, start), degree))
    choice = np.empty(graph.size, dtype=np.int64)
    choice[row[top][::-1]] = col[top][::-1]  # the first of tied columns is written last
    converged = unchanged >= convergence_iter and bool(exemplar.any())
    return Propagation(exemplar, choice, converged, iteration, responsible, available)
