"""Affinity propagation over users: who stands for whom (EIMF eq. 2, Algorithm 1).

Similarity is the negative squared Euclidean distance, and the preference p its diagonal, as in Frey and Dueck: the
paper's line 4 would add p to every similarity, which changes nothing, while its sweep over p is one over the diagonal.
Found are exemplars E that (locally) maximise the *net similarity*

    sum over users i of s(i, exemplar of i)  +  p |E|.

Up to some thousand users scikit-learn does it with all pairs (``dense``), beyond that our own messages on a
nearest-neighbour graph (``sparse``). A graph that is too narrow for p keeps exemplars nobody needs; the result is
checked for that, and widened.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, replace

import numpy as np

from recbole_eimf.core.errors import DataError, UserError
from recbole_eimf.semantic.clustering.cluster_solver import ClusterSettings, Solution, Solver, closest_to_mean

__all__ = ["Clustering", "ClusterSettings", "closest_to_mean", "cluster_users"]

logger = logging.getLogger(__name__)

_RATIO_TOLERANCE = 0.05
_MOST_TRIALS = 16
_CALIBRATION = 1500
_STALLED = 0.25  # of what -p rose by, in logarithms: elsewhere the count falls by about as much as -p rises


@dataclass(frozen=True)
class Clustering:
    """Who stands for whom.

    ``exemplars`` int64 [C], ascending row numbers; ``labels`` int64 [n], each row's index into ``exemplars``;
    ``preference`` p (None: no clustering); ``iterations`` of the last run; ``net_similarity`` over all n rows;
    ``method`` dense, sparse or none; ``neighbours`` of the graph, if sparse; ``seconds`` in all, search included;
    ``notes``: all that did not go the straight way, one sentence each (logged too).
    """

    exemplars: np.ndarray
    labels: np.ndarray
    preference: float | None
    converged: bool
    iterations: int
    net_similarity: float
    method: str
    neighbours: int | None
    seconds: float
    notes: tuple[str, ...]


def cluster_users(embeddings: np.ndarray, settings: ClusterSettings, progress: bool = False) -> Clustering:
    """Cluster the rows of ``embeddings`` [n, d]; the same input and settings give the same result.

    Every row belongs to its nearest exemplar among all exemplars (Algorithm 1, line 12), found by exact search also
    when the messages ran on a graph. The exemplar is the member closest to its cluster's mean. Identical users are one
    point that counts as often as they are many; their exemplar is the first of them.
    Raises DataError for rows that are not finite numbers and UserError if the messages do not settle.
    """
    began = time.perf_counter()
    embeddings = _checked(embeddings)
    if settings.preference is None and settings.exemplar_ratio is None:
        rows = np.arange(len(embeddings), dtype=np.int64)
        return Clustering(rows, rows.copy(), None, True, 0, 0.0, "none", None, time.perf_counter() - began, ())
    first, inverse, weight = _distinct(embeddings)
    solver = Solver(embeddings[first], weight, settings, progress)
    if settings.preference is not None:
        solution = solver.solve(settings.preference)
    else:
        wanted = max(1, round(settings.exemplar_ratio * len(embeddings)))
        solution = _search(solver, wanted)
    return Clustering(
        exemplars=first[solution.exemplars],
        labels=solution.labels[inverse],
        preference=solution.preference,
        converged=solution.converged,
        iterations=solution.iterations,
        net_similarity=solution.net_similarity,
        method=solution.method,
        neighbours=solution.neighbours,
        seconds=time.perf_counter() - began,
        notes=tuple(solver.notes),
    )


def _search(solver: Solver, wanted: int, tolerance: float = _RATIO_TOLERANCE) -> Solution:
    """Find the preference that leaves about ``wanted`` exemplars; return its solution.

    The count falls with -p, on a log-log scale nearly in a line: secant steps inside a bracket. A trial far off only
    has to say on which side it is; remedies are for trials near the target, or when a narrow graph holds the count up.
    """
    n = len(solver.points)
    if wanted >= n:
        solver.note(f"{wanted} exemplars asked for, but there are {n} different users: each is its own exemplar.")
        everyone = np.arange(n)
        return Solution(None, everyone, everyone, 0.0, 0.0, True, 0, "none", None)
    bracket: list[tuple[float, float] | None] = [None, None]  # (log -p, log count/wanted): too many, too few
    guess, best, state = _first_guess(solver, wanted), None, _state(solver)
    before: tuple[float, float] | None = None  # the trial before, if it was on the same graph
    for trial in range(_MOST_TRIALS):
        preference = -math.exp(guess)
        solution = solver.attempt(preference, wanted, tolerance)
        count = len(solution.exemplars)
        off = _off(count, wanted)
        stalled = before is not None and abs(off - before[1]) < _STALLED * abs(guess - before[0])
        if solution.labels is None and off > 0 and stalled:
            solution = solver.attempt(preference)  # to its end: does a narrow graph hold the count up?
            count = len(solution.exemplars)
            off = _off(count, wanted)
        if solver.complaint(solution) is not None and (
            abs(off) < 0.25 or (solver.narrow(solution) and off > 0) or count == 0
        ):
            solution = solver.solve(preference, solution)
            count = len(solution.exemplars)
            off = _off(count, wanted)
        trusted = solver.complaint(solution) is None or solver.settings.on_nonconvergence == "accept"
        logger.info("preference %.4g leaves %d exemplars of %d users, %d wanted", preference, count, n, wanted)
        if trusted and (best is None or abs(off) < abs(best[0])):
            best = (off, solution)
        if trusted and abs(count - wanted) <= max(0.5, tolerance * wanted):
            return solution
        if state != _state(solver):  # counts of another graph do not bound this one's
            bracket, state, before = [None, None], _state(solver), None
        else:
            before = (guess, off)
        bracket[0 if off > 0 else 1] = (guess, off)
        guess = _next_guess(guess, off, bracket, trial)
        if bracket[0] and bracket[1] and abs(bracket[0][0] - bracket[1][0]) < 1e-4:
            break
    if best is None:
        raise UserError(
            f"exemplar_ratio: no preference near {-math.exp(guess):.4g} settles with about {wanted} exemplars. "
            "Raise damping or cluster_neighbours, or set preference (and exemplar_ratio=None) yourself."
        )
    # a trial that was far off may have been left before its end
    closest = best[1] if best[1].labels is not None else solver.attempt(best[1].preference)
    solver.note(
        f"No preference leaves {wanted} exemplars within {tolerance:.0%}; the closest is "
        f"{len(closest.exemplars)} at preference {closest.preference:.6g}."
    )
    return closest


def _off(count: int, wanted: int) -> float:
    """How far a number of exemplars is from the one wanted, above 0 for too many; of none, as far as half a one."""
    return math.log(max(count, 0.5) / wanted)


def _state(solver: Solver) -> tuple[str, int]:
    return solver.method, solver.neighbours


def _next_guess(guess: float, off: float, bracket: list[tuple[float, float] | None], trial: int) -> float:
    """Return the next log(-p): a secant inside a full bracket (every third time its middle), else a step outwards."""
    low, high = bracket
    if low is None or high is None:
        return guess + (1 if off > 0 else -1) * min(1.5, max(0.05, abs(off) / 1.2))
    share = 0.5 if trial % 3 == 2 else low[1] / (low[1] - high[1])
    return low[0] + min(0.9, max(0.1, share)) * (high[0] - low[0])


def _first_guess(solver: Solver, wanted: int) -> float:
    """Return log(-p) to begin with; for many users, what a random subsample needs for the same ratio.

    Per exemplar, 1/ratio users gain some part of a typical distance each; 0.03 of it fits text vectors, and
    elsewhere the search only takes a few trials more.
    """
    n, rng = len(solver.points), np.random.default_rng(solver.settings.seed)
    if n > 4 * _CALIBRATION and wanted * _CALIBRATION >= 10 * n:
        rows = rng.choice(n, _CALIBRATION, replace=False)
        rough = replace(solver.settings, method="sparse", on_nonconvergence="accept")
        sample = Solver(solver.points[rows], solver.weight[rows], rough, progress=False, log_level=logging.DEBUG)
        return math.log(-_search(sample, round(wanted * _CALIBRATION / n), tolerance=0.25).preference)
    pairs = rng.integers(n, size=(2, 2000))
    apart = ((solver.points[pairs[0]] - solver.points[pairs[1]]) ** 2).sum(axis=1)
    return math.log(0.03 * float(np.mean(apart)) * solver.weight.sum() / wanted)


def _distinct(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Merge identical rows: first row of each kind [m], kind of each row [n], rows per kind float32 [m].

    Users with the same items have the same vector up to the order of summation, hence the rounding to a millionth of
    the largest entry. Left apart, they would be mutually best neighbours and fill each other's neighbourhoods.
    """
    scale = float(np.abs(embeddings).max()) or 1.0
    grid = np.rint(embeddings * ((1 << 20) / scale)).astype(np.int32)
    as_bytes = np.ascontiguousarray(grid).view(np.dtype((np.void, grid.itemsize * grid.shape[1]))).ravel()
    _, first, inverse, count = np.unique(as_bytes, return_index=True, return_inverse=True, return_counts=True)
    # np.unique sorts by content; by row number is what keeps results readable
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[inverse], count[order].astype(np.float32)


def _checked(embeddings: np.ndarray) -> np.ndarray:
    """Return the rows as float32 [n, d], or raise DataError."""
    embeddings = np.asarray(embeddings)
    if embeddings.ndim != 2 or 0 in embeddings.shape:
        raise DataError(f"cluster_users: expected an array [users, dimension], got shape {embeddings.shape}.")
    embeddings = embeddings.astype(np.float32)
    broken = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(broken):
        raise DataError(
            f"cluster_users: {len(broken)} of {len(embeddings)} rows are not finite numbers, the first is row "
            f"{broken[0]}. Leave users without a text out, or encode their texts again."
        )
    return embeddings
