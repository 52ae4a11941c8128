"""Runs of a table: one folder each, made once (:mod:`recbole_eimf.study.execute`), going on where they were stopped.

A run's folder holds ``run.json`` (its settings, and versions, seconds, how busy the machine was), what
:func:`recbole_eimf.run` writes (``result.json`` when it is finished), ``log.txt``, and ``error.txt`` if it failed. A
folder is used again only for the settings it was made with: paths count by what is in the files, and keys that cannot
change a figure (threads, logging, device) or that the row's model does not read do not count at all.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from recbole_eimf.config.config import EIMFConfig
from recbole_eimf.config.layers import concerning, recipes_of
from recbole_eimf.config.models import load_model_class
from recbole_eimf.config.old_names import old_name, today
from recbole_eimf.config.placebo import SHUFFLED, check_draw, check_placebo, idle
from recbole_eimf.config.reading import ignored
from recbole_eimf.config.same_experiment import deciding_settings, differing_settings, in_words, unread
from recbole_eimf.core.errors import ConfigError, UserError, blamed_key, suggestion
from recbole_eimf.core.files import fingerprint, free_name, read_json
from recbole_eimf.core.run_folder import (
    ERROR_FILE,
    HISTORY_FILE,
    METRICS_FILE,
    NOTES_FILE,
    RESULT_FILE,
    STATE_FILE,
)
from recbole_eimf.experiment.refit import FOLDER as REFIT
from recbole_eimf.semantic.needs import check_needs
from recbole_eimf.study.jobs import absolute_paths
from recbole_eimf.study.rows import Row

#: what the program decides for every run of a table
FORCED = {"show_progress": False, "compare_with": [], "output_dir": None, "resume": False}
#: keys of a run that a table sets itself
RESERVED = {"seed": "--seeds", "output_dir": "--out", "resume": "nothing: what is there goes on", "compare_with":
            "--models", "model": "--models", "save_split": "`python -m recbole_eimf run`"}  # fmt: skip
OTHER_MASK = "test_other_mask"
_LONGEST = 60  # characters of a folder's name, of at most four bytes each: file systems take 255


@dataclass(frozen=True)
class Run:
    """One training: a row with a seed.

    ``given`` are the keys for :func:`recbole_eimf.run`; ``settings`` every setting that decides the
    figures, without the seed; ``other_mask`` asks for the test metrics under the other ``mask_history`` too;
    ``unread``: keys among the settings that the row's model does not look at; ``trials``: of the search that found
    some of them, 0 without one; ``slice_bounds``: those asked for now, which decide no figure, or None.
    """

    row: Row
    dataset: str
    seed: int
    folder: Path
    given: Mapping[str, Any]
    settings: Mapping[str, Any]
    other_mask: bool = False
    unread: frozenset[str] = frozenset()
    trials: int = 0
    slice_bounds: tuple[int, ...] | None = None

    @cached_property
    def label(self) -> str:
        return self.row.name if self.row.counting else f"{self.row.name}/{self.seed}"

    def result(self) -> dict[str, Any] | None:
        """``result.json``, or None while there is none."""
        return read_of_run(self.folder / RESULT_FILE)

    @property
    def finished(self) -> bool:
        return (self.folder / RESULT_FILE).is_file() and (
            not self.other_mask or (self.folder / OTHER_MASK / METRICS_FILE).is_file()
        )

    def notes(self) -> dict[str, Any]:
        """``run.json``: with what and how the run was made; empty before it began."""
        return read_of_run(self.folder / NOTES_FILE) or {}

    def error(self) -> str | None:
        """The first line of what stopped it, or None."""
        path = self.folder / ERROR_FILE
        return path.read_text(encoding="utf-8").split("\n", 1)[0] if path.is_file() and not self.finished else None

    @property
    def running(self) -> bool:
        """Whether a worker has it in hand."""
        return (self.folder / "running").is_file()

    def histories(self) -> dict[str, list[dict[str, Any]]]:
        """The epochs so far of every phase, as they ended, by its name; of a model without phases ``""``. Those of a
        second training (``refit``) are ``refit``, and ``refit/NAME`` for each phase before the last."""
        return histories_of(self.folder)


def histories_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """:meth:`Run.histories` of a folder that a model is trained in."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob(f"**/{HISTORY_FILE}"), key=lambda path: (path.stat().st_mtime_ns, path)):
        history = read_of_run(path)
        if history:
            place = path.parent.relative_to(folder)
            again = place.parts[:1] == (REFIT,)  # its phases are called as those of the first training
            found[(not again and history[-1].get("phase")) or place.as_posix().strip(".")] = history
    return found


def trained_seconds(folder: Path) -> float:
    """Seconds of training and validation of the epochs that a folder has, those of all phases."""
    epochs = [epoch for history in histories_of(folder).values() for epoch in history]
    return sum(epoch.get("train_seconds", 0.0) + epoch.get("valid_seconds", 0.0) for epoch in epochs)


def read_of_run(path: Path) -> Any:
    """What a JSON file of a run's folder holds, or None where there is none. Raises DataError for a damaged one."""
    return read_json(path, "Remove the folder to have the run made again.")


# ---------------------------------------------------------------------- planning
def plan(
    rows: Sequence[Row],
    dataset: str,
    seeds: Sequence[int],
    shared: Mapping[str, Any],
    folder: Path,
    both_masks: bool = False,
    tuned: Mapping[str, Mapping[str, Any]] | None = None,
    settled: bool = True,
    trials: int = 0,
) -> list[Run]:
    """The runs of a table, seed by seed, so that every row has a first figure early.

    Args:
        shared: keys of every row, weaker than a row's own.
        folder: where the runs' folders go.
        both_masks: evaluate every checkpoint with the history masked and not masked.
        tuned: what a search found for each row, by its name: stronger than ``shared``, weaker than the row's own.
        settled: False before a search, whose outcome may be what the folders hold: they are not looked at then. A run
            with what an earlier, shorter search found is moved out of the way, to ``earlier`` beside ``folder``.
        trials: of each row's search.

    Raises:
        ConfigError: a key or value that is wrong, two rows of one folder, or a folder that holds a run of other
            settings.
    """
    from recbole_eimf.experiment import plugin

    plugin.adapt_recbole()
    takers(rows, shared)
    _check_read_by_some(rows, shared)
    _check_own_folders(rows)
    tuned = tuned or {}
    configs: dict[str, EIMFConfig] = {}
    of_row: dict[str, dict[str, Any]] = {}  # what the runs of a row have in common, as fields of Run
    for row in rows:
        found = tuned.get(row.name, {})
        config, given = configured(row, dataset, {**shared, **found})
        configs[row.name] = config
        _fetch(config)
        decided = deciding_settings(config)
        del decided["seed"]  # the folder's name says it
        of_row[row.name] = {
            "given": given,
            "settings": decided,
            "other_mask": both_masks,
            "unread": unread(config),
            "trials": trials if found else 0,
            "slice_bounds": tuple(config["slice_bounds"] or ()),
        }
    check_draw(shared.get("placebo_draw"), any(config["interest_source"] == "shuffled" for config in configs.values()))
    runs, outdated = [], []
    for seed in seeds:
        for row in rows:
            if seed != seeds[0] and row.counting:
                continue
            common = of_row[row.name]
            place = folder / folder_name(row.name) / str(seed)
            run = Run(row, dataset, seed, place, **{**common, "given": {**common["given"], "seed": seed}})
            runs.append(run)
            if settled and _check_folder(run, tuned.get(row.name, {})):
                outdated.append(run)
    # tables of what is there need no source
    for row in {run.row.name: run.row for run in runs if not run.finished}.values():
        with _of_row(row):
            check_needs(configs[row.name])
    for run in outdated:  # once all of them are known to be right
        _set_aside(run)
    return runs


def takers(rows: Sequence[Row], shared: Mapping[str, Any]) -> list[str]:
    """The rows that take the recipe which all share; the others train as they are.

    Raises:
        ConfigError: none does.
    """
    recipe = today(shared).get("recipe")
    found = [row.name for row in rows if recipe is not None and "recipe" in concerning(row.model, shared)]
    if recipe is not None and not found:
        known = sorted({name for row in rows for name in recipes_of(row.model)})
        raise ConfigError(
            f"recipe={recipe}: no model of the table has it.{suggestion(str(recipe), known)} "
            f"There are: {', '.join(known)}."
        )
    return found


def _check_own_folders(rows: Sequence[Row]) -> None:
    """Raise ConfigError where two rows would have one folder."""
    owner: dict[str, str] = {}
    for row in rows:
        if (other := owner.setdefault(folder_name(row.name), row.name)) != row.name:
            raise ConfigError(
                f"rows {other!r} and {row.name!r}: both would have the folder runs/{folder_name(row.name)}. "
                f"Give one of them another name."
            )


def _check_read_by_some(rows: Sequence[Row], shared: Mapping[str, Any]) -> None:
    """Refuse a key of all that none of the rows which train would read; rows that only count read few.

    Raises:
        ConfigError: naming key and value.
    """
    trained = [row for row in rows if not row.counting]
    given = today(shared)
    each = [set(ignored(load_model_class(row.model), given)) for row in trained]
    for name in sorted(set.intersection(*each)) if each else []:
        names = ", ".join(row.name for row in trained[:4]) + (", ..." if len(trained) > 4 else "")
        raise ConfigError(f"{name}={given[name]}: no row of the table reads it ({names}). Leave it out.")


def check_reserved(keys: Mapping[str, Any]) -> None:
    """Raise ConfigError for a key that a table sets for each of its runs."""
    for key, instead in RESERVED.items():
        if key in keys:
            raise ConfigError(f"{key}={keys[key]!r}: a table sets it for each run; instead there is {instead}.", key)


def configured(row: Row, dataset: str, shared: Mapping[str, Any]) -> tuple[EIMFConfig, dict[str, Any]]:
    """(a row's configuration, the keys for :func:`recbole_eimf.run`), paths absolute.

    Raises:
        ConfigError: naming the key and the value, and the row unless the value is that of all.
    """
    own = today(row.keys)
    given = {**concerning(row.model, shared), **own, **FORCED}
    with _of_row(row, of_all=set(shared) - set(own)):
        check_reserved({**shared, **own})
        for source, real in SHUFFLED.items():
            if given.get(source) == "shuffled" and real not in given:
                # a placebo shuffles what the row it stands for trains with
                stood_for = {k: v for k, v in given.items() if k != source} | {
                    k: v for k, v in shared.items() if k == source
                }
                found = EIMFConfig(row.model, dataset, None, stood_for)[source]
                if found not in ("shuffled", "none"):
                    given[real] = found
        config = EIMFConfig(row.model, dataset, None, dict(given))
        check_placebo(config, row.keys)
        if unmoved := idle(config, given):  # a key of all rows, which takes nothing away from this one
            given = {key: value for key, value in given.items() if key not in unmoved}
            config = EIMFConfig(row.model, dataset, None, dict(given))
    return config, given | absolute_paths(config)


@contextlib.contextmanager
def _of_row(row: Row, of_all: Collection[str] = ()) -> Iterator[None]:
    """Let errors name the row that they are about, but for those about the value of a key among ``of_all``; and the
    line of the file that gives the key."""
    try:
        yield
    except UserError as error:
        key, carried = blamed_key(error) or "", getattr(error, "key", None)
        place = row.places.get(key) or row.places.get(old_name(key) or "")
        where = [place] if place else []
        if carried not in of_all:
            where.append(f"row {row.name!r}")
        if not where:
            raise
        said = f"{', '.join(where)}: {error}"
        raise (ConfigError(said, carried) if isinstance(error, ConfigError) else type(error)(said)) from error


def _fetch(config: EIMFConfig) -> None:
    """Have a data set that is not there yet downloaded, or raise DataError that says how to get it."""
    if not (Path(config["data_path"]) / f"{config['dataset']}.inter").is_file():
        from recbole_eimf.data.dataset import LazySequenceDataset

        LazySequenceDataset(config)


def folder_name(name: str) -> str:
    """A row's name as that of a folder; names that lose more than brackets get a digest.

    >>> folder_name("EIMF[SASRec]")
    'EIMF-SASRec'
    """
    plain = re.sub(r"[^\w.=+-]+", "-", name).strip("-.")
    short = plain[:_LONGEST]
    return plain if short == name.replace("[", "-").rstrip("]") else f"{short}-{fingerprint(name)[:6]}"


def _check_folder(run: Run, searched: Collection[str]) -> bool:
    """Whether the run that a folder holds has to make room: only what was ``searched`` differs, by more trials since.

    Raises:
        ConfigError: it holds a run, finished or not, that was made with other settings.
    """
    before = read_of_run(run.folder / NOTES_FILE)
    begun = (run.folder / RESULT_FILE).is_file() or (run.folder / STATE_FILE).is_file()
    if not begun or (run.folder / ERROR_FILE).is_file() and not (run.folder / RESULT_FILE).is_file():
        return False
    if before is None:
        raise ConfigError(f"{run.folder}: holds a run without {NOTES_FILE}, so of unknown settings. Use another --out.")
    differ = differing_settings(before["settings"], run.settings, run.unread)
    if not differ:
        return False
    trials = before["trials"] if "trials" in before else _trials_beside(run)
    if set(differ) <= set(searched) and run.trials >= trials > 0:
        return True
    longer = (
        trials > run.trials and f" It is that of a search of {trials} trials: --tune-first={trials} goes on with it."
    )
    raise ConfigError(
        f"{run.folder}: holds a run of {run.label} with other settings: {in_words(differ)}.{longer or ''} "
        f"Use another --out, or remove that folder to have it made again."
    )


def _trials_beside(run: Run) -> int:
    """How many trials the search of a run's row has had, for runs of versions that did not write it down."""
    search = run.folder.parents[1].with_name("tune") / run.folder.parent.name
    return sum(1 for _ in search.glob("trials/[0-9][0-9][0-9]/trial.json"))


def _set_aside(run: Run) -> None:
    place = run.folder.parents[1].with_name("earlier") / run.folder.parent.name
    place.mkdir(parents=True, exist_ok=True)
    kept = free_name(place / run.folder.name)
    run.folder.rename(kept)
    print(f"{run.label}: its search has found other settings since; the run with the earlier ones is kept in {kept}")
