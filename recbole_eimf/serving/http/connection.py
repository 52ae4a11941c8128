"""Connections that do not wait for ever: uvicorn has a time limit between requests, but none for a request's head, and
none for a client that does not take its answer. And what it does about too many connections is to refuse requests: some
clients that ask nothing would then keep everybody else from asking."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

from recbole_eimf.serving.http.metrics import IDLE, ROOM, UNTAKEN, Metrics
from recbole_eimf.serving.http.settings import IDLE_SECONDS, MAX_CONNECTIONS, TAKING_SECONDS


class PatientProtocol(H11Protocol):
    """HTTP/1.1 with limits on how long a client may take, however it drips its bytes, and on how many there are: a new
    one takes the place of the one that has asked nothing for longest."""

    idle_seconds, taking_seconds, most = IDLE_SECONDS, TAKING_SECONDS, MAX_CONNECTIONS
    _asking: asyncio.TimerHandle | None = None
    _taking: asyncio.TimerHandle | None = None

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        self._wait_for_a_request()
        if len(self.connections) > self.most:
            self._make_room()

    def connection_lost(self, exc) -> None:
        self._asking = _cancelled(self._asking)
        self._taking = _cancelled(self._taking)
        super().connection_lost(exc)

    def handle_events(self) -> None:
        super().handle_events()
        if self._asks:
            self._asking = _cancelled(self._asking)

    def on_response_complete(self) -> None:
        self._wait_for_a_request()
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._taking is None:
            self._taking = self.loop.call_later(self.taking_seconds, self._drop, UNTAKEN)

    def resume_writing(self) -> None:
        self._taking = _cancelled(self._taking)
        super().resume_writing()

    def _wait_for_a_request(self) -> None:
        self._asking = _cancelled(self._asking)
        self._asking = self.loop.call_later(self.idle_seconds, self._give_up)

    def _make_room(self) -> None:
        """Close the connection that has asked nothing for longest; where all others ask, that is this one."""
        waiting = [other for other in self.connections if other._asking is not None and not other._asks]
        oldest = min(waiting, key=lambda other: other._asking.when())
        self.connections.discard(oldest)  # it is told so only in the loop's next round
        oldest._drop(ROOM)

    @property
    def _asks(self) -> bool:
        """Whether a request is under way."""
        return self.cycle is not None and not self.cycle.response_complete

    def _give_up(self) -> None:
        if not self._asks:
            self._drop(IDLE)

    def _drop(self, why: str) -> None:
        metrics: Metrics | None = self.app_state.get("metrics")  # what the application's life yields
        if metrics is not None:
            metrics.dropped.labels(why).inc()
        self.transport.abort()


def _cancelled(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
