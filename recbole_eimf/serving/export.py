"""A finished run to a model folder (:mod:`recbole_eimf.serving.model_folder`). The one part of serving that reads
RecBole: the model is loaded as it was trained, taken apart, and the folder's scores are compared with its own."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from recbole_eimf.config.contract import CHOSEN
from recbole_eimf.config.keys import SemanticSettings, read
from recbole_eimf.config.placebo import read_shuffled
from recbole_eimf.core.errors import ConfigError, DataError
from recbole_eimf.core.files import fingerprint
from recbole_eimf.core.run_folder import HISTORY_FILE, MODEL_FILE, result_file
from recbole_eimf.data.item_text import read_item_text
from recbole_eimf.experiment.load import load
from recbole_eimf.experiment.result import RunResult
from recbole_eimf.model.ibim import IBIM
from recbole_eimf.model.pad.towers import TowerModel
from recbole_eimf.semantic.dataset import unsplit
from recbole_eimf.serving import model_folder
from recbole_eimf.serving.answer import Question, rank
from recbole_eimf.serving.card import model_card
from recbole_eimf.serving.catalogue import Catalogue, Users
from recbole_eimf.serving.counts import COUNTING_MODELS, Counts
from recbole_eimf.serving.encoder import OWN_MODELS, EncoderSpec, build_history_encoder, keys_read
from recbole_eimf.serving.index import check_index_kind
from recbole_eimf.serving.parts import Parts, with_index
from recbole_eimf.serving.save import write_parts

logger = getLogger(__name__)

#: users whose scores are compared before a folder gets its name
_COMPARED = 64


@dataclass(frozen=True)
class Run:
    """A finished run in memory: its result, and what :func:`recbole_eimf.load` makes of its model.

    ``asked``: the training part that an LLM was asked about, where ``loaders`` have another since (a refit).
    """

    folder: Path
    result: dict[str, Any]
    config: Any
    net: nn.Module
    loaders: tuple
    given: dict[str, Any] = dataclasses.field(default_factory=dict)
    asked: Any = None

    @property
    def asked_about(self) -> Any:
        """The training part whose users were clustered."""
        return self.loaders[0]._dataset if self.asked is None else self.asked


def read_run(output_dir: str | os.PathLike, **overrides: Any) -> Run:
    """Load the model of a run; ``overrides`` are keys that say where its files are now.

    Raises:
        DataError: no such folder, or the run is not finished.
    """
    folder, result = Path(output_dir), read_result(output_dir)
    config, net, loaders = load(folder, gpu_id="", state="WARNING", show_progress=False, **overrides)
    return Run(folder, result, config, net.eval(), loaders, overrides, loaders[0]._dataset.asked)


def read_result(output_dir: str | os.PathLike) -> dict[str, Any]:
    """What ``result.json`` of a finished run holds; of a run that ``compare_with`` made, its part of the other's.

    Raises:
        DataError: as :func:`read_run`.
    """
    folder, file = Path(output_dir), result_file(output_dir)
    if not file.is_file() and (folder / model_folder.ITEMS).is_file():
        raise DataError(
            f"{folder}: a model folder (of export), where a run's output_dir is needed. `recommend --model {folder}` "
            f"and `serve {folder}` take it as it is."
        )
    if not file.is_file() and (folder / MODEL_FILE).is_file() and not (folder / HISTORY_FILE).is_file():
        raise DataError(
            f"{folder}: a model alone, as a run without output_dir leaves it. Serving needs the run's result: train "
            f"with --output_dir=OUT, and give that folder."
        )
    if not file.is_file():
        what = "is there, but the run is not finished" if folder.is_dir() else "no such folder"
        raise DataError(f"{folder}: {what} (no result.json). Train with --output_dir={folder}, or --resume=True.")
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file}: not JSON ({error}). Run again to have it rewritten.") from error
    if file.parent == folder:
        return result
    for one in result["compared"]:
        if Path(one["config"]["output_dir"]).name == folder.name:
            return one
    raise DataError(f"{folder}: {file} holds no result of it. Name another run, or run {folder.parent} again.")


def honesty_of(run: Run) -> dict[str, Any] | None:
    """What :func:`recbole_eimf.serving.explain.honesty` measures of an EIMF run, as a model folder would hold it."""
    parts, config = _taken_apart(run)
    return (_with_text(run, parts, config, "auto")[1]["text"] or {}).get("explain")


def export(
    output_dir: str | os.PathLike,
    out: str | os.PathLike,
    *,
    index: str = "auto",
    onnx: bool = False,
    refit: bool = False,
    text: str = "auto",
    histories: bool = True,
    model: str | type | None = None,
) -> Path:
    """Write the model of a run as a model folder.

    Args:
        output_dir: of a finished run; out: the folder to write; an older model folder there is replaced.
        index: auto, flat, hnsw or none (:mod:`recbole_eimf.serving.index`).
        onnx: write ``encoder.onnx`` too.
        refit: train again first, on everything there is, for the best number of epochs. What is served is then no
            longer what was evaluated; the card says so.
        text: auto keeps what new items need where the run read text, yes encodes titles where it did not, no.
        histories: keep users' histories, which ``recommend --user`` needs.
        model: the class of a model that is neither ours nor RecBole's, or its ``package.module:Class``, which is
            imported. Serving needs it no more.

    Returns:
        ``out``.

    Raises:
        DataError: no finished run, or ``out`` is something else. ConfigError: a model that cannot be served, that has
            no encoder for ``onnx``, or a score prior, of which no graph knows. MissingPartError: ``onnx`` without its
            packages.
    """
    check_index_kind(index)
    if text not in ("auto", "yes", "no"):
        raise ConfigError(f"text={text}: allowed are auto, yes, no.")
    model_folder.check_place(out)
    if onnx:  # before a model is loaded, and trained again
        from recbole_eimf.serving.onnx import check_onnx

        check_onnx(read_result(output_dir)["model"] in COUNTING_MODELS)
    _check_backbone(output_dir)
    run = read_run(output_dir, **({} if model is None else {"model": model}))
    check_served(run)
    check_index(run, index)
    if refit:
        from recbole_eimf.serving.refit import refitted

        run = refitted(run)
    return write_run(run, out, index=index, onnx=onnx, refit=refit, text=text, histories=histories)


def write_run(
    run: Run, out: str | os.PathLike, *, index: str, onnx: bool, refit: bool, text: str, histories: bool
) -> Path:
    """:func:`export` of a run in memory."""
    parts, config = _taken_apart(run)
    users = _users(run) if histories else None
    config |= {"index": index, "refit": refit}
    _compare(run, parts, config)
    parts, config = _with_text(run, parts, config, text)
    parts = with_index(parts, index)
    out = Path(out)
    with model_folder.new_folder(out, config) as new:
        write_parts(new, parts, users)
        if onnx:
            from recbole_eimf.serving.onnx import write_onnx

            write_onnx(new / "encoder.onnx", parts.encoder)
        (new / model_folder.CARD).write_text(model_card(config), encoding="utf-8")
    return out


# ---------------------------------------------------------------------- what can be served
def check_served(run: Run) -> None:
    """Raise ConfigError for a model whose scores are not products or counts that a folder can hold."""
    net, name = run.net, run.config["model"]
    if name in (*COUNTING_MODELS, *OWN_MODELS):
        return
    products = isinstance(net, IBIM | TowerModel) and getattr(type(net).full_sort_predict, "scored_by_products", False)
    if not products:
        raise ConfigError(
            f"model={name}: its scores are not inner products of a state with item vectors that are known here. Models "
            f"that can be served: ours except floors that read text, subclasses that score alike, and RecBole's "
            f"{', '.join(OWN_MODELS)}."
        )


def check_index(run: Run, index: str) -> None:
    """Raise ConfigError for a graph over a model with a score prior."""
    if index == "hnsw" and getattr(run.net, "prior", None) is not None:
        raise ConfigError(
            f"index=hnsw: the run has score_prior={run.config['score_prior']}, and the items that its lists and counts "
            f"lift may stand anywhere in a graph. Use --index=flat, which proves its answers."
        )


def _check_backbone(output_dir: str | os.PathLike) -> None:
    """Raise ConfigError for a backbone of the user's own: whoever serves a folder has this package's networks alone."""
    backbone = read_result(output_dir)["backbone"]
    if ":" in str(backbone):
        raise ConfigError(
            f"{output_dir}: its backbone {backbone} is a class of your own, and a model folder is served by this "
            f"package's networks alone. Score with it in Python: recbole_eimf.load({str(output_dir)!r}, "
            f"backbone={backbone!r}); or ship the backbone with the package (docs/extend.md)."
        )


def _taken_apart(run: Run) -> tuple[Parts, dict[str, Any]]:
    """(parts, config.json without its index)."""
    catalogue = _catalogue(run)
    config = {**_described(run, catalogue), "encoder": None, "keys": None, "diversity": None, "text": None}
    net, name = run.net, run.config["model"]
    if name in COUNTING_MODELS:
        keys = {key: run.config[key] for key in ("MAX_ITEM_LIST_LENGTH", "knn_decay", "recency_half_life")}
        if keys["recency_half_life"] == CHOSEN:  # whoever serves it needs no more than what was chosen
            keys["recency_half_life"] = net.chosen_half_life
        wanted = ("popularity", "row_pointer", "column", "value")
        tensors = {key: value.cpu() for key, value in net.state_dict().items() if key in wanted}
        return Parts(catalogue, counts=Counts(name, len(catalogue), keys, tensors)), {**config, "keys": keys}
    spec, tensors = _encoder(run)
    encoder = build_history_encoder(spec, len(catalogue), tensors)
    with torch.no_grad():
        vectors, bias = _scored(net, len(catalogue))
    category = None
    if getattr(net, "diversity", None) is not None:
        category = net.diversity.category.cpu()
        config["diversity"] = {"weight": net.diversity.weight, "count": net.diversity.count}
    config["encoder"] = dataclasses.asdict(spec)
    if not spec.targets:  # which versions before it do not know
        del config["encoder"]["targets"]
    prior = getattr(net, "prior", None)
    if prior is not None:
        known = {
            "kind": prior.kind,
            "decay": prior.decay,
            "placebo": prior.placebo or read_shuffled(run.result["side_load"]),
        }
        config["prior"] = {**known, "text": run.config["item_text_source"]}
        prior = copy.deepcopy(prior).cpu()
    return Parts(catalogue, encoder, vectors, bias, category=category, prior=prior), config


def _encoder(run: Run) -> tuple[EncoderSpec, dict[str, Tensor]]:
    net, config = run.net, run.config
    if config["model"] in OWN_MODELS and not isinstance(net, IBIM | TowerModel):
        towers = (config["model"],)
        known = set(_own_names(towers, config))
        state = {f"towers.0.{name}": value for name, value in net.state_dict().items()}
        tensors = {name: value for name, value in state.items() if name in known}
        return EncoderSpec(towers, keys_read(towers, True, config), own=True), _copied(tensors)
    backbones = [net.backbone] if isinstance(net, IBIM) else [tower.backbone for tower in net.towers]
    towers = (type(net).network_name(config),) * len(backbones)
    targets = {} if isinstance(net, IBIM) else {e: t.own_targets for e, t in enumerate(net.towers) if t.own_targets}
    spec = EncoderSpec(
        towers=towers,
        keys=keys_read(towers, False, config),
        score=net.item_settings.score,
        score_scale=net.item_settings.score_scale,
        append_one=bool(getattr(net, "_has_offset", False)),
        targets=tuple(targets),
    )
    tensors = {f"towers.{e}.{k}": v for e, backbone in enumerate(backbones) for k, v in backbone.state_dict().items()}
    tensors |= {f"targets.{e}.{k}": v for e, table in targets.items() for k, v in table.state_dict().items()}
    return spec, _copied(tensors)


def _own_names(towers: tuple[str, ...], config) -> list[str]:
    from recbole_eimf.serving.encoder import Encoder

    with torch.device("meta"):
        return list(Encoder(EncoderSpec(towers, keys_read(towers, True, config), own=True), 2).state_dict())


def _copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in tensors.items()}


def _scored(net: nn.Module, items: int) -> tuple[Tensor, Tensor | None]:
    """(vectors [N, D], bias [N] or None)."""
    if isinstance(net, IBIM | TowerModel):
        bias = getattr(getattr(net, "backbone", None), "item_bias", None)
        vectors = net.scored_vectors()
    else:
        vectors, bias = net.item_embedding.weight[:items], getattr(net, "output_bias", None)
    return vectors.detach().cpu().clone(), None if bias is None else bias.detach().cpu().clone()


# ---------------------------------------------------------------------- what is known of items, users and the run
def _catalogue(run: Run) -> Catalogue:
    train, config = run.loaders[0]._dataset, run.config
    tokens = train.field2id_token[config["ITEM_ID_FIELD"]].tolist()
    titles: dict[str, str] = {}
    wanted = read(SemanticSettings, config)
    path = Path(config["data_path"]) / f"{config['dataset']}.item"
    if path.is_file():
        try:
            titles = read_item_text(
                path, config["ITEM_ID_FIELD"], wanted.text_fields, config["field_separator"], config["encoding"]
            )
        except DataError as error:
            logger.warning(f"no titles: {error}")
    counts = train.item_counts().astype(np.int64)
    return Catalogue(
        pa.array(tokens, pa.string()), pa.array([titles.get(token) for token in tokens], pa.string()), counts
    )


def _users(run: Run) -> Users:
    """Every user with all they had: the whole data set's events, of which a split may leave some out of every part.

    Raises:
        DataError: the files hold other users or items than those of the run's parts.
    """
    known, config = run.loaders[0]._dataset, copy.copy(run.config)
    config.times_told = True  # the parts have said what there is to say
    whole = unsplit(config)
    for field in (known.uid_field, known.iid_field):
        if not np.array_equal(whole.field2id_token[field], known.field2id_token[field]):
            raise DataError(
                f"{config['data_path']}: column {field} holds other tokens than when the run's data were loaded. Put "
                f"the run's data back, or leave users' histories out (--no-histories)."
            )
    tokens = whole.field2id_token[whole.uid_field].tolist()
    histories = model_folder.lists_of(whole.flat.numpy().astype(np.int32), whole.offsets)
    return Users(pa.array(tokens, pa.string()), histories)


def _described(run: Run, catalogue: Catalogue) -> dict[str, Any]:
    result, config, train = run.result, run.config, run.loaders[0]._dataset
    keys = ("protocol", "mask_history", "seed", "valid", "test", "slices", "epochs", "best_epoch", "side_load")
    others = [{"name": _name(other), "test": other["test"]} for other in result["compared"]]
    tokens = catalogue.tokens.to_pylist()
    return {
        "model": result["model"],
        "backbone": result["backbone"],
        "name": _name(result),
        "data": {
            "dataset": result["dataset"],
            "items": len(catalogue) - 1,
            "users": train.user_num - 1,
            "training_interactions": int(catalogue.counts.sum()),
            "fingerprint": fingerprint(tokens, catalogue.counts.tolist()),
            "changed": getattr(config, "data_changed", False),
        },
        "evaluation": {
            **{key: result[key] for key in keys},
            "compared": others,
            "topk": config["topk"],
            "eval_args": config["eval_args"],
            "eval_batch_size": config["eval_batch_size"],
            "eval_chunk_items": config["eval_chunk_items"],
        },
    }


def _name(result: dict[str, Any]) -> str:
    return RunResult.from_json(result).name


def _with_text(run: Run, parts: Parts, config: dict[str, Any], text: str) -> tuple[Parts, dict[str, Any]]:
    side = run.result["side_load"]
    if text == "no" or (text == "auto" and side is None) or parts.encoder is None:
        return parts, config
    from recbole_eimf.serving.text import with_text

    return with_text(run, parts, config)


# ---------------------------------------------------------------------- what is written is what was trained
def _compare(run: Run, parts: Parts, config: dict[str, Any]) -> None:
    """Raise DataError unless the folder's lists are the model's, for the first test users."""
    test = run.loaders[2]._dataset
    index = np.arange(min(len(test), _COMPARED))
    batch = test.rows(index)
    with torch.no_grad():
        scores = run.net.full_sort_predict(batch.to(run.config["device"])).view(len(index), -1).cpu()
    catalogue = parts.catalogue
    row, item = (part.numpy() for part in test.history(index))
    tokens = np.array(catalogue.tokens.to_pylist(), dtype=object)
    histories = [tokens[item[row == user]].tolist() for user in index]
    found = rank(parts, config, histories, Question(min(10, len(catalogue) - 1), exclude_seen=False))
    expected = scores.gather(1, torch.from_numpy(found.rows)).numpy()
    tolerance = 1e-4 * max(float(np.abs(expected).max()), 1e-6)
    if config["diversity"] is None and not np.allclose(expected, found.scores, atol=tolerance):
        off = float(np.abs(expected - found.scores).max())
        raise DataError(
            f"{run.folder}: {config['name']} scores otherwise than what would be written (up to {off:.3g}):"
            " it is a model whose scoring serving does not know. Nothing was written."
        )
