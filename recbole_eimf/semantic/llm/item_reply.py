"""What a language model knows of an item: a profile, and what its buyers buy next.

The reply is wanted as ``{"kind": ..., "profile": ..., "next": [...]}``. Any texts beside the list are the profile's
parts (kind, use, buyer, occasion), in the order they come, but for what is about the answer (an id, reasons, how sure
the model is); fences, prose, cut ends and other names of the list are read as those of interests are
(:mod:`recbole_eimf.semantic.llm.reply`). An answer in several objects is put together, a list that came as one text is
taken apart, and without any JSON lines with labels are read (``Kind: pen``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recbole_eimf.core.files import encodable
from recbole_eimf.semantic.llm.prompt import MAX_TITLE_CHARACTERS, PromptRequest
from recbole_eimf.semantic.llm.reply import ReplyError
from recbole_eimf.semantic.llm.reply_texts import json_values, key_words, repaired_values, unquoted, unwrapped
from recbole_eimf.semantic.refusal import is_error_object, refused

ITEM = "{item}"
_FOLLOWS = re.compile(r"next|follow(s|ing|ups?)?|then|after(wards?)?|also|complement(s|ary)?|together")
_NAMES = {"known", "called", "named"}  # "also known as"
_NOT_TOLD = re.compile(
    r"(item[ _]?)?id|asin|error|message|status|title|rank|score|confidence|certainty|probability|reasoning|rationale|"
    r"explanation|analysis|thinking",
    re.IGNORECASE,
)
#: beside what is bought next: {"product": "ink", "reason": "it runs out"}
_BESIDE = re.compile(r"reasons?|why|because|price", re.IGNORECASE)
_BETWEEN = re.compile(r"\s*\n\s*|\s*[;；]\s*"), re.compile(r"\s*[,，、]\s*")  # of a list that is one text, best first
_BULLET = re.compile(r"^(?:[-*•]|#?\d{1,2}[.):、])\s+")
#: "- **Kind:** pen", where what is asked for is labelled and no JSON
_LABELLED = re.compile(
    r"^[ \t]{0,20}(?:[-*•#>]{1,9}[ \t]{0,20})?[*_\"']{0,3}(?P<label>[A-Za-z][\w /-]{0,30})[*_\"']{0,3}[ \t]{0,20}[:：]"
    r"[*_]{0,3}[ \t]{0,20}(?P<text>.*)$"
)
_PARTS = {"kind", "profile", "use", "uses", "usage", "buyer", "buyers", "occasion", "occasions"}
_FORM = 'Answer with one JSON object only: {"kind": "...", "profile": "...", "next": ["...", "..."]}.'
_LONGEST = 100_000
_DEEPEST = 12  # of lists and objects in each other


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
    for values in (json_values(text), repaired_values(text), _labelled(text, truncated)):
        parts, follows, others = _answer(values)
        kinds += others
        if "refusal" in kinds:
            break
        if parts or follows:
            return [". ".join(part.rstrip(".") for part in parts), *follows[:most]]
    alone = refused(text[:1000]) if not kinds and any(map(str.isalpha, text[:1000])) else None
    kinds = [alone] if alone else kinds
    kind = "refusal" if "refusal" in kinds else (kinds or ["no interests"])[0]
    raise ReplyError(f"Nothing about the item found. {_FORM} The reply began with {text[:80]!r}.", truncated, kind)


def _answer(values: Iterable[Any]) -> tuple[list[str], list[str], list[str]]:
    """As :func:`_sorted_texts`, of the first object that is a whole answer, or else of all of them put together."""
    parts: dict[str, None] = {}
    follows: dict[str, str] = {}
    kinds: list[str] = []
    for each in _objects(values):
        told, listed, others = _sorted_texts(each)
        kinds += others
        if told and listed:
            return told, listed, kinds
        parts |= dict.fromkeys(told)
        follows = {text.casefold(): text for text in listed} | follows
    return list(parts), list(follows.values()), kinds


def _objects(values: Iterable[Any], depth: int = 0) -> Iterator[Mapping[str, Any]]:
    """The objects that values are or hold, those in lists and what a tool is called with (also as JSON in a text)."""
    for value in values:
        inner = unwrapped(value) if isinstance(value, Mapping) else value
        if isinstance(inner, Mapping):
            yield inner
        elif depth < _DEEPEST and isinstance(inner, list):
            yield from _objects(inner, depth + 1)
        elif depth < _DEEPEST and isinstance(inner, str) and inner is not value:
            yield from _objects(json_values(inner), depth + 1)


def _sorted_texts(value: Mapping[str, Any]) -> tuple[list[str], list[str], list[str]]:
    """(texts about the item, what is bought next, the kinds of what is neither) of an object; texts are distinct."""
    if is_error_object(value):
        return [], [], ["error object"]
    parts: list[str] = []
    kinds: list[str] = []
    follows: dict[str, str] = {}
    for inner, of_list in _told(value):
        clean = " ".join(encodable(inner).split()).strip("\"'`*;• ")
        clean = _BULLET.sub("", clean) if of_list else clean
        kind = refused(clean) if any(map(str.isalpha, clean)) else "placeholder"
        if kind:
            kinds.append(kind)
        elif of_list:
            follows.setdefault(clean.casefold(), clean)
        elif clean not in parts:
            parts.append(clean)
    return parts, list(follows.values()), kinds


def _told(value: Mapping[str, Any], follows: bool = False, depth: int = 0) -> Iterator[tuple[str, bool]]:
    """(text, whether it stands in the list of what is bought next) of an object's texts, in order."""
    if depth > _DEEPEST:
        return
    for key, inner in value.items():
        listed = follows or _names_the_list(key)
        if isinstance(inner, Mapping):
            yield from _told(inner, listed, depth + 1)
        elif not (_NOT_TOLD.fullmatch(key) or follows and _BESIDE.fullmatch(key)):
            alone = listed and not follows and isinstance(inner, str)
            yield from ((text, listed) for text in (_taken_apart(inner) if alone else _texts(inner, depth + 1)))


def _names_the_list(key: str) -> bool:
    words = key_words(key)
    return not _NAMES.intersection(words) and any(map(_FOLLOWS.fullmatch, words))


def _taken_apart(text: str) -> list[str]:
    """The items of a list that is one text: its lines, or what stands between semicolons, or commas."""
    for between in _BETWEEN:
        if len(found := [part for part in between.split(text) if part]) > 1:
            return found
    return [text]


def _texts(value: Any, depth: int) -> Iterator[str]:
    """The texts of a list, one of each object in it: of {"rank": "1", "product": "ink", "reason": ...} the product."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list) and depth <= _DEEPEST:
        for each in value:
            if isinstance(each, Mapping):
                yield next((text for text, _ in _told(each, True, depth + 1) if any(map(str.isalpha, text))), "")
            else:
                yield from _texts(each, depth + 1)


def _labelled(text: str, truncated: bool) -> Iterator[Mapping[str, Any]]:
    """One object of the lines that say what they are, and of those below a label that has nothing behind it."""
    lines = text.splitlines()
    found: dict[str, str | list[str]] = {}
    below: list[str] | None = None
    for line in lines[: len(lines) - truncated]:  # the last one is cut off
        match = _LABELLED.match(line)
        label = match["label"] if match else ""
        if _PARTS.intersection(key_words(label)) or _names_the_list(label):
            below = None if match["text"].strip() else []
            found[label] = match["text"] if below is None else below
        elif below is not None and line.strip():
            below.append(line.strip())
    if found and refused(text[:1000]) != "refusal":
        yield found
