"""What a request costs: latency, throughput, memory, by catalogue size, interests and index.

    python benchmarks/serving.py --items 12000 100000 1000000 --out benchmarks/results/serving.json

Models have random parameters (d = 64, L = 50; REMI's network for K interests, SASRec's for one) and random unit
vectors: what is measured does not depend on training, but for the coarse scan, which random vectors, whose best scores
are close together, make work harder than trained ones. A request is from a history's tokens to a frame of 20 tokens;
search is what of it comes after the interests. ``cpu`` is the process's own time, which a machine that others use too
disturbs less than the clock. Every setting runs in a process of its own, so that peak memory is its own; one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REQUESTS, BATCH, K, LENGTH, DIMENSION = 300, 4096, 20, 50, 64
TRUTHS = 100


def made(items: int, interests: int, folder: Path, index: str) -> None:
    """Write a model folder."""
    import numpy as np
    import pyarrow as pa
    import torch

    from recbole_eimf.serving.catalogue import Catalogue
    from recbole_eimf.serving.encoder import Encoder, EncoderSpec
    from recbole_eimf.serving.parts import Parts, with_index
    from recbole_eimf.serving.save import write

    torch.manual_seed(0)
    names = ("ITEM_ID_FIELD", "LIST_SUFFIX", "ITEM_LIST_LENGTH_FIELD")
    keys = {**dict.fromkeys(names, "x"), "MAX_ITEM_LIST_LENGTH": LENGTH, "hidden_size": DIMENSION}
    if interests == 1:
        keys |= {"n_layers": 2, "n_heads": 2, "inner_size": 256, "hidden_act": "gelu", "layer_norm_eps": 1e-12}
    else:
        keys |= {"interest_num": interests, "hidden_dropout_prob": 0.1, "remi_beta": 0, "routing_weight": 0}
    spec = EncoderSpec(("SASRec" if interests == 1 else "REMI",), keys, "cosine", 14.0)
    encoder = Encoder(spec, items + 1).eval().requires_grad_(False)
    vectors = torch.nn.functional.normalize(torch.randn(items + 1, DIMENSION), dim=1)
    vectors[0] = 0
    tokens = pa.array(["[PAD]", *(f"B{n:09d}" for n in range(items))])
    catalogue = Catalogue(tokens, pa.nulls(items + 1, pa.string()), np.ones(items + 1, dtype=np.int64))
    parts = with_index(Parts(catalogue, encoder, vectors), index)
    evaluation = {"mask_history": True, "eval_batch_size": 256, "eval_chunk_items": None, "protocol": "none",
                  "seed": 0, "valid": {}, "test": {}, "compared": [], "slices": {},
                  "side_load": None, "best_epoch": 0}  # fmt: skip
    described = {"dataset": "random", "items": items, "users": 0, "training_interactions": items}
    config = {"model": spec.towers[0], "name": spec.towers[0], "data": described, "evaluation": evaluation,
              "encoder": {**vars(spec)}, "keys": None, "diversity": None, "text": None, "index": index}  # fmt: skip
    write(folder, parts, config, None)


def measured(folder: Path) -> dict:
    """Figures of one model folder."""
    import numpy as np
    import torch

    from recbole_eimf import Recommender
    from recbole_eimf.serving import index as search

    torch.set_num_threads(1)
    from recbole_eimf.serving import recommender  # noqa: F401 (importing is not loading)

    begin = time.perf_counter()
    model = Recommender.load(folder)
    loaded = time.perf_counter() - begin
    rng = np.random.default_rng(0)
    tokens = np.array(model.catalogue.tokens.to_pylist(), dtype=object)
    histories = [tokens[rng.integers(1, len(tokens), LENGTH)].tolist() for _ in range(BATCH)]
    model.recommend(histories[:1], K)
    whole, alone, own_time = [], [], []
    parts = model._parts
    for history in histories[:REQUESTS]:
        begin, own = time.perf_counter(), time.process_time()
        model.recommend([history], K)
        whole.append(time.perf_counter() - begin)
        own_time.append(time.process_time() - own)
        rows = parts.catalogue.rows(history)[0]
        interests = parts.interests([rows])[0]
        begin = time.perf_counter()
        if parts.index is None:
            search.every_item(interests, K, parts.vectors, None, torch.tensor(rows), 0)
        else:
            search.search_with_proof(parts.index, interests, K, parts.vectors, None, torch.tensor(rows))
        alone.append(time.perf_counter() - begin)
    right = 0
    for history in histories[:TRUTHS]:
        rows = parts.catalogue.rows(history)[0]
        interests = parts.interests([rows])[0]
        truth = search.every_item(interests, K, parts.vectors, None, torch.tensor(rows), 0).rows
        found = model.rank([history], K).rows[0]
        right += len(set(truth.tolist()) & set(found.tolist()))
    many = histories if len(tokens) < 500_000 else histories[:512]
    begin, own = time.perf_counter(), time.process_time()
    model.rank(many, K)
    seconds, own = time.perf_counter() - begin, time.process_time() - own

    def places(values):
        return {f"p{p}": round(1e3 * float(np.percentile(values, p)), 2) for p in (0, 50, 90, 99)}

    return {
        "load_s": round(loaded, 2),
        "request_ms": places(whole),
        "request_cpu_ms": places(own_time),
        "search_ms": places(alone),
        "recall": right / TRUTHS / K,
        "users_per_second": round(len(many) / seconds),
        "users_per_cpu_second": round(len(many) / own),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def main() -> None:
    """Measure every setting and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, nargs="+", default=[12_000, 100_000])
    parser.add_argument("--interests", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--indexes", nargs="+", default=["none", "flat"])
    parser.add_argument("--out", default="benchmarks/results/serving.json")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measured(Path(given.one))))
        return
    out, figures = Path(given.out), []
    for items in given.items:
        for interests in given.interests:
            for index in given.indexes:
                with tempfile.TemporaryDirectory() as name:
                    folder = Path(name) / "model"
                    begin = time.perf_counter()
                    made(items, interests, folder, index)
                    built = round(time.perf_counter() - begin, 1)
                    command = [sys.executable, __file__, "--one", str(folder)]
                    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
                    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
                row = {"items": items, "interests": interests, "index": index, "built_s": built}
                row |= json.loads(done.stdout.splitlines()[-1])
                print(row, flush=True)
                figures.append(row)
                load = os.getloadavg()[0]
                note = "2 cores shared with other work (load_average): read cpu and p0, not the clock's percentiles"
                text = json.dumps({"note": note, "load_average": round(load, 1), "rows": figures}, indent=1)
                out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
