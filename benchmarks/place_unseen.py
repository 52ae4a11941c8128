"""What runs under ``global_time`` find once the items that training never saw are placed by their text.

Nothing is trained: the finished runs of a study are evaluated with ``place_unseen=True``, and both are tested against a
row that reads text, on all targets and on those that training saw, paired over users. ``--floor RUN`` is a run of that
row with ``place_unseen=True``, which they are tested against too.

    python benchmarks/place_unseen.py RUNS --rows SASRec,EIMF-SASRec --against ItemKNN+text --out FILE [--KEY=VALUE ...]

RUNS is the folder ``runs`` of a study; keys are those that evaluation needs (``--data_path``, ``--semantic_cache``).
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

import recbole_eimf
from recbole_eimf.config.yaml_file import parse_command_line
from recbole_eimf.core.files import write_json
from recbole_eimf.evaluator.ranks import Ranks, read_ranks
from recbole_eimf.evaluator.significance import paired_test

METRICS = ("ndcg@10", "ndcg@50", "recall@50", "hit@10")


def with_kinds(ranks: Ranks) -> Ranks:
    """With slices ``all``, ``seen`` and ``unseen``."""
    seen = ranks.target_count > 0
    marked = np.stack([np.ones_like(seen), seen, ~seen], 1).astype(np.uint8)
    return replace(ranks, marked=marked, mark_names=("all", "seen", "unseen"), slices={})


def values(found: list[Ranks], metric: str, kind: str) -> np.ndarray:
    """Mean over seeds, for every row of the test, NaN where it has no such target."""
    return np.mean([ranks.per_user(metric, kind) for ranks in found], 0)


def figures(found: list[Ranks], other: list[Ranks]) -> dict:
    """Of each kind of target and metric: mean and deviation over seeds, the difference from ``other`` and its test."""
    told: dict = {"seeds": len(found)}
    for kind in found[0].mark_names:
        told[kind] = {"targets": int(found[0].marks[kind].sum())}
        for metric in METRICS:
            mine, theirs = (values(each, metric, kind) for each in (found, other))
            asked = ~np.isnan(mine)
            test = paired_test(mine[asked], theirs[asked], user=found[0].user[asked])
            each = [100 * ranks.mean(metric, kind) for ranks in found]
            told[kind][metric] = {
                "mean": round(float(np.mean(each)), 3),
                "std": round(float(np.std(each, ddof=1)), 3) if len(each) > 1 else None,
                "against": round(100 * float(theirs[asked].mean()), 3),
                "difference": round(100 * test.difference, 3),
                "confidence_interval": [round(100 * end, 3) for end in test.confidence_interval],
                "p_value": test.p_value,
                "users": test.users,
            }
    return told


def placed(run: Path, keys: dict) -> Ranks:
    with tempfile.TemporaryDirectory() as folder:
        recbole_eimf.evaluate(run, folder, place_unseen=True, show_progress=False, **keys)
        return with_kinds(read_ranks(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--rows", required=True)
    parser.add_argument("--against", required=True)
    parser.add_argument("--floor", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options, rest = parser.parse_known_args()
    keys = {"state": "WARNING", **parse_command_line(rest)}
    against = [with_kinds(read_ranks(run)) for run in sorted((options.runs / options.against).iterdir())]
    told: dict = {"against": options.against, "percent": True, "rows": {}}
    floor = [with_kinds(read_ranks(options.floor))] if options.floor else []
    if floor:
        told["floor placed"] = figures(floor, against)
    for row in options.rows.split(","):
        seeds = sorted((options.runs / row).iterdir())
        before, after = [with_kinds(read_ranks(run)) for run in seeds], [placed(run, keys) for run in seeds]
        told["rows"][row] = {"as trained": figures(before, against), "placed": figures(after, against),
                             "placed, over as trained": figures(after, before)}  # fmt: skip
        if floor:
            told["rows"][row]["placed, over the floor placed"] = figures(after, floor)
        write_json(options.out, told)
        print(row, {kind: told["rows"][row]["placed"][kind]["ndcg@50"] for kind in ("all", "seen", "unseen")})


if __name__ == "__main__":
    main()
