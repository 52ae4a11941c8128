"""The ESIM pipeline: a corpus of training sequences in, interests of exemplar users and an assignment out.

Everything here is keyed by *tokens* (the ids of the raw data); :mod:`recbole_eimf.semantic.side_load` aligns the result
to RecBole's internal ids.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_eimf.config.keys import SemanticSettings
from recbole_eimf.config.maker import Maker, is_marked, is_own, marked, whose
from recbole_eimf.config.parts import part_of
from recbole_eimf.config.training_data import TrainingKeys
from recbole_eimf.core.disk import check_writable
from recbole_eimf.core.errors import InterestSourceError
from recbole_eimf.core.files import fingerprint, read_tensors, write_tensors
from recbole_eimf.semantic import export, needs
from recbole_eimf.semantic.clustering.cluster import ClusterSettings, cluster_users
from recbole_eimf.semantic.corpus import Corpus
from recbole_eimf.semantic.encoders.build import build_encoder
from recbole_eimf.semantic.encoders.embedding_cache import EmbeddingCache
from recbole_eimf.semantic.encoders.text_encoder import EncoderSettings, TextEncoder
from recbole_eimf.semantic.journal import journal_of
from recbole_eimf.semantic.llm.endpoint import OpenAISettings
from recbole_eimf.semantic.llm.prompt import Exemplar, PromptRequest, build_prompt, load_template
from recbole_eimf.semantic.llm.reply import Reply
from recbole_eimf.semantic.sources import batch, endpoint, keywords, own, shuffled, side_loaded


@dataclass(frozen=True)
class Interests:
    """Result of the pipeline.

    exemplars: [C] user tokens; texts: per exemplar its interests, most important first; assignment: training user token
    -> index into exemplars (users without one are absent); source: where the replies come from; made_by: who wrote
    them, ``llm``, ``own`` (a function of the user's) or ``keywords``; report: counts and seconds for the log and
    result.json; digests: per exemplar the sha256 of the prompt its reply answers, "" where there is none; replies: by
    user, those that are of no use too.
    """

    exemplars: list[str]
    texts: list[tuple[str, ...]]
    assignment: dict[str, int]
    source: str
    made_by: Maker
    report: dict[str, Any] = field(default_factory=dict)
    digests: list[str] = field(default_factory=list)
    replies: Mapping[str, Reply] = field(default_factory=dict)

    @property
    def llm_used(self) -> bool:
        """Whether an LLM is known to have had a part in them."""
        return self.made_by == "llm"

    def to_frame(self) -> pd.DataFrame:
        """A row per exemplar: the user, its interests, and how many users it stands for."""
        stands_for = Counter(self.assignment.values())
        users = [stands_for[c] for c in range(len(self.exemplars))]
        return pd.DataFrame({"exemplar": self.exemplars, "interests": self.texts, "users": users})


class Pipeline:
    """The stages of ESIM over one corpus, each computed once.

    Args:
        corpus: training sequences and item text.
        settings: keys of the stage.
        name: the data set's name, for cache files.
        device: torch device of the text encoder.
        protocol: of the split; None where there is none.
        made_from: settings that decide the training sequences, for exports; none where the corpus is of no data set.

    Raises:
        UserError: see the stages.
    """

    def __init__(
        self,
        corpus: Corpus,
        settings: SemanticSettings,
        name: str,
        device: str = "cpu",
        protocol: str | None = None,
        made_from: TrainingKeys | None = None,
    ) -> None:
        self.corpus, self.settings, self.name, self.device = corpus, settings, name, device
        self.protocol, self.made_from = protocol, made_from or TrainingKeys()
        self.proven = False  # whether an export was made of these very histories
        self.read_meta: Mapping[str, Any] = {}  # what the export that was read says of itself
        if settings.interest_file and Path(settings.interest_file).is_dir():
            asked = corpus.asked_histories and export.fingerprint_of(corpus.users, corpus.asked_histories)
            found = export.open_interests(settings, self.origin().data, protocol, asked, self.made_from)
            self.settings, self.proven, self.read_meta = found.settings, found.proven, found.meta
        # that of an export is checked with it; what another file was made from nobody can tell
        self.unchecked_assignment = bool(settings.assignment_file)
        self.folder = Path(settings.semantic_cache)
        self.cache = EmbeddingCache(self.folder / "embeddings.sqlite")
        self.seconds: dict[str, float] = {}

    def of_source(self, source: str) -> Pipeline:
        """The same stages with another ``interest_source``, and what of them is computed and does not depend on it."""
        wanted = replace(self.settings, interest_source=source)
        made = Pipeline(self.corpus, wanted, self.name, self.device, self.protocol, self.made_from)
        made.proven, made.unchecked_assignment = self.proven, self.unchecked_assignment
        made.read_meta = self.read_meta
        for computed in ("encoder", "item_vectors", "user_vectors"):
            if computed in vars(self):
                vars(made)[computed] = vars(self)[computed]
        return made

    def origin(self) -> export.Origin:
        """What replies of this pipeline are made from, for those who load them elsewhere."""
        s = self.settings
        # what is exported anew was made by whoever made it
        of = self.read_meta if needs.source_of_replies(s) == "file" else {}
        return export.Origin(
            dataset=self.name,
            protocol=self.protocol or "none",
            data=export.fingerprint_of(self.corpus.users, self.corpus.histories),
            model=of.get("model") or (s.llm_model if s.interest_source in ("openai", "batch") else None),
            prompt=of.get("prompt") or load_template(s.prompt_file),
            prompt_items=of.get("prompt_items") or s.prompt_items,
            made_from=self.made_from,
            text_fields=tuple(s.text_fields),
            licence=of.get("licence"),
        )

    def check_source(self) -> None:
        """Raise what is known to fail before anything is encoded: a file that is not there, a key that is not set."""
        needs.check_interest_source(self.settings, self.name)
        if needs.source_of_replies(self.settings) == "file":
            self.side_loaded  # noqa: B018 (raises)

    # ------------------------------------------------------------------ eq. 1
    @cached_property
    def encoder(self) -> TextEncoder:
        """The text encoder; fitted encoders (tfidf-svd) see the items' text only."""
        wanted = part_of(EncoderSettings, self.settings, device=self.device)
        texts = self.corpus.item_text
        if self.protocol == "global_time":  # the texts of later items were not there yet
            seen = {item for history in self.corpus.histories for item in history}
            texts = {item: text for item, text in texts.items() if item in seen}
        return build_encoder(wanted, corpus=sorted(set(texts.values())))

    def encode(self, texts: Sequence[str], stage: str) -> np.ndarray:
        """Embed texts through the cache: [n] -> float32 [n, d_t]."""
        begin = time.perf_counter()
        vectors = self.cache.encode(self.encoder, list(texts), progress=True)
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - begin
        return vectors

    @cached_property
    def item_vectors(self) -> tuple[dict[str, int], np.ndarray]:
        """(item token -> row, float32 [items with text, d_t])."""
        tokens = sorted(self.corpus.item_text)
        vectors = self.encode([self.corpus.item_text[t] for t in tokens], "encode_items")
        return {token: row for row, token in enumerate(tokens)}, vectors

    @cached_property
    def user_vectors(self) -> tuple[np.ndarray, np.ndarray]:
        """Sequence embeddings of the training users (eq. 1): (float32 [U, d_t] of unit length, bool [U] has text)."""
        return self._sequence_vectors(self.corpus.histories)

    def _sequence_vectors(self, histories: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
        """Sequence embeddings of histories (eq. 1): (float32 [n, d_t] of unit length, bool [n] has text)."""
        if self.settings.sequence_text == "joined":
            texts = [
                ". ".join(self.corpus.item_text[i] for i in reversed(history) if i in self.corpus.item_text)
                for history in histories
            ]
            vectors = self.encode(texts, "encode_users")
            known = np.array([bool(text) for text in texts])
        else:
            rows, items = self.item_vectors
            vectors = np.zeros((len(histories), items.shape[1]), dtype=np.float32)
            known = np.zeros(len(vectors), dtype=bool)
            for u, history in enumerate(histories):
                index = [rows[i] for i in history if i in rows]
                if index:
                    vectors[u] = items[index].mean(0)
                    known[u] = True
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / np.maximum(length, 1e-12), known

    # ------------------------------------------------------------------ eq. 2
    @cached_property
    def clusters(self) -> tuple[list[str], dict[str, int], dict[str, Any]]:
        """Affinity propagation over users: (exemplar tokens, user token -> exemplar index, report)."""
        s = self.settings
        vectors, known = self.user_vectors
        none = s.clustering == "none"
        wanted = part_of(
            ClusterSettings,
            s,
            method="auto" if none else s.clustering,
            preference=None if none else s.preference,
            exemplar_ratio=None if none or s.preference is not None else s.exemplar_ratio,
        )
        users = [user for user, ok in zip(self.corpus.users, known) if ok]
        content = hashlib.sha256(np.ascontiguousarray(vectors[known]).tobytes()).hexdigest()
        path = self.folder / f"clusters-{self.name}-{fingerprint(content, wanted, users)}.safetensors"
        begin = time.perf_counter()
        if path.is_file():
            stored = read_tensors(path)
            exemplars, labels = stored["exemplars"], stored["labels"]
            report = {"clusters": len(exemplars), "cached": True}
        else:
            check_writable(self.folder, "semantic_cache")
            result = cluster_users(vectors[known], wanted, progress=True)
            exemplars, labels = result.exemplars, result.labels
            write_tensors(path, {"exemplars": exemplars, "labels": labels}, {"users": str(len(users))})
            report = {
                "clusters": len(exemplars),
                "method": result.method,
                "preference": result.preference,
                "net_similarity": result.net_similarity,
                "notes": list(result.notes),
            }
        self.seconds["cluster"] = time.perf_counter() - begin
        return [users[i] for i in exemplars], dict(zip(users, labels.tolist())), report

    # ------------------------------------------------------------------ section 3.2.2, eq. 3
    def requests(self, exemplars: Sequence[str]) -> list[PromptRequest]:
        """The prompt of each exemplar user, over the latest ``prompt_items`` training items that have text."""
        template = load_template(self.settings.prompt_file)
        row = {user: u for u, user in enumerate(self.corpus.users)}
        made = []
        for user in exemplars:
            items = [i for i in self.corpus.histories[row[user]] if i in self.corpus.item_text]
            titles = tuple(self.corpus.item_text[i] for i in items)
            made.append(build_prompt(Exemplar(user, titles, tuple(items)), template, self.settings.prompt_items))
        return made

    def llm_settings(self) -> OpenAISettings:
        """The endpoint's settings; the key itself is read from the environment or a file when a call is made."""
        return part_of(OpenAISettings, self.settings)

    @property
    def journal(self) -> Path:
        """Where replies of the endpoint are kept, one line each, the moment they arrive."""
        return journal_of(self.folder, "replies", self.name)

    def _fetched(
        self, source: str, agreed: bool, again: bool
    ) -> tuple[list[str], dict[str, int], dict[str, Reply], dict[str, Any]]:
        """(exemplars, assignment, replies, report) of a source other than the placebo."""
        if source == "file":
            return self._from_file()
        exemplars, assignment, report = self.clusters
        begin = time.perf_counter()
        if source == "keywords":
            replies = keywords.keyword_replies(self._cluster_titles(exemplars, assignment))
        elif source == "batch":
            requests, path = self.requests(exemplars), Path(self.settings.batch_file)
            replies = batch.answers(requests, self.llm_settings(), path, self.journal)
        elif is_own(source):
            replies = own.own_replies(source, self._told(exemplars, assignment), self.settings.max_interests)
        else:
            requests = self.requests(exemplars)
            replies = endpoint.ask(requests, self.llm_settings(), self.journal, self.name, agreed, again)
        self.seconds["replies"] = time.perf_counter() - begin
        return exemplars, assignment, replies, report

    def _told(self, exemplars: Sequence[str], assignment: Mapping[str, int]) -> list[own.Cluster]:
        """What a source of the user's own is told."""
        titles, row = self._cluster_titles(exemplars, assignment), {user: u for u, user in enumerate(self.corpus.users)}
        text = self.corpus.item_text
        return [
            own.Cluster(
                user,
                tuple(text[i] for i in self.corpus.histories[row[user]] if i in text),
                tuple(titles[user]),
                request.prompt,
            )
            for user, request in zip(exemplars, self.requests(exemplars), strict=True)
        ]

    def _cluster_titles(self, exemplars: Sequence[str], assignment: Mapping[str, int]) -> dict[str, list[str]]:
        titles: dict[str, list[str]] = {user: [] for user in exemplars}
        seen: list[set[str]] = [set() for _ in exemplars]
        for user, history in zip(self.corpus.users, self.corpus.histories):
            cluster = assignment.get(user)
            if cluster is None:
                continue
            for item in history:
                if item in self.corpus.item_text and item not in seen[cluster]:
                    seen[cluster].add(item)
                    titles[exemplars[cluster]].append(self.corpus.item_text[item])
        return titles

    def _from_file(self) -> tuple[list[str], dict[str, int], dict[str, Reply], dict[str, Any]]:
        """Side-load replies. Members of exemplars that cannot be used move to the nearest one that can.

        So do users whom the file assigned when their history held an item that is held out today: their cluster may
        tell of it. An export of today's histories assigned nobody so.
        """
        begin = time.perf_counter()
        loaded = self.side_loaded
        assignment, stranded, counts = side_loaded.assigned(self.corpus.users, loaded.usable, self.settings)
        asked = self.settings.assignment_file and not (self.proven and not self.unchecked_assignment)
        knew = self._assigned_with_held_out(assignment, set(loaded.usable)) if asked else []
        assignment = {user: c for user, c in assignment.items() if user not in set(knew)}
        moved = self._nearest([*stranded, *knew], loaded.usable)
        report = loaded.counts | counts
        if knew:
            report["users_assigned_with_held_out_items"] = len(knew)
        report |= {"users_moved_to_nearest_exemplar": len(moved), "clusters": len(loaded.usable)}
        report["users_of_unchecked_assignment"] = len(assignment) if self.unchecked_assignment else 0
        self.seconds["replies"] = time.perf_counter() - begin
        return loaded.usable, assignment | moved, loaded.replies, report

    def _assigned_with_held_out(self, assignment: Mapping[str, int], exemplars: set[str]) -> list[str]:
        """Assigned users whose history in the source's order, by which they were, has an item that today's has not.

        An exemplar stands for itself, if its reply is used at all.
        """
        histories = zip(self.corpus.users, self.corpus.asked_histories or (), self.corpus.histories)
        lost = {user for user, asked, today in histories if not set(asked) <= set(today)}
        return [user for user in assignment if user in lost and user not in exemplars]

    @cached_property
    def side_loaded(self) -> side_loaded.SideLoaded:
        """The replies of ``interest_file``, checked; see :func:`side_loaded.load`."""
        return side_loaded.load(self.corpus, self.settings, self.name, self.proven)

    def _nearest(self, users: Sequence[str], exemplars: Sequence[str]) -> dict[str, int]:
        """The closest exemplar of each user by sequence embedding; users without text are left out."""
        if not users:
            return {}
        # of these users alone: a joined text a user is long, and most users keep the exemplar that they have
        wanted = {*users, *exemplars}
        asked = [(user, history) for user, history in zip(self.corpus.users, self.corpus.histories) if user in wanted]
        vectors, known = self._sequence_vectors([history for _, history in asked])
        row = {user: u for u, (user, _) in enumerate(asked)}
        candidates = np.array([c for c, user in enumerate(exemplars) if known[row[user]]])
        movable = [user for user in users if known[row[user]]]
        if not len(candidates) or not movable:
            return {}
        centres = vectors[[row[exemplars[c]] for c in candidates]]
        moved = {}
        for begin in range(0, len(movable), 4096):
            part = movable[begin : begin + 4096]
            nearest = candidates[(vectors[[row[u] for u in part]] @ centres.T).argmax(1)]
            moved.update(zip(part, nearest.tolist()))
        return moved

    # ------------------------------------------------------------------ all of it
    def run(self, seed: int = 0, agreed: bool = False, again: bool = True) -> Interests:
        """Run every stage up to the replies.

        Args:
            seed: draws the exemplars of the placebo (``interest_source=shuffled``).
            agreed: paid calls may be made.
            again: also for those whose reply stands in the journal and is of no use.

        Raises:
            UserError: a source that cannot deliver, a file that does not fit.
        """
        self.check_source()
        placebo = self.settings.interest_source == "shuffled"
        source = needs.source_of_replies(self.settings)
        exemplars, assignment, replies, report = self._fetched(source, agreed, again)
        texts = [replies[user].interests if user in replies else () for user in exemplars]
        answered = [c for c, text in enumerate(texts) if text]
        if not answered:
            raise InterestSourceError(
                f"interest_source={source}: not one of {len(exemplars)} replies holds an interest."
            )
        assignment = {user: c for user, c in assignment.items() if texts[c]}
        if placebo:
            if self.settings.placebo_draw == "permute":
                assignment = shuffled.permuted(assignment, seed)
            else:
                assignment = shuffled.drawn(assignment, answered, seed)
        report = {
            **report,
            "exemplars": len(exemplars),
            "exemplars_without_interests": len(exemplars) - len(answered),
            "failed_replies": dict(Counter(reply.failure for reply in replies.values() if reply.failure)),
            "interests": sum(len(text) for text in texts),
            "seconds": {stage: round(seconds, 2) for stage, seconds in self.seconds.items()},
        }
        # in a file it is the assignment that was shuffled: without it a reply is its exemplar's own
        placebo |= bool(self.settings.assignment_file) and any(is_marked(reply.source) for reply in replies.values())
        name = marked(source) if placebo else source
        maker = whose(source, (replies[user].source for c, user in enumerate(exemplars) if texts[c]))
        getLogger().info(
            f"interests: {report['interests']}, from {len(answered)} exemplars; source {name}"
            + (" (NO LLM was used: these are terms of the clusters' titles)" if maker == "keywords" else "")
        )
        digests = [replies[user].prompt_sha256 if user in replies else "" for user in exemplars]
        return Interests(exemplars, texts, assignment, name, maker, report, digests, replies)
