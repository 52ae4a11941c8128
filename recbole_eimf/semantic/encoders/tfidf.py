"""An encoder without weights: latent semantic analysis of the corpus itself."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from recbole_eimf.core.errors import ConfigError, UserError
from recbole_eimf.semantic.encoders.text_encoder import EncoderSettings, TextEncoder


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
        import scipy
        import sklearn

        digest = hashlib.sha256("\0".join(self._corpus).encode()).hexdigest()[:16]
        # another release may turn the axes, of SciPy and NumPy too where singular values are equal: vectors of two
        # releases do not belong in one space
        return (
            f"tfidf-svd:corpus={digest}:dimension={self.settings.dimension}:unit={self.settings.normalize}"
            f":scikit-learn={sklearn.__version__}:scipy={scipy.__version__}:numpy={np.__version__}"
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
        if matrix.shape[1] < 2:  # where all titles are "thing 1", "thing 2": a digit is no word
            (only,) = words.get_feature_names_out()
            raise UserError(
                f"text encoder tfidf-svd: nothing to learn from {len(self._corpus)} texts whose one word is {only!r}. "
                f"Choose another text_encoder (minilm), or other text_fields."
            )
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
