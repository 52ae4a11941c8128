"""``python -m recbole_eimf serve``: a model folder over HTTP."""

from __future__ import annotations

from collections.abc import Sequence

from recbole_eimf.cli.parser import Parser
from recbole_eimf.cli.usage import usage_shown
from recbole_eimf.core import parts
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.serving.http.settings import MAX_CAPACITY, host_name

USAGE = """usage: python -m recbole_eimf serve MODEL [--port 8000] [--host 127.0.0.1] [--workers 1] [--capacity 32]
         [--allowed-hosts NAME,NAME]

Serves a model folder (of export) over HTTP: POST /recommend, /similar, /items; GET /items, /health, /metrics; a page
at / to try it, and the API at /docs and /openapi.json. docs/service.md shows requests. Needs the extra [serve].

  --port      0 takes any that is free
  --host      address to listen on; by default only this machine can ask. There is no encryption, and a password for
              changes only: put a proxy in front where others can reach it
  --allowed-hosts  further host names that requests may give, beside localhost and 127.0.0.1, such as the name that a
              proxy passes on. With this option, or where only this machine can ask, requests under other names get 403:
              a page of another site could be asking
  --workers   processes, each with the model in its memory; one that dies is replaced
  --capacity  requests that a worker may have under way or waiting; further ones get 503 at once

SIGTERM or Ctrl-C: requests under way are answered, then it ends. With a token in the environment variable
RECBOLE_EIMF_RELOAD_TOKEN, POST /reload takes a new model folder over without dropping a request.
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code.

    Raises:
        UserError: wrong arguments, no such model, an address that is taken, a package that is missing.
    """
    if (code := usage_shown(arguments, USAGE)) is not None:
        return code
    parser = Parser("serve")
    parser.add_argument("model")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--allowed-hosts", "--allowed_hosts", dest="allowed_hosts")
    for name, default in (("port", 8000), ("workers", 1), ("capacity", 32)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.given(arguments)
    for name, least, most in (("port", 0, 65535), ("workers", 1, 64), ("capacity", 1, MAX_CAPACITY)):
        if not least <= getattr(given, name) <= most:
            raise ConfigError(f"--{name}={getattr(given, name)}: a whole number from {least} to {most} is needed.")
    allowed = _names(given.allowed_hosts)
    parts.require("fastapi", "uvicorn", "prometheus_client")

    from recbole_eimf.serving.http.run import serve
    from recbole_eimf.serving.model_folder import read_config

    read_config(given.model, verify=False)  # under the name that was typed

    serve(given.model, given.host, given.port, given.workers, given.capacity, allowed)
    return 0


def _names(given: str | None) -> tuple[str, ...]:
    """The hosts of ``--allowed-hosts``, as :func:`host_name` says them."""
    names = []
    for typed in given.split(",") if given is not None else ():
        name = host_name(typed)
        # a port is passed over where a request says one, and here it would be a typing error
        if name is None or name != typed.strip().lower().removesuffix("."):
            raise ConfigError(
                f"--allowed-hosts={given}: {typed!r} is not a host name. Give names separated by commas, without "
                f"https:// and port, such as --allowed-hosts items.example.org."
            )
        names.append(name)
    return tuple(names)
