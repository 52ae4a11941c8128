"""What a language model answered, and the interests in it (EIMF section 3.2.2, eq. 3).

Models are asked for JSON and send much else: fences, prose, lists, objects in objects, half an object. The parser
takes what is plainly there and refuses the rest with a complaint that can be sent back to the model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import json_repair

from recbole_eimf.core.errors import UserError
from recbole_eimf.core.files import encodable
from recbole_eimf.semantic.refusal import denies, is_error_object, refused

# A reply is a few hundred characters; what is far longer is a run-away model, and costs time to repair.
_MAX_CHARACTERS = 100_000
_MAX_JSON_STARTS = 50
# json_repair takes quadratic time in the number of brackets
_MAX_REPAIRED_BRACKETS = 1000
_MAX_DEPTH = 12
_MOST_TOKENS = 10**9

#: kinds of parts that a message's content may be a list of
_PARTS = ("text", "output_text", "thinking", "reasoning")

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
        supporting relevant
        """,
    )
)
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
# "2. ", "2) ", "Interest 2: " before a text; "3D printing", "24/7 help" and "2.5 mm nails" are texts
_ENUMERATION = re.compile(r"^(?:interest\s*#?\d*\s*[:：]|#?\d{1,3}\s*[.:)：、](?=\s))\s*", re.IGNORECASE)
_BRACKET = re.compile(r"[{\[]")
_JSON_START = re.compile(r"\[\s*(?:[\"'{\[]|\Z)|\{\s*(?:[\"'{\[]|[\w ]{1,40}:|\Z)")
_KEY_AT_END = re.compile(r'([{,]\s*)(?:"(?:[^"\\]|\\.)*"(?:\s*:)?|\w[\w ]*:)\Z')
_FENCE = re.compile(r"```[\w-]*[ \t]*\n?(.*?)(?:```|\Z)", re.DOTALL)


# What a reply may be instead of interests; the keys of the counts in logs and report.json.
FAILURES = (
    "refusal",
    "placeholder",
    "template",
    "error object",
    "no interests",
    "no content",
    "content filter",
    "cut off",
    "malformed",
    "no answer",
)
# ... of which these look like interests to a parser that knows no better
NO_INTERESTS = frozenset({"refusal", "placeholder", "template", "error object"})
_FORM = 'Answer with one JSON object only, such as {"1": "first interest", "2": "second interest"}.'


class ReplyError(UserError):
    """A reply without usable interests; ``kind`` is one of FAILURES.

    ``final`` says that asking the model again cannot help.
    """

    def __init__(self, message: str, final: bool = False, kind: str = "no interests"):
        super().__init__(message)
        self.final, self.kind = final, kind


@dataclass(frozen=True)
class Reply:
    """One exemplar's interests and where they come from.

    ``status`` is "ok" (at least one interest) or "failed" (``error`` says why). ``response`` is the raw reply, None
    where there is none. ``usage`` holds ``prompt_tokens`` and ``completion_tokens`` of all calls this reply took,
    None where no call is known. ``prompt_sha256`` is "" where no prompt was asked or recorded. ``failure`` is the kind
    of a failed reply (one of FAILURES).
    """

    user_id: str
    prompt_sha256: str
    response: str | None
    interests: tuple[str, ...]
    status: Literal["ok", "failed"]
    error: str | None
    usage: dict[str, int] | None
    source: str
    failure: str | None = None


#: reads a raw reply: (response, most texts, truncated=) -> texts. Raises ReplyError.
Parser = Callable[..., list[str]]


def parse_interests(response: str, max_interests: int = 20, *, truncated: bool = False) -> list[str]:
    """Return the distinct interests of a raw reply, in order, at most ``max_interests`` (M of eq. 3).

    Interests are distinct up to case and spaces. A last interest that is visibly cut off is left out; ``truncated``
    tells that the model ran into its token limit, which makes an unfinished last *line* visible too. Placeholders
    ("N/A") among interests are left out; a refusal, an error object or a form that was not filled in is none.
    Raises ReplyError, worded as a complaint to the model, if no interest is found.

    >>> parse_interests('{"1": "Nail art", "2": "Hair care"}')
    ['Nail art', 'Hair care']
    >>> parse_interests('Sure! Here it is:\\n1. Nail art\\n2. nail  art\\n3. Hair care')
    ['Nail art', 'Hair care']
    >>> parse_interests('{"1": "Nail art", "2": "Hair ca')
    ['Nail art']
    """
    # reasoning models print their thoughts before the answer, with drafts of it
    text = response[:_MAX_CHARACTERS].rsplit("</think>", 1)[-1]
    text = unquoted(text.strip())
    if text.startswith("<think>"):
        raise ReplyError("The reply ends before its thinking does, so it holds no interests.", final=truncated)
    distinct: dict[str, str] = {}
    others: list[str] = []  # the kinds of what stands in the place of interests
    for candidate in _candidates(text, truncated):
        clean = _clean(encodable(candidate))
        if not any(character.isalpha() for character in clean):
            continue
        kind = refused(clean)
        if kind:
            others.append(kind)
            # a reply that starts by refusing goes on with reasons and remedies, not with interests
            if kind == "refusal" and not distinct:
                break
        else:
            distinct.setdefault(clean.casefold(), clean)
        if len(distinct) >= max_interests:
            break
    if not distinct or others.count("refusal") > len(distinct):
        raise _without_interests(text, others, truncated)
    return list(distinct.values())


def _without_interests(text: str, others: list[str], truncated: bool) -> ReplyError:
    start = " ".join(text.split())[:80]
    began = f"The reply began with {start!r}."
    if not others and any(map(is_error_object, json_values(text))):
        others = ["error object"]
    alone = refused(text) if not others and any(map(str.isalpha, text[:1000])) else None
    others = [alone] if alone else others
    if "refusal" in others:
        complaint = (
            f"No interests found, but a refusal. The items above are all there is, and a best guess is enough. {_FORM}"
        )
        return ReplyError(f"{complaint} {began}", truncated, "refusal")
    if others:
        what = "an error" if others == ["error object"] else "words that stand for none"
        return ReplyError(f"No interests found, only {what}. {_FORM} {began}", truncated, others[0])
    return ReplyError(f"No interests found. {_FORM} {began}", final=truncated)


def completion_interests(
    completion: Mapping[str, Any], max_interests: int, parse: Parser = parse_interests
) -> list[str]:
    """Return the interests in a chat completion (a JSON object of the OpenAI API), or what ``parse`` reads in its text.

    Raises ReplyError: final for a refusal, a content filter, or a reply cut off before its first interest was
    complete; not final for a reply that merely cannot be parsed.
    """
    message = _choice(completion)[1]
    text, finish_reason = completion_text(completion), completion_finish(completion)
    if message.get("refusal"):
        refusal = message["refusal"]
        refusal = encodable(refusal)[:500] if isinstance(refusal, str) else "it does not say why"
        raise ReplyError(f"The model refused: {refusal}", final=True, kind="refusal")
    if finish_reason == "content_filter":
        raise ReplyError("The endpoint's content filter withheld the reply.", final=True, kind="content filter")
    if text is None and finish_reason != "length":
        kind = "no content" if message else "malformed"
        raise ReplyError(f"The reply has no content (finish_reason {finish_reason!r}).", final=True, kind=kind)
    try:
        return parse(text or "", max_interests, truncated=finish_reason == "length")
    except ReplyError as error:
        if error.final:
            raise ReplyError(
                "The reply was cut off at the token limit before anything in it was complete: raise llm_max_tokens.",
                final=True,
                kind="cut off",
            ) from None
        raise


def completion_text(completion: Mapping[str, Any]) -> str | None:
    """Return the text of a chat completion's first choice, or None.

    Of a list of parts those of text are joined, and a model's thoughts left out; an object or list in place of text, as
    some gateways send it, becomes JSON.
    """
    content = _choice(completion)[1].get("content")
    parts = content if isinstance(content, list) and all(isinstance(part, Mapping) for part in content) else []
    if parts and any("text" in part or part.get("type") in _PARTS for part in parts):
        said = [part.get("text") for part in parts if part.get("type", "text") in ("text", "output_text")]
        content = "".join(text for text in said if isinstance(text, str))
    elif not isinstance(content, str | None):
        try:
            content = json.dumps(content, ensure_ascii=False)
        except RecursionError:
            return None
    return None if content is None else encodable(content)


def completion_finish(completion: Mapping[str, Any]) -> str | None:
    """Return why the model stopped: "stop", "length", "content_filter", ..., or None."""
    reason = _choice(completion)[0].get("finish_reason")
    return encodable(reason)[:100] if isinstance(reason, str) else None


def completion_usage(completion: Mapping[str, Any]) -> dict[str, int] | None:
    """Return ``prompt_tokens`` and ``completion_tokens`` as the endpoint counted them, or None if it did not.

    What is no count (text, a negative or endless number) makes the whole None: the reply is of use all the same.
    """
    usage = completion.get("usage")
    if not isinstance(usage, Mapping):
        return None
    counts = {key: usage.get(key) or 0 for key in ("prompt_tokens", "completion_tokens")}
    if all(isinstance(n, int | float) and 0 <= n <= _MOST_TOKENS for n in counts.values()):
        return {key: int(n) for key, n in counts.items()}
    return None


def reply_from_text(
    user_id: str, prompt_sha256: str, response: str, source: str, max_interests: int, parse: Parser = parse_interests
) -> Reply:
    """Return the Reply for a raw response made elsewhere; one that cannot be parsed is failed, not an error."""
    response = encodable(response)
    try:
        interests = tuple(parse(response, max_interests))
    except ReplyError as error:
        return Reply(user_id, prompt_sha256, response, (), "failed", str(error), None, source, error.kind)
    return Reply(user_id, prompt_sha256, response, interests, "ok", None, None, source)


def _choice(completion: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    choices = completion.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], Mapping) else {}
    message = choice.get("message")
    return choice, message if isinstance(message, Mapping) else {}


def unquoted(text: str) -> str:
    """Undo double encoding: a reply that is one JSON string holding the JSON."""
    if text.startswith('"'):
        try:
            value = json.loads(text)
        except ValueError:
            return text
        return value if isinstance(value, str) else text
    return text


def _candidates(text: str, truncated: bool) -> Iterator[str]:
    """Yield the texts that may be interests: from JSON if there is any, else from numbered or bulleted lines."""
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
    for pattern in (_NUMBERED_LINE, _BULLET_LINE):
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


def _object_strings(value: Mapping[str, Any], depth: int) -> Iterator[str]:
    if "$schema" in value or value.get("type") == "object" and "properties" in value:
        return  # the form that was asked for, sent back
    for key in ("arguments", "parameters"):
        if set(value) == {"name", key}:  # a call of a tool, named after the form
            yield from _strings(value[key], depth + 1)
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
    for key, inner in value.items():
        if key in plain and words[key][-1] in _OTHER_WORDS:
            continue
        found = list(_strings(inner, depth + 1))
        is_said_to_be = not isinstance(inner, str) and inner is not None and inner is not False
        if not found and words[key] and key not in plain and is_said_to_be:
            # {"Nail art": 0.9} and {"Nail art": {"evidence": [...]}}: the key is the interest
            found = [key]
        yield from found


def key_words(key: str) -> list[str]:
    """Split a JSON key into lower-case words without digits.

    >>> key_words("interestContent_2"), key_words("1"), key_words("Sequence number")
    (['interest', 'content'], [], ['sequence', 'number'])
    """
    return re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", key).casefold())


def _clean(text: str) -> str:
    """Return the text on one line without the quotes, bullets, numbers and emphasis around it."""
    text = " ".join(text.split()).strip("\"'`“”,;• ")
    text = _ENUMERATION.sub("", re.sub(r"^[-*•] ", "", text))
    return text.replace("**", "").replace("__", "").strip("\"'`“”,; ")
