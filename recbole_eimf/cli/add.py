"""``python -m recbole_eimf add``: new items into a model folder, by their text."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from recbole_eimf.cli.parser import Parser
from recbole_eimf.cli.usage import usage_shown
from recbole_eimf.core.errors import DataError, counted
from recbole_eimf.core.files import read_csv, unpacked
from recbole_eimf.data.item_text import clean_text

USAGE = """usage: python -m recbole_eimf add --model MODEL --items FILE --out MODEL2

Writes a model folder with new items in it, each placed by its text among the items that were trained; nothing is
trained, and all that was there stays as it is. The model must have a map from text (export --text).

  --model  the model folder, as export made it
  --items  CSV, UTF-8, with the header item_id,title or item_id,title,profile: a profile is an LLM's words on the item,
           for a model that was trained with item_text_source=title+profile. Items that are known stay as they are.
  --out    the folder to write; it may be MODEL, which is replaced once the new one is whole
"""

_SHOWN = 5  # items of which the nearest are told


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code.

    Raises:
        UserError: wrong arguments, no such model or file, or a model or an item without text to place it by.
    """
    if (code := usage_shown(arguments, USAGE)) is not None:
        return code
    parser = Parser("add")
    for name in ("model", "items", "out"):
        parser.add_argument(f"--{name}", required=True)
    given = parser.given(arguments)
    titles, profiles = read_items(given.items)

    from recbole_eimf.serving import model_folder
    from recbole_eimf.serving.recommender import Recommender

    model_folder.check_place(given.out)
    model = Recommender.load(given.model)
    added = model.add_items(titles, profiles)
    if not added and Path(given.out).resolve() == Path(given.model).resolve():
        print(f"all {len(titles):,} items are known already; nothing is written.")
        return 0
    model.save(given.out)
    for token in added[:_SHOWN]:
        near = model.similar_items([token], k=2)
        names = [title or item for item, title in zip(near["similar"], near["title"])]
        print(f"  {token} ({clean_text(titles[token])[:60]}) is nearest to: {'; '.join(name[:60] for name in names)}")
    if spaced := [token for token in added if token != token.strip()]:
        print(
            f"  WARNING: {counted(len(spaced), 'id')} added with white space around, which is kept as part of it (the "
            f"first: {spaced[0]!r}). It is not the item of that name without, and `recommend --history` drops what "
            f"stands around an id. Where it is a slip, take it away and add the items to the model as it was."
        )
    known = f", {len(titles) - len(added):,} known already" if len(added) < len(titles) else ""
    print(f"written: {given.out}, {model}: {len(added):,} items added{known}")
    return 0


def read_items(path: str) -> tuple[dict[str, str], dict[str, str]]:
    """(titles, profiles) by token, of a CSV file.

    Raises:
        DataError: as :func:`~recbole_eimf.core.files.read_csv`; an empty token or title, or an item twice.
    """
    first = (unpacked(path).splitlines() or [b""])[0].decode("utf-8-sig", "replace")  # of an old Mac's too
    names = next(csv.reader([first.strip()]), [])
    header = ["item_id", "title", *(["profile"] if names[2:] == ["profile"] else [])]
    titles: dict[str, str] = {}
    profiles: dict[str, str] = {}
    for line, (token, title, *profile) in read_csv(path, header):
        for name, value in (("item_id", token), ("title", title)):
            if not value.strip():
                raise DataError(f"{path}, line {line}: {name} is empty. Fill it in, or remove the line.")
        if token in titles:
            raise DataError(f"{path}, line {line}: item_id {token} is there twice. Remove one of the lines.")
        titles[token] = title
        if profile and profile[0].strip():
            profiles[token] = profile[0]
    return titles, profiles
