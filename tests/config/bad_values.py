"""Values that no run can honour, by the form a key has: written from RecBole's documentation and ours, not from the
catalogue, so that what the catalogue forgets is found."""

from __future__ import annotations

from collections.abc import Iterator


def whole(least: int | None) -> list[str]:
    """What is no whole number, or lies below ``least``."""
    return ["abc", "2.5", "[3]", *([] if least is None else [str(least - 1)])]


def number(*outside: float) -> list[str]:
    """What is no finite number, or one of ``outside``."""
    return ["abc", "[0.5]", "nan", *map(str, outside)]


def flag() -> list[str]:
    return ["maybe", "3"]


def word() -> list[str]:
    return ["foo", "7"]


_RECBOLE = {
    "gpu_id": ["abc", "-2", "1.5", "0;1", "GPU-", "{'a': 1}"],
    "use_gpu": flag(),
    "seed": [*whole(0), "4294967296"],
    "reproducibility": flag(),
    "state": ["LOUD", "3", "[INFO]"],
    "show_progress": flag(),
    "worker": whole(0),
    "shuffle": flag(),
    "epochs": whole(0),
    "train_batch_size": whole(1),
    "eval_batch_size": whole(1),
    "learner": word(),
    "learning_rate": number(-1, 0),
    "weight_decay": number(-1),
    "eval_step": whole(0),
    "stopping_step": whole(0),
    "clip_grad_norm": ["abc", "5", "{'max_nrom': 5}", "{'max_norm': abc}", "{'max_norm': -1}"],
    "loss_decimal_place": whole(0),
    "metric_decimal_place": whole(0),
    "enable_amp": flag(),
    "enable_scaler": flag(),
    "train_neg_sample_args": [
        "abc", "{'distribution': foo}", "{'sample_num': 0}", "{'distribution': uniform, 'sample_num': abc}",
    ],
    "eval_args": [
        "abc", "{'split': {'RS': [0.8, 0.1, 0.1]}}", "{'split': {'LS': foo}}", "{'split': abc}", "{'order': RO}",
        "{'order': foo}", "{'group_by': none}", "{'group_by': foo}", "{'mode': foo}", "{'mode': uni}",
        "{'mode': unixx}", "{'mode': {'valid': foo}}", "{'mode': uni-5}", "{'splitt': {'LS': valid_and_test}}",
    ],
    "repeatable": [*flag(), "False"],
    "metrics": ["[Foo]", "[]", "3", "[3]", "[Recall, AUC]", "{'a': 1}", "[AUC]"],
    "topk": ["[]", "0", "-1", "[0]", "abc", "[abc]", "2.5", "[2.5]"],
    "valid_metric": ["Recall@7", "Recall", "Foo@10", "NDCG@abc", "MRR@10@20", "3", "[NDCG@10]", "Precision@10"],
    "MAX_ITEM_LIST_LENGTH": whole(1),
    "USER_ID_FIELD": ["nobody", "3"],
    "ITEM_ID_FIELD": ["nothing", "3"],
    "TIME_FIELD": ["no_time"],
    "ORDER_FIELD": ["foo", "[order]"],
    "RATING_FIELD": ["foo"],
    "load_col": ["abc", "{'inter': abc}", "[user_id]", "{'inter': [user_id, item_id, nothing]}", "{item: None}",
                 "{inter: None}", "{inter: [user_id, item_id, timestamp], item: None}", "{item: [item_id]}"],
    "unload_col": ["{inter: None}", "{inter: [timestamp]}"],
    "user_inter_num_interval": ["abc", "5", "[5", "(3,2)", "[a,b]"],
    "item_inter_num_interval": ["abc", "5", "[5", "(3,2)", "[a,b]"],
    "rm_dup_inter": word(),
    "filter_inter_by_user_or_item": flag(),
    "normalize_all": flag(),
    "log_wandb": flag(),
    "save_dataset": flag(),
    "save_dataloaders": flag(),
    "nproc": whole(1),
    "hidden_size": whole(1),
    "inner_size": whole(1),
    "n_layers": whole(1),
    "n_heads": [*whole(1), "3"],
    "hidden_dropout_prob": number(-0.1, 1.5),
    "attn_dropout_prob": number(-0.1, 1.5),
    "hidden_act": word(),
    "layer_norm_eps": number(-1),
    "initializer_range": number(-1),
}  # fmt: skip

_OURS = {
    "backbone": ["SASrec", "7", "[SASRec]"],
    "protocol": word(),
    "split_seed": whole(0),
    "mask_history": flag(),
    "training_view": word(),
    "window_stride": [*whole(1), "100"],
    "visits_per_epoch": whole(1),
    "min_history": whole(1),
    "eval_chunk_items": whole(0),
    "item_init": word(),
    "item_init_std": number(-1),
    "item_text": word(),
    "text_adaptor": word(),
    "adaptor_experts": whole(1),
    "adaptor_dropout": number(-0.1, 1),
    "id_dimension": whole(0),
    "code_pieces": whole(1),
    "code_centroids": whole(2),
    "text_whitening": word(),
    "text_dimension": whole(0),
    "score": word(),
    "score_scale": number(0, -1),
    "num_negatives": whole(0),
    "negative_sampling": word(),
    "negatives_for": word(),
    "negative_correction": flag(),
    "logits_dtype": word(),
    "readout": word(),
    "readout_temperature": number(0, -1),
    "diversity_lambda": number(-1),
    "gamma": number(-1),
    "alpha": number(-1),
    "beta": number(-1),
    "tau": number(0, -1),
    "use_alignment": flag(),
    "use_prediction": flag(),
    "use_interests": flag(),
    "item_alignment": word(),
    "auxiliary_targets": word(),
    "auxiliary_interval": whole(1),
    "semantic_negatives": whole(0),
    "interest_labels": number(-0.1, 1.1),
    "text_labels": number(-0.1, 1.1),
    "label_temperature": number(0, -1),
    "label_items": whole(1),
    "text_label_items": whole(1),
    "similar_users": whole(1),
    "similar_weight": number(-1),
    "similar_states": word(),
    "profile_epochs": whole(0),
    "profile_weight": number(-0.1, 1.1),
    "text_batch_size": whole(1),
    "text_max_length": whole(1),
    "text_pooling": word(),
    "text_encoder": ["", "[minilm]"],
    "encoder_processes": whole(0),
    "sequence_text": word(),
    "clustering": word(),
    "preference": number(0, 1),
    "exemplar_ratio": number(0, 1.5, -1),
    "damping": number(0.4, 1),
    "cluster_neighbours": whole(1),
    "interest_source": word(),
    "shuffled_source": word(),
    "max_interests": whole(1),
    "prompt_items": whole(1),
    "llm_concurrency": whole(1),
    "llm_max_retries": whole(0),
    "llm_timeout": number(0, -1),
    "llm_temperature": number(-1),
    "llm_max_tokens": whole(1),
    "llm_structured": word(),
    "llm_price_in": number(-1),
    "llm_price_out": number(-1),
    "llm_api_key_env": ["sk-1234", "[A]"],
    "slice_bounds": ["abc", "[a]", "[5,1]", "[-1]", "[0,5]", "[5,5]"],
    "num_threads": whole(1),
    "amp_dtype": word(),
    "torch_compile": flag(),
    "skip_test": flag(),
    "resume": flag(),
    "split_ratios": ["abc", "[0.8,0.1]", "[0.8,0.1,0.3]", "[-0.1,0.6,0.5]"],
    "recipe": ["foo", "7"],
    "compare_with": ["[Foo]", "Foo", "3"],
    "seeds": ["5"],
    "rows": ["[SASRec]"],
    "grid": ["{'gamma': [0.1]}"],
    "title": ["table"],
    "axis": ["gamma"],
}

#: keys that another model reads: (model, keys beside it, key, values)
_MODELS = [
    ("REMI", {}, "interest_num", ["three", *whole(1)]),
    ("REMI", {}, "remi_beta", number(-1)),
    ("REMI", {}, "routing_weight", number(-1)),
    ("IBIM", {"enable_amp": "True"}, "amp_dtype", ["float16"]),
    ("IBIM", {"backbone": "BERT4Rec"}, "mask_ratio", number(0, -0.1, 1.5)),
    ("IBIM", {"backbone": "GRU4Rec"}, "num_layers", whole(1)),
    ("IBIM", {"backbone": "GRU4Rec"}, "dropout_prob", number(-0.1, 1.5)),
    ("IBIM", {"backbone": "Caser"}, "nv", whole(1)),
    ("IBIM", {"backbone": "Caser"}, "nh", whole(1)),
    ("DecayedItemKNN", {}, "knn_decay", number(-1, 1.5)),
    ("DecayedItemKNN", {}, "knn_neighbours", whole(1)),
    ("DecayedItemKNN", {}, "knn_shrink", number(-1)),
    ("PAD", {}, "experts", ["foo", "id+foo", "7"]),
    ("PAD", {}, "fusion", word()),
    ("PAD", {}, "fusion_dropout", number(-0.1, 1.5)),
    ("PAD", {}, "gate", word()),
    ("PAD", {}, "gate_buckets", whole(1)),
    ("PAD", {}, "gate_start", ["abc", "[1]", "[a,b,c]"]),
    ("PAD", {}, "gate_total", number(0, -1)),
    ("PAD", {}, "loss", word()),
    ("PAD", {}, "kernel", word()),
    ("PAD", {}, "mmd_items", whole(0)),
    ("PAD", {}, "gamma", ["-1", "abc"]),
    ("PAD", {}, "unseen_ids", word()),
    ("PAD", {}, "unseen_offset", ["abc", "nan"]),
    ("PAD", {}, "pretrain", word()),
    ("PAD", {}, "pretrain_epochs", whole(0)),
    ("PAD", {}, "align_learning_rate", number(0, -1)),
    ("PAD", {}, "backbone", ["BERT4Rec", "REMI", "foo"]),
    ("DisCo", {}, "chunks", [*whole(2), "7"]),
    ("SASRec", {}, "backbone", ["GRU4Rec"]),
    ("SASRec", {}, "n_heads", ["3", "0", "abc"]),
    ("SASRec", {}, "loss_type", ["foo", "3"]),
    ("GRU4Rec", {}, "num_layers", ["abc", "0", "-1"]),
]  # fmt: skip


def bad_values() -> Iterator[tuple[str, dict[str, str], str, str]]:
    """(model, keys beside it, key, value as typed)."""
    for table in (_RECBOLE, _OURS):
        for key, values in table.items():
            for value in values:
                yield "EIMF", {}, key, value
    for model, beside, key, values in _MODELS:
        for value in values:
            yield model, beside, key, value
