"""Memory and time to load and split many interactions, ours and RecBole's, each in a fresh process.

``python benchmarks/load_scale.py --folder DIR [--interactions 10000000] [--users 1000000] [--items 300000]
[--recbole 1000000]``: writes synthetic atomic files (items by Zipf's law, rows in time order) to DIR and loads them
from there; RecBole's own data set loads a smaller one of the same shape, for its augmentation would not fit. Seconds
are of the clock, ``cpu_seconds`` of the processor: the machine may be shared. Prints JSON and writes it to
``benchmarks/results/load_scale.json``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

LENGTH = 50  # MAX_ITEM_LIST_LENGTH
_ROWS_AT_ONCE = 1 << 20


def write_interactions(folder: Path, interactions: int, users: int, items: int) -> str:
    """Write a data set, unless it is there, and return its name: every user has two interactions or more."""
    name = f"zipf-{interactions}-{users}-{items}"
    path = folder / name / f"{name}.inter"
    if path.is_file():
        return name
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    share = rng.exponential(size=users)
    more = rng.choice(users, interactions - 2 * users, p=share / share.sum())
    user = rng.permutation(np.concatenate([np.repeat(np.arange(users), 2), more]))
    popularity = np.arange(1, items + 1) ** -0.8
    item = rng.permutation(items)[rng.choice(items, interactions, p=popularity / popularity.sum())]
    time_ = np.sort(rng.integers(1_500_000_000, 1_700_000_000, interactions))
    with path.open("w", encoding="utf-8") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for begin in range(0, interactions, _ROWS_AT_ONCE):
            rows = slice(begin, begin + _ROWS_AT_ONCE)
            frame = pd.DataFrame({"user": user[rows], "item": item[rows], "time": time_[rows]})
            frame["user"], frame["item"] = "u" + frame["user"].astype(str), "i" + frame["item"].astype(str)
            frame.to_csv(file, sep="\t", header=False, index=False)
    return name


def load_ours(folder: Path, name: str) -> dict:
    """Seconds of our data set: loading, splitting, and making loaders through RecBole."""

    from recbole_eimf.config.config import EIMFConfig
    from recbole_eimf.data.dataset import LazySequenceDataset
    from recbole_eimf.experiment import plugin

    plugin.register_models()
    keys = {"data_path": str(folder), "state": "ERROR", "MAX_ITEM_LIST_LENGTH": LENGTH, "compare_with": []}
    config = EIMFConfig("IBIM", name, None, keys)
    measured, parts, tensors = timed(lambda: LazySequenceDataset(config), config)
    return {**measured, "tensor_gib": round(tensors / 2**30, 3), "training_rows": len(parts[0]._dataset)}


def load_recbole(folder: Path, name: str) -> dict:
    """The same of RecBole's own data set."""
    from recbole_eimf.experiment import plugin

    plugin.register_models()
    from recbole.config import Config
    from recbole.data import create_dataset

    keys = {"data_path": str(folder), "state": "ERROR", "MAX_ITEM_LIST_LENGTH": LENGTH, "train_neg_sample_args": None}
    config = Config("SASRec", name, None, {**keys, "load_col": {"inter": ["user_id", "item_id", "timestamp"]}})
    measured, parts, tensors = timed(lambda: create_dataset(config), config)
    rows = sum(len(part._dataset) for part in parts)
    return {**measured, "rows": rows, "bytes_per_row": round(tensors / rows, 1)}


def timed(make, config) -> tuple[dict, tuple, int]:
    """Load and split: (seconds and peaks, the loaders, bytes of the parts' tensors)."""
    from recbole.data import data_preparation

    start = peak_gib()
    begin, cpu = time.perf_counter(), time.process_time()
    dataset = make()
    loaded = time.perf_counter()
    parts = data_preparation(config, dataset)
    split = time.perf_counter()
    measured = {
        "load_seconds": round(loaded - begin, 1),
        "split_seconds": round(split - loaded, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "peak_gib": round(peak_gib(), 2),
        "peak_before_gib": round(start, 2),
    }
    return measured, parts, sum(x.nbytes for part in parts for x in part._dataset.inter_feat.interaction.values())


def peak_gib() -> float:
    """Peak resident memory of this process. VmHWM, unlike ru_maxrss, does not begin with the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20


def alone(what: str, folder: Path, name: str) -> dict:
    """Run ``--stage`` in a fresh process."""
    command = [sys.executable, __file__, "--folder", str(folder), "--stage", what, "--name", name]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--interactions", type=int, default=10_000_000)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=300_000)
    parser.add_argument("--recbole", type=int, default=1_000_000, help="interactions of RecBole's run; 0: none")
    parser.add_argument("--out", default=str(Path(__file__).parent / "results" / "load_scale.json"))
    parser.add_argument("--stage", choices=("ours", "recbole"), help=argparse.SUPPRESS)
    parser.add_argument("--name", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        load = load_ours if arguments.stage == "ours" else load_recbole
        print(json.dumps(load(arguments.folder, arguments.name)))
        return
    shape = (arguments.interactions, arguments.users, arguments.items)
    name = write_interactions(arguments.folder, *shape)
    report = dict(zip(("interactions", "users", "items"), shape)) | {"max_length": LENGTH}
    report["ours"] = alone("ours", arguments.folder, name)
    if arguments.recbole:
        part = arguments.recbole / arguments.interactions
        small = (arguments.recbole, int(arguments.users * part), int(arguments.items * part))
        name = write_interactions(arguments.folder, *small)
        stock = alone("recbole", arguments.folder, name)
        rows = arguments.interactions - arguments.users
        report["RecBole at a smaller size"] = {"interactions": arguments.recbole, **stock}
        report["ours at that size"] = alone("ours", arguments.folder, name)
        report["RecBole's rows at full size, GiB"] = round(rows * stock["bytes_per_row"] / 2**30, 1)
    Path(arguments.out).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
