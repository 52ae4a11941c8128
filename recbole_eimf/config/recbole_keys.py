"""The catalogue of RecBole's keys that matter to sequential models: type, range, a line of help, what each affects.

Their defaults come from RecBole's YAML files and ours. A value is held against its key only where a user gave it: what
RecBole's own files say for its own models is RecBole's affair.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from recbole_eimf.config.key import OF_MODEL, Form, Key, key, keys_of
from recbole_eimf.config.keys import our_keys
from recbole_eimf.config.old_names import OLD_NAMES

_BOUND = r"\s*(\d+|inf)\s*"
_INTERVAL = Form("an interval such as [5,inf)", rf"(?:[\[(]{_BOUND},{_BOUND}[\])];?)+")
_GPU = r"(\d+|(GPU|MIG)-[\w/-]+)"
_GPUS = Form("GPU numbers (0 or 0,1) or names (GPU-...), '' or -1 for none", rf"-1|{_GPU}(\s*,\s*{_GPU})*|")
_LEARNERS = "adam|adamw|sgd|adagrad|rmsprop"
_LEVELS = "debug|info|warning|error|critical"
_MACHINE = {"affects": "machine"}
_PATH = {"affects": "path"}
_OUTPUT = {"affects": "output"}
_EXPERT = {"affects": "expert"}
_TRAINING = {"affects": "expert", "training": True}


def _words(pattern: str) -> Form:
    """One of some words, in capitals or not, as RecBole takes them."""
    return Form(" or ".join(pattern.split("|")), f"(?i:{pattern})")


@dataclass(frozen=True)
class MachineKeys:
    """Machine: RecBole's keys for where and how a run works."""

    gpu_id: int | str | tuple[int, ...] | None = key(OF_MODEL, "which GPUs to use", form=_GPUS, **_MACHINE)
    use_gpu: bool = key(OF_MODEL, "whether to use a GPU", **_MACHINE)
    worker: int = key(OF_MODEL, "processes of RecBole's loaders that load data", least=0, **_MACHINE)
    nproc: int = key(OF_MODEL, "processes on this machine that train together", least=1, **_MACHINE)
    world_size: int = key(OF_MODEL, "processes on all machines; -1: those of this one", least=-1, **_MACHINE)
    group_offset: int = key(OF_MODEL, "number of this machine's first process", least=0, **_MACHINE)
    offset: int = key(OF_MODEL, "RecBole's name for group_offset", least=0, **_MACHINE)
    ip: str = key(OF_MODEL, "address of the machine of the first process", **_MACHINE)
    port: int | str = key(OF_MODEL, "port on which processes meet", least=0, most=65535, **_MACHINE)
    local_rank: int = key(OF_MODEL, "set by the program: number of this process", **_MACHINE)
    single_spec: bool = key(OF_MODEL, "set by the program: whether it works alone", **_MACHINE)
    device: Any = key(OF_MODEL, "set by the program: torch's device", **_MACHINE)
    state: str = key(OF_MODEL, "lowest level of log lines that are shown", form=_words(_LEVELS), **_MACHINE)
    show_progress: bool = key(OF_MODEL, "progress bars; a line a minute where the output is kept in a file", **_MACHINE)
    log_wandb: bool = key(OF_MODEL, "log to Weights & Biases", **_MACHINE)
    wandb_project: str = key(OF_MODEL, "project of Weights & Biases", **_MACHINE)
    data_path: str = key(OF_MODEL, "folder that holds a folder of atomic files for each data set", **_PATH)
    checkpoint_dir: str = key(
        OF_MODEL, "folder of RecBole's checkpoints; output_dir takes its place where it is given", **_OUTPUT
    )
    encoding: str = key(OF_MODEL, "text encoding of atomic files", **_TRAINING)
    save_dataset: bool = key(
        OF_MODEL, "save the filtered data set, as a pickle that runs of the same settings read again", **_MACHINE
    )
    dataset_save_path: str | None = key(OF_MODEL, "where save_dataset writes", **_OUTPUT)
    save_dataloaders: bool = key(OF_MODEL, "save the loaders in the same way", **_MACHINE)
    dataloaders_save_path: str | None = key(OF_MODEL, "where save_dataloaders writes", **_OUTPUT)
    config_file: Any = key(OF_MODEL, "RecBole's name for config_files", **_MACHINE)


@dataclass(frozen=True)
class TrainingKeys:
    """Training: RecBole's keys."""

    seed: int = key(OF_MODEL, "seed of everything that is drawn in training", least=0, most=2**32 - 1, **_EXPERT)
    reproducibility: bool = key(OF_MODEL, "let cuDNN use reproducible algorithms only", **_EXPERT)
    epochs: int = key(OF_MODEL, "epochs at most; early stopping may end sooner", least=0, **_EXPERT)
    stopping_step: int = key(
        OF_MODEL, "training stops after so many validations without a better one", least=0, **_EXPERT
    )
    eval_step: int = key(OF_MODEL, "epochs between validations; 0: none, the last epoch is kept", least=0, **_EXPERT)
    train_batch_size: int = key(OF_MODEL, "rows of a batch: users, or windows of long sequences", least=1, **_EXPERT)
    learner: str = key(OF_MODEL, "optimiser", form=_words(_LEARNERS), **_EXPERT)
    learning_rate: float = key(OF_MODEL, "learning rate of the optimiser", above=0, **_EXPERT)
    weight_decay: float = key(OF_MODEL, "weight decay of the optimiser", least=0, **_EXPERT)
    clip_grad_norm: dict | None = key(
        OF_MODEL, "arguments of torch's clip_grad_norm_, such as {max_norm: 5}", **_EXPERT
    )
    shuffle: bool = key(OF_MODEL, "new order of rows in every epoch", **_EXPERT)
    train_neg_sample_args: dict | str | None = key(
        OF_MODEL, "negatives of RecBole's pairwise losses; ours draw their own (num_negatives)", **_EXPERT
    )
    loss_type: Literal["CE", "BPR"] = key(OF_MODEL, "loss of RecBole's own models", **_EXPERT)
    enable_amp: bool = key(OF_MODEL, "mixed precision", **_EXPERT)
    enable_scaler: bool = key(OF_MODEL, "scale gradients, for float16", **_EXPERT)
    loss_decimal_place: int = key(OF_MODEL, "decimals of losses in the log", least=0, **_MACHINE)
    require_pow: bool = key(OF_MODEL, "whether RecBole's EmbLoss squares", **_EXPERT)
    transform: str | None = key(OF_MODEL, "RecBole's transform of batches", **_EXPERT)


@dataclass(frozen=True)
class EvaluationKeys:
    """Evaluation: RecBole's keys."""

    metrics: tuple[str, ...] = key(OF_MODEL, "Recall, NDCG, Hit, MRR, ... (RecBole's), and NDCG_hits")
    topk: tuple[int, ...] | int = key(OF_MODEL, "the k of the metrics", least=1)
    valid_metric: str = key(
        OF_MODEL, "the metric that chooses the best epoch, at one of topk, such as NDCG@10", **_EXPERT
    )
    valid_metric_bigger: bool = key(OF_MODEL, "set by RecBole: whether more of the metric is better", **_EXPERT)
    eval_args: dict = key(
        OF_MODEL,
        "mode: full, uniN or popN (ranked among all or N drawn items); protocol says how data are split",
        **_EXPERT,
    )
    eval_batch_size: int = key(OF_MODEL, "users that are ranked together", least=1, **_MACHINE)
    metric_decimal_place: int = key(
        OF_MODEL, "decimals of metrics, also of the one that chooses the best epoch", least=0, **_EXPERT
    )
    repeatable: bool = key(OF_MODEL, "whether items may be recommended again; True for sequential models", **_EXPERT)


@dataclass(frozen=True)
class DataKeys:
    """Atomic files: RecBole's keys."""

    USER_ID_FIELD: str = key(OF_MODEL, "column of users", **_TRAINING)
    ITEM_ID_FIELD: str = key(OF_MODEL, "column of items", **_TRAINING)
    TIME_FIELD: str | None = key(OF_MODEL, "column that orders interactions where there is no ORDER_FIELD", **_TRAINING)
    RATING_FIELD: str | None = key(OF_MODEL, "column of ratings", **_EXPERT)
    MAX_ITEM_LIST_LENGTH: int = key(OF_MODEL, "latest items of a history that a model sees", least=1, **_EXPERT)
    load_col: dict | None = key(
        OF_MODEL, "columns to read, such as {inter: [user_id, item_id, timestamp, order]}", **_TRAINING
    )
    unload_col: dict | None = key(OF_MODEL, "columns not to read", **_TRAINING)
    user_inter_num_interval: str | None = key(
        OF_MODEL, "keep users whose number of interactions is in this interval", form=_INTERVAL, **_TRAINING
    )
    item_inter_num_interval: str | None = key(
        OF_MODEL, "keep items whose number of interactions is in this interval", form=_INTERVAL, **_TRAINING
    )
    filter_inter_by_user_or_item: bool = key(OF_MODEL, "drop interactions of unknown users or items", **_TRAINING)
    rm_dup_inter: Literal["first", "last"] | None = key(
        OF_MODEL, "of repeated pairs of user and item, keep the first or the last", **_TRAINING
    )
    val_interval: dict | None = key(
        OF_MODEL, "keep interactions by the value of a column, such as {rating: '[3,inf)'}", **_TRAINING
    )
    normalize_all: bool | None = key(OF_MODEL, "scale all numbers to [0, 1]; times must not be", **_TRAINING)
    normalize_field: tuple[str, ...] | None = key(OF_MODEL, "columns to scale to [0, 1]", **_TRAINING)
    field_separator: str = key(OF_MODEL, "what stands between columns", **_TRAINING)
    seq_separator: str = key(OF_MODEL, "what stands between the values of a list", **_EXPERT)
    LIST_SUFFIX: str = key(OF_MODEL, "suffix of the names of sequences", **_EXPERT)
    ITEM_LIST_LENGTH_FIELD: str = key(OF_MODEL, "name of a sequence's length", **_EXPERT)


@dataclass(frozen=True)
class RecBoleNetworkKeys:
    """RecBole's networks: SASRec, BERT4Rec, GRU4Rec, Caser."""

    hidden_size: int = key(OF_MODEL, "dimension of states, and of items; n_heads divides it", least=1, **_EXPERT)
    embedding_size: int = key(OF_MODEL, "GRU4Rec, Caser: dimension of items", least=1, **_EXPERT)
    inner_size: int = key(OF_MODEL, "width of a transformer's feed-forward layer", least=1, **_EXPERT)
    n_layers: int = key(OF_MODEL, "layers of a transformer", least=1, **_EXPERT)
    n_heads: int = key(OF_MODEL, "heads of a transformer's attention", least=1, **_EXPERT)
    num_layers: int = key(OF_MODEL, "GRU4Rec: layers of the GRU", least=1, **_EXPERT)
    hidden_dropout_prob: float = key(OF_MODEL, "dropout of states and of item vectors", least=0, below=1, **_EXPERT)
    attn_dropout_prob: float = key(OF_MODEL, "dropout of attention", least=0, below=1, **_EXPERT)
    dropout_prob: float = key(OF_MODEL, "GRU4Rec, Caser: dropout", least=0, below=1, **_EXPERT)
    hidden_act: Literal["gelu", "relu", "swish", "tanh", "sigmoid"] = key(
        OF_MODEL, "activation of a transformer's feed-forward layer", **_EXPERT
    )
    layer_norm_eps: float = key(OF_MODEL, "epsilon of layer norms", least=0, **_EXPERT)
    initializer_range: float = key(OF_MODEL, "standard deviation of a transformer's first weights", least=0, **_EXPERT)
    mask_ratio: float = key(
        OF_MODEL, "BERT4Rec: share of items that are hidden in training", above=0, most=1, **_EXPERT
    )
    ft_ratio: float = key(
        OF_MODEL, "RecBole's BERT4Rec: share of rows that hide the last item", least=0, most=1, **_EXPERT
    )
    nv: int = key(OF_MODEL, "Caser: vertical filters", least=1, **_EXPERT)
    nh: int = key(OF_MODEL, "Caser: horizontal filters of each height", least=1, **_EXPERT)
    reg_weight: float = key(OF_MODEL, "Caser of RecBole: weight of its L2 term", least=0, **_EXPERT)


RECBOLE_PARTS = (TrainingKeys, EvaluationKeys, DataKeys, RecBoleNetworkKeys, MachineKeys)


@cache
def checked_recbole_keys() -> dict[str, Key]:
    """RecBole's keys that the catalogue knows, by name."""
    return {each.name: each for part in RECBOLE_PARTS for each in keys_of(part)}


@cache
def text_keys() -> frozenset[str]:
    """Every key whose value is text, ours and RecBole's, and the names of what is trained on what."""
    known = {**checked_recbole_keys(), **our_keys()}
    return frozenset({name for name, each in known.items() if each.is_text} | {"model", "dataset", *OLD_NAMES})
