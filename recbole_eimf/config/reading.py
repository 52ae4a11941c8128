"""Which keys of ours a model can read at all: what is given beyond them would be ignored without a word.

The parts of the catalogue that a model reads stand at its card (:attr:`recbole_eimf.config.models.ModelCard.parts`).
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import recbole

from recbole_eimf.config import keys
from recbole_eimf.config.contract import is_ours
from recbole_eimf.config.key import OF_MODEL, keys_of
from recbole_eimf.config.models import BACKBONES, MODELS
from recbole_eimf.config.placebo import is_placebo
from recbole_eimf.config.same import CONTENT, INDIFFERENT
from recbole_eimf.config.yaml_file import read_shipped
from recbole_eimf.core.errors import ConfigError

#: parts that every run reads
EVERY_RUN = ("RunSettings", "DataSettings")
#: parts that a model reads where its other keys ask for text or an LLM: they may be given to any
_WHERE_ASKED = ("TextSettings", "SemanticSettings")
#: keys whose own checks say more (:func:`recbole_eimf.config.checks.check_backbone`)
_CHECKED_ELSEWHERE = ("backbone",)


def parts_read(model_class: type) -> tuple[str, ...] | None:
    """The parts of the catalogue that a model reads, but for :data:`EVERY_RUN` and those of text and LLM; None: it is
    somebody's own and may read any."""
    card = MODELS.get(model_class.__name__)
    if card is not None and model_class.__module__ == card.module:
        return card.parts
    return None if is_ours(model_class) or not _of_recbole(model_class) else ()


def _of_recbole(model_class: type) -> bool:
    return model_class.__module__.startswith("recbole.")


def recbole_defaults(model: str) -> dict[str, Any]:
    """What RecBole's own YAML says of one of its models; empty where there is none."""
    path = Path(recbole.__file__).parent / "properties" / "model" / f"{model}.yaml"
    return read_shipped(path) if path.is_file() else {}


@cache
def keys_beyond(model_class: type, parts: Collection[str]) -> frozenset[str]:
    """The keys of ours, and those of earlier versions, that a model which reads these parts does not read.

    One of RecBole's reads those, too, that its source or its YAML file names.
    """
    known = {each.name for part in keys.ALL_SETTINGS if part.__name__ in parts for each in keys_of(part)}
    every = {*keys.our_keys(), *(gone for gone, part in keys.RETIRED.items() if part.__name__ not in parts)}
    return frozenset(every - known - (_named_in_source(model_class) if _of_recbole(model_class) else set()))


def _named_in_source(model_class: type) -> set[str]:
    """The words in quotes where a model of RecBole is written, and the keys of its YAML file: neither names all."""
    modules = {cls.__module__ for cls in model_class.__mro__ if cls.__module__.startswith("recbole.")}
    text = "\n".join(inspect.getsource(sys.modules[name]) for name in modules)
    return {*re.findall(r"""["'](\w+)["']""", text), *recbole_defaults(model_class.__name__)}


def ignored(model_class: type, given: Mapping[str, Any]) -> list[str]:
    """The keys of ours among ``given`` that ask for other figures and that a model's class never reads.

    To give a default is no wish, and what only says where or how the work is done may be given to every model.
    """
    parts = parts_read(model_class)
    if parts is None:
        return []
    beyond = keys_beyond(model_class, (*parts, *EVERY_RUN, *_WHERE_ASKED))
    return [name for name in given if name in beyond and _is_wish(name, given[name])]


def _is_wish(name: str, value: Any) -> bool:
    known = keys.our_keys().get(name)
    if known is None or value is None or name in _CHECKED_ELSEWHERE or name in INDIFFERENT or is_placebo({name: value}):
        return False
    return known.default is OF_MODEL or known.check(value) != known.default


def check_read(model_class: type, given: Mapping[str, Any]) -> None:
    """Refuse keys that a model would ignore. Raises ConfigError naming key, value and what reads it."""
    for name in ignored(model_class, given):
        model = model_class.__name__
        readers = [card.name for card in MODELS.values() if name in _read_by(card.name)]
        if _of_recbole(model_class):
            what = f"model={model} is RecBole's class and does not read it"
            if model in BACKBONES and "IBIM" in readers:
                what += f"; ours, which does, is --model=IBIM --backbone={model}"
        else:
            what = f"model={model} does not read it"
        more = ", ..." if len(readers) > 4 else ""
        raise ConfigError(
            f"{name}={given[name]}: {what}. Leave it out, or train a model that reads it: "
            f"{', '.join(readers[:4])}{more}."
        )


def switched_off(model_class: type, given: Mapping[str, Any], final: Mapping[str, Any] | Any) -> dict[str, str]:
    """Keys among ``given`` that ask for something while the key that has them read does not: each with what would.

    ``--text_adaptor=moe`` without ``--item_text=add`` trains a plain backbone. Towers join text by their fusion.

    Args:
        final: the whole configuration.
    """
    every, found = keys.our_keys(), {}
    towers = "PADSettings" in (parts_read(model_class) or ())
    for name in given:
        known = every.get(name)
        if known is None or not known.switch or not _is_wish(name, given[name]):
            continue
        switch, *values = known.switch
        on = final[switch] in values if values else final[switch] != every[switch].default
        if not on and not (towers and switch == "item_text"):
            found[name] = f"{switch}={'|'.join(values)}" if values else switch
    return found


def unasked(unread: Collection[str], given: Mapping[str, Any]) -> list[str]:
    """The keys of text and of an LLM among ``given`` that ask for something and that a model does not read as it is
    configured (``unread``): somebody who names replies beside a backbone alone believes that they took part."""
    parts = [part for part in keys.ALL_SETTINGS if part.__name__ in _WHERE_ASKED]
    own = {each.name for part in parts for each in keys_of(part)} & {*unread}
    return [
        name for name in given if name in own and (_is_wish(name, given[name]) or (name in CONTENT and given[name]))
    ]


@cache
def _read_by(model: str) -> frozenset[str]:
    parts = MODELS[model].parts
    return frozenset(each.name for part in keys.ALL_SETTINGS if part.__name__ in parts for each in keys_of(part))
