"""The replies that a run has paid for, from its journal: no endpoint, no key, no call for those that failed."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recbole_eimf.config.maker import is_marked, unmarked, whose
from recbole_eimf.core.errors import InterestSourceError
from recbole_eimf.core.folders import REPLIES_FILE
from recbole_eimf.semantic import export, journal
from recbole_eimf.semantic.pipeline import Interests, Pipeline


def kept_interests(pipeline: Pipeline) -> Interests:
    """What ``interest_source=openai`` gave, as far as the journal knows it.

    Raises:
        InterestSourceError: the journal answers none of the prompts.
    """
    exemplars, cluster, report = pipeline.clusters
    wanted = pipeline.llm_settings()
    past = journal.read_journal(pipeline.journal, wanted.model)
    replies = journal.kept(pipeline.requests(exemplars), wanted.max_interests, past)
    texts = [replies[user].interests if user in replies else () for user in exemplars]
    if not any(texts):
        raise InterestSourceError(
            f"{pipeline.journal}: answers none of the {len(exemplars)} prompts to {wanted.model}. Is the "
            f"semantic_cache of the run still there? It may be named with --semantic_cache."
        )
    report = {
        **report,
        "exemplars": len(exemplars),
        "exemplars_without_interests": sum(not text for text in texts),
        "interests": sum(map(len, texts)),
    }
    digests = [replies[user].prompt_sha256 if user in replies else "" for user in exemplars]
    assignment = {user: c for user, c in cluster.items() if texts[c]}
    return Interests(exemplars, texts, assignment, "openai", whose("openai"), report, digests, replies)


@contextlib.contextmanager
def as_files(pipeline: Pipeline, source: str) -> Iterator[dict[str, Any]]:
    """Keys that load a run's interests again without paying; of other sources than the endpoint none are needed.

    Args:
        source: as ``result.json`` has it.
    """
    if unmarked(source) != "openai":
        yield {"yes": False}
        return
    with tempfile.TemporaryDirectory() as name:
        export.write_replies(Path(name), kept_interests(pipeline))
        placebo = is_marked(source)
        yield {
            "yes": False,
            **({"interest_source": "shuffled", "shuffled_source": "file"} if placebo else {"interest_source": "file"}),
            "interest_file": str(Path(name) / REPLIES_FILE),
            "assignment_file": str(Path(name) / export.ASSIGNMENT),
        }
