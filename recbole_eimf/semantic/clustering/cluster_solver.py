"""Affinity propagation at one preference, until the result can be trusted: methods, their limits and remedies."""

from __future__ import annotations

import logging
import math
import warnings
from dataclasses import dataclass, replace

import faiss
import numpy as np

from recbole_eimf.config.parts import check_part, of_key
from recbole_eimf.config.rules import check_exemplars
from recbole_eimf.core.errors import ConfigError, UserError, suggestion
from recbole_eimf.semantic.clustering.neighbours import Graph, neighbour_graph
from recbole_eimf.semantic.clustering.sparse_affinity import propagate

logger = logging.getLogger(__name__)

METHODS = ("auto", "dense", "sparse")
REMEDIES = ("widen", "dense", "accept", "error")
DENSE_UP_TO = 3000
"""Distinct users up to which ``auto`` uses all pairs."""

_MOST_REGRET = 1e-4
_TOLERABLE_REGRET = 1e-3  # where nothing wider may be tried
_SAME_NET = 2e-4
_FAR_TOO_NARROW = 1e-2
_FAR_FEWER = 0.7
_MOST_DAMPING = 0.98
_DENSE_BYTES = 4 * 8  # similarities, responsibilities, availabilities and one work array, float64
_EDGE_BYTES = 2 * 100  # both directions; measured peak, graph building included


@dataclass(frozen=True)
class ClusterSettings:
    """How users are clustered.

    Exactly one of ``preference`` (p < 0, in units of squared distance) and ``exemplar_ratio`` (share of users wanted as
    exemplars, p is searched) is given; both None means no clustering, every user is its own exemplar.
    ``neighbours``: width of the sparse graph to begin with. ``memory_limit_mb``: what all pairs, or a widened graph,
    may take. ``on_nonconvergence``: what to do when messages do not settle or the graph is too narrow.

    * ``widen``: two or four times the neighbours, or raise the damping, all pairs where they fit, an error at the end
    * ``dense``: all pairs at once where they fit, else as ``widen``
    * ``accept``: take the result as it is, with a warning; clusters without an exemplar get their middlemost member
    * ``error``: no second attempt

    Raises ConfigError for a value that is not allowed.
    """

    method: str = of_key("clustering")
    preference: float | None = of_key("preference")
    exemplar_ratio: float | None = of_key("exemplar_ratio")
    damping: float = of_key("damping")
    max_iter: int = 600
    convergence_iter: int = 30
    neighbours: int = of_key("cluster_neighbours")
    on_nonconvergence: str = "widen"
    memory_limit_mb: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, allowed in (("clustering", self.method, METHODS),
                                     ("on_nonconvergence", self.on_nonconvergence, REMEDIES)):  # fmt: skip
            if value not in allowed:
                raise ConfigError(
                    f"{name}: {value!r} is not one of {', '.join(allowed)}.{suggestion(str(value), allowed)}"
                )
        check_part(self)
        check_exemplars(self.preference, self.exemplar_ratio)
        for key in ("max_iter", "convergence_iter", "memory_limit_mb"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key}={getattr(self, key)!r}: must be at least 1.")
        if self.max_iter <= self.convergence_iter:
            raise ConfigError(
                f"max_iter: {self.max_iter} leaves no room for {self.convergence_iter} rounds without a change "
                "(convergence_iter)."
            )


@dataclass(frozen=True)
class Solution:
    """One run of affinity propagation; indices count distinct points.

    ``labels`` None: nobody was assigned yet, and among very many points it may be the count alone that is settled.
    """

    preference: float | None
    exemplars: np.ndarray
    labels: np.ndarray | None
    net_similarity: float
    regret: float
    converged: bool
    iterations: int
    method: str
    neighbours: int | None


class Solver:
    """Distinct points and the state that remedies change: method, width of the graph, damping."""

    def __init__(
        self,
        points: np.ndarray,
        weight: np.ndarray,
        settings: ClusterSettings,
        progress: bool,
        log_level: int = logging.WARNING,
    ) -> None:
        # distances do not change with the origin, but rounding does
        self.points = np.ascontiguousarray(points - points.mean(axis=0, dtype=np.float64), dtype=np.float32)
        self.weight, self.settings, self.progress = weight, settings, progress
        self.damping, self.max_iter = settings.damping, settings.max_iter
        self.neighbours = min(settings.neighbours, max(1, len(points) - 1))
        self.notes: list[str] = []
        self._log_level = log_level
        self._most_regret = _MOST_REGRET
        self._graph: tuple[int, Graph] | None = None
        small = len(points) <= DENSE_UP_TO
        self.method = settings.method if settings.method != "auto" else "dense" if small else "sparse"
        if self.method == "dense" and not self._dense_fits():
            raise ConfigError(
                f"clustering=dense needs about {self._dense_mb():,.0f} MB for {len(points):,} distinct users, "
                f"and {settings.memory_limit_mb:,} are allowed. Use clustering=sparse."
            )

    def solve(self, preference: float, solution: Solution | None = None) -> Solution:
        """Run at ``preference`` until the result can be trusted, applying the remedies the settings allow.

        ``solution`` is the first attempt, if there was one already.
        """
        narrower: Solution | None = None
        while True:
            solution = solution or self.attempt(preference)
            if narrower is not None and solution.converged and solution.method == "sparse":
                gained = solution.net_similarity - narrower.net_similarity
                if self.narrow(solution) and gained < _SAME_NET * abs(solution.net_similarity):
                    # as much regret is in the nature of these data: do not walk this way again
                    self._most_regret = 1.5 * solution.regret
                    self.note(f"With {solution.neighbours} neighbours the net similarity stays: they are enough.")
            complaint = self.complaint(solution)
            if complaint is None:
                return solution
            if self.settings.on_nonconvergence == "accept" and len(solution.exemplars):
                self.note(f"{complaint} Accepted as it is (on_nonconvergence: accept).")
                return solution
            remedy = self._remedy(solution)
            if remedy is None and solution.converged and solution.regret <= _TOLERABLE_REGRET:
                self._most_regret = _TOLERABLE_REGRET
                self.note(f"{complaint} Tolerated, as no wider one is allowed.")
                return solution
            if remedy is None:
                raise UserError(
                    f"{complaint} Raise damping (now {self.damping:g}) or cluster_neighbours (now {self.neighbours}), "
                    f"or change exemplar_ratio or preference."
                )
            self.note(f"{complaint} {remedy}")
            narrower, solution = solution if solution.converged else None, None

    def attempt(self, preference: float, wanted: int = 0, tolerance: float = 0.0) -> Solution:
        """Run once, as things stand, and finish by an exact assignment.

        A search that looks for ``wanted`` exemplars and is left with far fewer learns nothing more from assigning
        everyone: such a solution is returned without labels, for :meth:`finish`. Among very many points that is so
        whenever the count is off by more than ``tolerance``, and messages that clearly end there are not followed to
        their end.
        """
        if len(self.points) <= 2:
            return self._tiny(preference)
        far = (wanted / (1 + 2 * tolerance), wanted * (1 + 2 * tolerance)) if wanted and tolerance else None
        if self.method == "dense":
            exemplars, converged, iterations, labels = self._dense(preference)
        else:
            exemplars, converged, iterations, labels = self._sparse(preference, far)
        width = self.neighbours if self.method == "sparse" else None
        bare = Solution(preference, exemplars, None, -math.inf, 0.0, converged, iterations, self.method, width)
        if not len(exemplars) or (converged and len(exemplars) < _FAR_FEWER * wanted):
            return bare
        if converged and self._approximate() and wanted and abs(len(exemplars) - wanted) > tolerance * wanted:
            return bare
        return self.finish(bare, labels)

    def complaint(self, solution: Solution) -> str | None:
        """Say why a solution cannot be trusted, or None."""
        how = "all pairs" if self.method == "dense" else f"{solution.neighbours} neighbours"
        reasons = []
        if not solution.converged:
            reasons.append(f"exemplars still change after {solution.iterations} iterations")
        if self.narrow(solution):
            reasons.append(
                f"without superfluous exemplars the net similarity would be up to {solution.regret:.2%} better, the "
                "graph is too narrow for this preference"
            )
        if not reasons:
            return None
        return f"Affinity propagation (preference {solution.preference:.4g}, {how}): {'; '.join(reasons)}."

    def note(self, text: str) -> None:
        """Keep a sentence for the result, and log it."""
        if text not in self.notes:
            logger.log(self._log_level, text)
            self.notes.append(text)

    def narrow(self, solution: Solution) -> bool:
        """Tell whether exemplars stand that even their own members could spare.

        On a graph, a point is only represented from within its neighbourhood, so more exemplars are needed than among
        all pairs. It shows in exemplars whose removal, everyone moving to the next nearest of *all* exemplars, would
        raise the net similarity. Measured on Amazon Office: the sum of such gains is within 0.02 % of the net
        similarity where graph and all pairs agree, and close to the graph's true loss where they do not.
        """
        complete = self.method == "dense" or self.neighbours >= len(self.points) - 1
        return not complete and solution.regret > self._most_regret

    def _remedy(self, solution: Solution) -> str | None:
        """Change one thing for the next attempt and describe it, or return None if nothing is left to try."""
        choice, n = self.settings.on_nonconvergence, len(self.points)
        if choice in ("error", "accept"):
            return None
        narrow, sparse = self.narrow(solution), self.method == "sparse"
        most = int(min(n - 1, self.settings.memory_limit_mb * 1e6 / (n * _EDGE_BYTES)))
        # where much is lost, twice the width never was enough
        wide = min(most, self.neighbours * (4 if solution.regret > _FAR_TOO_NARROW else 2))
        may_widen = sparse and wide > self.neighbours
        may_calm = self.damping < _MOST_DAMPING
        stuck = narrow or not may_calm  # more damping will not do
        # a graph of a quarter of all pairs costs as much as all of them
        instead = choice == "dense" or (stuck and (wide > n // 4 or not may_widen))
        if sparse and instead and self._dense_fits():
            self.method = "dense"
            return "Trying again with all pairs."
        if may_widen and stuck:
            self.neighbours = wide
            return f"Trying again with {wide} neighbours."
        if may_calm and not narrow:
            self.damping, self.max_iter = min(_MOST_DAMPING, (1 + self.damping) / 2), 2 * self.max_iter
            return f"Trying again with damping {self.damping:g} and at most {self.max_iter} iterations."
        return None

    def _dense_mb(self) -> float:
        return _DENSE_BYTES * len(self.points) ** 2 / 1e6

    def _dense_fits(self) -> bool:
        return self._dense_mb() <= self.settings.memory_limit_mb

    def _dense(self, preference: float) -> tuple[np.ndarray, bool, int, None]:
        """Run scikit-learn on all pairs: exemplars, whether they settled, iterations."""
        from sklearn.cluster import AffinityPropagation
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.metrics.pairwise import euclidean_distances

        similarity = euclidean_distances(self.points.astype(np.float64), squared=True)
        similarity *= -self.weight[:, None]
        model = AffinityPropagation(
            affinity="precomputed",
            preference=preference,
            damping=self.damping,
            max_iter=self.max_iter,
            convergence_iter=self.settings.convergence_iter,
            random_state=self.settings.seed,
            copy=False,
        )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.fit(similarity)
        converged = not any(issubclass(entry.category, ConvergenceWarning) for entry in caught)
        exemplars = np.asarray(model.cluster_centers_indices_, dtype=np.int64).ravel()
        return exemplars, converged, int(model.n_iter_), None

    def _sparse(
        self, preference: float, far: tuple[float, float] | None
    ) -> tuple[np.ndarray, bool, int, np.ndarray | None]:
        """Run on the neighbour graph, which is kept for the next preference; the last item are labels or None.

        Among very many points a count that stays out of the range ``far`` ends the run.
        """
        if self._graph is None or self._graph[0] != self.neighbours:
            self._graph = None  # the old one is freed before the new one is built
            self._graph = (self.neighbours, neighbour_graph(self.points, self.neighbours, self.settings.seed))
            if self._graph[1].recall < 1:
                self.note(
                    f"Neighbours come from an approximate index; a sample's recall is {self._graph[1].recall:.3f}."
                )
        result = propagate(
            self._graph[1],
            self.weight,
            preference,
            damping=self.damping,
            max_iter=self.max_iter,
            convergence_iter=self.settings.convergence_iter,
            seed=self.settings.seed,
            wanted=far if self._approximate() else None,
            progress=self.progress,
        )
        exemplars = np.flatnonzero(result.exemplar)
        if result.abandoned:
            return exemplars, True, result.iterations, None
        if not result.converged:
            exemplars = with_fallback(self.points, self.weight, result.exemplar, result.choice)
        # among very many points the exact search is what takes longest: here the messages' own choice (line 10) will do
        labels = self._chosen(exemplars, result.choice) if self._approximate() and len(exemplars) else None
        return exemplars, result.converged, result.iterations, labels

    def _approximate(self) -> bool:
        return self.method == "sparse" and self._graph is not None and self._graph[1].recall < 1

    def _tiny(self, preference: float) -> Solution:
        """Solve one or two points by comparing both answers; messages between two equals never settle."""
        exemplars = np.array([np.argmax(self.weight)])
        if len(self.points) == 2:
            apart = float(((self.points[0] - self.points[1]).astype(np.float64) ** 2).sum()) * self.weight.min()
            if preference > -apart:
                exemplars = np.arange(2)
        width = self.neighbours if self.method == "sparse" else None
        return self.finish(Solution(preference, exemplars, None, -math.inf, 0.0, True, 0, self.method, width))

    def finish(self, solution: Solution, labels: np.ndarray | None = None) -> Solution:
        """Assign everyone, move exemplars to the middle of their clusters, assign again (Algorithm 1, line 12).

        ``labels`` [n]: the first assignment, where the messages have made it.
        """
        exemplars, preference = solution.exemplars, solution.preference
        if labels is None:
            labels, _ = self._assign(exemplars)
        exemplars = np.sort(closest_to_mean(self.points, labels, self.weight))
        labels, gap = self._assign(exemplars)
        own = _pair_distance(self.points, self.points[exemplars], labels)
        net = -float(own @ self.weight) + len(exemplars) * preference
        # what dropping one exemplar gains: -p less what its members lose, summed where that is positive
        gain = np.maximum(-preference - np.bincount(labels, weights=gap * self.weight), 0)
        regret = float(gain.sum()) / abs(net) if len(exemplars) > 1 else 0.0
        return replace(solution, exemplars=exemplars, labels=labels, net_similarity=net, regret=regret)

    def _chosen(self, exemplars: np.ndarray, choice: np.ndarray) -> np.ndarray:
        """Each point's chosen exemplar (index), the nearest one where the point it chose is none."""
        labels = np.searchsorted(exemplars, choice).clip(max=len(exemplars) - 1)
        astray = np.flatnonzero(exemplars[labels] != choice)
        if len(astray):
            labels[astray] = faiss.knn(self.points[astray], self.points[exemplars], 1)[1][:, 0]
        labels[exemplars] = np.arange(len(exemplars))
        return labels

    def _assign(self, exemplars: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return each point's nearest exemplar (index) and how much farther, squared, its second nearest is."""
        distance, found = faiss.knn(self.points, self.points[exemplars], min(2, len(exemplars)))
        labels, gap = found[:, 0], np.maximum(distance[:, -1] - distance[:, 0], 0)
        labels[exemplars] = np.arange(len(exemplars))
        return labels, gap


def closest_to_mean(embeddings: np.ndarray, labels: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    """Return for each label 0..C-1 the member row closest to the cluster's mean, int64 [C]; ties go to the first row.

    The paper's rule for a cluster without an exemplar (section 3.2.1). For squared Euclidean distances this is also the
    member with the greatest sum of similarities. ``weight`` [n]: how often a row counts. Every label must occur.
    """
    weight = np.ones(len(labels)) if weight is None else weight
    count = int(labels.max()) + 1
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(count))
    total = np.add.reduceat(embeddings[order] * weight[order, None], starts, axis=0, dtype=np.float64)
    mean = total / np.bincount(labels, weights=weight)[:, None]
    distance = _pair_distance(embeddings, mean, labels)
    best = np.lexsort((np.arange(len(labels)), distance, labels))
    return best[np.searchsorted(labels[best], np.arange(count))]


def with_fallback(points: np.ndarray, weight: np.ndarray, exemplar: np.ndarray, choice: np.ndarray) -> np.ndarray:
    """Return exemplars of messages that did not settle: clusters are Algorithm 1's line 10.

    Where the chosen point is no exemplar itself, the member closest to the mean takes its place (section 3.2.1).
    """
    chosen, labels = np.unique(choice, return_inverse=True)
    middle = closest_to_mean(points, labels, weight)
    return np.unique(np.concatenate([np.flatnonzero(exemplar), middle[~exemplar[chosen]]]))


def _pair_distance(points: np.ndarray, centres: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Squared distance of every point to its own centre, float64 [n], without the rounding of a matrix product."""
    out = np.empty(len(points))
    for begin in range(0, len(points), 4096):
        part = slice(begin, begin + 4096)
        out[part] = ((points[part].astype(np.float64) - centres[labels[part]]) ** 2).sum(axis=1)
    return out
