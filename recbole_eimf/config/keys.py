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
        "source",
        "order of a user's events of one time: as in the source; shuffled; or together: shuffled, and all of one "
        "time are targets together",
        affects="expert", training=True,
    )  # fmt: skip
    ties_seed: int = key(
        2024,
        "seed of the order that ties and shuffled_history draw; not the training seed",
        least=0,
        affects="expert",
        training=True,
    )
    shuffled_history: bool = key(
        False, "placebo of order: shuffle training sequences and histories (by ties_seed)",
        affects="expert",
    )  # fmt: skip
    protocol: Literal["leave_one_out", "user_split", "global_time"] = key(
        "leave_one_out",
        "what is held out: each user's last two items (leave_one_out), whole users (user_split), or all after a "
        "time (global_time)",
        affects="expert", training=True,
    )  # fmt: skip
    time_quantiles: tuple[float, ...] = key(
        (0.8, 0.9),
        "shares of all interactions, in order of time, at which training and validation end",
        above=0,
        below=1,
        affects="expert",
        protocol="global_time",
        training=True,
    )
    time_dates: tuple[str, ...] = key(
        (),
        "two dates in place of time_quantiles, such as 2014-03-07,2014-05-13",
        affects="expert",
        protocol="global_time",
        training=True,
    )
    time_target: Literal["successive", "first", "last", "all"] = key(
        "successive",
        "targets among a user's later items: each, from all before it (successive); the first; the last; or all at "
        "once",
        affects="expert",
        protocol="global_time",
    )
    refit: bool = key(
        False,
        "train again, for the chosen number of epochs, on all before the test, and test that model",
        affects="expert",
        protocol="global_time",
    )
    split_seed: int = key(
        2024,
        "seed of the users that user_split and train_share draw; not the training seed",
        least=0,
        affects="expert",
        training=True,
    )
    split_ratios: tuple[float, ...] = key(
        (0.8, 0.1, 0.1),
        "shares of users for training, validation and test",
        least=0,
        most=1,
        affects="expert",
        protocol="user_split",
        training=True,
    )
    split_file: str | None = key(
        None,
        "a CSV of user_id, part (train, valid, test) to follow, in place of a draw",
        affects="content",
        protocol="user_split",
        training=True,
    )
    save_split: str | None = key(
        None, "file to write the split to, in the form that split_file reads", affects="output", protocol="user_split"
    )
    mask_history: bool | Literal["auto"] = key(
        False,
        "leave items that the user already had out of the ranking; auto: only where hardly anybody has an item "
        "twice",
        affects="expert",
    )  # fmt: skip
    training_view: Literal["prefix", "sequence", "random_cut", "interactions"] | None = key(
        None,
        "what a row of training is: a target and what came before it (prefix), a window with a target at every "
        "position (sequence), a sequence cut at random (random_cut), one interaction; None: what the model needs",
        affects="expert",
    )
    window_stride: int | None = key(
        None,
        "training_view=sequence: items from one window to the next; None: half a window",
        least=1,
        affects="expert",
    )
    visits_per_epoch: int = key(
        1, "training_view=random_cut: how often an epoch cuts each user's sequence", least=1, affects="expert"
    )
    min_history: int = key(4, "training_view=random_cut: items before the earliest cut", least=1, affects="expert")
    train_share: float = key(
        1.0,
        "share of the training users that are trained on, drawn by split_seed; a smaller share is part of a larger "
        "one",
        above=0, most=1, affects="expert", training=True,
    )  # fmt: skip
    eval_chunk_items: int | None = key(
        None, "items scored at a time when ranking, which bounds memory; 0: all; None: all, but where they are many",
        least=0, affects="machine",
    )  # fmt: skip


@dataclass(frozen=True)
class ItemSettings:
    """Items: vectors, scores and the recommendation loss."""

    item_init: Literal["xavier", "normal", "pca_text"] = key(
        "normal", "start of item vectors; pca_text: principal components of item text", affects="expert"
    )
    item_init_std: float = key(0.02, "standard deviation of item_init=normal", least=0, affects="expert")
    item_text: Literal["none", "add", "concat", "null_space", "codes"] = key(
        "none",
        "how text joins the item vectors (folded into the checkpoint): added to ids (add), beside them (concat), "
        "ids in its null space alone (null_space: AlphaFuse), or product-quantised codes in place of ids (codes: "
        "VQ-Rec)", affects="expert",
    )  # fmt: skip
    text_adaptor: Literal["linear", "mlp", "moe"] = key(
        "linear",
        "of item_text=add and concat: map from text to the item dimension; moe: UniSRec's mixture of whitenings",
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
        0, "of item_text=null_space: dimensions of an item vector that are the id's; 0: half of them, or all that a "
        "narrower text leaves", least=0, affects="expert", switch=("item_text", "null_space")
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
    text_whitening: Literal["none", "center", "half", "full"] = key(
        "none", "whitening of text vectors: only centred (center), variances evened out halfway (half) or wholly (full)"
    )
    text_dimension: int = key(0, "principal components of the text vectors to keep; 0: all", least=0)
    vector_graph: Literal["none", "similar", "next"] = key(
        "none",
        "IBIM, EIMF: mix a rare item's vector with its neighbours' (folded): items of like text (similar), or "
        "those an LLM says are bought next (next)", affects="expert",
    )  # fmt: skip
    vector_graph_weight: float = key(
        5.0,
        "k of vector_graph: of the vector of an item seen n times, neighbours make a share of k / (k + n)",
        above=0,
        affects="expert",
        switch=("vector_graph",),
    )
    next_labels: float = key(
        0.0,
        "IBIM, EIMF: share of a training label that goes to what an LLM says is bought after the item before the "
        "target", least=0, most=1, affects="expert",
    )  # fmt: skip
    next_label_items: int = key(
        20, "most items that share the label of next_labels", least=1, affects="expert", switch=("next_labels",)
    )
    score: Literal["dot", "cosine"] = key(
        "dot", "how a state and an item vector make a score: inner product or cosine", affects="expert"
    )
    score_scale: float = key(14.0, "factor of cosine scores: 1 / temperature", above=0, affects="expert")
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
        "float32", "number format of the product with the whole catalogue in training", affects="expert"
    )


@dataclass(frozen=True)
class InterestModelSettings:
    """Interests: backbone and readout (EIMF section 3.3)."""

    backbone: str = key(
        "SASRec", "the network that turns a sequence into interests; your own as package.module:Class", affects="expert"
    )
    readout: Literal["soft", "hard"] = key(
        "hard",
        "in training: the mean of a user's interests weighted by likeness to the target (soft), or the one most "
        "like it (hard)",
        affects="expert",
    )
    readout_temperature: float = key(
        1.0,
        "temperature of the soft readout: divides the products",
        above=0,
        affects="expert",
        switch=("readout", "soft"),
    )
    readout_power: float = key(
        1.0, "p of MIND's label-aware attention: the soft readout's products to this power, signs kept", above=0,
        affects="expert", switch=("readout", "soft")
    )  # fmt: skip
    diversity_lambda: float = key(
        0.0, "ComiRec's controllable aggregation when ranking: weight of being of another category; 0: off", least=0,
        affects="expert",
    )  # fmt: skip
    category_field: str = key(
        "categories", "column of the .item file that holds categories (diversity_lambda)", affects="expert"
    )


@dataclass(frozen=True)
class NetworkSettings:
    """Networks: what backbones and floors of ours read; their YAML files set it."""

    interest_num: int = key(OF_MODEL, "K, the most interests of a user", least=1, affects="expert")
    routing_softmax: Literal["interests", "positions"] = key(
        "interests",
        "ComiRecDR, MIND: softmax over interests (an item divides itself among them) or over positions (an "
        "interest divides itself among the items)",
        affects="expert",
    )  # fmt: skip
    remi_beta: float = key(
        OF_MODEL, "REMI: hardness of the interest-aware negatives; 0: none", least=0, affects="expert"
    )
    routing_weight: float = key(OF_MODEL, "REMI: weight of the routing regularisation", least=0, affects="expert")
    knn_decay: float = key(
        OF_MODEL, "kNN floors: factor of an item's weight for each step back in the history", least=0, most=1
    )
    recency_half_life: float | Literal["chosen"] | None = key(
        None,
        "Popularity, Markov, DecayedItemKNN: days after which an interaction counts half; None: all count alike; "
        "chosen: validation chooses among 7, 30, 90, 180, 365 and None",
        above=0,
    )
    knn_neighbours: int = key(
        2000, "item kNN (DecayedItemKNN, score_prior=together): most neighbours of an item", least=1
    )
    place_unseen: bool = key(
        False,
        "after training, give items that training never saw the mean vector of the 20 trained items of nearest "
        "text (folded), and their counts (item kNN, score_prior) likewise, as when items are added to a served "
        "model",
    )  # fmt: skip
    knn_shrink: float = key(
        30.0,
        "item kNN (DecayedItemKNN, score_prior=together): added to a similarity's denominator, so that rare pairs "
        "count less",
        least=0,
    )


@dataclass(frozen=True)
class PriorSettings:
    """Score prior: what is added to the scores of a trained model."""

    score_prior: str = key(
        "none",
        "IBIM, EIMF, PAD and its baselines: what is added to the scores after training, with weights chosen on "
        "validation: items of like text (similar), bought next or before by an LLM's word (next, previous), or "
        "bought together (together)",
        form=Form("none, or similar, next, previous, together joined by +; both is similar+next, all is all four",
                  r"none|both|all|(?!.*\b(\w+)\b.*\b\1\b)(similar|next|previous|together)(\+(similar|next|previous|together))*"),
    )  # fmt: skip
    prior_decay: float = key(
        0.6,
        "factor of an item's weight in the score prior for each step back in the history",
        least=0,
        most=1,
        switch=("score_prior",),
    )
    prior_weights: Literal["grid", "learned", "by_frequency"] = key(
        "grid",
        "how the weights of the score prior are chosen: tried one after the other by valid_metric (grid), or "
        "fitted to the validation targets, the same for all items (learned) or by their training frequency",
        switch=("score_prior",),
    )  # fmt: skip


@dataclass(frozen=True)
class EIMFSettings:
    """EIMF: joint training (section 3.4)."""

    gamma: float = key(0.1, "weight of EIMF's auxiliary losses, and of PAD's alignment loss", least=0)
    alpha: float = key(0.4, "weight of the contrast in the alignment loss (eq. 12)", least=0)
    beta: float = key(0.1, "weight of the cosine distance in the alignment loss (eq. 12)", least=0)
    tau: float = key(0.1, "temperature of the contrast (EIMF's alignment, PAD's kernel=infonce, CTRL's)", above=0)
    use_alignment: bool = key(True, "whether EIMF has its alignment loss (eq. 10-12)")
    use_prediction: bool = key(True, "whether EIMF has its semantic prediction loss (eq. 9)")
    use_interests: bool = key(True, "False: EIMF by item text alone, without clusters and LLM (a control)")
    item_alignment: Literal["target", "batch_items"] = key(
        "target", "whose text and id vectors are aligned: the target's, or those of all items of the batch"
    )
    auxiliary_targets: Literal["one", "all"] = key("one", "how many targets of a row enter the auxiliary losses")
    auxiliary_interval: int = key(1, "auxiliary losses on every n-th batch, n times as heavy", least=1)
    semantic_score: Literal["cosine", "dot"] = key(
        "cosine", "scores of eq. 9: cosines times score_scale, or inner products as the paper prints them"
    )
    semantic_negatives: int | None = key(
        None, "items drawn for eq. 9; 0: all items; None: as many as num_negatives", least=0
    )
    interest_labels: float = key(
        0.0, "share of a training label that goes to items like the user's interests", least=0, most=1
    )
    text_labels: float = key(
        0.0, "share of a training label that goes to items of text like the target's", least=0, most=1
    )
    label_temperature: float = key(0.1, "temperature of interest_labels and text_labels", above=0)
    label_items: int = key(500, "most items that share an exemplar's part of a label (interest_labels)", least=1)
    text_label_items: int = key(20, "most items that share a target's part of a label (text_labels)", least=1)


@dataclass(frozen=True)
class DistillationSettings:
    """Distillation: LLM-ESR's from similar users, and that of users' profiles."""

    similar_users: int = key(10, "LLMESR: users of like text whose mean state teaches a user (N)", least=1)
    similar_weight: float = key(0.1, "LLMESR: weight of that distillation (alpha)", least=0)
    similar_states: Literal["epoch", "step"] = key(
        "epoch",
        "LLMESR: teachers' states as they were when the epoch began, or as they are at the step (the paper's; slow)",
    )
    profile_epochs: int = key(8, "ProfileDistillation: epochs at the start that learn the profiles too", least=0)
    profile_weight: float = key(
        0.65, "ProfileDistillation: weight of the profiles' loss, scaled to the size of the other (alpha)", least=0,
        most=1,
    )  # fmt: skip


@dataclass(frozen=True)
class TextSettings:
    """Text: items' text and its vectors, and what an LLM knows of items."""

    text_source: Literal["real", "shuffled", "noise"] = key(
        "real",
        "text vectors that a model reads; placebos: those of other items (shuffled), or noise of the same covariance",
    )
    text_fields: tuple[str, ...] = key(("title",), "columns of the .item file that make an item's text")
    item_text_source: Literal["title", "profile", "title+profile"] = key(
        "title",
        "text of items that a model reads: text_fields (title), an LLM's profile of the item, or both "
        "(knowledge_source)",
    )
    interest_match: Literal["item_text", "profile"] = key(
        "item_text",
        "EIMF: what users' interests are matched to (eq. 7-9): the text that item_text_source says, or an LLM's "
        "profile of the item",
    )  # fmt: skip
    knowledge_source: Literal["none", "file", "openai", "batch", "shuffled"] = key(
        "none",
        "where an LLM's knowledge of items comes from; shuffled, the placebo: each item gets that of another about "
        "as popular",
    )
    shuffled_knowledge: Literal["file", "openai", "batch"] = key(
        "file", "where the knowledge comes from that knowledge_source=shuffled shuffles"
    )
    knowledge_file: str | None = key(
        None,
        "for knowledge_source=file: JSONL of item_id with response, or with kind, profile, next; or a folder of "
        "`knowledge --export`",
        affects="content",
    )
    knowledge_prompt_file: str | None = key(None, "text file with a prompt of your own about {item}", affects="content")
    next_neighbours: int = key(20, "items of nearest text that stand for each phrase of what is bought next", least=1)
    text_encoder: str = key(
        "minilm", "minilm, tfidf-svd, a folder or hub name of a transformers model, llm2vec:<...> or openai:<model>"
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
        "pooled",
        "a user's text vector: the mean of the items' vectors (pooled), or the vector of all titles as one text "
        "(joined)",
    )
    clustering: Literal["auto", "dense", "sparse", "none"] = key(
        "auto",
        "affinity propagation over all pairs of users (dense) or a graph of neighbours (sparse); auto: dense where "
        "they are few; none: every user is an exemplar",
    )
    preference: float | None = key(
        None, "p of affinity propagation, in place of exemplar_ratio: the lower, the fewer exemplars", below=0
    )
    exemplar_ratio: float | None = key(0.03, "share of the users that become exemplars", above=0, most=1)
    damping: float = key(0.9, "damping of affinity propagation", least=0.5, below=1)
    cluster_neighbours: int = key(
        50, "neighbours of a user in the sparse graph, to begin with; more are taken where they are too few", least=1
    )
    interest_source: str = key(
        "keywords",
        "where interests come from; keywords needs no LLM, shuffled is the placebo, module:function is yours",
        form=Form(
            f"{', '.join(SOURCES)}, shuffled or package.module:function", f"{'|'.join(SOURCES)}|shuffled|{_FUNCTION}"
        ),
    )
    shuffled_source: str | None = key(
        None,
        "where the interests come from that the placebo shuffles; None: file where interest_file is set, else keywords",
        form=Form(f"{', '.join(SOURCES)} or package.module:function", f"{'|'.join(SOURCES)}|{_FUNCTION}"),
    )
    placebo_draw: Literal["uniform", "permute"] = key(
        "uniform",
        "whose interests the placebo gives a user: any exemplar's (uniform), or those of another user (permute), "
        "so that as many users share each as in the clusters",
    )
    interest_file: str | None = key(
        None,
        "for interest_source=file: JSONL of user_id, response; or a folder of `interests --export`",
        affects="content",
    )
    allow_foreign_replies: bool = key(False, "use replies whose prompts the training histories do not give")
    assignment_file: str | None = key(
        None, "CSV of user_id, exemplar_user_id: the clusters, beside interest_file", affects="content"
    )
    max_interests: int = key(20, "interests of an exemplar that are used, at most", least=1)
    prompt_file: str | None = key(
        None, "text file with a prompt of your own, with {history} where the titles go", affects="content"
    )
    prompt_items: int = key(20, "latest titles of a user that a prompt shows", least=1)
    llm_model: str = key("qwen-turbo", "name of the model at the endpoint")
    llm_model_alias: str | None = key(
        None,
        "the name that answers give for llm_model, where it is another (an Azure deployment, for one)",
        affects="machine",
    )
    llm_base_url: str | None = key(
        None, "address of the endpoint, such as https://host/v1; None: OpenAI's", form=_ADDRESS, secret=True
    )
    llm_api_key_env: str = key(
        "OPENAI_API_KEY", "NAME of the environment variable that holds the key", affects="machine", form=_VARIABLE,
        secret=True,
    )  # fmt: skip
    llm_api_key_file: str | None = key(None, "a file that holds the key instead", affects="path")
    llm_concurrency: int = key(8, "calls under way at a time", least=1, affects="machine")
    llm_max_retries: int = key(6, "retries of a call that fails", least=0, affects="machine")
    llm_timeout: float = key(60.0, "seconds a call may take", above=0, affects="machine")
    llm_temperature: float | None = key(0.0, "temperature of the LLM; None: send none", least=0)
    llm_max_tokens: int = key(1024, "tokens of a reply, at most", least=1)
    llm_structured: Literal["auto", "on", "off"] = key(
        "auto", "ask for JSON by response_format; auto: where the endpoint takes it; on: insist"
    )
    llm_price_in: float | None = key(None, "USD for a million tokens sent", least=0, affects="machine")
    llm_price_out: float | None = key(None, "USD for a million tokens received", least=0, affects="machine")
    llm_check_first: int = key(
        20,
        "where none of the first n replies holds an interest, ask whether to go on, or stop if nobody can answer; "
        "0: never",
        least=0,
        affects="machine",
    )
    batch_file: str | None = key(
        None, "answers of the OpenAI Batch API: a file, or a folder of .jsonl files", affects="content"
    )


@dataclass(frozen=True)
class PADSettings:
    """PAD: experts, alignment and phases (section 3), also of the baselines that share its parts."""

    experts: str = key(
        "id+text+aligned",
        "kinds of experts, joined by +, a kind may come several times: id, text, hybrid, aligned, next (what an "
        "LLM says is bought after the history)",
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
        "learned",
        "id vectors of candidates that training never saw: they count (learned), do not (none), or text experts, "
        "if any, stand in for all (text); in histories they count",
        affects="text expert",
    )  # fmt: skip
    unseen_offset: float = key(0.0, "subtracted, when ranking, from the scores of items that training never saw")
    gate: Literal["frequency", "shared", "none"] = key(
        "frequency", "weights of the experts: by the candidate's training frequency, the same for all items, or equal"
    )
    gate_buckets: int = key(10, "of gate=frequency: buckets of items, of equal numbers of interactions", least=1)
    gate_start: tuple[float, ...] = key(
        (),
        "weights to begin with, before the sigmoid: of id, text (and next), and aligned or hybrid experts; []: equal",
    )
    gate_end: tuple[float, ...] = key(
        (), "of gate=frequency: the same for the rarest bucket, with equal steps from gate_start; []: as gate_start"
    )
    gate_total: float = key(
        1.0, "what an item's weights add up to: 1: a mean of the experts; their number: a sum", above=0
    )
    loss: Literal["ce", "bce", "gbce"] = key(
        "ce", "softmax over the catalogue (ce), or binary with negatives outside the user's history", affects="expert"
    )
    bce_reduction: Literal["mean", "sum"] = key(
        "mean",
        "of bce and gbce: mean or sum over a target and its negatives; under sum, gamma counts less",
        affects="expert",
    )
    gbce_calibration: float = key(0.75, "t of gbce: 0 is bce, 1 is fully calibrated", least=0, most=1, affects="expert")
    candidates: Literal["all", "seen"] = key(
        "all", "items that compete with a target in training: all, or those that training ever saw", affects="expert"
    )
    alignment: Literal["none", "non_anchored", "anchored", "anchored_frozen"] = key(
        "anchored",
        "phase 2: none; the alignment loss alone (non_anchored); with the recommendation loss (anchored); and ids "
        "that stand still (anchored_frozen)",
    )
    kernel: Literal["gaussian", "laplacian", "linear", "cosine", "infonce"] = key(
        "gaussian", "kernel of the alignment loss"
    )
    mmd_estimator: Literal["biased", "unbiased"] = key("biased", "estimator of MK-MMD")
    mmd_width: float = key(
        1.0, "w of the Gaussian kernels exp(-distance / (w bandwidth)); 2 is the normal density's", above=0
    )
    mmd_items: int = key(512, "most distinct items of a batch in the alignment loss; 0: all", least=0)
    gamma: float = key(0.1, "weight of EIMF's auxiliary losses, and of PAD's alignment loss", least=0)
    tau: float = key(0.1, "temperature of the contrast (EIMF's alignment, PAD's kernel=infonce, CTRL's)", above=0)
    sufficiency_weight: float = key(0.5, "DisCo: weight of its sufficiency loss", least=0)
    disentanglement_weight: float = key(0.1, "DisCo: weight of its disentanglement loss", least=0)
    chunks: int = key(4, "DisCo: chunks of an item vector; must divide its dimension", least=2)
    pretrain: Literal["id", "all"] = key("id", "phase 1: which experts are first trained alone")
    fine_tune: bool = key(True, "phase 3: train all experts together")
    pretrain_learning_rate: float | None = key(None, "learning rate of phase 1; None: learning_rate", above=0)
    align_learning_rate: float | None = key(None, "learning rate of phase 2; None: learning_rate", above=0)
    finetune_learning_rate: float | None = key(None, "learning rate of phase 3; None: learning_rate", above=0)
    pretrain_epochs: int | None = key(None, "epochs of phase 1; None: epochs", least=0)
    align_epochs: int | None = key(None, "epochs of phase 2; None: epochs", least=0)
    finetune_epochs: int | None = key(None, "epochs of phase 3; None: epochs", least=0)
    phase_cache: bool = key(
        True, "keep pre-trained experts in semantic_cache, for runs that differ in later phases only", affects="machine"
    )


@dataclass(frozen=True)
class RunSettings:
    """Run: one training and what is written of it."""

    output_dir: str | None = key(
        None, "folder of result.json, model.safetensors, config.json, history.json", affects="output"
    )
    recipe: str | None = key(
        None,
        "a named set of keys from properties/recipe, such as strong or paper: stronger than the files of model and "
        "data set, weaker than your own keys",
    )
    resume: bool | Literal["force"] = key(
        False,
        "continue the run in output_dir; force: even with settings other than those it began with",
        affects="machine",
    )
    overwrite: bool = key(
        False,
        "begin again although output_dir holds a stopped run, or one with other settings; what it holds is lost",
        affects="machine",
    )
    save_pth: bool = key(False, "also write model.pth, RecBole's own checkpoint, which is a pickle", affects="machine")
    verbose: bool = key(
        False, "also show on the screen what goes to the log file: all settings, the model, RecBole's lines",
        affects="machine",
    )  # fmt: skip
    yes: bool = key(False, "agree to paid calls of an LLM", affects="machine")
    compare_with: tuple[str, ...] = key(
        (),
        "what to train beside the model, in the same way, for comparison: backbone, placebo, any model",
        affects="machine",
    )
    inference_only: bool = key(False, "build a model to score only, without text and interests")
    allow_unknown_keys: bool = key(False, "take keys that only a model of your own reads", affects="machine")
    config_files: str | None = key(
        None, "YAML files of keys, separated by spaces; a later file overrides an earlier one", affects="machine"
    )
    model_import: str | None = key(
        None, "set by the program: import path of a model that is not ours", affects="machine"
    )
    num_threads: int | None = key(None, "threads that torch uses; None: torch decides", least=1, affects="machine")
    amp_dtype: Literal["bfloat16", "float16"] = key(
        "bfloat16", "number format of mixed precision (enable_amp=True); float16 needs enable_scaler=True too"
    )
    torch_compile: bool = key(False, "compile transformer encoders; slower on a CPU")
    skip_test: bool = key(False, "leave the test part alone, as a search does")
    slice_bounds: tuple[int, ...] = key(
        (1, 5, 20), "bounds of the slices of targets by training frequency and by length of history: 0, 1-5, 6-20, >20",
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
