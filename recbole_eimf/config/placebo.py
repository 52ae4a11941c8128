"""What takes a model's claim away and leaves all else: the keys of each placebo, and which one is a model's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole_eimf.config.contract import contract_of
from recbole_eimf.config.models import MODELS

#: name, as tables have it -> keys
PLACEBOS: Mapping[str, Mapping[str, Any]] = {
    "shuffled_text": {"text_source": "shuffled"},
    "noise_text": {"text_source": "noise"},
    "shuffled_knowledge": {"knowledge_source": "shuffled"},
    "shuffled_history": {"shuffled_history": True},
    "shuffled_interests": {"interest_source": "shuffled"},
}
#: key of a source that may be "shuffled" -> key that says what is shuffled then
SHUFFLED: Mapping[str, str] = {"interest_source": "shuffled_source", "knowledge_source": "shuffled_knowledge"}


def is_placebo(keys: Mapping[str, Any]) -> bool:
    """Whether a row's keys shuffle interests, texts, knowledge or histories, or make noise of texts.

    >>> is_placebo({"text_source": "noise"}), is_placebo({"use_interests": False})
    (True, False)
    """
    return any(keys.get(key) == value for each in PLACEBOS.values() for key, value in each.items())


def own_placebo(config) -> str | None:
    """The name among ``PLACEBOS`` of what takes away what a configuration's model claims to gain by.

    That is an LLM's words where it reads some, else item text; None where it reads neither.
    """
    card = MODELS.get(config["model"])
    if card is not None and card.family == "knowledge floor":
        return "shuffled_knowledge"
    asked = contract_of(config.model_class)
    need = asked.needs_side_information(config)
    if need == "interests":
        return "shuffled_interests"
    if asked.needs_next_items(config) or (need and config["item_text_source"] != "title"):
        return "shuffled_knowledge"
    return "shuffled_text" if need else None
