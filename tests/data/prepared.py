"""What the tests of ``prepare`` share: raw files in, atomic files out."""

import gzip

from recbole_eimf.data.prepare.write import (
    prepare_csv,
)

HEADER = "user_id,item_id,timestamp\n"


def write(path, text, encoding="utf-8"):
    """Write raw text as it is, gzipped if the name says so."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wb") as stream:
        stream.write(text.encode(encoding))
    return path


def read(path):
    """Read an atomic file the way our own reader does: (column names, rows), split on tabs alone."""
    header, *rows = path.read_bytes().decode("utf-8").rstrip("\n").split("\n")
    rows = [tuple(row.split("\t")) for row in rows]
    assert {len(row) for row in rows} == {header.count("\t") + 1}
    return header.split("\t"), rows


def inter(out, name="d"):
    return read(out / name / f"{name}.inter")[1]


def item(out, name="d"):
    return {row[0]: row[1:] for row in read(out / name / f"{name}.item")[1]}


def pairs(out):
    """{user: items in order}, checking that order counts 1..n for each user."""
    found = {}
    for row in inter(out):
        items = found.setdefault(row[0], [])
        items.append(row[1])
        assert row[-1] == str(len(items))
    return found


def run_csv(tmp_path, text, items=None, **options):
    """prepare_csv on texts."""
    path = write(tmp_path / "in.csv", text)
    if items is not None:
        options["items"] = write(tmp_path / "items.csv", items)
    return prepare_csv(path, tmp_path / "out", "d", **options)
