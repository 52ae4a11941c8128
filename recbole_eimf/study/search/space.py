"""What a search draws from: a file of one entry per setting, checked before anything runs.

A space is YAML, a key and one of five forms in each entry::

    learning_rate: {log: [3.0e-4, 1.0e-2]}      # a number, uniform in its logarithm
    hidden_dropout_prob: {uniform: [0.1, 0.7]}  # a number
    n_layers: {int: [1, 3]}                     # a whole number, both ends included
    item_text: {choice: [none, add, concat]}    # one of these
    beta: {rest: [0.5, alpha]}                  # what the entry alpha leaves of 0.5

RecBole's ``.hyper`` files are read too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recbole_eimf.config.config import check_keys
from recbole_eimf.config.keys import our_keys
from recbole_eimf.config.layers import merged, properties_folder, recipe_layers
from recbole_eimf.config.models import MODELS, backbone_lineage
from recbole_eimf.config.same import known_keys
from recbole_eimf.config.yaml_file import parse_value, read_yaml
from recbole_eimf.core.errors import ConfigError, DataError, suggestion

KINDS = ("log", "uniform", "int", "choice", "rest")
_FORMS = "{log: [low, high]}, {uniform: [low, high]}, {int: [low, high]}, {choice: [a, b, ...]} or {rest: [sum, key]}"
_WRITE = f"Write one as --space=FILE.yaml, a line per key: {_FORMS}."
_A_START = "strong"  # the recipe that is no form of a paper's but where a search begins
_TRIES = 100  # draws of one trial before a space counts as used up


@dataclass(frozen=True)
class Dimension:
    """One setting of a space: ``kind`` is one of KINDS; ``values`` its two bounds, the choices, or a sum and the key
    that has the other part of it."""

    kind: str
    values: tuple[Any, ...]

    @property
    def drawn(self) -> bool:
        """Whether it has a value of its own, not what another leaves."""
        return self.kind != "rest"

    def left_by(self, other: float) -> float:
        """Of the sum of a ``rest``, what the value of the other key leaves."""
        return float(f"{self.values[0] - other:.4g}")

    def draw(self, generator: np.random.Generator) -> Any:
        """A plain value (JSON and YAML take it); numbers have four digits, which is what anyone would write down."""
        if self.kind == "choice":
            return self.values[int(generator.integers(len(self.values)))]
        low, high = self.values
        if self.kind == "int":
            return int(generator.integers(low, high + 1))
        if self.kind == "log":
            value = math.exp(generator.uniform(math.log(low), math.log(high)))
        else:
            value = generator.uniform(low, high)
        return min(max(float(f"{value:.4g}"), float(low)), float(high))


Space = dict[str, Dimension]


class AllFixedError(ConfigError):
    """A recipe fixes every key that is searched of its model."""


def read_space(path: str | Path) -> Space:
    """Read a space from YAML, or from one of RecBole's ``.hyper`` files.

    Raises:
        ConfigError: naming the file, the key and the value.
    """
    path = Path(path)
    space = _read_hyper(path) if path.suffix == ".hyper" else _read_yaml_space(path)
    try:
        check_keys({key: list(dimension.values) for key, dimension in space.items()})
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    for key, dimension in space.items():
        _check_values(f"{path}: {key}", key, dimension)
        if not dimension.drawn and not ((other := space.get(dimension.values[1])) and other.drawn):
            raise ConfigError(
                f"{path}: {key}: rest: {dimension.values[1]!r} is not a key with a range of its own in this file."
            )
    return space


def _check_values(where: str, key: str, dimension: Dimension) -> None:
    """Hold what may be drawn against the key, so that no trial fails on it hours later."""
    known = known_keys().get(key)
    if known is None or not dimension.drawn:
        return
    try:
        for value in dimension.values:
            known.check(value)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    if dimension.kind in ("log", "uniform"):
        low, high = dimension.values
        try:
            known.check(math.nextafter(high, low))
        except ConfigError as error:
            raise ConfigError(f"{where}: {dimension.kind}: {key} takes whole numbers. Write int or choice.") from error


def text_ways(config: Mapping[str, Any]) -> dict[str, str]:
    """How text joins the item vectors of a configuration: the keys of ours that say so, by name; empty without text."""
    way = config["item_text"]
    if way in (None, "none"):
        return {}
    _, *read_by = our_keys()["text_adaptor"].switch
    adapted = way in read_by
    return {"item_text": way} | ({"text_adaptor": config["text_adaptor"]} if adapted else {})


def shipped_space(
    model: str, backbone: str | None, recipe: str | None = None, ways: Mapping[str, str] | None = None
) -> Space:
    """The shipped space: the backbone's entries (``properties/tune/<backbone>.yaml``), those of every network of ours
    over a backbone (``network.yaml``), then the model's own and those of its ``ways`` of text in item vectors
    (:func:`text_ways`; ``item_text-codes.yaml``): AlphaFuse, VQ-Rec and UniSRec are a backbone with such keys.

    What a published form fixes (``recipe=paper``, ``published``, ...) is not searched: the row would be called what it
    is not. A recipe that has a space of its own (``<model>-<recipe>.yaml``) is searched in that alone.

    Raises:
        AllFixedError: the recipe fixes all that stands in these files.
        ConfigError: there are none.
    """
    folder = properties_folder() / "tune"
    if recipe and (own := folder / f"{model}-{recipe}.yaml").is_file():
        return read_space(own)
    lineage = backbone_lineage(backbone) if backbone else []
    parts = [_shipped(folder, name) for name in lineage]
    if lineage and model in MODELS and model not in lineage and "floor" not in MODELS[model].family:
        parts.append(_shipped(folder, "network"))
    parts.append(_shipped(folder, model))
    parts += [_shipped(folder, f"{key}-{value}") for key, value in (ways or {}).items()]
    every = {key: entry for part in parts for key, entry in part.items()}
    fixed = merged(recipe_layers([model], recipe, lineage)) if recipe not in (None, _A_START) else {}
    space = {key: entry for key, entry in every.items() if key not in fixed}
    if every and not space:
        raise AllFixedError(f"recipe={recipe} fixes all that is searched of {model}: {', '.join(every)}. {_WRITE}")
    if not space:
        raise ConfigError(f"no search space is shipped for {model}. {_WRITE}")
    return space


def _shipped(folder: Path, name: str) -> Space:
    path = folder / f"{name}.yaml"
    return read_space(path) if path.is_file() else {}


def fitted(space: Space, fixed: Mapping[str, Any], base: Mapping[str, Any]) -> Space:
    """A space without the keys that are ``fixed``; of two that share a sum, the other one follows the fixed one.

    Args:
        base: the configuration as it stands.
    """
    left = {key: dimension for key, dimension in space.items() if key not in fixed}
    for key, dimension in space.items():
        if dimension.drawn:
            continue
        other = dimension.values[1]
        if key in fixed and other in left:
            left[other] = Dimension("choice", (dimension.left_by(base[key]),))
        elif key in left and other not in left:
            left[key] = Dimension("choice", (dimension.left_by(base[other]),))
    return left


def draw_settings(
    space: Space, samples: int, seed: int, first: Mapping[str, Any], second: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """The settings of every trial.

    The first trial is the configuration as it stands, so that a search never ends below what one had. Trial n depends
    on the space, the seed and n alone: more samples later keep the earlier ones.

    Args:
        space: what to draw from.
        samples: number of trials; a space of choices may hold fewer.
        seed: of the draws.
        first: values of the first trial.
        second: of the second trial, in place of a draw.

    Returns:
        Up to ``samples`` dictionaries, no two alike.
    """
    chosen = [dict(first)]
    if second is not None and samples > 1 and identity(second) != identity(first):
        chosen.append(dict(second))
    known = {identity(settings) for settings in chosen}
    for number in range(len(chosen), samples):
        generator = np.random.default_rng([seed, number])
        for _ in range(_TRIES):
            drawn = {key: dimension.draw(generator) for key, dimension in space.items() if dimension.drawn}
            left = {key: d.left_by(drawn[d.values[1]]) for key, d in space.items() if not d.drawn}
            drawn = {key: left.get(key, drawn.get(key)) for key in space}
            if identity(drawn) not in known:
                known.add(identity(drawn))
                chosen.append(drawn)
                break
        else:
            break
    return chosen


def identity(settings: Mapping[str, Any]) -> str:
    """What two trials' settings have in common if they are the same."""
    return json.dumps(settings, sort_keys=True)


# ---------------------------------------------------------------------- YAML
def _read_yaml_space(path: Path) -> Space:
    return {str(key): _dimension(f"{path}: {key}", entry) for key, entry in read_yaml(path).items()}


def _dimension(where: str, entry: Any) -> Dimension:
    if not isinstance(entry, dict) or len(entry) != 1:
        raise ConfigError(f"{where}: {entry!r} is not a range; write {_FORMS}.")
    ((kind, values),) = entry.items()
    if kind not in KINDS:
        raise ConfigError(f"{where}: no form {kind!r}.{suggestion(str(kind), KINDS)} Write {_FORMS}.")
    if not isinstance(values, list):
        raise ConfigError(f"{where}: {kind}: {values!r} is not a list; write {_FORMS}.")
    return _checked(where, kind, values)


def _checked(where: str, kind: str, values: list[Any]) -> Dimension:
    if kind == "choice":
        if not values:
            raise ConfigError(f"{where}: choice: [] leaves nothing to choose from.")
        return Dimension(kind, tuple(values))
    if kind == "rest":
        number = len(values) == 2 and isinstance(values[0], int | float) and not isinstance(values[0], bool)
        if not number or not math.isfinite(values[0]) or not isinstance(values[1], str):
            raise ConfigError(f"{where}: rest: {values!r} needs a number and the key that has the other part of it.")
        return Dimension(kind, tuple(values))
    wanted = int if kind == "int" else (int, float)
    fits = len(values) == 2 and all(isinstance(v, wanted) and not isinstance(v, bool) for v in values)
    if not fits or not values[0] < values[1] or not all(map(math.isfinite, values)):
        number = "whole number" if kind == "int" else "number"
        raise ConfigError(f"{where}: {kind}: {values!r} needs a lower and a higher {number}.")
    if kind == "log" and values[0] <= 0:
        raise ConfigError(f"{where}: log: {values!r} needs bounds above 0.")
    return Dimension(kind, tuple(values))


# ---------------------------------------------------------------------- RecBole's .hyper
def _read_hyper(path: Path) -> Space:
    """Lines ``key choice [a,b]``, ``key uniform low,high``, ``key quniform low,high,step``, ``key loguniform a,b``.

    As for RecBole's HyperTuning, the bounds of ``loguniform`` are natural logarithms.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text ({error}).") from error
    space: Space = {}
    for number, line in enumerate(lines, start=1):
        words = line.split(maxsplit=2)
        if not words or words[0].startswith("#"):
            continue
        where = f"{path}, line {number}: {words[0]}"
        if len(words) < 3:
            raise ConfigError(f"{where}: write `key choice|uniform|quniform|loguniform values`.")
        if words[0] in space:
            raise ConfigError(f"{path}, line {number}: key {words[0]!r} is given twice. Keep one.")
        space[words[0]] = _hyper_dimension(where, words[1], parse_value(words[2]))
    if not space:
        raise DataError(f"{path}: holds no settings.")
    return space


def _hyper_dimension(where: str, kind: str, values: Any) -> Dimension:
    values = list(values) if isinstance(values, list | tuple) else [values]
    if kind in ("choice", "uniform"):
        return _checked(where, kind, values)
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        raise ConfigError(f"{where}: {kind} {values!r} needs numbers.")
    if kind == "loguniform":
        try:
            return _checked(where, "log", [math.exp(v) for v in values])
        except OverflowError as error:
            raise ConfigError(f"{where}: loguniform {values!r}: its bounds are natural logarithms.") from error
    if kind != "quniform":
        known = ("choice", "uniform", "quniform", "loguniform")
        raise ConfigError(f"{where}: no form {kind!r}.{suggestion(kind, known)}")
    if len(values) != 3 or values[2] <= 0 or values[0] >= values[1]:
        raise ConfigError(f"{where}: quniform {values!r} needs low, high and a step above 0.")
    low, high, step = values
    steps = range(math.floor((high - low) / step + 1e-9) + 1)
    return Dimension("choice", tuple(float(f"{low + step * n:.10g}") for n in steps))
