"""What an item is worth that training never saw: 5 % of the items hidden from training, then added by their title.

    python benchmarks/new_items.py --dataset amazon-prime-pantry --data_path dataset_atomic --out figures.json \
        [--models IBIM EIMF] [--key=value ...]

HR@10 over the users whose last item is a hidden one (history: their other items, which are no candidates; all items
compete), beside the same users ranked by text alone (cosine of the item's title with the mean of the history's titles),
by popularity, and by the model before the items were added. HR@10 of the other users says what the added items cost
them: their targets are their last items, and the new ones compete too.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import recbole_eimf
from recbole_eimf import Recommender
from recbole_eimf.config.config import parse_command_line
from recbole_eimf.core.files import write_json
from recbole_eimf.data.item_text import read_item_text
from recbole_eimf.serving.export import export


def hidden_items(path: Path, text: dict[str, str], share: float, seed: int) -> tuple[pd.DataFrame, set[str]]:
    """(interactions by user and order, the hidden items: a share of those that have text)."""
    frame = pd.read_csv(path, sep="\t", dtype=str)
    frame.columns = [name.partition(":")[0] for name in frame.columns]
    order = "order" if "order" in frame else "timestamp"
    frame = frame.assign(place=frame[order].astype(float)).sort_values(["user_id", "place"], kind="stable")
    items = np.array(sorted(set(frame["item_id"]) & set(text)))
    chosen = np.random.default_rng(seed).choice(items, round(share * len(items)), replace=False)
    return frame, set(chosen.tolist())


def write_seen(source: Path, folder: Path, name: str, hidden: set[str]) -> None:
    """The atomic files without the hidden items."""
    (folder / name).mkdir(parents=True)
    for ending in ("inter", "item"):
        with open(source / name / f"{name}.{ending}", encoding="utf-8") as lines:
            header = next(lines)
            at = [column.partition(":")[0] for column in header.rstrip("\n").split("\t")].index("item_id")
            kept = [line for line in lines if line.rstrip("\n").split("\t")[at] not in hidden]
        (folder / name / f"{name}.{ending}").write_text(header + "".join(kept), encoding="utf-8")


def hit_rate(items: np.ndarray, targets: list[str]) -> float:
    """Share of rows [n, 10] that hold their target."""
    return float((items == np.array(targets, dtype=object)[:, None]).any(1).mean())


def recommended(model: Recommender, histories: list[list[str]]) -> np.ndarray:
    """[n, 10] tokens."""
    rows = model.rank(histories, 10, exclude_seen=True).rows
    return np.array(model.catalogue.tokens.to_pylist(), dtype=object)[rows]


def by_text(model: Recommender, histories: list[list[str]]) -> np.ndarray:
    """[n, 10] tokens whose titles are nearest to the history's."""
    text = model._parts.text.text.float()
    rows = [model.catalogue.rows(history)[0] for history in histories]
    found = []
    for history in rows:
        near = text @ torch.nn.functional.normalize(text[history].sum(0), dim=0)
        near[history] = -1
        near[0] = -1
        found.append(near.topk(10).indices.numpy())
    return np.array(model.catalogue.tokens.to_pylist(), dtype=object)[np.array(found)]


def measured(name: str, given: dict, seen: Path, users: dict, titles: dict[str, str]) -> dict:
    """Figures of one model."""
    with tempfile.TemporaryDirectory() as work:
        keys = {"compare_with": [], "show_progress": False, "state": "WARNING", **given, "data_path": str(seen)}
        dataset = keys.pop("dataset")
        result = recbole_eimf.run(name, dataset, None, output_dir=f"{work}/out", **keys)
        export(f"{work}/out", f"{work}/model", text="yes")
        model = Recommender.load(f"{work}/model")
    figures = {"model": result.name, "test": result.test, "epochs": result.epochs}
    (of_hidden, hidden_targets), (of_others, other_targets) = users["hidden"], users["others"]
    figures["hidden, before adding"] = hit_rate(recommended(model, of_hidden), hidden_targets)
    figures["others, before adding"] = hit_rate(recommended(model, of_others), other_targets)
    figures["popularity"] = hit_rate(recommended(model, [[]] * len(of_hidden)), hidden_targets)
    figures["added"] = len(model.add_items(titles))
    figures["hidden, added by title"] = hit_rate(recommended(model, of_hidden), hidden_targets)
    figures["others, after adding"] = hit_rate(recommended(model, of_others), other_targets)
    figures["hidden, text alone"] = hit_rate(by_text(model, of_hidden), hidden_targets)
    figures["others, text alone"] = hit_rate(by_text(model, of_others), other_targets)
    return figures


def main() -> None:
    """Hide, train, add, measure; write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--models", nargs="+", default=["IBIM"])
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--data_path", required=True)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True)
    given, rest = parser.parse_known_args()
    keys = parse_command_line(rest)
    source, name = Path(given.data_path), given.dataset
    fields = keys.get("text_fields", ["title"])
    text = read_item_text(source / name / f"{name}.item", "item_id", fields)
    frame, hidden = hidden_items(source / name / f"{name}.inter", text, given.share, given.seed)
    users: dict[str, tuple[list, list]] = {"hidden": ([], []), "others": ([], [])}
    for _, items in frame.groupby("user_id", sort=False)["item_id"]:
        *history, target = items.tolist()
        history = [item for item in history if item not in hidden and item != target]
        if history:
            kind = users["hidden" if target in hidden else "others"]
            kind[0].append(history)
            kind[1].append(target)
    with tempfile.TemporaryDirectory() as work:
        write_seen(source, Path(work), name, hidden)
        titles = {item: text[item] for item in sorted(hidden)}
        rows = [measured(m, {"dataset": name, **keys}, Path(work), users, titles) for m in given.models]
    counts = {"hidden_items": len(hidden), "users": {kind: len(found[0]) for kind, found in users.items()}}
    write_json(given.out, {"dataset": name, "share": given.share, "seed": given.seed, **counts, "rows": rows})
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
