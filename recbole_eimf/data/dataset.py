"""RecBole's sequential data set without its augmentation: flat arrays, split by protocol, rows on demand."""

from __future__ import annotations

import os
import socket
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from recbole.data.dataset import Dataset, SequentialDataset
from recbole.data.interaction import Interaction

from recbole_eimf.data import protocol, views
from recbole_eimf.data.split_file import read_split, write_split
from recbole_eimf.errors import ConfigError, DataError

#: Interaction field: the item that follows each position of ``item_id_list``, zero where padded. [b, l]
TARGET_LIST = "target_item_list"


class LazySequenceDataset(SequentialDataset):
    """RecBole's data set, kept as one flat array per field and offsets by user.

    Everything RecBole does to atomic files (loading, filters, ids) stays RecBole's. What changes:

    * rows are sorted by (user, ``ORDER_FIELD``), or by (user, ``TIME_FIELD``) with ties in file order where there is no
      such column. RecBole sorts by a float32 time, which loses the order of close events;
    * no row per prefix is stored (RecBole's issues 704 and 1865): ``__getitem__`` gathers rows through a view;
    * :meth:`build` splits by ``protocol`` (see :mod:`recbole_eimf.data.protocol`).

    A part returned by :meth:`build` holds only its own interactions: the training part cannot see a held-out item.
    """

    def __init__(self, config) -> None:
        if config["benchmark_filename"] is not None:
            raise ConfigError(
                f"benchmark_filename={config['benchmark_filename']}: pre-split files are not supported by "
                f"{config['model']}; choose a split with protocol={'|'.join(protocol.PROTOCOLS)}."
            )
        self.view: views.View | None = None
        self.spans: protocol.Spans | None = None
        self.side = None
        super().__init__(config)

    # ------------------------------------------------------------------ loading
    def _load_data(self, token, dataset_path):
        folder = Path(dataset_path)
        if not (folder / f"{token}.inter").is_file():
            self._fetch_or_explain(token, folder)
        super()._load_data(token, dataset_path)

    def _fetch_or_explain(self, token: str, folder: Path) -> None:
        """Let RecBole download the data set, or raise DataError that says every way to get it."""
        ways = (
            f"{folder / (token + '.inter')}: no such file. Two ways to get the data set '{token}':\n"
            f"  1. write it from raw files: python -m recbole_eimf prepare --help; then --data_path={folder.parent}\n"
            f"  2. a data set of RecBole's list is downloaded when the network allows"
        )
        url = self._get_download_url("url", allow_none=True)
        if folder.exists() or url is None:
            known = "" if url is None else f" ({token} is on the list; remove the folder {folder} first)"
            raise DataError(f"{ways}{known or f' ({token} is not on the list)'}.")
        timeout = socket.getdefaulttimeout()
        try:
            socket.setdefaulttimeout(20)  # without one, a closed network keeps the user waiting for minutes
            self._download()
        except (OSError, RuntimeError, SystemExit) as error:
            if folder.is_dir() and not any(folder.iterdir()):
                os.rmdir(folder)  # an empty folder would stop the next try
            raise DataError(f"{ways}.\nThe download from {url} failed: {error}.") from error
        finally:
            socket.setdefaulttimeout(timeout)

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
        if not np.isfinite(key.astype(np.float64)).all():
            row = int(np.flatnonzero(~np.isfinite(key.astype(np.float64)))[0])
            raise DataError(
                f"{self.dataset_name}.inter: column {by!r} is not a number in row {row + 1}. Mend the file."
            )
        position = np.lexsort((np.arange(len(frame)), key, frame[self.uid_field].to_numpy()))
        self.inter_feat = frame.iloc[position].reset_index(drop=True)
        Dataset._change_feat_format(self)
        self._aug_presets()
        users = self.inter_feat[self.uid_field].numpy()
        self.offsets = np.searchsorted(users, np.arange(self.user_num + 1)).astype(np.int64)
        whole = protocol.Spans(np.arange(self.user_num), self.offsets[:-1], self.offsets[1:], self.offsets[1:])
        self._set_view(whole, "prefix")

    # ------------------------------------------------------------------ split
    def build(self):
        """Split by ``protocol`` and return the training, validation and test parts.

        Raises:
            ConfigError: ``protocol`` or ``training_view`` is not one of those that exist, or a key of the user split is
                set without it.
            DataError: nobody has a test target, or ``split_file`` does not fit the data.
        """
        self._change_feat_format()
        config = self.config
        name = config["protocol"] or "leave_one_out"
        for key in ("split_file", "save_split") if name == "leave_one_out" else ():
            if config[key]:
                raise ConfigError(f"{key}={config[key]}: users are split under protocol=user_split only.")
        tokens = self.field2id_token[self.uid_field]
        if name == "leave_one_out":
            split = protocol.leave_one_out(self.offsets)
        elif name == "user_split" and config["split_file"]:
            split = read_split(config["split_file"], tokens, self.offsets)
        elif name == "user_split":
            split = protocol.user_split(self.offsets, config["split_seed"] or 0, tuple(config["split_ratios"]))
        else:
            raise ConfigError(f"protocol={name!r}: allowed are {', '.join(protocol.PROTOCOLS)}.")
        if len(split.test) == 0:
            raise DataError(
                f"{self.dataset_name}: no user has enough interactions for a test target under protocol={name}. "
                f"Use more data or looser filters (user_inter_num_interval, item_inter_num_interval)."
            )
        if config["save_split"]:
            write_split(config["save_split"], split, tokens)
        train = self._part(split.train, self._training_view_name())
        valid = self._part(split.valid, None)
        test = self._part(split.test, None)
        self._attach_side_information(train)
        return [train, valid, test]

    def _training_view_name(self) -> str:
        model_class = getattr(self.config, "model_class", None)
        chosen = self.config["training_view"]
        if chosen is None and hasattr(model_class, "choose_training_view"):
            chosen = model_class.choose_training_view(self.config)
        chosen = chosen or "prefix"
        if chosen not in views.TRAINING_VIEWS:
            raise ConfigError(f"training_view={chosen!r}: allowed are {', '.join(views.TRAINING_VIEWS)}.")
        return chosen

    def _attach_side_information(self, train: LazySequenceDataset) -> None:
        model_class = getattr(self.config, "model_class", None)
        if self.config["inference_only"] or not hasattr(model_class, "needs_side_information"):
            return
        need = model_class.needs_side_information(self.config)
        if need:
            from recbole_eimf.semantic.side_load import load_side_information  # text libraries only where needed

            train.side = load_side_information(self.config, train, interests=need == "interests")

    def _part(self, spans: protocol.Spans, view: str | None) -> LazySequenceDataset:
        """A copy that holds only the rows of ``spans``, renumbered from zero."""
        length = spans.end - spans.start
        first = np.cumsum(length) - length
        keep = np.repeat(spans.start - first, length) + np.arange(int(length.sum()))
        part = self.copy(self.inter_feat[torch.from_numpy(keep)])
        local = protocol.Spans(spans.user, first, first + (spans.middle - spans.start), first + length)
        part._set_view(local, view)
        return part

    def _set_view(self, spans: protocol.Spans, view: str | None) -> None:
        self.spans = spans
        self.flat = self.inter_feat[self.iid_field]
        self.__dict__.pop("_target_rows", None)
        if view is None:
            self.view = views.EvaluationView(self.flat, spans, self.max_item_list_len)
        else:
            visits = self.config["visits_per_epoch"] or 1
            min_history = self.config["min_history"] or 4
            self.view = views.training_view(view, self.flat, spans, self.max_item_list_len, min_history, visits)
        self.view_name = view or "evaluation"

    # ------------------------------------------------------------------ rows
    def __len__(self) -> int:
        return len(self.inter_feat) if self.view is None else len(self.view)

    def __getitem__(self, index, join=True):
        if self.view is None:
            return super().__getitem__(index, join)
        return self.rows(index)

    def rows(self, index, rng: np.random.Generator | None = None) -> Interaction:
        """Gather rows of the view.

        Args:
            index: row numbers, [b].
            rng: draws the cuts of ``random_cut``; without one, cuts are those of seed 0.

        Returns:
            Interaction with the user [b], the history ``item_id_list`` [b, l] (right-padded), its length [b], the item
            that follows [b], the lists of every further loaded field (for RecBole's models), and, under the
            ``sequence`` view, ``target_item_list`` [b, l].
        """
        index = np.atleast_1d(np.asarray(index))
        if index.dtype == bool:
            index = np.flatnonzero(index)
        span, start, end = self.view.rows(index, rng or np.random.default_rng(0))
        # RecBole's own models may need rows of full width (Caser's convolution); ours take the batch's longest
        width = None if self._trims_batches else self.max_item_list_len
        target = np.minimum(end, len(self.flat) - 1)
        fields = {self.uid_field: torch.from_numpy(self.spans.user[span])}
        for field in self._listed_fields:
            values = self.inter_feat[field]
            fields[field] = values[torch.from_numpy(target)]
            if self.view_name != "interactions":
                fields[getattr(self, f"{field}_list_field")] = views.gather_rows(values, start, end, width)
        fields[self.item_list_length_field] = torch.from_numpy(end - start)
        if self.view_name == "sequence":
            fields[TARGET_LIST] = views.gather_rows(self.flat, start + 1, end + 1, width)
        return self.join(Interaction(fields))

    def targets(self, index: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Evaluation targets of a batch as (row in the batch, item), both int64 [number of targets]."""
        return self._pairs(self.spans.middle[index], self.spans.end[index])

    def history(self, index: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Everything the users of a batch had before their targets, as (row in the batch, item)."""
        return self._pairs(self.spans.start[index], self.spans.middle[index])

    def _pairs(self, start: np.ndarray, end: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        length = end - start
        row = np.repeat(np.arange(len(start)), length)
        first = np.cumsum(length) - length
        position = np.repeat(start - first, length) + np.arange(int(length.sum()))
        return torch.from_numpy(row), self.flat[torch.from_numpy(position)]

    @cached_property
    def _trims_batches(self) -> bool:
        return bool(getattr(getattr(self.config, "model_class", None), "trims_batches", False))

    @cached_property
    def _listed_fields(self) -> list[str]:
        if self._trims_batches:
            return [self.iid_field]
        hidden = {self.uid_field, self.config["ORDER_FIELD"]}
        return [f for f in self.inter_feat.columns if f not in hidden and hasattr(self, f"{f}_list_field")]

    # ------------------------------------------------------------------ what others ask
    def sequences(self) -> tuple[np.ndarray, list[np.ndarray]]:
        """The users of this part and their items, oldest first: (int64 [R], R arrays of internal item ids)."""
        flat = self.flat.numpy()
        return self.spans.user, [flat[a:b] for a, b in zip(self.spans.start, self.spans.middle)]

    def item_counts(self) -> np.ndarray:
        """How often each item occurs in this part, int64 [number of items]."""
        return np.bincount(self.flat.numpy(), minlength=self.item_num)

    def inter_matrix(self, form="coo", value_field=None):
        """This part's user-item counts (RecBole's version expects augmented rows)."""
        return Dataset.inter_matrix(self, form, value_field)
