"""What a language model answered, and the interests in it (EIMF section 3.2.2, eq. 3).

Of the texts in a reply (:mod:`recbole_eimf.semantic.llm.reply_texts`) the parser takes what is plainly an interest, and
refuses the rest with a complaint that can be sent back to the model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from recbole_eimf.core.errors import UserError
from recbole_eimf.core.files import encodable
from recbole_eimf.semantic.llm.reply_texts import json_values, texts_in, unquoted
from recbole_eimf.semantic.refusal import is_error_object, refused

# A reply is a few hundred characters; what is far longer is a run-away model, and costs time to repair.
_MAX_CHARACTERS = 100_000
_MOST_TOKENS = 10**9

#: kinds of parts that a message's content may be a list of
_PARTS = ("text", "output_text", "thinking", "reasoning")
# "2. ", "2) ", "Interest 2: " before a text; "3D printing", "24/7 help" and "2.5 mm nails" are texts
_ENUMERATION = re.compile(r"^(?:interest(?: content)?\s*#?\d*\s*[:：]|#?\d{1,3}\s*[.:)：、](?=\s))\s*", re.IGNORECASE)

# a NUL in a JSON string is read as one, and no table or database takes it
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

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
    of a failed reply (one of FAILURES). ``raw`` is what the model answered where a file has it beside a ``response``
    that was made of it, as exports do.
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
    raw: str | None = None


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
    for candidate in texts_in(text, truncated):
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


def _clean(text: str) -> str:
    """Return the text on one line without the quotes, bullets, numbers and emphasis around it."""
    text = " ".join(_CONTROL.sub(" ", text).split()).strip("\"'`“”,;• ")
    text = _ENUMERATION.sub("", re.sub(r"^[-*•] ", "", text))
    return text.replace("**", "").replace("__", "").strip("\"'`“”,; ")
