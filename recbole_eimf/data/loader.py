"""RecBole data loaders over lazy rows: length-sorted training batches, many targets per user in evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from logging import getLogger

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader, NegSampleEvalDataLoader, TrainDataLoader
from recbole.data.dataloader.abstract_dataloader import AbstractDataLoader
from recbole.data.interaction import Interaction
from recbole.utils import InputType

from recbole_eimf.core import distributed
from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.data.history_mask import masks_history
from recbole_eimf.data.prefetch import pinned, prefetched, sent
from recbole_eimf.data.views import HAD_LIST, gather_rows


class SequenceTrainDataLoader(TrainDataLoader):
    """Training batches in random order; rows of like length share a batch, so that little of it is padding.

    Every epoch draws a fresh permutation, sorts pieces of ``batches_sorted_together`` batches by length, and shuffles
    the batches. Rows are gathered for a whole batch at once, in this process; for a GPU (``ahead``) by a thread, into
    pinned memory.

    Of several processes each takes its part of every batch (``train_batch_size`` counts the rows of all of them), and
    ``share`` is the weight of the latest part (:func:`recbole_eimf.core.distributed.batch_share`).
    """

    batches_sorted_together = 32
    share = 1.0

    def __init__(self, config, dataset, sampler, shuffle=False):
        super().__init__(config, dataset, sampler, shuffle=shuffle)
        # dynamic negatives ask the model as it is when the batch is trained on
        self.ahead = config["device"].type == "cuda" and not self.neg_sample_args.get("dynamic", False)
        self.sort_by_length = shuffle and dataset.view_name in ("sequence", "random_cut") and dataset._trims_batches
        if config["worker"]:
            raise ConfigError(f"worker={config['worker']}: rows are gathered in the main process; use worker=0.")

    def __len__(self) -> int:
        return -(-self.sample_size // self.step)

    def __iter__(self):
        draw = torch.randint(2**62, (1,), generator=self.generator).item()
        rng = np.random.default_rng(draw)
        order = rng.permutation(self.sample_size) if self.shuffle else np.arange(self.sample_size)
        batches = self._gathered(self._batches(order, rng), rng)
        if not self.ahead:
            for batch, self.share in batches:
                yield batch
            return
        device = self.config["device"]
        for batch, self.share in prefetched((pinned(batch, device), share) for batch, share in batches):
            yield sent(batch, device)

    def _gathered(self, batches: list[np.ndarray], rng: np.random.Generator) -> Iterator[tuple[Interaction, float]]:
        for batch in batches:
            part, share = distributed.batch_share(batch)
            rows = self._dataset.rows(batch, rng, part)
            yield self._neg_sampling(self.transform(self._dataset, rows)), share

    def _batches(self, order: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        if not self.sort_by_length:
            return np.split(order, np.arange(self.step, len(order), self.step))
        size = self._dataset.view.size
        piece = self.step * self.batches_sorted_together
        batches = []
        for begin in range(0, len(order), piece):
            part = order[begin : begin + piece]
            part = part[np.argsort(size[part], kind="stable")]
            batches += np.split(part, np.arange(self.step, len(part), self.step))
        return [batches[i] for i in rng.permutation(len(batches))]


class RankingEvalDataLoader(FullSortEvalDataLoader):
    """Full-catalogue evaluation with any number of targets per user, through RecBole's own trainer and collector.

    With ``mask_history`` the items a user already had are ranked last; a target among them is then a forced miss. Of
    several processes each has the users of its part.
    """

    def __init__(self, config, dataset, sampler, shuffle=False):
        self.logger = getLogger()
        self.uid_field, self.iid_field = dataset.uid_field, dataset.iid_field
        self.first, end = distributed.rows_share(len(dataset))
        self.sample_size = end - self.first
        if len(dataset) and not self.sample_size:
            raise ConfigError(f"nproc={distributed.world_size()}: only {len(dataset)} users to evaluate; take fewer.")
        self.mask_history = masks_history(config)
        self.ahead = config["device"].type == "cuda"
        AbstractDataLoader.__init__(self, config, dataset, sampler, shuffle=False)

    def __iter__(self):
        batches = super().__iter__()
        return prefetched(batches) if self.ahead else batches

    def _init_batch_size_and_step(self):
        # eval_batch_size counts users whatever the model's type: RecBole counts (user, item) pairs for some types
        self.step = self.config["eval_batch_size"]
        self.set_batch_size(self.step)

    def collate_fn(self, index):
        index = np.asarray(index) + self.first
        rows = self.transform(self._dataset, self._dataset.rows(index))
        history = self._dataset.history(index) if self.mask_history else None
        if self.mask_history and self.config["diversity_lambda"]:  # a row shows the latest of a history
            spans = self._dataset.spans
            had = gather_rows(self._dataset.flat, spans.start[index], spans.middle[index])
            rows.update(Interaction({HAD_LIST: had}))
        return rows, history, *self._dataset.targets(index)


class SampledEvalDataLoader(NegSampleEvalDataLoader):
    """Evaluation among drawn items, through RecBole's own trainer and collector: ``uniN`` and ``popN`` draw N for each
    target.

    RecBole has one row a user, and the first target alone. Here every row of the view is judged for itself, with all
    its targets: none of them is drawn, and with ``mask_history`` nothing that the user already had; a target among that
    is a forced miss, as where all items are ranked.
    """

    def __init__(self, config, dataset, sampler, shuffle=False):
        dataset.full_width = True
        self.logger = getLogger()
        args = config[f"{sampler.phase}_neg_sample_args"]
        self._set_neg_sample_args(config, dataset, InputType.POINTWISE, args)
        self.mask_history = masks_history(config)
        self.sample_size = len(dataset)
        AbstractDataLoader.__init__(self, config, dataset, sampler, shuffle=False)

    def _init_batch_size_and_step(self):
        """As many rows as ``eval_batch_size`` has room for candidates of, whichever they are."""
        spans = self._dataset.spans
        candidates = np.sort((spans.end - spans.middle) * self.times)[::-1].cumsum()
        self.step = max(int(np.searchsorted(candidates, self.config["eval_batch_size"], side="right")), 1)
        self.set_batch_size(int(candidates[self.step - 1]) if len(candidates) else self.step)

    def collate_fn(self, index):
        """Rows [b] of the view -> (pairs of a row and a candidate [n], each pair's row in the batch [n], and of every
        target its row and item [t]), as RecBole's trainer takes them; ``pairs.missed``: (row, item) of the targets that
        a mask leaves out."""
        index, dataset = np.asarray(index), self._dataset
        rows = self.transform(dataset, dataset.rows(index))
        row, target = dataset.targets(index)
        targets = np.split(target.numpy(), np.bincount(row, minlength=len(index)).cumsum()[:-1])
        had = [np.zeros(0, dtype=np.int64)] * len(index)
        if self.mask_history:
            of, items = dataset.history(index)
            had = np.split(items.numpy(), np.bincount(of, minlength=len(index)).cumsum()[:-1])
        each = [np.concatenate([own, self._drawn(index[n], own, had[n])]) for n, own in enumerate(targets)]
        place = np.repeat(np.arange(len(index)), list(map(len, each)))
        made = rows[torch.from_numpy(place)]
        made.update(Interaction({self.iid_field: torch.from_numpy(np.concatenate(each))}))
        made = dataset.join(made)
        wanted = [np.arange(len(items)) < len(own) for items, own in zip(each, targets)]
        made.update(Interaction({self.label_field: torch.from_numpy(np.concatenate(wanted)).float()}))
        missed = [np.isin(own, items) for own, items in zip(targets, had)]
        made.missed = tuple(values[torch.from_numpy(np.concatenate(missed))] for values in (row, target))
        return made, torch.from_numpy(place), row, target

    def _drawn(self, row: int, targets: np.ndarray, had: np.ndarray) -> np.ndarray:
        """N for each target, none of ``targets`` or ``had``. Raises DataError where there is nothing else."""
        barred, sampler = {*targets.tolist(), *had.tolist()}, self._sampler
        there = sampler.prob if sampler.distribution == "popularity" else range(1, self._dataset.item_num)
        if len(there) <= len(barred) and all(item in barred for item in there):
            user = self._dataset.field2id_token[self.uid_field][self._dataset.spans.user[row]]
            also = ", or --mask_history=False" if len(had) else ""
            raise DataError(
                f"eval_args: mode={self.config['eval_args']['mode']}: of all items none is left to draw for user "
                f"{user}. Rank all items (mode: full){also}."
            )
        sampler.used_ids = np.array([barred])
        return sampler.sample_by_key_ids(np.zeros(len(targets), dtype=np.int64), self.neg_sample_num).numpy()


def loader_class(config, phase: str) -> type[AbstractDataLoader]:
    """The loader of a lazy data set's part; ``phase`` is ``train``, ``valid`` or ``test``."""
    if phase == "train":
        return SequenceTrainDataLoader
    return RankingEvalDataLoader if config["eval_args"]["mode"][phase] == "full" else SampledEvalDataLoader


def samples_nothing(config) -> bool:
    """Whether neither training nor evaluation draws negatives: a sampler would keep a set for every user in vain."""
    modes = config["eval_args"]["mode"]
    return config["train_neg_sample_args"]["distribution"] == "none" and set(modes.values()) == {"full"}
