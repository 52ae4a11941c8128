"""From a name to a text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from recbole_eimf.core.errors import ConfigError, UserError
from recbole_eimf.semantic.encoders.text_encoder import EncoderSettings, TextEncoder
from recbole_eimf.semantic.encoders.tfidf import TfidfSvdEncoder


def build_encoder(settings: EncoderSettings, corpus: Sequence[str] | None = None) -> TextEncoder:
    """Return the encoder that ``settings.name`` picks; ``corpus`` is what tfidf-svd is fitted on.

    Raises UserError, naming the remedy, for a model that is not there, a missing package or a missing key.
    """
    name = settings.name
    _check_processes(settings)
    if name == "tfidf-svd":
        if corpus is None:
            raise UserError("text encoder tfidf-svd: it is fitted on texts, but no corpus was given.")
        return TfidfSvdEncoder(settings, corpus)
    # late: what one needs, a client or torch and transformers, the others do without
    if name.startswith("openai:"):
        from recbole_eimf.semantic.encoders.endpoint_encoder import OpenAIEncoder

        return OpenAIEncoder(settings)
    from recbole_eimf.semantic.encoders import transformers_encoder

    return transformers_encoder.build(settings)


@cache
def check_encoder(settings: EncoderSettings) -> None:
    """Check that :func:`build_encoder` will find what ``settings.name`` picks; no weights are read for it.

    Raises:
        UserError: as it does.
    """
    _check_processes(settings)
    if settings.name.startswith("openai:"):
        from recbole_eimf.semantic.llm.access import check_address

        check_address(settings.base_url)
    elif settings.name != "tfidf-svd":
        from recbole_eimf.semantic.encoders import transformers_encoder

        transformers_encoder.check(settings)


def _check_processes(settings: EncoderSettings) -> None:
    if settings.processes != 1 and settings.name.startswith(("tfidf-svd", "openai:")):
        raise ConfigError(
            f"encoder_processes={settings.processes}: {settings.name} runs in one process. Leave the key out."
        )
