"""Do two models see the same items as near? (PAD section 4.3, eq. 13, figures 3, 6 and 7.)

Kendall's tau between the distances of two models, over the
(behaviour, target) pairs of the training sequences, by the target's frequency bucket; and where the pairs of items that
are nearest and farthest by ids lie among the distances of every other kind of vectors. Vectors may have different
dimensions. Written are ``agreement.json``, ``agreement_tau.png`` and ``agreement_distances.png``.

**Decisions.** A pair of items counts once, however often it occurs. Vectors of a model that scores by cosine are
normalised first: their length means nothing to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import kendalltau

from recbole_eimf.core.disk import check_writable
from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.core.files import write_json
from recbole_eimf.core.parts import require
from recbole_eimf.model.pad.experts import frequency_buckets

_BINS = 40


@dataclass(frozen=True)
class RunVectors:
    """A run's item vectors: name -> float [N, d], with what the pairs of items are drawn from."""

    name: str
    vectors: Mapping[str, np.ndarray]
    tokens: np.ndarray  # [N]
    histories: Sequence[np.ndarray]  # training sequences, item ids
    counts: np.ndarray  # [N] training frequency
    max_length: int


def side(name: str) -> str:
    """What vectors called ``aligned.id``, ``id-2``, ``text``, ... are made of.

    >>> [side(name) for name in ("aligned.id", "id-2", "text", "titles", "hybrid", "aligned")]
    ['ids', 'ids', 'text', 'text', 'joined', 'joined']
    """
    last = name.rpartition(".")[2].partition("-")[0]
    return {"id": "ids", "text": "text", "titles": "text"}.get(last, "joined")


# ---------------------------------------------------------------------- pairs and their order
def behaviour_target_pairs(histories: Sequence[np.ndarray], max_length: int) -> np.ndarray:
    """The distinct (behaviour, target) pairs of item ids of section 4.3, int64 [n, 2]; of equal items there is none.

    Every item of a sequence is a target, the at most ``max_length`` items before it are its behaviours.
    """
    found = []
    for gap in range(1, max_length + 1):
        longer = [history for history in histories if len(history) > gap]
        if not longer:
            break
        pairs = np.concatenate([np.stack([history[:-gap], history[gap:]], 1) for history in longer])
        found.append(np.unique(pairs, axis=0))
    pairs = np.unique(np.concatenate([np.empty((0, 2), np.int64), *found]), axis=0)
    return pairs[pairs[:, 0] != pairs[:, 1]].astype(np.int64)


def distances(vectors: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Euclidean distances of pairs of rows: [N, d], [n, 2] -> float64 [n]."""
    return np.linalg.norm(vectors[pairs[:, 0]].astype(np.float64) - vectors[pairs[:, 1]], axis=1)


def tau_by_bucket(first: np.ndarray, second: np.ndarray, bucket: np.ndarray, buckets: int) -> list[float | None]:
    """Kendall's tau (eq. 13; tau-b where distances tie) of two distances [n] in each bucket 1..``buckets``."""
    found: list[float | None] = []
    for number in range(1, buckets + 1):
        inside = bucket == number
        tau = kendalltau(first[inside], second[inside]).statistic if inside.sum() > 1 else float("nan")
        found.append(None if np.isnan(tau) else float(tau))
    return found


def sample_by_bucket(pairs: np.ndarray, bucket: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Row numbers of at most ``count`` random pairs of every bucket, in order."""
    order = rng.permutation(len(pairs))
    kept = [order[bucket[order] == number][:count] for number in np.unique(bucket)]
    return np.sort(np.concatenate(kept))


def near_and_far(by_ids: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    """Where the tenth of pairs nearest and farthest by ids lie among the distances ``other`` (figure 3).

    Returns:
        ``edges`` of the bins, ``near`` and ``far`` as shares of pairs per bin, and ``overlap``, the area the two
        distributions share: 1 cannot be told apart, 0 are apart.
    """
    order, tenth = np.argsort(by_ids, kind="stable"), max(len(by_ids) // 10, 1)
    edges = np.histogram_bin_edges(other, _BINS)
    near, far = (np.histogram(other[part], edges)[0] / tenth for part in (order[:tenth], order[-tenth:]))
    overlap = float(np.minimum(near, far).sum())
    return {"edges": edges.tolist(), "near": near.tolist(), "far": far.tolist(), "overlap": overlap}


# ---------------------------------------------------------------------- two runs
def compare_vectors(first: RunVectors, second: RunVectors, pairs: int, buckets: int, seed: int) -> dict[str, Any]:
    """Everything ``agreement.json`` holds.

    Raises:
        DataError: the runs have other items, or no history has two.
    """
    if not np.array_equal(first.tokens, second.tokens):
        raise DataError(f"{first.name} and {second.name} do not have the same items. Use runs on the same data.")
    rng = np.random.default_rng(seed)
    item_bucket = frequency_buckets(first.counts, buckets)
    drawn = behaviour_target_pairs(first.histories, first.max_length)
    if not len(drawn):
        raise DataError(
            f"{first.name}: no training history has two different items, so there is no pair whose distances could be "
            f"compared. Use runs on data with longer histories."
        )
    drawn = drawn[sample_by_bucket(drawn, item_bucket[drawn[:, 1]], pairs, rng)]
    bucket = item_bucket[drawn[:, 1]]
    of = [{name: distances(v, drawn) for name, v in run.vectors.items()} for run in (first, second)]
    tau = [
        {"first": a, "second": b, "side": side(a), "tau": tau_by_bucket(of[0][a], of[1][b], bucket, buckets)}
        for a in of[0]
        for b in of[1]
        if side(a) == side(b)
    ]
    slices = {"warm": (1, (buckets + 2) // 3), "cold": (buckets - (buckets + 2) // 3 + 1, buckets)}
    spread = {
        name: [_spread(run, first, _random_pairs(item_bucket, limits, pairs, rng)) for run in (first, second)]
        for name, limits in slices.items()
    }
    counted = [int((bucket == number).sum()) for number in range(1, buckets + 1)]
    return {"runs": [first.name, second.name], "pairs": counted, "tau": tau, "near_and_far": spread}


def _random_pairs(item_bucket: np.ndarray, limits: tuple[int, int], count: int, rng) -> np.ndarray:
    items = np.flatnonzero((item_bucket >= limits[0]) & (item_bucket <= limits[1]))
    if not len(items):  # a few bought most have a bucket to themselves, or all are bought as often
        return np.empty((0, 2), dtype=np.int64)
    pairs = rng.choice(items, (count, 2))
    return pairs[pairs[:, 0] != pairs[:, 1]]


def _spread(run: RunVectors, first: RunVectors, pairs: np.ndarray) -> dict[str, Any]:
    """:func:`near_and_far` of every kind of vectors; near and far by the run's own ids, else by the first run's."""
    if not len(pairs):
        return {}
    owner = run if any(side(name) == "ids" for name in run.vectors) else first
    ids = next((v for name, v in owner.vectors.items() if side(name) == "ids"), next(iter(owner.vectors.values())))
    by_ids = distances(ids, pairs)
    return {name: near_and_far(by_ids, distances(vectors, pairs)) for name, vectors in run.vectors.items()}


def read_vectors(path: str | Path, model: str | None = None, backbone: str | None = None) -> RunVectors:
    """Load a run's item vectors, those made with text too where the model is one of experts.

    Args:
        path: output_dir of the run; model, backbone: see :func:`recbole_eimf.experiment.load.load`.

    Raises:
        DataError: no model there.
        ConfigError: a model without item vectors.
    """
    from recbole_eimf.experiment.load import load
    from recbole_eimf.model.base import SequenceModel
    from recbole_eimf.model.pad.towers import TowerModel

    over = {"backbone": backbone} if backbone else {}
    config, net, (train, _, _) = load(path, model, **over)
    if isinstance(net, TowerModel):
        config, net, (train, _, _) = load(path, model, inference_only=False, **over)
        vectors = net.eval().embeddings()
    elif isinstance(net, SequenceModel):
        vectors = net.eval().embeddings()
    else:  # RecBole's
        table = getattr(net, "item_embedding", None)
        vectors = {} if table is None else {"id": table.weight[: net.n_items]}
    if not vectors:
        raise ConfigError(f"{path}: {config['model']} has no item vectors to compare; choose a run of a neural model.")
    unit = isinstance(net, SequenceModel) and net.unit_vectors
    data = train._dataset
    return RunVectors(
        str(path),
        {name: _plain(value, unit) for name, value in vectors.items()},
        data.field2id_token[data.iid_field],
        data.sequences()[1],
        data.item_counts(),
        config["MAX_ITEM_LIST_LENGTH"],
    )


def _both(paths: tuple[str, str], model: str | None, backbone: str | None) -> list[RunVectors]:
    """The two runs, of which perhaps only one is of the user's own model, or over a backbone of the user's own."""
    from recbole_eimf.trainer import checkpoint

    named = {}
    for path in paths:
        description = checkpoint.read_description(checkpoint.model_folder(path))
        over = checkpoint.keys_to_build_with(description).get("backbone")
        named[path] = {"model": description["model_import"], "backbone": over}
    for key, own in (("model", model), ("backbone", backbone)):
        if own is not None and all(names[key] != own for names in named.values()):
            of = "a run of" if key == "model" else "a run over"
            raise ConfigError(
                f"--{key}={own}: {' is not, and '.join(named)} is not {of} that class. Leave it out, or name theirs."
            )
    own = {"model": model, "backbone": backbone}
    return [read_vectors(path, **{key: own[key] for key in own if own[key] == named[path][key]}) for path in paths]


def _plain(vectors: torch.Tensor, unit: bool) -> np.ndarray:
    vectors = vectors.detach().cpu()
    return (F.normalize(vectors, dim=-1) if unit else vectors).numpy()


# ---------------------------------------------------------------------- two runs, and figures
def agree(
    first: str | Path,
    second: str | Path,
    out: str | Path,
    *,
    pairs: int = 20000,
    buckets: int = 10,
    seed: int = 0,
    model: str | None = None,
    backbone: str | None = None,
) -> dict[str, Any]:
    """Compare two runs on the same data and write ``agreement.json`` and its two figures into ``out``.

    Args:
        first, second: ``output_dir`` of the runs.
        pairs: at most this many pairs of items per frequency bucket.
        model: ``package.module:Class`` of runs of a model of your own, which is imported.
        backbone: that of runs over a backbone of your own.

    Raises:
        UserError: runs that are not there or do not fit each other.
    """
    require("matplotlib")
    out = Path(out)
    check_writable(out, "--out", make=False)
    found = compare_vectors(*_both((str(first), str(second)), model, backbone), pairs, buckets, seed)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "agreement.json", found)
    draw_tau(found, out / "agreement_tau.png")
    draw_distances(found, out / "agreement_distances.png")
    return found


def text_table(found: Mapping[str, Any]) -> str:
    """Kendall's tau by bucket, hot to cold, a line per pair of vectors."""
    lines = [f"Kendall's tau of distances, buckets hot to cold; {found['runs'][0]} : {found['runs'][1]}"]
    for row in found["tau"]:
        values = " ".join("   - " if tau is None else f"{tau:5.2f}" for tau in row["tau"])
        lines.append(f"{row['first'] + ' : ' + row['second']:<28} {values}")
    return "\n".join(lines)


def draw_tau(found: Mapping[str, Any], path: Path) -> None:
    """Figure 6: tau by bucket, a line per pair of vectors."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axis = figure.subplots()
    for row in found["tau"]:
        values = [float("nan") if tau is None else tau for tau in row["tau"]]
        axis.plot(range(1, len(values) + 1), values, marker="o", label=f"{row['first']} : {row['second']}")
    axis.set(xlabel="frequency bucket of the target, hot to cold", ylabel="Kendall's tau")
    axis.set_title(" : ".join(found["runs"]), fontsize=9)
    if found["tau"]:
        axis.legend(fontsize=8, frameon=False)
    _save(figure, path)


def draw_distances(found: Mapping[str, Any], path: Path) -> None:
    """Figures 3 and 7: distances of the nearest and the farthest tenth of pairs by ids, cold and warm items."""
    from matplotlib.figure import Figure

    rows = [(part, run, found["near_and_far"][part][run]) for part in ("cold", "warm") for run in (0, 1)]
    columns = max(max(len(panels) for _, _, panels in rows), 1)
    figure = Figure(figsize=(2.6 * columns + 0.6, 2.1 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, (part, run, panels) in zip(axes, rows):
        for axis in line[len(panels) :]:
            axis.set_visible(False)
        for axis, (name, panel) in zip(line, panels.items()):
            for kind, colour in (("near", "#0072B2"), ("far", "#D55E00")):
                axis.stairs(panel[kind], panel["edges"], fill=True, alpha=0.5, color=colour, label=f"{kind} by ids")
            axis.set_title(f"{'AB'[run]}, {part}: {name}, overlap {panel['overlap']:.2f}", fontsize=8)
            axis.set_yticks([])
    axes[0][0].legend(fontsize=7, frameon=False)
    figure.suptitle(f"A: {found['runs'][0]}   B: {found['runs'][1]}", fontsize=9)
    _save(figure, path)


def _save(figure, path: Path) -> None:
    from recbole_eimf.core.files import atomic_path

    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
