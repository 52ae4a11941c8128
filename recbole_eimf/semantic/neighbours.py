"""Who is close to whom: a symmetric nearest-neighbour graph, exact for some ten thousand points, approximate beyond."""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np
from scipy import sparse

EXACT_SEARCH_UP_TO = 50_000
"""Points above which only the lists of points around a point are searched, not all."""

_RECALL_WANTED = 0.97
_LIST = 400  # points of a list
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
    point is compared with the lists of points around it, so many that a sample's recall is 0.97. The same points and
    seed give the same graph.
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

    K-means makes lists of some `_LIST` points. The points of one list are compared with all points of the lists whose
    centres are nearest to its own: one matrix product a list, about twice as fast as an inverted-file index that
    walks its lists for one point at a time where faiss has no AVX build. How many lists that takes is read off a
    sample whose true neighbours are known.
    """
    n, d = points.shape
    count = max(1, n // _LIST)
    kmeans = faiss.Kmeans(d, count, niter=10, seed=seed + 1, max_points_per_centroid=64)
    kmeans.train(points)
    label = faiss.knn(points, kmeans.centroids, 1)[1][:, 0]
    members = np.split(np.argsort(label, kind="stable"), np.cumsum(np.bincount(label, minlength=count))[:-1])
    near = np.argsort(_squared_distances(kmeans.centroids), axis=1, kind="stable")  # [count, count], itself first
    visited, recall = _lists_to_visit(points, label, near, k, seed)
    distance, neighbour = np.empty((n, k), dtype=np.float32), np.full((n, k), -1, dtype=np.int32)
    for own, lists in enumerate(near[:, :visited]):
        if not len(members[own]):
            continue
        others = np.concatenate([members[i] for i in lists])
        found = min(k, len(others))
        distance[members[own], :found], place = faiss.knn(points[members[own]], points[others], found)
        neighbour[members[own], :found] = others[place]
    return distance, neighbour, recall


def _lists_to_visit(points: np.ndarray, label: np.ndarray, near: np.ndarray, k: int, seed: int) -> tuple[int, float]:
    """Return the fewest lists that hold enough of a sample's true neighbours, and the share they hold."""
    sample = np.random.default_rng(seed).choice(len(points), min(len(points), _SAMPLE), replace=False)
    exact = faiss.knn(points[sample], points, k)[1]
    place = np.empty_like(near)
    np.put_along_axis(place, near, np.arange(len(near))[None, :], axis=1)
    needed = place[label[sample][:, None], label[exact]]  # how far down its list's order each true neighbour's list is
    held = np.cumsum(np.bincount(needed.ravel(), minlength=len(near))) / needed.size
    visited = int(np.searchsorted(held, _RECALL_WANTED)) + 1
    return min(visited, len(near)), float(held[min(visited, len(near)) - 1])


def _squared_distances(centres: np.ndarray) -> np.ndarray:
    """All pairs, [c, c]; the diagonal is below every other entry."""
    norm = (centres**2).sum(axis=1)
    distance = norm[:, None] + norm[None, :] - 2 * centres @ centres.T
    np.fill_diagonal(distance, -1)
    return distance
