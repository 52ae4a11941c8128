"""The LLM stage of a data set alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np

from recbole_eimf.config import keys
from recbole_eimf.config.config import EIMFConfig, check_keys
from recbole_eimf.config.contract import contract_of
from recbole_eimf.config.keys import SemanticSettings
from recbole_eimf.config.layers import concerning
from recbole_eimf.config.yaml_file import read_files, read_yaml
from recbole_eimf.core.disk import check_writable
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.data.dataset import LazySequenceDataset
from recbole_eimf.experiment import assembly, plugin
from recbole_eimf.semantic import export, needs
from recbole_eimf.semantic.knowledge import Exchange, KnowledgeStage
from recbole_eimf.semantic.pipeline import Interests, Pipeline
from recbole_eimf.semantic.side_load import corpus_of, exchange_of, pipeline_of

#: sources that ask an LLM about the histories at hand
_ASKING = ("openai", "batch")


def interests(
    dataset: str,
    interest_source: str = "keywords",
    output_dir: str | Path | None = None,
    *,
    agreed: bool = False,
    config_file_list: Sequence[str | Path] = (),
    **overrides: Any,
) -> Interests:
    """Cluster the training users by the text of what they bought and get the interests of each cluster's exemplar.

    Args:
        dataset: as in :func:`recbole_eimf.run`.
        interest_source: ``openai``, ``file``, ``batch``, ``keywords`` (no LLM), or a function of your own,
            ``package.module:function``.
        output_dir: where ``interests.jsonl`` and ``assignment.csv.gz`` are written, which a run reads with
            ``interest_source="file"``; None writes none.
        agreed: calls that cost money may be made. ``python -m recbole_eimf interests`` shows their price first.
        config_file_list: YAML files of keys, the later ones stronger.
        overrides: configuration keys; strongest.

    Returns:
        The interests; ``.to_frame()`` has a row per exemplar.

    Raises:
        UserError: bad keys or files, a source that cannot deliver, or calls that nobody agreed to.

    Example:
        >>> import recbole_eimf
        >>> found = recbole_eimf.interests("ml-100k", text_encoder="tfidf-svd", exemplar_ratio=0.01)  # doctest: +SKIP
        >>> found.to_frame()  # doctest: +SKIP
    """
    keys = {**overrides, "interest_source": interest_source, "output_dir": output_dir and str(output_dir)}
    pipeline, seed = training_pipeline(dataset, [str(path) for path in config_file_list], keys)
    if output_dir:  # before anything is paid for
        check_writable(Path(output_dir), "output_dir", make=False)
        export.check_not_over(Path(output_dir), pipeline.settings, "output_dir")
    found = pipeline.run(seed=seed, agreed=agreed)
    if output_dir:
        export.write_replies(Path(output_dir), found)
    return found


def training_pipeline(
    dataset: str,
    files: list[str] | None,
    overrides: Mapping[str, Any],
    check: Callable[[SemanticSettings], None] | None = None,
) -> tuple[Pipeline, int]:
    """The stages of ESIM over a data set's training part, none of them run yet, and the configuration's seed.

    They are those that a run of ``model`` (EIMF by default) with its ``recipe`` asks for. ``check`` looks at the
    source's keys before any data are loaded (None: :func:`~recbole_eimf.semantic.needs.check_interest_source`).
    """
    plugin.adapt_recbole()
    values = dict(overrides)
    model = values.pop("model", "EIMF")  # with its recipe it decides what the clusters are
    config = EIMFConfig(model, dataset, files, {"state": "WARNING", **values})
    if contract_of(config.model_class).needs_side_information(config) != "interests":
        raise ConfigError(f"model={model} reads no interests of users as it is set here. Leave model out: EIMF does.")
    config.data_told = True  # nothing is ranked here: what a history's mask would leave out is no matter
    settings = keys.read(SemanticSettings, config)
    needs.check_interest_source(settings, dataset) if check is None else check(settings)
    needs.check_text(config)
    needs.check_text_encoder(settings)
    # the training part alone is wanted here, not the side information that is about to be made
    train, valid, _ = LazySequenceDataset(config).build()
    if settings.interest_source in _ASKING:
        _warn_of_ties(config, valid)
    return pipeline_of(config, train), config["seed"]


def _warn_of_ties(config, valid: LazySequenceDataset) -> None:
    """Say where replies are about to be asked that a table, which shuffles ties, could not use.

    Under ``leave_one_out`` the order inside a time decides what is held out; elsewhere no cut runs through a time.
    """
    if config["ties"] != "source" or config["protocol"] != "leave_one_out" or valid.moment is None:
        return
    cut = int(valid.tied_targets(np.arange(len(valid))).sum())
    if cut:
        getLogger().warning(
            f"ties=source: {cut:,} of {len(valid):,} users have the item that validation holds out at one time with "
            f"the last that trains. Tables shuffle ties, and do not use replies that name what is held out there: for "
            f"a table, ask with --ties=shuffle."
        )


def knowledge_stage(
    dataset: str, files: list[str] | None, overrides: Mapping[str, Any], check: Callable[[SemanticSettings], None]
) -> tuple[KnowledgeStage, Exchange]:
    """The stage that asks about items, and among which the placebo exchanges what is known.

    ``check`` looks at the source's keys before any data are loaded.
    """
    plugin.adapt_recbole()
    for key in ("model", "recipe"):
        if key in overrides:
            raise ConfigError(f"{key}={overrides[key]}: items are asked about alike for every model. Leave {key} out.")
    # a run's file may be given: what it says of the run's model says nothing here
    said = read_files(files)
    if not {**said, **overrides}.get("allow_unknown_keys"):
        check_keys(said, said_in={key: path for path in files or () for key in read_yaml(path)})
    said, given = concerning("IBIM", said), concerning("IBIM", overrides)
    config = EIMFConfig("IBIM", dataset, [said], {"state": "WARNING", **given})
    config.data_told = True  # nothing is ranked here
    settings = keys.read(SemanticSettings, config)
    check(settings)
    needs.check_text(config)
    _, parts = assembly.datasets(config)
    stage = KnowledgeStage(corpus_of(config, parts[0]).item_text, settings, dataset)
    return stage, exchange_of(config, parts[0])
