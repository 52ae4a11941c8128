"""``python -m recbole_eimf prepare <source> ...``: raw data -> RecBole's atomic files."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from recbole_eimf.cli.parser import Parser
from recbole_eimf.cli.usage import usage_shown
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.data.prepare.amazon import amazon_source
from recbole_eimf.data.prepare.interaction_log import DUPLICATES, Filters
from recbole_eimf.data.prepare.raw_files import Report
from recbole_eimf.data.prepare.sources import CsvColumns, RawSource, csv_source, mind_source, movielens_source
from recbole_eimf.data.prepare.write import prepare

_WHAT = (
    "Turns raw data into RecBole's atomic files, NAME.inter and NAME.item. `prepare SOURCE --help` lists the options "
    "of a source."
)
_CORE = "keep users and items with at least K interactions, until nothing changes; default %(default)s; 0 is off"
_KEPT = (
    "of a user and an item keep all interactions (keep, the default), one per time (distinct), the first or the last"
)
_BROKEN = "stop there, or leave the line out and count it; default %(default)s"


def _parser() -> argparse.ArgumentParser:
    parser = Parser("python -m recbole_eimf prepare", add_help=True, description=_WHAT)
    sources = parser.add_subparsers(dest="source", required=True, metavar="SOURCE")

    def add(name: str, help_text: str, k_core: int, broken: str, encoding: str | None) -> argparse.ArgumentParser:
        sub = sources.add_parser(name, help=help_text, description=help_text, add_help=True)
        sub.add_argument("--out", required=True, metavar="DIR", help="the files go to DIR/NAME/NAME.inter and .item")
        sub.add_argument("--name", required=True, metavar="NAME", help="the data set's name in RecBole")
        sub.add_argument("--k-core", type=int, default=k_core, metavar="K", help=_CORE)
        sub.add_argument("--min-user", type=int, metavar="N", help="least interactions of a user; default --k-core")
        sub.add_argument("--min-item", type=int, metavar="N", help="least interactions of an item; default --k-core")
        sub.add_argument("--duplicates", choices=DUPLICATES, default="keep", help=_KEPT)
        sub.add_argument("--min-rating", type=float, metavar="X", help="keep interactions rated X or higher")
        sub.add_argument("--max-history", type=int, metavar="N", help="keep the latest N interactions of each user")
        sub.add_argument("--on-broken-line", choices=["error", "skip"], default=broken, help=_BROKEN)
        sub.add_argument("--encoding", default=encoding, help=f"default {encoding or 'detected from the file'}")
        return sub

    sub = add("csv", "Plain CSV files with a header line, also gzipped.", 0, "error", "utf-8")
    sub.add_argument("--interactions", required=True, nargs="+", metavar="FILE", help="a row for each interaction")
    sub.add_argument("--items", metavar="FILE", help="a row for each item, with its texts")
    sub.add_argument("--delimiter", metavar="C", help="between columns; default comma, in .tsv files tab")
    sub.add_argument("--user-column", default="user_id", metavar="COLUMN", help="default %(default)s")
    sub.add_argument("--item-column", default="item_id", metavar="COLUMN", help="default %(default)s")
    sub.add_argument("--items-item-column", metavar="COLUMN", help="in the items' file; default as --item-column")
    sub.add_argument("--time-column", metavar="COLUMN", help="default timestamp: numbers, or ISO 8601 dates")
    sub.add_argument("--no-time", action="store_true", help="no time column: the order of the file decides")
    sub.add_argument("--rating-column", metavar="COLUMN", help="default rating, if there is one")
    sub.add_argument("--order-column", metavar="COLUMN", help="decides between equal times; default order, if any")
    sub.add_argument("--title-column", metavar="COLUMN", help="default title, if there is one")
    sub.add_argument("--text-columns", metavar="A,B=C", help="default brand,categories,description, if there")
    for release in ("2014", "2018", "2023"):
        sub = add(f"amazon-{release}", f"Amazon reviews of {release}, as downloaded.", 5, "skip", "utf-8")
        sub.add_argument("--reviews", required=True, nargs="+", metavar="FILE", help="reviews, or the csv of ratings")
        sub.add_argument("--meta", nargs="+", metavar="FILE", help="metadata of items, with their titles")
        sub.add_argument("--text-columns", metavar="A,B", help="default title,brand,categories,description")
    sub = add("movielens", "MovieLens 100K, 1M, 10M, 20M, 25M or 32M.", 0, "error", None)
    sub.add_argument("--ratings", required=True, metavar="FILE", help="ratings.dat, u.data or ratings.csv")
    sub.add_argument("--movies", metavar="FILE", help="movies.dat, u.item or movies.csv")
    sub = add("mind-news", "Microsoft News (MIND).", 0, "skip", "utf-8")
    sub.add_argument("--behaviors", required=True, nargs="+", metavar="FILE", help="behaviors.tsv: the clicks")
    sub.add_argument("--news", nargs="+", metavar="FILE", help="news.tsv: the titles")
    sub.add_argument("--no-history", action="store_true", help="leave out histories; keep clicked impressions only")
    return parser


def _source(options: argparse.Namespace) -> RawSource:
    _check_their_file(options)
    if options.source == "csv":
        text = None if options.text_columns is None else options.text_columns.split(",")
        if options.no_time and options.time_column:
            raise ConfigError(
                f"--no-time, --time-column={options.time_column}: the first says that there are no times. Give one."
            )
        columns = CsvColumns(
            options.user_column,
            options.item_column,
            options.time_column or "timestamp",
            options.rating_column,
            options.order_column,
            options.title_column,
            text,
            options.items_item_column,
        )
        return csv_source(
            options.interactions,
            options.items,
            columns=columns,
            delimiter="\t" if options.delimiter == "tab" else options.delimiter,
            encoding=options.encoding,
            no_time=options.no_time,
        )
    if options.source == "movielens":
        return movielens_source(options.ratings, options.movies, encoding=options.encoding)
    if options.source == "mind-news":
        return mind_source(options.behaviors, options.news, history=not options.no_history, encoding=options.encoding)
    text = None if options.text_columns is None else options.text_columns.split(",")
    release = options.source.removeprefix("amazon-")
    return amazon_source(release, options.reviews, options.meta, text_fields=text, encoding=options.encoding)


def _check_their_file(options: argparse.Namespace) -> None:
    """Refuse what is said of a file of items where there is none. Raises ConfigError."""
    file = "items" if options.source == "csv" else "meta"
    if getattr(options, file, file) is not None:  # given, or of a source whose files are whole
        return
    for name in ("items_item_column", "title_column", "text_columns"):
        if (said := getattr(options, name, None)) is not None:
            raise ConfigError(
                f"--{name.replace('_', '-')}={said}: describes the file of items, and none is given. Add --{file} "
                f"FILE, or leave it out."
            )


def main(argv: Sequence[str]) -> int:
    """Run the command with the arguments after ``prepare``; returns the exit code. Raises UserError."""
    parser = _parser()
    if not argv:
        return usage_shown(argv, parser.format_help())
    if argv[0].startswith("--") and not {"-h", "--help"} & {*argv}:
        raise ConfigError(f"{argv[0]}: name the kind of data first: prepare csv {shlex.join(argv[:2])} ...")
    options = parser.parse_args(argv)
    filters = Filters(
        options.k_core, options.min_user, options.min_item, options.duplicates, options.min_rating, options.max_history
    )
    report = prepare(_source(options), options.out, options.name, filters, Report(options.on_broken_line))
    print(f"{Path(options.out) / options.name}, from {options.source}:\n{report.table()}")
    return 0
