"""RecTools 0.19 against ours: seconds per epoch, and HR@10 on the same targets.

Its SASRecModel (softmax loss) and the network of its newer ``fast_transformers`` (FlatSASRecNet, four times as wide a
feed-forward layer) stand against our SASRec; its UniSRecModel, which reads text alone, against our MoRec (text alone)
and our ids plus text.

    python benchmarks/against_rectools.py speed --peer_python ENV/bin/python --dataset amazon-prime-pantry --length 50
    python benchmarks/against_rectools.py quality --peer_python ENV/bin/python --dataset amazon-prime-pantry --length 50

RecTools lives in an environment of its own (``pip install "rectools[torch]==0.19.0"``); ``rectools_peer.py`` and
``rectools_fast_peer.py`` run there. Text is the default encoder's vectors of titles, the same for all. Both read the
same training part (leave one out, each user's last ``length`` + 1 training items, so that both have the same windows
and targets), with the same width, layers, heads, feed-forward width, rows per batch and the full softmax, one thread
each, strictly in turns; ratios are of CPU seconds, which other users of the machine disturb less than wall seconds.
``quality`` trains each side for ``--epochs`` epochs under every setting of a small grid, the same for both (learning
rate x dropout), with a validation every ``--every`` epochs; the best point counts. Held-out items are the validation
targets, every item ranked, nothing filtered.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from contest import Contestant, in_turns, merge_result, ranked_copy, spread

WIDTH, LAYERS, HEADS = 64, 2, 2
_TEXT = {"item_text": "add", "text_whitening": "half"}
#: model and keys of our side
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "ours": ("IBIM", {}),
    "ours, bfloat16 logits": ("IBIM", {"logits_dtype": "bfloat16"}),
    "ours, text alone (MoRec)": ("MoRec", {"logits_dtype": "bfloat16"}),
    "ours, ids plus text": ("IBIM", {**_TEXT, "logits_dtype": "bfloat16"}),
    "ours, ids plus text, UniSRec's adaptor": ("IBIM", {**_TEXT, "text_adaptor": "moe", "logits_dtype": "bfloat16"}),
}
#: script and its last argument
PEERS = {
    "RecTools": ("rectools_peer.py",),
    "RecTools, flat": ("rectools_fast_peer.py", "flat"),
    "RecTools, UniSRec": ("rectools_fast_peer.py", "unisrec"),
}


class Peer:
    """RecTools in a process of its own, asked as a :class:`contest.Contestant` is."""

    def __init__(self, python: str, name: str, *arguments: str) -> None:
        script = Path(__file__).resolve().with_name(name)
        self._name = name
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen([python, str(script), *arguments], text=True, **pipes)

    def ask(self, name: str, value: Any) -> dict[str, Any]:
        self._process.stdin.write(json.dumps({name: value}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._name} ended; run it by hand on the same files to see why.")
        return json.loads(line)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def make(dataset: str, folder: str, model: str, own: dict[str, Any]) -> Callable[..., Any]:
    """Our side, in its own process: answers what ``rectools_peer.py`` answers."""
    import logging

    import torch
    from recbole.utils import init_seed

    from recbole_eimf.config.config import EIMFConfig
    from recbole_eimf.experiment import assembly, plugin
    from recbole_eimf.trainer.memory import keep_freed_memory

    logging.disable(logging.WARNING)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    plugin.register_models()
    keep_freed_memory()
    state: dict[str, Any] = {}

    def build(settings: dict[str, Any]) -> dict[str, Any]:
        keys = {
            "data_path": folder,
            "MAX_ITEM_LIST_LENGTH": settings["session_max_len"],
            "train_batch_size": settings["batch_size"],
            "learning_rate": settings["lr"],
            "hidden_dropout_prob": settings["dropout_rate"],
            "attn_dropout_prob": settings["dropout_rate"],
            "hidden_size": settings["n_factors"],
            "inner_size": settings["n_factors"],  # RecTools' feed-forward layer is as wide as its vectors
            "n_layers": settings["n_blocks"],
            "n_heads": settings["n_heads"],
            "topk": [10],
            "seed": settings["seed"],
        }
        fixed = {"backbone": "SASRec", "compare_with": [], "state": "ERROR", "show_progress": False}
        config = EIMFConfig(model, dataset, None, {**fixed, **keys, **own})
        init_seed(config["seed"], config["reproducibility"])
        train, valid, _ = assembly.loaders(config)
        trainer = assembly.trainer(config, config.model_class(config, train._dataset))
        trainer.eval_collector.data_collect(train)
        state.update(train=train, valid=valid, trainer=trainer)
        return {"rows": len(train._dataset), "targets": int(train._dataset.view.size.sum())}

    def epochs(count: int) -> dict[str, Any]:
        seconds, cpu_seconds = [], []
        for _ in range(count):
            wall, cpu = time.perf_counter(), time.process_time()
            state["trainer"]._train_epoch(state["train"], 0)
            seconds.append(time.perf_counter() - wall)
            cpu_seconds.append(time.process_time() - cpu)
        weights = state["trainer"].model.parameters()
        return {
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "parameters": sum(p.numel() for p in weights if p.requires_grad),
        }

    def hits(k: int) -> dict[str, Any]:
        found = state["trainer"].evaluate(state["valid"], load_best_model=False)
        return {"hit_rate": float(found[f"hit@{k}"])}

    answers = {"train": build, "epochs": epochs, "hits": hits}
    return lambda name, value: answers[name](value)


@contextmanager
def contestants(arguments: argparse.Namespace) -> Iterator[dict[str, Contestant | Peer]]:
    """Write the data both sides read, start everyone, and end them all."""
    with tempfile.TemporaryDirectory() as folder:
        table = ranked_copy(arguments.dataset, arguments.data_path, folder, last=arguments.length + 3)
        table, files = _parts(table), []
        for part in ("train", "held_out"):
            files.append(str(Path(folder) / f"{part}.csv"))
            table.loc[table["part"] == part, ["user", "item", "rank"]].to_csv(files[-1], index=False)
        os.chdir(folder)
        if "RecTools, UniSRec" in arguments.only or "RecTools, flat" in arguments.only:
            files += _text(arguments.dataset, folder)
        found: dict[str, Contestant | Peer] = {
            name: Peer(arguments.peer_python, script, *files[: 4 if kind else 2], *kind)
            for name, (script, *kind) in PEERS.items()
            if name in arguments.only
        }
        found |= {
            name: Contestant(make, arguments.dataset, folder, *one)
            for name, one in OURS.items()
            if name in arguments.only
        }
        try:
            yield found
        finally:
            for one in found.values():
                one.close()


def _parts(table: pd.DataFrame) -> pd.DataFrame:
    """Leave one out as our split does it: the last item of a user is the test's, the one before it is held out here."""
    size = table.groupby("user")["rank"].transform("size")
    kept_back = (size - 2).clip(0, 2)
    place = size - table["rank"]  # 0 is the last
    part = (place >= kept_back).map({True: "train", False: "test"})
    part[(kept_back == 2) & (place == 1)] = "held_out"
    return table.assign(part=part)


def _text(dataset: str, folder: str) -> list[str]:
    """Files of the items' text vectors [items, d] and of the items in their order."""
    import numpy as np

    from recbole_eimf.semantic.encoders.build import build_encoder
    from recbole_eimf.semantic.encoders.text_encoder import EncoderSettings

    source = Path(folder) / dataset / f"{dataset}.item"
    items = pd.read_csv(source, sep="\t", dtype=str, keep_default_na=False, quoting=3)
    names = [str(Path(folder) / name) for name in ("text.npy", "items.json")]
    np.save(names[0], build_encoder(EncoderSettings()).encode(items["title:token_seq"].tolist()))
    Path(names[1]).write_text(json.dumps(items["item_id:token"].tolist()))
    return names


def settings_of(arguments: argparse.Namespace, rate: float = 0.001, dropout: float = 0.2) -> dict[str, Any]:
    """RecTools' names for what both sides are given."""
    return {
        "n_blocks": LAYERS,
        "n_heads": HEADS,
        "n_factors": WIDTH,
        "session_max_len": arguments.length,
        "batch_size": arguments.batch_size,
        "lr": rate,
        "dropout_rate": dropout,
        "seed": arguments.seed,
    }


def measure_speed(arguments: argparse.Namespace) -> None:
    with contestants(arguments) as found:
        facts = {name: one.ask("train", settings_of(arguments)) for name, one in found.items()}
        for one in found.values():
            one.ask("epochs", 1)  # warm-up
        answers = in_turns(found, arguments.repeats, lambda name: ("epochs", 1))
    seconds = {name: [answer["cpu_seconds"][0] for answer in turns] for name, turns in answers.items()}
    wall = {name: [answer["seconds"][0] for answer in turns] for name, turns in answers.items()}
    entry = {
        "settings": settings_of(arguments),
        "threads": int(os.environ["OMP_NUM_THREADS"]),
        "repeats": arguments.repeats,
        "contestants": {
            name: {
                **facts[name],
                "parameters": answers[name][0]["parameters"],
                "epoch_cpu_seconds": spread(seconds[name]),
                "epoch_wall_seconds": spread(wall[name]),
            }
            for name in found
        },
    }
    for name, peer in product(OURS, PEERS):
        if name in found and peer in found:
            ratios = [theirs / ours for theirs, ours in zip(seconds[peer], seconds[name])]
            entry["contestants"][name].setdefault("times_faster", {})[peer] = round(statistics.median(ratios), 1)
    merge_result("against_rectools", entry, arguments.dataset, f"length {arguments.length}", "speed")


def measure_quality(arguments: argparse.Namespace) -> None:
    with contestants(arguments) as found:
        for (name, one), rate, dropout in product(found.items(), arguments.rates, arguments.dropouts):
            one.ask("train", settings_of(arguments, rate, dropout))
            points, spent = [], 0.0
            while len(points) * arguments.every < arguments.epochs:
                spent += sum(one.ask("epochs", arguments.every)["cpu_seconds"])
                hit = one.ask("hits", 10)["hit_rate"]
                point = {"epochs": (len(points) + 1) * arguments.every, "cpu_seconds": round(spent, 1)}
                points.append({**point, "hit@10": round(hit, 5)})
            entry = {"best": max(points, key=lambda point: point["hit@10"]), "curve": points}
            setting = f"rate {rate}, dropout {dropout}"
            merge_result(
                "against_rectools", entry, arguments.dataset, f"length {arguments.length}", "quality", name, setting
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measure", choices=["speed", "quality"])
    parser.add_argument("--peer_python", required=True, help="python of an environment with rectools[torch]")
    parser.add_argument("--dataset", default="amazon-prime-pantry")
    parser.add_argument("--data_path", default="dataset_atomic")
    parser.add_argument("--length", type=int, default=50)
    parser.add_argument("--batch_size", type=int, default=128, help="users in a batch")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--every", type=int, default=2, help="epochs between validations")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.001, 0.003])
    parser.add_argument("--dropouts", type=float, nargs="+", default=[0.2, 0.5])
    parser.add_argument("--seed", type=int, default=2020)
    parser.add_argument("--only", nargs="+", choices=[*PEERS, *OURS], default=["RecTools", *list(OURS)[:2]])
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    (measure_speed if arguments.measure == "speed" else measure_quality)(arguments)


if __name__ == "__main__":
    main()
