"""The experiments of the papers, each a YAML file, made by ``compare``'s runner.

A study is::

    base: arena                         # another study, shipped or a file, that this one adds rows to
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
    over: [SASRec, REMI]                # backbones (--over gives others): a row of each, and one of every row that
                                        # says over: True (or names some), called whole[SASRec]; its against: whole
                                        # means that over its backbone
    protocols: [leave_one_out, global_time]     # of an arena (study/arena.py): a table of each, and a page over all
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from recbole_eimf.config.layers import properties_folder
from recbole_eimf.config.models import BACKBONES
from recbole_eimf.config.yaml_file import Placed, places_of, read_files, read_yaml
from recbole_eimf.core.errors import ConfigError, closest_first, suggestion
from recbole_eimf.data.protocol import PROTOCOLS
from recbole_eimf.model.backbones.backbone import backbone_class
from recbole_eimf.study.compare import (
    TABLE_DEFAULTS,
    Compared,
    Effort,
    carry_out,
    check_shared,
    metric_names,
    parse_seeds,
)
from recbole_eimf.study.rows import FRAMED, Row, as_list, check_name, complete, floors, row_of
from recbole_eimf.study.table.summary import Experiment

_KEYS = (
    "base", "title", "model", "keys", "seeds", "metrics", "rows", "grid", "axis", "columns", "floors", "over",
    "protocols",
)  # fmt: skip


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
    protocols: tuple[str, ...] = ()

    def varied(self) -> set[str]:
        """The keys that rows differ in. A placebo's source is none of them: it follows what the others have."""
        pairs = {(key, str(value)) for row in self.rows for key, value in row.keys.items()}
        return {key for key, _ in pairs - {("interest_source", "shuffled"), ("knowledge_source", "shuffled")}}


def run_study(
    name: str | Path,
    dataset: str,
    out: str | Path | None = None,
    *,
    seeds: int | str | Sequence[int] | None = None,
    metrics: str | Sequence[str] | None = None,
    title: str | None = None,
    parallel: int = 1,
    cpus_per_run: int = 1,
    gpus_per_run: float | None = None,
    tune_first: int = 0,
    ray_address: str | None = None,
    only: Sequence[str] = (),
    over: Sequence[str] = (),
    config_file_list: Sequence[str | Path] = (),
    command: str = "recbole_eimf.study(...)",
    **overrides: Any,
) -> Compared:
    """Make a paper's experiment; the same call goes on with what ``out`` holds.

    Args:
        name: of a shipped study (:func:`shipped`), or a YAML file of your own.
        dataset: as in :func:`recbole_eimf.run`.
        out: folder for runs and tables; ``results/<study>-<data set>`` by default.
        seeds, metrics, title: in place of the study's own.
        parallel, cpus_per_run, gpus_per_run, tune_first, ray_address, config_file_list, command: as for
            :func:`recbole_eimf.compare`.
        only: rows, by name (:func:`chosen`); over: backbones, in place of the study's own (:func:`read_study`).
        overrides: configuration keys of all rows, but for those in which the rows differ.

    Returns:
        The table.

    Raises:
        UserError: a bad file, bad keys or data, before any run.

    Example:
        >>> import recbole_eimf
        >>> found = recbole_eimf.study("eimf_ablation", "ml-100k", seeds=3)  # doctest: +SKIP
        >>> found.to_frame()  # doctest: +SKIP
    """
    given = read_files(config_file_list) | overrides
    check_shared(given)
    read = read_study(find_study(str(name)), over)
    experiment = experiment_of_study(
        read, dataset, given, command, seeds=seeds, metrics=metrics, title=title, only=only
    )
    effort = Effort(parallel, cpus_per_run, gpus_per_run, tune_first, ray_address)
    return carry_out(experiment, Path(out or default_folder(read, dataset)), effort)


def experiment_of_study(
    study: Study,
    dataset: str,
    given: Mapping[str, Any],
    command: str,
    *,
    seeds: int | str | Sequence[int] | None = None,
    metrics: str | Sequence[str] | None = None,
    title: str | None = None,
    only: Sequence[str] = (),
) -> Experiment:
    """A study on a data set; ``only``: of these rows. Raises ConfigError for a given key in which its rows differ."""
    for key in given:
        if key in study.varied():
            raise ConfigError(f"--{key}={given[key]}: the rows of the study {study.name} differ in it; leave it out.")
    keys = {**TABLE_DEFAULTS, **study.keys, **given}
    places = {key: place for key, place in places_of(study.keys).items() if key not in given}
    rows = complete(chosen(study, only), study.floors, keys.get("protocol"))
    return Experiment(
        f"{title or study.title} ({dataset})",
        dataset,
        [replace(row, places={**places, **row.places}) for row in rows],
        parse_seeds(study.seeds if seeds is None else seeds),
        keys,
        command,
        metric_names(metrics) or study.metrics,
        study.columns,
        study.axis,
    )


def chosen(study: Study, only: Sequence[str]) -> list[Row]:
    """The rows of a study that ``only`` names, in the study's order; all where it names none.

    A name is a row's (``EIMF[SASRec]``), what stands before its bracket (``EIMF``), or what stands in it (``[SASRec]``,
    the backbone's own row too). A name with a comma may come in two or more words, as a list typed on the command line
    has it. The floors of every table may be named, and are there anyway. What rows are measured against is kept where
    it is among them.

    Raises:
        ConfigError: a name that is no row's.
    """
    if not only:
        return study.rows
    every = {row.name for row in floors("global_time")} if study.floors else set()
    found: list[Row] = []
    for word in _joined(only, every.union(*(_names(row.name) for row in study.rows))):
        named = [row for row in study.rows if word in _names(row.name)]
        if not named and word not in every:
            known = [*dict.fromkeys(name for row in study.rows for name in _names(row.name)), *every]
            rows = closest_first(word, [row.name for row in study.rows])
            raise ConfigError(
                f"--only={word}: no row of {study.name}.{suggestion(word, known)} There are: {', '.join(rows)}."
            )
        found += [row for row in named if row not in found]
    kept = {row.name for row in found} | every
    return [
        replace(row, against=tuple(other for other in row.against if other in kept))
        for row in study.rows
        if row in found
    ]


def _joined(words: Sequence[str], names: Iterable[str]) -> list[str]:
    """The words, with those put together again that are a name with commas in it: the longest that begins there."""
    parts = {tuple(part.strip() for part in name.split(",")): name for name in names}
    longest = max(map(len, parts), default=1)
    joined: list[str] = []
    at = 0
    while at < len(words):
        size = next((size for size in range(longest, 1, -1) if tuple(words[at : at + size]) in parts), 1)
        joined.append(parts[tuple(words[at : at + size])] if size > 1 else words[at])
        at += size
    return joined


def _names(row: str) -> tuple[str, ...]:
    framed = FRAMED.fullmatch(row)
    return (row, framed["frame"], f"[{framed['inner']}]") if framed else (row, f"[{row}]")


def default_folder(study: Study, dataset: str) -> str:
    """Where a study's runs and tables lie if nobody says."""
    return f"results/{study.name}-{dataset}"


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


def read_study(path: Path, over: Sequence[str] = ()) -> Study:
    """Read a study.

    Args:
        path: of its file; over: backbones that its rows stand over in place of the file's. A row that names its own
            stands over those of them that are among these.

    Raises:
        ConfigError: naming the file and the key.
    """
    content, where = _content(path), str(path)
    model = content.get("model")
    entries = as_list(content["rows"], "rows", where) if "rows" in content else []
    gone: set[str] = set()
    if over:
        entries, gone = _restricted(content, entries, over, path)
    elif "over" in content:
        entries = over_backbones(entries, as_list(content["over"], "over", where), where)
    protocols = as_list(content["protocols"], "protocols", where) if "protocols" in content else []
    for name in protocols:
        if name not in PROTOCOLS:
            raise ConfigError(
                f"{where}: protocols: no {name!r}.{suggestion(name, PROTOCOLS)} There are: {', '.join(PROTOCOLS)}."
            )
    rows = [row_of(entry, where, model) for entry in entries] + _grid_rows(content.get("grid"), where, model)
    rows = [replace(row, against=tuple(other for other in row.against if other not in gone)) for row in rows]
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
        tuple(protocols),
    )


def _content(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A study's file over that of its ``base``: rows and keys are added, the rest is taken in its place."""
    said, where = read_yaml(path, placed=("keys", "grid")), str(path)
    content = {key: value for key, value in said.items() if value is not None}
    for key in content:
        if key not in _KEYS:
            raise ConfigError(f"{where}: unknown key {key!r}.{suggestion(key, _KEYS)} Known: {', '.join(_KEYS)}.")
    for key in ("keys", "grid", "columns"):
        if not isinstance(content.get(key) or {}, dict):
            raise ConfigError(f"{where}: {key}={content[key]!r} is not a mapping.")
    for name, found in (content.get("columns") or {}).items():
        if not isinstance(found, str):
            raise ConfigError(f"{where}: columns: {name}={found!r}; a path in result.json such as side_load.exemplars.")
    for key in ("axis", "title", "model"):
        if not isinstance(content.get(key, ""), str | int | float):
            raise ConfigError(f"{where}: {key}={content[key]!r} is not text.")
    for key, kinds in (("seeds", int | str | list), ("metrics", str | list)):
        if key in content and not isinstance(content[key], kinds):
            raise ConfigError(f"{where}: {key}={content[key]!r} is not a list.")
    if "base" not in content:
        return content
    base = find_study(str(content["base"]))
    if base.resolve() in (path.resolve(), *above):
        raise ConfigError(f"{where}: base={content['base']} leads back to itself.")
    below = _content(base, (*above, path.resolve()))
    joined = {key: _joined_mappings(below.get(key), content.get(key)) for key in ("keys", "columns")}
    rows = [*below.get("rows", []), *(as_list(content["rows"], "rows", where) if "rows" in content else [])]
    return {**below, **content, **joined, "rows": rows}


def _joined_mappings(below: dict[str, Any] | None, above: dict[str, Any] | None) -> dict[str, Any]:
    found = Placed({**(below or {}), **(above or {})})
    found.places = {**places_of(below), **places_of(above)}
    return found


def over_backbones(entries: list[Any], backbones: list[Any], where: str) -> list[Any]:
    """A row of each backbone, then every entry, over each of its backbones where it is a row over some.

    >>> over_backbones([{"name": "whole", "model": "EIMF", "over": True, "against": "backbone"}], ["SASRec"], "a.yaml")
    ['SASRec', {'name': 'whole[SASRec]', 'model': 'EIMF', 'against': ['SASRec'], 'backbone': 'SASRec'}]

    Raises:
        ConfigError: an entry over a backbone that the study has not.
    """
    found: list[Any] = list(backbones)
    for entry in entries:
        check_name(entry, where)  # before it is a key here
    over = {e["name"]: e["over"] for e in entries if isinstance(e, dict) and e.get("over") and "name" in e}
    for entry in entries:
        if not isinstance(entry, dict) or not entry.get("over"):
            found.append(entry)
            continue
        if "name" not in entry:
            raise ConfigError(f"{where}: row {entry!r} stands over backbones, and needs a name.")
        wanted = backbones if entry["over"] is True else as_list(entry["over"], "over", where)
        for name in wanted:
            if name not in backbones:
                raise ConfigError(f"{where}, row {entry['name']!r}: over={name!r} is not in over={backbones}.")
        for backbone in wanted:
            against = entry.get("against") or []
            each = [backbone if other == "backbone" else f"{other}[{backbone}]" if other in over else other
                    for other in (against if isinstance(against, list) else [against])]  # fmt: skip
            row = {key: value for key, value in entry.items() if key != "over"}
            found.append(row | {"name": f"{entry['name']}[{backbone}]", "against": each, "backbone": backbone})
    return found


def _restricted(
    content: Mapping[str, Any], entries: list[Any], over: Sequence[str], path: Path
) -> tuple[list[Any], set[str]]:
    """(The entries over other backbones than the file's, the names of the rows that fall away by it)."""
    said, where = f"--over={','.join(over)}", str(path)
    if "over" not in content:
        raise ConfigError(
            f"{said}: the study {path.stem} has no list of backbones (over). --backbone={over[0]} sets it for all "
            f"rows that do not differ in it."
        )
    for name in over:
        if ":" in name:
            backbone_class(name)  # of the user's own: raises where there is none
        elif name not in BACKBONES:
            near = suggestion(name, BACKBONES)
            raise ConfigError(
                f"{said}: no backbone {name!r}.{near} There are: {', '.join(BACKBONES)}; yours as package.module:Class."
            )
    own = as_list(content["over"], "over", where)
    before = {_name(entry) for entry in over_backbones(entries, own, where)}
    kept = []
    for entry in entries:
        wanted = entry.get("over") if isinstance(entry, dict) else None
        if isinstance(wanted, list):
            entry = entry | {"over": [name for name in wanted if name in over]}
            if not entry["over"]:
                continue
        kept.append(entry)
    found = over_backbones(kept, list(dict.fromkeys(over)), where)
    return found, before - {_name(entry) for entry in found}


def _name(entry: Any) -> str:
    return str(entry.get("name", entry.get("model")) if isinstance(entry, dict) else entry)


def _grid_rows(grid: dict[str, Any] | None, where: str, model: str | None) -> list[Row]:
    if not grid:
        return []
    if len(grid) != 1:
        raise ConfigError(f"{where}: grid={grid!r} holds {len(grid)} keys; one is wanted. Write rows for more.")
    ((key, values),) = grid.items()
    rows = [
        row_of({"name": f"{key}={value}", "keys": {key: value}, "x": str(value)}, where, model)
        for value in as_list(values, f"grid.{key}", where)
    ]
    return [replace(row, places=places_of(grid)) for row in rows]
