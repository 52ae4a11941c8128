"""Where an endpoint is and the key to it: what enters no message, log or file as it is.

The key is read at the last moment and scrubbed from whatever an endpoint says; of an address user, password and query
are left out.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import ssl
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from recbole_eimf.core.errors import ConfigError, InterestSourceError


class Secret:
    """A key that does not show itself in a repr, a log or a traceback with local variables."""

    def __init__(self, value: str):
        self.reveal = lambda: value

    def __repr__(self) -> str:
        return "Secret(***)"

    def scrub(self, text: str) -> str:
        """Return ``text`` without the key (endpoints echo it in error messages)."""
        value = self.reveal()
        # a placeholder such as "EMPTY" for endpoints without keys is no secret, and may be a common word
        return text.replace(value, "***") if len(value) >= 8 else text


class NamesKey(Protocol):
    """Settings that say where an API key is: of an LLM, or of an embeddings endpoint."""

    api_key_env: str
    api_key_file: str | None


#: key of a source -> who needs an API key for it, with the way to do without
ASKERS = {
    "interest_source": "the LLM (or take interest_source=file or keywords)",
    "knowledge_source": "the LLM (or take knowledge_source=file)",
}


def read_key(settings: NamesKey, asker: str = ASKERS["interest_source"]) -> Secret:
    """Read the key of whatever asks an endpoint.

    Args:
        settings: say where it is; asker: what needs it, for the message.

    Raises:
        InterestSourceError: naming the variable or file, if there is none or it is malformed.
    """
    place = key_place(settings)
    if settings.api_key_file:
        try:
            value = Path(settings.api_key_file).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InterestSourceError(f"{place}: cannot be read ({type(error).__name__}).") from None
    else:
        value = os.environ.get(settings.api_key_env, "")
    value = value.strip()
    if not value:
        raise InterestSourceError(
            f"{place}: no API key there for {asker}. Set it (to anything, for an endpoint that asks for none)."
        )
    if not re.fullmatch(r"[!-~]+", value):  # an HTTP header could not carry it, and the error would print it
        raise InterestSourceError(
            f"{place}: the key there holds spaces, line breaks or characters that no key has. Set it again."
        )
    return Secret(value)


def key_place(settings: NamesKey) -> str:
    """Where a key is said to be, as the user named it."""
    if settings.api_key_file:
        return f"llm_api_key_file={settings.api_key_file}"
    return f"environment variable {settings.api_key_env}"


def addresses_unlogged() -> None:
    """Keep the HTTP libraries' lines out of our logs: httpx logs every address at INFO, the others do at DEBUG, and an
    address may hold a password."""
    for name in ("httpx", "httpx2", "httpcore", "httpcore2", "openai"):
        if logging.getLogger(name).level == logging.NOTSET:
            logging.getLogger(name).setLevel(logging.WARNING)


def address_of(base_url: str | None) -> str:
    """The address that is asked: the one given, else ``OPENAI_BASE_URL``, else OpenAI's (the openai package's rule)."""
    return base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"


def check_address(base_url: str | None) -> None:
    """Raise ConfigError where the address that is asked is none (a port of letters, a bracket that is not closed), or
    where the environment bars the way to it (:func:`check_way_out`)."""
    try:
        parts = urlsplit(address_of(base_url))
        port, good = parts.port, parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        port, good = None, False
    if not good or port == 0:
        said = f"llm_base_url={shown_url(base_url)}" if base_url else "OPENAI_BASE_URL (of the environment)"
        raise ConfigError(f"{said}: not an address such as https://host:8000/v1. Mend it.")
    check_way_out()


def check_way_out() -> None:
    """Raise ConfigError where a variable by which HTTP libraries find proxies and certificates cannot be followed.

    They look at all of them when a client is made, whatever address it is for, and what they raise names none.
    """
    for name in ("http", "https", "all"):
        if address := getproxies().get(name):
            _check_proxy(address, f"{_variable(f'{name}_proxy')}={_shown_proxy(address)} (of the environment)")
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if file:
        try:
            ssl.create_default_context(cafile=file)
        except OSError as error:  # ssl's own errors are OSErrors
            read = isinstance(error, ssl.SSLError) or not error.strerror
            why = "it holds no certificate" if read else error.strerror
            raise ConfigError(
                f"SSL_CERT_FILE={file} (of the environment): {why}. Name a file of certificates (PEM), or unset it."
            ) from None
    elif folder and not Path(folder).is_dir():
        raise ConfigError(f"SSL_CERT_DIR={folder} (of the environment): no such folder. Mend it, or unset it.")


def _check_proxy(address: str, said: str) -> None:
    """Raise ConfigError where a proxy's address, ``said`` so in messages, is none that a client can be made with."""
    try:
        parts = urlsplit(_with_scheme(address))
        port, host = parts.port, parts.hostname or ""
    except ValueError:
        port, host = 0, ""
    known = ("http", "https", "socks5", "socks5h")
    if port == 0 or not host or re.search(r"\s", address) or parts.scheme not in known:
        raise ConfigError(f"{said}: not a proxy's address such as http://host:3128. Mend it, or unset it.")
    if parts.scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        raise ConfigError(f'{said}: a SOCKS proxy needs one more package: pip install "httpx[socks]"')


def way_to(base_url: str) -> str:
    """What a message adds of the proxy that stands between: empty where there is none."""
    parts, proxies = urlsplit(base_url), getproxies()
    name = next((name for name in (parts.scheme, "all") if proxies.get(name)), None)
    if name is None or not parts.hostname or proxy_bypass(parts.hostname):
        return ""
    return f", by way of {_variable(f'{name}_proxy')}={_shown_proxy(proxies[name])}"


def _variable(name: str) -> str:
    """A proxy's variable as it stands in the environment: small letters go before capitals."""
    return name if os.environ.get(name) else name.upper()


def _with_scheme(address: str) -> str:
    return address if "://" in address else f"http://{address}"


def _shown_proxy(address: str) -> str:
    """A proxy's address without user and password, which may stand in one that is malformed too."""
    before, there, after = address.rpartition("@")
    if not there:
        return address
    scheme, there, _ = before.partition("://")
    return f"{scheme}://{after}" if there else after


def shown_url(url: str | None) -> str:
    """Return a URL without user, password and query: those can hold keys.

    >>> shown_url("https://me:pw@host:8000/v1/?key=1")
    'https://host:8000/v1'
    """
    try:
        parts = urlsplit(url or "")
    except ValueError:
        return "(malformed)"
    return f"{parts.scheme}://{parts.netloc.rsplit('@', 1)[-1].lower()}{parts.path.rstrip('/')}"
