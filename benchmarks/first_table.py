"""SASRec, REMI, EIMF over both and their placebos, with real LLM replies: several seeds, equal training effort.

``python benchmarks/first_table.py --dataset amazon-office --protocol user_split --data_path DIR --interests DIR
--runs DIR --out benchmarks/results/NAME.json [--seeds 3] [--parallel 4] [--models ...] [--key=value ...]``

Each run is a process and a folder under ``--runs``; a finished one is not made again, so the command can be stopped and
repeated. Every model trains with its backbone's recipe (properties/backbone), early stopping on the same validation
metric; EIMF and its placebo change nothing of it. Under leave_one_out each model is scored with the history masked and
not masked; the checkpoint is the one chosen by the masked validation metric.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

MODELS = {
    "Popularity": ["--model=Popularity"],
    "Markov": ["--model=Markov"],
    "DecayedItemKNN": ["--model=DecayedItemKNN"],
    "SASRec": ["--model=IBIM", "--backbone=SASRec"],
    "EIMF(SASRec)": ["--model=EIMF", "--backbone=SASRec", "--interest_source=file"],
    "EIMF(SASRec) placebo": ["--model=EIMF", "--backbone=SASRec", "--interest_source=shuffled"],
    "REMI": ["--model=IBIM", "--backbone=REMI"],
    "EIMF(REMI)": ["--model=EIMF", "--backbone=REMI", "--interest_source=file"],
    "EIMF(REMI) placebo": ["--model=EIMF", "--backbone=REMI", "--interest_source=shuffled"],
}
COUNTING = ("Popularity", "Markov", "DecayedItemKNN")
EVALUATE = (
    "import json, sys; from recbole_eimf.quick_start import evaluate; "
    "print('RESULT' + json.dumps(evaluate(sys.argv[1], mask_history=False, state='ERROR')))"
)


def one(folder: Path, arguments: list[str], unmasked: bool) -> None:
    """Train one model in a process of its own, unless its result is there."""
    folder.mkdir(parents=True, exist_ok=True)
    front = Path(__file__).resolve().parent.parent / "run_recbole_eimf.py"
    if not (folder / "result.json").is_file():
        with open(folder / "log.txt", "w", encoding="utf-8") as log:
            command = [sys.executable, str(front), *arguments, f"--output_dir={folder}", "--resume=True"]
            subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=True, cwd=folder)
    if unmasked and not (folder / "unmasked.json").is_file():
        command = [sys.executable, "-c", EVALUATE, str(folder / "model.pth")]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
        line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))
        (folder / "unmasked.json").write_text(line.removeprefix("RESULT"))


def spread(values: list[float]) -> dict[str, float]:
    """Mean and sample standard deviation, in percent."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": round(100 * statistics.mean(values), 3), "std": round(100 * deviation, 3)}


def summarise(folders: list[Path]) -> dict:
    results = [json.loads((f / "result.json").read_text()) for f in folders]
    row = {
        "seeds": [r["seed"] for r in results],
        "epochs": [r["epochs"] for r in results],
        "seconds_per_epoch": [r["seconds_per_epoch"] for r in results],
        "parameters": results[0]["parameters"],
        "valid": {m: spread([r["valid"][m] for r in results]) for m in results[0]["valid"]},
        "test": {m: spread([r["test"][m] for r in results]) for m in results[0]["test"]},
    }
    if all((f / "unmasked.json").is_file() for f in folders):
        loose = [json.loads((f / "unmasked.json").read_text()) for f in folders]
        row["test_history_not_masked"] = {m: spread([r[m] for r in loose]) for m in loose[0]}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("dataset", "protocol", "data_path", "interests", "runs", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--parallel", type=int, default=2)
    parser.add_argument("--models", default=",".join(MODELS))
    wanted, rest = parser.parse_known_args()
    alone = wanted.protocol == "leave_one_out"
    interests = Path(wanted.interests).resolve()
    common = [f"--dataset={wanted.dataset}", f"--protocol={wanted.protocol}",
              f"--data_path={Path(wanted.data_path).resolve()}", f"--mask_history={alone}",
              f"--valid_metric={'NDCG@10' if alone else 'Recall@50'}", "--show_progress=False", "--num_threads=1",
              "--state=WARNING", "--compare_with=[]", *rest]  # fmt: skip
    side = [f"--interest_file={interests / 'interests.jsonl'}", f"--assignment_file={interests / 'assignment.csv.gz'}"]
    jobs: dict[str, list[Path]] = {}
    with ThreadPoolExecutor(wanted.parallel) as pool:
        waiting = {}
        for seed in range(wanted.seeds):
            for name in wanted.models.split(","):
                if name in COUNTING and seed:
                    continue
                folder = Path(wanted.runs).resolve() / f"{name.replace(' ', '-')}-{seed}"
                extra = side if "EIMF" in name else []
                waiting[pool.submit(one, folder, [*MODELS[name], *common, *extra, f"--seed={2020 + seed}"], alone)] = (
                    folder
                )
                jobs.setdefault(name, []).append(folder)
        begin = time.time()
        for future in tqdm(waiting, desc="runs"):
            future.result()
            done = {n: f for n, f in jobs.items() if all((x / "result.json").is_file() for x in f)}
            report = {
                "command": " ".join(["python benchmarks/first_table.py", f"--dataset {wanted.dataset}",
                                     f"--protocol {wanted.protocol}", f"--seeds {wanted.seeds}",
                                     *(a for a in rest if "semantic_cache" not in a)]),
                "unit": "percent",
                "mask_history": alone,
                "models": {name: summarise(folders) for name, folders in done.items()},
            }  # fmt: skip
            Path(wanted.out).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"{len(waiting)} runs in {time.time() - begin:.0f} s: {wanted.out}")


if __name__ == "__main__":
    main()
