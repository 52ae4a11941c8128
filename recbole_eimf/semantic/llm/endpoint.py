"""One OpenAI-compatible endpoint: its settings, and a call that survives what passes.

Retries, and what an endpoint turns out not to know, are dealt with here and nowhere else (the client's own retries are
off).
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import json
import logging
import math
import random
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from recbole_eimf.config.parts import check_part, of_key
from recbole_eimf.core.errors import InterestSourceError
from recbole_eimf.core.files import encodable
from recbole_eimf.core.parts import require
from recbole_eimf.semantic.llm.access import Secret, addresses_unlogged, check_way_out, key_place, shown_url, way_to

logger = logging.getLogger(__name__)

# Back-off before retry n: a random 50 to 100 % of this times 2^n, at most the longest.
BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 30.0
# An endpoint that asks for a longer wait (a daily quota) is not waited for.
LONGEST_RETRY_AFTER_SECONDS = 300.0
_RETRIED_STATUS = frozenset({408, 409, 425, 429})
# 400s that are about one prompt, not about the set-up: the other prompts go on
_PROMPT_ERRORS = frozenset({"contentfilter", "contentpolicyviolation", "datainspectionfailed", "contextlengthexceeded",
                            "invalidprompt", "stringabovemaxlength"})  # fmt: skip
_ABOUT_PROMPT = re.compile(r"context (length|window)|prompt is too long|(content|prompt) .{0,40}flagged", re.I)
# Every endpoint words its refusals in its own way. One that has answered before is not set up wrongly: what it refuses
# now is the prompt, until so many in a row are refused.
REFUSED_IN_A_ROW = 10
_ABOUT_FORMAT = re.compile(r"response_format|json_schema|json_object|json mode|structured output|word 'json'", re.I)
# of a certificate that nobody known has signed, which no retry mends
_UNTRUSTED = "certificate"
# A model that wants no temperature says so in its provider's words; one that wants another is the user's to give it.
_UNWANTED = (
    r"(support|deprecat|not (permitted|allowed|accepted|available|recognized)|unrecognized|unexpected|unknown|"
    r"extra (input|field|param)|only .{0,20}default|cannot be (set|used|specified|changed)|incompatible|"
    r"(does(n't| not)|do not) (accept|take|allow)|remove|omit)"
)
_NO_TEMPERATURE = re.compile(rf"\btemperature\b.{{0,80}}{_UNWANTED}|{_UNWANTED}.{{0,80}}\btemperature\b", re.I | re.S)
_JSON_OBJECT = {"type": "json_object"}
# the paper's shape, "interest sequence number: interest content", for endpoints that know schemas only
_JSON_SCHEMA = {
    "type": "json_schema",
    "json_schema": {"name": "interests", "schema": {"type": "object", "additionalProperties": {"type": "string"}}},
}


@dataclass(frozen=True)
class OpenAISettings:
    """How to ask an OpenAI-compatible endpoint.

    ``base_url`` None leaves it to the client (``OPENAI_BASE_URL``, else OpenAI). The key is read from
    ``api_key_file`` if given, else from the environment variable ``api_key_env``. ``timeout`` is in seconds per
    call, prices in USD per million tokens. ``temperature`` None is not sent. ``structured`` asks for JSON with
    ``response_format``: "on" insists, "auto" goes without if the endpoint does not know it, "off" never asks. A run
    stops when not one of the first ``check_first`` replies holds an interest (0: it never does). ``model_alias`` is
    what answers call the model, beside ``model``.
    Raises ConfigError for a value that cannot work, under the name of the configuration key.
    """

    model: str = of_key("llm_model")
    base_url: str | None = of_key("llm_base_url")
    api_key_env: str = of_key("llm_api_key_env")
    api_key_file: str | None = of_key("llm_api_key_file")
    concurrency: int = of_key("llm_concurrency")
    max_retries: int = of_key("llm_max_retries")
    timeout: float = of_key("llm_timeout")
    temperature: float | None = of_key("llm_temperature")
    max_tokens: int = of_key("llm_max_tokens")
    structured: Literal["auto", "on", "off"] = of_key("llm_structured")
    price_in: float | None = of_key("llm_price_in")
    price_out: float | None = of_key("llm_price_out")
    max_interests: int = of_key("max_interests")
    check_first: int = of_key("llm_check_first")
    model_alias: str | None = of_key("llm_model_alias")

    def __post_init__(self) -> None:
        check_part(self)


class GaveUpError(Exception):
    """One prompt's retries are used up, or its endpoint will not answer this prompt.

    endpoint_down: it may be down; unreachable: nothing could be sent, so that the prompt has no part in it.
    """

    def __init__(self, message: str, endpoint_down: bool, unreachable: bool = False):
        super().__init__(message)
        self.endpoint_down, self.unreachable = endpoint_down, unreachable


class StoppedError(Exception):
    """The run is being stopped: do not try again."""


@dataclass
class _Dialect:
    """What of the request this endpoint has been found to accept."""

    formats: list[dict | None] = field(default_factory=list)
    tokens_key: str = "max_tokens"
    temperature: float | None = None


@dataclass(frozen=True)
class Completion:
    """A reply with status 200: a chat completion (``body``), or something else (``problem`` says what)."""

    content: bytes
    body: dict[str, Any] | None
    problem: str = ""

    @property
    def raw(self) -> str:
        """The reply as it came; bytes that are not UTF-8 as escapes."""
        return self.content.decode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class _Problem:
    """Why a call brought no completion."""

    text: str
    status: int | None = None
    code: str = ""
    retry_after: float | None = None
    param: str = ""
    unreachable: bool = False

    @property
    def passing(self) -> bool:
        return self.code not in ("insufficient_quota", _UNTRUSTED) and (
            self.status is None or self.status in _RETRIED_STATUS or self.status >= 500
        )

    @property
    def refused(self) -> bool:
        """Whether the endpoint does not take what it was sent, be it the prompt or the way it is asked."""
        return self.status in (400, 413, 422)

    @property
    def no_temperature(self) -> bool:
        """Whether a model wants no temperature, which is not the same as another one (``must be at most 1``)."""
        if self.about_prompt or self.param not in ("", "temperature"):
            return False
        return _NO_TEMPERATURE.search(f"{self.param} {self.code} {self.text}") is not None

    @property
    def about_prompt(self) -> bool:
        named = self.code.lower().replace("_", "") in _PROMPT_ERRORS
        return self.refused and (named or _ABOUT_PROMPT.search(self.text) is not None)


class Endpoint:
    """Chat completions from one endpoint, for use within one event loop.

    ``stopping``, once set, lets calls in flight end but starts no retry. ``settled`` is set when the first call has
    shown which request the endpoint accepts. ``answered_before``: an earlier run had replies of this model.
    """

    def __init__(self, settings: OpenAISettings, key: Secret, answered_before: bool = False):
        # imported late: a second that runs without an endpoint need not spend
        require("openai")
        import openai

        self.openai, self.settings, self.key = openai, settings, key
        formats = {"auto": [_JSON_OBJECT, _JSON_SCHEMA, None], "on": [_JSON_OBJECT, _JSON_SCHEMA], "off": [None]}
        self.dialect = _Dialect(formats[settings.structured], temperature=settings.temperature)
        self.random = random.Random()  # its own: back-off must not disturb a seeded experiment
        self.stopping, self.settled = asyncio.Event(), asyncio.Event()
        addresses_unlogged()
        self.known_to_chat = False  # whether a chat completion has ever come from it
        self.closed_until = 0.0  # by the event loop's clock: when the wait that the endpoint asked for is over
        self.answered_before, self.refused_in_a_row = answered_before, 0
        self.client: Any = None
        check_way_out()  # what is wrong with the environment would end in the same types as a malformed URL
        try:
            self.client = openai.AsyncOpenAI(
                api_key=key.reveal(), base_url=settings.base_url, timeout=settings.timeout, max_retries=0
            )
            self.base_url = shown_url(str(self.client.base_url))
        except Exception as error:  # a malformed URL, in as many types as there are HTTP libraries
            self.base_url = type(error).__name__
        if not self.base_url.startswith(("http://", "https://")):
            said = f"llm_base_url {shown_url(settings.base_url)!r}" if settings.base_url else "OPENAI_BASE_URL"
            raise InterestSourceError(
                f"{said} is not a URL such as https://host/v1 ({self.base_url}, model {settings.model})."
            )

    async def close(self) -> None:
        await self.client.close()

    async def complete(self, messages: list[dict]) -> Completion:
        """Return one chat completion, or, with a problem, what an endpoint of chat completions sent in its place.

        Raises GaveUpError when the retries are used up or the endpoint rejects this one prompt, StoppedError instead of
        a retry while stopping, InterestSourceError for whatever would fail every other prompt too: a wait that is
        longer than anybody waits is one of these.
        """
        retries = 0
        while True:
            await self._gate()
            options = self._options(messages)
            outcome = await self._call(options)
            if isinstance(outcome, Completion):
                self.settled.set()
                self.refused_in_a_row = 0
                return outcome
            if outcome.status in (400, 422) and self._adapt(options, outcome):
                continue
            about_prompt = self._about_prompt(outcome)
            if not outcome.passing and not about_prompt:
                self.stopping.set()  # before the other workers wake up to make the same call
                raise self._fatal(outcome, options)
            self.settled.set()
            if about_prompt:
                raise GaveUpError(f"The endpoint rejects this prompt: {outcome.text}", endpoint_down=False)
            if (outcome.retry_after or 0) > LONGEST_RETRY_AFTER_SECONDS:  # of every other prompt too
                self.stopping.set()
                raise self.error(
                    f"{outcome.text} (asks to wait {outcome.retry_after:.0f} s, too long to be waited for)",
                    f"Run the same command again in {outcome.retry_after / 60 + 0.49:,.0f} minutes: what has arrived "
                    f"is kept and not paid for again.",
                )
            if retries >= self.settings.max_retries:
                wait = f", asks to wait {outcome.retry_after:.0f} s" if outcome.retry_after else ""
                raise GaveUpError(f"{outcome.text} ({retries + 1} tries{wait})", True, outcome.unreachable)
            await self._back_off(retries, outcome)
            retries += 1

    def _about_prompt(self, problem: _Problem) -> bool:
        """Whether an answer says that this one prompt is not taken, so that the others may be."""
        if problem.about_prompt:
            return True
        if not problem.refused or not (self.known_to_chat or self.answered_before):
            return False
        self.refused_in_a_row += 1
        return self.refused_in_a_row <= REFUSED_IN_A_ROW

    async def _call(self, options: dict[str, Any]) -> Completion | _Problem:
        """Make one call; what goes wrong is returned as text, without the exception: that holds the request."""
        openai = self.openai
        try:
            # post, not chat.completions.create: that spends a third of the call on typed copies of what goes in and
            # comes out, and endpoints that are only nearly compatible do not fit its types. Bytes: what comes is paid
            # for, and kept, also where it is not JSON.
            call = self.client.post("/chat/completions", cast_to=bytes, body=options)
            content = await asyncio.wait_for(call, self.settings.timeout)
        except (asyncio.TimeoutError, openai.APITimeoutError):
            return _Problem(f"no answer within {self.settings.timeout:g} s")
        except openai.APIStatusError as error:
            text = self.key.scrub(_server_message(error.body) or str(error))[:500]
            retry_after = _retry_after(error.response.headers)
            code, param = str(error.code or ""), str(error.param or "")
            return _Problem(f"HTTP {error.status_code}: {text}", error.status_code, code, retry_after, param)
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            text = self.key.scrub(f"no connection ({type(cause).__name__}: {cause}{way_to(self.base_url)})")[:500]
            untrusted = "CERTIFICATE_VERIFY_FAILED" in text
            return _Problem(text, code=_UNTRUSTED * untrusted, unreachable=type(cause).__name__ == "ConnectError")
        except openai.OpenAIError as error:
            return _Problem(self.key.scrub(f"{type(error).__name__}: {error}")[:500])
        return self._read(content)

    def _read(self, content: bytes) -> Completion | _Problem:
        """Tell a chat completion from an error, a damaged one, and from what comes from another kind of address."""
        try:
            body = json.loads(content)
        except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, a number of 5,000 digits; 1,000 brackets
            body, problem = None, f"not JSON ({type(error).__name__})"
            # a web page is what a wrong address serves
            may_be_damaged = not content.lstrip().startswith(b"<")
        else:
            problem = "no chat completion"
            may_be_damaged = isinstance(body, dict) and "choices" in body
        if isinstance(body, dict):
            if isinstance(body.get("choices"), list) and (body["choices"] or not body.get("error")):
                self.known_to_chat = True
                return Completion(content, body)
            error = body.get("error")
            if error and isinstance(error, dict | str):  # some gateways send an error with status 200
                code = error.get("code") if isinstance(error, dict) else None
                text = self.key.scrub(_server_message(body) or "")[:500]
                status = code if isinstance(code, int) and 400 <= code < 600 else None
                return _Problem(f"error in the reply: {text}", status, str(code) if isinstance(code, str | int) else "")
        if self.known_to_chat or may_be_damaged:
            return Completion(content, None, problem)
        shown = self.key.scrub(content[:400].decode("utf-8", "replace"))[:80]
        return _Problem(f"not a chat completion but {shown!r}; does llm_base_url end in /v1?", 200)

    async def _back_off(self, retries: int, problem: _Problem) -> None:
        delay = min(BACKOFF_SECONDS * 2**retries, LONGEST_BACKOFF_SECONDS) * self.random.uniform(0.5, 1)
        if problem.retry_after is not None:
            # the jitter stays: all who were turned away were told the same moment
            delay = problem.retry_after + min(delay, 1.0)
            self.closed_until = max(self.closed_until, asyncio.get_running_loop().time() + problem.retry_after)
        logger.debug("%s; trying again in %.1f s", problem.text, delay)
        await self._pause(delay)

    async def _gate(self) -> None:
        """Wait while the endpoint has asked anybody to wait: calls made meanwhile would only be turned away, and many
        an endpoint lengthens the wait for them. All go on at moments of their own. Raises StoppedError if the run is
        being stopped: what an endpoint did not know is not asked in other words then."""
        if self.stopping.is_set():
            raise StoppedError
        while (left := self.closed_until - asyncio.get_running_loop().time()) > 0:
            await self._pause(left + min(BACKOFF_SECONDS * self.random.uniform(0.5, 1), 1.0))

    async def _pause(self, delay: float) -> None:
        """Wait for seconds. Raises StoppedError if the run is being stopped meanwhile."""
        try:
            await asyncio.wait_for(self.stopping.wait(), delay)
        except asyncio.TimeoutError:
            return
        raise StoppedError

    def _options(self, messages: list[dict]) -> dict[str, Any]:
        dialect = self.dialect
        options = {"model": self.settings.model, "messages": messages, dialect.tokens_key: self.settings.max_tokens}
        if dialect.temperature is not None:
            options["temperature"] = dialect.temperature
        if dialect.formats[0] is not None:
            options["response_format"] = dialect.formats[0]
        return options

    def _adapt(self, options: dict[str, Any], problem: _Problem) -> bool:
        """Learn from a 400 what the endpoint does not know; True if the call is worth making again."""
        dialect, text = self.dialect, problem.text
        if "response_format" in options and _ABOUT_FORMAT.search(text):
            if dialect.formats[0] is options["response_format"]:
                if len(dialect.formats) == 1:
                    return False
                logger.info("%s does not take response_format %s", self.base_url, dialect.formats[0]["type"])
                dialect.formats = dialect.formats[1:]
        elif "max_tokens" in options and "max_completion_tokens" in text:
            dialect.tokens_key = "max_completion_tokens"
        elif "temperature" in options and problem.no_temperature:
            if dialect.temperature is not None:
                logger.warning("model %s takes no temperature; asking without", self.settings.model)
            dialect.temperature = None
        else:
            return False
        return True

    def _fatal(self, problem: _Problem, options: dict[str, Any]) -> InterestSourceError:
        place = key_place(self.settings)
        if problem.status in (401, 403):
            remedy = f"Check the key in {place}, and that it may use this model."
        elif problem.status == 404:
            remedy = f"Check llm_model and that llm_base_url is the API's root (key from {place})."
        elif problem.code == "insufficient_quota":
            remedy = f"The account of the key in {place} is out of credit."
        elif problem.code == _UNTRUSTED:
            remedy = "Name the certificate of who signed the server's: SSL_CERT_FILE=/path/to/ca.pem"
        else:
            remedy = f"The endpoint does not accept the request (key from {place})."
            if "response_format" in options:
                remedy += " If it does not know response_format, set llm_structured: off."
        return self.error(problem.text, remedy)

    def error(self, text: str, remedy: str) -> InterestSourceError:
        said = text if text.endswith(("?", "!")) else f"{text.rstrip('.')}."  # an endpoint's words may end a sentence
        return InterestSourceError(f"endpoint {self.base_url}, model {self.settings.model}: {said} {remedy}")


def _server_message(body: Any) -> str | None:
    """Return the endpoint's own words out of an error body, which the client may have unwrapped."""
    if isinstance(body, dict):
        inner = body.get("error", body)
        body = inner.get("message") or json.dumps(inner) if isinstance(inner, dict) else inner
    return encodable(str(body)) if body else None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of a Retry-After header (a number or an HTTP date), or None.

    >>> _retry_after({"retry-after": "1.5"})
    1.5
    """
    milliseconds, value = headers.get("retry-after-ms"), headers.get("retry-after")
    for number, unit in ((milliseconds, 1000), (value, 1)):
        with contextlib.suppress(TypeError, ValueError):
            seconds = float(number) / unit
            if math.isfinite(seconds):  # "inf" and "nan" are floats to Python, and no wait
                return max(0.0, seconds)
    with contextlib.suppress(TypeError, ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return None
