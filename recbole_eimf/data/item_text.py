"""Item text, as it stands in the ``.item`` atomic file and is read from it: RecBole would split titles into remapped
words."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from logging import getLogger
from pathlib import Path

from recbole_eimf.core.errors import DataError, suggestion
from recbole_eimf.core.files import first_line, undecodable
from recbole_eimf.data.prepare.interaction_log import MISSING

# RecBole reads with Python's csv module, which refuses fields above 131,072 characters.
MAX_TEXT = 100_000
_BAD_CHARACTERS = re.compile("[\x00-\x1f\x7f\ud800-\udfff\\s]+")


def clean_text(text: str) -> str:
    """Return a text as it can stand in an atomic file: on one line, without HTML entities or a quote at its start.

    White space and control characters become one space. In a text that begins with a double quote every double
    quote becomes two single ones; elsewhere they are harmless and stay. What RecBole reads as missing becomes "", and
    what shows nothing (zero-width characters alone).

    >>> clean_text('7" tablet &amp; pen'), clean_text('"The Best" of'), clean_text("a\\tb\\n c"), clean_text("N/A")
    ('7" tablet & pen', "''The Best'' of", 'a b c', '')
    >>> clean_text("&#8203;\u2060 \ufeff"), clean_text("a\u200bb") == "a\u200bb"
    ('', True)
    """
    text = _BAD_CHARACTERS.sub(" ", html.unescape(text)).strip()
    if text.startswith('"'):
        text = text.replace('"', "''")
    shown = any(sign.isprintable() and sign != " " for sign in text)
    return "" if text in MISSING or not shown else text[:MAX_TEXT].rstrip()


def check_item_text(
    path: str | Path, item_field: str, fields: Sequence[str], separator: str = "\t", encoding: str | None = None
) -> None:
    """Check that the file of items is there and has the columns of their text, by its first line alone.

    Raises:
        DataError: as :func:`read_item_text`, whose arguments these are.
    """
    if not Path(path).is_file():
        raise DataError(
            f"{path}: no such file, and the text of items is read from it (columns {', '.join(fields)}). "
            f"`python -m recbole_eimf prepare` writes one where the raw data has text."
        )
    _columns(Path(path), _header(first_line(path, encoding), separator), item_field, fields)


def _header(line: str, separator: str) -> list[str]:
    return [column.partition(":")[0] for column in line.rstrip("\r\n").split(separator)]


def read_item_text(
    path: str | Path, item_field: str, fields: Sequence[str], separator: str = "\t", encoding: str | None = None
) -> dict[str, str]:
    """Read the text of every item.

    Args:
        path: an ``.item`` file; its header is ``name:type`` columns.
        item_field: the column of item tokens (ITEM_ID_FIELD).
        fields: text columns, joined by ``". "`` in this order; empty ones are left out.
        separator: RecBole's ``field_separator``; encoding: its key of that name, UTF-8 where it is None.

    Returns:
        item token -> text; items whose columns are all empty are absent.

    Raises:
        DataError: no file, no such column (with the closest one), a line with another number of columns, an item twice
            with different text, or bytes that are not in that encoding; the message names file and line.
    """
    path = Path(path)
    check_item_text(path, item_field, fields, separator, encoding)
    texts: dict[str, str] = {}
    try:
        with open(path, encoding=encoding or "utf-8", newline="\n") as stream:
            header = _header(stream.readline(), separator)
            token_at, text_at = _columns(path, header, item_field, fields)
            for number, line in enumerate(stream, start=2):
                values = line.rstrip("\r\n").split(separator)
                if len(values) != len(header):
                    if not line.strip():
                        continue
                    raise DataError(
                        f"{path}, line {number}: {len(values)} columns where the header has {len(header)}. "
                        f"Mend the line, or set field_separator if it is not {separator!r}."
                    )
                text = ". ".join(part for part in (values[i].strip() for i in text_at) if part)
                token = values[token_at]
                if token in texts and texts[token] != text:
                    raise DataError(
                        f"{path}, line {number}: item {token!r} appears twice, with different texts. Keep one line."
                    )
                if text:
                    texts[token] = text
    except UnicodeDecodeError as error:
        raise undecodable(path, encoding) from error
    getLogger().info(f"item text: {len(texts)} items of {path.name}, columns {', '.join(fields)}")
    return texts


def _columns(path: Path, header: list[str], item_field: str, fields: Sequence[str]) -> tuple[int, list[int]]:
    if not any(header):
        raise DataError(f"{path}: the file is empty, or its first line is. Was it copied whole?")
    for name in (item_field, *fields):
        if name not in header:
            raise DataError(
                f"{path}, line 1: no column {name!r}.{suggestion(name, header)} Columns: {', '.join(header)}. "
                f"Choose text columns with text_fields."
            )
    return header.index(item_field), [header.index(name) for name in fields]


def text_of(title: str, profile: str, source: str) -> str:
    """The text of one item by ``item_text_source``, of its title and what an LLM says of it.

    >>> text_of("Swingline 747", "stapler. for offices", "title+profile"), text_of("Pen", "", "profile")
    ('Swingline 747. stapler. for offices', 'Pen')
    """
    if not profile or source == "title":
        return title
    return profile if source == "profile" else f"{title}. {profile}"
