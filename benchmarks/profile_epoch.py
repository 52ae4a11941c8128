"""Where a training epoch's time goes, before and after the blocked softmax. Draws docs/images/profile_epoch.svg.

    python benchmarks/profile_epoch.py --dataset amazon-prime-pantry --data_path DIR [--key=value ...]

``before`` is the softmax written plainly, with the matrix of all scores; ``after`` is ours (model/partition.py). The
rest is the same program. Epochs are timed without a profiler, in turns, in CPU seconds; then torch's profiler watches
``--batches`` batches, and its shares divide the epoch among the groups. An operator belongs to the part of the step it
ran in; one of the backward pass to the part whose forward operator it differentiates.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from contest import RESULTS, merge_result
from torch.profiler import ProfilerActivity, profile, record_function

from recbole_eimf.config.config import EIMFConfig, parse_command_line
from recbole_eimf.experiment import assembly, plugin
from recbole_eimf.model import eimf
from recbole_eimf.model.losses import loss
from recbole_eimf.trainer.memory import keep_freed_memory

GROUPS = {
    "catalogue products": "#4477aa",
    "exponentials and sums over the catalogue": "#66ccee",
    "soft labels": "#228833",
    "auxiliary losses": "#ccbb44",
    "attention, feed-forward, embeddings": "#ee6677",
    "dropout's random numbers": "#aa3377",
    "optimiser": "#bbbbbb",
    "data": "#444444",
}
_BACKBONE = "attention, feed-forward, embeddings"
_PARTS = {"part: catalogue": "catalogue", "part: auxiliary": "auxiliary losses", "part: labels": "soft labels"}
_PRODUCTS = {"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"}
_RANDOM = ("aten::bernoulli", "aten::native_dropout", "aten::rand", "aten::uniform", "aten::dropout")


def plain_softmax(states, vectors, labelled, bias=None, dtype=torch.float32):
    """The same loss with its [P, N] scores, their exponentials and the gradient of both in memory."""
    logits = states.to(dtype) @ vectors[1:].to(dtype).T
    if bias is not None:
        logits = logits + bias[1:].to(dtype)
    return torch.logsumexp(logits, -1).float().mean() - labelled.mean()


def in_part(function: Callable, part: str) -> Callable:
    """Run ``function`` under a name that the profiler sees."""

    def named(*args: Any, **kwargs: Any) -> Any:
        with record_function(f"part: {part}"):
            return function(*args, **kwargs)

    return named


class Batches:
    """A loader whose own work has a name; the first ``count`` batches, or all."""

    def __init__(self, loader: Any, count: int | None = None) -> None:
        self.loader, self.count = loader, count

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return min(self.count or len(self.loader), len(self.loader))

    def __iter__(self) -> Iterator:
        source = islice(iter(self.loader), self.count)
        while True:
            with record_function("part: data"):
                batch = next(source, None)
            if batch is None:
                return
            yield batch


@contextmanager
def softmax(form: str) -> Iterator[None]:
    """Use one form of the softmax inside, with names on the parts of a step."""
    original = loss.full_softmax_loss, eimf.EIMF._auxiliary_losses, eimf.EIMF._labelled_score
    loss.full_softmax_loss = in_part(plain_softmax if form == "before" else original[0], "catalogue")
    eimf.EIMF._auxiliary_losses = in_part(original[1], "auxiliary")
    eimf.EIMF._labelled_score = in_part(original[2], "labels")
    try:
        yield
    finally:
        loss.full_softmax_loss, eimf.EIMF._auxiliary_losses, eimf.EIMF._labelled_score = original


def shares(trainer: Any, train: Any, batches: int) -> dict[str, float]:
    """Share of each group in the CPU time of some batches, adding to 1."""
    with profile(activities=[ProfilerActivity.CPU]) as watched:
        trainer._train_epoch(Batches(train, batches), 0)
    events = watched.events()
    part_of_forward = {e.sequence_nr: _part(e) for e in events if e.sequence_nr >= 0 and not _backward_node(e)}
    spent: dict[str, float] = defaultdict(float)
    for event in events:
        node = _backward_node(event)
        part = part_of_forward.get(node.sequence_nr, _BACKBONE) if node is not None else _part(event)
        spent[_group(event.name, part)] += event.self_cpu_time_total
    total = sum(spent.values())
    return {group: spent[group] / total for group in GROUPS}


def _ancestors(event: Any) -> Iterator[Any]:
    while event is not None:
        yield event
        event = event.cpu_parent


def _backward_node(event: Any) -> Any:
    """The node of the backward pass that an operator ran for, or None in the forward pass."""
    return next((e for e in _ancestors(event) if e.name.startswith("autograd::engine::evaluate_function")), None)


def _part(event: Any) -> str:
    found = _BACKBONE
    for ancestor in _ancestors(event):  # the outermost part: eq. 9 has a catalogue of its own
        if ancestor.name.startswith("Optimizer."):
            return "optimiser"
        if ancestor.name == "part: data":
            return "data"
        found = _PARTS.get(ancestor.name, found)
    return found


def _group(name: str, part: str) -> str:
    if part == "catalogue":
        return "catalogue products" if name in _PRODUCTS else "exponentials and sums over the catalogue"
    if part == _BACKBONE and name.startswith(_RANDOM):
        return "dropout's random numbers"
    return part


def measure(model: str, arguments: argparse.Namespace, keys: dict[str, Any]) -> dict[str, Any]:
    """CPU seconds of an epoch in both forms, and the groups' shares of them."""
    fixed = {"backbone": "SASRec", "compare_with": [], "state": "ERROR", "show_progress": False}
    config = EIMFConfig(model, arguments.dataset, None, {**fixed, **keys})
    torch.manual_seed(0)
    train, _, _ = assembly.loaders(config)
    trainer = assembly.trainer(config, config.model_class(config, train._dataset))
    seconds: dict[str, list[float]] = {"before": [], "after": []}
    for turn in range(arguments.repeats + 1):
        for form, measured in seconds.items():
            with softmax(form):
                begin = time.process_time()
                trainer._train_epoch(Batches(train, arguments.warm_up if turn == 0 else None), 0)
                measured.append(time.process_time() - begin)
    found: dict[str, Any] = {}
    for form, measured in seconds.items():
        with softmax(form):
            parts = shares(trainer, train, arguments.batches)
        epoch = statistics.median(measured[1:])
        found[form] = {
            "epoch_cpu_seconds": round(epoch, 2),
            "groups": {group: round(share * epoch, 3) for group, share in parts.items()},
        }
    found["before_over_after"] = round(
        statistics.median(b / a for b, a in zip(seconds["before"][1:], seconds["after"][1:])), 2
    )
    return found


def draw(report: dict[str, Any], title: str) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams["svg.fonttype"] = "none"
    pyplot.rcParams["svg.hashsalt"] = "profile"
    figure, axes = pyplot.subplots(figsize=(9, 3.4), layout="constrained")
    rows = [(f"{name}, {form}", report[name][form]) for name in report for form in ("before", "after")]
    for place, (_, row) in enumerate(rows):
        left = 0.0
        for group, colour in GROUPS.items():
            axes.barh(place, row["groups"][group], left=left, color=colour, label=group if place == 0 else None)
            left += row["groups"][group]
        axes.text(left, place, f" {row['epoch_cpu_seconds']:.1f} s", va="center")
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel("CPU seconds of an epoch, one thread")
    axes.set_title(title, fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, fontsize="small", frameon=False)
    figure.savefig(RESULTS.parents[1] / "docs" / "images" / "profile_epoch.svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="amazon-prime-pantry")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--warm_up", type=int, default=4, help="batches")
    parser.add_argument("--batches", type=int, default=10, help="batches under the profiler")
    arguments, rest = parser.parse_known_args()
    keys = parse_command_line(rest)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    plugin.register_models()
    keep_freed_memory()
    logging.disable(logging.WARNING)
    report = {"SASRec": measure("IBIM", arguments, keys), "EIMF(SASRec)": measure("EIMF", arguments, keys)}
    shown = {k: v for k, v in keys.items() if not k.endswith(("_path", "_file", "_cache"))}  # settings, not places
    note = {"threads": torch.get_num_threads(), "repeats": arguments.repeats, "keys": shown}
    merge_result("profile_epoch", {**note, **report}, arguments.dataset)
    draw(report, f"{arguments.dataset}: before and after the softmax in cache-sized blocks")


if __name__ == "__main__":
    main()
