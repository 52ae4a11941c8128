"""Finding the k best items: our indexes beside faiss, torch-rechub's index and RecTools' ranker, on the same vectors.

    python benchmarks/serving_peers.py --items 12000 100000 --interests 1 4 --peer_python ENV/bin/python

ENV has ``rectools[torch]==0.19.0``, ``torch-rechub==0.9.0``, faiss-cpu, annoy and pymilvus. One thread; a request is a
user's K interests and 50 items of the past, which are no candidates; the answer is 20 rows. Peers take one vector a
user and know no history (RecTools: a sparse matrix of pairs): where K interests are asked, or items left out, they are
searched once an interest for k + 50, and what they find is united and ranked by the greatest product, as their users
would. ``recall`` is of brute force's 20; ours with a flat index are proved to be equal, and counted all the same.

Two catalogues: ``random`` (unit vectors without any structure; queries too: the worst case of every index), and
``clustered`` (1,000 centres with noise of the centre's own length; queries near items), which trained ones resemble.
Contestants of one table take turns, request by request where they share a process; ``cpu`` is the process's own time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

REQUESTS, K, SEEN, WIDTH = 200, 20, 50, 64
OURS, PEERS = ("brute force", "flat", "hnsw", "faiss flat", "faiss hnsw"), ("torch-rechub hnsw", "RecTools")
Answer = Callable[[int], np.ndarray]


def catalogue(kind: str, items: int, interests: int, folder: Path) -> None:
    """Write vectors [N + 1, d] (row 0 is padding), queries [R, K, d] and histories [R, 50]."""
    rng = np.random.default_rng(0)

    def unit(values: np.ndarray) -> np.ndarray:
        return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)

    if kind == "random":
        vectors, queries = rng.normal(size=(items + 1, WIDTH)), rng.normal(size=(REQUESTS, interests, WIDTH))
    else:
        centres = unit(rng.normal(size=(1000, WIDTH)))
        vectors = centres[rng.integers(1000, size=items + 1)] + unit(rng.normal(size=(items + 1, WIDTH)))
        queries = unit(vectors[rng.integers(1, items + 1, (REQUESTS, interests))])
        queries = queries + 0.5 * unit(rng.normal(size=queries.shape))
    vectors = unit(vectors)
    vectors[0] = 0
    np.save(folder / "vectors.npy", vectors)
    np.save(folder / "queries.npy", unit(queries))
    np.save(folder / "histories.npy", np.stack([rng.choice(items, SEEN, False) + 1 for _ in range(REQUESTS)]))


def united(search: Callable[[np.ndarray, int], np.ndarray], vectors, queries, histories) -> Answer:
    """K searches of an index over rows from 1 on, united and ranked by the greatest product."""

    def answer(request: int) -> np.ndarray:
        found = np.unique(search(queries[request], K + SEEN)) + 1
        found = found[(found > 0) & ~np.isin(found, histories[request])]
        scores = (vectors[found] @ queries[request].T).max(1)
        return found[np.argsort(-scores, kind="stable")[:K]]

    return answer


def faiss_of(kind: str, vectors: np.ndarray):
    """faiss' index over rows from 1 on."""
    import faiss

    faiss.omp_set_num_threads(1)
    if kind == "faiss flat":
        index = faiss.IndexFlatIP(WIDTH)
    else:
        index = faiss.IndexHNSWFlat(WIDTH, 32, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction, index.hnsw.efSearch = 200, 200
    index.add(vectors[1:])
    return index


def our_answer(kind: str, vectors, queries, histories) -> Answer:
    """What one of our indexes, brute force or faiss answers."""
    if kind.startswith("faiss"):
        index = faiss_of(kind, vectors)
        return united(lambda query, depth: index.search(query, depth)[1], vectors, queries, histories)
    import torch

    from recbole_eimf.serving import index as search

    table, asked, seen = (torch.from_numpy(values) for values in (vectors, queries, histories))
    if kind == "brute force":
        return lambda request: search.every_item(asked[request], K, table, None, seen[request], 0).rows.numpy()
    made = search.FlatIndex(table) if kind == "flat" else search.HNSWIndex.over(table)
    return lambda request: search.search_with_proof(
        made, asked[request], K, table, None, seen[request]
    ).rows.numpy()  # fmt: skip


def peer_answer(kind: str, vectors, queries, histories) -> Answer:
    """What a peer answers."""
    if kind == "RecTools":
        return rectools_answer(vectors, queries, histories)
    import torch
    from torch_rechub.serving.faiss import FaissBuilder

    # its builder takes effort while linking from faiss' default, 40
    with FaissBuilder("HNSW", "IP", m=32, efSearch=200).from_embeddings(torch.from_numpy(vectors[1:]).numpy()) as index:
        kept = index

    def search(query: np.ndarray, depth: int) -> np.ndarray:
        return kept.query(torch.from_numpy(query), depth)[0].numpy()

    return united(search, vectors, queries, histories)


def rectools_answer(vectors, queries, histories) -> Answer:
    """RecTools' TorchRanker: one interest with its filter, more united."""
    from rectools.models.rank import Distance, TorchRanker
    from scipy import sparse

    interests = queries.shape[1]
    ranker = TorchRanker(Distance.DOT, "cpu", queries.reshape(-1, WIDTH), vectors)
    rows = np.repeat(np.arange(len(queries) * interests), SEEN + 1)
    hidden = np.pad(histories, ((0, 0), (1, 0)))  # and the row of padding
    pairs = sparse.csr_matrix((np.ones(len(rows)), (rows, np.repeat(hidden, interests, axis=0).ravel())),
                              shape=(len(queries) * interests, len(vectors)))  # fmt: skip

    def answer(request: int) -> np.ndarray:
        subjects = np.arange(request * interests, (request + 1) * interests)
        _, found, scores = ranker.rank(subjects, K, filter_pairs_csr=pairs[subjects])
        found, scores = np.asarray(found), np.asarray(scores)
        best: dict[int, float] = {}
        for item, score in zip(found.tolist(), scores.tolist()):
            best[item] = max(score, best.get(item, -np.inf))
        return np.array(sorted(best, key=best.get, reverse=True)[:K])

    return answer


def measured(kinds: tuple[str, ...], make: Callable[..., Answer], folder: Path) -> dict[str, dict]:
    """Milliseconds of each contestant's requests, in turns, and its recall."""
    import torch

    torch.set_num_threads(1)
    vectors, queries, histories = (np.load(folder / f"{name}.npy") for name in ("vectors", "queries", "histories"))
    answers, found = {}, {}
    for kind in kinds:
        begin = time.perf_counter()
        answers[kind] = make(kind, vectors, queries, histories)
        found[kind] = {"built_s": round(time.perf_counter() - begin, 1), "ms": [], "cpu": [], "rows": []}
        answers[kind](0)
    for request in range(REQUESTS):
        for kind, answer in answers.items():
            begin, own = time.perf_counter(), time.process_time()
            rows = answer(request)
            found[kind]["ms"].append(1e3 * (time.perf_counter() - begin))
            found[kind]["cpu"].append(1e3 * (time.process_time() - own))
            found[kind]["rows"].append(rows.tolist())
    return found


def summary(found: dict[str, dict], truth: list[list[int]]) -> dict[str, dict]:
    """Percentiles and recall."""
    out = {}
    for kind, one in found.items():
        right = sum(len(set(rows) & set(best)) for rows, best in zip(one["rows"], truth))
        places = {f"p{p}": round(float(np.percentile(one["ms"], p)), 2) for p in (50, 90, 99)}
        cpu = round(float(np.median(one["cpu"])), 2)
        recall = round(right / len(truth) / K, 4)
        out[kind] = {"built_s": one["built_s"], "ms": places, "cpu_ms": cpu, "recall": recall}
    return out


def main() -> None:
    """Measure every table and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, nargs="+", default=[12_000, 100_000])
    parser.add_argument("--interests", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--kinds", nargs="+", default=["random", "clustered"])
    parser.add_argument("--peer_python", required=True)
    parser.add_argument("--out", default="benchmarks/results/serving_peers.json")
    parser.add_argument("--peers_of", help=argparse.SUPPRESS)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    if given.peers_of:
        print(json.dumps(measured(PEERS, peer_answer, Path(given.peers_of))))
        return
    rows = []
    for kind in given.kinds:
        for items in given.items:
            for interests in given.interests:
                with tempfile.TemporaryDirectory() as name:
                    catalogue(kind, items, interests, Path(name))
                    found = measured(OURS, our_answer, Path(name))
                    command = [given.peer_python, __file__, "--peer_python", "-", "--peers_of", name]
                    done = subprocess.run(command, capture_output=True, text=True, check=True)
                    found |= json.loads(done.stdout.splitlines()[-1])
                row = {"catalogue": kind, "items": items, "interests": interests}
                rows.append({**row, "contestants": summary(found, found["brute force"]["rows"])})
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
                load = round(os.getloadavg()[0], 1)
                note = "shared machine: compare contestants of one row, by cpu_ms"
                text = json.dumps({"note": note, "load_average": load, "k": K, "rows": rows}, indent=1)
                Path(given.out).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
