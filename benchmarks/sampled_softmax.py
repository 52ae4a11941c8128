"""A training step over a large catalogue, full softmax against a sampled one, and what sampling costs in quality.

``python benchmarks/sampled_softmax.py step [--items 400000] [--negatives 1024] [--repeats 3]``: SASRec's own model and
trainer step on random sequences (256 rows, 10 targets each); the forms take turns in one process. A form's ``without
its optimiser`` is the loss and its gradients alone. Seconds are the processor's: the machine may be shared. The full
softmax gets blocks of 256 rows, which suit it best at this size.
``python benchmarks/sampled_softmax.py quality --dataset NAME [--data_path=DIR] [--seeds 2020,2021] [--key=value ...]``:
validation metrics of trained models, full and sampled. Both print JSON and merge it into
``benchmarks/results/sampled_softmax.json``.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import recbole_eimf
from recbole_eimf.config.config import EIMFConfig, parse_command_line
from recbole_eimf.data.dataset import TARGET_LIST
from recbole_eimf.experiment import plugin
from recbole_eimf.model.losses import partition
from recbole_eimf.trainer import trainer as trainer_module
from recbole_eimf.trainer.memory import keep_freed_memory
from recbole_eimf.trainer.trainer import InterestTrainer

RESULT = Path(__file__).parent / "results" / "sampled_softmax.json"
#: form -> (negatives counted from --negatives, keys, rows without a gradient wait)
STEPS = {
    "full softmax, float32": (0, {}, False),
    "full softmax, bfloat16": (0, {"logits_dtype": "bfloat16"}, False),
    "sampled, whole table updated": (1, {}, False),
    "sampled, uniform": (1, {}, True),
    "sampled, popularity": (1, {"negative_sampling": "popularity"}, True),
}
QUALITY = ((0, "uniform"), (512, "uniform"), (1024, "uniform"), (512, "popularity"), (1024, "popularity"))


class Catalogue:
    """As much of a data set as a model asks for."""

    def __init__(self, items: int) -> None:
        self.items = items

    def num(self, field: str) -> int:
        return self.items + 1

    def item_counts(self) -> np.ndarray:
        return np.concatenate([[0], 10**5 // np.arange(1, self.items + 1)])


def make_batch(config, items: int, seed: int, rows: int = 256):
    """Rows of 10 or 9 items by Zipf's law, a target at every position."""
    from recbole.data.interaction import Interaction

    rng = np.random.default_rng(seed)
    length = rng.integers(9, 11, rows)
    drawn = np.minimum(items, np.exp(rng.random((rows, 11)) * np.log(items)).astype(np.int64))
    inside = np.arange(10) < length[:, None]
    field = config["ITEM_ID_FIELD"]
    return Interaction({
        field + config["LIST_SUFFIX"]: torch.from_numpy(drawn[:, :-1] * inside),
        TARGET_LIST: torch.from_numpy(drawn[:, 1:] * inside),
        config["ITEM_LIST_LENGTH_FIELD"]: torch.from_numpy(length),
        field: torch.from_numpy(drawn[np.arange(rows), length]),
    })  # fmt: skip


def make_stepper(items: int, negatives: int, keys: dict, waits: bool):
    """(step without, step with the optimiser), each a function of a batch's number."""
    given = {"backbone": "SASRec", "num_negatives": negatives, "state": "ERROR", "compare_with": [], **keys}
    config = EIMFConfig("IBIM", "ml-100k", None, given)
    torch.manual_seed(0)
    net = config.model_class(config, Catalogue(items))
    lazily, trainer_module.lazy_optimiser = trainer_module.lazy_optimiser, lambda *_: None
    trainer_module.lazy_optimiser = lazily if waits else trainer_module.lazy_optimiser
    trainer = InterestTrainer(config, net)
    trainer_module.lazy_optimiser = lazily
    net.train()

    def gradients(number: int) -> None:
        trainer.optimizer.zero_grad()
        net.calculate_loss(make_batch(config, items, number)).backward()

    def step(number: int) -> None:
        gradients(number)
        trainer.optimizer.step()

    return gradients, step


def measure_steps(items: int, negatives: int, repeats: int) -> dict:
    """Median seconds of a step, and ratios to the best full softmax."""
    partition._BLOCK["cpu"] = 256 * items
    steppers = {name: make_stepper(items, negatives * some, keys, waits) for name, (some, keys, waits) in STEPS.items()}
    seconds: dict[str, list[list[float]]] = {name: [[], []] for name in steppers}
    for number in range(repeats + 1):
        for name, parts in steppers.items():
            for found, part in zip(seconds[name], parts, strict=True):
                begin = time.process_time()
                part(number)
                found.append(time.process_time() - begin)
    median = {name: [statistics.median(part[1:]) for part in parts] for name, parts in seconds.items()}
    fastest = min(whole for name, (_, whole) in median.items() if name.startswith("full"))
    return {
        name: {
            "step_seconds": round(whole, 4),
            "without its optimiser": round(alone, 4),
            "times faster than the faster full softmax": round(fastest / whole, 2),
        }
        for name, (alone, whole) in median.items()
    }


def measure_quality(dataset: str, seeds: list[int], keys: dict) -> dict:
    """Validation NDCG@10 of every form and seed, and the mean over seeds against the full softmax."""
    found: dict[str, dict] = {}
    for count, kind in QUALITY:
        name = f"{count}, {kind}" if count else "full softmax"
        runs = []
        for seed in seeds:
            given = {"backbone": "SASRec", "skip_test": True, "state": "ERROR", "show_progress": False, **keys}
            with tempfile.TemporaryDirectory() as folder:
                given |= {"num_negatives": count, "negative_sampling": kind, "seed": seed, "checkpoint_dir": folder}
                runs.append(recbole_eimf.run("IBIM", dataset, compare_with=[], **given))
        values = [run.valid["ndcg@10"] for run in runs]
        found[name] = {
            "ndcg@10": values,
            "best_epoch": [run.best_epoch for run in runs],
            "seconds_per_epoch": [run.seconds_per_epoch for run in runs],
        }
        print(name, found[name], flush=True)
    base = statistics.mean(found["full softmax"]["ndcg@10"])
    for entry in found.values():
        entry["over full softmax"] = round(statistics.mean(entry["ndcg@10"]) / base - 1, 4)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("step", "quality"))
    parser.add_argument("--items", type=int, default=400_000)
    parser.add_argument("--negatives", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--seeds", default="2020,2021")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments, rest = parser.parse_known_args()
    plugin.register_models()
    keep_freed_memory()
    logging.disable(logging.WARNING)
    report = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
    if arguments.what == "step":
        found = measure_steps(arguments.items, arguments.negatives, arguments.repeats)
        shape = {name: getattr(arguments, name) for name in ("items", "negatives", "repeats")}
        report["step"] = {**shape, "threads": torch.get_num_threads(), "forms": found}
    else:
        keys = parse_command_line(rest)
        shown = {k: v for k, v in keys.items() if not k.endswith(("_path", "_file", "_cache"))}
        found = measure_quality(arguments.dataset, [int(seed) for seed in arguments.seeds.split(",")], keys)
        report["quality"] = {"dataset": arguments.dataset, "seeds": arguments.seeds, "keys": shown, "forms": found}
    arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
