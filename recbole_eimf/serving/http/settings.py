"""What a service is told when it starts, and the limits of what one may ask of it."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass

from recbole_eimf.core.errors import ConfigError

#: the variable that switches POST /reload on (and POST /items where others than this machine can ask)
TOKEN_VARIABLE = "RECBOLE_EIMF_RELOAD_TOKEN"
#: a token of fewer characters can be guessed
SHORTEST_TOKEN = 16

MAX_K = 1_000
MAX_HISTORY = 10_000
MAX_HISTORIES = 64
#: of a request with ``explain``, k times histories: as many items as one history may ask for. A reason takes far
#: longer than its item, and whoever asks next waits for all of them.
MAX_EXPLAINED = MAX_K
MAX_TOKENS = 100_000  # of ``only`` and ``without``
MAX_TOKEN = 512  # characters
MAX_TITLE = 2_000  # characters
MAX_NEW = 100  # items a request
MAX_ADDED = 10_000  # items over the life of a service
MAX_CHANGES = 4  # of what is served, that a worker has under way or waiting
MAX_BODY = 1 << 20  # bytes
#: of a worker: connections, of which those that ask nothing make room for new ones; requests whose body is coming; and
#: the most that --capacity may be. So many bodies and answers leave connections for who only asks how the service is.
MAX_CONNECTIONS, MAX_READING, MAX_CAPACITY = 900, 250, 500  # a process may have 1,024 files by default
MAX_AT_ONCE = 100  # connections that are taken before room is made for them: with the others fewer than 1,024

#: seconds for the whole body of a request; for the head of one, or between two; for a client to take its answer
BODY_SECONDS = 10.0
IDLE_SECONDS = 30.0
TAKING_SECONDS = 60.0
#: seconds that requests under way have after SIGTERM
DRAIN_SECONDS = 30


@dataclass(frozen=True)
class Settings:
    """How a service runs.

    shared: the folder through which workers agree (:mod:`recbole_eimf.serving.http.board`); capacity: requests that a
    worker has under way or waiting, further ones get 503; host: what it listens on; allowed_hosts: names under which it
    is asked, beside this machine's own; threads: torch's, None leaves them.
    """

    shared: str
    workers: int = 1
    capacity: int = 32
    host: str = "127.0.0.1"
    allowed_hosts: tuple[str, ...] = ()
    threads: int | None = None

    @property
    def loopback(self) -> bool:
        """Whether only this machine can ask."""
        return is_loopback(self.host)

    def answers_to(self, host: str) -> bool:
        """Whether a request with this ``Host`` header is answered.

        A browser on this machine reaches what listens on this machine alone, and takes it for the site of the name that
        led there: a page elsewhere whose name is made to lead to 127.0.0.1 could read answers (DNS rebinding). That
        name stands in ``Host``. What listens elsewhere is asked under names that only the user knows.
        """
        if not self.loopback and not self.allowed_hosts:
            return True
        name = host_name(host)
        return name is not None and (is_loopback(name) or name in self.allowed_hosts)


def host_name(host: str) -> str | None:
    """The name in a ``Host`` header, or in ``--allowed-hosts``; None where it is none.

    >>> [host_name(host) for host in ("LocalHost.:80", "[::1]:80", "10.0.0.1", "https://a", "a b", "a:b", "a..", "")]
    ['localhost', '[::1]', '10.0.0.1', None, None, None, None, None]
    """
    found = re.fullmatch(r"(\[[0-9a-f:.]+\]|[\w.-]*[\w-])\.?(:\d*)?", host.strip().lower(), re.ASCII)
    return found[1] if found else None


def is_loopback(host: str) -> bool:
    """Whether a host's name is this machine's own.

    >>> [is_loopback(host) for host in ("localhost", "127.0.0.2", "[::1]", "0.0.0.0", "example.org")]
    [True, True, True, False, False]
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def checked_token() -> str | None:
    """The token that changes need, or None. Raises ConfigError for one that can be guessed."""
    token = os.environ.get(TOKEN_VARIABLE) or None
    if token is not None and len(token) < SHORTEST_TOKEN:
        raise ConfigError(
            f"{TOKEN_VARIABLE}: has {len(token)} characters, and can be guessed; take {SHORTEST_TOKEN} or more "
            f"(for example of `python -c 'import secrets; print(secrets.token_urlsafe())'`)."
        )
    return token
