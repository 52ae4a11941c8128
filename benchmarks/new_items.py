"""What an item is worth that training never saw: 5 % of the items hidden from training, then added by their title.

    python benchmarks/new_items.py --dataset amazon-prime-pantry --data_path dataset_atomic --work FOLDER \
        --out benchmarks/results/new_items.json [--models IBIM EIMF] [--seeds 0 1 2] [--key=value ...]

HR@10 over the users whose last item is a hidden one (history: their other items, which are no candidates; all items
compete), beside the same users ranked by text alone (cosine of the item's title with the mean of the history's titles),
by popularity, and by the model before the items were added. HR@10 of the other users says what the added items cost
them: their targets are their last items, and the new ones compete too. ``validation`` is the same for the last item but
one; how many neighbours an item has and how they are weighed was chosen by its ``grid`` (``--grid``).

``--knowledge FILE`` (replies about items, as ``knowledge_file``) also places the hidden items by their titles with an
LLM's words on every item, and with its words on another item (placebo), in the same models, and tests each against the
titles alone, paired over the users of all seeds.

With ``--item_text=codes`` (VQ-Rec) the items are also placed by their own codes, as the paper has it.

A seed draws the hidden items and trains the model. Runs are kept under ``--work`` and used again; rows are added to
``--out``, in place of those of the same data set, model and seed.
"""

from __future__ import annotations

import argparse
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

import recbole_eimf
from recbole_eimf import Recommender
from recbole_eimf.config.config import parse_command_line
from recbole_eimf.config.keys import our_keys
from recbole_eimf.core.files import write_json
from recbole_eimf.data.item_text import read_item_text
from recbole_eimf.evaluator.significance import paired_test
from recbole_eimf.model import placing
from recbole_eimf.model.text_codes import product_codes
from recbole_eimf.semantic.knowledge import ItemKnowledge, Knowledge, item_texts, read_knowledge, shuffled_knowledge
from recbole_eimf.serving.export import export
from recbole_eimf.serving.new_items import with_rows
from recbole_eimf.serving.title_map import encoded


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


def asked(frame: pd.DataFrame, hidden: set[str], back: int) -> dict[str, tuple[list[list[str]], list[str], list[str]]]:
    """(histories, targets, users) of users by whether their target is hidden; back: 0 asks for the last item, 1 for the
    one before it."""
    users: dict[str, tuple[list, list, list]] = {"hidden": ([], [], []), "others": ([], [], [])}
    for user, items in frame.groupby("user_id", sort=False)["item_id"]:
        *history, target = items.tolist()[: len(items) - back] or [None]
        history = [item for item in history if item not in hidden and item != target]
        if history:
            kind = users["hidden" if target in hidden else "others"]
            kind[0].append(history)
            kind[1].append(target)
            kind[2].append(user)
    return users


def trained(name: str, seed: int, given: dict, folder: Path) -> Recommender:
    """The model of a run over the data set without its hidden items; an earlier one is taken as it is."""
    model = folder / f"{name}.model"
    if not model.is_dir():
        keys = {"compare_with": [], "show_progress": False, "state": "WARNING", "mask_history": True, "topk": [10]}
        keys |= {**given, "data_path": str(folder), "seed": 2020 + seed}
        recbole_eimf.run(name, keys.pop("dataset"), None, output_dir=str(folder / name), **keys)
        export(folder / name, model, text="yes")
    return Recommender.load(model)


def with_items(model: Recommender, titles: dict[str, str], neighbours: int | None = None, temperature: float = 1.0):
    """A copy of the model with the items added; of another placement where one is named."""
    kept = placing.NEIGHBOURS, placing.TEMPERATURE
    if neighbours is not None:
        placing.NEIGHBOURS, placing.TEMPERATURE = neighbours, temperature
    grown = Recommender(model._parts, model.config, None)
    grown.add_items(titles)
    placing.NEIGHBOURS, placing.TEMPERATURE = kept
    return grown


def placed_by_codes(model: Recommender, run: Path, titles: dict[str, str], text: dict[str, str]) -> Recommender:
    """A copy of the model with the items placed by their own codes: pieces and centroids are those of the training.

    Raises:
        SystemExit: the codes found here are not those that the model was trained with.
    """
    parts, given = model._parts, json.loads((run / "config.json").read_text(encoding="utf-8"))["given"]
    weight = load_file(run / "model.safetensors")["backbone.net.item_embedding.code_embedding.weight"]
    pieces, centroids = (int(given.get(key, our_keys()[key].default)) for key in ("code_pieces", "code_centroids"))
    known = [item for item in parts.catalogue.tokens.to_pylist() if item in text]
    wanted = [text[item] for item in [*known, *titles]]
    protocol = model.config["evaluation"]["protocol"]
    vectors = torch.from_numpy(encoded(model.config["text"]["encoder"], wanted, parts.catalogue, protocol))
    there = torch.ones(len(vectors), dtype=torch.bool)
    codes = product_codes(vectors, there, pieces, centroids, fitted=torch.arange(len(vectors)) < len(known))
    made = weight[codes + centroids * torch.arange(pieces)].sum(1) / pieces**0.5
    table = parts.encoder.state_dict()[parts.encoder.tables()[0]]
    if not torch.allclose(made[: len(known)], table[[parts.catalogue.row_of[item] for item in known]], atol=1e-4):
        raise SystemExit(f"{run}: was trained with other codes than those found here")
    kept = placing.Neighbours.place
    placing.Neighbours.place = lambda near, table: made[len(known) :]
    grown = with_items(model, titles)
    placing.Neighbours.place = kept
    return grown


def words_on_items(file: Path, text: dict[str, str], counts: dict[str, int], seed: int) -> dict[str, dict[str, str]]:
    """Item texts: titles with an LLM's words, and with its words on another item as popular."""
    replies = {item: reply for item, reply in read_knowledge(file).items() if item in text and reply.status == "ok"}
    items = {item: ItemKnowledge.of_texts(reply.interests) for item, reply in replies.items()}
    return {
        f"title and {name}": item_texts(text, Knowledge(known, "file", {}, {}), "title+profile")
        for name, known in (("profile", items), ("profile of another", shuffled_knowledge(items, counts, seed)))
    }


def placed_by(model: Recommender, texts: dict[str, str], hidden: set[str]) -> Recommender:
    """A copy of the model with the hidden items placed by other texts than titles."""
    parts, known = model._parts, model.catalogue.tokens.to_pylist()
    kept = [item for item in known if item in texts]
    new = sorted(hidden)
    wanted = [texts[item] for item in [*kept, *new]]
    protocol = model.config["evaluation"]["protocol"]
    vectors = torch.from_numpy(encoded(model.config["text"]["encoder"], wanted, parts.catalogue, protocol))
    table = torch.zeros_like(parts.text.text)
    table[[parts.catalogue.row_of[item] for item in kept]] = vectors[: len(kept)].half()
    parts = replace(parts, text=replace(parts.text, text=table))
    return Recommender(with_rows(parts, vectors[len(kept) :], new, [texts[item] for item in new]), model.config, None)


def hits(model: Recommender, users: tuple[list, list, list]) -> np.ndarray:
    """Whether each user's target is among the ten, [n]."""
    return (recommended(model, users[0]) == np.array(users[1], dtype=object)[:, None]).any(1).astype(float)


def tested(found: list[tuple[np.ndarray, np.ndarray, list[str]]]) -> dict:
    """Of (hits by a text, hits by titles, users) of every seed: a test over users; some are in several seeds."""
    mine, titles = (np.concatenate([each[n] for each in found]) for n in (0, 1))
    _, user = np.unique(np.concatenate([each[2] for each in found]), return_inverse=True)
    test = paired_test(mine, titles, user=user)
    return {
        "seeds": len(found), "targets": len(mine), "users": test.users, "HR@10": round(100 * float(mine.mean()), 2),
        "by title": round(100 * float(titles.mean()), 2), "p_value": test.p_value,
    }  # fmt: skip


def measured(model: Recommender, test: dict, valid: dict, titles: dict[str, str], grid: bool) -> dict:
    """Figures of one model, in percent."""

    def rates(asked_of: Recommender, users: dict, rank=recommended) -> dict[str, float]:
        return {kind: round(100 * hit_rate(rank(asked_of, found[0]), found[1]), 2) for kind, found in users.items()}

    def popular(model: Recommender, histories: list[list[str]]) -> np.ndarray:
        return recommended(model, [[]] * len(histories))

    grown = with_items(model, titles)
    figures = {
        "before adding": rates(model, test),
        "added by title": rates(grown, test),
        "text alone": rates(grown, test, by_text),
        "popularity": rates(model, test, popular),
        "validation": rates(grown, valid),
    }
    if grid:
        tried = itertools.product((5, 10, 20, 50), (0.03, 0.05, 0.1, 0.3))
        figures["grid"] = {f"{n}, {t}": rates(with_items(model, titles, n, t), valid)["hidden"] for n, t in tried}
    return figures


def main() -> None:
    """Hide, train, add, measure; write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--models", nargs="+", default=["IBIM"])
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--data_path", required=True)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", required=True)
    parser.add_argument("--grid", action="store_true")
    parser.add_argument("--knowledge", type=Path)
    parser.add_argument("--out", required=True)
    given, rest = parser.parse_known_args()
    keys = parse_command_line(rest)
    source, name, out = Path(given.data_path), given.dataset, Path(given.out)
    text = read_item_text(source / name / f"{name}.item", "item_id", keys.get("text_fields", ["title"]))
    old_file = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {"rows": []}
    rows, words = old_file["rows"], old_file.get("words", {})
    by_words: dict[str, list] = {}
    for seed in given.seeds:
        frame, hidden = hidden_items(source / name / f"{name}.inter", text, given.share, seed)
        folder = Path(given.work) / f"{name}-{seed}"
        if not folder.is_dir():
            write_seen(source, folder, name, hidden)
        test, valid = asked(frame, hidden, 0), asked(frame, hidden, 1)
        titles = {item: text[item] for item in sorted(hidden)}
        for model_name in given.models:
            model = trained(model_name, seed, {"dataset": name, **keys}, folder)
            prior = model.config.get("prior")
            label = f"{model.config['name']} + {prior['kind']}" if prior else model.config["name"]
            label += f", item_text={keys['item_text']}" if "item_text" in keys else ""
            row = {"dataset": name, "model": label, "seed": seed, "hidden_items": len(hidden)}
            rows = [old for old in rows if any(old[key] != value for key, value in row.items())]
            row |= {"users": {kind: len(found[0]) for kind, found in test.items()}}
            row |= {
                "best_epoch": model.config["evaluation"]["best_epoch"],
                "keys": {key: value for key, value in keys.items() if key != "semantic_cache"},
            }
            row |= measured(model, test, valid, titles, given.grid)
            if keys.get("item_text") == "codes":
                grown = placed_by_codes(model, folder / model_name, titles, text)
                row["added by own codes"] = {
                    kind: round(100 * float(hits(grown, users).mean()), 2) for kind, users in test.items()
                }
            rows.append(row)
            print(json.dumps(row), flush=True)
            if given.knowledge:
                by_title = {kind: hits(with_items(model, titles), test[kind]) for kind in test}
                counts = frame["item_id"].value_counts().to_dict()
                for kind_of_text, texts in words_on_items(given.knowledge, text, counts, seed).items():
                    grown = placed_by(model, texts, hidden)
                    for kind in test:
                        label = f"{name}, {row['model']}, {kind}, {kind_of_text}"
                        by_words.setdefault(label, []).append((hits(grown, test[kind]), by_title[kind], test[kind][2]))
                        words[label] = tested(by_words[label])
                        print(label, words[label], flush=True)
            told = {"metric": "HR@10, percent", "hidden_share": given.share, "rows": rows}
            write_json(out, {**told, "words": words} if words else told)


if __name__ == "__main__":
    main()
