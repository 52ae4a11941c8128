"""RecBole's sequential data set without its augmentation: flat arrays, split by protocol, rows on demand."""

from __future__ import annotations

import logging
from functools import cached_property
from logging import getLogger

import numpy as np
import pandas as pd
import torch
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction

from recbole_eimf.config.contract import contract_of
from recbole_eimf.config.keys import our_keys
from recbole_eimf.config.rules import check_window_stride
from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.data import history_mask, protocol, ties, time_split, views
from recbole_eimf.data.atomic_dataset import AtomicDataset
from recbole_eimf.data.atomic_file import return_freed_memory
from recbole_eimf.data.split_file import read_split, write_split
from recbole_eimf.data.views import TARGET_LIST


class LazySequenceDataset(AtomicDataset):
    """RecBole's data set, kept as one flat array per field and offsets by user.

    Everything RecBole does to atomic files (loading, filters, ids) stays RecBole's. What changes:

    * rows are sorted by (user, ``ORDER_FIELD``), or by (user, ``TIME_FIELD``) with ties in file order where there is no
      such column. RecBole sorts by a float32 time, which loses the order of close events; ``ties`` says what becomes
      of the order inside one time (:mod:`recbole_eimf.data.ties`);
    * no row per prefix is stored (RecBole's issues 704 and 1865): ``__getitem__`` gathers rows through a view;
    * :meth:`build` splits by ``protocol`` (see :mod:`recbole_eimf.data.protocol`).

    A part returned by :meth:`build` holds only its own interactions: the training part cannot see a held-out item.
    """

    #: whether histories are padded to MAX_ITEM_LIST_LENGTH for models that do not need it, too
    full_width = False

    def __init__(self, config) -> None:
        if config["benchmark_filename"] is not None:
            raise ConfigError(
                f"benchmark_filename={config['benchmark_filename']}: pre-split files are not supported by "
                f"{config['model']}; choose a split with protocol={'|'.join(protocol.PROTOCOLS)}."
            )
        if config["single_spec"] is False:
            raise ConfigError(
                f"local_rank={config['local_rank']}: RecBole's own processes know nothing of our rows. Start "
                f"several with run_recbole_eimf.py --nproc=N, recbole_eimf.run(..., nproc=N) or torchrun."
            )
        self.view: views.View | None = None
        self.spans: protocol.Spans | None = None
        self.side = None
        #: of the training part with ``refit=True``: all that is known when the test begins, to train on again
        self.before_test: LazySequenceDataset | None = None
        #: the part whose users were clustered and asked about, where this one came later (``refit``)
        self.asked: LazySequenceDataset | None = None
        self.times: np.ndarray | None = None  # float64 [n]; None: no times
        self.moment: np.ndarray | None = None  # int32 [n], equal where a user's events have one time; None: no times
        self.source_row: np.ndarray | None = None  # int64 [n], each row's place in the source's order; None: as it is
        self.source_spans: protocol.Spans | None = None  # of ``source_flat``: what training has with ``ties=source``
        self.borders: list[str] | None = None  # dates between which global_time parts, see time_split.shown_borders
        self.source_flat: np.ndarray | None = None  # all items in the source's order, where that is another one
        super().__init__(config)

    # ------------------------------------------------------------------ order
    def _change_feat_format(self):
        """Sort in double precision, then convert to tensors; no augmentation."""
        frame = self.inter_feat
        order_field = self.config["ORDER_FIELD"]
        by = order_field if order_field and order_field in frame else self.time_field
        if by is None or by not in frame:
            raise DataError(
                f"{self.dataset_name}.inter has neither the column {order_field!r} nor {self.time_field!r}: a sequence "
                f"needs an order. Loaded columns: {list(frame.columns)}. Check load_col, ORDER_FIELD and TIME_FIELD."
            )
        key = frame[by].to_numpy()
        finite = np.isfinite(key.astype(np.float64))
        if not finite.all():
            row = int(np.flatnonzero(~finite)[0])
            raise DataError(
                f"{self.dataset_name}.inter: column {by!r} is not a number in row {row + 1}. Mend the file."
            )
        position = np.lexsort((key, frame[self.uid_field].to_numpy()))  # stable: ties stay in file order
        position = self._with_ties(frame, position)
        for field in frame:  # one column at a time: a whole sorted copy would be as large again
            frame[field] = frame[field].to_numpy()[position]
        del key, finite, position
        return_freed_memory()
        Dataset._change_feat_format(self)
        self._add_columns()
        self._aug_presets()
        users = self.inter_feat[self.uid_field].numpy()
        self.offsets = np.searchsorted(users, np.arange(self.user_num + 1)).astype(np.int64)
        whole = protocol.Spans(np.arange(self.user_num), self.offsets[:-1], self.offsets[1:], self.offsets[1:])
        self._set_view(whole, "prefix")

    def _with_ties(self, frame: pd.DataFrame, position: np.ndarray) -> np.ndarray:
        """The rows' order [n] as ``ties`` says, from the source's; notes which rows are tied."""
        chosen = self.config["ties"] or "source"
        user = frame[self.uid_field].to_numpy()[position]
        if self.config["shuffled_history"]:
            self.source_row = np.arange(len(position))  # the off-line stage goes on from the source's order
        order = None if self._order == self.time_field else self._order  # sorted by time: it is no second column
        columns = [frame[f].to_numpy()[position] if f and f in frame else None for f in (self.time_field, order)]
        if not ties.has_times(user, *columns):
            self._say_no_times(chosen)
            return position
        self.moment, self.times = ties.moments(user, columns[0]), columns[0].astype(np.float64)
        if chosen == "source":
            return position
        tokens = (self.field2id_token[f][frame[f].to_numpy()[position]] for f in (self.uid_field, self.iid_field))
        self.source_row = ties.shuffled(self.moment, *tokens, seed=self.config["ties_seed"] or 0)
        return position[self.source_row]

    @property
    def _order(self) -> str | None:
        return self.config["ORDER_FIELD"]

    def _say_no_times(self, chosen: str) -> None:
        said = (
            f"{self.dataset_name}.inter has no times (column {self.time_field!r} is missing, constant or a count): "
            f"any two events of a user may be tied, and nothing tells the order from that of the file"
        )
        if chosen == "together":
            raise ConfigError(f"ties=together: {said}. Use ties=source, or data with times.")
        if chosen == "shuffle" and not getattr(self.config, "times_told", False):
            getLogger().warning(f"ties=shuffle: {said}. Nothing is shuffled.")

    def _add_columns(self) -> None:
        """Add further columns of interactions, whose lists every row then has; a subclass says which."""

    # ------------------------------------------------------------------ split
    def build(self):
        """Split by ``protocol`` and return the training, validation and test parts.

        Raises:
            ConfigError: ``protocol`` or ``training_view`` is not one of those that exist.
            DataError: nobody has a test target or anything to train on, or ``split_file`` does not fit the data.
        """
        self._change_feat_format()
        config = self.config
        name = config["protocol"] or "leave_one_out"
        split = self._split(config["ties"] or "source")
        if len(split.test) == 0:
            raise DataError(
                f"{self.dataset_name}: no user has enough interactions for a test target under protocol={name}. "
                f"Use more data or looser filters (user_inter_num_interval, item_inter_num_interval)."
            )
        if config["save_split"]:
            # which users are in which part, all of them: ``ties=together`` leaves out those it can ask nothing
            write_split(config["save_split"], self._split("source"), self.field2id_token[self.uid_field])
        train = self._part(self._share(split.train), self._training_view_name())
        if not len(train):
            raise DataError(
                f"{self.dataset_name}: no user has enough interactions to train on under protocol={name}. Use more "
                f"data, looser filters (user_inter_num_interval, item_inter_num_interval) or another split."
            )
        if config["refit"]:
            train.before_test = self._part(self._share(split.before_test, split.train), self._training_view_name())
        valid = self._part(split.valid, None)
        test = self._part(split.test, None)
        if said := history_mask.decide(config, train):
            # of a trained model its run has said it, of a model for comparison the one it stands beside
            told = getattr(config, "data_told", False)
            known = config["mask_history"] or config["inference_only"] or told
            getLogger().log(logging.INFO if known else logging.WARNING, said, extra={"detail": told})
        train.source_spans = None if self.source_row is None else self._split("source").train
        train.source_flat = None if self.source_row is None else self._in_source_order()
        return [train, valid, test]

    def _share(self, spans: protocol.Spans, drawn_from: protocol.Spans | None = None) -> protocol.Spans:
        """What ``train_share`` leaves of a part to train on; ``drawn_from``: the part whose users were drawn first."""
        share, seed = self.config["train_share"] or 1.0, self.config["split_seed"] or 0
        return protocol.share_of_users(spans, share, seed, drawn_from)

    def _split(self, chosen: str) -> protocol.Split:
        """The split by ``protocol``, as ``ties=chosen`` has it."""
        config, moment = self.config, self.moment if chosen == "together" else None
        name = config["protocol"] or "leave_one_out"
        if name == "leave_one_out":
            return protocol.leave_one_out(self.offsets, moment)
        if name == "global_time":
            return self._time_split(moment)
        if name != "user_split":
            raise ConfigError(f"protocol={name!r}: allowed are {', '.join(protocol.PROTOCOLS)}.")
        if config["split_file"]:
            split = read_split(config["split_file"], self.field2id_token[self.uid_field], self.offsets)
        else:
            split = protocol.user_split(self.offsets, config["split_seed"] or 0, tuple(config["split_ratios"]))
        return split if moment is None else protocol.cut_between_moments(split, moment)

    def _time_split(self, moment: np.ndarray | None) -> protocol.Split:
        config = self.config
        if self.times is None:
            raise DataError(
                f"protocol=global_time: {self.dataset_name}.inter has no times (column {self.time_field!r} is missing, "
                f"constant or a count): nothing says what was known when. Use leave_one_out or user_split."
            )
        dates = our_keys()["time_dates"].check(config["time_dates"] or ())  # 2014-03-07,2014-05-13 is one word as typed
        quantiles = config["time_quantiles"] or (0.8, 0.9)
        until = time_split.borders(self.times, quantiles, dates)
        chosen = config["time_target"] or "successive"
        self.borders = time_split.shown_borders(until, self.times)
        days = (until[1] - until[0]) / (time_split.DAY * time_split.ticks_per_second(self.times))
        aged = f"; the test begins {days:.0f} days after it (refit=True trains again on these)"
        getLogger().info(
            f"global_time: training up to {self.borders[0]}{'' if config['refit'] else aged}, validation up to "
            f"{self.borders[1]}, {chosen}"
        )
        split = time_split.global_time(self.offsets, self.times, until, chosen, moment)
        validates = not config["inference_only"] and 0 < (config["eval_step"] or 0) <= (config["epochs"] or 0)
        time_split.check_parts(split, self.times, until, quantiles, dates, validates)
        return split

    def _in_source_order(self) -> np.ndarray:
        flat = np.empty(len(self.flat), dtype=np.int64)
        flat[self.source_row] = self.flat.numpy()
        return flat

    def _training_view_name(self) -> str:
        chosen = self.config["training_view"] or contract_of(self.config.model_class).choose_training_view(self.config)
        if chosen not in views.TRAINING_VIEWS:
            raise ConfigError(f"training_view={chosen!r}: allowed are {', '.join(views.TRAINING_VIEWS)}.")
        return chosen

    def _part(self, spans: protocol.Spans, view: str | None) -> LazySequenceDataset:
        """A copy that holds only the rows of ``spans``, renumbered from zero."""
        kept, local = self._apart(spans) if self.config["shuffled_history"] else self._shared(spans)
        columns = self.inter_feat.interaction.items()
        part = self.copy(Interaction({field: torch.from_numpy(values.numpy()[kept]) for field, values in columns}))
        part.times = None if self.times is None else self.times[kept]
        part.moment = None if self.moment is None else self.moment[kept]
        part.source_row = None if self.source_row is None else self.source_row[kept]
        if self.config["shuffled_history"]:
            part._shuffle_histories(local)
        part._set_view(local, view)
        return part

    def _shared(self, spans: protocol.Spans) -> tuple[np.ndarray, protocol.Spans]:
        """The events of spans, each once though a user may have several spans: (mask, the spans among them)."""
        border = np.zeros(len(self.inter_feat) + 1, dtype=np.int32)
        np.add.at(border, spans.start, 1)
        np.add.at(border, spans.end, -1)
        kept = np.cumsum(border[:-1], dtype=np.int32) > 0
        place = np.concatenate([[0], np.cumsum(kept)])
        local = protocol.Spans(spans.user, place[spans.start], place[spans.middle], place[spans.end])
        return kept, local

    @staticmethod
    def _apart(spans: protocol.Spans) -> tuple[np.ndarray, protocol.Spans]:
        """As :meth:`_shared`, by positions: each span has its own events, as targets of one are history of the next."""
        _, kept = _positions(spans.start, spans.end)
        length = spans.end - spans.start
        start = np.cumsum(length) - length
        middle = start + spans.middle - spans.start
        return kept, protocol.Spans(spans.user, start, middle, start + length)

    def _shuffle_histories(self, spans: protocol.Spans) -> None:
        """Bring every history into an order of chance; what is asked for stays what it is.

        An event keeps its time, as its other columns: the order is what is taken away, and a count by age
        (``recency_half_life``) goes by when an item was bought, not by the place it has been dealt. ``moment`` stays
        that of the place: which targets are tied is a fact of the data, the same for a row and its placebo.
        """
        tokens = (self.field2id_token[f][self.inter_feat[f].numpy()] for f in (self.uid_field, self.iid_field))
        piece = np.arange(len(self.inter_feat))  # a target stays where it is
        row, position = _positions(spans.start, spans.middle)
        piece[position] = spans.start[row]
        span = np.repeat(np.arange(len(spans)), spans.end - spans.start)  # what one row repeats another does not
        order = ties.shuffled(piece, *tokens, seed=self.config["ties_seed"] or 0, sequence=span)
        columns = self.inter_feat.interaction.items()
        self.inter_feat = Interaction({field: values[torch.from_numpy(order)] for field, values in columns})
        self.source_row = self.source_row[order]
        self.times = None if self.times is None else self.times[order]

    def _set_view(self, spans: protocol.Spans, view: str | None) -> None:
        self.spans = spans
        self.columns = self.inter_feat  # one number per interaction, whatever ``inter_feat`` becomes
        self.flat = self.columns[self.iid_field]
        if view is None:
            self.view = views.EvaluationView(self.flat, spans, self.max_item_list_len)
        else:
            visits = self.config["visits_per_epoch"] or 1
            min_history = self.config["min_history"] or 4
            length, stride = self.max_item_list_len, self.config["window_stride"]
            check_window_stride(stride, length)
            self.view = views.training_view(view, self.flat, spans, length, min_history, visits, stride)
        self.view_name = view or "evaluation"
        if view is None:
            # RecBole's case study and its samples of negatives look up a user's rows here, and ask for them by number
            self.inter_feat = self._targets_alone()

    def _targets_alone(self) -> Interaction:
        """One row per row of the view, as RecBole's ``inter_feat`` has: the user and the (first) target's columns."""
        target = torch.from_numpy(self.spans.middle)
        fields = {field: values[target] for field, values in self.columns.interaction.items()}
        return Interaction({**fields, self.uid_field: torch.from_numpy(self.spans.user)})

    # ------------------------------------------------------------------ rows
    def __len__(self) -> int:
        return len(self.inter_feat) if self.view is None else len(self.view)

    def __getitem__(self, index, join=True):
        if self.view is None:
            return super().__getitem__(index, join)
        return self.rows(index)

    def rows(self, index, rng: np.random.Generator | None = None, part: slice = slice(None)) -> Interaction:
        """Gather rows of the view.

        Args:
            index: row numbers, [b], a mask or a slice.
            rng: draws the cuts of ``random_cut``; without one, cuts are those of seed 0.
            part: which of the rows to gather; cuts are drawn for all, so that they do not depend on the part.

        Returns:
            Interaction with the user [b], the history ``item_id_list`` [b, l] (right-padded), its length [b], the item
            that follows [b], the lists of every further loaded field (for RecBole's models), and, under the
            ``sequence`` view, ``target_item_list`` [b, l], zero where what follows is another window's target.
        """
        if isinstance(index, slice):
            index = np.arange(len(self))[index]
        index = np.atleast_1d(np.asarray(index))
        if index.dtype == bool:
            index = np.flatnonzero(index)
        span, start, end = (array[part] for array in self.view.rows(index, rng or np.random.default_rng(0)))
        # RecBole's own models may need rows of full width (Caser's convolution); ours take the batch's longest
        width = None if self._trims_batches and not self.full_width else self.max_item_list_len
        target = np.minimum(end, len(self.flat) - 1)
        fields = {self.uid_field: torch.from_numpy(self.spans.user[span])}
        for field in self._listed_fields:
            values = self.columns[field]
            fields[field] = values[torch.from_numpy(target)]
            if self.view_name != "interactions":
                fields[getattr(self, f"{field}_list_field")] = views.gather_rows(values, start, end, width)
        fields[self.item_list_length_field] = torch.from_numpy(end - start)
        if self.view_name == "sequence":
            following = views.gather_rows(self.flat, start + 1, end + 1, width)
            context = torch.from_numpy(end - start - self.view.targets[index[part]])
            fields[TARGET_LIST] = following * (torch.arange(following.shape[1]) >= context[:, None])
        return self.join(Interaction(fields))

    def targets(self, index: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Evaluation targets of a batch as (row in the batch, item), both int64 [number of targets]."""
        return self._pairs(self.spans.middle[index], self.spans.end[index])

    def tied_targets(self, index: np.ndarray) -> np.ndarray:
        """Which of :meth:`targets` have the time of the history's last item, bool [number of targets]."""
        row, position = _positions(self.spans.middle[index], self.spans.end[index])
        return ties.tied_targets(self.moment, self.spans, index[row], position)

    def history(self, index: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Everything the users of a batch had before their targets, as (row in the batch, item)."""
        return self._pairs(self.spans.start[index], self.spans.middle[index])

    def _pairs(self, start: np.ndarray, end: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        row, position = _positions(start, end)
        return torch.from_numpy(row), self.flat[torch.from_numpy(position)]

    @cached_property
    def _trims_batches(self) -> bool:
        return contract_of(self.config.model_class).trims_batches

    @cached_property
    def _listed_fields(self) -> list[str]:
        if self._trims_batches:
            return [self.iid_field]
        hidden = {self.uid_field, self.config["ORDER_FIELD"]}
        return [f for f in self.columns.columns if f not in hidden and hasattr(self, f"{f}_list_field")]

    # ------------------------------------------------------------------ what others ask
    def sequences(self) -> tuple[np.ndarray, list[np.ndarray]]:
        """The users of this part and their items, oldest first: (int64 [R], R arrays of internal item ids)."""
        flat = self.flat.numpy()
        return self.spans.user, [flat[a:b] for a, b in zip(self.spans.start, self.spans.middle)]

    def source_sequences(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The sequences of :meth:`sequences` with each time's items in the source's order, and the histories that the
        training part would have with ``ties=source``: the same arrays where ties are the source's.

        The second may name items that are held out today; it is what replies were asked of elsewhere.
        """
        users, today = self.sequences()
        if self.source_row is None:
            return today, today
        rows = (self.source_row[a:b] for a, b in zip(self.spans.start, self.spans.middle))
        sorted_today = [items[np.argsort(row)] for items, row in zip(today, rows)]
        if self.source_spans is None:  # a part that a model is trained again on: nothing was asked about it
            return sorted_today, sorted_today
        place = {user: row for row, user in enumerate(self.source_spans.user)}
        spans = [(self.source_spans.start[place[u]], self.source_spans.middle[place[u]]) for u in users]
        return sorted_today, [self.source_flat[a:b] for a, b in spans]

    def of_new_users(self, index: np.ndarray, train: LazySequenceDataset) -> np.ndarray:
        """Which of :meth:`targets` are of users that ``train`` does not know, bool [number of targets]."""
        row, _ = _positions(self.spans.middle[index], self.spans.end[index])
        return ~np.isin(self.spans.user[index], train.spans.user)[row]

    def item_counts(self) -> np.ndarray:
        """How often each item occurs in this part, int64 [number of items]."""
        return np.bincount(self.flat.numpy(), minlength=self.item_num)

    def inter_matrix(self, form="coo", value_field=None):
        """This part's user-item counts (RecBole's version expects augmented rows)."""
        return Dataset.inter_matrix(self, form, value_field)


def _positions(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(row, position) of every position of the pieces ``start[r]:end[r]``, both int64."""
    length = end - start
    row = np.repeat(np.arange(len(start)), length)
    first = np.cumsum(length) - length
    return row, np.repeat(start - first, length) + np.arange(int(length.sum()))
