"""``python -m recbole_eimf study``: the experiments of the papers, one or several."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_eimf.cli.compare import print_table
from recbole_eimf.cli.options import command_text, effort_of, parse_table_options, table_parser
from recbole_eimf.cli.usage import usage_shown
from recbole_eimf.config.yaml_file import values_placed
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.study.arena import run_arena
from recbole_eimf.study.compare import carry_out, check
from recbole_eimf.study.study import Study, default_folder, experiment_of_study, find_study, read_study, shipped


def usage() -> str:
    """The command's help, with the studies that ship."""
    return (
        "usage: python -m recbole_eimf study NAME|FILE.yaml ... --dataset=NAME [--out DIR] [--only ROW,...] "
        "[--over BACKBONE,...] [options of compare] [--key=value ...]\n\n"
        "--only makes a part of a study: rows by their names, by what stands before the bracket (EIMF) or in it "
        "([SASRec]);\n--over=SASRec,REMI: over these backbones in place of the study's own.\n"
        "An arena takes several data sets (--dataset=A,B).\n"
        "Several studies run one after the other, each in DIR/NAME.\n"
        f"shipped: {', '.join(shipped())}"
    )


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code, as ``compare`` does: 1 if a run of any study failed.

    Raises:
        UserError: a bad file, bad keys or data, before any run.
    """
    if (code := usage_shown(arguments, usage)) is not None:
        return code
    parser = table_parser("study")
    parser.add_argument("studies", nargs="+", metavar="NAME|FILE.yaml")
    for name in ("only", "over"):
        parser.add_option(name)
    try:
        options, given = parse_table_options(parser, arguments)
    except ConfigError as error:
        if "required: NAME|FILE.yaml" not in str(error):
            raise
        raise ConfigError(
            "no study is named. Name it before the options: study NAME|FILE.yaml --dataset=... (--config_files takes "
            "all words that follow it)."
        ) from error
    with values_placed(options.said_in):
        return _make_tables(options, given, arguments)


def _make_tables(options: argparse.Namespace, given: dict[str, Any], arguments: Sequence[str]) -> int:
    """The studies that the options name; the exit code."""
    effort, command = effort_of(options), command_text("study", arguments)
    own = {"seeds": options.seeds, "metrics": options.metrics, "title": options.title,
           "only": _words(options.only or "")}  # fmt: skip
    studies = [read_study(find_study(name), _words((options.over or "").strip("[]"))) for name in options.studies]
    if any(study.protocols for study in studies):
        return _arena(studies, options, given, command, effort, own)
    made = [
        (
            experiment_of_study(study, options.dataset, given, command, **own),
            _folder(study, studies, options.out, options.dataset),
        )
        for study in studies
    ]
    if len(made) > 1:
        for experiment, out in made:
            check(experiment, out, effort)
    codes = []
    for experiment, out in made:
        print(f"{experiment.title}: {out}")
        codes.append(print_table(carry_out(experiment, out, effort)))
    return max(codes)


def _arena(studies, options, given, command, effort, own) -> int:
    """A study over several data sets and protocols; the exit code as of the others."""
    if len(studies) > 1:
        raise ConfigError("a study with protocols is an arena of many tables: give it alone.")
    datasets = _words(options.dataset)
    out = Path(options.out or default_folder(studies[0], "-".join(datasets)))
    found = run_arena(studies[0], datasets, given, command, out, effort, **own)
    print(f"\n{found}\nwritten: {found.folder}/index.html, arena.json, and a folder for each table")
    if found.failed:
        print(f"failed: {', '.join(found.failed)} (error.txt in their folders); the same command tries them again")
    return 1 if found.failed else 0


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _folder(study: Study, studies: Sequence[Study], out: str | None, dataset: str) -> Path:
    """A study's own folder. Raises ConfigError where another study would have the same one."""
    if sum(other.name == study.name for other in studies) > 1:
        raise ConfigError(f"{study.name}: named twice; name each study once, or rename one of the files.")
    if out is None:
        return Path(default_folder(study, dataset))
    return Path(out) / study.name if len(studies) > 1 else Path(out)
