"""Do side-loaded replies answer prompts of histories that the protocol allows?

A reply made of a user's whole sequence knows the items that leave-one-out holds out. Every line of a reply file holds
the digest of its prompt; here the prompts that today's *training* histories allow are built again and compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from logging import getLogger
from typing import Literal, get_args

from recbole_eimf.core.errors import DataError
from recbole_eimf.semantic.llm.prompt import Exemplar, build_prompt

Answer = Literal["this_history", "shorter_history", "another_history", "no_digest"]
ANSWERS: tuple[Answer, ...] = get_args(Answer)


@dataclass(frozen=True)
class PromptForm:
    """How prompts are written: the template, how many items, and the text of items by token, in one or several forms
    (all text columns, or only the first ones)."""

    template: str
    prompt_items: int
    item_texts: tuple[Mapping[str, str], ...]

    def answers(self, user: str, history: Sequence[str], digest: str) -> Answer:
        """What a reply with this digest was made of.

        A prompt over the user's first n items, for any n, knows nothing beyond the history: replies made for
        leave-one-out serve under a user split, and those of an earlier day later on.

        Args:
            user: its token; history: its items in the source's order, oldest first, only what the protocol allows.
            digest: the prompt's SHA-256 as the reply file has it, "" where it has none.
        """
        if not digest:
            return "no_digest"
        for kept in range(len(history), 0, -1):
            if digest in self._digests(user, history[:kept]):
                return "this_history" if kept == len(history) else "shorter_history"
        return "another_history"

    def _digests(self, user: str, history: Sequence[str]) -> set[str]:
        asked = set()
        for text in self.item_texts:
            # ours leave items without text out; other programs list them as untitled
            for items in (history, [item for item in history if item in text]):
                latest = tuple(items[-self.prompt_items :])
                titles = tuple(text.get(item, "") for item in latest)
                asked |= {(latest, titles), (latest, tuple(map(_as_in_the_source, titles)))}
        exemplars = [Exemplar(user, titles, items) for items, titles in asked if items]
        return {build_prompt(exemplar, self.template, self.prompt_items).sha256 for exemplar in exemplars}


def _as_in_the_source(title: str) -> str:
    """Undo what ``prepare`` does to a title that begins with a double quote; replies may have been asked before it.

    >>> _as_in_the_source("''The Best'' of")
    '"The Best" of'
    """
    return title.replace("''", '"') if title.startswith("''") else title


def checked_replies(
    form: PromptForm, digests: Mapping[str, str], histories: Mapping[str, Sequence[str]], source: str, allowed: bool
) -> dict[str, int]:
    """Of which histories replies were made, counted: ``replies_of_this_history``, ``..._shorter_history``,
    ``..._another_history`` and ``replies_unchecked``, which have no digest.

    Args:
        form: how prompts are written; digests: user -> digest of the prompt its reply answers; histories: user -> its
            items that the protocol allows, in the source's order; source: the file, for messages.
        allowed: use replies of other histories too (``allow_foreign_replies``), with a warning.

    Raises:
        DataError: there are such replies and they are not allowed.
    """
    kinds = {user: form.answers(user, histories[user], digest) for user, digest in digests.items()}
    foreign = [user for user, kind in kinds.items() if kind == "another_history"]
    if foreign:
        said = (
            f"{source}: {len(foreign)} of {len(kinds)} replies answer no prompt over their user's training history "
            f"(the first: user {foreign[0]!r}): they may have seen held-out items."
        )
        if not allowed:
            raise DataError(
                f"{said} Load them with the protocol, filters, text_fields, prompt_file and prompt_items they were "
                f"made with, ask again with `python -m recbole_eimf interests`, or go on with "
                f"--allow_foreign_replies=True; the result then says how many."
            )
        getLogger().warning(f"{said} Used because of allow_foreign_replies=True.")
    counts = Counter(kinds.values())
    if counts["no_digest"]:
        getLogger().warning(
            f"{source}: {counts['no_digest']} of {len(kinds)} replies have no prompt_sha256: nothing can tell whether "
            f"they were made of held-out items."
        )
    return {f"replies_of_{kind}" if kind != "no_digest" else "replies_unchecked": counts[kind] for kind in ANSWERS}
