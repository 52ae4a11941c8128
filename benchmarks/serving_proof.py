"""One user's proved search: what its coarse scan costs in eight bits and in bfloat16, and how often it must look again.

    python benchmarks/serving_proof.py --items 100000 1000000 --interests 1 4

Catalogues, queries and histories of ``serving_peers.py``; the 20 best, 50 items of the past are no candidates. The two
scans take turns, request by request, in one process of one thread; ``cpu_ms`` is its own time (least, median).
``rounds`` counts requests by how often the index was asked before the answer was proved, ``candidates`` is how many
items were scored exactly at last. A graph (``--graph_items``) proves nothing: ``rounds`` says how often it believed
itself at once, ``right`` how many of its lists are brute force's.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import serving_peers
import torch
from serving_peers import REQUESTS, K, catalogue

from recbole_eimf.serving import index as search
from recbole_eimf.serving.eight_bits import EightBits

RESULT = Path(__file__).parent / "results" / "serving_proof.json"


class Counted:
    """An index that notes how many candidates it was asked for."""

    def __init__(self, index) -> None:
        self.index, self.certain, self.longest = index, index.certain, index.longest
        self.found: list[int] = []

    def query(self, interests):
        self.asked, self.found = self.index.query(interests), []
        return self

    def top(self, depth, reaching):
        candidates = self.asked.top(depth, reaching)
        self.found.append(len(candidates.rows))
        return candidates


def indexes(vectors, graph: bool) -> dict[str, Counted]:
    """The contestants over one table."""
    if graph:
        return {"hnsw": Counted(search.HNSWIndex.over(vectors))}
    halves, eighths = search.FlatIndex(vectors), search.FlatIndex(vectors)
    halves.eight_bits, eighths.eight_bits = None, EightBits(vectors, eighths.longest)
    return {"bfloat16" if halves.coarse else "float32": Counted(halves), "eight bits": Counted(eighths)}


def measured(vectors, queries, histories, graph: bool) -> dict[str, dict]:
    """Figures of each contestant."""
    contestants = indexes(vectors, graph)
    took = {name: [] for name in contestants}
    rounds: dict[str, Counter] = {name: Counter() for name in contestants}
    candidates = {name: [] for name in contestants}
    right = Counter()
    for number, (query, history) in enumerate(zip(queries, histories)):
        truth = search.every_item(query, K, vectors, None, history, 0).rows.tolist()
        for name, index in contestants.items():
            begin = time.process_time()
            found = search.search_with_proof(index, query, K, vectors, None, history)
            if number:
                took[name].append(1e3 * (time.process_time() - begin))
            rounds[name][len(index.found)] += 1
            candidates[name].append(index.found[-1])
            right[name] += found.rows.tolist() == truth
    return {
        name: {
            "cpu_ms": [round(min(times), 2), round(float(np.median(times)), 2)],
            "rounds": dict(sorted(rounds[name].items())),
            "candidates": {"median": int(np.median(candidates[name])), "most": max(candidates[name])},
            "right": right[name] / len(queries),
        }
        for name, times in took.items()
    }


def main() -> None:
    """Measure every table and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--graph_items", type=int, nargs="*", default=[20_000])
    parser.add_argument("--interests", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--out", default=str(RESULT))
    given = parser.parse_args()
    torch.set_num_threads(1)
    serving_peers.REQUESTS = given.requests
    rows = []
    for graph, items in [(True, n) for n in given.graph_items] + [(False, n) for n in given.items]:
        for kind in ("random", "clustered"):
            for interests in given.interests:
                with tempfile.TemporaryDirectory() as name:
                    catalogue(kind, items, interests, Path(name))
                    tables = [np.load(Path(name) / f"{table}.npy") for table in ("vectors", "queries", "histories")]
                found = measured(*map(torch.from_numpy, tables), graph)
                rows.append({"catalogue": kind, "items": items, "interests": interests, "contestants": found})
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
                said = {"note": "shared machine: compare contestants of one row", "k": K, "requests": given.requests}
                said |= {"load_average": round(os.getloadavg()[0], 1), "rows": rows}
                Path(given.out).write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
