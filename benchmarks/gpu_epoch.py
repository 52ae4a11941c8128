"""What an epoch costs on a GPU, and whether it waits for batches: a table of models by settings.

    python benchmarks/gpu_epoch.py --dataset ml-1m --data_path=DIR [--models SASRec EIMF[SASRec] ...] [--key=value]

Each cell is a model of its own: one epoch that does not count, then ``--turns`` epochs; seconds are of the clock, with
the device idle at both ends. ``waiting`` is the part of an epoch in which the loop waits for its next batch: a loader
that starves the GPU shows there. ``validation`` ranks every item for the validation users; ``peak_mib`` is what torch
had allocated at most. Models are written as in ``compare``: ``SASRec``, ``EIMF[REMI]``, ``RecBole[SASRec]``.
``--device=cpu`` runs the same for a try.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
from contest import merge_result

from recbole_eimf.config.config import EIMFConfig, parse_command_line
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.experiment import assembly, plugin
from recbole_eimf.study.rows import parse_model

_NARROW = {"logits_dtype": "bfloat16", "enable_amp": True, "amp_dtype": "bfloat16"}
SETTINGS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16 logits": {"logits_dtype": "bfloat16"},
    "amp": _NARROW,
    "amp, compiled": {**_NARROW, "torch_compile": True},
    "amp, batches not ahead": _NARROW,
}


class Watched:
    """A loader that adds up how long its user waits for batches."""

    def __init__(self, loader: Any) -> None:
        self.loader, self.waited = loader, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.loader)
        while True:
            begin = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - begin
            if batch is None:
                return
            yield batch


def clock() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(model: str, keys: dict[str, Any], dataset: str, settings: str, turns: int) -> dict[str, Any]:
    """One cell of the table."""
    given = {"state": "ERROR", "show_progress": False, "compare_with": [], **keys, **SETTINGS[settings]}
    config = EIMFConfig(model, dataset, None, given)
    torch.manual_seed(0)
    train, valid, _ = assembly.loaders(config)
    if settings.endswith("not ahead"):
        train.ahead = valid.ahead = False
    trainer = assembly.trainer(config, config.model_class(config, train._dataset).to(config["device"]))
    trainer.eval_collector.data_collect(train)
    on_gpu = config["device"].type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    found: dict[str, list[float]] = {"epoch": [], "waiting": [], "validation": []}
    for epoch in range(turns + 1):
        watched = Watched(train)
        begin = clock()
        trainer._train_epoch(watched, epoch)
        between = clock()
        trainer.evaluate(valid, load_best_model=False)
        spent = {"epoch": between - begin, "waiting": watched.waited, "validation": clock() - between}
        for part in found if epoch else ():
            found[part].append(spent[part])
    report: dict[str, Any] = {f"{part}_seconds": round(statistics.median(each), 3) for part, each in found.items()}
    report["peak_mib"] = round(torch.cuda.max_memory_allocated() / 2**20) if on_gpu else None
    return {**report, "turns": turns, "batches": len(train), "device": device_name(config["device"])}


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--models", nargs="+", default=["SASRec", "BERT4Rec", "REMI", "EIMF[SASRec]", "PAD[SASRec]"])
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    arguments, rest = parser.parse_known_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU; --device=cpu runs the same on the processor.")
    keys = {**parse_command_line(rest), "use_gpu": arguments.device == "cuda"}
    plugin.register_models()
    logging.disable(logging.WARNING)
    for row in [parse_model(name) for name in arguments.models]:
        for settings in arguments.settings:
            try:
                entry = measure(row.model, {**keys, **row.keys}, arguments.dataset, settings, arguments.turns)
            except (ConfigError, torch.cuda.OutOfMemoryError) as error:  # the rest of the table is still wanted
                entry = {"error": str(error).splitlines()[0]}
            merge_result("gpu_epoch", entry, arguments.dataset, row.name, settings)


if __name__ == "__main__":
    main()
