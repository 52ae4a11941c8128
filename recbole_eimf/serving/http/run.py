"""Starting a service: its socket, its workers, and its end."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from recbole_eimf.core.errors import ConfigError
from recbole_eimf.serving.http.app import create_app
from recbole_eimf.serving.http.board import Board, State
from recbole_eimf.serving.http.connection import PatientProtocol
from recbole_eimf.serving.http.held import shared_folder, worker_of
from recbole_eimf.serving.http.service import loaded
from recbole_eimf.serving.http.settings import (
    DRAIN_SECONDS,
    IDLE_SECONDS,
    MAX_AT_ONCE,
    MAX_CONNECTIONS,
    Settings,
    checked_token,
)
from recbole_eimf.serving.http.workers import on_hangup, run_apart, supervise


def serve(folder: str, host: str, port: int, workers: int, capacity: int, allowed_hosts: tuple[str, ...] = ()) -> None:
    """Serve a model folder until SIGTERM or Ctrl-C, which let requests under way end.

    Args:
        allowed_hosts: see :class:`Settings`.

    Raises:
        DataError: no whole model folder. ConfigError: the address cannot be listened on, or the token is too short.
    """
    checked_token()
    source = Path(folder).absolute()
    with _listening(host, port) as listening, shared_folder(source) as shared:
        board = Board(shared)
        state = State(1, str(source), board.keep(source))
        # apart, for what has computed cannot be forked; what cannot be read is said here, once
        model = run_apart(_described, board, state)
        board.publish(state)
        settings = Settings(str(shared), workers, capacity, host, allowed_hosts, _threads(workers))
        address = listening.getsockname()
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        many = f", {workers} workers" if workers > 1 else ""
        print(f"{model}{many}: http://{shown}:{address[1]} (API: /docs; Ctrl-C or SIGTERM ends it)", flush=True)
        if workers == 1:
            # uvicorn gives the signal back when all is answered: as an exception it leaves time to clean up
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
            on_hangup(lambda *_: os.kill(os.getpid(), signal.SIGTERM))
            _work(settings, listening)
        else:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(board.metrics)  # read where prometheus_client is imported
            supervise(workers, _work, settings, listening)


def _described(board: Board, state: State) -> str:
    return repr(loaded(board, state))


def _work(settings: Settings, listening: socket.socket) -> None:
    """Answer until SIGTERM."""
    with worker_of(Path(settings.shared)):
        _answer(settings, listening)


def _answer(settings: Settings, listening: socket.socket) -> None:
    app = create_app(settings)
    app.state.service.start()  # before the server does, which tells what cannot be loaded in forty lines
    config = uvicorn.Config(
        app,
        http=PatientProtocol,
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=None,  # it counts connections, those that ask nothing too: PatientProtocol and Door count
        backlog=MAX_AT_ONCE,
        timeout_keep_alive=int(IDLE_SECONDS),
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    uvicorn.Server(config).run(sockets=[listening])


def _threads(workers: int) -> int | None:
    """Of torch, for a worker: the processors are shared out, unless the environment says otherwise."""
    if "OMP_NUM_THREADS" in os.environ:
        return None
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, there // workers)


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.create_server(address, family=family, backlog=MAX_CONNECTIONS)
        # connections inherit it: asyncio sets it only on sockets that name their protocol, which these do not, and an
        # answer's body then waits 40 ms for the client to acknowledge its head
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except UnicodeError as error:  # of a name with an empty or a long part
        raise ConfigError(f"--host={host}: not a host name ({error}). Correct it, for example 127.0.0.1.") from error
    except OSError as error:
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise ConfigError(
                f"--host={host}: no name or address of this machine ({error.strerror or error}). Give another --host, "
                f"for example 127.0.0.1, or 0.0.0.0 for all that it has."
            ) from error
        raise ConfigError(
            f"--host={host} --port={port}: cannot be listened on ({error.strerror or error}). Another service may be "
            f"there: give another --port, or 0 for any that is free."
        ) from error
    with listening:
        listening.set_inheritable(True)
        yield listening
