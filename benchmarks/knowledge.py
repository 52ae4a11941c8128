"""What an LLM's knowledge of items is worth, beside its placebo: runs, ranks and paired tests into one JSON file.

    python benchmarks/knowledge.py run OUT PLAN.yaml --data_path=DIR --knowledge_file=FILE    # trains what is missing
    python benchmarks/knowledge.py table OUT PLAN.yaml        # benchmarks/results/PLAN.json

A row with ``base`` is another row's training under a score prior, weighed on validation.

PLAN.yaml: ``shared`` keys, ``seeds`` and ``rows``: name -> {model, keys}. A row ``X`` whose knowledge is shuffled is
called ``X/shuffled``; it and ``against`` are what X is tested against, over users, seeds averaged.
"""

from __future__ import annotations

import argparse
import json
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from recbole_eimf.config.yaml_file import parse_command_line

METRICS, SLICES = ("ndcg@10", "ndcg@50", "recall@50"), {"all": None, "seen <= 5 times": ("0", "1-5")}


def run_all(out: Path, plan: dict[str, Any], only: str | None) -> None:
    import recbole_eimf

    for seed in plan["seeds"]:
        for name, row in plan["rows"].items():
            folder = out / name.replace("/", "-") / str(seed)
            if (folder / "result.json").is_file() or (only and not fnmatch(name, only)):
                continue
            if seed != plan["seeds"][0] and row.get("counts"):
                continue
            if base := row.get("base"):
                trained = out / base.replace("/", "-") / str(seed)
                if not (trained / "result.json").is_file():
                    continue
                weigh(trained, folder, row["model"], {**plan["shared"], **row.get("keys", {}), "seed": seed})
                print(name, seed, json.loads((folder / "result.json").read_text()), flush=True)
                continue
            keys = {**plan["shared"], **row.get("keys", {}), "seed": seed, "output_dir": str(folder)}
            found = recbole_eimf.run(row["model"], keys.pop("dataset"), **keys)
            print(name, seed, {k: round(100 * v, 2) for k, v in found.test.items() if k in METRICS}, flush=True)


def weigh(base: Path, folder: Path, name: str, keys: dict[str, Any]) -> None:
    """A trained run under another prior, whose weights are chosen on validation: the training would be the same."""
    from recbole_eimf.config.config import EIMFConfig
    from recbole_eimf.experiment import assembly, one_run, plugin
    from recbole_eimf.trainer import checkpoint
    from recbole_eimf.trainer.state import read_state
    from recbole_eimf.trainer.weighing import choose_prior

    plugin.adapt_recbole()
    config = EIMFConfig(name, keys.pop("dataset"), None, keys)
    train, valid, test = assembly.loaders(config)
    model = assembly.model(config, train._dataset)
    state, _ = read_state(base / checkpoint.MODEL_FILE)
    model.load_state_dict(state, strict=False)
    trainer = assembly.trainer(config, model)
    trainer.model_folder = None
    trainer.eval_collector.data_collect(train)
    found = choose_prior(trainer, model.prior, valid)
    tested = trainer.evaluate(test, load_best_model=False)
    folder.mkdir(parents=True, exist_ok=True)
    one_run.ranks_of(trainer, test._dataset, train._dataset).write(folder)
    weights = dict(zip(("similar", "next"), model.prior.weight.tolist(), strict=True))
    result = {"weights": weights, "valid": dict(found), "test": dict(tested)}
    (folder / "result.json").write_text(json.dumps(result))


def per_user(ranks, metric: str, slices: tuple[str, ...] | None) -> np.ndarray:
    """A metric over the targets of several slices of frequency: with one target a user they do not overlap."""
    if slices is None:
        return ranks.per_user(metric)
    each = np.stack([ranks.per_user(metric, name) for name in slices])
    weight = ~np.isnan(each)
    return np.where(weight.any(0), np.nansum(each, 0) / np.maximum(weight.sum(0), 1), np.nan)


def table(out: Path, plan: dict[str, Any]) -> dict[str, Any]:
    from recbole_eimf.evaluator.ranks import read_ranks
    from recbole_eimf.evaluator.significance import paired_test

    read = {}
    for name in plan["rows"]:
        folders = sorted((out / name.replace("/", "-")).glob("*/test_ranks.safetensors"))
        if folders:
            read[name] = [read_ranks(folder.parent) for folder in folders]
    found: dict[str, Any] = {}
    for name, runs in read.items():
        row = plan["rows"][name]
        entry: dict[str, Any] = {"model": row["model"], "keys": row.get("keys", {}), "seeds": len(runs)}
        entry["users"], entry["targets"] = len(runs[0].user), len(runs[0].target_row)
        if row.get("base"):
            results = sorted((out / name.replace("/", "-")).glob("*/result.json"))
            entry["weights (similar, next)"] = [list(json.loads(f.read_text())["weights"].values()) for f in results]
        placebo = f"{name}/shuffled"
        for label, slices in SLICES.items():
            for metric in METRICS:
                values = np.stack([per_user(ranks, metric, slices) for ranks in runs])
                cell: dict[str, Any] = {
                    "percent": round(100 * float(np.nanmean(values)), 3),
                    "of_seeds": [round(100 * float(np.nanmean(v)), 3) for v in values],
                }
                for other in [placebo, *row.get("against", [])]:
                    if other in read:
                        theirs = np.stack([per_user(ranks, metric, slices) for ranks in read[other]])
                        test = paired_test(values, theirs)
                        cell[f"over {other}"] = {
                            "percent": round(100 * test.difference / float(np.nanmean(theirs)), 2),
                            "p_value": round(test.p_value, 5),
                            "users": test.users,
                        }
                entry.setdefault(label, {})[metric] = cell
        found[name] = entry
    elsewhere = ("data_path", "semantic_cache", "knowledge_file", "state", "show_progress", "compare_with")
    shared = {key: value for key, value in plan["shared"].items() if key not in elsewhere}
    return {"shared": shared, "notes": plan.get("notes", ""), "rows": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("out", type=Path)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--only", help="rows, such as SASRec*")
    parser.add_argument("--seed", type=int)
    options, words = parser.parse_known_args()
    plan = yaml.safe_load(options.plan.read_text())
    plan["shared"] |= parse_command_line(words)
    if options.what == "run":
        plan["seeds"] = [options.seed] if options.seed else plan["seeds"]
        run_all(options.out, plan, options.only)
    else:
        results = Path(__file__).parent / "results" / f"{options.plan.stem}.json"
        results.write_text(json.dumps(table(options.out, plan), indent=1) + "\n")
        print(results)


if __name__ == "__main__":
    main()
