"""Affinity propagation at the sizes that decide whether it can be used: against scikit-learn, and 600,000 users.

    python benchmarks/cluster_scale.py dense --data DATA/amazon-beauty --work DIR --sizes 2000 4000 8000
    python benchmarks/cluster_scale.py whole --data DATA/amazon-beauty --work DIR
    python benchmarks/cluster_scale.py large --data DATA/amazon-beauty --work DIR --users 600000 --threads 4

Points are Beauty's users: the mean of their titles' MiniLM vectors, unit length (made once, kept in ``--work``).
``dense``: a random part of them, both methods at one preference (-1 leaves about 3 % of all users), each in a process
of its own; all pairs cost n^2 numbers and n^2 steps an iteration, so the largest size is carried to all users
by (n / size)^2, and said so. ``whole``: scikit-learn's own class on all users, which takes 15 GB of memory with
similarities in float32 (its messages are float64 in any case). ``large``: users made of walks over who bought what
(`walked`). CPU seconds stand beside the wall's: the machine may be shared.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from contest import merge_result
from esim_stages import encode, pool, staged


def user_vectors(data: str, work: str) -> np.ndarray:
    """Unit vectors [users, d] of a data folder (see ``esim_stages.py``)."""
    file = Path(work) / "users.npy"
    if not file.exists():
        Path(work).mkdir(parents=True, exist_ok=True)
        encode(data, work, "minilm", unit=True)
        pool(data, work, unit=True)
    return np.load(file)


def walked(data: str, work: str, count: int, noise: float) -> np.ndarray:
    """``count`` users who never were, each a walk over who bought what: float32 [count, d], unit length.

    A walk starts at a real user, takes one of the user's items, goes on to another buyer of it half of the times, and
    takes the next, as many items as some real user has. The titles' mean, moved by ``noise`` times a vector's length:
    so many users buy from a larger catalogue than this one, hardly two of them the same.
    """
    import pandas as pd

    ids = pd.read_csv(Path(data) / "items.csv.gz", usecols=["item_id"])["item_id"]
    table = pd.read_csv(Path(data) / "interactions.csv.gz", usecols=["user_id", "item_id"])
    vectors = np.load(Path(work) / "items.npy")
    item = pd.Series(np.arange(len(ids)), index=ids).loc[table["item_id"]].to_numpy()
    keep = vectors[item].any(axis=1)
    bought = _Lists(np.unique(table["user_id"].to_numpy()[keep], return_inverse=True)[1], item[keep])
    buyers = _Lists(bought.value, bought.key)
    rng = np.random.default_rng(0)
    user = rng.integers(len(bought.count), size=count)
    length = np.maximum(bought.count[rng.integers(len(bought.count), size=count)] - 2, 1)  # two are held out
    out = np.zeros((count, vectors.shape[1]), dtype=np.float32)
    for step in range(length.max()):
        walking = np.flatnonzero(length > step)
        taken = bought.draw(user[walking], rng)
        out[walking] += vectors[taken]
        moves = rng.random(len(walking)) < 0.5
        user[walking[moves]] = buyers.draw(taken[moves], rng)
    step = noise / np.sqrt(out.shape[1])
    for begin in range(0, count, 50_000):
        part = out[begin : begin + 50_000]
        part /= np.linalg.norm(part, axis=1, keepdims=True)
        part += step * rng.standard_normal(part.shape, dtype=np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return out


class _Lists:
    """The values of each key, in one array."""

    def __init__(self, key: np.ndarray, value: np.ndarray) -> None:
        order = np.argsort(key, kind="stable")
        self.key, self.value, self.count = key[order], value[order], np.bincount(key)
        self.start = np.cumsum(self.count) - self.count

    def draw(self, keys: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One value of each key."""
        return self.value[self.start[keys] + (rng.random(len(keys)) * self.count[keys]).astype(np.int64)]


def run(file: str, count: int, settings: dict[str, Any], walk: tuple[str, str, float] | None = None) -> dict[str, Any]:
    """Cluster a part of the vectors, or as many users as are asked for of a ``walk`` (see `walked`)."""
    from recbole_eimf.semantic.clustering.cluster import ClusterSettings, cluster_users

    if walk is None:
        vectors = np.load(file)
        points = vectors[np.random.default_rng(0).permutation(len(vectors))[:count]]
        del vectors
    else:
        data, work, noise = walk
        points = walked(data, work, count, noise)
    cpu = time.process_time()
    result = cluster_users(points, ClusterSettings(**settings))
    return {
        "users": count,
        "seconds": round(result.seconds, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "method": result.method,
        "preference": result.preference,
        "exemplars": len(result.exemplars),
        "net_similarity": round(result.net_similarity, 3),
        "iterations": result.iterations,
        "neighbours": result.neighbours,
        "notes": list(result.notes),
        "threads": int(os.environ["OMP_NUM_THREADS"]),
        "load_average": round(os.getloadavg()[0], 1),
    }


def ratios(dense: dict[str, Any], sparse: dict[str, Any]) -> dict[str, float]:
    """What all pairs cost over the graph, and the net similarity of both (below one: that of all pairs is better)."""
    return {
        "cpu_seconds": round(dense["cpu_seconds"] / sparse["cpu_seconds"], 1),
        "peak_memory": round(dense["peak_rss_mb"] / sparse["peak_rss_mb"], 1),
        "net_similarity": round(dense["net_similarity"] / sparse["net_similarity"], 5),
    }


def compare(file: str, users: int, size: int, preference: float, memory_mb: int) -> dict[str, Any]:
    """Both methods on ``size`` users at one preference, and their ratios."""
    size = min(size, users)
    settings = {"preference": preference, "exemplar_ratio": None, "memory_limit_mb": memory_mb, "neighbours": 50}
    runs = {m: staged(m, run, file, size, {**settings, "method": m}) for m in ("sparse", "dense")}
    entry: dict[str, Any] = dict(runs)
    dense, sparse = runs["dense"], runs["sparse"]
    if "error" not in dense and "error" not in sparse:
        entry["dense_over_sparse"] = ratios(dense, sparse)
        scale = (users / size) ** 2
        entry["dense_carried_to_all_users_by_n_squared"] = {
            "users": users,
            "cpu_seconds": round(dense["cpu_seconds"] * scale),
            "peak_rss_mb": round(dense["peak_rss_mb"] * scale),
        }
    return entry


def all_pairs(file: str, preference: float) -> dict[str, Any]:
    """scikit-learn's affinity propagation of all points, with the iterations and the damping that ours has."""
    from sklearn.cluster import AffinityPropagation

    from recbole_eimf.semantic.clustering.cluster import ClusterSettings

    points = np.load(file)
    squares = np.square(points, dtype=np.float64).sum(1).astype(np.float32)
    wall, cpu = time.perf_counter(), time.process_time()
    similarities = points @ points.T
    similarities *= 2
    similarities -= squares
    similarities -= squares[:, None]
    np.minimum(similarities, 0, out=similarities)
    ours = ClusterSettings()
    loop = {"damping": ours.damping, "max_iter": ours.max_iter, "convergence_iter": ours.convergence_iter}
    model = AffinityPropagation(
        affinity="precomputed", preference=preference, copy=False, random_state=ours.seed, **loop
    ).fit(similarities)
    seconds, cpu = time.perf_counter() - wall, time.process_time() - cpu
    exemplar = model.cluster_centers_indices_[model.labels_]
    distance = np.square(points - points[exemplar], dtype=np.float64).sum()
    return {
        "users": len(points),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "preference": preference,
        "exemplars": len(model.cluster_centers_indices_),
        "net_similarity": round(preference * len(model.cluster_centers_indices_) - distance, 3),
        "iterations": model.n_iter_,
        "threads": int(os.environ["OMP_NUM_THREADS"]),
        "load_average": round(os.getloadavg()[0], 1),
    }


def all_users(file: str, users: int, preference: float) -> dict[str, Any]:
    """All users by our messages on a graph and by scikit-learn's on all pairs, and their ratios."""
    settings = {"preference": preference, "exemplar_ratio": None, "method": "sparse", "neighbours": 50}
    sparse = staged("sparse", run, file, users, settings)
    dense = staged("scikit-learn, all pairs", all_pairs, file, preference)
    entry = {"sparse": sparse, "scikit-learn": dense}
    if "error" not in dense and "error" not in sparse:
        entry["scikit_learn_over_sparse"] = ratios(dense, sparse)
    return entry


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measure", choices=["dense", "whole", "large"])
    parser.add_argument("--data", required=True, help="folder with items.csv.gz and interactions.csv.gz")
    parser.add_argument("--work", required=True, help="where vectors are kept")
    parser.add_argument("--sizes", type=int, nargs="+", default=[2000, 4000, 8000])
    parser.add_argument("--preference", type=float, default=-1.0)
    parser.add_argument("--users", type=int, default=600_000)
    parser.add_argument("--noise", type=float, default=0.1)
    parser.add_argument("--memory_limit_mb", type=int, default=4096)
    parser.add_argument("--neighbours", type=int, default=50, help="of large")
    parser.add_argument("--accept", action="store_true", help="large: take a graph though narrow, and say how much")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    vectors = user_vectors(options.data, options.work)
    file, users = str(Path(options.work) / "users.npy"), len(vectors)
    if options.measure == "dense":
        for size in options.sizes:
            entry = compare(file, users, size, options.preference, options.memory_limit_mb)
            merge_result("cluster_scale", entry, "dense", str(size))
        whole = staged("sparse", run, file, users, {"method": "sparse", "neighbours": 50})
        merge_result("cluster_scale", whole, "all users, sparse, 3 % exemplars")
    elif options.measure == "whole":
        merge_result("cluster_scale", all_users(file, users, options.preference), "whole")
    else:
        settings = {"neighbours": options.neighbours, "memory_limit_mb": options.memory_limit_mb}
        if options.accept:
            settings["on_nonconvergence"] = "accept"
        entry = staged("large", run, file, options.users, settings, (options.data, options.work, options.noise))
        merge_result("cluster_scale", {"noise": options.noise, **entry}, "large", str(options.users))


if __name__ == "__main__":
    main()
