"""The texts in what a language model wrote, whatever form it gave them.

Models are asked for JSON and send much else: fences, prose, lists, objects in objects, half an object. What is plainly
there is found here; what of it is an interest, :mod:`recbole_eimf.semantic.llm.reply` decides.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import json_repair

from recbole_eimf.semantic.refusal import denies, is_error_object

_MAX_JSON_STARTS = 50
# json_repair takes quadratic time in the number of brackets
_MAX_REPAIRED_BRACKETS = 1000
_MAX_DEPTH = 12

# Words that JSON keys are made of, best first: for the text of one interest, and for a collection of interests.
_TEXT_WORDS = tuple(
    re.findall(r"\w+", "interest content preference description name title text topic theme category label value")
)
_COLLECTION_WORDS = ("interests", "preferences", "contents", "topics", "categories", "themes")
# ... and for what is said about an interest or the user. "Office products" is no such key: not all its words are here.
_OTHER_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
        id ids index no number num rank order sequence score confidence weight probability strength level count
        frequency evidence items item examples example products product reason reasons reasoning rationale explanation
        analysis summary overall note notes source sources user asin asins keywords tags status error message related
        supporting relevant dislike dislikes disliked
        """,
    )
)
# ... of which these count or own: in "interest sequence number", which is how the prompt says it, an interest may stand
_COUNTING_WORDS = frozenset({"id", "index", "no", "number", "num", "rank", "order", "sequence", "user"})
# Keys of what answers are wrapped in, which are never interests themselves.
_ENVELOPE_WORDS = frozenset(re.findall(r"\w+", "data result results response output answer reply success ok done"))
_KNOWN_WORDS = _OTHER_WORDS.union(_TEXT_WORDS, _COLLECTION_WORDS)
_NUMBER = r"[\"'(\[]?\d{1,3}[\"')\]]?"
# Runs are bounded where neighbours may take the same characters: of a line of 16,000 stars, which a model that runs
# away writes, every division would be tried, for half a minute in which no other reply is read.
_SPACES, _MARKS = r"[ \t]{0,20}", r"[\"'*_]{0,9}"
_NUMBERED_LINE = re.compile(
    rf"^[ \t]*(?:[-*•#>]{{1,9}}{_SPACES})?{_MARKS}"
    rf"(?:(?:interest|preference|兴趣|偏好){_SPACES}#?{_SPACES}(?:{_NUMBER})?|{_NUMBER})"
    rf"{_MARKS}{_SPACES}(?:[.:)：、．]|-[ \t])[*_]{{0,9}}[ \t]*(?P<text>\S.*)$",
    re.IGNORECASE | re.MULTILINE,
)
_BULLET_LINE = re.compile(r"^[ \t]*[-*•][ \t]+(?P<text>\S.*)$", re.MULTILINE)
_TABLE_LINE = re.compile(r"^[ \t]*\|[ \t]*\d{1,3}[ \t.]*\|(?P<text>[^|\n]{1,500})(?:\||$)", re.MULTILINE)
_BRACKET = re.compile(r"[{\[]")
# JSON that an editor's autocorrection has passed through
_CURLED = re.compile(r"[{\[]\s*[“”]")
_STRAIGHT = str.maketrans({"“": '"', "”": '"'})
_JSON_START = re.compile(r"\[\s*(?:[\"'{\[]|\Z)|\{\s*(?:[\"'{\[]|[\w ]{1,40}:|\Z)")
_KEY_AT_END = re.compile(r'([{,]\s*)(?:"(?:[^"\\]|\\.)*"(?:\s*:)?|\w[\w ]*:)\Z')
_FENCE = re.compile(r"```[\w-]*[ \t]*\n?(.*?)(?:```|\Z)", re.DOTALL)


def unquoted(text: str) -> str:
    """Undo double encoding: a reply that is one JSON string holding the JSON."""
    if text.startswith('"'):
        try:
            value = json.loads(text)
        except ValueError:
            return text
        return value if isinstance(value, str) else text
    return text


def texts_in(text: str, truncated: bool) -> Iterator[str]:
    """Yield the texts that may be interests: from JSON if there is any, else from numbered or bulleted lines or the
    numbered rows of a table."""
    if _CURLED.search(text):
        text = text.translate(_STRAIGHT)
    for readings in (json_values(text), repaired_values(text)):
        found = [string for value in readings if not is_error_object(value) for string in _strings(value)]
        if found:
            yield from _denial(text[: _BRACKET.search(text).start()])
            yield from found
            return
    yield from _lines(text, truncated)


def _denial(text: str) -> list[str]:
    """The text before interests if it says that there are none: what follows is an example or a list of reasons."""
    return [text] if denies(text) else []


def _lines(text: str, truncated: bool) -> list[str]:
    for pattern in (_NUMBERED_LINE, _BULLET_LINE, _TABLE_LINE):
        found = list(pattern.finditer(text))
        if found:
            # the model ran out of tokens within this line, unless a full stop or a line break came first
            cut = truncated and found[-1].end() == len(text) and not text.endswith((".", "!", '"', ";"))
            return _denial(text[: found[0].start()]) + [match["text"] for match in (found[:-1] if cut else found)]
    return []


def json_values(text: str) -> Iterator[Any]:
    """Yield every valid JSON object or list of the text, wherever it starts (prose and fences are skipped)."""
    decoder = json.JSONDecoder(object_pairs_hook=_object)
    position = 0
    for _ in range(_MAX_JSON_STARTS):
        start = _BRACKET.search(text, position)
        if not start:
            return
        try:
            value, position = decoder.raw_decode(text, start.start())
            yield value
        except (ValueError, RecursionError):
            # the outermost opening decides: what is inside a broken object is left to the repair
            if _is_json_like(text, start.start()):
                return
            position = start.end()


def repaired_values(text: str) -> Iterator[Any]:
    """Yield what json_repair makes of each fenced block, or else of the text from where JSON seems to start."""
    regions = [block for block in _FENCE.findall(text) if _BRACKET.search(block)] or [text]
    for region in regions:
        start = next((m.start() for m in _BRACKET.finditer(region) if _is_json_like(region, m.start())), None)
        if start is None or region.count("{") + region.count("[") > _MAX_REPAIRED_BRACKETS:
            continue
        try:
            repaired = json_repair.loads(_without_cut_string(region[start:].strip()), skip_json_loads=True)
        except Exception:  # whatever it raises (AssertionError, IndexError, ...), the reply cannot be read this way
            continue
        yield repaired


def _is_json_like(text: str, start: int) -> bool:
    """Say whether the bracket at ``start`` opens JSON, if perhaps broken, rather than a remark in brackets."""
    return bool(_JSON_START.match(text, start))


def _object(pairs: list[tuple[str, Any]]) -> Any:
    """Build a JSON object; one that repeats a key, as in {"interest": "a", "interest": "b"}, becomes a list."""
    as_dict = dict(pairs)
    return as_dict if len(as_dict) == len(pairs) else [{key: value} for key, value in pairs]


def _without_cut_string(text: str) -> str:
    """Cut JSON text before a string that it ends in the middle of, and before a key that has no value yet."""
    opened: int | None = None
    escaped = False
    brackets: list[str] = []
    for index, character in enumerate(text):
        if opened is not None and escaped:
            escaped = False
        elif opened is not None and character == "\\":
            escaped = True
        elif character == '"':
            opened = index if opened is None else None
        elif opened is None and character in "{[":
            brackets.append(character)
        elif opened is None and character in "}]" and brackets:
            brackets.pop()
    if opened is not None:
        # an open string that ends in a closing bracket has lost its quote, not its end
        if text[opened:].rstrip("`\n ").endswith(("}", "]")):
            return text
        text = text[:opened]
    if brackets[-1:] == ["{"]:
        text = _KEY_AT_END.sub(r"\1", text.rstrip())
    return text


def _strings(value: Any, depth: int = 0) -> Iterator[str]:
    """Yield the interest texts in a JSON value, in order."""
    if depth > _MAX_DEPTH:
        return
    if isinstance(value, str):
        yield from _inner_strings(value, depth)
    elif isinstance(value, list):
        for element in value:
            yield from _strings(element, depth + 1)
    elif isinstance(value, Mapping):
        yield from _object_strings(value, depth)


def _inner_strings(text: str, depth: int) -> Iterator[str]:
    """Yield a string, or its parts if it is itself a JSON text or a numbered list."""
    if text.lstrip().startswith(("{", "[")):
        inner = [string for value in json_values(text.strip()) for string in _strings(value, depth + 1)]
        if inner:
            yield from inner
            return
    numbered = [match["text"] for match in _NUMBERED_LINE.finditer(text)] if "\n" in text.strip() else []
    yield from numbered if len(numbered) > 1 else [text]


def unwrapped(value: Mapping[str, Any]) -> Any:
    """What an object holds that is no answer itself: nothing of the form that was asked for, sent back, and what a tool
    is called with, named after the form. An answer is returned as it is."""
    if "$schema" in value or value.get("type") == "object" and "properties" in value:
        return {}
    for key in ("arguments", "parameters"):
        if set(value) == {"name", key}:
            return value[key]
    return value


def _object_strings(value: Mapping[str, Any], depth: int) -> Iterator[str]:
    inner = unwrapped(value)
    if inner is not value:
        yield from _strings(inner, depth + 1)
        return
    words = {key: key_words(key) for key in value}
    plain = {key: w for key, w in words.items() if w and _KNOWN_WORDS.issuperset(w)}
    for word in _COLLECTION_WORDS:
        for key in plain:
            if words[key][-1] == word and value[key]:
                yield from _strings(value[key], depth + 1)
                return
    # {"id": 1, "interest": ..., "evidence": [...]} is one interest; with a number in a key, "interest 1" counts
    if not any(character.isdigit() for key in value for character in key):
        for word in _TEXT_WORDS:
            for key in plain:
                if words[key][-1] == word and value[key]:
                    yield from _strings(value[key], depth + 1)
                    return
    nothing = True
    for key, inner in value.items():
        if key in plain and words[key][-1] in _OTHER_WORDS:
            continue
        found = list(_strings(inner, depth + 1))
        is_said_to_be = not isinstance(inner, str) and inner is not None and inner is not False
        if not found and key not in plain and is_said_to_be and not _ENVELOPE_WORDS.issuperset(words[key]):
            # {"Nail art": 0.9} and {"Nail art": {"evidence": [...]}}: the key is the interest
            found = [key]
        nothing = nothing and not found
        yield from found
    if nothing:
        yield from _counted(value, words, depth)


def _counted(value: Mapping[str, Any], words: Mapping[str, list[str]], depth: int) -> Iterator[str]:
    """Yield the texts under keys that only count or own, where an object has no other: {"user": {"interests": [...]}},
    and {"interest sequence number": [...]} or {"interest sequence number 1": "..."}, in the prompt's own words."""
    for key, inner in value.items():
        if not words[key] or words[key][-1] not in _COUNTING_WORDS or not _KNOWN_WORDS.issuperset(words[key]):
            continue
        if isinstance(inner, Mapping | list) or words[key][0] in ("interest", "preference"):
            yield from _strings(inner, depth + 1)


def key_words(key: str) -> list[str]:
    """Split a JSON key into lower-case words without digits.

    >>> key_words("interestContent_2"), key_words("1"), key_words("Sequence number")
    (['interest', 'content'], [], ['sequence', 'number'])
    """
    return re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", key).casefold())
