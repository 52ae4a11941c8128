"""What a language model knows of an item: a profile, and what its buyers buy next.

The reply is wanted as ``{"kind": ..., "profile": ..., "next": [...]}``. Any texts beside the list are the profile's
parts (kind, use, buyer, occasion), in the order they come; fences, prose, cut ends and other names of the list are
read as those of interests are (:mod:`recbole_eimf.semantic.llm.reply`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recbole_eimf.core.files import encodable
from recbole_eimf.semantic.llm.prompt import MAX_TITLE_CHARACTERS, PromptRequest
from recbole_eimf.semantic.llm.reply import ReplyError
from recbole_eimf.semantic.llm.reply_texts import json_values, key_words, repaired_values, unquoted
from recbole_eimf.semantic.refusal import is_error_object, refused

ITEM = "{item}"
_FOLLOWS = re.compile(r"next|follow(s|ing|ups?)?|then|after(wards?)?|also|complement(s|ary)?|together")
_NAMES = {"known", "called", "named"}  # "also known as"
_NOT_TOLD = re.compile(r"^(id|item_?id|asin|error|message|status|title)$", re.IGNORECASE)
_FORM = 'Answer with one JSON object only: {"kind": "...", "profile": "...", "next": ["...", "..."]}.'
_LONGEST = 100_000


@dataclass(frozen=True)
class ItemKnowledge:
    """profile: kind, use, buyer and occasion in a few words, "" where the reply has none; next: kinds of products that
    buyers of the item buy next, most likely first."""

    profile: str
    next: tuple[str, ...]

    @classmethod
    def of_texts(cls, texts: Sequence[str]) -> ItemKnowledge:
        """From what :func:`parse_item` gives."""
        return cls(texts[0], tuple(texts[1:]))


def item_prompt(item: str, title: str, template: str) -> PromptRequest:
    """The question about one item, named by its title and id.

    >>> item_prompt("B01", "Red\\npen", "About {item}: what?").prompt
    'About [Red pen (B01)]: what?'
    """
    shown = f"[{' '.join(title.splitlines())[:MAX_TITLE_CHARACTERS] or 'untitled'} ({item})]"
    return PromptRequest(item, template.replace(ITEM, shown))


def parse_item(response: str, most: int = 20, *, truncated: bool = False) -> list[str]:
    """Return ``[profile, next, next, ...]`` of a raw reply, at most ``most`` texts after the profile, distinct.

    A refusal, a placeholder or an error object is none. Raises ReplyError, worded as a complaint to the model.

    >>> parse_item('Here: {"kind": "stapler", "profile": "for offices", "next": ["staples", "Staples", "tape"]}')
    ['stapler. for offices', 'staples', 'tape']
    """
    text = unquoted(response[:_LONGEST].rsplit("</think>", 1)[-1].strip())
    if text.startswith("<think>"):  # drafts of the answer may stand in it
        raise ReplyError(f"The reply ends before its thinking does, so it holds no answer. {_FORM}", truncated)
    kinds: list[str] = []  # of what stands in the place of an answer
    for value in _objects(text):
        parts, follows, others = _sorted_texts(value)
        kinds += others
        if parts or follows:
            if "refusal" in kinds:
                break
            return [". ".join(part.rstrip(".") for part in parts), *follows[:most]]
    alone = refused(text[:1000]) if not kinds and any(map(str.isalpha, text[:1000])) else None
    kinds = [alone] if alone else kinds
    kind = "refusal" if "refusal" in kinds else (kinds or ["no interests"])[0]
    raise ReplyError(f"Nothing about the item found. {_FORM} The reply began with {text[:80]!r}.", truncated, kind)


def _sorted_texts(value: Mapping[str, Any]) -> tuple[list[str], list[str], list[str]]:
    """(texts about the item, what is bought next, the kinds of what is neither) of an object; texts are distinct."""
    if is_error_object(value):
        return [], [], ["error object"]
    parts: list[str] = []
    kinds: list[str] = []
    follows: dict[str, str] = {}
    for inner, of_list in _told(value):
        clean = " ".join(encodable(inner).split()).strip("\"'`*;• ")
        kind = refused(clean) if any(map(str.isalpha, clean)) else "placeholder"
        if kind:
            kinds.append(kind)
        elif of_list:
            follows.setdefault(clean.casefold(), clean)
        elif clean not in parts:
            parts.append(clean)
    return parts, list(follows.values()), kinds


def _objects(text: str) -> Iterator[Mapping[str, Any]]:
    for readings in (json_values(text), repaired_values(text)):
        for value in readings:
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, Mapping):
                    yield each


def _told(value: Mapping[str, Any], follows: bool = False) -> Iterator[tuple[str, bool]]:
    """(text, whether it stands in the list of what is bought next) of an object's texts, in order."""
    for key, inner in value.items():
        words = key_words(key)
        listed = follows or not _NAMES.intersection(words) and any(map(_FOLLOWS.fullmatch, words))
        if isinstance(inner, Mapping):
            yield from _told(inner, listed)
        elif not _NOT_TOLD.match(key):
            yield from ((text, listed) for text in _texts(inner))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            if isinstance(each, Mapping):
                yield next((inner for inner in each.values() if isinstance(inner, str)), "")
            elif isinstance(each, str):
                yield each
