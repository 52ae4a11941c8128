"""Connections that do not wait for ever: uvicorn has a time limit between requests, but none for a request's head, and
none for a client that does not take its answer."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

from recbole_eimf.serving.http.settings import IDLE_SECONDS, TAKING_SECONDS


class PatientProtocol(H11Protocol):
    """HTTP/1.1 with limits on how long a client may take, however it drips its bytes."""

    idle_seconds, taking_seconds = IDLE_SECONDS, TAKING_SECONDS
    _asking: asyncio.TimerHandle | None = None
    _taking: asyncio.TimerHandle | None = None

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        self._wait_for_a_request()

    def connection_lost(self, exc) -> None:
        self._asking = _cancelled(self._asking)
        self._taking = _cancelled(self._taking)
        super().connection_lost(exc)

    def handle_events(self) -> None:
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self._asking = _cancelled(self._asking)

    def on_response_complete(self) -> None:
        self._wait_for_a_request()
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._taking is None:
            self._taking = self.loop.call_later(self.taking_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        self._taking = _cancelled(self._taking)
        super().resume_writing()

    def _wait_for_a_request(self) -> None:
        self._asking = _cancelled(self._asking)
        self._asking = self.loop.call_later(self.idle_seconds, self._give_up)

    def _give_up(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()


def _cancelled(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
