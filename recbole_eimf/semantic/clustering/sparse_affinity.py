"""Affinity propagation on a nearest-neighbour graph: messages only where two users are close.

The messages of Frey and Dueck (EIMF Algorithm 1, lines 6-9) need ``n x n`` numbers each. Almost all of them belong to
pairs so far apart that one will never represent the other. Here a message lives on an edge of the symmetrised
k-nearest-neighbour graph, so that memory and time grow with ``n k``. What is left out is a limit on the solution too: a
point can only be represented by a point of its neighbourhood, which `clustering.py` checks for afterwards.

An iteration is some twenty passes over the edges. They are made on blocks of rows that stay in a processor's cache, and
blocks are shared among threads (NumPy lets go of the interpreter while it works). Blocks and the order of sums do not
depend on the number of threads, and so neither does the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import faiss
import numpy as np
from scipy import sparse

from recbole_eimf.core.bars import bar
from recbole_eimf.semantic.clustering.neighbours import Graph

_NOISE = 1e-5
_BLOCK_EDGES = 1 << 16  # some 256 KB of each array
_SLABS = 8  # rows that one task works on: sums by column are kept apart for each
_STEADY = 20  # rounds
_SETTLED = 10_000  # of so many points, one exemplar may still come or go


@dataclass(frozen=True)
class Propagation:
    """Where the messages settled.

    ``exemplar`` bool [n], r(k,k) + a(k,k) > 0; ``choice`` int64 [n], the point that maximises a(i,k) + r(i,k)
    (Algorithm 1, line 10). ``abandoned``: stopped because the number of exemplars settles where nobody wants it.
    ``messages``: r(i,k) and a(i,k) [E], where they were asked for.
    """

    exemplar: np.ndarray
    choice: np.ndarray
    converged: bool
    iterations: int
    abandoned: bool = False
    messages: tuple[np.ndarray, np.ndarray] | None = None


@dataclass(frozen=True)
class _Block:
    """Consecutive rows: their ``rows`` and ``edges`` in the graph; ``start``, ``degree``, ``diagonal`` within it."""

    rows: slice
    edges: slice
    start: np.ndarray
    degree: np.ndarray
    diagonal: np.ndarray


class _Messages:
    """Similarities and both messages on the edges, updated slab by slab."""

    def __init__(self, graph: Graph, similarity: np.ndarray, damping: float) -> None:
        self.graph, self.similarity, self.damping = graph, similarity, damping
        self.available, self.responsible = np.zeros_like(similarity), np.zeros_like(similarity)
        self.positive = np.zeros_like(similarity)  # max(0, r), on the diagonal r: what a column sums
        self.exemplar = np.zeros(graph.size, dtype=bool)
        bounds = np.searchsorted(graph.start, np.linspace(0, graph.start[-1], _SLABS + 1).astype(np.int64))
        bounds = np.unique(np.concatenate([[0], bounds[1:-1], [graph.size]]))
        self.slabs = [(list(_blocks(graph, a, b)), self._columns(a, b)) for a, b in zip(bounds[:-1], bounds[1:])]

    def _columns(self, first: int, last: int) -> sparse.csc_matrix:
        """The ``positive`` entries of some rows as a matrix [n, rows], which shares their memory."""
        edges = slice(self.graph.start[first], self.graph.start[last])
        offsets = (self.graph.start[first : last + 1] - edges.start).astype(np.int32)
        data, rows = self.positive[edges], self.graph.col[edges]
        columns = sparse.csc_matrix((data, rows, offsets), shape=(self.graph.size, last - first), copy=False)
        columns.data, columns.indices = data, rows  # scipy copies what is less than half of an array
        return columns

    def update_responsibility(self, slab: tuple[list[_Block], sparse.csc_matrix]) -> np.ndarray:
        """Lines 6-7; returns what these rows add to every column's support, [n]."""
        blocks, columns = slab
        for block in blocks:
            self._respond(block)
        return columns @ np.ones(columns.shape[1], dtype=self.positive.dtype)

    def _respond(self, block: _Block) -> None:
        similarity, responsible = self.similarity[block.edges], self.responsible[block.edges]
        total = self.available[block.edges] + similarity
        # against the best rival, which for the best entry itself is the runner-up
        best = np.maximum.reduceat(total, block.start)
        rival = np.repeat(best, block.degree)
        top = np.flatnonzero(total == rival)
        total[top] = -np.inf
        second = np.maximum.reduceat(total, block.start)
        if len(top) > len(best):  # a tie for the best: the runner-up is as good
            row = np.repeat(np.arange(len(best)), block.degree)[top]
            second = np.where(np.bincount(row, minlength=len(best)) > 1, best, second)[row]
        rival[top] = second
        np.subtract(similarity, rival, out=total)
        _damp(responsible, total, self.damping)
        positive = np.maximum(responsible, 0, out=self.positive[block.edges])
        positive[block.diagonal] = responsible[block.diagonal]

    def update_availability(self, slab: tuple[list[_Block], sparse.csc_matrix], support: np.ndarray) -> None:
        """Lines 8-9, from the columns' ``support`` [n]; then who is an exemplar."""
        for block in slab[0]:
            available = self.available[block.edges]
            total = support[self.graph.col[block.edges]]
            total -= self.positive[block.edges]
            own = total[block.diagonal]
            np.minimum(total, 0, out=total)
            total[block.diagonal] = own
            _damp(available, total, self.damping)
            evidence = available[block.diagonal] + self.responsible[block.edges][block.diagonal]
            self.exemplar[block.rows] = evidence > 0

    def choice(self) -> np.ndarray:
        """Line 10: the column that maximises a + r in each row, the first of equals; int64 [n]."""
        found = np.empty(self.graph.size, dtype=np.int64)
        for blocks, _ in self.slabs:
            for block in blocks:
                evidence = self.available[block.edges] + self.responsible[block.edges]
                best = np.repeat(np.maximum.reduceat(evidence, block.start), block.degree)
                top = np.flatnonzero(evidence == best)
                first = top[np.searchsorted(top, block.start)]
                found[block.rows] = self.graph.col[block.edges][first]
        return found


def _blocks(graph: Graph, first: int, last: int) -> Iterator[_Block]:
    """Cut rows ``first:last`` into pieces of about ``_BLOCK_EDGES`` edges, whole rows each."""
    while first < last:
        begin = graph.start[first]
        end = max(first + 1, int(np.searchsorted(graph.start, begin + _BLOCK_EDGES, side="right")) - 1)
        end = min(end, last)
        start = graph.start[first:end] - begin
        rows, edges = slice(first, end), slice(int(begin), int(graph.start[end]))
        yield _Block(rows, edges, start, np.diff(graph.start[first : end + 1]), graph.diagonal[rows] - begin)
        first = end


def _damp(old: np.ndarray, new: np.ndarray, damping: float) -> None:
    """``old`` becomes damping * old + (1 - damping) * new; ``new`` is spoilt."""
    new *= 1 - damping
    old *= damping
    old += new


def _similarity(graph: Graph, weight: np.ndarray, preference: float, noise: float, seed: int, dtype: type):
    """s [E] as in :func:`propagate`, made in pieces: its intermediate arrays are not to be as large as itself."""
    similarity, rng = np.empty(len(graph.col), dtype=dtype), np.random.default_rng(seed)
    for block in _blocks(graph, 0, graph.size):
        part = -graph.distance[block.edges] * np.repeat(weight[block.rows], block.degree)
        part[block.diagonal] = preference
        if noise:
            part = part * (1 + noise * rng.standard_normal(len(part), dtype=np.float32))
        similarity[block.edges] = part
    return similarity


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
    wanted: tuple[float, float] | None = None,
    progress: bool = False,
    keep_messages: bool = False,
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
    Exemplars count as the same while no more than one point in ten thousand differs from the first of these rounds:
    among hundreds of thousands some pair always swings. Outside ``wanted`` (fewest, most exemplars) a number of
    exemplars that has stayed within a hundredth for 20 rounds ends the exchange: the last rounds, most of them, only
    decide which of two neighbours it is. Runs on as many threads as faiss
    (``OMP_NUM_THREADS``). ``keep_messages`` returns the messages too, two arrays of all edges.
    """
    messages = _Messages(graph, _similarity(graph, weight, preference, noise, seed, dtype), damping)
    reference, unchanged, iteration = messages.exemplar.copy(), 0, 0
    counts: list[int] = []
    abandoned = False
    rounds = bar(total=max_iter, desc="affinity propagation", disable=not progress, leave=False)
    with ThreadPoolExecutor(min(len(messages.slabs), faiss.omp_get_max_threads())) as pool:
        while iteration < max_iter:
            iteration += 1
            support = sum(pool.map(messages.update_responsibility, messages.slabs))
            list(pool.map(lambda slab: messages.update_availability(slab, support), messages.slabs))  # noqa: B023
            unchanged += 1
            if np.count_nonzero(messages.exemplar != reference) > graph.size // _SETTLED:
                reference, unchanged = messages.exemplar.copy(), 0
            rounds.update()
            counts.append(np.count_nonzero(messages.exemplar))
            if unchanged >= convergence_iter and counts[-1]:
                break
            if wanted is not None and _settles_outside(counts, *wanted):
                abandoned = True
                break
    rounds.close()
    exemplar = messages.exemplar
    converged = unchanged >= convergence_iter and bool(exemplar.any())
    both = (messages.responsible, messages.available) if keep_messages else None
    return Propagation(exemplar, messages.choice(), converged, iteration, abandoned, both)


def _settles_outside(counts: list[int], fewest: float, most: float) -> bool:
    """Tell from the number of exemplars after each round whether it will stay below ``fewest`` or above ``most``."""
    last = counts[-_STEADY:]
    # nobody is an exemplar at first: that is no number yet
    steady = len(counts) > 2 * _STEADY and min(last) > 0 and max(last) - min(last) <= 0.01 * max(last)
    return steady and not fewest <= counts[-1] <= most
