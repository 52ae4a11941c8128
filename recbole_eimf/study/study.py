"""``python -m recbole_eimf study``: the experiments of the papers, each a YAML file, made by ``compare``'s runner.

A study is::

    title: What a reader sees above the table
    model: EIMF                         # of rows that name none
    keys: {backbone: REMI}              # of every row; the command line is stronger, a row's own keys strongest
    seeds: 5
    metrics: [Recall@50, NDCG@50]
    rows:                               # as for compare --models_file
      - {name: whole, x: all}
      - {name: without alignment, keys: {use_alignment: False}, against: whole}
    grid: {gamma: [0.03, 0.1, 0.3]}     # a row per value, named gamma=0.1
    axis: gamma                         # with it the figure is a line over the rows' x; without, bars
    columns: {exemplars: side_load.clusters}    # further columns, from result.json
    floors: True
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_eimf.config.layers import properties_folder
from recbole_eimf.config.yaml_file import read_yaml
from recbole_eimf.core.errors import ConfigError, suggestion
from recbole_eimf.study.compare import (
    carry_out,
    check,
    command_text,
    metric_names,
    options_parser,
    parse_options,
    parse_seeds,
)
from recbole_eimf.study.rows import Row, as_list, complete, row_of
from recbole_eimf.study.table.summary import Experiment

_KEYS = ("title", "model", "keys", "seeds", "metrics", "rows", "grid", "axis", "columns", "floors")


@dataclass(frozen=True)
class Study:
    """A study's file, read."""

    name: str
    title: str
    rows: list[Row]
    keys: dict[str, Any] = field(default_factory=dict)
    seeds: str | int = 5
    metrics: tuple[str, ...] = ()
    axis: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    floors: bool = True

    def varied(self) -> set[str]:
        """The keys that rows differ in. A placebo's source is none of them: it follows what the others have."""
        pairs = {(key, str(value)) for row in self.rows for key, value in row.keys.items()}
        return {key for key, _ in pairs - {("interest_source", "shuffled")}}


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code, as ``compare`` does: 1 if a run of any study failed.

    Raises:
        UserError: a bad file, bad keys or data, before any run.
    """
    if not arguments or set(arguments) & {"-h", "--help"}:
        print(
            "usage: python -m recbole_eimf study NAME|FILE.yaml ... --dataset=NAME [--out DIR] [options of compare] "
            "[--key=value ...]\n\nSeveral studies run one after the other, each in DIR/NAME.\n"
            f"shipped: {', '.join(shipped())}"
        )
        return 0
    parser = options_parser("study")
    parser.add_argument("studies", nargs="+", metavar="NAME|FILE.yaml")
    options, given = parse_options(parser, arguments)
    studies = [read_study(find_study(name)) for name in options.studies]
    command = command_text("study", arguments)
    made = [(_experiment(study, options, given, command), _options_of(study, studies, options)) for study in studies]
    if len(made) > 1:
        for experiment, own in made:
            check(experiment, own)
    codes = []
    for experiment, own in made:
        print(f"{experiment.title}: {own.out}")
        codes.append(carry_out(experiment, own))
    return max(codes)


def _experiment(study: Study, options: argparse.Namespace, given: Mapping[str, Any], command: str) -> Experiment:
    for key in given:
        if key in study.varied():
            raise ConfigError(f"--{key}={given[key]}: the rows of the study {study.name} differ in it; leave it out.")
    return Experiment(
        f"{options.title or study.title} ({options.dataset})",
        options.dataset,
        complete(study.rows, study.floors),
        parse_seeds(options.seeds or study.seeds),
        {**study.keys, **given},
        command,
        metric_names(options.metrics) or study.metrics,
        study.columns,
        study.axis,
    )


def _options_of(study: Study, studies: Sequence[Study], options: argparse.Namespace) -> argparse.Namespace:
    """The options, with the study's own folder. Raises ConfigError where another study would have the same one."""
    if sum(other.name == study.name for other in studies) > 1:
        raise ConfigError(f"{study.name}: named twice; name each study once, or rename one of the files.")
    out = options.out or f"results/{study.name}-{options.dataset}"
    if options.out and len(studies) > 1:
        out = str(Path(options.out) / study.name)
    return argparse.Namespace(**{**vars(options), "out": out})


def shipped() -> list[str]:
    """The names of the studies in ``properties/study``."""
    return sorted(path.stem for path in (properties_folder() / "study").glob("*.yaml"))


def find_study(name: str) -> Path:
    """A file, or the shipped study of that name. Raises ConfigError with the closest name."""
    path = Path(name)
    if path.is_file():
        return path
    own = properties_folder() / "study" / f"{path.stem}.yaml"
    if path.parent == Path(".") and own.is_file():
        return own
    raise ConfigError(
        f"{name}: no such study file.{suggestion(path.stem, shipped())} Shipped are {', '.join(shipped())}."
    )


def read_study(path: Path) -> Study:
    """Read a study.

    Raises:
        ConfigError: naming the file and the key.
    """
    content, where = read_yaml(path), str(path)
    for key in content:
        if key not in _KEYS:
            raise ConfigError(f"{where}: unknown key {key!r}.{suggestion(key, _KEYS)} Known: {', '.join(_KEYS)}.")
    for key in ("keys", "grid", "columns"):
        if not isinstance(content.get(key) or {}, dict):
            raise ConfigError(f"{where}: {key}={content[key]!r} is not a mapping.")
    model = content.get("model")
    entries = as_list(content["rows"], "rows", where) if "rows" in content else []
    rows = [row_of(entry, where, model) for entry in entries] + _grid_rows(content.get("grid"), where, model)
    if not rows:
        raise ConfigError(f"{where}: rows or grid is missing: there is nothing to run.")
    return Study(
        path.stem,
        str(content.get("title", path.stem)),
        rows,
        content.get("keys") or {},
        content.get("seeds", 5),
        metric_names(content.get("metrics")),
        content.get("axis"),
        content.get("columns") or {},
        bool(content.get("floors", True)),
    )


def _grid_rows(grid: dict[str, Any] | None, where: str, model: str | None) -> list[Row]:
    if not grid:
        return []
    if len(grid) != 1:
        raise ConfigError(f"{where}: grid={grid!r} holds {len(grid)} keys; one is wanted. Write rows for more.")
    ((key, values),) = grid.items()
    return [
        row_of({"name": f"{key}={value}", "keys": {key: value}, "x": str(value)}, where, model)
        for value in as_list(values, f"grid.{key}", where)
    ]
