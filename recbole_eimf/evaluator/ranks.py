"""Where every test target was ranked: what slices, significance and comparisons are computed from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from recbole_eimf.core.arrays import contained, distinct
from recbole_eimf.core.errors import ConfigError, DataError, suggestion
from recbole_eimf.core.files import fingerprint, read_tensors, write_tensors
from recbole_eimf.core.run_folder import RANKS_FILE
from recbole_eimf.evaluator.slices import Range, fixed_ranges, frequency_slices, inside

METRICS = ("recall", "hit", "ndcg", "ndcg_hits", "mrr")


@dataclass(frozen=True)
class Ranks:
    """The places of all test targets. R rows in the split's order, T targets, distinct within a row.

    A row is a user; under ``time_target=successive`` it is a user at the time of one target, so that a user has
    several: give :func:`recbole_eimf.evaluator.significance.paired_test` the ``user`` of each.

    ``identity`` is a digest of the users' and targets' tokens: equal identities are about the same users and targets
    in the same order, so their values may be paired. ``slices`` are ranges of training frequency; ``mark_names``
    are further ones, whose targets ``marked`` tells: ``tied`` and ``untied``, whether a target has the time of the
    history's last item (without times all may), ``new_user``, whether training does not know its user,
    ``repeat``, whether its user had the item before, where training lacks some targets ``seen``: all others, and by
    the events that its user had before it ``history_1-5``, ``history_6-20``, ``history_>20``.
    """

    user: np.ndarray  # int64 [R], RecBole ids
    hits: np.ndarray  # uint8 [R, depth], whether each place holds a target
    targets: np.ndarray  # int32 [R], targets of each row
    target_row: np.ndarray  # int64 [T], row of each target
    target_item: np.ndarray  # int64 [T], RecBole ids
    target_rank: np.ndarray  # int32 [T], place from 0; -1: not among the first ``depth``
    target_count: np.ndarray  # int64 [T], training frequency
    identity: str
    slices: dict[str, Range] = field(default_factory=dict)
    marked: np.ndarray = field(default_factory=lambda: np.empty((0, 0), dtype=np.uint8))  # uint8 [T, M]
    mark_names: tuple[str, ...] = ()  # [M]

    @property
    def marks(self) -> dict[str, np.ndarray]:
        """The further slices: name -> bool [T]."""
        return {name: self.marked[:, column].astype(bool) for column, name in enumerate(self.mark_names)}

    @property
    def depth(self) -> int:
        """How many places were ranked: the largest k of a metric."""
        return self.hits.shape[1]

    def per_user(self, metric: str, slice: str | None = None) -> np.ndarray:
        """A metric's value for every row.

        Args:
            metric: ``recall@k``, ``hit@k``, ``ndcg@k`` (RecBole's, ideal over min(k, targets)), ``ndcg_hits@k`` (ideal
                over the hits) or ``mrr@k`` (of the first hit), in any case.
            slice: count only the targets of this slice; ``None`` counts all. Places stay those of the whole ranking.

        Returns:
            float64 [R]; NaN for rows without a target in the slice.

        Raises:
            ConfigError: no such metric or slice, or k beyond the ranked places.
        """
        name, k = self._parsed(metric)
        asked = np.ones(len(self.target_row), dtype=bool) if slice is None else self.in_slice(slice)
        found = asked & (self.target_rank >= 0) & (self.target_rank < k)
        users = len(self.user)
        targets = np.bincount(self.target_row[asked], minlength=users)
        row, rank = self.target_row[found], self.target_rank[found]
        hits = np.bincount(row, minlength=users)
        ideal = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(k) + 2))])
        if name == "recall":
            gain, best = hits, targets
        elif name == "hit":
            gain, best = hits > 0, np.ones(users)
        elif name == "mrr":
            gain, best = np.zeros(users), np.ones(users)
            np.maximum.at(gain, row, 1 / (rank + 1.0))
        else:
            gain = np.bincount(row, weights=1 / np.log2(rank + 2.0), minlength=users)
            best = ideal[np.minimum(targets, k)] if name == "ndcg" else np.where(hits, ideal[hits], 1.0)
        return np.where(targets > 0, gain / np.where(targets > 0, best, 1.0), np.nan)

    def mean(self, metric: str, slice: str | None = None) -> float:
        """The mean of :meth:`per_user` over rows with a target in the slice; NaN if there is none."""
        values = self.per_user(metric, slice)
        values = values[~np.isnan(values)]
        return float(values.mean()) if len(values) else float("nan")

    def by_slice(self, ks: Sequence[int]) -> dict[str, dict[str, float]]:
        """For every slice its number of targets and of users, and recall, hit and ndcg at every k.

        A slice without targets has no metrics.
        """
        found: dict[str, dict[str, float]] = {}
        for name in (*self.slices, *self.mark_names):
            asked = self.in_slice(name)
            found[name] = {"targets": int(asked.sum()), "users": len(distinct(self.user[self.target_row[asked]]))}
            if asked.any():
                metrics = [f"{kind}@{k}" for kind in ("recall", "hit", "ndcg") for k in ks]
                found[name] |= {metric: round(self.mean(metric, name), 6) for metric in metrics}
        return found

    def write(self, folder: str | Path) -> None:
        """Write ``test_ranks.safetensors``."""
        arrays = ("user", "hits", "targets", "target_row", "target_item", "target_rank", "target_count", "marked")
        notes = {"rows": "test users, in the split's order", "identity": self.identity}
        tensors = {name: getattr(self, name) for name in arrays}
        notes |= {"slices": json.dumps(self.slices), "marks": json.dumps(self.mark_names)}
        write_tensors(Path(folder) / RANKS_FILE, tensors, notes)

    def in_slice(self, name: str) -> np.ndarray:
        """Which targets a slice holds, bool [T]. Raises ConfigError for one that there is not."""
        if name in self.mark_names:
            return self.marks[name]
        if name not in self.slices:
            known = [*self.slices, *self.mark_names]
            raise ConfigError(
                f"slice={name!r}: no such slice.{suggestion(name, known)} "
                f"There are {', '.join(known)}; further ones by slice_bounds."
            )
        return inside(self.target_count, self.slices[name])

    def _parsed(self, metric: str) -> tuple[str, int]:
        name, _, k = metric.lower().partition("@")
        if name not in METRICS or not k.isdecimal() or not 1 <= int(k) <= self.depth:
            raise ConfigError(
                f"metric={metric!r}: allowed are {', '.join(METRICS)} as name@k with k from 1 to {self.depth}, "
                f"the largest topk of the run."
            )
        return name, int(k)


def collected_ranks(items: np.ndarray, test, train, bounds: Sequence[int] = ()) -> Ranks:
    """Look the test targets up in what the evaluator collected.

    Args:
        items: ranked items of every test user, int [R, depth]; 0 is no item.
        test, train: the parts (:class:`recbole_eimf.data.dataset.LazySequenceDataset`).
        bounds: of fixed slices of frequencies and of histories' lengths, see
            :func:`recbole_eimf.evaluator.slices.frequency_slices`.
    """
    every = np.arange(len(items))
    row, item = (array.numpy() for array in test.targets(every))
    # an item asked for twice is one target, as in RecBole
    pairs, first = np.unique(np.stack([row, item], axis=1), axis=0, return_index=True)
    row, item = pairs[:, 0], pairs[:, 1]
    tied, new = test.tied_targets(every)[first], test.of_new_users(every, train)[first]
    at = items[row] == item[:, None]
    rank = np.where(at.any(1), at.argmax(1), -1).astype(np.int32)
    hits = np.zeros(items.shape, dtype=np.uint8)
    hits[row[rank >= 0], rank[rank >= 0]] = 1
    counts = train.item_counts()
    of, had = (part.numpy() for part in test.history(every))
    repeated = contained(row * test.item_num + item, of * test.item_num + had)
    marks = {"tied": tied, "untied": ~tied, "new_user": new, "repeat": repeated}
    if not counts[item].all():  # models that know items by id alone can only be compared on the others
        marks["seen"] = counts[item] > 0
    length = np.bincount(of, minlength=len(items))[row]
    marks |= {f"history_{name}": inside(length, limits) for name, limits in fixed_ranges(bounds).items()}
    return Ranks(
        user=test.spans.user,
        hits=hits,
        targets=np.bincount(row, minlength=len(items)).astype(np.int32),
        target_row=row,
        target_item=item,
        target_rank=rank,
        target_count=counts[item],
        identity=_identity(test, row, item),
        slices=frequency_slices(counts, bounds),
        marked=np.stack([*marks.values()], axis=1).astype(np.uint8),
        mark_names=tuple(marks),
    )


def _identity(test, row: np.ndarray, item: np.ndarray) -> str:
    users = test.field2id_token[test.uid_field][test.spans.user]
    titles = test.field2id_token[test.iid_field][item]
    # within a user the targets' order follows RecBole's ids, which another filter may number differently
    return fingerprint(users.tolist(), sorted(zip(row.tolist(), titles.tolist())))


def read_ranks(folder: str | Path) -> Ranks:
    """Read a run's ``test_ranks.safetensors``.

    Raises:
        DataError: there is none, it is broken, or an older version wrote it.
    """
    path = Path(folder) / RANKS_FILE
    if not path.is_file():
        raise DataError(f"{path}: no such file. Run with output_dir={folder} to have it written.")
    tensors = read_tensors(path)
    with safe_open(path, framework="np") as stored:
        notes = stored.metadata()
    try:
        slices = {name: tuple(limits) for name, limits in json.loads(notes["slices"]).items()}
        marks = tuple(json.loads(notes.get("marks", "[]")))
        return Ranks(**tensors, identity=notes["identity"], slices=slices, mark_names=marks)
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: lacks what a comparison needs ({error}). Run again to have it rewritten.") from error


@dataclass(frozen=True)
class Asked:
    """Whom a run was tested on: numbers of users and of their targets; equal ``identity``: the same ones.

    ``rows``: how often users were asked, where that is more than once each; else 0.
    """

    users: int
    targets: int
    identity: str
    rows: int = 0


def asked_of(folder: str | Path) -> Asked | None:
    """What a run's ``test_ranks.safetensors`` is about, without its places; None where there is none to read."""
    try:
        with safe_open(Path(folder) / RANKS_FILE, framework="np") as stored:
            rows, targets = (stored.get_slice(name).get_shape()[0] for name in ("user", "target_row"))
            users = len(distinct(stored.get_tensor("user")))
            return Asked(users, targets, stored.metadata()["identity"], rows if rows > users else 0)
    except (OSError, SafetensorError, KeyError, TypeError):
        return None


def check_same_users(first: Ranks, second: Ranks, names: tuple[str, str] = ("first", "second")) -> None:
    """Raise DataError unless two runs were tested on the same users and targets, in the same order."""
    if first.identity != second.identity:
        raise DataError(
            f"{names[0]} and {names[1]} were not tested on the same users and targets ({len(first.user)} users, "
            f"{len(first.target_row)} targets; {len(second.user)}, {len(second.target_row)}). Use the same data, "
            f"protocol and split_seed or split_file."
        )
