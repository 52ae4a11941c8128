"""``--tune-first``: the same search for every row of a table, on validation, before its seeds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_eimf.config.config import EIMFConfig
from recbole_eimf.config.contract import contract_of
from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.study import runs
from recbole_eimf.study.execute import Workers
from recbole_eimf.study.rows import Row
from recbole_eimf.study.search.space import AllFixedError, Space, shipped_space, text_ways
from recbole_eimf.study.table.summary import Experiment, Searched


def tune_rows(
    experiment: Experiment, shared: Mapping[str, Any], workers: Workers, samples: int, folder: Path
) -> tuple[dict[str, Searched], tuple[str, ...]]:
    """The same search for every row that has something to search, on validation: (what each found, by name; remarks).

    Backbones are searched first, and what is found for one is a trial of every row over it: who has a well-tuned
    SASRec asks what a method adds to that one, and a few draws over more keys would not find those settings again.
    Keys that are given are not searched. A row whose trials all fail goes on as it is: its runs will say why.
    """
    from recbole_eimf.study.search import tune

    found: dict[str, Searched] = {}
    remarks = [f"Rows have the best settings of a search of their own: {samples} trials each, on validation."]
    cpus = None if workers.ray_address else max(workers.parallel, 1) * workers.cpus
    effort = tune.SearchEffort(
        samples, cpus_per_trial=workers.cpus, gpus_per_trial=workers.gpus, cpus=cpus, ray_address=workers.ray_address
    )
    alone: dict[str | None, Mapping[str, Any]] = {}
    spaces, unsearched = _spaces(experiment, shared)
    remarks += unsearched
    for row in sorted(experiment.rows, key=lambda row: not row.backbone_alone):
        if row.name not in spaces:
            continue
        config, given = runs.configured(row, experiment.dataset, shared)
        given = {key: value for key, value in given.items() if key not in runs.FORCED}
        backbone = contract_of(config.model_class).backbone_name(config)
        begin_with = _fitting(row, experiment.dataset, given, alone.get(backbone, {}), spaces[row.name])
        print(f"search for {row.name}:")
        try:
            made = tune.search(
                row.model,
                experiment.dataset,
                folder / runs.folder_name(row.name),
                effort,
                begin_with=begin_with,
                **given,
            )
            best = made.require_best()
            found[row.name] = Searched(
                len(made.trials), made.job.metric, best.score, made.start, best.number, dict(best.settings)
            )
            if row.backbone_alone:
                alone[backbone] = best.settings
        except DataError as error:
            remarks.append(f"**{row.name} is not tuned:** {error}")
            print(f"{row.name}: {error}")
    if alone and len(found) > len(alone):
        remarks.append("What a backbone's search found is the second trial of every row over it.")
    return found, tuple(remarks)


def _fitting(
    row: Row, dataset: str, given: Mapping[str, Any], found: Mapping[str, Any], space: Space
) -> dict[str, Any] | None:
    """What a backbone's search ``found``, as far as a row over it is searched over that; None where it does not fit."""
    shared = {key: value for key, value in found.items() if key in space and key not in given}
    try:
        EIMFConfig(row.model, dataset, None, {**given, **shared})
    except ConfigError:
        return None
    return shared or None


def _spaces(experiment: Experiment, shared: Mapping[str, Any]) -> tuple[dict[str, Space], list[str]]:
    """(What each row is searched over, by name; remarks on rows whose recipe fixes all). What counts may have none.

    Raises:
        ConfigError: there is no space for a model that is trained.
    """
    spaces: dict[str, Space] = {}
    remarks = []
    for row in experiment.rows:
        config, _ = runs.configured(row, experiment.dataset, shared)
        backbone = contract_of(config.model_class).backbone_name(config)
        try:
            spaces[row.name] = shipped_space(config["model"], backbone, config["recipe"], text_ways(config))
        except AllFixedError:
            remarks.append(f"{row.name} is not searched: recipe={config['recipe']} fixes all that would be.")
        except ConfigError as error:
            if not row.counting:
                raise ConfigError(f"--tune-first: row {row.name!r}: {error}") from error
    return spaces, remarks
