"""``explore``: a run's LLM part as a document, and the page and JSON file made of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recbole_eimf.core.errors import ConfigError, DataError, UserError
from recbole_eimf.core.folders import ITEMS_FILE
from recbole_eimf.core.run_folder import RESULT_FILE
from recbole_eimf.core.version import __version__
from recbole_eimf.evaluator.ranks import Ranks, read_ranks
from recbole_eimf.evaluator.significance import LEVEL
from recbole_eimf.semantic.pipeline import Pipeline
from recbole_eimf.semantic.side_load import pipeline_of
from recbole_eimf.serving.explain import means_more, said_of
from recbole_eimf.serving.export import Run, honesty_of, read_result, read_run
from recbole_eimf.study.explore import clusters as described
from recbole_eimf.study.explore.beside import name_in_tables, others
from recbole_eimf.study.explore.chart import MAPS, charted
from recbole_eimf.study.explore.gains import cluster_means, gains
from recbole_eimf.study.explore.said import Said, clusters_of_test_users, prompts_of, said_in, template_of

FORMAT = 1
#: keys that say where a run's files are now
PLACES = ("data_path", "semantic_cache", "interest_file", "assignment_file", "batch_file", "prompt_file")


@dataclass(frozen=True)
class ExploreOptions:
    """What to look at.

    Attributes:
        against: output_dirs of runs on the same users, for example without the LLM; none: the backbone and the placebo
            that ``compare_with`` made beside the run.
        k: of the metrics; None: that of the run's valid_metric.
        points: users on the map.
        chart: one of :data:`MAPS`.
        honesty: measure what the sentences mean.
        trusted: ``package.module:function`` of the user's own, where the interests come from there.
        model: ``package.module:Class``, where the model is a class of the user's own.
        backbone: the same, where its backbone is.
        places: keys that say where the run's files are now.
    """

    against: tuple[str, ...] = ()
    k: int | None = None
    points: int = 4000
    chart: str = "tsne"
    honesty: bool = True
    trusted: str | None = None
    model: str | None = None
    backbone: str | None = None
    places: Mapping[str, Any] | None = None


def explore(
    output_dir: str | os.PathLike, question: ExploreOptions | None = None, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Look at the LLM's part of a run.

    Args:
        output_dir: of a finished EIMF run; question: what to look at; say: is told what is being done.

    Returns:
        The document that the page shows: see docs/explore.md.

    Raises:
        DataError: no finished run, files that are gone, no values per user, or other users in ``against``.
        ConfigError: a model without interests, a wrong k.
    """
    question = question or ExploreOptions()
    if question.chart not in MAPS:
        raise ConfigError(f"--map={question.chart}: allowed are {', '.join(MAPS)}.")
    if question.points < 1:
        raise ConfigError(f"--points={question.points}: at least one user is needed on the map.")
    folder = Path(output_dir)
    result = _checked(folder)
    ranks = read_ranks(folder)
    beside = others(folder, ranks, question.against)
    k = _place(question.k, result, [ranks, *(other for _, other in beside)])
    say(f"reading {folder}: {name_in_tables(result)} on {result['dataset']}")
    named = {"model": question.model, "backbone": question.backbone}
    run = read_run(folder, **{key: name for key, name in named.items() if name}, **(question.places or {}))
    pipeline = pipeline_of(run.config, run.asked_about)
    said = said_in(pipeline, result["side_load"]["source"], question.trusted)
    cluster, placed = _test_clusters(run, pipeline, said, ranks)
    about = described.clusters(pipeline, said, prompts_of(pipeline, said))
    document: dict[str, Any] = {
        "format": FORMAT,
        "version": __version__,
        "run": _about_run(folder, result, k, len(pipeline.corpus.users)),
        "interests": {
            "source": said.source,
            "llm_used": said.llm_used,
            "made_by": said.made_by,
            "placebo": said.placebo,
            "encoder": pipeline.settings.text_encoder,
            "exemplars": len(said.exemplars),
            "interests": sum(map(len, said.texts)),
            "users_in_clusters": len(said.cluster),
            "changed": _changed(result["side_load"], said),
        },
        "prompt": dict(zip(("before", "after"), template_of(pipeline))) if said.llm_used else None,
        **about,
        "replies": described.replies(pipeline, said),
        "test": _tested(ranks, cluster) | {"placed_by_text": placed},
    }
    _add_metrics(document, ranks, beside, cluster, k)
    document["map"] = _map(pipeline, said, question, say)
    document["honesty"] = _honesty(run, question, say)
    return document


# ---------------------------------------------------------------------- what can be explored
def _checked(folder: Path) -> dict[str, Any]:
    """``result.json`` of a run that was trained with interests."""
    if (folder / ITEMS_FILE).is_file():
        raise DataError(
            f"{folder}: a model folder (of export). explore reads the run it was made from: its output_dir."
        )
    if (folder / "runs").is_dir() and not (folder / RESULT_FILE).is_file():
        raise DataError(f"{folder}: a table of several runs. Name one of them: {folder}/runs/NAME/SEED.")
    result = read_result(folder)
    missing = [key for key in ("model", "dataset", "side_load", "config", "test") if key not in result]
    if missing:
        raise DataError(f"{folder / RESULT_FILE}: lacks {', '.join(missing)}: not the result of a run of ours.")
    if "source" not in (result["side_load"] or {}):
        lacks = "LLM part to show: it reads no text"
        if result["side_load"]:
            lacks = "LLM part to show: it learned from item text, without interests"
        if "knowledge" in (result["side_load"] or {}):
            lacks = (
                "LLM's words on users to show: it learned from those on items (`recommend --explain` names them where "
                "a score prior lifted an item)"
            )
        raise ConfigError(
            f"{folder}: {name_in_tables(result)} has no {lacks}. explore shows runs that were trained "
            f"with interests (--model=EIMF); give this one as what they are compared with: --against {folder}."
        )
    return result


def _place(k: int | None, result: Mapping[str, Any], every: Sequence[Ranks]) -> int:
    """The k of hit and ndcg."""
    depth = min(ranks.depth for ranks in every)
    if k is None:
        wanted = str(result["config"].get("valid_metric") or "").partition("@")[2]
        return min(int(wanted) if wanted.isdecimal() else 10, depth)
    if not 1 <= k <= depth:
        raise ConfigError(
            f"--k={k}: the runs kept the first {depth} places (their largest topk); 1 to {depth} will do."
        )
    return k


def _about_run(folder: Path, result: dict[str, Any], k: int, training_users: int) -> dict[str, Any]:
    keys = ("model", "backbone", "dataset", "protocol", "mask_history", "seed", "epochs", "best_epoch", "test")
    about = {key: result.get(key) for key in keys}
    return {"folder": str(folder), "name": name_in_tables(result), "k": k, "training_users": training_users, **about}


def _changed(recorded: Mapping[str, Any], said: Said) -> str | None:
    """What today's files give otherwise than the run recorded, in words."""
    now = {"exemplars": len(said.exemplars), "interests": sum(map(len, said.texts))}
    differ = [
        f"{recorded[name]:,} {name} then, {now[name]:,} now"
        for name in now
        if recorded.get(name, now[name]) != now[name]
    ]
    return "; ".join(differ) or None


# ---------------------------------------------------------------------- parts of the document
def _test_clusters(run: Run, pipeline: Pipeline, said: Said, ranks: Ranks) -> tuple[np.ndarray, int]:
    test = run.loaders[2]._dataset
    if len(test.spans.user) != len(ranks.user) or (test.spans.user != ranks.user).any():
        raise DataError(
            f"{run.folder}: its test_ranks.safetensors is about other users than its data give today. Run again."
        )
    tokens = test.field2id_token[test.iid_field]
    users = test.field2id_token[test.uid_field][test.spans.user].tolist()
    flat = test.flat.numpy()
    histories = [tokens[flat[a:b]].tolist() for a, b in zip(test.spans.start, test.spans.middle)]
    return clusters_of_test_users(pipeline, said, users, histories)


def _tested(ranks: Ranks, cluster: np.ndarray) -> dict[str, int]:
    """Test users, those in no cluster, and, where users were asked more than once, how often."""
    users, rows = len(np.unique(ranks.user)), len(ranks.user)
    none = len(np.unique(ranks.user[cluster < 0]))
    return {"users": users, "rows": rows if rows > users else 0, "without_cluster": none}


def _add_metrics(
    document: dict[str, Any],
    ranks: Ranks,
    beside: Sequence[tuple[dict[str, Any], Ranks]],
    cluster: np.ndarray,
    k: int,
) -> None:
    """Each cluster's hit rate and NDCG in every run, and what it gains and loses."""
    count = len(document["clusters"])
    metrics = {"hit": f"hit@{k}", "ndcg": f"ndcg@{k}"}
    mine = {name: ranks.per_user(metric) for name, metric in metrics.items()}
    asked = np.unique(np.stack([ranks.user, cluster]), axis=1)[1]  # the cluster of each user
    users = np.bincount(asked[asked >= 0], minlength=count)
    own = {name: cluster_means(values, cluster, count)[1] for name, values in mine.items()}
    for c, one in enumerate(document["clusters"]):
        one["test_users"] = int(users[c])
        one["metrics"] = _rounded({name: own[name][c] for name in own})
        one["against"] = []
    document["against"] = []
    for about, theirs in beside:
        values = {name: theirs.per_user(metric) for name, metric in metrics.items()}
        means = {name: cluster_means(values[name], cluster, count)[1] for name in values}
        found = gains(mine["ndcg"], values["ndcg"], cluster, count, user=ranks.user)
        hit = cluster_means(mine["hit"] - values["hit"], cluster, count)[1]
        for c, one in enumerate(document["clusters"]):
            row = {name: means[name][c] for name in means} | {"d_hit": hit[c], "d_ndcg": found.mean[c]}
            row |= {"share": found.share[c], "p": found.p[c], "adjusted": found.adjusted[c]}
            one["against"].append(_rounded(row))
        document["against"].append(about | _summed(found))


def _summed(found) -> dict[str, Any]:
    there = found.users > 0
    return {
        "difference": round(found.difference, 6),
        "gain": int((found.mean[there] > 0).sum()),
        "lose": int((found.mean[there] < 0).sum()),
        "same": int((found.mean[there] == 0).sum()),
        "sure_gain": int(((found.adjusted < LEVEL) & (found.mean > 0)).sum()),
        "sure_lose": int(((found.adjusted < LEVEL) & (found.mean < 0)).sum()),
        "spread": round(found.spread, 6),
        "spread_by_chance": round(found.spread_by_chance, 6),
        "p_spread": round(found.p_spread, 6),
        "deviation": round(found.deviation, 6),
    }


def _rounded(values: Mapping[str, Any]) -> dict[str, float | None]:
    return {name: None if np.isnan(value) else round(float(value), 6) for name, value in values.items()}


def _map(pipeline: Pipeline, said: Said, question: ExploreOptions, say: Callable[[str], None]) -> dict[str, Any]:
    vectors, known = pipeline.user_vectors
    users = np.flatnonzero(known)
    at = {pipeline.corpus.users[u]: place for place, u in enumerate(users)}
    always = [at[user] for user in said.exemplars if user in at]
    shown = min(len(users), max(question.points, len(always)))
    hint = "; --map=pca is quicker" if question.chart == "tsne" and shown > 1000 else ""
    say(f"placing {shown:,} of {len(users):,} users on the map ({question.chart}{hint})")
    found = charted(vectors[users], always, question.points, question.chart)
    tokens = [pipeline.corpus.users[users[u]] for u in found.user]
    place_of = {user: c for c, user in enumerate(said.exemplars)}
    return {
        "method": found.method,
        "users": len(users),
        "x": found.place[:, 0].tolist(),
        "y": found.place[:, 1].tolist(),
        "cluster": [said.cluster.get(user, -1) for user in tokens],
        "exemplar": [place for place, user in enumerate(tokens) if user in place_of],
    }


def _honesty(run: Run, question: ExploreOptions, say: Callable[[str], None]) -> dict[str, Any]:
    """The honesty number, or why there is none."""
    nothing: dict[str, Any] = {"said": None, "means_more": None}
    if not question.honesty:
        return nothing | {"why_not": "not asked for (--no-honesty)"}
    say("measuring whether the sentences mean more than a placebo's")
    try:
        found = honesty_of(run)
    except UserError as error:
        return nothing | {"why_not": str(error)}
    if found is None:
        return nothing | {"why_not": f"{run.config['model']} names no sentences, only EIMF does"}
    said = said_of(found)
    if said is None:
        return nothing | {"why_not": "fewer than two exemplars have both interests and items with text"}
    return dict(found) | {"said": said, "means_more": means_more(found)}
