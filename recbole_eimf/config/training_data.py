"""Which settings decide a run's training data, for whoever is to have the same: what an export of replies records."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_eimf.config.keys import our_keys
from recbole_eimf.config.layers import merged, our_layers, recbole_layers
from recbole_eimf.config.models import load_model_class
from recbole_eimf.config.same import CONTENT, TRAINING, known_keys
from recbole_eimf.config.same_experiment import digest


@dataclass(frozen=True)
class TrainingKeys:
    """Keys of :data:`~recbole_eimf.config.same.TRAINING`, as JSON values; a file by a digest of its content.

    values: all of them, as they are; usual: what they are where nobody says anything, of EIMF on this data set.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    usual: Mapping[str, Any] = field(default_factory=dict)

    def recorded(self) -> dict[str, Any]:
        """Those that had a part in it: not the quantiles of a split by users, nor seeds by which nothing was drawn."""
        return {key: value for key, value in self.values.items() if key not in self._idle()}

    def to_give(self) -> dict[str, Any]:
        """Of the recorded ones, those that one has to give to have the same training data."""
        return {key: value for key, value in self.recorded().items() if value != self.usual.get(key)}

    def differing(self, recorded: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Key -> (value there, value here) where what was recorded elsewhere is not so here.

        >>> TrainingKeys({"ties": "source", "ties_seed": 1}).differing({"ties": "shuffle", "gone": 3})
        {'ties': ('shuffle', 'source')}
        """
        pairs = {key: (value, self.values[key]) for key, value in recorded.items() if key in self.values}
        return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}

    def _idle(self) -> set[str]:
        told = self.values
        protocol, catalogue = told.get("protocol"), known_keys()
        idle = {key for key in told if catalogue[key].protocol not in (None, protocol)}
        if told.get("ties") == "source":
            idle.add("ties_seed")
        if told.get("split_file"):
            idle.add("split_ratios")
        if told.get("time_dates"):
            idle.add("time_quantiles")
        by_users = protocol == "user_split" and not told.get("split_file")
        if not by_users and told.get("train_share") == 1:
            idle.add("split_seed")
        return idle


def training_keys(config) -> TrainingKeys:
    """What decides the training data of a configuration."""
    usual = usual_settings(config["dataset"])
    return TrainingKeys(
        {key: _plain(key, config[key]) for key in TRAINING}, {key: _plain(key, usual.get(key)) for key in TRAINING}
    )


def usual_settings(dataset: str) -> dict[str, Any]:
    """All keys of EIMF on a data set where a user says nothing."""
    model = load_model_class("EIMF")
    return merged([*recbole_layers(model, "EIMF", dataset), *our_layers(model, "EIMF", dataset, {})])


def _plain(key: str, value: Any) -> Any:
    """A value as JSON has it, whichever way it was typed."""
    if key in CONTENT:
        return value and digest(Path(value))
    if key in our_keys() and value is not None:
        value = our_keys()[key].check(value)
    return json.loads(json.dumps(value, default=str))


def as_words(values: Mapping[str, Any]) -> list[str]:
    """Settings as one types them in a shell; of a file, whose name stays where it was, its key in capitals.

    >>> as_words({"ties": "shuffle", "user_inter_num_interval": "[5,inf)", "split_file": "0a1b", "time_dates": [1, 2]})
    ['--ties=shuffle', "'--user_inter_num_interval=[5,inf)'", '--split_file=SPLIT_FILE', "'--time_dates=[1, 2]'"]
    """
    return [shlex.quote(f"--{key}={_typed(key, value)}") for key, value in values.items()]


def _typed(key: str, value: Any) -> str:
    return key.upper() if key in CONTENT and value else value if isinstance(value, str) else repr(value)


def training_data_in_words(differing: Mapping[str, tuple[Any, Any]]) -> str:
    """What a message says of :meth:`TrainingKeys.differing`.

    >>> training_data_in_words({"ties": ("shuffle", "source"), "split_file": ("0a1b", None)})
    'ties=shuffle there, ties=source here; split_file is a file of other content, or there is one on one side alone'
    """
    return "; ".join(
        f"{key} is a file of other content, or there is one on one side alone"
        if key in CONTENT
        else f"{key}={pair[0]} there, {key}={pair[1]} here"
        for key, pair in differing.items()
    )
