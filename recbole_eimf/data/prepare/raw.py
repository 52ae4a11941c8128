"""``prepare`` as one call: the raw data that are known by name, made atomic files."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from os import PathLike
from typing import Any, Literal

from recbole_eimf.core.errors import DataError, suggestion
from recbole_eimf.data.prepare.raw_files import Report
from recbole_eimf.data.prepare.write import prepare_amazon, prepare_csv, prepare_mind, prepare_movielens

Kind = Literal["csv", "amazon-2014", "amazon-2018", "amazon-2023", "movielens", "mind-news"]
_MAKERS: dict[str, Callable[..., Report]] = {
    "csv": prepare_csv,
    **{f"amazon-{release}": partial(prepare_amazon, release) for release in ("2014", "2018", "2023")},
    "movielens": prepare_movielens,
    "mind-news": prepare_mind,
}


def prepare(kind: Kind, files: Any, out: str | PathLike, name: str, **options: Any) -> Report:
    """Write RecBole's atomic files ``out/name/name.inter`` and ``name.item`` from raw data.

    Args:
        kind: what the files are.
        files: of the interactions: CSV files, reviews, ratings or behaviors; one path or several.
        out: ``data_path`` of the runs to come.
        name: the data set's name.
        options: what :func:`~recbole_eimf.data.prepare.write.prepare_csv`, ``prepare_amazon``, ``prepare_movielens`` or
            ``prepare_mind`` take: ``items=``, ``meta=``, ``movies=``, ``news=``, ``filters=``, ``on_broken_line=``, ...

    Returns:
        What was read, kept and dropped; ``.table()`` is what the command prints.

    Raises:
        DataError: naming file, line, column and value.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import recbole_eimf
        >>> folder = Path(tempfile.mkdtemp())
        >>> lines = ["user_id,item_id,timestamp", "ann,tea,1", "ann,milk,2", "bob,tea,1"]
        >>> _ = (folder / "log.csv").write_text("\\n".join(lines))
        >>> report = recbole_eimf.prepare("csv", folder / "log.csv", folder, "shop")
        >>> report.counts["kept: interactions"], sorted(path.name for path in (folder / "shop").iterdir())
        (3, ['prepare.json', 'shop.inter'])
    """
    if kind not in _MAKERS:
        raise DataError(f"{kind}: no such kind of raw data.{suggestion(kind, _MAKERS)} Known: {', '.join(_MAKERS)}.")
    return _MAKERS[kind](files, out, name, **options)
