"""Typed settings of our parts, built from RecBole's untyped configuration.

Each dataclass names the configuration keys one part reads, with type, default and allowed values. A key of ours that
is mistyped, or has a value outside what is allowed, is an error before any work starts.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from recbole_eimf.core.errors import ConfigError

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class DataSettings:
    """Sequences, split and rows (:mod:`recbole_eimf.data`)."""

    ORDER_FIELD: str | None = "order"  # column that orders a user's interactions; TIME_FIELD where it is absent
    protocol: Literal["leave_one_out", "user_split"] = "leave_one_out"
    split_seed: int = 2024
    split_ratios: tuple[float, ...] = (0.8, 0.1, 0.1)
    split_file: str | None = None  # user_split: the users of each part, instead of drawing them
    save_split: str | None = None  # user_split: where to write the users of each part
    mask_history: bool = False
    # None: what the model needs
    training_view: Literal["prefix", "sequence", "random_cut", "interactions"] | None = None
    window_stride: int | None = None  # of the sequence view: items between windows; None is half their length
    visits_per_epoch: int = 1  # random_cut: visits of each user in an epoch
    min_history: int = 4  # random_cut: earliest cut
    # items scored at a time when ranking, which bounds memory; 0: all; None: all, or few where there are many
    eval_chunk_items: int | None = None


@dataclass(frozen=True)
class ItemSettings:
    """Item vectors, scores and the recommendation loss (:mod:`recbole_eimf.model.item_table`)."""

    item_init: Literal["xavier", "normal", "pca_text"] = "normal"
    item_init_std: float = 0.02
    item_text: Literal["none", "add", "concat"] = "none"
    text_whitening: Literal["none", "center", "half", "full"] = "none"
    text_dimension: int = 0  # keep this many principal components of the text vectors; 0 keeps the vectors as they are
    score: Literal["dot", "cosine"] = "dot"
    score_scale: float = 14.0  # multiplies cosine scores
    num_negatives: int = 0  # shared negatives of a sampled softmax; 0 is the full softmax
    negative_sampling: Literal["uniform", "popularity"] = "uniform"  # how they are drawn (log-Q corrected)
    logits_dtype: Literal["float32", "bfloat16"] = "float32"  # of the catalogue matrix product while training


@dataclass(frozen=True)
class InterestModelSettings:
    """The behaviour module: backbone and readout (EIMF section 3.3)."""

    backbone: str = "SASRec"
    readout: Literal["soft", "hard"] = "hard"
    readout_temperature: float = 1.0  # soft: 1/p of MIND's label-aware attention with power p
    diversity_lambda: float = 0.0  # ComiRec's controllable aggregation when ranking; 0 is off
    category_field: str = "categories"  # column of the .item file that tells categories apart


@dataclass(frozen=True)
class EIMFSettings:
    """Joint training (EIMF section 3.4)."""

    # which of properties/esim sets the keys below: the paper's form, or the one that did best on validation
    esim: Literal["strong", "paper"] = "strong"
    gamma: float = 0.1
    alpha: float = 0.4
    beta: float = 0.1
    tau: float = 0.1
    use_alignment: bool = True
    use_prediction: bool = True
    use_interests: bool = True  # False: item text alone, what is left of EIMF without clusters and LLM
    item_alignment: Literal["target", "batch_items"] = "target"
    auxiliary_targets: Literal["one", "all"] = "one"  # targets of a row that enter the auxiliary losses
    auxiliary_interval: int = 1  # every so many batches have the auxiliary losses, as many times as heavy
    # eq. 9 among this many drawn items; 0 is all, None as many as the recommendation loss has (num_negatives)
    semantic_negatives: int | None = None
    # soft labels: shares of a label that go to items like the user's interests, and like the target's text
    interest_labels: float = 0.0
    text_labels: float = 0.0
    label_temperature: float = 0.1
    label_items: int = 500  # items of an exemplar's label
    text_label_items: int = 20  # items of a target's label


@dataclass(frozen=True)
class SemanticSettings:
    """The off-line stage (EIMF section 3.2): text, clusters, interests (:mod:`recbole_eimf.semantic`)."""

    text_fields: tuple[str, ...] = ("title",)
    text_encoder: str = "minilm"
    text_batch_size: int = 64
    text_max_length: int = 128
    text_pooling: str = "mean"
    encoder_processes: int = 1  # that share the encoding of texts; 0 is one for each GPU
    semantic_cache: str = ".cache/recbole_eimf"
    sequence_text: Literal["pooled", "joined"] = "pooled"
    clustering: Literal["auto", "dense", "sparse", "none"] = "auto"
    preference: float | None = None
    exemplar_ratio: float | None = 0.03
    damping: float = 0.9
    cluster_neighbours: int = 50
    interest_source: Literal["file", "openai", "batch", "keywords", "shuffled"] = "keywords"
    # what the placebo shuffles; None: file where interest_file is set, else keywords
    shuffled_source: Literal["file", "openai", "batch", "keywords"] | None = None
    interest_file: str | None = None
    assignment_file: str | None = None
    max_interests: int = 20
    prompt_file: str | None = None
    prompt_items: int = 20
    llm_model: str = "qwen-turbo"
    llm_base_url: str | None = None
    llm_api_key_env: str = "OPENAI_API_KEY"
    llm_api_key_file: str | None = None
    llm_concurrency: int = 8
    llm_max_retries: int = 6
    llm_timeout: float = 60.0
    llm_temperature: float = 0.0
    llm_max_tokens: int = 1024
    llm_structured: Literal["auto", "on", "off"] = "auto"
    llm_price_in: float | None = None
    llm_price_out: float | None = None
    llm_check_first: int = 20  # stop when so many replies came and none holds an interest; 0: never
    batch_file: str | None = None


@dataclass(frozen=True)
class PADSettings:
    """Experts, alignment and phases of PAD (its section 3) and of the baselines that share its parts."""

    experts: str = "id+text+aligned"  # any of id, text, hybrid, aligned; a kind may stand there several times
    fusion: Literal["gelu", "concat", "add"] = "gelu"  # how a hybrid or aligned expert joins id and text (gelu: PAD's)
    fusion_dropout: float = 0.1
    text_projection: Literal["linear", "mlp"] = "linear"
    # what the id vector of an item that training never saw counts: as much as any; nothing; or nothing, and its text
    # experts, if there are some, stand in for all others
    unseen_ids: Literal["learned", "none", "text"] = "learned"
    unseen_offset: float = 0.0  # subtracted from the scores of such items when ranking
    gate: Literal["frequency", "shared", "none"] = "frequency"  # shared: learned, the same for all items
    gate_buckets: int = 10
    # of id, text and aligned or hybrid experts, before the sigmoid; () is equal weights
    gate_start: tuple[float, ...] = ()
    gate_total: float = 1.0  # what an item's weights add up to: 1 are probabilities, the number of experts is a sum
    loss: Literal["ce", "bce", "gbce"] = "ce"
    gbce_calibration: float = 0.75
    # which items compete with a target in training: all, or those that training ever saw (the others stay as they are)
    candidates: Literal["all", "seen"] = "all"
    alignment: Literal["none", "non_anchored", "anchored", "anchored_frozen"] = "anchored"
    kernel: Literal["gaussian", "laplacian", "linear", "cosine", "infonce"] = "gaussian"
    mmd_estimator: Literal["biased", "unbiased"] = "biased"
    mmd_items: int = 512  # at most this many distinct items of a batch enter the alignment loss; 0 is all
    gamma: float = 0.1  # weight of the alignment loss; PAD.yaml has the paper's
    tau: float = 0.1  # temperature of kernel=infonce and of CTRL
    sufficiency_weight: float = 0.5  # DisCo
    disentanglement_weight: float = 0.1  # DisCo
    chunks: int = 4  # DisCo
    pretrain: Literal["id", "all"] = "id"  # all: every expert is trained alone first
    fine_tune: bool = True
    # of the phases; None is learning_rate, epochs
    pretrain_learning_rate: float | None = None
    align_learning_rate: float | None = None
    finetune_learning_rate: float | None = None
    pretrain_epochs: int | None = None
    align_epochs: int | None = None
    finetune_epochs: int | None = None
    phase_cache: bool = True  # keep pre-trained experts under semantic_cache for runs that differ in later phases only


@dataclass(frozen=True)
class RunSettings:
    """One run of :func:`recbole_eimf.run`."""

    output_dir: str | None = None
    recipe: str | None = None  # a file of properties/recipe: keys over the model's and the data set's, under the user's
    resume: bool = False
    yes: bool = False
    compare_with: tuple[str, ...] = ()
    inference_only: bool = False
    allow_unknown_keys: bool = False
    config_files: str | None = None
    model_import: str | None = None  # set by the program: import path of a model that is not ours
    num_threads: int | None = None
    amp_dtype: Literal["bfloat16", "float16"] = "bfloat16"  # of enable_amp=True; float16 needs enable_scaler=True too
    torch_compile: bool = False  # of transformer encoders; slower on processors (benchmarks/README.md)
    skip_test: bool = False  # a search chooses on validation and does not even look at the test part
    slice_bounds: tuple[int, ...] = (1, 5, 20)  # fixed slices of the targets by training frequency: 0, 1-5, 6-20, >20


ALL_SETTINGS = (
    DataSettings,
    ItemSettings,
    InterestModelSettings,
    EIMFSettings,
    SemanticSettings,
    PADSettings,
    RunSettings,
)


def known_keys() -> dict[str, dataclasses.Field]:
    """Every configuration key of ours, by name."""
    return {field.name: field for cls in ALL_SETTINGS for field in dataclasses.fields(cls)}


def defaults() -> dict[str, Any]:
    """The default of every key of ours, as plain values that fit a YAML file."""
    return {
        name: list(field.default) if isinstance(field.default, tuple) else field.default
        for name, field in known_keys().items()
    }


def read(cls: type[Settings], config: Mapping[str, Any] | Any) -> Settings:
    """Build ``cls`` from a configuration, checking type and allowed values of each key.

    Raises:
        ConfigError: naming the key, the value and what is allowed.
    """
    hints = typing.get_type_hints(cls)
    values = {}
    for field in dataclasses.fields(cls):
        present = field.name in config
        values[field.name] = _checked(field.name, config[field.name], hints[field.name]) if present else field.default
    return cls(**values)


def _checked(key: str, value: Any, hint: Any) -> Any:
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    options = typing.get_args(hint) if is_union else (hint,)
    for option in options:
        accepted, result = _fits(value, option)
        if accepted:
            return result
    raise ConfigError(f"{key}={value!r}: allowed is {_described(options)}.")


def _fits(value: Any, hint: Any) -> tuple[bool, Any]:
    if hint is type(None):
        return value is None, None
    if typing.get_origin(hint) is Literal:
        # YAML reads a bare none, on, off as null or a boolean: take the word that is meant
        names = {None: "none", True: "on", False: "off"}
        word = names.get(value, value) if isinstance(value, bool | None) else value
        return word in typing.get_args(hint), word
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)[0]
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, list | tuple):
            return False, None
        checked = [_fits(item.strip() if isinstance(item, str) else item, inner) for item in items]
        return all(ok for ok, _ in checked), tuple(item for _, item in checked)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool), value
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool), value
    if hint is str and isinstance(value, int | float) and not isinstance(value, bool):
        return True, str(value)  # a file or model called 123
    return isinstance(value, hint), value


def _described(options: tuple[Any, ...]) -> str:
    words = []
    for option in options:
        if typing.get_origin(option) is Literal:
            words += [str(choice) for choice in typing.get_args(option)]
        elif typing.get_origin(option) is tuple:
            words.append(f"a list of {typing.get_args(option)[0].__name__}")
        else:
            names = {int: "a whole number", float: "a number", str: "text", bool: "True or False", type(None): "None"}
            words.append(names.get(option, str(option)))
    return " or ".join(words) if len(words) < 3 else ", ".join(words[:-1]) + " or " + words[-1]
