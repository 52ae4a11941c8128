"""Full-ranking evaluation of many users over a large catalogue: chunks of items with a running top k, against a matrix.

``python benchmarks/evaluation_scale.py [--users 100000] [--items 300000] [--interests 4] [--dimension 64] [--k 50]
[--batch 256] [--repeats 20] [--out FILE]``. Contestants take turns on the same batches in one process; then chunks
alone rank all users, with masked histories and hits, in a fresh process whose peak memory is read at its end. Vectors
and histories are random. Seconds are the processor's, on one thread: the machine may be shared. Prints JSON and writes
it to ``benchmarks/results/evaluation_scale.json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from recbole_eimf.evaluator import chunked
from recbole_eimf.evaluator.collector import hits_and_counts, ranked_items
from recbole_eimf.model import products
from recbole_eimf.trainer.memory import keep_freed_memory

HISTORY = 20  # masked items of a user


def catalogue(arguments) -> torch.Tensor:
    """[N, d]; row 0 is padding."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(arguments.items + 1, arguments.dimension, generator=generator)


def batch(arguments, number: int) -> tuple[torch.Tensor, torch.Tensor, tuple, tuple]:
    """(interests [B, K, d], users [B], history, targets) of a batch."""
    generator = torch.Generator().manual_seed(1 + number)
    first = number * arguments.batch
    rows = min(arguments.batch, arguments.users - first)
    interests = torch.randn(rows, arguments.interests, arguments.dimension, generator=generator)
    row = torch.arange(rows).repeat_interleave(HISTORY)
    history = torch.randint(1, arguments.items + 1, row.shape, generator=generator)
    target = torch.randint(1, arguments.items + 1, (rows,), generator=generator)
    return interests, torch.arange(first, first + rows) + 1, (row, history), (torch.arange(rows), target)


def one_product_and_top_k(arguments, vectors, interests, users, history) -> torch.Tensor:
    """What is least work to write: no mask, no defined ties."""
    scores = interests.flatten(0, 1) @ vectors.T
    return scores.view(*interests.shape[:2], -1).amax(1).topk(arguments.k).indices


def whole_matrix(arguments, vectors, interests, users, history) -> torch.Tensor:
    """This plugin with ``eval_chunk_items=0``."""
    scores = products.Query(interests, vectors).scores(0, len(vectors))
    scores[:, 0] = -torch.inf
    scores[history] = -torch.inf
    return ranked_items(scores, users, arguments.k)


def chunks(arguments, vectors, interests, users, history) -> torch.Tensor:
    """This plugin with chunks."""
    size = chunked.chunk_items(None, arguments.batch, len(vectors), vectors.device)
    assert size, "too few scores for chunks"
    asked = products.Query(interests, vectors)
    return chunked.ranked_in_chunks(asked.scores, len(vectors), users, arguments.k, size, history)


CONTESTANTS = {"one product and top k": one_product_and_top_k, "whole matrix": whole_matrix, "chunks": chunks}


def take_turns(arguments) -> dict:
    """Median seconds of a batch of each contestant, and ratios of medians to the first."""
    vectors = catalogue(arguments)
    seconds: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    alike = []
    for number in range(arguments.repeats + 1):
        interests, users, history, _ = batch(arguments, number)
        ranked = {}
        for name, rank in CONTESTANTS.items():
            begin = time.process_time()
            ranked[name] = rank(arguments, vectors, interests, users, history)
            seconds[name].append(time.process_time() - begin)
        alike.append(float((ranked["whole matrix"] == ranked["chunks"]).all(1).float().mean()))
    median = {name: statistics.median(found[1:]) for name, found in seconds.items()}  # the first is a warm-up
    base = median["one product and top k"]
    return {
        "seconds_per_batch": {name: round(value, 3) for name, value in median.items()},
        "ratio": {name: round(value / base, 3) for name, value in median.items()},
        "users ranked alike by both of ours": statistics.mean(alike),
    }


def rank_everybody(arguments) -> dict:
    """Chunks over all users; peak memory of this process."""
    vectors = catalogue(arguments)
    begin, hits = time.process_time(), 0
    for number in range(-(-arguments.users // arguments.batch)):
        interests, users, history, targets = batch(arguments, number)
        items = chunks(arguments, vectors, interests, users, history)
        hits += int(hits_and_counts(items, *targets)[:, :-1].sum())
    seconds = time.process_time() - begin
    return {"seconds": round(seconds, 1), "peak_gib": round(peak_gib(), 2), "hits": hits}


def peak_gib() -> float:
    """Peak resident memory of this process. VmHWM, unlike ru_maxrss, does not begin with the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    defaults = {"users": 100_000, "items": 300_000, "interests": 4, "dimension": 64, "k": 50}
    defaults |= {"batch": 256, "repeats": 20}
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--out", default=str(Path(__file__).parent / "results" / "evaluation_scale.json"))
    parser.add_argument("--everybody", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    if arguments.everybody:
        print(json.dumps(rank_everybody(arguments)))
        return
    report = {name: getattr(arguments, name) for name in defaults}
    report["turns"] = take_turns(arguments)
    alone = subprocess.run([sys.executable, __file__, "--everybody", *sys.argv[1:]], capture_output=True, text=True)
    alone.check_returncode()
    report["chunks, all users"] = json.loads(alone.stdout.splitlines()[-1])
    report["bytes of all scores, GiB"] = round(4 * arguments.users * arguments.items / 2**30, 1)
    Path(arguments.out).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
