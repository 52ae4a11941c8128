"""One user's request under a score prior: all products and the prior of all items, or through the index that knows it.

    python benchmarks/serving_prior.py --items 20000 100000 --interests 1 4

Random vectors (64 numbers), texts (384), lists of 20 items and counts of 100 an item, histories of 50 items, the 20
best. Both contestants take turns, request by request, in one process of one thread; milliseconds of its own processor
time (least, median). ``same``: requests whose list is brute force's.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from scipy import sparse

from recbole_eimf.model.score_prior import ScorePrior
from recbole_eimf.serving.prior_index import PriorIndex

RESULT = Path(__file__).parent / "results" / "serving_prior.json"
K, WIDTH, TEXT, LENGTH, REQUESTS = 20, 64, 384, 50, 60
LISTED, COUNTED = 20, 100


def graph(items: int, each: int, seed: int) -> sparse.csr_matrix:
    """[N, N], ``each`` random entries a row."""
    draw = np.random.default_rng(seed)
    rows = np.repeat(np.arange(1, items), each)
    values = draw.random(len(rows)).astype(np.float32)
    return sparse.csr_matrix((values, (rows, draw.integers(1, items, len(rows)))), shape=(items, items))


def measure(items: int, interests: int) -> dict:
    """One row of the result."""
    draw = torch.Generator().manual_seed(0)
    prior = ScorePrior("all", 0.6, None, items, None, graph(items, COUNTED, 1))
    prior._set_graph("", graph(items, LISTED, 2))
    prior.text = torch.nn.functional.normalize(torch.randn(items, TEXT, generator=draw), dim=1)
    prior.weight.copy_(torch.tensor([2.0, 1.5, 1.5, 4.0]) * WIDTH**0.5)
    vectors = torch.randn(items, WIDTH, generator=draw)
    index = PriorIndex(prior, vectors)
    length = torch.tensor([LENGTH])

    def brute_force(asked, history):
        scores = (asked @ vectors.T).amax(0) + prior(history[None], length)[0]
        scores[0] = -torch.inf
        return scores.topk(K).indices

    contestants = {
        "all products": brute_force,
        "index": lambda asked, history: index.best(asked, history, K).rows,
    }
    took: dict[str, list[float]] = {name: [] for name in contestants}
    same = 0
    for request in range(REQUESTS + 2):
        asked = torch.randn(interests, WIDTH, generator=draw)
        history = torch.randint(1, items, (LENGTH,), generator=draw)
        found = []
        for name, answer in contestants.items():
            begin = time.process_time()
            found.append(answer(asked, history))
            took[name].append(1000 * (time.process_time() - begin))
        same += request >= 2 and found[0].tolist() == found[1].tolist()
    times = {name: {"least": round(min(each[2:]), 2), "median": round(float(np.median(each[2:])), 2)}
             for name, each in took.items()}  # fmt: skip
    return {"items": items, "interests": interests, "cpu_ms": times, "same": same, "requests": REQUESTS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[20_000, 100_000])
    parser.add_argument("--interests", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with torch.inference_mode():
        rows = [measure(items, interests) for items in given.items for interests in given.interests]
    given.out.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
