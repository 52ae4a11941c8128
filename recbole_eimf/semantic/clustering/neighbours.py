"""Who is close to whom: a symmetric nearest-neighbour graph, exact for some ten thousand points, approximate beyond."""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np
from scipy import sparse

EXACT_SEARCH_UP_TO = 50_000
"""Points above which only the lists of points around a point are searched, not all."""

_RECALL_WANTED = 0.97
_LIST = 150  # points of a list
_MOST_LISTS = 64  # that a point is compared with, if they hold many times its neighbours
_SAMPLE = 1000  # points whose true neighbours are looked up


@dataclass(frozen=True)
class Graph:
    """A symmetric neighbourhood graph in row order; every row also holds its own diagonal entry.

    ``start`` int64 [n + 1] first edge of each row and where the last one ends, ``col`` int32 [E], ``distance`` float32
    [E] squared Euclidean (0 on the diagonal), ``diagonal`` int64 [n] the edge (i, i), ``recall`` share of true
    neighbours found (1.0 for an exact search, else measured on a sample).
    """

    start: np.ndarray
    col: np.ndarray
    distance: np.ndarray
    diagonal: np.ndarray
    recall: float

    @property
    def size(self) -> int:
        """Number of points n."""
        return len(self.start) - 1

    @property
    def degree(self) -> np.ndarray:
        """Edges of each row, int64 [n]."""
        return np.diff(self.start)

    @property
    def row(self) -> np.ndarray:
        """Row of each edge, int64 [E], made anew: eight bytes for every edge."""
        return np.repeat(np.arange(self.size), self.degree)


def neighbour_graph(points: np.ndarray, neighbours: int, seed: int = 0) -> Graph:
    """Link every point with its ``neighbours`` nearest ones, in both directions.

    ``points`` float32 [n, d] are distinct, n >= 2. The graph is exact up to `EXACT_SEARCH_UP_TO` points; beyond, a
    point is compared with the lists of points around it, so many that a sample's recall is 0.97 (or the most there may
    be; ``recall`` says what was reached). The same points and seed give the same graph.
    """
    n = len(points)
    k = min(neighbours, n - 1)
    # distances do not change with the origin, but the rounding of |x|^2 + |y|^2 - 2xy does
    points = np.ascontiguousarray(points - points.mean(axis=0), dtype=np.float32)
    if n <= EXACT_SEARCH_UP_TO:
        (distance, neighbour), recall = faiss.knn(points, points, k + 1), 1.0
    else:
        distance, neighbour, recall = _search_lists(points, k + 1, seed)
    row = np.repeat(np.arange(n, dtype=np.int32), k + 1)
    col, distance = neighbour.ravel(), distance.ravel()
    keep = (col != row) & (col >= 0)
    row, col, distance = row[keep], col[keep].astype(np.int32), distance[keep]
    # scipy drops stored zeros when it takes the maximum, and rounding can make a small distance zero
    directed = sparse.csr_matrix((np.maximum(distance, 1e-30), (row, col)), shape=(n, n))
    del neighbour, row, col, distance, keep
    graph = directed.maximum(directed.T).tocsr()
    del directed
    graph = graph + sparse.identity(n, dtype=np.float32, format="csr")
    graph.sort_indices()
    diagonal = np.flatnonzero(np.repeat(np.arange(n, dtype=np.int32), np.diff(graph.indptr)) == graph.indices)
    graph.data[diagonal] = 0.0
    return Graph(graph.indptr.astype(np.int64), graph.indices, graph.data, diagonal, recall)


def _search_lists(points: np.ndarray, k: int, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Find most of each point's k nearest: (squared distance float32 [n, k], point int32 [n, k], sampled recall).

    K-means makes lists of some `_LIST` points, and every point is compared with the lists whose centres are nearest to
    it, as an inverted-file index does. But list by list: all points that ask for a list are compared with it by one
    matrix product, and what they find joins what they have. That takes a quarter of the time of an index that walks
    its lists for one point after the other (600,000 points, 384 dimensions).
    """
    n, d = points.shape
    count = max(1, n // _LIST)
    kmeans = faiss.Kmeans(d, count, niter=10, seed=seed + 1, max_points_per_centroid=32, min_points_per_centroid=1)
    kmeans.train(points)
    most = min(count, max(_MOST_LISTS, 8 * k // _LIST))
    asked = faiss.knn(points, kmeans.centroids, most)[1].astype(np.int32)  # lists of each point
    label = asked[:, 0]
    visited, recall = _lists_to_visit(points, label, asked, k, seed)
    members = _by_list(label, count)
    # which points ask for each list
    askers = [place // visited for place in _by_list(asked[:, :visited].ravel(), count)]
    best = faiss.ResultHeap(n, k)
    for own, who in zip(members, askers):
        if len(own) and len(who):
            distance, place = faiss.knn(points[who], points[own], min(k, len(own)))
            best.add_result_subset(who, distance, own[place])
    best.finalize()
    return best.D, best.I.astype(np.int32), recall


def _by_list(label: np.ndarray, count: int) -> list[np.ndarray]:
    """Positions in ``label`` of each of 0..count-1, ascending."""
    return np.split(np.argsort(label, kind="stable"), np.cumsum(np.bincount(label, minlength=count))[:-1])


def _lists_to_visit(points: np.ndarray, label: np.ndarray, asked: np.ndarray, k: int, seed: int) -> tuple[int, float]:
    """Return how many of its ``asked`` lists [n, m] a point needs, and the share of true neighbours they hold.

    Read off a sample whose true neighbours are known.
    """
    sample = np.random.default_rng(seed).choice(len(points), min(len(points), _SAMPLE), replace=False)
    wanted = label[faiss.knn(points[sample], points, k)[1]]  # [sample, k]
    held = np.array([np.count_nonzero(wanted == asked[sample, i, None]) for i in range(asked.shape[1])]).cumsum()
    held = held / wanted.size
    visited = min(int(np.searchsorted(held, _RECALL_WANTED)) + 1, len(held))
    return visited, float(held[visited - 1])
