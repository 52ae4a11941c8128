"""RecBole data loaders over lazy rows: length-sorted training batches, many targets per user in evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from logging import getLogger

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader, NegSampleEvalDataLoader, TrainDataLoader
from recbole.data.dataloader.abstract_dataloader import AbstractDataLoader
from recbole.data.interaction import Interaction

from recbole_eimf.core import distributed
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.data.history_mask import masks_history
from recbole_eimf.data.prefetch import pinned, prefetched, sent


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
        return rows, history, *self._dataset.targets(index)


class SampledEvalDataLoader(NegSampleEvalDataLoader):
    """RecBole's evaluation among drawn items, which joins the rows of single users: all of them have one width."""

    def __init__(self, config, dataset, sampler, shuffle=False):
        dataset.full_width = True
        super().__init__(config, dataset, sampler, shuffle=shuffle)


def loader_class(config, phase: str) -> type[AbstractDataLoader]:
    """The loader of a lazy data set's part; ``phase`` is ``train``, ``valid`` or ``test``."""
    if phase == "train":
        return SequenceTrainDataLoader
    return RankingEvalDataLoader if config["eval_args"]["mode"][phase] == "full" else SampledEvalDataLoader


def samples_nothing(config) -> bool:
    """Whether neither training nor evaluation draws negatives: a sampler would keep a set for every user in vain."""
    modes = config["eval_args"]["mode"]
    return config["train_neg_sample_args"]["distribution"] == "none" and set(modes.values()) == {"full"}
