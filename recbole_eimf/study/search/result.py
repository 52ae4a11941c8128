"""What a search leaves behind: best.yaml, trials.csv, results.json and search.png."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from pathlib import Path

import yaml

from recbole_eimf.core.files import atomic_path, write_json
from recbole_eimf.core.folders import RESULTS_FILE
from recbole_eimf.core.version import __version__
from recbole_eimf.study.search.outcome import SearchOutcome
from recbole_eimf.study.search.plot import plot_search


def write_found(found: SearchOutcome) -> None:
    """Write the files of a search that has a best trial. Nothing of the test part is in them."""
    out = Path(found.job.out)
    _write_best(out / "best.yaml", found)
    _write_table(out / "trials.csv", found)
    head = {"model": found.job.model, "dataset": found.job.dataset, "metric": found.job.metric, "version": __version__}
    ranges = {key: {dimension.kind: list(dimension.values)} for key, dimension in found.space.items()}
    body = {"space": ranges, "best": found.require_best().number, "trials": [asdict(t) for t in found.trials]}
    write_json(out / RESULTS_FILE, {**head, **body})
    plot_search(found, out / "search.png")


def _write_best(path: Path, found: SearchOutcome) -> None:
    best = found.require_best()
    head = (
        f"# {found.job.model} on {found.job.dataset}: trial {best.number} of {len(found.trials)}, "
        f"validation {found.job.metric} {best.score:.6f} (recbole_eimf {__version__})\n"
        f"# --model={found.job.model} --dataset={found.job.dataset} --config_files={path}\n"
    )
    with atomic_path(path) as temporary:
        temporary.write_text(head + yaml.safe_dump(found.settings, sort_keys=False), encoding="utf-8")


def _write_table(path: Path, found: SearchOutcome) -> None:
    metric, keys = found.job.metric, list(found.space)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["trial", "status", f"valid_{metric}", "best_epoch", "epochs", "seconds", *keys, "error"])
    for t in found.trials:
        values = [t.settings.get(key) for key in keys]
        writer.writerow([t.number, t.status, t.score, t.best_epoch, t.epochs, t.seconds, *values, t.error])
    with atomic_path(path) as temporary:
        temporary.write_text(table.getvalue(), encoding="utf-8")
