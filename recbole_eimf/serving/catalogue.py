"""The items of a model as a reader knows them: tokens, titles, how often training saw them; and users' histories."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from recbole_eimf.core.errors import DataError, suggestion


@dataclass(frozen=True)
class Catalogue:
    """Items in the order of rows; row 0 is padding.

    tokens: [N] strings; titles: [N], None where an item has none; counts: int64 [N], training interactions.
    """

    tokens: pa.Array
    titles: pa.Array
    counts: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Token -> row, of real items."""
        return dict(zip(self.tokens[1:].to_pylist(), range(1, len(self.tokens))))

    @cached_property
    def has_titles(self) -> bool:
        return self.titles.null_count < len(self.titles)

    @cached_property
    def popularity(self) -> Tensor:
        """float32 [N]: what users without a history are ranked by."""
        return torch.from_numpy(self.counts.astype(np.float32))

    def rows(self, history: Iterable[str]) -> tuple[list[int], int]:
        """(rows of the known tokens in their order, how many are unknown).

        Raises:
            DataError: an item is a number: none would be known.
        """
        history = list(history)
        try:
            found = list(map(self.row_of.get, history))
        except TypeError as error:  # lists in a list
            raise DataError(f"{history!r:.80}: a history is a list of item tokens, which are text.") from error
        known = [row for row in found if row is not None]
        if len(known) < len(found):
            odd = next((item for item in history if not isinstance(item, str | None)), "")
            if odd != "":
                raise DataError(f"item {odd!r} is not text; items are named by their tokens, such as {str(odd)!r}.")
        return known, len(found) - len(known)

    def row(self, token: str) -> int:
        """The row of an item. Raises DataError with the closest token."""
        row = self.row_of.get(token)
        if row is None:
            # a search for what is close costs seconds over a large catalogue
            close = suggestion(str(token), self.row_of) if len(self) < 50_000 else ""
            raise DataError(f"item {token!r}: not in this model's catalogue of {len(self) - 1} items.{close}")
        return row

    def tokens_of(self, rows: Sequence[int]) -> list[str]:
        """The tokens of rows, of which there may be none."""
        return self.tokens.take(_indices(rows)).to_pylist()

    def names(self, rows: Sequence[int]) -> list[str]:
        """Titles, or tokens where an item has none."""
        pairs = zip(self.titles.take(_indices(rows)).to_pylist(), self.tokens_of(rows))
        return [title or token for title, token in pairs]

    def extended(self, tokens: Sequence[str], titles: Sequence[str]) -> Catalogue:
        """This catalogue with further items, which training never saw, at its end."""
        return Catalogue(
            pa.concat_arrays([self.tokens, pa.array(tokens, pa.string())]),
            pa.concat_arrays([self.titles, pa.array(titles, pa.string())]),
            np.concatenate([self.counts, np.zeros(len(tokens), dtype=np.int64)]),
        )


def _indices(rows: Sequence[int]) -> pa.Array:
    """Rows as Arrow takes them: of an empty list it does not know that it holds numbers."""
    return pa.array(rows, pa.int64())


@dataclass(frozen=True)
class Users:
    """Users that the run knew, in the order of RecBole's ids (row 0 is padding), with their histories.

    tokens: [U] strings; histories: [U] lists of rows of the catalogue, oldest first.
    """

    tokens: pa.Array
    histories: pa.ListArray

    @cached_property
    def row_of(self) -> dict[str, int]:
        return dict(zip(self.tokens[1:].to_pylist(), range(1, len(self.tokens))))

    def history(self, token: str) -> list[int]:
        """Rows of what a user had, oldest first. Raises DataError with the closest token."""
        row = self.row_of.get(token)
        if row is None:
            close = suggestion(str(token), self.row_of) if len(self.tokens) < 50_000 else ""
            raise DataError(f"user {token!r}: not among the {len(self.tokens) - 1} users of this model.{close}")
        return self.histories[row].as_py()


def place_in_ties(users: Users | None, token: str | None) -> int:
    """Whose order of equal scores a user has: the one evaluation gave them, where the run knew them."""
    if token is None:
        return 0
    known = None if users is None else users.row_of.get(token)
    return zlib.crc32(str(token).encode()) if known is None else known
