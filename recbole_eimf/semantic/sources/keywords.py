"""Interests without a language model: what is typical of a cluster's titles, by class-based TF-IDF.

The offline default of ESIM. It stands in for eq. 3 and is no result of the paper: reports must say that no LLM was
used (``source`` is "keywords", ``response`` None).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfTransformer
from threadpoolctl import threadpool_limits

from recbole_eimf.semantic.llm.reply import Reply

# words of two letters and more without digits: sizes, counts and model numbers are rare, so TF-IDF would love them
_WORD = re.compile(r"\b[^\W\d_]{2,}\b")


def keyword_replies(
    cluster_titles: Mapping[str, Sequence[str]], max_interests: int = 8, terms_per_interest: int = 4
) -> dict[str, Reply]:
    """Describe each cluster by up to ``max_interests`` phrases, by exemplar id; the same on every run.

    A cluster's distinct titles are grouped by k-means over their TF-IDF vectors, about the square root of their number
    of groups. Each group, largest first, is named by its terms with the highest class-based TF-IDF,
    tf(t, group) * log(1 + G / g(t)), with tf counted over the group's titles, G the number of groups of all clusters
    and g(t) how many of them use the term. (The usual A / f(t), mean words per class over the term's total count,
    suits dozens of classes; over thousands of groups it lets misspellings win.) A title without any content word is
    its own term. A cluster without a title is failed.

    >>> keyword_replies({"u": ["Red gel pen", "Blue gel pen"]}, max_interests=1, terms_per_interest=2)["u"].interests
    ('gel, pen',)
    """
    counted = {user: Counter(_one_line(title) for title in titles) for user, titles in cluster_titles.items()}
    for titles in counted.values():
        titles.pop("", None)
    vocabulary: dict[str, int] = {}
    vectors = {user: _count_matrix(list(titles), vocabulary) for user, titles in counted.items()}
    vectors = {user: _widened(matrix, len(vocabulary)) for user, matrix in vectors.items() if matrix.shape[0]}
    weights = {user: np.array(list(counted[user].values()), dtype=float) for user in vectors}
    # one thread: sums in another order would round, and now and then group, differently
    with threadpool_limits(1):
        groups = _group(vectors, weights, max_interests)

    used = sum((matrix.getnnz(axis=0) for matrix in groups.values()), np.zeros(len(vocabulary)))
    rarity = _stable(np.log1p(sum(matrix.shape[0] for matrix in groups.values()) / np.maximum(used, 1)))
    terms = np.array(list(vocabulary), dtype=object)
    return {user: _reply(user, groups.get(user), rarity, terms, terms_per_interest) for user in cluster_titles}


def _one_line(title: str) -> str:
    return " ".join(title.split()).casefold()


def _terms(title: str) -> list[str]:
    return [word for word in _WORD.findall(title) if word not in ENGLISH_STOP_WORDS] or [title]


def _count_matrix(titles: Sequence[str], vocabulary: dict[str, int]) -> sparse.csr_matrix:
    """Count terms, [titles, vocabulary so far]; new terms enter ``vocabulary``."""
    columns: list[int] = []
    ends = [0]
    for title in titles:
        columns.extend(vocabulary.setdefault(term, len(vocabulary)) for term in _terms(title))
        ends.append(len(columns))
    data = np.ones(len(columns))
    matrix = sparse.csr_matrix((data, columns, ends), shape=(len(titles), max(1, len(vocabulary))))
    matrix.sum_duplicates()
    return matrix


def _widened(matrix: sparse.csr_matrix, width: int) -> sparse.csr_matrix:
    return sparse.csr_matrix((matrix.data, matrix.indices, matrix.indptr), shape=(matrix.shape[0], width))


def _group(
    vectors: Mapping[str, sparse.csr_matrix], weights: Mapping[str, np.ndarray], max_interests: int
) -> dict[str, sparse.csr_matrix]:
    """Return each cluster's term counts per group, [groups, vocabulary], largest group first."""
    if not vectors:
        return {}
    tf_idf = TfidfTransformer().fit(sparse.vstack(list(vectors.values())))
    tf_idf.idf_ = _stable(tf_idf.idf_)
    groups = {}
    for user, matrix in vectors.items():
        count = min(max_interests, math.ceil(math.sqrt(matrix.shape[0])))
        labels = np.zeros(matrix.shape[0], dtype=int) if count == 1 else _labels(tf_idf.transform(matrix), count)
        label_weights = np.bincount(labels, weights=weights[user], minlength=count)
        order = np.argsort(-label_weights, kind="stable")
        member = sparse.csr_matrix((weights[user], (labels, np.arange(len(labels)))), shape=(count, len(labels)))
        groups[user] = (member @ matrix)[order[label_weights[order] > 0]]
    return groups


def _stable(logarithms: np.ndarray) -> np.ndarray:
    """Round away the last bits, in which NumPy's logarithms differ from version to version and processor to processor.

    Titles that are equally far from two centres are common: one bit decides where they go, and with them the interests.
    """
    return np.round(logarithms, 9)


def _labels(vectors: sparse.csr_matrix, count: int) -> np.ndarray:
    # a cluster uses a small part of the vocabulary, and k-means' centres are dense
    used = np.unique(vectors.indices)
    return KMeans(count, n_init=1, random_state=0, max_iter=50).fit_predict(vectors[:, used])


def _reply(
    user: str, groups: sparse.csr_matrix | None, rarity: np.ndarray, terms: np.ndarray, terms_per_interest: int
) -> Reply:
    if groups is None:
        return Reply(user, "", None, (), "failed", "The cluster has no title.", None, "keywords")
    phrases: dict[str, None] = {}
    for row in range(groups.shape[0]):
        counts = groups[row]
        scores = counts.data * rarity[counts.indices]
        # ties go by the alphabet, not by the order in which titles were met
        best = sorted(zip(-scores, terms[counts.indices]))[:terms_per_interest]
        phrases.setdefault(", ".join(term for _, term in best))
    return Reply(user, "", None, tuple(phrases), "ok", None, None, "keywords")
