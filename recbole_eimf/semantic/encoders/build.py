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
    # late: torch and transformers are needed by some encoders only
    from recbole_eimf.semantic.encoders import endpoint_encoder, transformers_encoder

    name = settings.name
    _check_processes(settings)
    if name == "tfidf-svd":
        if corpus is None:
            raise UserError("text encoder tfidf-svd: it is fitted on texts, but no corpus was given.")
        return TfidfSvdEncoder(settings, corpus)
    if name.startswith("openai:"):
        return endpoint_encoder.OpenAIEncoder(settings)
    return transformers_encoder.build(settings)


@cache
def check_encoder(settings: EncoderSettings) -> None:
    """Check that :func:`build_encoder` will find what ``settings.name`` picks; no weights are read for it.

    Raises:
        UserError: as it does.
    """
    from recbole_eimf.semantic.encoders import transformers_encoder

    _check_processes(settings)
    if settings.name != "tfidf-svd" and not settings.name.startswith("openai:"):
        transformers_encoder.check(settings)


def _check_processes(settings: EncoderSettings) -> None:
    if settings.processes != 1 and settings.name.startswith(("tfidf-svd", "openai:")):
        raise ConfigError(
            f"encoder_processes={settings.processes}: {settings.name} runs in one process. Leave the key out."
        )
