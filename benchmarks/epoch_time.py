"""Seconds per training epoch: RecBole's SASRec as shipped, ours on lazy sequences, EIMF over it. Prints JSON.

``python benchmarks/epoch_time.py --dataset NAME [--data_path DIR] [--epochs 3] [--key=value ...]``: all in one process,
one after the other, on the same threads; the first epoch of each is a warm-up and not counted. ``--stock`` adds
RecBole's own data set and loader (its augmentation takes minutes on larger data).
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time

import torch

from recbole_eimf import plugin, quick_start
from recbole_eimf.config import EIMFConfig, parse_command_line
from recbole_eimf.trainer.memory import keep_freed_memory


def seconds_per_epoch(model: str, dataset: str, epochs: int, keys: dict) -> dict:
    """Train ``epochs`` epochs after one of warm-up; median seconds, and seconds of scoring the validation users."""
    config = EIMFConfig(model, dataset, None, {"state": "ERROR", "show_progress": False, "compare_with": [], **keys})
    torch.manual_seed(0)
    train, valid, _ = quick_start._loaders(config)
    net = config.model_class(config, train._dataset)
    trainer = quick_start._trainer(config, net)
    trainer.eval_collector.data_collect(train)
    measured = []
    for epoch in range(epochs + 1):
        begin = time.perf_counter()
        trainer._train_epoch(train, epoch)
        measured.append(time.perf_counter() - begin)
    begin = time.perf_counter()
    trainer.evaluate(valid, load_best_model=False)
    scoring = time.perf_counter() - begin
    return {"epoch_seconds": round(statistics.median(measured[1:]), 3), "valid_seconds": round(scoring, 3)}


def stock_seconds(dataset: str, epochs: int, keys: dict) -> dict:
    """RecBole's SASRec, data set and loader as shipped (autograd anomaly mode on, as its import leaves it)."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.model.sequential_recommender.sasrec import SASRec
    from recbole.trainer import Trainer

    torch.autograd.set_detect_anomaly(True)
    wanted = {"train_neg_sample_args": None, "state": "ERROR", "show_progress": False, **keys}
    config = Config("SASRec", dataset, None, wanted)
    begin = time.perf_counter()
    train, _, _ = data_preparation(config, create_dataset(config))
    loading = time.perf_counter() - begin
    trainer = Trainer(config, SASRec(config, train._dataset))
    measured = []
    for epoch in range(epochs):
        begin = time.perf_counter()
        trainer._train_epoch(train, epoch)
        measured.append(time.perf_counter() - begin)
    torch.autograd.set_detect_anomaly(False)
    return {"epoch_seconds": round(statistics.median(measured), 3), "load_seconds": round(loading, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--stock", action="store_true")
    arguments, rest = parser.parse_known_args()
    keys = parse_command_line(rest)
    plugin.register_models()
    keep_freed_memory()
    logging.disable(logging.WARNING)
    shown = {k: v for k, v in keys.items() if not k.endswith(("_path", "_file", "_cache"))}  # settings, not places
    report = {"dataset": arguments.dataset, "threads": torch.get_num_threads(), "keys": shown}
    report["SASRec"] = seconds_per_epoch("IBIM", arguments.dataset, arguments.epochs, {"backbone": "SASRec", **keys})
    report["EIMF(SASRec)"] = seconds_per_epoch(
        "EIMF", arguments.dataset, arguments.epochs, {"backbone": "SASRec", **keys}
    )
    report["REMI"] = seconds_per_epoch("IBIM", arguments.dataset, arguments.epochs, {"backbone": "REMI", **keys})
    report["EIMF(REMI)"] = seconds_per_epoch("EIMF", arguments.dataset, arguments.epochs, {"backbone": "REMI", **keys})
    for base in ("SASRec", "REMI"):
        ratio = report[f"EIMF({base})"]["epoch_seconds"] / report[base]["epoch_seconds"]
        report[f"EIMF({base}) over {base}"] = round(ratio, 3)
    if arguments.stock:
        stock = {k: v for k, v in keys.items() if k in ("data_path", "MAX_ITEM_LIST_LENGTH")}
        report["SASRec, RecBole as shipped"] = stock_seconds(arguments.dataset, 1, stock)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
