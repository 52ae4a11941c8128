"""What the ESIM stages are made from: training sequences and the text of items, as tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Corpus:
    """What ESIM may see: the *training* sequences, as tokens, and the text of items.

    users: [U] tokens; histories: per user, item tokens, oldest first, those of one time in the source's order whatever
    ``ties`` is; item_text: item token -> text; shorter_text: the same of fewer text columns, which side-loaded replies
    may have been asked with; asked_histories: the training histories of ``ties=source`` where today's are others: what
    side-loaded replies were asked of. They may name items that are held out today, and only their check reads them.
    """

    users: list[str]
    histories: list[list[str]]
    item_text: Mapping[str, str]
    shorter_text: tuple[Mapping[str, str], ...] = ()
    asked_histories: list[list[str]] | None = None
