"""Measure ESIM's offline stages on real data: seconds, peak memory and what the clustering found.

    python benchmarks/esim_stages.py --data DATA/amazon-office --out benchmarks/results/esim_stages.json

A data folder holds ``interactions.csv.gz`` (user_id, item_id, order) and ``items.csv.gz`` (item_id, title). Every stage
runs in a process of its own, so that its peak memory is its own too (libraries included). Stages: encode the titles
(cold, then from the cache), pool each user's titles (all but the last two interactions), cluster the users by either
method at each preference, search the preference for a ratio. ``unit``: vectors of unit length, titles and users;
``raw``: neither. No assertions here: tests check, this measures.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def peak_mb() -> float:
    """Return this process's peak resident memory. VmHWM, unlike ru_maxrss, does not begin with the parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        if lines:
            return int(lines[0].split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _child(pipe: Any, function: Callable[..., dict], arguments: tuple) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        pipe.send(function(*arguments) | {"peak_rss_mb": round(peak_mb())})
    except ValueError as error:  # UserError: part of the result
        pipe.send({"error": str(error), "peak_rss_mb": round(peak_mb())})


def staged(name: str, function: Callable[..., dict], *arguments: Any) -> dict:
    """Run ``function`` in a fresh process; return its dict with the stage's name and peak memory."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(theirs, function, arguments))
    process.start()
    theirs.close()
    try:
        result = mine.recv()
    except EOFError:
        result = {"error": f"the process ended without a result (exit code {process.exitcode})"}
    process.join()
    entry = {"stage": name} | result
    print(json.dumps(entry), file=sys.stderr, flush=True)
    return entry


def encode(data: str, work: str, encoder_name: str, unit: bool) -> dict:
    """Encode the titles through a cache in ``work`` and save them as items.npy."""
    import pandas as pd

    from recbole_eimf.semantic.encoders.build import build_encoder
    from recbole_eimf.semantic.encoders.embedding_cache import EmbeddingCache
    from recbole_eimf.semantic.encoders.text_encoder import EncoderSettings

    titles = pd.read_csv(Path(data) / "items.csv.gz", usecols=["title"], keep_default_na=False)["title"].tolist()
    began = time.perf_counter()
    encoder = build_encoder(EncoderSettings(name=encoder_name, normalize=unit), corpus=titles)
    vectors = EmbeddingCache(Path(work) / "cache.sqlite").encode(encoder, titles)
    seconds = time.perf_counter() - began
    np.save(Path(work) / "items.npy", vectors)
    return {"seconds": round(seconds, 2), "texts": len(titles), "without_text": int((~vectors.any(axis=1)).sum())}


def pool(data: str, work: str, unit: bool) -> dict:
    """Average each user's title vectors over all but the last two interactions; save users.npy."""
    import pandas as pd

    began = time.perf_counter()
    items = pd.read_csv(Path(data) / "items.csv.gz", usecols=["item_id"])["item_id"]
    table = pd.read_csv(Path(data) / "interactions.csv.gz", usecols=["user_id", "item_id", "order"])
    table = table.sort_values(["user_id", "order"], kind="stable")
    table = table[table.groupby("user_id").cumcount(ascending=False) >= 2]
    vectors = np.load(Path(work) / "items.npy")
    row = pd.Series(np.arange(len(items)), index=items).loc[table["item_id"]].to_numpy()
    keep = vectors[row].any(axis=1)
    users, user = np.unique(table["user_id"].to_numpy()[keep], return_inverse=True)
    # sorted by user: one segment each
    starts = np.searchsorted(user, np.arange(len(users)))
    pooled = np.add.reduceat(vectors[row[keep]], starts, axis=0) / np.bincount(user)[:, None]
    if unit:
        pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
    np.save(Path(work) / "users.npy", pooled.astype(np.float32))
    return {"seconds": round(time.perf_counter() - began, 2), "users": len(users), "dimension": pooled.shape[1]}


def cluster(work: str, method: str, preference: float | None, ratio: float | None, memory_limit_mb: int) -> dict:
    """Cluster users.npy and report what came out; notes say if the graph had to be widened."""
    from recbole_eimf.semantic.clustering.cluster import ClusterSettings, cluster_users

    settings = ClusterSettings(
        method=method, preference=preference, exemplar_ratio=ratio, memory_limit_mb=memory_limit_mb
    )
    users = np.load(Path(work) / "users.npy")
    result = cluster_users(users, settings)
    return {
        "seconds": round(result.seconds, 2),
        "method": result.method,
        "preference": result.preference,
        "exemplars": len(result.exemplars),
        "share": round(len(result.exemplars) / len(users), 5),
        "net_similarity": round(result.net_similarity, 3),
        "iterations": result.iterations,
        "neighbours": result.neighbours,
        "notes": list(result.notes),
    }


def measure(data: str, variant: str, options: argparse.Namespace) -> dict:
    """Run all stages on one data folder."""
    unit = variant == "unit"
    with tempfile.TemporaryDirectory() as work:
        stages = [
            staged("encode (cold)", encode, data, work, options.encoder, unit),
            staged("encode (cached)", encode, data, work, options.encoder, unit),
            staged("pool users", pool, data, work, unit),
        ]
        users, compared = stages[-1]["users"], []
        limit = options.memory_limit_mb
        for preference in options.preferences:
            runs = {
                method: staged(f"cluster, {method}", cluster, work, method, preference, None, limit)
                for method in options.methods
                if method == "sparse" or users <= options.dense_up_to
            }
            stages += runs.values()
            if len(runs) == 2 and not any("error" in run for run in runs.values()):
                dense, sparse = runs["dense"], runs["sparse"]
                compared.append(
                    {
                        "preference": preference,
                        "exemplars_sparse_over_dense": round(sparse["exemplars"] / dense["exemplars"], 4),
                        "net_similarity_sparse_over_dense": round(
                            sparse["net_similarity"] / dense["net_similarity"], 5
                        ),
                        "seconds_dense_over_sparse": round(dense["seconds"] / sparse["seconds"], 1),
                        "peak_rss_dense_over_sparse": round(dense["peak_rss_mb"] / sparse["peak_rss_mb"], 1),
                    }
                )
        for ratio in options.ratios:
            stages.append(staged(f"cluster, auto, ratio {ratio}", cluster, work, "auto", None, ratio, limit))
    return {"dataset": Path(data).name, "vectors": variant, "stages": stages, "sparse_against_dense": compared}


def main() -> None:
    """Parse the command line, measure, print JSON and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", required=True, help="data folders")
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--variants", nargs="+", choices=["unit", "raw"], default=["unit"])
    parser.add_argument("--methods", nargs="+", choices=["sparse", "dense"], default=["sparse", "dense"])
    parser.add_argument("--preferences", nargs="*", type=float, default=[-0.5, -1.0, -2.0, -4.0, -10.0])
    parser.add_argument("--ratios", nargs="*", type=float, default=[0.03])
    parser.add_argument("--dense-up-to", type=int, default=6000, help="no dense runs beyond so many users")
    parser.add_argument("--memory-limit-mb", type=int, default=4096)
    parser.add_argument("--out", help="JSON file; an earlier result of the same data set and vectors is replaced")
    options = parser.parse_args()
    results = [measure(data, variant, options) for data in options.data for variant in options.variants]
    # where the data lie is this machine's business
    shown = [Path(word).name if word in options.data else word for word in sys.argv[1:]]
    for result in results:
        result["command"] = " ".join(["python benchmarks/esim_stages.py", *shown])
        result["threads"] = os.environ.get("OMP_NUM_THREADS", os.cpu_count())
    if options.out:
        out, names = Path(options.out), {(r["dataset"], r["vectors"]) for r in results}
        earlier = json.loads(out.read_text()) if out.exists() else []
        kept = [entry for entry in earlier if (entry["dataset"], entry["vectors"]) not in names]
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(kept + results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
