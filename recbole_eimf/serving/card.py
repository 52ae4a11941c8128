"""The model card: what a served model was trained on, how good it is beside the floors, and what it cannot do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole_eimf.config.maker import made_by
from recbole_eimf.evaluator import candidates
from recbole_eimf.serving.explain import said_of


def model_card(config: Mapping[str, Any]) -> str:
    """``README.md`` of a model folder, from its ``config.json``."""
    data, evaluation = config["data"], config["evaluation"]
    tags = "---\nlibrary_name: recbole_eimf\ntags: [recommendation, sequential-recommendation]\n---\n"
    lines = [
        tags,
        f"# {config['name']} on {data['dataset']}\n",
        f"Sequential recommendation: from the items a user had, in order, to the next ones. {data['items']:,} items; "
        f"trained on {data['training_interactions']:,} interactions of {data['users']:,} users.\n",
        "```python\nfrom recbole_eimf import Recommender\n\n"
        'Recommender.load("this folder").recommend([["item token", "item token"]], k=10)\n```\n',
        "## How good it is\n",
        _protocol(evaluation),
        _table(config["name"], evaluation),
    ]
    if not evaluation["compared"]:
        lines.append(
            "\nNo floor was run beside it: `--compare_with=[Popularity,DecayedItemKNN]` does that. Without one these "
            "figures say little.\n"
        )
    if data.get("changed"):
        lines.append(
            "\nThe interactions have changed between training and this export: the counts above, popularity and users' "
            "histories are of the later ones, the figures of the earlier.\n"
        )
    if config.get("refit"):
        lines.append(
            f"\nThe weights served were trained again on everything, held-out items too, for the "
            f"{evaluation['best_epoch'] + 1} epochs that were best on validation. The figures are those of the run "
            "before.\n"
        )
    lines += ["\n## Limits\n", *_limits(config)]
    return "\n".join(lines).rstrip() + "\n"


def _protocol(evaluation: Mapping[str, Any]) -> str:
    masked = "are no candidates" if evaluation["mask_history"] else "are candidates too"
    part = "Test part" if evaluation["test"] else "Validation part (the test part was left alone)"
    return (
        f"{part} of the protocol `{evaluation['protocol']}`, {candidates.told(evaluation)}, "
        f"items of the history {masked}, "
        f"seed {evaluation['seed']}. In percent; one seed, so differences of a few percent of a figure mean nothing.\n"
    )


def _table(name: str, evaluation: Mapping[str, Any]) -> str:
    rows = [(name, evaluation["test"] or evaluation["valid"])]
    rows += [(other["name"], other["test"]) for other in evaluation["compared"]]
    metrics = [metric for metric in rows[0][1] if metric.startswith(("recall", "hit", "ndcg"))]
    head = ["model", *metrics]
    body = [[label, *(f"{100 * found[m]:.2f}" if m in found else "" for m in metrics)] for label, found in rows]
    table = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in table) + "\n"


def _limits(config: Mapping[str, Any]) -> list[str]:
    keys = config["keys"] if config["encoder"] is None else config["encoder"]["keys"]
    lines = [
        f"- It reads the latest {keys['MAX_ITEM_LIST_LENGTH']} items of a history, and nothing else of a user.",
        "- A history without a known item is answered by popularity, and marked so.",
        "- Scores rank items for one user; they are no probabilities and do not compare between users.",
    ]
    unseen = (config["evaluation"]["slices"] or {}).get("unseen", {})
    if unseen.get("targets"):
        hits = {name: value for name, value in unseen.items() if name.startswith("hit")}
        said = ", ".join(f"{name} {100 * value:.2f} %" for name, value in hits.items())
        lines.append(f"- Items that training never saw: {unseen['targets']} test targets, {said}.")
    if config["text"]:
        lines.append(f"- New items are placed by their title (encoder {config['text']['encoder']['name']}).")
    else:
        lines.append("- New items cannot be added: no map from text to item vectors was kept.")
    side = config["evaluation"]["side_load"]
    if prior := config.get("prior"):
        lines.append(
            f"- A prior is added to the network's scores, with weights that validation chose "
            f"(`score_prior={prior['kind']}`): without it the figures above are not these."
        )
    if encoder := (side or {}).get("text_encoder"):
        real = side.get("text_source", "real") == "real"
        lines.append(
            f"- Item text had a part in it (encoder {encoder}"
            + ("" if real else f"; not that of the items: `text_source={side['text_source']}`")
            + ")."
        )
    if known := (side or {}).get("knowledge"):
        lines.append(
            f"- What a language model says of items had a part in it (source: {known['source']}, "
            f"{known.get('items_known', 0):,} items). No model is asked when it serves."
        )
    if side and "source" in side:
        made = {
            "llm": "by an LLM",
            "own": "by a function of the trainer's own",
            "keywords": "from keywords of titles; no LLM had a part in them",
        }[made_by(side)]
        lines.append(
            f"- Interests it was trained with were made {made} (source: {side['source']}). Serving needs none."
        )
    said = said_of((config["text"] or {}).get("explain"))
    if said:
        lines.append(f"- {said}")
    return lines
