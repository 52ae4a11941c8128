"""What every request passes first: those under another name than the service's end here, and bodies that are too large,
too slow or no JSON; figures are taken."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

from recbole_eimf.serving.http.capacity import Capacity, OverCapacityError
from recbole_eimf.serving.http.metrics import Metrics
from recbole_eimf.serving.http.settings import BODY_SECONDS, MAX_BODY, MAX_READING

#: an answer holds what somebody bought: no cache keeps it; the page may load and ask nothing from elsewhere
SECURITY_HEADERS = (
    (b"content-security-policy", b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
     b"img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)  # fmt: skip
#: what figures call a request whose client went before all of it had come; nothing is sent
CLIENT_WENT = 499
_OTHER_NAME = (
    "asked under the name {!r}, and this service answers under localhost, 127.0.0.1 and the names of --allowed-hosts "
    "(a page of another site could be asking): start it with --allowed-hosts NAME, or let the proxy in front of it "
    "send another Host"
)
_COSTLY = ("/recommend", "/similar")


class Door:
    """ASGI middleware.

    Args:
        paths: that figures are kept of by name; others are one, for anybody can make up paths.
        answers_to: whether a ``Host`` is the service's: see :meth:`Settings.answers_to`.
    """

    def __init__(
        self, app, capacity: Capacity, metrics: Metrics, paths: frozenset[str], answers_to: Callable[[str], bool]
    ) -> None:
        self.app, self.capacity, self.metrics, self.paths = app, capacity, metrics, paths
        self.answers_to = answers_to
        self.reading = 0  # requests whose body is coming

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin, status = time.perf_counter(), 500
        path = scope["path"] if scope["path"] in self.paths else "other"

        async def sending(message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *SECURITY_HEADERS]}
            await send(message)

        self.metrics.under_way.inc()
        try:
            await self._enter(scope, receive, sending)
        except _ClientWentError:
            status = CLIENT_WENT
        finally:
            self.metrics.under_way.dec()
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - begin)
            if status == 503:
                self.metrics.refused.inc()

    async def _enter(self, scope, receive, send) -> None:
        headers = dict(scope["headers"])
        # browsers, the ones to be led astray, always say a Host; a probe in HTTP/1.0 need not
        host = headers.get(b"host", b"").decode("latin-1")
        if host and not self.answers_to(host):
            await _refuse(send, 403, _OTHER_NAME.format(host[:200]))
            return
        if scope["method"] in ("GET", "HEAD"):
            # HEAD asks for what GET would answer, and the server leaves the body out
            await self.app({**scope, "method": "GET"}, receive, send)
            return
        if self.reading >= MAX_READING or (scope["path"] in _COSTLY and self.capacity.full):
            over = OverCapacityError()
            await _refuse(send, 503, str(over), (b"retry-after", str(over.seconds).encode()))
            return
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind != b"application/json" and scope["method"] == "POST" and _has_body(headers):
            # also what keeps a page of another site from asking in a visitor's name
            await _refuse(send, 415, "the body must be JSON: send Content-Type: application/json")
            return
        packed = headers.get(b"content-encoding", b"").strip().lower()
        if packed not in (b"", b"identity"):  # unpacked, a body that is let in may be of any size
            said = (
                f"the body must come as it is, not packed: leave out Content-Encoding: {packed.decode('latin-1')[:40]}"
            )
            await _refuse(send, 415, said, (b"accept-encoding", b"identity"))
            return
        too_large = f"the body may have {MAX_BODY:,} bytes"
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length[:20]) > MAX_BODY:
            await _refuse(send, 413, too_large)
            return
        self.reading += 1
        try:
            body = await asyncio.wait_for(_read(receive), BODY_SECONDS)
        except asyncio.TimeoutError:
            await _refuse(send, 408, f"the body did not come within {BODY_SECONDS:g} s")
            return
        finally:
            self.reading -= 1
        if body is None:
            raise _ClientWentError
        if len(body) > MAX_BODY:
            await _refuse(send, 413, too_large)
            return
        await self.app(scope, _replayed(body, receive), send)


class _ClientWentError(Exception):
    """Nobody is there any more to answer."""


def _has_body(headers: dict[bytes, bytes]) -> bool:
    return headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers


async def _read(receive) -> bytes | None:
    """The body, or its first MAX_BODY bytes and some; None where the client went."""
    body = bytearray()
    while len(body) <= MAX_BODY:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    return bytes(body)


def _replayed(body: bytes, receive):
    given = False

    async def replay() -> dict[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _refuse(send, status: int, detail: str, *headers: tuple[bytes, bytes]) -> None:
    body = json.dumps({"detail": detail}).encode()
    start = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
    if status in (403, 408, 413, 415):  # what is left of the body is not read
        start.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})
