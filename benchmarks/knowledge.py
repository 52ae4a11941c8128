"""What an LLM's knowledge of items is worth, beside its placebo: runs, ranks and paired tests into one JSON file.

    python benchmarks/knowledge.py run OUT PLAN.yaml --data_path=DIR --knowledge_file=FILE    # trains what is missing
    python benchmarks/knowledge.py table OUT PLAN.yaml        # benchmarks/results/PLAN.json

A row with ``base`` is another row's training under a score prior, weighed on validation.

PLAN.yaml: ``shared`` keys, ``seeds`` and ``rows``: name -> {model, keys}. A row ``X`` whose knowledge is shuffled is
called ``X/shuffled``; it and ``against`` are what X is tested against, over users, seeds averaged.

``folds: n`` in place of ``seeds``: under ``protocol=user_split`` the users are cut into n parts by chance; each part is
tested once, by a model that trains on all others but one, which validates, with a training seed of its own. So every
user of the data set is tested, once, and the test over users has all of them.
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

FIRST_SEED = 2020
METRICS = ("hit@10", "ndcg@10", "ndcg@50", "recall@50")
SLICES = {"all": None, "seen <= 5 times": ("0", "1-5"), "history of 1-5": ("history_1-5",),
          "history of 6-20": ("history_6-20",), "history of > 20": ("history_>20",)}  # fmt: skip


def run_all(out: Path, plan: dict[str, Any], only: str | None) -> None:
    import recbole_eimf

    seeds = plan.get("seeds") or [FIRST_SEED + fold for fold in range(plan["folds"])]
    splits = write_folds(out, plan) if plan.get("folds") else {}
    for seed in seeds:
        for name, row in plan["rows"].items():
            folder = out / name.replace("/", "-") / str(seed)
            if (folder / "result.json").is_file() or (only and not fnmatch(name, only)):
                continue
            if seed != seeds[0] and row.get("counts"):
                continue
            keys = {**plan["shared"], **row.get("keys", {}), **splits.get(seed, {}), "seed": seed}
            if base := row.get("base"):
                trained = out / base.replace("/", "-") / str(seed)
                if not (trained / "result.json").is_file():
                    continue
                weigh(trained, folder, row["model"], keys)
                print(name, seed, json.loads((folder / "result.json").read_text()), flush=True)
                continue
            keys["output_dir"] = str(folder)
            found = recbole_eimf.run(row["model"], keys.pop("dataset"), **keys)
            print(name, seed, {k: round(100 * v, 2) for k, v in found.test.items() if k in METRICS}, flush=True)


def write_folds(out: Path, plan: dict[str, Any]) -> dict[int, dict[str, str]]:
    """A split file for each fold, under the fold's training seed."""
    name, folds = plan["shared"]["dataset"], plan["folds"]
    with (Path(plan["shared"]["data_path"]) / name / f"{name}.inter").open() as file:
        column = next(file).split("\t").index("user_id:token")
        users = sorted({line.rstrip("\n").split("\t")[column] for line in file})
    part = np.random.default_rng(FIRST_SEED).permutation(np.arange(len(users)) % folds)
    files = {}
    for fold in range(folds):
        said = {fold: "test", (fold + 1) % folds: "valid"}
        lines = [f"{user},{said.get(its, 'train')}\n" for user, its in zip(users, part.tolist())]
        path = out / f"fold-{fold}.csv"
        out.mkdir(parents=True, exist_ok=True)
        path.write_text("user_id,part\n" + "".join(lines))
        files[FIRST_SEED + fold] = {"split_file": str(path)}
    return files


def weigh(base: Path, folder: Path, name: str, keys: dict[str, Any]) -> None:
    """A trained run under another prior, whose weights are chosen on validation: the training would be the same."""
    from recbole_eimf.config.config import EIMFConfig
    from recbole_eimf.experiment import assembly, one_run, plugin
    from recbole_eimf.model.score_prior import PARTS
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
    weights = dict(zip(PARTS, model.prior.weight.tolist(), strict=True))
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
    # folds test users of their own, one after the other; seeds test the same ones
    joined, of_each = (np.concatenate, "of_folds") if plan.get("folds") else (np.stack, "of_seeds")
    found: dict[str, Any] = {}
    for name, runs in read.items():
        row = plan["rows"][name]
        entry: dict[str, Any] = {"model": row["model"], "keys": row.get("keys", {}), "runs": len(runs)}
        tested = runs if plan.get("folds") else runs[:1]
        entry["users"], entry["targets"] = (sum(len(getattr(r, f)) for r in tested) for f in ("user", "target_row"))
        if row.get("base"):
            results = sorted((out / name.replace("/", "-")).glob("*/result.json"))
            weights = [json.loads(f.read_text())["weights"] for f in results]
            entry[f"weights ({', '.join(weights[0])})"] = [list(each.values()) for each in weights]
        placebo = f"{name}/shuffled"
        for label, slices in SLICES.items():
            if slices and not {*slices} <= {*runs[0].slices, *runs[0].mark_names}:
                continue  # made before there were such slices
            for metric in METRICS:
                each = [per_user(ranks, metric, slices) for ranks in runs]
                values = joined(each)
                cell: dict[str, Any] = {"percent": round(100 * float(np.nanmean(values)), 3)}
                cell[of_each] = [round(100 * float(np.nanmean(v)), 3) for v in each]
                for other in [placebo, *row.get("against", [])]:
                    if other in read:
                        theirs = joined([per_user(ranks, metric, slices) for ranks in read[other]])
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
        if options.seed:
            plan["seeds"] = [options.seed]
        run_all(options.out, plan, options.only)
    else:
        results = Path(__file__).parent / "results" / f"{options.plan.stem}.json"
        results.write_text(json.dumps(table(options.out, plan), indent=1) + "\n")
        print(results)


if __name__ == "__main__":
    main()
