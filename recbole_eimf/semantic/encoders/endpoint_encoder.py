"""Vectors from an OpenAI-compatible embeddings endpoint."""

from __future__ import annotations

from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from recbole_eimf.core.errors import UserError
from recbole_eimf.core.parts import require
from recbole_eimf.semantic.encoders.text_encoder import EncoderSettings, TextEncoder, with_progress
from recbole_eimf.semantic.llm.access import address_of, addresses_unlogged, check_address, read_key

_REQUEST_RETRIES = 5
_REQUEST_TIMEOUT = 60.0


class OpenAIEncoder(TextEncoder):
    """Embeddings from an OpenAI-compatible endpoint.

    429, 5xx and broken connections are tried again with back-off, by the openai package. The service has its own limit
    on a text's length: ``max_length`` does not apply. The key comes from the environment or a file when the first
    request is made, and is never logged, stored or part of a message.
    """

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__(settings)
        self._name = settings.name.removeprefix("openai:")
        check_address(settings.base_url)
        # not asked of the client: cached vectors need neither client nor key
        self._base_url = address_of(settings.base_url)

    @property
    def identity(self) -> str:
        # two services may give one name to different models; user:password@ in the address is not ours to keep
        where = urlsplit(self._base_url)
        place = f"{where.hostname}:{where.port or ''}{where.path.rstrip('/')}"
        return f"openai:{self._name}@{place}:dimensions={self.settings.dimension}:unit={self.settings.normalize}"

    @cached_property
    def dimension(self) -> int:
        """Length of a vector; where the settings do not say it, one word is sent to find out."""
        return self.settings.dimension or self._vectors(["dimension"], progress=False).shape[1]

    @cached_property
    def _client(self) -> tuple[Any, str]:
        require("openai")
        import openai

        addresses_unlogged()
        key = read_key(self.settings, f"text_encoder={self.settings.name}").reveal()
        client = openai.OpenAI(
            api_key=key, base_url=self._base_url, max_retries=_REQUEST_RETRIES, timeout=_REQUEST_TIMEOUT
        )
        return client, key

    def _asked(self, texts: list[str]) -> list[tuple[int, list[float]]]:
        """One request: (position in ``texts``, vector) of each entry that came.

        Raises:
            UserError: the endpoint refuses, or sends something else than embeddings.
        """
        import openai

        client, key = self._client
        extra = {} if self.settings.dimension is None else {"dimensions": self.settings.dimension}
        try:
            # floats and not the client's base64 default, which some compatible servers do not know
            reply = client.embeddings.create(model=self._name, input=texts, encoding_format="float", **extra)
            return [(int(entry.index), [float(x) for x in entry.embedding]) for entry in reply.data or []]
        except openai.OpenAIError as error:
            # `from None`: the cause's text could hold what a server echoes of the key
            message = str(error).replace(key, "***")
        except (AttributeError, TypeError, ValueError) as error:  # a web page, half a JSON, entries without a number
            message = f"the reply is no list of embeddings ({type(error).__name__})."
        raise UserError(
            f"text encoder {self.settings.name} at {urlsplit(self._base_url).hostname}: {message} "
            "Check llm_base_url, the model's name and the key; what is cached so far is kept."
        )

    def _vectors(self, texts: list[str], progress: bool) -> np.ndarray:
        rows: list[list[float]] = []
        size = self.settings.batch_size
        for batch in with_progress([texts[begin : begin + size] for begin in range(0, len(texts), size)], progress):
            data = sorted(self._asked(batch), key=lambda entry: entry[0])
            if [index for index, _ in data] != list(range(len(batch))):
                raise UserError(
                    f"text encoder {self.settings.name}: {len(data)} vectors for {len(batch)} texts. "
                    "The endpoint does not speak the embeddings protocol, or the batch is too large for it."
                )
            rows.extend(vector for _, vector in data)
        lengths = {len(row) for row in rows}
        if len(lengths) > 1 or 0 in lengths or self.settings.dimension not in (None, *lengths):
            raise UserError(
                f"text encoder {self.settings.name}: vectors of {sorted(lengths)} numbers"
                + (f", not {self.settings.dimension}" if self.settings.dimension else "")
                + ". All texts need vectors of one length: check the model's name."
            )
        return np.asarray(rows, dtype=np.float32)
