"""The prompt that asks a language model for an exemplar's interests (EIMF section 3.2.2, figure 2)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from recbole_eimf.config.layers import properties_folder
from recbole_eimf.core.errors import DataError

PLACEHOLDER = "{history}"
# Keyword-stuffed shop titles run to 500 characters and repeat themselves; the cut bounds what a prompt costs.
MAX_TITLE_CHARACTERS = 160


@dataclass(frozen=True)
class Exemplar:
    """The typical user of a cluster with its training items, oldest first; ``titles`` and ``item_ids`` run parallel."""

    user_id: str
    titles: tuple[str, ...]
    item_ids: tuple[str, ...]


@dataclass(frozen=True)
class PromptRequest:
    """One question for a language model."""

    user_id: str
    prompt: str

    @cached_property
    def sha256(self) -> str:
        """Hex digest of the prompt: tells whether a stored reply answers *this* prompt.

        >>> PromptRequest("u", "hello").sha256[:8]
        '2cf24dba'
        """
        return hashlib.sha256(self.prompt.encode()).hexdigest()


def load_template(path: str | Path | None, shipped: str = "interests.txt", placeholder: str = PLACEHOLDER) -> str:
    """Read a prompt template; ``None`` is the paper's prompt, ``properties/prompts/interests.txt``.

    ``shipped`` names another file of that folder, whose templates hold another ``placeholder``.
    Raises DataError naming the file if it is missing, is not UTF-8 text, or lacks the placeholder.
    """
    path = properties_folder() / "prompts" / shipped if path is None else Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the prompt template cannot be read ({error}). Give a UTF-8 text file.") from error
    if placeholder not in text:
        raise DataError(
            f"{path}: the prompt template has no {placeholder}. Put it where what is asked about is to appear."
        )
    # editors end a file with a newline; that it is there or not must not change the prompt's digest
    return text.rstrip("\n")


def build_prompt(
    exemplar: Exemplar, template: str, max_items: int = 20, max_title: int = MAX_TITLE_CHARACTERS
) -> PromptRequest:
    """Fill ``template`` with the exemplar's latest ``max_items`` items, oldest first, each as ``[title (ID)]``.

    The ID tells near-identical titles apart (section 3.2.2). Titles are cut at ``max_title`` characters.
    With the shipped template these are the prompts whose digests the project's side-loaded replies carry.
    Raises DataError if the exemplar has no item, or not one title per item.

    >>> build_prompt(Exemplar("u", ("Stapler", "Red pen"), ("B01", "B02")), "Items: {history}").prompt
    'Items: [Stapler (B01)][Red pen (B02)]'
    """
    if not exemplar.item_ids or len(exemplar.titles) != len(exemplar.item_ids):
        raise DataError(
            f"exemplar {exemplar.user_id}: {len(exemplar.item_ids)} items with {len(exemplar.titles)} titles; "
            "a prompt needs at least one item and one title (it may be empty) per item."
        )
    if max_items < 1:
        raise DataError(f"prompt_items={max_items}: a prompt needs at least one item.")
    latest = list(zip(exemplar.titles, exemplar.item_ids))[-max_items:]
    # a line break inside a title would look like the end of the list; the rest of a title is left as it is
    history = "".join(f"[{' '.join(title.splitlines())[:max_title] or 'untitled'} ({item})]" for title, item in latest)
    # str.replace, not str.format: titles and templates may hold braces
    return PromptRequest(exemplar.user_id, template.replace(PLACEHOLDER, history))
