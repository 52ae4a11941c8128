"""The catalogue of this plugin's own configuration keys: name, type, default, range, a line of help, what each affects.

One frozen dataclass for each part that reads keys; :func:`recbole_eimf.config.key.read` builds it from a configuration,
so that a bad value is an error that names key, value and what is allowed, before any work. RecBole's own keys stand in
:mod:`recbole_eimf.config.recbole_keys`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from recbole_eimf.config.key import OF_MODEL, Form, Key, key, keys_of
from recbole_eimf.config.key import read as read

_VARIABLE = Form("the NAME of an environment variable, in capital letters, not the key itself", r"[A-Z_][A-Z0-9_]*")
# it stands in result.json, in TensorBoard and on the screen: what it must not hold goes where a key goes
_ADDRESS = Form(
    "an address that begins with http:// or https://, such as https://host/v1, without user, password or key in it "
    "(llm_api_key_env NAMES the environment variable that holds the key)",
    r"(?i:https?://(?!.*[?&#][^=]*(?:key|token|secret|passw|signature|\bsig|\bauth)[^=&]*=)[^@\s]+)",
)
#: where interests come from, but for the placebo and functions of the user's own
SOURCES = ("file", "openai", "batch", "keywords")
_FUNCTION = r"[A-Za-z_][\w.]*:[A-Za-z_]\w*"


@dataclass(frozen=True)
class DataSettings:
    """Data: sequences, split and rows."""

    ORDER_FIELD: str | None = key(
        "order", "column that orders a user's interactions; TIME_FIELD where a data set has no such column",
        affects="expert", training=True,
    )  # fmt: skip
    ties: Literal["source", "shuffle", "together"] = key(
        "source", "a user's events of one time: in the source's order, shuffled, or shuffled and targets only together",
        affects="expert", training=True,
    )  # fmt: skip
    ties_seed: int = key(
        2024, "of ties: seed of that order; not the training seed", least=0, affects="expert", training=True
    )
    shuffled_history: bool = key(
        False, "training sequences and histories in an order of chance (by ties_seed): does order matter here?",
        affects="expert",
    )  # fmt: skip
    protocol: Literal["leave_one_out", "user_split", "global_time"] = key(
        "leave_one_out", "what is held out: every user's last two items, whole users, or all after a time",
        affects="expert", training=True,
    )  # fmt: skip
    time_quantiles: tuple[float, ...] = key(
        (0.8, 0.9),
        "shares of all interactions, by time, where training and validation end",
        above=0,
        below=1,
        affects="expert",
        protocol="global_time",
        training=True,
    )
    time_dates: tuple[str, ...] = key(
        (),
        "two dates in their place, such as 2014-03-07,2014-05-13",
        affects="expert",
        protocol="global_time",
        training=True,
    )
    time_target: Literal["successive", "first", "last", "all"] = key(
        "successive",
        "which later items are asked for, each from all before it or from the border's",
        affects="expert",
        protocol="global_time",
    )
    refit: bool = key(
        False,
        "after the epoch is chosen, train as many again on all before the test; test that model",
        affects="expert",
        protocol="global_time",
    )
    split_seed: int = key(
        2024,
        "which users user_split puts where, and train_share keeps; not the training seed",
        least=0,
        affects="expert",
        training=True,
    )
    split_ratios: tuple[float, ...] = key(
        (0.8, 0.1, 0.1),
        "shares of users that train, validate, test",
        least=0,
        most=1,
        affects="expert",
        protocol="user_split",
        training=True,
    )
    split_file: str | None = key(
        None, "a CSV of user_id, part, instead of drawing them", affects="content", protocol="user_split", training=True
    )
    save_split: str | None = key(None, "where to write which user is where", affects="output", protocol="user_split")
    mask_history: bool | Literal["auto"] = key(
        False, "rank without the items a user already had; auto: where hardly anybody has an item twice",
        affects="expert",
    )  # fmt: skip
    training_view: Literal["prefix", "sequence", "random_cut", "interactions"] | None = key(
        None, "rows of training; None: what the model needs", affects="expert"
    )
    window_stride: int | None = key(
        None, "of the sequence view: items between windows; None: half their length", least=1, affects="expert"
    )
    visits_per_epoch: int = key(1, "of the random_cut view: visits of each user in an epoch", least=1, affects="expert")
    min_history: int = key(4, "of the random_cut view: the earliest cut", least=1, affects="expert")
    train_share: float = key(
        1.0, "share of the training users that train, drawn by split_seed; the smaller ones are in the larger",
        above=0, most=1, affects="expert", training=True,
    )  # fmt: skip
    eval_chunk_items: int | None = key(
        None, "items scored at a time when ranking, which bounds memory; 0: all; None: few where there are many",
        least=0, affects="machine",
    )  # fmt: skip


@dataclass(frozen=True)
class ItemSettings:
    """Items: vectors, scores and the recommendation loss."""

    item_init: Literal["xavier", "normal", "pca_text"] = key(
        "normal", "where item vectors start; pca_text: from the principal components of item text", affects="expert"
    )
    item_init_std: float = key(0.02, "deviation of item_init=normal", least=0, affects="expert")
    item_text: Literal["none", "add", "concat", "null_space", "codes"] = key(
        "none", "how text joins the item vectors (folded into the checkpoint): added to ids, beside them, ids in its "
        "null space alone (AlphaFuse), or as product-quantised codes in place of ids (VQ-Rec)", affects="expert",
    )  # fmt: skip
    text_adaptor: Literal["linear", "mlp", "moe"] = key(
        "linear", "of item_text=add and concat: text to the item dimension; moe: UniSRec's mixture of whitenings",
        affects="expert", switch=("item_text", "add", "concat")
    )  # fmt: skip
    adaptor_experts: int = key(
        8, "of text_adaptor=moe: whitenings that are mixed", least=1, affects="expert", switch=("text_adaptor", "moe")
    )
    adaptor_dropout: float = key(
        0.2,
        "of text_adaptor=moe: dropout of the text vectors",
        least=0,
        below=1,
        affects="expert",
        switch=("text_adaptor", "moe"),
    )
    id_dimension: int = key(
        0, "of item_text=null_space: dimensions of an item vector that are the id's; 0: half of them", least=0,
        affects="expert", switch=("item_text", "null_space")
    )  # fmt: skip
    code_pieces: int = key(
        32,
        "of item_text=codes: pieces a text vector is cut into, each a code",
        least=1,
        affects="expert",
        switch=("item_text", "codes"),
    )
    code_centroids: int = key(
        256, "of item_text=codes: different codes of a piece", least=2, affects="expert", switch=("item_text", "codes")
    )
    # PAD's pre-trained experts look at the text itself, as it is after these two
    text_whitening: Literal["none", "center", "half", "full"] = key("none", "whitening of text vectors")
    text_dimension: int = key(0, "principal components of the text vectors that are kept; 0: as they are", least=0)
    vector_graph: Literal["none", "similar", "next"] = key(
        "none", "IBIM, EIMF: a rare item's vector is mixed with those of its neighbours (folded): items of like text, "
        "or an LLM's what is bought next", affects="expert",
    )  # fmt: skip
    vector_graph_weight: float = key(
        5.0,
        "k of vector_graph: an item seen n times is k / (k + n) its neighbours",
        above=0,
        affects="expert",
        switch=("vector_graph",),
    )
    next_labels: float = key(
        0.0, "IBIM, EIMF: share of a soft label that goes to what an LLM says is bought after the item before the "
        "target", least=0, most=1, affects="expert",
    )  # fmt: skip
    next_label_items: int = key(20, "items of such a label", least=1, affects="expert", switch=("next_labels",))
    score: Literal["dot", "cosine"] = key("dot", "how a state and an item vector make a score", affects="expert")
    score_scale: float = key(14.0, "multiplies cosine scores", above=0, affects="expert")
    num_negatives: int = key(
        0, "drawn negatives: of a sampled softmax (0: the full softmax), or of bce and gbce",
        least=0, affects="expert",
    )  # fmt: skip
    negative_sampling: Literal["uniform", "popularity"] = key(
        "uniform",
        "how negatives of a sampled softmax are drawn",
        affects="expert",
        switch=("num_negatives",),
    )
    negatives_for: Literal["batch", "target"] = key(
        "batch",
        "negatives of a sampled softmax: one draw for a batch, or one for each target",
        affects="expert",
        switch=("num_negatives",),
    )
    negative_correction: bool = key(
        True,
        "log-Q correction of a sampled softmax: it estimates the one over the catalogue",
        affects="expert",
        switch=("num_negatives",),
    )
    logits_dtype: Literal["float32", "bfloat16"] = key(
        "float32", "number format of the product with the catalogue in training", affects="expert"
    )


@dataclass(frozen=True)
class InterestModelSettings:
    """Interests: backbone and readout (EIMF section 3.3)."""

    backbone: str = key(
        "SASRec", "the network that turns a sequence into interests; your own as package.module:Class", affects="expert"
    )
    readout: Literal["soft", "hard"] = key(
        "hard",
        "in training: a user's interests weighted by likeness to the target, or the one most like it",
        affects="expert",
    )
    readout_temperature: float = key(
        1.0, "of the soft readout, divides the products", above=0, affects="expert", switch=("readout", "soft")
    )
    readout_power: float = key(
        1.0, "p of MIND's label-aware attention: the soft readout's products to this power, signs kept", above=0,
        affects="expert", switch=("readout", "soft")
    )  # fmt: skip
    diversity_lambda: float = key(
        0.0, "ComiRec's controllable aggregation when ranking: weight of other categories; 0 is off", least=0,
        affects="expert",
    )  # fmt: skip
    category_field: str = key("categories", "column of the .item file that tells categories apart", affects="expert")


@dataclass(frozen=True)
class NetworkSettings:
    """Networks: what backbones and floors of ours read; their YAML files set it."""

    interest_num: int = key(OF_MODEL, "interests of a user, at most (K)", least=1, affects="expert")
    routing_softmax: Literal["interests", "positions"] = key(
        "interests", "ComiRecDR, MIND: an item divides itself among the interests, or an interest among the items",
        affects="expert",
    )  # fmt: skip
    remi_beta: float = key(
        OF_MODEL, "REMI: hardness of the interest-aware negatives; 0: none", least=0, affects="expert"
    )
    routing_weight: float = key(OF_MODEL, "REMI: weight of the routing regularisation", least=0, affects="expert")
    knn_decay: float = key(
        OF_MODEL, "DecayedItemKNN: an item counts this much less for each step back", least=0, most=1
    )
    recency_half_life: float | Literal["chosen"] | None = key(
        None,
        "counting floors: days after which an interaction counts half; None: all alike; chosen: validation chooses "
        "among 7, 30, 90, 180, 365 and None (Popularity, Markov, DecayedItemKNN)",
        above=0,
    )
    knn_neighbours: int = key(2000, "DecayedItemKNN, score_prior=together: neighbours of an item, at most", least=1)
    place_unseen: bool = key(
        False, "once trained: items that training never saw get the mean vector of the 20 trained items of nearest "
        "text (folded), as items that are added to a served model; counts of items (item kNN, score_prior) likewise",
    )  # fmt: skip
    knn_shrink: float = key(30.0, "DecayedItemKNN, score_prior=together: added to a similarity's denominator", least=0)


@dataclass(frozen=True)
class PriorSettings:
    """Score prior: what is added to the scores of a trained model."""

    score_prior: str = key(
        "none", "IBIM, EIMF, PAD and kin: what is added to scores after training, each part with a weight chosen on "
        "validation: items of like text, what an LLM says is bought next, or before, and items bought together",
        form=Form("none, or similar, next, previous, together joined by +; both is similar+next, all is all four",
                  r"none|both|all|(?!.*\b(\w+)\b.*\b\1\b)(similar|next|previous|together)(\+(similar|next|previous|together))*"),
    )  # fmt: skip
    prior_decay: float = key(
        0.6,
        "of the score prior: an item counts this much less for each step back",
        least=0,
        most=1,
        switch=("score_prior",),
    )
    prior_weights: Literal["grid", "learned", "by_frequency"] = key(
        "grid", "of the score prior: tried one after the other by valid_metric, or fitted to the validation targets "
        "(the likeliest of at least zero), the same for all items or by their training frequency",
        switch=("score_prior",),
    )  # fmt: skip


@dataclass(frozen=True)
class EIMFSettings:
    """EIMF: joint training (section 3.4)."""

    gamma: float = key(0.1, "weight of EIMF's auxiliary losses, of PAD's alignment loss", least=0)
    alpha: float = key(0.4, "weight of the contrast in the alignment loss (eq. 12)", least=0)
    beta: float = key(0.1, "weight of the cosine distance in the alignment loss (eq. 12)", least=0)
    tau: float = key(0.1, "temperature of the contrast (EIMF's, PAD's kernel=infonce, CTRL's)", above=0)
    use_alignment: bool = key(True, "the alignment loss (eq. 10-12)")
    use_prediction: bool = key(True, "the semantic prediction loss (eq. 9)")
    use_interests: bool = key(True, "False: item text alone, what is left of EIMF without clusters and LLM")
    item_alignment: Literal["target", "batch_items"] = key("target", "whose text and id vectors are aligned")
    auxiliary_targets: Literal["one", "all"] = key("one", "targets of a row that enter the auxiliary losses")
    auxiliary_interval: int = key(1, "every so many batches have the auxiliary losses, as many times as heavy", least=1)
    semantic_score: Literal["cosine", "dot"] = key(
        "cosine", "of eq. 9: cosines times score_scale, or the inner products that are printed"
    )
    semantic_negatives: int | None = key(
        None, "eq. 9 among this many drawn items; 0 is all, None as many as num_negatives", least=0
    )
    interest_labels: float = key(
        0.0, "share of a soft label that goes to items like the user's interests", least=0, most=1
    )
    text_labels: float = key(0.0, "share of a soft label that goes to items like the target's text", least=0, most=1)
    label_temperature: float = key(0.1, "of the soft labels", above=0)
    label_items: int = key(500, "items of an exemplar's soft label", least=1)
    text_label_items: int = key(20, "items of a target's soft label", least=1)


@dataclass(frozen=True)
class DistillationSettings:
    """Distillation: LLM-ESR's from similar users, and that of users' profiles."""

    similar_users: int = key(10, "LLMESR: users of like text whose mean state is a user's teacher (N)", least=1)
    similar_weight: float = key(0.1, "LLMESR: weight of that distillation (alpha)", least=0)
    similar_states: Literal["epoch", "step"] = key(
        "epoch",
        "LLMESR: teachers' states are those of an epoch's start, or of the step (the paper's; slow)",
    )
    profile_epochs: int = key(8, "ProfileDistillation: epochs that learn the profiles too, before the others", least=0)
    profile_weight: float = key(
        0.65, "ProfileDistillation: weight of the profiles' loss, scaled to the size of the other (alpha)", least=0,
        most=1,
    )  # fmt: skip


@dataclass(frozen=True)
class TextSettings:
    """Text: items' text and its vectors, and what an LLM knows of items."""

    text_source: Literal["real", "shuffled", "noise"] = key(
        "real",
        "item vectors of text that a model reads: placebos are those of other items, or noise of their covariance",
    )
    text_fields: tuple[str, ...] = key(("title",), "columns of the .item file that make an item's text")
    item_text_source: Literal["title", "profile", "title+profile"] = key(
        "title", "item text that a model reads: text_fields, an LLM's profile of the item, or both (knowledge_source)"
    )
    interest_match: Literal["item_text", "profile"] = key(
        "item_text", "EIMF: item text that users' interests are matched to (eq. 7-9): what item_text_source says, or "
        "an LLM's profile of the item",
    )  # fmt: skip
    knowledge_source: Literal["none", "file", "openai", "batch", "shuffled"] = key(
        "none", "where an LLM's knowledge of items comes from; shuffled is the placebo: that of items as popular"
    )
    shuffled_knowledge: Literal["file", "openai", "batch"] = key("file", "what the placebo of items shuffles")
    knowledge_file: str | None = key(
        None,
        "JSONL of item_id with response, or kind, profile, next, or an export; for knowledge_source=file",
        affects="content",
    )
    knowledge_prompt_file: str | None = key(None, "a prompt of your own about an item", affects="content")
    next_neighbours: int = key(20, "items nearest to a phrase of what is bought next", least=1)
    text_encoder: str = key(
        "minilm", "minilm, tfidf-svd, a hub name or folder of transformers, llm2vec:<...>, openai:<model>"
    )
    text_batch_size: int = key(64, "texts encoded together, or asked for in one request", least=1, affects="machine")
    text_max_length: int = key(128, "tokens kept of a text", least=1)
    text_pooling: Literal["mean", "cls", "last"] = key("mean", "which tokens' states make a text's vector")
    encoder_processes: int = key(
        1, "processes that share the encoding of texts; 0: one for each GPU", least=0, affects="machine"
    )
    semantic_cache: str = key(
        ".cache/recbole_eimf", "folder of embeddings, clusters, replies and pre-trained experts", affects="path"
    )


@dataclass(frozen=True)
class SemanticSettings(TextSettings):
    """Interests: clusters and the LLM, the off-line stage (EIMF section 3.2)."""

    sequence_text: Literal["pooled", "joined"] = key(
        "pooled", "a user's text vector: the mean of the items', or that of all titles as one text"
    )
    clustering: Literal["auto", "dense", "sparse", "none"] = key(
        "auto", "affinity propagation with all pairs or on a graph of neighbours; none: every user an exemplar"
    )
    preference: float | None = key(None, "p of affinity propagation, instead of exemplar_ratio", below=0)
    exemplar_ratio: float | None = key(0.03, "share of the users that become exemplars", above=0, most=1)
    damping: float = key(0.9, "damping of affinity propagation", least=0.5, below=1)
    cluster_neighbours: int = key(50, "neighbours of a user in the sparse graph, to begin with", least=1)
    interest_source: str = key(
        "keywords",
        "where interests come from; keywords needs no LLM, shuffled is the placebo, module:function is yours",
        form=Form(
            f"{', '.join(SOURCES)}, shuffled or package.module:function", f"{'|'.join(SOURCES)}|shuffled|{_FUNCTION}"
        ),
    )
    shuffled_source: str | None = key(
        None,
        "what the placebo shuffles; None: file where interest_file is set, else keywords",
        form=Form(f"{', '.join(SOURCES)} or package.module:function", f"{'|'.join(SOURCES)}|{_FUNCTION}"),
    )
    placebo_draw: Literal["uniform", "permute"] = key(
        "uniform", "the placebo: to each user any exemplar, or another user's: as many share each as in the clusters"
    )
    interest_file: str | None = key(None, "JSONL of user_id, response, for interest_source=file", affects="content")
    allow_foreign_replies: bool = key(False, "use replies whose prompts the training histories do not give")
    assignment_file: str | None = key(None, "CSV of user_id, exemplar_user_id, beside interest_file", affects="content")
    max_interests: int = key(20, "interests of an exemplar that are used", least=1)
    prompt_file: str | None = key(None, "a prompt of your own", affects="content")
    prompt_items: int = key(20, "latest titles that a prompt shows", least=1)
    llm_model: str = key("qwen-turbo", "the endpoint's model")
    llm_model_alias: str | None = key(
        None, "what answers call llm_model where that is another name, as of an Azure deployment", affects="machine"
    )
    llm_base_url: str | None = key(
        None, "address of the endpoint, such as https://host/v1; None: OpenAI's", form=_ADDRESS, secret=True
    )
    llm_api_key_env: str = key(
        "OPENAI_API_KEY", "NAME of the environment variable that holds the key", affects="machine", form=_VARIABLE,
        secret=True,
    )  # fmt: skip
    llm_api_key_file: str | None = key(None, "a file that holds the key instead", affects="path")
    llm_concurrency: int = key(8, "calls at a time", least=1, affects="machine")
    llm_max_retries: int = key(6, "retries of a call that fails", least=0, affects="machine")
    llm_timeout: float = key(60.0, "seconds a call may take", above=0, affects="machine")
    llm_temperature: float | None = key(0.0, "temperature of the LLM; None: not sent", least=0)
    llm_max_tokens: int = key(1024, "tokens of a reply, at most", least=1)
    llm_structured: Literal["auto", "on", "off"] = key("auto", "ask for JSON by response_format; on insists")
    llm_price_in: float | None = key(None, "USD for a million tokens sent", least=0, affects="machine")
    llm_price_out: float | None = key(None, "USD for a million tokens received", least=0, affects="machine")
    llm_check_first: int = key(
        20, "stop when so many replies came and none holds an interest; 0: never", least=0, affects="machine"
    )
    batch_file: str | None = key(
        None, "answers of the OpenAI Batch API: a file, or a folder of .jsonl files", affects="content"
    )


@dataclass(frozen=True)
class PADSettings:
    """PAD: experts, alignment and phases (section 3), also of the baselines that share its parts."""

    experts: str = key(
        "id+text+aligned",
        "any of id, text, hybrid, aligned, and next (what an LLM says is bought after the history), joined by +; a "
        "kind may come several times",
    )
    fusion: Literal["gelu", "concat", "add"] = key(
        "gelu", "how a hybrid or aligned expert joins ids and text (gelu: PAD's)", affects="text expert"
    )
    fusion_dropout: float = key(0.1, "dropout before the fusion", least=0, below=1, affects="text expert")
    text_projection: Literal["linear", "mlp", "gelu"] = key(
        "linear", "map of text to the item dimension; gelu: PAD's, a GELU and dropout around every layer",
        affects="text expert",
    )  # fmt: skip
    projection_layers: int = key(1, "of mlp and gelu: layers after the first", least=1, affects="text expert")
    unseen_ids: Literal["learned", "none", "text"] = key(
        "learned", "id vectors of candidates never seen in training: they count, do not, or text experts (where there "
        "are any) stand in for all; in histories they count",
        affects="text expert",
    )  # fmt: skip
    unseen_offset: float = key(0.0, "of items never seen in training: subtracted from their scores when ranking")
    gate: Literal["frequency", "shared", "none"] = key(
        "frequency", "weights of the experts: by the item's frequency, the same for all items, or equal"
    )
    gate_buckets: int = key(10, "buckets of frequency", least=1)
    gate_start: tuple[float, ...] = key(
        (), "weights of id, text (and next), and aligned or hybrid experts, before the sigmoid; []: equal"
    )
    gate_end: tuple[float, ...] = key(
        (), "of gate=frequency: those of the coldest bucket, with equal steps from gate_start; []: as gate_start"
    )
    gate_total: float = key(
        1.0, "what an item's weights add up to: 1 are probabilities, the number of experts is a sum", above=0
    )
    loss: Literal["ce", "bce", "gbce"] = key(
        "ce", "softmax over the catalogue, or binary with negatives outside the user's history", affects="expert"
    )
    bce_reduction: Literal["mean", "sum"] = key(
        "mean",
        "of bce and gbce: mean or sum over a target and its negatives; sum makes gamma count less",
        affects="expert",
    )
    gbce_calibration: float = key(0.75, "t of gbce: 0 is bce, 1 fully calibrated", least=0, most=1, affects="expert")
    candidates: Literal["all", "seen"] = key(
        "all", "which items compete with a target in training: all, or those that training ever saw", affects="expert"
    )
    alignment: Literal["none", "non_anchored", "anchored", "anchored_frozen"] = key(
        "anchored", "phase 2: none; without the recommendation loss; with it; with it and ids that stand still"
    )
    kernel: Literal["gaussian", "laplacian", "linear", "cosine", "infonce"] = key(
        "gaussian", "kernel of the alignment loss"
    )
    mmd_estimator: Literal["biased", "unbiased"] = key("biased", "estimator of MK-MMD")
    mmd_width: float = key(
        1.0, "w of the Gaussian kernels exp(-distance / (w bandwidth)); 2 is the normal density's", above=0
    )
    mmd_items: int = key(512, "distinct items of a batch in the alignment loss, at most; 0 is all", least=0)
    gamma: float = key(0.1, "weight of EIMF's auxiliary losses, of PAD's alignment loss", least=0)
    tau: float = key(0.1, "temperature of the contrast (EIMF's, PAD's kernel=infonce, CTRL's)", above=0)
    sufficiency_weight: float = key(0.5, "DisCo: weight of its sufficiency loss", least=0)
    disentanglement_weight: float = key(0.1, "DisCo: weight of its disentanglement loss", least=0)
    chunks: int = key(4, "DisCo: chunks of an item vector; divides its dimension", least=2)
    pretrain: Literal["id", "all"] = key("id", "which experts are trained alone first")
    fine_tune: bool = key(True, "the last phase: all experts together")
    pretrain_learning_rate: float | None = key(None, "learning rate of phase 1; None is learning_rate", above=0)
    align_learning_rate: float | None = key(None, "learning rate of phase 2; None is learning_rate", above=0)
    finetune_learning_rate: float | None = key(None, "learning rate of phase 3; None is learning_rate", above=0)
    pretrain_epochs: int | None = key(None, "epochs of phase 1; None is epochs", least=0)
    align_epochs: int | None = key(None, "epochs of phase 2; None is epochs", least=0)
    finetune_epochs: int | None = key(None, "epochs of phase 3; None is epochs", least=0)
    phase_cache: bool = key(
        True, "keep pre-trained experts under semantic_cache for runs that differ in later phases", affects="machine"
    )


@dataclass(frozen=True)
class RunSettings:
    """Run: one training and what is written of it."""

    output_dir: str | None = key(
        None, "folder of result.json, model.safetensors, config.json, history.json", affects="output"
    )
    recipe: str | None = key(
        None, "keys under one name (properties/recipe), over the model's and the data set's and under yours"
    )
    resume: bool | Literal["force"] = key(
        False, "go on with the run in output_dir; force: with other settings than it was begun with", affects="machine"
    )
    overwrite: bool = key(
        False, "begin again where output_dir holds a run that was stopped or has other settings", affects="machine"
    )
    save_pth: bool = key(False, "also write RecBole's checkpoint, a pickle, for RecBole's own doors", affects="machine")
    verbose: bool = key(
        False, "show on the screen, too, what else goes to the log file: all settings, the model, RecBole's lines",
        affects="machine",
    )  # fmt: skip
    yes: bool = key(False, "agree to paid calls of an LLM", affects="machine")
    compare_with: tuple[str, ...] = key(
        (), "trained beside it the same way: backbone, placebo, any model", affects="machine"
    )
    inference_only: bool = key(False, "build a model to score only, without text and interests")
    allow_unknown_keys: bool = key(False, "take keys that only a model of your own reads", affects="machine")
    config_files: str | None = key(
        None, "YAML files of keys, separated by spaces; the later ones stronger", affects="machine"
    )
    model_import: str | None = key(
        None, "set by the program: import path of a model that is not ours", affects="machine"
    )
    num_threads: int | None = key(None, "of torch", least=1, affects="machine")
    amp_dtype: Literal["bfloat16", "float16"] = key(
        "bfloat16", "of enable_amp=True; float16 needs enable_scaler=True too"
    )
    torch_compile: bool = key(False, "compile transformer encoders; slower on processors")
    skip_test: bool = key(False, "do not look at the test part: what a search does")
    slice_bounds: tuple[int, ...] = key(
        (1, 5, 20), "slices of the targets by training frequency and by the length of histories: 0, 1-5, 6-20, >20",
        least=1, affects="machine",
    )  # fmt: skip


#: every part, in the order that `keys` shows
ALL_SETTINGS = (
    RunSettings,
    DataSettings,
    ItemSettings,
    InterestModelSettings,
    NetworkSettings,
    PriorSettings,
    EIMFSettings,
    DistillationSettings,
    TextSettings,
    SemanticSettings,
    PADSettings,
)

#: keys of earlier versions that are gone, and the part that read them: saved runs hold them
RETIRED = {"mmd_bandwidth": PADSettings, "text_projection_layers": PADSettings}


@cache
def our_keys() -> dict[str, Key]:
    """Every configuration key of ours, by name; one that two parts read stands where it comes first."""
    found: dict[str, Key] = {}
    for part in ALL_SETTINGS:
        for each in keys_of(part):
            found.setdefault(each.name, each)
    return found


def defaults() -> dict[str, Any]:
    """The default of every key of ours that has one whatever the model, as plain values that fit a YAML file."""
    return {name: each.plain_default for name, each in our_keys().items() if each.default is not OF_MODEL}
