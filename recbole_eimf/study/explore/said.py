"""What was asked and answered: the clusters of a run, with prompt, raw reply and interests of each. Nobody is paid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recbole_eimf.config.maker import Maker, is_marked, is_own, unmarked, whose
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.semantic.kept import kept_interests
from recbole_eimf.semantic.llm.prompt import PLACEHOLDER, load_template
from recbole_eimf.semantic.llm.reply import Reply
from recbole_eimf.semantic.pipeline import Pipeline
from recbole_eimf.semantic.reply_check import PromptForm
from recbole_eimf.semantic.sources.side_loaded import read_assignment


@dataclass(frozen=True)
class Said:
    """The clusters of a run's training users, and what was said of each.

    exemplars: [C] user tokens; texts: their interests; cluster: user token -> place in exemplars, of every user that
    has one, whether or not the exemplar has interests; replies: by user, those of no use too; source: where replies
    come from; placebo: whether users were trained with the interests of other clusters; report: counts of the pipeline.
    """

    exemplars: list[str]
    texts: list[tuple[str, ...]]
    cluster: dict[str, int]
    replies: Mapping[str, Reply]
    source: str
    placebo: bool
    report: dict[str, Any] = field(default_factory=dict)
    unanswered: tuple[str, ...] = ()

    @property
    def made_by(self) -> Maker:
        return whose(self.source, (self.replies[user].source for user in self.exemplars if user in self.replies))

    @property
    def llm_used(self) -> bool:
        return self.made_by == "llm"


def said_in(pipeline: Pipeline, source: str, trusted: str | None = None) -> Said:
    """What the replies of a run say, from its files or its journal alone.

    Args:
        pipeline: over the run's training part; source: as ``result.json`` has it, ``shuffled file`` for one; trusted:
            the source of the user's own that may be imported.

    Raises:
        ConfigError: a source of the user's own that nobody named. UserError: files that are gone or do not fit.
    """
    placebo, source = is_marked(source), unmarked(source)
    if is_own(source) and source != trusted:
        raise ConfigError(
            f"interest_source={source}: the run's interests come from a function of your own, and importing it runs "
            f"its code. If you trust it, name it: --interest_source={source}"
        )
    pipeline = pipeline.of_source(source)
    if source == "openai":
        return _from_journal(pipeline, placebo)
    found = pipeline.run()
    of_file = source == "file"
    cluster = found.assignment if of_file else pipeline.clusters[1]
    missing = _without_reply(pipeline, found.replies) if of_file else ()
    if not of_file:
        missing = tuple(user for user in found.exemplars if user not in found.replies)
    return Said(
        found.exemplars, found.texts, dict(cluster), found.replies, source, placebo, found.report, tuple(missing)
    )


def _from_journal(pipeline: Pipeline, placebo: bool) -> Said:
    found = kept_interests(pipeline)
    missing = tuple(user for user in found.exemplars if user not in found.replies)
    cluster = dict(pipeline.clusters[1])
    return Said(found.exemplars, found.texts, cluster, found.replies, "openai", placebo, found.report, missing)


def _without_reply(pipeline: Pipeline, replies: Mapping[str, Reply]) -> Sequence[str]:
    """Exemplars that the assignment names and the file of replies does not."""
    if not pipeline.settings.assignment_file:
        return ()
    named = read_assignment(pipeline.settings.assignment_file)
    training = set(pipeline.corpus.users)
    wanted = dict.fromkeys(exemplar for user, exemplar in named.items() if user in training)
    return [exemplar for exemplar in wanted if exemplar not in replies]


def prompts_of(pipeline: Pipeline, said: Said) -> dict[str, str]:
    """Exemplar -> the prompt that its reply answers, where its digest proves it."""
    corpus, wanted = pipeline.corpus, pipeline.settings
    texts = (corpus.item_text, *corpus.shorter_text)
    form = PromptForm(load_template(wanted.prompt_file), wanted.prompt_items, texts)
    row = {user: u for u, user in enumerate(corpus.users)}
    found = {}
    for user, reply in said.replies.items():
        if user not in row or not reply.prompt_sha256:
            continue
        for histories in (corpus.histories, corpus.asked_histories or ()):
            prompt = form.prompt_of(user, histories[row[user]], reply.prompt_sha256) if histories else None
            if prompt is not None:
                found[user] = prompt
                break
    return found


def template_of(pipeline: Pipeline) -> tuple[str, str]:
    """What stands before and after the history in every prompt."""
    before, _, after = load_template(pipeline.settings.prompt_file).partition(PLACEHOLDER)
    return before, after


def clusters_of_test_users(pipeline: Pipeline, said: Said, users: Sequence[str], histories: Sequence[Sequence[str]]):
    """The cluster of every test user.

    A user that training knows is in the cluster that it was trained in; one that it does not know (``user_split``)
    belongs to the exemplar whose titles are nearest to those of the history. A user who is asked several times is in
    one cluster all the same: that of the shortest history.

    Args:
        users: [R] tokens; histories: [R] item tokens before the targets.

    Returns:
        (int64 [R], -1 where there is none; how many users were placed by their text).
    """
    training = set(pipeline.corpus.users)
    found = np.array([said.cluster.get(user, -1) for user in users], dtype=np.int64)
    new = [r for r, user in enumerate(users) if user not in training]
    if not new:
        return found, 0
    first: dict[str, int] = {}
    for r in new:
        if users[r] not in first or len(histories[r]) < len(histories[first[users[r]]]):
            first[users[r]] = r
    row = {user: u for u, user in enumerate(pipeline.corpus.users)}
    centres = _pooled(pipeline, [pipeline.corpus.histories[row[user]] for user in said.exemplars])
    vectors = _pooled(pipeline, [histories[r] for r in first.values()])
    there = vectors.any(1)
    nearest = (vectors @ centres.T).argmax(1)
    placed = dict(zip(first, np.where(there, nearest, -1)))
    found[new] = [placed[users[r]] for r in new]
    return found, int(there.sum())


def _pooled(pipeline: Pipeline, histories: Sequence[Sequence[str]]) -> np.ndarray:
    """Unit means of titles' vectors, float32 [n, d_t]; zero where no item has text."""
    rows, items = pipeline.item_vectors
    made = np.zeros((len(histories), items.shape[1]), dtype=np.float32)
    for place, history in enumerate(histories):
        index = [rows[item] for item in history if item in rows]
        if index:
            made[place] = items[index].mean(0)
    return made / np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-12)
