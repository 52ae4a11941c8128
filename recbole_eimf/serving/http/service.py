"""The model that a worker serves, and how another takes its place without a request being dropped.

Whoever asks gets what :attr:`Service.now` is at that moment, a model that never changes: adding items makes another
one. A change (another model folder, further items) is made by the worker that was asked for it, under the board's lock:
it loads and checks first, and only then publishes; the other workers see a new generation within a fifth of a second,
load it beside the old one and swap. Connections stay open throughout.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute

from recbole_eimf.core import parts
from recbole_eimf.core.disk import is_full
from recbole_eimf.core.errors import DataError, DiskError, UserError
from recbole_eimf.serving.http.board import Board, State
from recbole_eimf.serving.http.capacity import OverCapacityError
from recbole_eimf.serving.http.settings import MAX_ADDED, MAX_CHANGES
from recbole_eimf.serving.recommender import Recommender

#: seconds between looks for a new generation; until all workers must have taken one over
_LOOK, _PATIENCE = 0.2, 60.0
#: the longest pause between tries to take over a model that could not be: the first is a look's, each twice the last
_LONGEST = 60.0
#: seconds after which a client whose change was one too many may ask again: a change loads a model, or copies tables
_ASK_AGAIN = 5

logger = logging.getLogger("uvicorn.error")


class NotChangedError(Exception):
    """A change that was no fault of whoever asked for it did not come about: what is served stays as it was.

    full: whether it would with more room on the disk.
    """

    def __init__(self, error: OSError, folder: Path) -> None:
        self.full = is_full(error)
        why, stays = error.strerror or error, "What is served stays as it was."
        if self.full:
            said = f"{folder}: cannot be written ({why}). Make room on its disk, and ask again. {stays}"
        else:
            said = f"{error.filename or folder}: {why}. This is a fault of the service's machine; see its log. {stays}"
        super().__init__(said)


@dataclass(frozen=True)
class Served:
    """A model with the state it belongs to; nothing of it changes."""

    model: Recommender
    state: State

    @cached_property
    def about(self) -> dict[str, Any]:
        """What every answer says of the model it comes from."""
        config = self.model.config
        name = f"{config['name']} on {config['data']['dataset']}"
        return {"name": name, "version": self.state.version, "generation": self.state.generation}

    @property
    def adds_items(self) -> bool:
        """Whether titles can be placed among the items."""
        return bool(self.model.config["text"])

    @cached_property
    def _searched(self) -> tuple[pa.Array, np.ndarray]:
        """(what titles are searched in, rows by training count)."""
        catalogue = self.model.catalogue
        names = compute.if_else(compute.is_valid(catalogue.titles), catalogue.titles, catalogue.tokens)
        text = compute.binary_join_element_wise(catalogue.tokens, names, " ")
        return compute.utf8_lower(text), np.argsort(-catalogue.counts[1:], kind="stable") + 1

    def find(self, words: str, limit: int) -> list[dict[str, str | None]]:
        """Items whose title or token has all of these words, those that were bought most first; before them, the item
        of which they are the token: where tokens are numbers, ``7`` stands in many others."""
        text, order = self._searched
        there = np.ones(len(text), dtype=bool)
        for word in compute.utf8_lower(pa.scalar(words)).as_py().split():  # Python's own makes other letters of some
            there &= compute.match_substring(text, word).to_numpy(zero_copy_only=False)
        catalogue = self.model.catalogue
        named = catalogue.row_of.get(words, catalogue.row_of.get(words.strip()))
        rows = order[there[order]]
        if named is not None:
            rows = np.concatenate(([named], rows[rows != named]))
        rows = rows[:limit]
        tokens, titles = catalogue.tokens.take(rows).to_pylist(), catalogue.titles.take(rows).to_pylist()
        return [{"item": token, "title": title} for token, title in zip(tokens, titles)]


class Service:
    """What one worker serves."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._changes = ThreadPoolExecutor(1, thread_name_prefix="changes")  # one after the other
        self._taken = 0  # changes that are under way or wait
        self._said = self._unsaid = 0  # the generation the other workers know this one to serve; one they were not told
        self._stamp: tuple[int, int] | None = None
        self.now: Served = None  # type: ignore[assignment]  # from start() on

    def start(self) -> None:
        """Load what is served; returns when nothing newer has been published meanwhile."""
        again = True
        while again:
            stamp = self._board.stamp()
            try:
                again = self._follow()
            except Exception:
                if self._board.stamp() == stamp:
                    raise
                # what was being read was replaced, and removed, meanwhile

    def stop(self) -> None:
        """Let a change that is under way end."""
        self._changes.shutdown(wait=True)

    async def watch(self) -> None:
        """Take over what other workers publish, for ever.

        What cannot be taken over is said once and tried again after pauses that grow; something newer is tried at once.
        """
        loop = asyncio.get_running_loop()
        failed: object = self  # no stamp: nothing has
        pause = again = 0.0
        while True:
            await asyncio.sleep(_LOOK)
            stamp = None
            try:
                stamp = self._board.stamp()
                if stamp == self._stamp or (stamp == failed and time.monotonic() < again):
                    continue
                await loop.run_in_executor(self._changes, self._follow)
                failed = self
            except Exception as error:  # the old model goes on
                pause = min(2 * pause, _LONGEST) if stamp == failed else _LOOK
                if stamp != failed:
                    logger.error(
                        "what was published cannot be taken over, generation %d is served on (tried again, more and "
                        "more seldom): %s",
                        self.now.state.generation, error, exc_info=None if isinstance(error, UserError) else error,
                    )  # fmt: skip
                failed, again = stamp, time.monotonic() + pause

    async def take_over(self, folder: str) -> dict[str, Any]:
        """Serve another model folder, in all workers.

        Returns:
            ``generation``, ``version``, ``workers`` that serve it, ``behind`` that do not yet, ``items_kept`` and
            ``items_lost`` of those that were added by title.

        Raises:
            DataError: the folder is no whole model; the old one stays. OverCapacityError: too many changes wait.
            NotChangedError: the machine's disk refuses.
        """
        return await self._changed(self._take_over, folder)

    async def add(self, titles: dict[str, str], profiles: dict[str, str] | None = None) -> dict[str, Any]:
        """Add items by title, in all workers; returns ``added`` (tokens that were new) beside what take_over returns.

        Args:
            titles: token -> title; profiles: token -> an LLM's words on it, as :meth:`Recommender.add_items` has them.

        Raises:
            UserError: see :meth:`Recommender.add_items`; nothing is added. OverCapacityError: too many changes wait.
            NotChangedError: the machine's disk refuses. MissingPartError: what encodes titles is not installed.
        """
        known = profiles or {}
        if stray := [token for token in known if token not in titles]:
            raise DataError(f"profiles: {stray[0]!r} is not in items. Give its title there too.")
        items = {token: [title, known[token]] if known.get(token) else [title] for token, title in titles.items()}
        return await self._changed(self._add, items)

    async def _changed(self, change, given) -> dict[str, Any]:
        if self._taken >= MAX_CHANGES:
            raise OverCapacityError("changes", _ASK_AGAIN)
        self._taken += 1
        try:
            return await self._made_known(change, given)
        finally:
            self._taken -= 1

    async def _made_known(self, change, given) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        said = await loop.run_in_executor(self._changes, self._made_or_not, change, given)
        until = time.monotonic() + _PATIENCE
        while (behind := self._board.behind(said["generation"])) and time.monotonic() < until:
            await asyncio.sleep(0.05)
        if not behind:
            await loop.run_in_executor(self._changes, self._tidy)
        return {**said, "workers": len(self._board.serving()) - behind, "behind": behind}

    # ------------------------------------------------------------------ in the thread of changes
    def _made_or_not(self, change, given) -> dict[str, Any]:
        try:
            return change(given)
        except (OSError, DiskError) as error:
            found = error if isinstance(error, OSError) else cast(OSError, error.__cause__)
            refused = NotChangedError(found, self._board.folder)
            logger.error("a change was not made: %s", refused, exc_info=None if refused.full else error)
            raise refused from error
        except ImportError as error:  # what encodes titles is not needed to serve, and may not be here
            missing = parts.explain(error) if isinstance(error, ModuleNotFoundError) else None
            if missing is None and not isinstance(error, parts.MissingPartError):
                raise
            logger.error("a change was not made: %s", missing or error)
            if missing is None:
                raise
            raise missing from error

    def _follow(self) -> bool:
        """Serve what is published; whether that was new."""
        stamp = self._board.stamp()
        state = self._board.read()
        new = self.now is None or state.generation > self.now.state.generation
        if new:
            self._serve(Served(self._made(state), state))
        elif self._said < self.now.state.generation:
            self._say()
        self._stamp = stamp if self._said == self.now.state.generation else None
        return new

    def _serve(self, served: Served) -> None:
        self.now = served
        self._say()

    def _say(self) -> None:
        """Tell the other workers what this one serves; where the disk refuses, the next look tries again."""
        generation = self.now.state.generation
        try:
            self._board.say(generation)
        except (OSError, DiskError) as error:
            if self._unsaid < generation:  # once
                logger.error("cannot tell the other workers that this one serves generation %d: %s", generation, error)
            self._unsaid = generation
        else:
            self._said = generation

    def _made(self, state: State) -> Recommender:
        model, there = None, 0
        if self.now is not None:
            mine = self.now.state
            if mine.version == state.version and state.added[: len(mine.added)] == mine.added:
                model, there = self.now.model, len(mine.added)
        model = model or loaded(self._board, state)
        batches = state.added[there:]
        if len(batches) > 1 and model.places_each_alone:  # each addition copies every table
            batches = (merged_batches(batches),)
        for items in batches:
            model = with_items(model, items)[0]
        return model

    def _take_over(self, folder: str) -> dict[str, Any]:
        try:
            return self._taken_over(folder)
        except BaseException:
            self._tidy()  # of a model that nobody serves
            raise

    def _taken_over(self, folder: str) -> dict[str, Any]:
        with self._board.changing():
            old = self._board.read()
            version = self._board.keep(folder)
            state = State(old.generation + 1, str(folder), version)
            model, kept = with_batches(loaded(self._board, state), old.added)
            lost = sum(map(len, old.added)) - sum(map(len, kept))
            state = replace(state, added=tuple(kept))
            self._board.publish(state)
            self._serve(Served(model, state))
        return {
            "generation": state.generation,
            "version": version,
            "items_kept": sum(map(len, kept)),
            "items_lost": lost,
        }

    def _tidy(self) -> None:
        # of a disk that is full: the next change tidies too
        with contextlib.suppress(OSError, DiskError), self._board.changing():
            state = self._board.read()
            if not self._board.behind(state.generation):
                self._board.forget(but=state.version)

    def _add(self, items: dict[str, list[str]]) -> dict[str, Any]:
        with self._board.changing():
            self._follow()
            old = self.now.state
            if sum(map(len, old.added)) + len(items) > MAX_ADDED:
                raise DataError(
                    f"items: {MAX_ADDED:,} may be added while a service runs. Save them with the model "
                    f"(Recommender.add_items, save) and take the new folder over."
                )
            model, added = with_items(self.now.model, items)
            state = old
            if added:
                batch = {token: items[token] for token in added}
                state = replace(old, generation=old.generation + 1, added=(*old.added, batch))
                self._board.publish(state)
                self._serve(Served(model, state))
        return {"generation": state.generation, "version": state.version, "added": added}


def loaded(board: Board, state: State) -> Recommender:
    """The model of a state, as exported. Raises DataError, which names the folder that the user named."""
    folder = board.model(state.version)
    try:
        board.check(state.version)
        return Recommender.load(folder, verify=False)  # check() has verified it
    except DataError as error:
        raise DataError(str(error).replace(str(folder), str(Path(state.source)))) from error


def reads_profiles(model: Recommender) -> bool:
    """Whether a model places items by an LLM's words on them too."""
    return (model.config.get("text") or {}).get("source", "title") != "title"


def with_batches(
    model: Recommender, batches: Sequence[dict[str, list[str]]]
) -> tuple[Recommender, list[dict[str, list[str]]]]:
    """(another model with the items of all batches, the batches they were added in); those that the model has no place
    for, or cannot read, are left out.

    All are added as one, for each addition copies every table; where one batch is refused, halves of them are tried.
    """
    short = slice(None) if reads_profiles(model) else slice(1)
    items = {token: texts[short] for token, texts in merged_batches(batches).items()}
    if not items:
        return model, []
    try:
        return with_items(model, items)[0], [items]
    except UserError:
        if len(batches) == 1:
            return model, []
    middle = len(batches) // 2
    model, first = with_batches(model, batches[:middle])
    model, second = with_batches(model, batches[middle:])
    return model, first + second


def merged_batches(batches: Sequence[dict[str, list[str]]]) -> dict[str, list[str]]:
    """The items of all batches, in their order."""
    return {token: texts for items in batches for token, texts in items.items()}


def with_items(model: Recommender, items: dict[str, list[str]]) -> tuple[Recommender, list[str]]:
    """(another model with these items, title or title and profile each, the tokens that were new); ``model`` stays as
    it is."""
    grown = copy.copy(model)
    titles = {token: texts[0] for token, texts in items.items()}
    return grown, grown.add_items(titles, {token: texts[1] for token, texts in items.items() if len(texts) > 1})
