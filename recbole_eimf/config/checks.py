"""What keys must be together: whatever would fail or be ignored later is an error now, under the name a user types.

Single values are held against the catalogue; here stand the rules that take more than one key, or a look at the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import recbole
from recbole.utils import ModelType

from recbole_eimf.config.contract import CHOSEN, contract_of, is_ours
from recbole_eimf.config.keys import our_keys
from recbole_eimf.config.models import BACKBONES, FLOORS, load_backbone_class, load_model_class
from recbole_eimf.config.recbole_keys import checked_recbole_keys
from recbole_eimf.config.rules import check_exemplars, check_split_ratios, check_window_stride
from recbole_eimf.config.stock_needs import lacks_encoder, stock_class
from recbole_eimf.core.errors import ConfigError, suggestion
from recbole_eimf.core.files import first_line

#: the data set that the recbole package holds, and where
BUNDLED = "ml-100k"
_EXAMPLE = (Path(recbole.__file__).parent / "dataset_example" / BUNDLED).absolute()

_COLUMNS = ("USER_ID_FIELD", "ITEM_ID_FIELD", "ORDER_FIELD", "TIME_FIELD", "RATING_FIELD")
#: RecBole's keys that name columns of any file; what is not loaded would be a traceback
_BY_COLUMN = ("val_interval", "normalize_field", "threshold")
_MODES = "full, uniN (N drawn uniformly, such as uni100) or popN (by popularity)"


def check_values(given: dict[str, Any], internal: dict[str, Any], final: dict[str, Any]) -> None:
    """Hold what a user gave, and every key of ours, against the catalogue; RecBole gets lists as lists, and a number
    that stands for text (a folder called 20240105) is text from here on.

    Args:
        given: the user's keys; internal: those of YAML files of ours and RecBole's; final: both together.

    Raises:
        ConfigError: naming key, value and what is allowed.
    """
    for name, known in checked_recbole_keys().items():
        if name in given:
            value = known.check(given[name])
            # metrics=Recall, of which RecBole would take letters; topk=5,10
            if isinstance(value, tuple) and not isinstance(given[name], list):
                given[name] = final[name] = list(value)
            elif known.is_text:
                given[name] = final[name] = value
    for name, known in our_keys().items():
        if name in final:
            value = known.check(final[name])
            if known.is_text:
                (given if name in given else internal)[name] = final[name] = value


def check_backbone(model_class: type, given: Mapping[str, Any]) -> None:
    """Check that a backbone that is given is one, and that the model takes it.

    Raises:
        ConfigError: naming the backbone and the remedy.
    """
    name, asked = given.get("backbone"), contract_of(model_class)
    if name is None or name == asked.fixed_backbone:
        return
    # floors of a table keep the backbone's length of sequences
    if not (asked.takes_backbone or asked.counting) or asked.fixed_backbone:
        what = f"is built over {asked.fixed_backbone}" if asked.fixed_backbone else "takes none"
        raise ConfigError(
            f"backbone={name}: model={model_class.__name__} {what}. Leave it out, or train that backbone with "
            f"--model=IBIM --backbone={name}."
        )
    load_backbone_class(name)


def check_able(model_class: type, final: Mapping[str, Any]) -> None:
    """Check that the model can be compiled, can place what training never saw, and can learn from rows without a
    history, where the keys ask for it.

    Raises:
        ConfigError: naming key, model or backbone, and the remedy.
    """
    asked = contract_of(model_class)
    if final["training_view"] == "interactions" and (is_ours(model_class) or _is_stock_sequential(model_class)):
        own = asked.choose_training_view(final)
        if own != "interactions":
            raise ConfigError(
                f"training_view=interactions: {final['model']} reads histories, and such rows have none; they are of "
                f"models that count. Leave it out ({own})."
            )
    name = asked.backbone_name(final)
    if final["torch_compile"] and name and not load_backbone_class(name).has_transformer:
        able = ", ".join(known for known in BACKBONES if load_backbone_class(known).has_transformer)
        raise ConfigError(
            f"torch_compile=True: backbone={name} has no transformer encoder to compile; {able} have. Leave it out."
        )
    if final["torch_compile"] and (asked.counting or lacks_encoder(model_class)):
        raise ConfigError(
            f"torch_compile=True: {final['model']} has no transformer encoder to compile, as SASRec and BERT4Rec have. "
            f"Leave it out."
        )
    if final["recency_half_life"] == CHOSEN and not asked.counts_alone:
        raise ConfigError(
            f"recency_half_life={CHOSEN}: {final['model']} does not choose it; {', '.join(FLOORS)} do. Write a number "
            f"of days, or leave it out."
        )
    if final["place_unseen"] and not asked.places_unseen:
        raise ConfigError(
            f"place_unseen=True: {final['model']} has no vectors of items that could be placed. Leave it out."
        )


def _is_stock_sequential(model_class: type) -> bool:
    """Whether a model is RecBole's and reads histories; Pop or EASE count interactions."""
    return stock_class(model_class) is not None and getattr(model_class, "type", None) == ModelType.SEQUENTIAL


def check_protocol(given: Mapping[str, Any], final: Mapping[str, Any]) -> None:
    """Check that keys of one protocol are given to that one. Raises ConfigError naming key, value and protocol."""
    protocol = final["protocol"]
    if final["refit"] and protocol != "global_time":
        raise ConfigError(
            f"refit=True: protocol={protocol} tests on other users or on the item after validation's; only "
            f"global_time has a validation window to train on. To deploy, `export --refit` trains on everything."
        )
    for name, known in our_keys().items():
        if name in given and known.protocol not in (None, protocol):
            raise ConfigError(
                f"{name}={given[name]}: protocol={protocol} does not read it. Leave it out, or add "
                f"--protocol={known.protocol}."
            )


def check_compared(given: Mapping[str, Any], final: Mapping[str, Any]) -> None:
    """Check the names of ``compare_with`` before the first of them is trained.

    Raises:
        ConfigError: a name that is neither ``backbone``, ``placebo`` nor a model.
    """
    if "compare_with" not in given:
        return
    for name in our_keys()["compare_with"].check(final["compare_with"]):
        if name in ("backbone", "placebo"):
            continue
        try:
            load_model_class(name)
        except ConfigError as error:
            raise ConfigError(f"compare_with={name}: neither backbone nor placebo, and {error}") from error


def check_together(given: Mapping[str, Any], final: Mapping[str, Any]) -> None:
    """Check what several keys must be together.

    Args:
        given: the user's keys; final: all, before RecBole changes their form.

    Raises:
        ConfigError: naming key, value and remedy.
    """
    if not final["repeatable"]:
        raise ConfigError("repeatable=False: sequential models rank what comes next, repeats too; leave it True.")
    if final["resume"] and final["overwrite"]:
        raise ConfigError(
            f"resume={final['resume']}, overwrite=True: one goes on with the run in output_dir, the other loses it. "
            f"Give one."
        )
    if final["resume"] and not final["output_dir"] and not final["inference_only"]:
        raise ConfigError(
            f"resume={final['resume']}: output_dir is not set; it names the folder of the run to go on with. Add "
            f"--output_dir=FOLDER."
        )
    _check_metrics(final)
    _check_eval_args(given)
    _check_negatives(given, final)
    _check_clipping(given)
    _check_float16(final)
    _check_dimensions(given, final)
    check_window_stride(final.get("window_stride"), final["MAX_ITEM_LIST_LENGTH"])
    check_split_ratios(_as_list(final["split_ratios"]))
    check_exemplars(given.get("preference"), given.get("exemplar_ratio"))
    if not final["inference_only"]:  # a saved model has had its training
        _check_said_once(given)
    _check_bounds(final)


def _check_said_once(given: Mapping[str, Any]) -> None:
    """Check that no key is given beside another one that takes its place, so that nothing would read it.

    Raises:
        ConfigError: naming both keys, with their values.
    """
    places = (("time_dates", "time_quantiles", "where training and validation end"),
              ("split_file", "split_ratios", "which users train, validate and test"))  # fmt: skip
    for read, unread, what in places:
        if given.get(read) and given.get(unread):
            raise ConfigError(
                f"{read}={given[read]}, {unread}={given[unread]}: both say {what}, and only {read} would be read. "
                f"Give one."
            )
    if given.get("item_init") == "pca_text" and given.get("item_text") == "codes":
        raise ConfigError(
            "item_init=pca_text, item_text=codes: items are made of their texts' codes, and no id vector starts from "
            "text. Give one."
        )


# ---------------------------------------------------------------------- evaluation
def _check_metrics(final: Mapping[str, Any]) -> None:
    from recbole.evaluator import metric_types

    metrics = _as_list(final["metrics"])
    if not metrics:
        raise ConfigError("metrics=[]: name at least one, for example [Recall, NDCG].")
    for name in metrics:
        if str(name).lower() not in metric_types:
            known = sorted(metric_types)
            raise ConfigError(
                f"metrics={final['metrics']}: no metric {name!r}.{suggestion(str(name).lower(), known)} "
                f"There are: {', '.join(known)}."
            )
    kinds = {metric_types[str(name).lower()] for name in metrics}
    if len(kinds) > 1:
        raise ConfigError(f"metrics={metrics}: metrics of rankings and of values (AUC, ...) need separate runs.")
    _check_topk_and_valid_metric(final, [str(name).lower() for name in metrics], kinds.pop())


def _check_topk_and_valid_metric(final: Mapping[str, Any], metrics: list[str], kind: Any) -> None:
    from recbole.utils import EvaluatorType

    topk = _as_list(final["topk"])
    if not topk:
        raise ConfigError("topk=[]: name at least one k, for example [10, 50].")
    if final["inference_only"]:  # nothing is validated
        return
    text = str(final["valid_metric"])
    name, sign, k = text.partition("@")
    if name.lower() not in metrics:
        raise ConfigError(f"valid_metric={text}: {name} is not in metrics={metrics}. Add it there, or choose another.")
    if kind == EvaluatorType.VALUE:
        if sign:
            raise ConfigError(f"valid_metric={text}: {name} has no k. Write {name}.")
        if "full" in str(final["eval_args"]):
            raise ConfigError(
                f"metrics={metrics}: values (AUC, ...) need eval_args={{mode: uniN}}, not a full ranking."
            )
        return
    if not k.isdecimal() or int(k) not in topk:
        raise ConfigError(
            f"valid_metric={text}: its k must be one of topk={list(topk)}. "
            f"Write {name}@{topk[0]}, or add {k or 'the k'} to topk."
            + (f" (recipe={final['recipe']} may set it: `explain valid_metric` shows.)" if final.get("recipe") else "")
        )


def _check_eval_args(given: Mapping[str, Any]) -> None:
    if "eval_args" not in given:
        return
    args = given["eval_args"]
    known = ("split", "order", "group_by", "mode")
    for key in args:
        if key not in known:
            raise ConfigError(f"eval_args: no {key!r}.{suggestion(str(key), known)} There are: {', '.join(known)}.")
    # what follows is decided by protocol and by the order column: another wish would be ignored
    ways = {"split": [{"LS": "valid_and_test"}], "order": ["TO"], "group_by": ["user"]}
    remedies = {
        "split": "protocol=leave_one_out, user_split or global_time says what is held out; leave split out",
        "order": "sequences are in the order of ORDER_FIELD or TIME_FIELD (TO); leave order out",
        "group_by": "users are what is split and ranked (user); leave group_by out",
    }
    for key, allowed in ways.items():
        if key in args and args[key] not in allowed:
            raise ConfigError(f"eval_args {key}={args[key]!r}: not supported: {remedies[key]}.")
    mode = args.get("mode", "full")
    for phase, each in mode.items() if isinstance(mode, dict) else [("", mode)]:
        number = str(each)[3:]
        sampled = str(each)[:3] in ("uni", "pop") and number.isdecimal() and int(number) > 0
        if phase not in ("", "valid", "test") or not (each == "full" or sampled):
            raise ConfigError(f"eval_args mode={mode!r}: allowed is {_MODES}, or one each for valid and test.")


# ---------------------------------------------------------------------- training
def _check_negatives(given: Mapping[str, Any], final: Mapping[str, Any]) -> None:
    args = given.get("train_neg_sample_args")
    if args is None or args == "None":
        return
    if final["loss_type"] == "CE":
        raise ConfigError(f"train_neg_sample_args={args!r}: loss_type=CE has no negatives to draw. Leave it None.")
    if not isinstance(args, Mapping):
        raise ConfigError(f"train_neg_sample_args={args!r}: allowed is None or a mapping such as {{sample_num: 1}}.")
    known = {"distribution": ("uniform", "popularity", "none", None), "sample_num": None, "alpha": None,
             "dynamic": (True, False), "candidate_num": None}  # fmt: skip
    for key, value in args.items():
        if key not in known:
            raise ConfigError(f"train_neg_sample_args: no {key!r}.{suggestion(str(key), known)}")
        allowed = known[key]
        counted = key in ("sample_num", "candidate_num")
        least = 1 if key == "sample_num" else 0
        bad = counted and value != "none" and (type(value) is not int or value < least)
        if bad or (allowed is not None and value not in allowed):
            what = f"a whole number, at least {least}" if counted else ", ".join(map(str, allowed))
            raise ConfigError(f"train_neg_sample_args {key}={value!r}: allowed is {what}.")


def _check_clipping(given: Mapping[str, Any]) -> None:
    args = given.get("clip_grad_norm")
    if args is None:
        return
    known = ("max_norm", "norm_type", "error_if_nonfinite", "foreach")
    for key in args:
        if key not in known:
            raise ConfigError(
                f"clip_grad_norm: no {key!r}.{suggestion(str(key), known)} There are: {', '.join(known)}."
            )
    norm = args.get("max_norm")
    if not isinstance(norm, int | float) or isinstance(norm, bool) or not norm > 0:
        raise ConfigError(f"clip_grad_norm={args}: max_norm is a number above 0, for example {{max_norm: 5}}.")


def _check_float16(final: Mapping[str, Any]) -> None:
    if final["enable_amp"] and final["amp_dtype"] == "float16" and not final["enable_scaler"]:
        raise ConfigError("amp_dtype=float16: small gradients vanish in it; add enable_scaler=True, or use bfloat16.")


# ---------------------------------------------------------------------- networks and data
def _check_dimensions(given: Mapping[str, Any], final: Mapping[str, Any]) -> None:
    size, heads = final.get("hidden_size"), final.get("n_heads")
    if type(size) is int and type(heads) is int and size % heads and {"hidden_size", "n_heads"} & {*given}:
        raise ConfigError(f"n_heads={heads}: must divide hidden_size={size}.")


def _check_bounds(final: Mapping[str, Any]) -> None:
    bounds = _as_list(final["slice_bounds"])
    if any(b <= a for a, b in zip(bounds, bounds[1:])):
        raise ConfigError(f"slice_bounds={bounds}: increasing whole numbers from 1 on are needed, e.g. [1,5,20].")


def data_folder(dataset: str, data_path: Any) -> Path:
    """The folder of a data set's atomic files: below ``data_path``, or inside the recbole package for ml-100k where
    ``data_path`` has none."""
    own = Path(str(data_path)) / dataset
    return own if dataset != BUNDLED or (own / f"{dataset}.inter").is_file() else _EXAMPLE


def is_bundled(folder: str | Path) -> bool:
    """Whether ``folder`` is that of the data set inside the recbole package."""
    return Path(folder).absolute() == _EXAMPLE


def check_columns(given: Mapping[str, Any], final: Mapping[str, Any]) -> None:
    """Check that the columns a user names stand in the file of interactions; one that is not there is not looked at.

    Args:
        given: the user's keys; final: all.

    Raises:
        ConfigError: naming key, column, file and the columns there are.
    """
    _check_column_lists(given, final)
    if final["USER_ID_FIELD"] == final["ITEM_ID_FIELD"]:
        name = final["USER_ID_FIELD"]
        raise ConfigError(f"USER_ID_FIELD={name}, ITEM_ID_FIELD={name}: one column cannot be both. Name another.")
    path = data_folder(final["dataset"], final["data_path"]) / f"{final['dataset']}.inter"
    if not path.is_file() or not {"load_col", *_COLUMNS, *_BY_COLUMN} & {*given}:
        return
    header = first_line(path, final.get("encoding")).split(final["field_separator"])
    columns = [column.partition(":")[0] for column in header]
    load = final.get("load_col")
    loaded = load.get("inter") if isinstance(load, Mapping) else None
    named = {f"load_col inter={loaded}": name for name in loaded or () if "load_col" in given and name not in columns}
    for key in _COLUMNS:
        if given.get(key) is not None and given[key] not in columns:
            named[f"{key}={given[key]}"] = given[key]
    for words, name in named.items():
        raise ConfigError(f"{words}: {path} has no column {name!r}.{suggestion(str(name), columns)} "
                          f"It has: {', '.join(columns)}.")  # fmt: skip
    if isinstance(load, Mapping):
        every = {name for names in load.values() for name in names or ()}
        for key in _BY_COLUMN:
            for name in given.get(key) or ():
                if "*" not in every and name not in every:
                    raise ConfigError(f"{key}={given[key]}: {name} is not read; add it to load_col ({dict(load)}).")
    for key in ("ORDER_FIELD", "TIME_FIELD"):
        if given.get(key) is not None and loaded is not None and given[key] not in loaded:
            raise ConfigError(f"{key}={given[key]}: not read; add it to load_col (inter: {loaded}).")


def _check_column_lists(given: Mapping[str, Any], final: Mapping[str, Any]) -> None:
    """Check the form of ``load_col`` and ``unload_col``: RecBole would fail on it with a traceback, or read nothing."""
    for key in ("load_col", "unload_col"):
        lists = given.get(key)
        if not isinstance(lists, Mapping):
            continue
        for file, columns in lists.items():
            every = columns == "*" and key == "load_col" and file != "inter"  # RecBole's word for all columns
            if not every and not (isinstance(columns, list | tuple) and all(isinstance(name, str) for name in columns)):
                raise ConfigError(
                    f"{key}={lists}: {file}={columns!r} is not a list of columns. Write a list for each file, such as "
                    f"{{inter: [user_id, item_id]}}, or leave {file} out."
                )
    load, unload = final.get("load_col"), given.get("unload_col")
    if isinstance(load, Mapping) and isinstance(unload, Mapping):
        for file in unload:
            if unload[file] and load.get(file) not in (None, "*", []):
                raise ConfigError(
                    f"unload_col={unload}: load_col has {file}={load[file]}, and what is not named there is not read "
                    f"anyway. Leave {file} out of unload_col, or add --load_col=None."
                )
    load = given.get("load_col")
    if isinstance(load, Mapping) and not load.get("inter"):
        raise ConfigError(
            f"load_col={load}: no columns of inter, so that no interactions would be read. Add them, for example "
            f"{{inter: [user_id, item_id, timestamp]}}, or leave load_col out."
        )


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
