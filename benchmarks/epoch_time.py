"""What EIMF's training costs over its backbone's, in one process, epoch about epoch.

    python benchmarks/epoch_time.py --dataset amazon-prime-pantry --data_path=DIR --backbones SASRec REMI --key=value

Every model is built and trained one epoch first, which does not count. Then they take turns, an epoch each; a ratio is
the median over turns of EIMF's seconds over its backbone's in the same turn. Seconds are the processor's (of one
thread, unless OMP_NUM_THREADS says otherwise): the machine may be shared. Scoring is measured as well: it should cost
the same. Any further ``--key=value`` is configuration, for both.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from contest import merge_result

from recbole_eimf.config.config import EIMFConfig, parse_command_line
from recbole_eimf.experiment import assembly, plugin
from recbole_eimf.trainer.memory import keep_freed_memory


def trained(model: str, dataset: str, keys: dict) -> Callable[[int], tuple[float, float]]:
    """Build a model, train one epoch, return what trains another one: seconds of training and of scoring."""
    config = EIMFConfig(model, dataset, None, {"state": "ERROR", "show_progress": False, "compare_with": [], **keys})
    torch.manual_seed(0)
    train, valid, _ = assembly.loaders(config)
    trainer = assembly.trainer(config, config.model_class(config, train._dataset))
    trainer.eval_collector.data_collect(train)

    def turn(epoch: int) -> tuple[float, float]:
        begin = time.process_time()
        trainer._train_epoch(train, epoch)
        between = time.process_time()
        trainer.evaluate(valid, load_best_model=False)
        return between - begin, time.process_time() - between

    turn(0)
    return turn


def measure(backbone: str, dataset: str, turns: int, keys: dict) -> dict:
    """Seconds of the backbone and of EIMF over it, and their ratios."""
    sides = {name: trained(name, dataset, {**keys, "backbone": backbone}) for name in ("IBIM", "EIMF")}
    seconds = [{name: turn(epoch) for name, turn in sides.items()} for epoch in range(1, turns + 1)]
    report: dict = {}
    for place, part in enumerate(("epoch", "scoring")):
        for name in sides:
            found = statistics.median(s[name][place] for s in seconds)
            report[f"{part}_seconds, {'alone' if name == 'IBIM' else name}"] = round(found, 3)
        ratios = [s["EIMF"][place] / s["IBIM"][place] for s in seconds]
        report[f"{part}, EIMF over its backbone"] = round(statistics.median(ratios), 3)
        report[f"{part}, from to"] = [round(min(ratios), 3), round(max(ratios), 3)]
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--backbones", nargs="+", default=["SASRec", "REMI"])
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--label", default="", help="after the data set's name in the results")
    arguments, rest = parser.parse_known_args()
    keys = {"num_threads": int(os.environ["OMP_NUM_THREADS"]), **parse_command_line(rest)}
    plugin.register_models()
    keep_freed_memory()
    logging.disable(logging.WARNING)
    for backbone in arguments.backbones:
        shown = {k: v for k, v in keys.items() if not k.endswith(("_path", "_file", "_cache"))}  # settings, not places
        entry = {"keys": shown, "turns": arguments.turns}
        entry.update(measure(backbone, arguments.dataset, arguments.turns, keys))
        merge_result("epoch_time", entry, arguments.dataset + arguments.label, backbone)


if __name__ == "__main__":
    main()
