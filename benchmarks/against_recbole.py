"""RecBole 1.2.1's SASRec and GRU4Rec as shipped against ours: seconds per epoch, and until the same validation NDCG@10.

    python benchmarks/against_recbole.py epochs --dataset ml-100k --data_path DIR
    python benchmarks/against_recbole.py quality --dataset ml-100k --data_path DIR [--only "RecBole SASRec" ...]
    python benchmarks/against_recbole.py sooner --dataset ml-100k

RecBole runs with its own data set, loader, trainer and defaults (cross entropy over all items, 2,048 rows a batch) and
with the autograd anomaly mode that its import leaves on; ``plugin.register_models`` only restores the NumPy names and
pandas and torch behaviour without which it does not start. Every contestant is a process with one thread by default;
they take turns, and ratios are of CPU seconds, which other users of the machine disturb less than wall seconds. All
read the same sequences (ranks as time stamps), and the numbers of training targets are compared.

``epochs``: ours run whole epochs, RecBole ``--batches`` batches at a time, and its epoch is the mean seconds of a batch
times its batches (random rows of one width: they all cost the same).

``quality``: everyone trains with a validation after every epoch: full ranking, nothing masked, its seconds not counted.
With ``--quick_peer`` RecBole trains without anomaly mode and with freed memory kept: the same arithmetic, so the same
metrics after every epoch, in a fraction of the time.

``sooner``: CPU seconds of training until RecBole's best NDCG@10, and 95 % of it; an epoch of a quick peer counts with
the seconds that ``epochs`` measured for RecBole as shipped, where it did, else with its own.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from contest import RESULTS, Contestant, in_turns, merge_result, ranked_copy, spread

METRIC = "ndcg@10"
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "SASRec": ("IBIM", {"backbone": "SASRec"}),
    "GRU4Rec": ("IBIM", {"backbone": "GRU4Rec"}),
    "EIMF(SASRec)": ("EIMF", {"backbone": "SASRec"}),
    "PAD(SASRec)": ("PAD", {"backbone": "SASRec"}),
}
OURS |= {
    f"{name}, bfloat16 logits": (model, {**keys, "logits_dtype": "bfloat16"}) for name, (model, keys) in OURS.items()
}
STOCK = ("RecBole SASRec", "RecBole GRU4Rec")
PEER = {name: "RecBole GRU4Rec" if name.startswith("GRU4Rec") else "RecBole SASRec" for name in OURS}


class FirstBatches:
    """The first batches of a loader, as a loader."""

    def __init__(self, loader: Any, count: int) -> None:
        self.loader, self.count = loader, count

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return min(self.count, len(self.loader))

    def __iter__(self):
        return islice(iter(self.loader), self.count)


def make(
    name: str, dataset: str, folder: str, length: int, cache: str, quick_peer: bool, keys: dict[str, Any]
) -> Callable[..., Any]:
    """Load data, model and trainer of a contestant in its own process; return what answers its questions."""
    import torch

    from recbole_eimf.experiment import plugin

    logging.disable(logging.WARNING)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    plugin.register_models()
    torch.manual_seed(0)
    given = {"data_path": folder, "MAX_ITEM_LIST_LENGTH": length, "state": "ERROR", "show_progress": False}
    given["load_col"] = {"inter": ["user_id", "item_id", "timestamp"]}
    begin = time.perf_counter()
    if name in STOCK:
        config, train, valid, trainer = _stock(name.removeprefix("RecBole "), dataset, quick_peer, given)
    else:
        model, own = OURS[name]
        config, train, valid, trainer = _ours(model, dataset, {**given, "semantic_cache": cache, **own, **keys})
    facts = {
        "targets": _targets(train),
        "batches": len(train),
        "batch_rows": train.step,
        "load_seconds": round(time.perf_counter() - begin, 2),
        "parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
    }

    def answer(question: str, *arguments: Any) -> Any:
        if question == "facts":
            return facts
        if question == "batches":
            few = FirstBatches(train, arguments[0])
            return [seconds / len(few) * len(train) for seconds in _timed(trainer, few)]
        if question == "epoch":
            return _timed(trainer, train)
        return _curve(name, trainer, config, train, valid, *arguments)

    return answer


def _stock(model: str, dataset: str, quick: bool, given: dict[str, Any]) -> tuple:
    import torch
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.trainer import Trainer
    from recbole.utils import get_model, init_seed

    from recbole_eimf.trainer.memory import keep_freed_memory

    torch.autograd.set_detect_anomaly(not quick)
    if quick:
        keep_freed_memory()
    config = Config(model, dataset, None, {"train_neg_sample_args": None, **given})
    init_seed(config["seed"], config["reproducibility"])
    train, valid, _ = data_preparation(config, create_dataset(config))
    return config, train, valid, Trainer(config, get_model(model)(config, train._dataset))


def _ours(model: str, dataset: str, given: dict[str, Any]) -> tuple:
    from recbole.utils import init_seed

    from recbole_eimf.config.config import EIMFConfig
    from recbole_eimf.experiment import assembly
    from recbole_eimf.trainer.memory import keep_freed_memory

    keep_freed_memory()
    config = EIMFConfig(model, dataset, None, {"compare_with": [], "phase_cache": False, **given})
    init_seed(config["seed"], config["reproducibility"])
    train, valid, _ = assembly.loaders(config)
    return config, train, valid, assembly.trainer(config, config.model_class(config, train._dataset))


def _targets(train: Any) -> int:
    """RecBole makes a row for every target; a row of the sequence view has many, and context before them."""
    data = train._dataset
    return int(data.view.targets.sum()) if getattr(data, "view_name", None) == "sequence" else len(data)


def _timed(trainer: Any, loader: Any) -> list[float]:
    """CPU and wall seconds of training on a loader."""
    cpu, wall = time.process_time(), time.perf_counter()
    trainer._train_epoch(loader, 0)
    return [time.process_time() - cpu, time.perf_counter() - wall]


def _curve(
    name: str, trainer: Any, config: Any, train: Any, valid: Any, epochs: int, patience: int
) -> list[dict[str, Any]]:
    """Train; return for every validation the CPU and wall seconds of training so far and the metric.

    RecBole's own epoch methods are wrapped, below ours: that counts every phase of a model that has several.
    """
    from recbole.trainer import Trainer

    from recbole_eimf.config.config import is_ours

    curve: list[dict[str, Any]] = []
    spent = {"cpu_seconds": 0.0, "wall_seconds": 0.0}
    train_epoch, valid_epoch = Trainer._train_epoch, Trainer._valid_epoch

    def timed_train(self, *args, **kwargs):
        wall, cpu = time.perf_counter(), time.process_time()
        losses = train_epoch(self, *args, **kwargs)
        spent["wall_seconds"] += time.perf_counter() - wall
        spent["cpu_seconds"] += time.process_time() - cpu
        return losses

    def kept_valid(self, *args, **kwargs):
        score, result = valid_epoch(self, *args, **kwargs)
        if self.model is trainer.model:  # not a part that is trained before the whole
            spent_now = {key: round(value, 2) for key, value in spent.items()}
            curve.append({**spent_now, METRIC: round(float(result[METRIC]), 6)})
            print(name, len(curve), curve[-1], flush=True)
        return score, result

    Trainer._train_epoch, Trainer._valid_epoch = timed_train, kept_valid
    if not is_ours(config.model_class if hasattr(config, "model_class") else type(trainer.model)):
        # RecBole's early stopping looks at MRR@10 by default: let the one metric that is compared decide for all
        trainer.valid_metric, trainer.epochs, trainer.stopping_step = METRIC, epochs, patience
    trainer.fit(train, valid, verbose=False, saved=False, show_progress=False)
    return curve


def measure_epochs(contestants: dict[str, Contestant], arguments: argparse.Namespace) -> None:
    """Time everyone's epochs in turns; write seconds and ratios."""
    facts = {name: contestant.ask("facts") for name, contestant in contestants.items()}
    questions = {name: ("batches", arguments.batches) if name in STOCK else ("epoch",) for name in contestants}
    for name, contestant in contestants.items():  # warm-up
        contestant.ask(*(("batches", 2) if name in STOCK else ("epoch",)))
    answers = in_turns(contestants, arguments.repeats, lambda name: questions[name])
    seconds = {name: [cpu for cpu, _ in turns] for name, turns in answers.items()}
    wall = {name: [wall for _, wall in turns] for name, turns in answers.items()}
    entry: dict[str, Any] = {
        "threads": int(os.environ["OMP_NUM_THREADS"]),
        "MAX_ITEM_LIST_LENGTH": arguments.length,
        "repeats": arguments.repeats,
        "recbole_batches_timed_each_repeat": arguments.batches,
        "contestants": {
            name: {
                **facts[name],
                "epoch_cpu_seconds": spread(seconds[name]),
                "epoch_wall_seconds": spread(wall[name]),
            }
            for name in contestants
        },
    }
    for name in OURS:
        if name in contestants and PEER[name] in contestants:
            # round by round: both sides of a ratio were measured within minutes of each other
            ratios = [theirs / ours for theirs, ours in zip(seconds[PEER[name]], seconds[name])]
            entry["contestants"][name]["times_faster_than_" + PEER[name].replace(" ", "_")] = round(
                statistics.median(ratios), 1
            )
    entry["same_targets"] = len({fact["targets"] for fact in facts.values()}) == 1
    merge_result("against_recbole", entry, arguments.dataset, "epochs" + arguments.label)


def measure_quality(contestants: dict[str, Contestant], arguments: argparse.Namespace) -> None:
    """Train everyone in turn, writing each curve when it is whole."""
    for name, contestant in contestants.items():
        curve = contestant.ask("curve", arguments.epochs, arguments.patience)
        entry = {
            "threads": int(os.environ["OMP_NUM_THREADS"]),
            "quick_peer": arguments.quick_peer and name in STOCK,
            "best": max(point[METRIC] for point in curve),
            "validations": len(curve),
            "curve": curve,
        }
        merge_result("against_recbole", entry, arguments.dataset, "quality", name + arguments.label)


def compare_times(dataset: str) -> None:
    """Compute from the results when everyone reached RecBole's best, and most of it."""
    known = json.loads((RESULTS / "against_recbole.json").read_text())[dataset]
    curves, costs = known["quality"], known.get("epochs", {}).get("contestants", {})
    for name in curves:
        peer = PEER.get(name.split(";")[0])
        if peer not in curves:
            continue
        quick, priced = curves[peer]["quick_peer"], curves[peer]["curve"]
        if quick and peer in costs:
            seconds = costs[peer]["epoch_cpu_seconds"]["median"]
            priced = [{**point, "cpu_seconds": epoch * seconds} for epoch, point in enumerate(priced, 1)]
        entry: dict[str, Any] = {"peer": peer, "peer_priced_as_shipped": not quick or peer in costs}
        for share in (1.0, 0.95):
            level = share * curves[peer]["best"]
            times = [
                next((point["cpu_seconds"] for point in curve if point[METRIC] >= level), None)
                for curve in (priced, curves[name]["curve"])
            ]
            sooner = None if times[1] is None else round(times[0] / times[1], 1)
            entry[f"{share:.0%} of the peer's best"] = {
                METRIC: round(level, 5),
                "peer_seconds": times[0],
                "our_seconds": times[1],
                "times_sooner": sooner,
            }
        merge_result("against_recbole", entry, dataset, "sooner", name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measure", choices=["epochs", "quality", "sooner"])
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--data_path", default="dataset_atomic")
    parser.add_argument("--semantic_cache", default=".cache/recbole_eimf")
    parser.add_argument("--length", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batches", type=int, default=6, help="RecBole's batches in a timed turn")
    parser.add_argument("--epochs", type=int, default=60, help="at most, in quality")
    parser.add_argument("--patience", type=int, default=10, help="validations without a gain, in quality")
    parser.add_argument("--quick_peer", action="store_true")
    parser.add_argument("--label", default="", help="after the names of results, to keep those of other runs")
    parser.add_argument("--only", nargs="+", choices=[*STOCK, *OURS], default=[*STOCK, *OURS])
    arguments, rest = parser.parse_known_args()
    if arguments.measure == "sooner":
        compare_times(arguments.dataset)
        return
    from recbole_eimf.config.config import parse_command_line

    keys = parse_command_line(rest)
    if arguments.measure == "quality":
        keys = {"epochs": arguments.epochs, "stopping_step": arguments.patience, **keys}
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    cache = str(Path(arguments.semantic_cache).absolute())
    with tempfile.TemporaryDirectory() as folder:
        ranked_copy(arguments.dataset, arguments.data_path, folder)
        os.chdir(folder)  # RecBole writes logs where it stands
        contestants = {
            name: Contestant(make, name, arguments.dataset, folder, arguments.length, cache, arguments.quick_peer, keys)
            for name in arguments.only
        }
        try:
            (measure_epochs if arguments.measure == "epochs" else measure_quality)(contestants, arguments)
        finally:
            for contestant in contestants.values():
                contestant.close()


if __name__ == "__main__":
    main()
