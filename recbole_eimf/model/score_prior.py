"""What is added to a trained model's scores: items of like text, what an LLM says is bought next or before, and counts.

``score(i) = model(i) + sum_t prior_decay^t (a cos(text of j, text of i) + b G[j, i] + c P[j, i] + d T[j, i])``, j the
item t steps back, G of :func:`~recbole_eimf.semantic.knowledge.next_graph` and P its transpose (what an LLM says is
bought *before* j), each row divided by its largest entry, T of
:func:`~recbole_eimf.model.bought_together.bought_together`, divided by the mean of its rows' largest entries.

The model is trained without it; a to d are chosen on validation afterwards
(:func:`~recbole_eimf.trainer.weighing.choose_prior`), zero among them: what the model is by itself. Under
``prior_weights=by_frequency`` they are those of item i's training frequency: then the parts are experts beside the
model's own, mixed by a gate that knows the candidate's frequency as PAD's (eq. 8-11), over any backbone.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor, nn

from recbole_eimf.core.errors import ConfigError
from recbole_eimf.model.bought_together import bought_together, interaction_weights
from recbole_eimf.model.history_scores import (
    counted_for_one,
    history_scores,
    text_mean,
    text_query,
    text_scores,
    unit_text,
)
from recbole_eimf.model.placing import Neighbours

#: on the scale of logits; validation goes through them for one part of the prior, then for the other
WEIGHTS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0)

#: training frequencies at which a bucket of ``prior_weights=by_frequency`` begins, after that of unseen items
FREQUENCIES = (1, 6, 21, 101)
PARTS = ("similar", "next", "previous", "together")
_SETS = {"none": (), "both": PARTS[:2], "all": PARTS}


class ScorePrior(nn.Module):
    """The prior of one catalogue, weighing nothing until its weights are set.

    Args:
        kind: as ``score_prior`` has it; decay: of the history; side: side-loaded text and graph, None where a
            saved model is about to be loaded; n_items: N; bucket: int64 [N], whose weights an item has, or None: all
            have the same; together: T, [N, N]; placebo: whether what is known of items is that of
            others, which reasons tell.
    """

    def __init__(
        self, kind: str, decay: float, side, n_items: int, bucket: Tensor | None = None,
        together: sparse.csr_matrix | None = None, placebo: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self._graphs: dict[str, sparse.csr_matrix] = {}
        self.kind, self.decay, self.n_items, self.placebo = kind, decay, n_items, placebo
        self.parts = parts_of(kind)
        buckets = () if bucket is None else (len(FREQUENCIES) + 1,)
        self.register_buffer("weight", torch.zeros(len(PARTS), *buckets))  # of PARTS; [4] or [4, buckets]
        self.register_buffer("bucket", torch.zeros(0, dtype=torch.int64) if bucket is None else bucket)  # [0] or [N]
        reads = side is not None and "similar" in self.parts
        self.register_buffer("text", unit_text(side) if reads else torch.zeros(n_items, 0))
        self.register_buffer("text_mean", text_mean(side) if reads else torch.zeros(0))  # what a new item's text lacks
        none = sparse.csr_matrix((n_items, n_items), dtype=np.float32)
        told = {"next", "previous"} & {*self.parts} and side is not None
        for prefix, graph in (("", rows_to_one(side.next_items) if told else none), ("together_", together)):
            self._set_graph(prefix, none if graph is None else graph)

    def set_weight(self, part: str, weight: float | Tensor) -> None:
        """What one part counts, on the scale of the model's scores: of all items, or [buckets]."""
        self.weight[PARTS.index(part)] = weight

    def weight_of(self, part: str) -> float | list[float]:
        """What one part counts; a list, where items of each frequency have their own."""
        return self.weight[PARTS.index(part)].tolist()

    def weights(self) -> dict[str, float | list[float]]:
        """:meth:`weight_of` of every part that there is."""
        return {part: self.weight_of(part) for part in self.parts}

    def part(self, name: str, sequence: Tensor, length: Tensor) -> Tensor:
        """One part, weighing one: [B, L] right-padded items, [B] -> [B, N]."""
        if name == "similar":
            return text_scores(sequence, length, self.text, self.decay)
        return history_scores(sequence, length, self._matrix(name), self.decay)

    def forward(self, sequence: Tensor, length: Tensor) -> Tensor:
        """[B, L] right-padded items, [B] -> [B, N]."""
        found = torch.zeros(len(sequence), self.n_items, device=sequence.device)
        for name, weight in zip(PARTS, self.weight):
            if weight.any():
                of_items = weight[self.bucket] if len(self.bucket) else weight
                found = found + of_items * self.part(name, sequence, length)
        return found

    def of_items(self, sequence: Tensor, length: Tensor, items: Tensor) -> Tensor:
        """What one item a row gets, [B, L], [B], int64 [B] -> [B]."""
        return self(sequence, length).gather(1, items[:, None]).squeeze(1)

    @property
    def weighs_text(self) -> bool:
        """Whether like text adds anything."""
        return bool(self.weight[PARTS.index("similar")].any())

    def weighed_text(self, items: Tensor) -> Tensor:
        """What like text adds, as vectors: int64 [R] -> [R, d_t], whose products with :meth:`text_query` it is."""
        weight = self.weight[PARTS.index("similar")]
        return self.text[items] * (weight[self.bucket[items]][:, None] if len(self.bucket) else weight)

    def text_query(self, sequence: Tensor, length: Tensor) -> Tensor:
        """[B, L] right-padded items, [B] -> [B, d_t]."""
        return text_query(sequence, length, self.text, self.decay)

    def counted(self, sequence: Tensor) -> Tensor:
        """What all parts but like text add for one user: the latest items, int64 [L] -> float32 [N]."""
        found = torch.zeros(self.n_items)
        for name, weight in zip(PARTS, self.weight):
            if name != "similar" and weight.any():
                part = counted_for_one(sequence, self._matrix(name), self.decay)
                found += part * (weight[self.bucket] if len(self.bucket) else weight)
        return found

    def of_steps(self, name: str, sequence: Tensor, items: Tensor) -> Tensor:
        """What each item of one history adds to some items, by one part as it weighs: [L], int64 [R] -> [L, R]."""
        if name == "similar":
            each = self.text[sequence] @ self.text[items].T
        else:
            each = torch.from_numpy(self._matrix(name)[sequence.numpy()][:, items.numpy()].toarray())
        steps = torch.arange(len(sequence) - 1, -1, -1)
        weight = self.weight[PARTS.index(name)]
        return (weight[self.bucket[items]] if len(self.bucket) else weight) * self.decay ** steps[:, None] * each

    @property
    def places_each_alone(self) -> bool:
        """Whether :meth:`extended` knows an item the same whatever else it adds, before or with it. In a graph, rows
        are as long as their neighbours' are, over all columns, those of added items too."""
        return not {*self.parts} - {"similar"}

    def extended(self, near: Neighbours, texts: Tensor | None) -> ScorePrior:
        """With n further items at the end, which no count and no reply knows.

        Args:
            near: the trained items that each is nearest to: what is counted and said of it is what is of them.
            texts: [n, d], as the text of the others was before it was centred; None, or where a model of before knows
                no mean: placed among its neighbours too.
        """
        grown = copy.deepcopy(self)
        grown.n_items += len(near.rows)
        if "similar" in self.parts:
            own = texts is not None and len(self.text_mean)
            added = F.normalize(texts - self.text_mean, dim=1) if own else near.place(self.text)
            grown.text = torch.cat([self.text, added])
        for prefix, part in (("", "next"), ("together_", "together")):
            grown._set_graph(prefix, near.place_in_graph(self._matrix(part)))
        if len(self.bucket):
            grown.bucket = torch.cat([self.bucket, self.bucket.new_zeros(len(near.rows))])
        return grown

    def place(self, items: Tensor, near: Neighbours) -> None:
        """Count and say of the items that a graph does not know what it does of their neighbours.

        Args:
            items: int64 [n]; near: the trained items that each is nearest to.
        """
        for prefix, part in (("", "next"), ("together_", "together")):
            self._set_graph(prefix, near.place_unknown(self._matrix(part), items))

    def _set_graph(self, prefix: str, graph: sparse.spmatrix) -> None:
        """Hold a graph [N, N] as tensors."""
        found, device = graph.tocoo(), self.weight.device
        whole = np.int32 if prefix else np.int64  # there are millions of pairs
        index = torch.from_numpy(np.stack([found.row, found.col]).astype(whole))
        self.register_buffer(f"{prefix}index", index.to(device))
        self.register_buffer(f"{prefix}value", torch.from_numpy(found.data.astype(np.float32)).to(device))
        self._graphs = {}

    def _matrix(self, part: str) -> sparse.csr_matrix:
        if not self._graphs:
            said, counted = (
                sparse.csr_matrix((value.cpu().numpy(), tuple(index.cpu().numpy())), shape=(self.n_items, self.n_items))
                for value, index in ((self.value, self.index), (self.together_value, self.together_index))
            )
            self._graphs = {"next": said, "previous": rows_to_one(said.T), "together": counted}
        return self._graphs[part]

    def _load_from_state_dict(self, state, prefix, *args) -> None:
        self._graphs = {}
        if (weight := state.get(f"{prefix}weight")) is not None:  # saved before there were buckets, or all parts
            state.setdefault(f"{prefix}bucket", torch.zeros(0, dtype=torch.int64))
            none = weight.new_zeros(len(PARTS) - len(weight), *weight.shape[1:])
            state[f"{prefix}weight"] = torch.cat([weight, none])
            state.setdefault(f"{prefix}together_index", torch.zeros(2, 0, dtype=torch.int64))
            state.setdefault(f"{prefix}together_value", torch.zeros(0))
            state.setdefault(f"{prefix}text_mean", torch.zeros(0))
        for name in ("weight", "bucket", "text", "text_mean", "index", "value", "together_index", "together_value"):
            if (stored := state.get(f"{prefix}{name}")) is not None:
                setattr(self, name, torch.zeros_like(stored, device=self.weight.device))
        super()._load_from_state_dict(state, prefix, *args)

    def __getstate__(self):
        return {**self.__dict__, "_graphs": {}}


def weights_text(weights: Mapping[str, float | list[float]]) -> str:
    """What each part weighs (:meth:`ScorePrior.weight_of`), for people; parts that weigh nothing are left out.

    >>> weights_text({"similar": 4.6072, "next": 0.0, "together": [0.0, 9.40473]})
    'similar 4.61, together 0 / 9.4'
    """
    of_part = {part: weight if isinstance(weight, list) else [weight] for part, weight in weights.items()}
    said = (f"{part} {' / '.join(f'{w:.3g}' for w in each)}" for part, each in of_part.items() if any(each))
    return ", ".join(said) or "nothing, validation is better without"


def rows_to_one(graph: sparse.csr_matrix) -> sparse.csr_matrix:
    """Every row divided by its largest entry; empty rows stay empty."""
    largest = np.asarray(graph.max(axis=1).todense()).ravel()
    return (sparse.diags(1 / np.maximum(largest, 1e-9)) @ graph).tocsr()


def prior_of(config, dataset, n_items: int) -> ScorePrior | None:
    """The prior that a configuration asks for, or None."""
    kind = config["score_prior"]
    if not (parts := parts_of(kind)):
        return None
    placebo = config["knowledge_source"] == "shuffled"
    if config["inference_only"]:
        return ScorePrior(kind, config["prior_decay"], None, n_items, placebo=placebo)
    side = getattr(dataset, "side", None)
    if side is None and parts != ("together",):
        raise ConfigError(f"score_prior={kind}: needs item text, and there is none. Use score_prior=together, or none.")
    bucket = together = None
    if config["prior_weights"] == "by_frequency":
        bucket = torch.from_numpy(np.digitize(dataset.item_counts(), FREQUENCIES))
    if "together" in parts:
        weight = interaction_weights(config, dataset)
        together = bought_together(dataset, weight, config["knn_shrink"], config["knn_neighbours"])
        largest = together.max(axis=1).data
        together = together / (largest.mean() if len(largest) else 1.0)  # of the size of the other parts, for the fit
    return ScorePrior(kind, config["prior_decay"], side, n_items, bucket, together, placebo)


def parts_of(kind: str | None) -> tuple[str, ...]:
    """What ``score_prior`` names, in the order of ``PARTS``.

    >>> parts_of("together+similar"), parts_of("both"), parts_of("none")
    (('similar', 'together'), ('similar', 'next'), ())
    """
    named = _SETS.get(kind or "none") or str(kind).split("+")
    return tuple(part for part in PARTS if part in named)


def reads_text(config) -> bool:
    """Whether the prior reads item text, or what is said of an item."""
    return not {*parts_of(config["score_prior"])} <= {"together"}


def reads_next(config) -> bool:
    """Whether the prior reads what is bought next."""
    return bool({"next", "previous"} & {*parts_of(config["score_prior"])})
