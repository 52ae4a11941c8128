"""``python -m recbole_eimf recommend``: one user readably, a file of users streamed."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from recbole_eimf.cli.parser import Parser
from recbole_eimf.cli.usage import usage_shown
from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.serving.batch import Job, check_out, recommend_file, unknown_candidates
from recbole_eimf.serving.explain import means_more, who_says
from recbole_eimf.serving.histories import Histories, split_history
from recbole_eimf.serving.recommender import Recommender

USAGE = """usage: python -m recbole_eimf recommend (--model MODEL | --run OUT)
         (--user TOKEN | --history A,B,C | --histories FILE.csv|.parquet) [--k 10] [--explain] [--out FILE]

For one user the items are shown, and written too with --out (.parquet, .csv or .json). With --histories every user of
the file is answered, in bounded memory, into --out FILE.parquet; if it is stopped, the same command goes on from there.

  --model            a model folder that export made;  --run: the output_dir of a run, exported on the way
  --user             a user that the run knew, with their whole history
  --history          item tokens, oldest first; --separator says what stands between them (default a comma)
  --histories        a file with the columns user and history (tokens joined by the separator, or lists in parquet)
  --exclude-seen, --include-seen   whether to leave out what is in the history; default as the run was evaluated
  --only FILE        recommend only these items: a file with an item token per line;  --without FILE: never these.
                     Tokens that the model does not know are counted
  --explain          why: the interest that won, the nearest items of the history, an LLM's sentence where there is one
  --ray              spread a file over Ray Data on this machine;  --ray_address HOST:PORT: over a cluster, whose nodes
                     must see the model, the file and --out;  --workers N: copies of the model
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code.

    Raises:
        UserError: wrong arguments, no such model, user, file or item.
    """
    if (code := usage_shown(arguments, USAGE)) is not None:
        return code
    given = _parse(arguments)
    if given.histories:  # before a run is loaded and exported
        Histories.open(given.histories, given.separator)
    typed = given.only
    given.only, given.without = _tokens("only", given.only), _tokens("without", given.without)
    try:
        if given.histories:
            return _recommend_to_file(given)
        with _model(given) as folder:
            return _recommend_to_one(given, folder)
    except DataError as error:
        if not str(error).startswith("only: "):
            raise
        raise DataError(f"--only={typed}: {str(error).removeprefix('only: ')}") from error


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser("recommend")
    for names in (("model",), ("run",), ("user",), ("history",), ("histories",), ("out",), ("only",), ("without",),
                  ("ray_address", "ray-address")):  # fmt: skip
        parser.add_argument(*(f"--{name}" for name in names))
    parser.add_argument("--separator", default=",")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--workers", type=int)
    seen = parser.add_mutually_exclusive_group()
    seen.add_argument("--exclude-seen", "--exclude_seen", action="store_const", const=True, dest="exclude_seen")
    seen.add_argument("--include-seen", "--include_seen", action="store_const", const=False, dest="exclude_seen")
    for flag in ("explain", "ray"):
        parser.add_argument(f"--{flag}", action="store_true")
    given = parser.given(arguments, may_be_empty=("history", "separator"))
    if (given.model is None) == (given.run is None):
        raise ConfigError("give one of --model MODEL (of export) and --run OUT (of a run).")
    if sum(value is not None for value in (given.user, given.history, given.histories)) != 1:
        raise ConfigError("give one of --user TOKEN, --history A,B,C and --histories FILE.")
    if given.k < 0:
        raise ConfigError(f"--k={given.k}: a whole number from 0 on is needed.")
    if not given.separator:
        raise ConfigError("--separator='': something must stand between item tokens.")
    if given.workers is not None and given.workers < 1:
        raise ConfigError(f"--workers={given.workers}: at least 1.")
    if given.histories and not given.out:
        raise ConfigError("--out is missing: the .parquet file that the recommendations are written to.")
    if given.out:  # before a run is exported and a model loaded
        check_out(given.out, ("parquet",) if given.histories else ("parquet", "csv", "json"), given.histories)
    spread = "--ray" if given.ray else "--ray_address" if given.ray_address else "--workers" if given.workers else None
    if spread and not given.histories:
        raise ConfigError(f"{spread}: spreads a file over workers; give --histories FILE.")
    return given


@contextlib.contextmanager
def _model(given: argparse.Namespace) -> Iterator[str]:
    """The model folder to ask for one user; that of ``--run`` is made for a moment."""
    if given.model is not None:
        yield given.model
        return
    from recbole_eimf.serving.export import export

    with tempfile.TemporaryDirectory() as name:
        yield str(export(given.run, Path(name) / "model"))


def _tokens(option: str, path: str | None) -> tuple[str, ...] | None:
    if path is None:
        return None
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")  # what Excel saves begins with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"--{option}={path}: cannot be read ({error}). A file with an item token per line is needed."
        ) from error
    tokens = tuple(line.strip() for line in lines if line.strip())
    if not tokens and option == "only":  # nothing to leave out is a list too
        raise DataError(f"--{option}={path}: no item token in it. A file with an item token per line is needed.")
    return tokens


def _recommend_to_file(given: argparse.Namespace) -> int:
    job = Job(
        model=given.model or f"{given.out}.parts/model",  # beside the pieces, for as long as they are made
        run=given.run,
        histories=given.histories,
        out=given.out,
        k=given.k,
        exclude_seen=given.exclude_seen,
        only=given.only,
        without=given.without,
        explain=given.explain,
        separator=given.separator,
    )
    with _workers(given) as spread:
        found = recommend_file(job, spread, say=print)
    print(
        f"{found.users:,} users, {found.recommendations:,} recommendations. Answered by popularity, for "
        f"want of a known item: {found.empty_histories:,} users. Items of histories that the model does not know: "
        f"{found.unknown_items:,}."
    )
    print(f"written: {given.out}")
    return 0


def _workers(given: argparse.Namespace) -> contextlib.AbstractContextManager:
    if not (given.ray or given.ray_address or given.workers):
        return contextlib.nullcontext()
    from recbole_eimf.serving.on_ray import over_ray

    return over_ray(given.workers, given.ray_address)


def _recommend_to_one(given: argparse.Namespace, folder: str) -> int:
    model = Recommender.load(folder)
    if given.user is not None:
        if model.users is None:
            raise DataError(f"--user={given.user}: this model was exported without histories; give --history.")
        rows = model.users.history(given.user)
        history = model.catalogue.tokens_of(rows)
    else:
        history = split_history(given.history, given.separator)
    for line in unknown_candidates(given.only, given.without, model.catalogue.row_of):
        print(line)
    frame = model.recommend(
        [history],
        given.k,
        users=None if given.user is None else [given.user],
        exclude_seen=given.exclude_seen,
        only=given.only,
        without=given.without,
        explain=given.explain,
    )
    print(_answer_text(model, history, frame))
    if given.out:
        _write(frame, Path(given.out))
        print(f"written: {given.out}")
    return 0


def _answer_text(model: Recommender, history: Sequence[str], frame: pd.DataFrame) -> str:
    lines = [f"{model}"]
    shown = list(history)[-5:]
    titles = [_line_of(model, token) for token in shown]
    more = len(history) - len(shown)
    lines.append(f"history, {len(history)} items" + (f" (the latest {len(shown)})" if more > 0 else "") + ":")
    lines += [f"    {title}" for title in titles]
    if frame.attrs["unknown_items"]:
        lines.append(f"  {frame.attrs['unknown_items']} of them the model does not know; they are ignored")
    if frame.attrs["empty_histories"]:
        lines.append("  no item of it is known: these are the most popular items")
    width = max((len(str(item)) for item in frame["item"]), default=0)
    for row in frame.to_dict("records"):
        title = f"  {_cut(row['title'], 90)}" if row.get("title") else ""
        again = "  (in the history)" if str(row["item"]) in history else ""
        lines.append(f"{row['rank']:>4}  {str(row['item']):<{width}}  {row['score']:8.3f}{title}{again}")
        lines += [f"          {reason}" for reason in _reasons(row, model)]
    if not len(frame):
        lines.append("  nothing to recommend: no candidate is left, or k is 0")
    if frame.attrs.get("honesty"):
        lines.append(frame.attrs["honesty"])
    return "\n".join(lines)


def _reasons(row: dict, model: Recommender) -> Iterator[str]:
    if row.get("because"):
        yield f"because of {'; '.join(_cut(name, 60) for name in row['because'])}"
    if row.get("added"):
        yield row["added"]
    if row.get("sentence"):
        found = model.config["text"]["explain"]
        doubt = " (no better than a placebo's)" if means_more(found) is False else ""
        yield f"{who_says(found)} of users like this one{doubt}: {row['sentence']}"


def _cut(title: str, longest: int) -> str:
    """A title for a line of the screen; shops' titles run to 500 characters."""
    return title if len(title) <= longest else f"{title[: longest - 1].rstrip()}…"


def _line_of(model: Recommender, token: str) -> str:
    row = model.catalogue.row_of.get(token)
    title = None if row is None else model.catalogue.titles[row].as_py()
    return f"{token}  {_cut(title, 90)}" if title else f"{token}" + ("  (unknown)" if row is None else "")


def _write(frame: pd.DataFrame, path: Path) -> None:
    from recbole_eimf.core.files import atomic_path

    writers = {".parquet": "to_parquet", ".csv": "to_csv", ".json": "to_json"}
    options = {".json": {"orient": "records", "force_ascii": False}}.get(path.suffix, {"index": False})
    frame = frame.copy()
    frame.attrs = {}
    with atomic_path(path) as temporary:
        getattr(frame, writers[path.suffix])(temporary, **options)
