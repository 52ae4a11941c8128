"""RecBole's sequential data set, with its atomic files read, filtered and numbered faster."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from recbole.data.dataset import SequentialDataset
from recbole.utils import FeatureSource, FeatureType

from recbole_eimf.config.stock_needs import check_files
from recbole_eimf.core.errors import DataError
from recbole_eimf.core.files import first_line, undecodable
from recbole_eimf.data import atomic_check
from recbole_eimf.data.atomic_file import first_seen, read_plain
from recbole_eimf.data.prepare.interaction_log import PADDING


class AtomicDataset(SequentialDataset):
    """What RecBole does to atomic files (loading, filters, ids) gives what it gives there; only the way is another.

    A file that is not there is downloaded where RecBole knows it, or an error says every way to get it.
    """

    def _get_preset(self):
        super()._get_preset()
        self.field2token_id = _IdsOnDemand(self.field2id_token)

    def _load_data(self, token, dataset_path):
        folder = Path(dataset_path)
        if not (folder / f"{token}.inter").is_file():
            self._fetch_or_explain(token, folder)
        check_files(self.config, folder, token)
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

    def _load_feat(self, filepath, source):
        """RecBole's, but interactions of plain columns are read faster (:mod:`recbole_eimf.data.atomic_file`)."""
        separator, encoding = self.config["field_separator"], self.config["encoding"]
        header = first_line(filepath, encoding).split(separator)
        atomic_check.check_header(filepath, header)
        wanted, unwanted = self._get_load_and_unload_col(source)
        kinds = {}
        for column in header:
            field, _, kind = column.partition(":")
            if (wanted is None or field in wanted) and field not in (unwanted or ()):
                kinds[column] = kind
        if source != FeatureSource.INTERACTION:
            return self._read_by_recbole(filepath, source, kinds, separator, encoding)
        names = [column.partition(":")[0] for column in kinds]
        wanted = {"USER_ID_FIELD": self.uid_field, "ITEM_ID_FIELD": self.iid_field}
        atomic_check.check_named(filepath, header, names, wanted)
        frame = self._read_interactions(filepath, header, kinds, separator, encoding)
        order = self.config["ORDER_FIELD"]
        atomic_check.check_rows(filepath, frame, order if order in frame else self.time_field)
        return frame

    def _read_interactions(self, filepath, header, kinds, separator, encoding) -> pd.DataFrame:
        """The columns ``kinds`` (name and type -> type) of a file of interactions."""
        source = FeatureSource.INTERACTION
        plain = {column: kind == "token" for column, kind in kinds.items()}
        odd = len(plain) < 1 or not set(kinds.values()) <= {"token", "float"} or len(set(header)) < len(header)
        frame = None if odd else read_plain(filepath, plain, separator, encoding)
        if frame is None:
            return self._read_by_recbole(filepath, source, kinds, separator, encoding)
        frame.columns = [column.partition(":")[0] for column in frame]
        for field, is_token in zip(frame, plain.values(), strict=True):
            kind = FeatureType.TOKEN if is_token else FeatureType.FLOAT
            self.set_field_property(field, kind, source, 1)
            if not is_token:
                self.field2bucketnum[field] = 2
        return frame

    def _read_by_recbole(self, filepath, source, kinds, separator, encoding) -> pd.DataFrame:
        try:
            return super()._load_feat(filepath, source)
        except UnicodeDecodeError as error:
            raise undecodable(filepath, encoding) from error
        except ValueError as error:
            numbers = {column.partition(":")[0] for column, kind in kinds.items() if kind == "float"}
            raise atomic_check.not_read(filepath, error, separator, encoding, numbers) from error

    def _reset_index(self):
        if not len(self.inter_feat):
            raise DataError(
                f"{self.dataset_name}.inter: no interaction is left after the filters. Loosen user_inter_num_interval="
                f"{self.config['user_inter_num_interval']}, item_inter_num_interval="
                f"{self.config['item_inter_num_interval']} or val_interval={self.config['val_interval']}."
            )
        super()._reset_index()

    def _remap(self, remap_list):
        """RecBole's ids (by first appearance), found from the numbers of categories instead of text."""
        if not remap_list or any(kind != FeatureType.TOKEN for _, _, kind in remap_list):
            super()._remap(remap_list)
            return
        numbers, tokens = zip(*(_factorized(feat[field]) for feat, field, _ in remap_list))
        place, known = pd.factorize(np.concatenate(tokens))
        names = np.array([PADDING, *known])
        ends = np.cumsum([len(part) for part in tokens])
        for (feat, field, _), own, end, part in zip(remap_list, numbers, ends, tokens, strict=True):
            if field not in self.field2id_token:
                self.field2id_token[field] = names
            feat[field] = np.append(place[end - len(part) : end] + 1, 0)[own]  # the last: of no token

    def _remove_duplication(self):
        """RecBole's, but events of one time stay in their order: its sort by time may deal them anew."""
        sorted_by = [field for field in (self.time_field, self.config["ORDER_FIELD"]) if field in self.inter_feat]
        if self.config["rm_dup_inter"] is None or not sorted_by:
            super()._remove_duplication()
            return
        self._check_field("uid_field", "iid_field")
        self.inter_feat.sort_values(by=sorted_by, kind="stable", inplace=True)
        pair = [self.uid_field, self.iid_field]
        self.inter_feat.drop_duplicates(subset=pair, keep=self.config["rm_dup_inter"], inplace=True)

    def _filter_inter_by_user_or_item(self):
        if self.user_feat is not None or self.item_feat is not None:  # else RecBole drops nothing, row by row
            super()._filter_inter_by_user_or_item()

    def _filter_by_inter_num(self):
        """RecBole's, which counts with the numbers of categories instead of text."""
        columns = [self.inter_feat[field] for field in (self.uid_field, self.iid_field)]
        plain = all(isinstance(column.dtype, pd.CategoricalDtype) for column in columns)
        if not plain or self.user_feat is not None or self.item_feat is not None:
            super()._filter_by_inter_num()
            return
        wanted = [self.config["user_inter_num_interval"], self.config["item_inter_num_interval"]]
        rules = [
            (column.cat, self._parse_intervals_str(key)) for column, key in zip(columns, wanted) if key is not None
        ]
        kept = np.ones(len(self.inter_feat), dtype=bool)
        dropped = True
        while dropped:
            before = kept.copy()
            for column, intervals in rules:
                code = column.codes.to_numpy()
                count = np.bincount(code[before], minlength=len(column.categories))
                kept &= np.broadcast_to(self._within_intervals(count, intervals), count.shape)[code]
            dropped = (before != kept).any()
        if not kept.all():
            self.inter_feat = self.inter_feat[kept].copy()


class _IdsOnDemand(dict):
    """Field -> token -> id, made from RecBole's field -> id -> token when first asked for: few runs ever do."""

    def __init__(self, tokens: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        self.tokens = tokens

    def __missing__(self, field: str) -> dict[str, int]:
        self[field] = {token: number for number, token in enumerate(self.tokens[field].tolist())}
        return self[field]


def _factorized(column: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """(numbers [n], tokens by first appearance), -1 where there is none."""
    if not isinstance(column.dtype, pd.CategoricalDtype):
        return pd.factorize(column.to_numpy())
    numbers, order = first_seen(column.cat.codes.to_numpy())
    return numbers, column.cat.categories.to_numpy()[order]
