"""Does the LLM help? EIMF against its placebo over several data sets and backbones: one test for each metric.

    python benchmarks/llm_effect.py TABLE_DIR TABLE_DIR ... [--metrics NDCG@50,Recall@50]

Each TABLE_DIR is what ``python -m recbole_eimf compare --out`` wrote with rows ``EIMF[B]`` and ``placebo[B]``. Of every
data set the mean over backbones and seeds of a user's difference is taken, over the placebo's mean; data sets count the
same, however many users they have. The p-value is of sign flips over users (a user is counted once). Tables of one data
set are not independent and may not be given together. Each backbone's own gain stands in the file too, and that of each
seed (mean over backbones): users are not the only thing that is drawn.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from contest import merge_result

from recbole_eimf.evaluator.ranks import Ranks, check_same_users, read_ranks
from recbole_eimf.evaluator.significance import holm, paired_test


def pairs(table: Path) -> dict[str, tuple[list[Path], list[Path]]]:
    """Backbone -> finished run folders of EIMF and of its placebo, of the seeds that both have."""
    found = {}
    for folder in sorted((table / "runs").glob("EIMF-*")):
        placebo = folder.with_name("placebo-" + folder.name.removeprefix("EIMF-"))
        both = ({run.parent.name for run in side.glob("*/result.json")} for side in (folder, placebo))
        seeds = sorted(set.intersection(*both))
        if seeds:
            found[folder.name.removeprefix("EIMF-")] = tuple([f / s for s in seeds] for f in (folder, placebo))
    if not found:
        raise SystemExit(f"{table}: no finished run of EIMF[...] with its placebo[...]. Give --out folders of compare.")
    return found


def gains(table: Path, metrics: list[str]) -> tuple[dict[str, Any], dict[str, np.ndarray], np.ndarray]:
    """Of one data set: what to write, for each metric every row's relative gain [R], and whose row it is [R]."""
    read: dict[Path, Ranks] = {}
    found = pairs(table)
    for folder in [f for sides in found.values() for side in sides for f in side]:
        read[folder] = read_ranks(folder)
        check_same_users(next(iter(read.values())), read[folder], (str(next(iter(read))), str(folder)))
    entry: dict[str, Any] = {"runs": {name: len(sides[0]) for name, sides in found.items()}}
    relative = {}
    for metric in metrics:
        mine, theirs = (
            np.stack([np.mean([read[f].per_user(metric) for f in sides[side]], axis=0) for sides in found.values()])
            for side in (0, 1)
        )  # [backbones, R]
        level = float(np.nanmean(theirs))
        relative[metric] = (mine - theirs).mean(axis=0) / level
        user = next(iter(read.values())).user
        test = paired_test(mine.mean(axis=0), theirs.mean(axis=0), user=user)
        entry[metric] = {
            "placebo_percent": round(100 * level, 3),
            "gain_percent": round(100 * test.difference / level, 2),
            "p_value": round(test.p_value, 5),
            "users": test.users,
            "seeds": seed_gains(found, read, metric),
            "backbones": {
                name: round(100 * float(np.nanmean(a - b) / np.nanmean(b)), 2)
                for name, a, b in zip(found, mine, theirs, strict=True)
            },
        }
    return entry, relative, user


def seed_gains(found: dict[str, Any], read: dict[Path, Ranks], metric: str) -> list[float]:
    """Percent, of every seed that all backbones have."""
    sides = [
        [{f.name: float(np.nanmean(read[f].per_user(metric))) for f in side} for side in pair]
        for pair in found.values()
    ]
    common = sorted(set.intersection(*(set(side) for pair in sides for side in pair)))
    of_seed = ([100 * (mine[seed] / theirs[seed] - 1) for mine, theirs in sides] for seed in common)
    return [round(float(np.mean(gains)), 2) for gains in of_seed]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", type=Path)
    parser.add_argument("--metrics", default="NDCG@50,Recall@50")
    options = parser.parse_args()
    metrics = options.metrics.split(",")
    datasets, rows, users = {}, {metric: [] for metric in metrics}, {metric: [] for metric in metrics}
    for table in options.tables:
        name = json.loads(next((table / "runs").glob("*/*/result.json")).read_text())["dataset"]
        if name in datasets:
            raise SystemExit(f"{table}: {name} was given already, and users may be counted once. Give one table of it.")
        datasets[name], relative, user = gains(table, metrics)
        for metric in metrics:
            there = ~np.isnan(relative[metric])
            rows[metric].append(relative[metric][there])
            users[metric].append([(name, one) for one in user[there]])
    together = {}
    for metric in metrics:
        total = sum(map(len, rows[metric]))
        # so weighted, the mean over all users is the mean over data sets
        weighted = np.concatenate([part * (total / len(part) / len(rows[metric])) for part in rows[metric]])
        _, own = np.unique([f"{name} {one}" for part in users[metric] for name, one in part], return_inverse=True)
        test = paired_test(weighted, np.zeros(total), user=own)
        together[metric] = {"gain_percent": round(100 * test.difference, 2), "p_value": round(test.p_value, 5)}
    for metric, p in zip(metrics, holm(np.array([together[m]["p_value"] for m in metrics])), strict=True):
        together[metric]["p_value_holm"] = round(float(p), 5)
    merge_result("llm_effect", {"together": together, "data sets": datasets}, "EIMF over its placebo")


if __name__ == "__main__":
    main()
