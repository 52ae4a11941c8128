"""What takes a model's claim away and leaves all else: the keys of each placebo, and which one is a model's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole.utils import ModelType

from recbole_eimf.config.contract import contract_of
from recbole_eimf.config.keys import our_keys
from recbole_eimf.config.maker import is_marked
from recbole_eimf.core.errors import ConfigError

#: name, as tables have it -> keys
PLACEBOS: Mapping[str, Mapping[str, Any]] = {
    "shuffled_text": {"text_source": "shuffled"},
    "noise_text": {"text_source": "noise"},
    "shuffled_knowledge": {"knowledge_source": "shuffled"},
    "shuffled_history": {"shuffled_history": True},
    "shuffled_interests": {"interest_source": "shuffled"},
}
#: key of a placebo -> what it takes away
_TAKEN: Mapping[str, str] = {
    "interest_source": "interests of users",
    "knowledge_source": "an LLM's knowledge of items",
    "text_source": "item text",
    "shuffled_history": "the order of a history",
}
#: those that take away nothing that is read beside the interactions
_OF_INTERACTIONS = ("shuffled_history",)
#: key of a source that may be "shuffled" -> key that says what is shuffled then
SHUFFLED: Mapping[str, str] = {"interest_source": "shuffled_source", "knowledge_source": "shuffled_knowledge"}


def read_shuffled(side_load: Mapping[str, Any] | None) -> bool:
    """Whether interests or knowledge that a run read were shuffled, if only by whoever wrote the file.

    >>> read_shuffled({"source": "shuffled file"}), read_shuffled({"knowledge": {"source": "file"}})
    (True, False)
    """
    told = side_load or {}
    return any(is_marked(each.get("source", "")) for each in (told, told.get("knowledge") or {}))


def is_placebo(keys: Mapping[str, Any]) -> bool:
    """Whether a row's keys shuffle interests, texts, knowledge or histories, or make noise of texts.

    >>> is_placebo({"text_source": "noise"}), is_placebo({"use_interests": False})
    (True, False)
    """
    return any(keys.get(key) == value for each in PLACEBOS.values() for key, value in each.items())


def was_placebo(keys: Mapping[str, Any], side_load: Mapping[str, Any] | None) -> bool:
    """Whether something that a run's model read was shuffled, by the run or by whoever wrote the file.

    A backbone beside a placebo has that one's keys, and reads nothing of what they shuffle.

    Args:
        keys: its settings; side_load: what its result says was read beside the interactions, None where nothing was.

    >>> was_placebo({"text_source": "shuffled"}, {}), was_placebo({"text_source": "shuffled"}, None)
    (True, False)
    >>> was_placebo({"shuffled_history": True}, None), was_placebo({}, {"source": "shuffled file"})
    (True, True)
    """
    read = [key for key in _TAKEN if side_load is not None or key in _OF_INTERACTIONS]
    return read_shuffled(side_load) or any(is_placebo({key: keys.get(key)}) for key in read)


def reads(config) -> tuple[str, ...]:
    """What a configuration's model reads, of what a placebo can take away: the keys of :data:`_TAKEN`."""
    asked = contract_of(config.model_class)
    need = asked.needs_side_information(config)
    by_profile = config["item_text_source"] != "title" or (
        need == "interests" and config["interest_match"] != "item_text"
    )
    general = getattr(config.model_class, "type", None) in (ModelType.GENERAL, ModelType.TRADITIONAL)
    found = {
        "interest_source": need == "interests",
        "knowledge_source": asked.needs_next_items(config) or (need is not None and by_profile),
        "text_source": asked.reads_item_text(config),
        "shuffled_history": asked.reads_order and not general,
    }
    return tuple(key for key, is_read in found.items() if is_read)


def idle(config, keys: Mapping[str, Any]) -> list[str]:
    """Those of ``keys`` that would shuffle what the configuration's model does not read."""
    shuffling = [key for key in _TAKEN if is_placebo({key: keys.get(key)})]
    return [key for key in shuffling if key not in reads(config)] if shuffling else []


def check_placebo(config, keys: Mapping[str, Any]) -> None:
    """Refuse a placebo that is its model as it is, and a way to draw one where none is. Raises ConfigError naming key
    and value, and what the model reads.

    Args:
        keys: that were given to the configuration.
    """
    for key in idle(config, keys):
        known = " and ".join(_TAKEN[each] for each in reads(config)) or "nothing that a placebo shuffles"
        raise ConfigError(
            f"{key}={keys[key]}: {config['model']} does not read {_TAKEN[key]} as it is set here: nothing would be "
            f"taken away. It reads {known}. Leave {key} out, or set what makes the model read it."
        )
    beside = our_keys()["compare_with"].check(config["compare_with"])
    placebo = "placebo" in beside and own_placebo(config) == "shuffled_interests"
    check_draw(keys.get("placebo_draw"), placebo or config["interest_source"] == "shuffled")


def check_draw(draw: str | None, shuffled: bool) -> None:
    """Refuse another ``placebo_draw`` than the default where no interests are shuffled: it would be ignored.

    Raises:
        ConfigError: naming key, value and remedy.
    """
    if draw not in (None, our_keys()["placebo_draw"].default) and not shuffled:
        raise ConfigError(
            f"placebo_draw={draw}: says how a placebo's interests are drawn, and no interests are shuffled here. Add "
            f"--interest_source=shuffled, a row shuffled_interests[...] of a table or, beside a run of EIMF, "
            f"--compare_with=[placebo]; or leave it out."
        )


def own_placebo(config) -> str | None:
    """The name among ``PLACEBOS`` of what takes away what a configuration's model claims to gain by.

    That is an LLM's words where it reads some, else item text; None where it reads neither.
    """
    claims = {"interest_source": "shuffled_interests", "knowledge_source": "shuffled_knowledge",
              "text_source": "shuffled_text"}  # fmt: skip
    known = reads(config)
    return next((name for key, name in claims.items() if key in known), None)
