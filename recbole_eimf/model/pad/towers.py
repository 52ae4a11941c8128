"""A model that is a sum of towers: what PAD, its phases and the text baselines have in common."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_eimf.config import keys
from recbole_eimf.config.keys import ItemSettings, PADSettings
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.model.backbones.backbone import TrainingStates, check_training_view
from recbole_eimf.model.item_table import TextTransform
from recbole_eimf.model.losses import loss
from recbole_eimf.model.losses.binary_loss import HistoryNegatives, binary_loss, gbce_power
from recbole_eimf.model.losses.negatives import NegativeSampler, drawn_scores, known_items, sampled_softmax_loss
from recbole_eimf.model.over_backbone import OverBackbone
from recbole_eimf.model.pad.experts import (
    FORMS,
    OF_TEXT,
    ExpertTable,
    FrequencyGate,
    Tower,
    check_tower_backbone,
    frequency_buckets,
)
from recbole_eimf.model.phase import Phase
from recbole_eimf.model.products import scored_by_products
from recbole_eimf.model.score_prior import prior_of, reads_next, reads_text


class TowerModel(OverBackbone):
    """Towers whose scores are added, trained by one recommendation loss.

    A subclass names its experts (:meth:`expert_kinds`) and, where it is trained in several phases, the ones before the
    last (:meth:`phases`); the last one trains the model itself.

    Args:
        config: RecBole's configuration.
        dataset: the training part; ``dataset.side`` holds item text where an expert needs it.
        towers: towers of another model, to train or score a part of it; without them the model makes its own.

    Raises:
        ConfigError: experts, backbone or keys that do not fit each other, or text that is not there.
    """

    in_phases = True
    last_phase = "train"

    def __init__(self, config, dataset, towers: Sequence[Tower] | None = None) -> None:
        super().__init__(config, dataset)
        self.config = config
        self.wanted = self.read_settings(config)
        self.text: Tensor | None = None  # [N, d_t], transformed
        self.has_text: Tensor | None = None  # [N]
        self.next_text: Tensor | None = None  # [N, d_t], transformed as text is
        self.has_next: Tensor | None = None  # [N]
        self.fitted: Tensor | None = None  # [N]
        if towers is None:
            self._transform_text(getattr(dataset, "side", None))
        made = towers or [self.new_tower(kind, index, dataset) for kind, index in numbered(self.expert_kinds(config))]
        self.towers = nn.ModuleList(made)
        # a part is trained and judged as if it were the whole
        self.register_buffer("seen", None if towers else self._seen_items(dataset))
        self.register_buffer("instead_of_ids", self._instead_of_ids(), persistent=False)
        gated = towers is None and len(made) > 1 and self.wanted.gate != "none"
        self.gate = self._new_gate(dataset) if gated else None
        text = any(tower.kind != "id" for tower in made) or self.item_settings.item_init == "pca_text"
        seen_alone = self.wanted.candidates == "seen"
        competing = known_items(dataset) if seen_alone else self._competing_items(config, dataset, text)
        competing = torch.arange(1, self.n_items) if competing is None else competing
        self.register_buffer("competing", competing, persistent=False)  # [C] item ids
        self.sampler = None if self.inference_only else self._new_sampler(dataset, self.competing)
        self.negatives = None
        if self.wanted.loss != "ce" and not self.inference_only:
            self.negatives = HistoryNegatives(*dataset.sequences(), self.n_items, competing)
        self.prior = None if towers else prior_of(config, dataset, self.n_items)
        self.count_targets(dataset)
        self._catalogue: Tensor | None = None

    # ------------------------------------------------------------------ what configuration and data set ask the class
    @classmethod
    def read_settings(cls, config) -> PADSettings:
        """The settings of a configuration; a subclass may fix some."""
        return keys.read(PADSettings, config)

    @classmethod
    def expert_kinds(cls, config) -> tuple[str, ...]:
        """The kinds of the towers, in order."""
        raise NotImplementedError

    @classmethod
    def backbone_name(cls, config) -> str:
        """The backbone of a configuration. Raises ConfigError for one that experts cannot be built over."""
        return check_tower_backbone(config["backbone"], config["model"])

    @classmethod
    def needs_side_information(cls, config) -> str | None:
        """``"text"`` if an expert or the start of the id vectors needs item text."""
        items = keys.read(ItemSettings, config)
        if items.item_text != "none":
            raise ConfigError(
                f"item_text={items.item_text}: {config['model']} joins text to ids by experts and fusion; "
                f"leave item_text=none."
            )
        for key, none in (("vector_graph", "none"), ("next_labels", 0.0)):
            if getattr(items, key) != none:
                name = config["model"]
                raise ConfigError(f"{key}={config[key]}: of IBIM and EIMF. {name} has score_prior=next in its place.")
        text = any(kind != "id" for kind in cls.expert_kinds(config)) or items.item_init == "pca_text"
        return "text" if text or reads_text(config) or config["place_unseen"] else None

    @classmethod
    def needs_next_items(cls, config) -> bool:
        return reads_next(config) or "next" in cls.expert_kinds(config)

    @classmethod
    def check_configuration(cls, config) -> None:
        """Refuse experts, a backbone or a gate that do not fit. Raises ConfigError."""
        check_training_view(config, cls.backbone_name(config))
        cls.needs_side_information(config)
        wanted = cls.read_settings(config)
        for name, logits in (("gate_start", wanted.gate_start), ("gate_end", wanted.gate_end)):
            if logits and len(logits) != 3:
                raise ConfigError(
                    f"{name}={list(logits)}: three logits, of id, text (and next), and aligned or hybrid experts."
                )

    @property
    def scores_are_products(self) -> bool:
        return self.prior is None

    # ------------------------------------------------------------------ parts
    def _transform_text(self, side) -> None:
        if side is None or self.inference_only:
            return
        transform = TextTransform(side.item_text, side.fitted, self.item_settings)
        self.has_text, self.fitted = side.item_has_text, side.fitted
        self.text = transform.of_items(side.item_text, self.has_text)
        if side.next_text is not None:
            self.has_next = (side.next_text != 0).any(1)
            self.next_text = transform.of_items(side.next_text, self.has_next)

    def new_tower(self, kind: str, index: int, dataset) -> Tower:
        """A tower with fresh parameters, drawn from the run's seed and its own name: whatever else a model holds, its
        first id tower starts from the same numbers, so that pre-trained ones can be shared."""
        form = FORMS.get(kind, self.wanted.fusion)
        titles = (self.text, self.has_text)

        joined = kind in ("hybrid", "aligned") and self.wanted.unseen_ids == "none"
        seen = self._seen_items(dataset) if joined else None

        def make_table(of: tuple[Tensor | None, Tensor | None], dimension: int, extra_rows: int) -> ExpertTable:
            return ExpertTable(
                form, self.n_items, dimension, self.item_settings, self.wanted, *of, extra_rows, self.inference_only,
                self._looks_up, seen, self.fitted,
            )  # fmt: skip

        of, targets = titles, None
        if kind == "next":  # histories of what is bought next, candidates of titles
            of, targets = (self.next_text, self.has_next), partial(make_table, titles)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(f"{self.config['seed']} {kind} {index}".encode()))
            return Tower(kind, index, self.config, dataset, partial(make_table, of), self.item_settings, targets)

    def _seen_items(self, dataset) -> Tensor | None:
        """Bool [N], items that training saw, where keys treat the others apart and there is text to rank them by."""
        has_text = any(kind != "id" for kind in self.expert_kinds(self.config))
        if not has_text or (self.wanted.unseen_ids == "learned" and not self.wanted.unseen_offset):
            return None
        return torch.from_numpy(dataset.item_counts() > 0)

    def _new_sampler(self, dataset, candidates: Tensor) -> NegativeSampler:
        if self.item_settings.negative_sampling == "popularity" and self.wanted.loss != "ce":
            raise ConfigError(
                f"negative_sampling=popularity: corrected under loss=ce only; loss={self.wanted.loss} draws uniformly."
            )
        return super()._new_sampler(dataset, candidates)

    @property
    def _looks_up(self) -> bool:
        """Whether the loss asks for the vectors of drawn items only."""
        wanted = self.item_settings
        return self.wanted.loss != "ce" or (wanted.num_negatives > 0 and wanted.negatives_for == "batch")

    def _new_gate(self, dataset) -> FrequencyGate:
        by_frequency = self.wanted.gate == "frequency"
        start = self.wanted.gate_start or (0.0, 0.0, 0.0)
        end = (by_frequency and self.wanted.gate_end) or start
        place = [0 if tower.kind == "id" else 1 if tower.kind in OF_TEXT else 2 for tower in self.towers]
        buckets = self.wanted.gate_buckets if by_frequency else 1
        bucket = torch.from_numpy(frequency_buckets(dataset.item_counts(), buckets))
        logits = [[float(one[index]) for index in place] for one in (start, end)]
        return FrequencyGate(bucket, buckets, *logits, total=self.wanted.gate_total)

    def part(self, towers: Sequence[Tower], dataset) -> TowerModel:
        """A model of these towers alone, without a gate; the towers are shared, not copied."""
        return TowerModel(self.config, dataset, towers).to(self.device)

    def phases(self, dataset) -> Iterator[Phase]:
        """The phases before the last, each made when the one before it has been trained."""
        yield from ()

    # ------------------------------------------------------------------ training
    def calculate_loss(self, interaction: Interaction) -> Tensor | tuple[Tensor, ...]:
        """The recommendation loss of the summed scores, every target of an epoch weighing the same."""
        states, target, row, penalty = self._training_states(interaction)
        found = self.score_loss(states, target, interaction[self.USER_ID][row], self.item_vectors)
        return found * self.batch_weight(interaction) + penalty

    def _training_states(self, interaction: Interaction) -> tuple[Tensor, Tensor, Tensor, Tensor | float]:
        """(states [P, E d], target [P], batch row [P], penalty)."""
        each: list[TrainingStates] = [tower.training_states(interaction) for tower in self.towers]
        states = torch.cat([found.interests[:, 0] for found in each], 1)
        return states, each[0].target, each[0].row, sum(found.penalty for found in each)

    def score_loss(self, states: Tensor, target: Tensor, user: Tensor, vectors_of) -> Tensor:
        """The loss of states [P, D] whose scores are products with ``vectors_of(items)`` (``vectors_of()``: of all).

        ``ce`` is a softmax over the competing items (``candidates``), or over ``num_negatives`` of them
        (``negatives_for``: drawn for the batch, or for each target); ``bce`` and ``gbce`` draw ``num_negatives`` (at
        least one) for each target, outside the user's history.
        """
        count = self.item_settings.num_negatives
        if self.wanted.loss == "ce" and not count:
            vectors = vectors_of()
            every = len(self.competing) == self.n_items - 1
            competing = vectors if every else F.pad(vectors[self.competing], (0, 0, 1, 0))
            positive = loss.target_score(states, vectors, target)
            return loss.full_softmax_loss(states, competing, positive, dtype=self.logits_dtype)
        positive = (states * vectors_of(target)).sum(-1)
        if self.wanted.loss == "ce":
            drawn = self.sampler.draw(count, len(target))
            scores = drawn_scores(states, drawn.items, vectors_of, self.n_items)
            return sampled_softmax_loss(positive, positive, target, drawn, scores)
        drawn = self.negatives(user, max(count, 1))
        negative = torch.einsum("pd,pkd->pk", states, vectors_of(drawn))
        gbce = self.wanted.loss == "gbce"
        power = gbce_power(max(count, 1), len(self.competing) + 1, self.wanted.gbce_calibration) if gbce else 1.0
        return binary_loss(positive, negative, power, self.wanted.bce_reduction)

    # ------------------------------------------------------------------ scoring
    def item_vectors(self, items: Tensor | None = None) -> Tensor:
        """Items [...] -> [..., E d], or the catalogue -> [N, E d]: the towers' vectors, weighted, side by side."""
        each = [tower.vectors(items) for tower in self.towers]
        weight = self._weights(items)
        if weight is not None:
            each = [vectors * weight[..., e, None] for e, vectors in enumerate(each)]
        return torch.cat(each, -1) if len(each) > 1 else each[0]

    def _weights(self, items: Tensor | None) -> Tensor | None:
        """What each expert's score of an item counts, [..., E]; None where all count one.

        The ids of an item that training never saw mean nothing. With ``unseen_ids=text`` its text experts stand in for
        all others, and count, in equal parts, what all do together: it is ranked by its text, on the scale of every
        other item. (Parts as the gate has them would divide by a weight that may vanish.)
        """
        weight = None if self.gate is None else self.gate(items)
        instead = self.instead_of_ids
        if instead is None:
            return weight
        seen = (self.seen if items is None else self.seen[items])[..., None]
        if weight is None:
            weight = torch.ones(*seen.shape[:-1], len(self.towers), device=seen.device)
        if self.wanted.unseen_ids == "text":
            return torch.where(seen, weight, weight.sum(-1, keepdim=True) * instead / instead.sum())
        return torch.where(seen, weight, weight * instead)

    def _instead_of_ids(self) -> Tensor | None:
        """Bool [E], the experts that say something of an item that training never saw; None where all do."""
        if self.seen is None or self.wanted.unseen_ids == "learned":
            return None
        by_text = self.wanted.unseen_ids == "text"
        able = [tower.kind in OF_TEXT if by_text else tower.kind != "id" for tower in self.towers]
        return torch.tensor(able) if any(able) else None

    def scored_vectors(self) -> Tensor:
        """[N, E d]: the vectors whose inner product with a state is the score. Kept while the model evaluates."""
        if self.training:
            return self._with_offset(self.item_vectors())
        if self._catalogue is None:
            with torch.no_grad():
                # one tower's vectors may be its parameter, which would be registered, and saved, a second time
                self._catalogue = self._with_offset(self.item_vectors()).detach()
        return self._catalogue

    @property
    def _has_offset(self) -> bool:
        return self.seen is not None and self.wanted.unseen_offset != 0

    def _with_offset(self, vectors: Tensor) -> Tensor:
        """One more dimension, in which states are one: an inner product then holds the offset too."""
        if not self._has_offset:
            return vectors
        return torch.cat([vectors, -self.wanted.unseen_offset * (~self.seen)[:, None].to(vectors.dtype)], 1)

    def interests(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """[B, L], [B] -> [B, 1, E d]: a user's state, ready for an inner-product index over ``scored_vectors``."""
        states = torch.cat([tower.states(item_seq, item_seq_len) for tower in self.towers], 1)
        return (F.pad(states, (0, 1), value=1.0) if self._has_offset else states)[:, None]

    @scored_by_products
    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """[B, N], by one matrix product."""
        states = self.interests(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])[:, 0]
        scores = states @ self.scored_vectors().T
        if self.prior is None:
            return scores
        return scores + self.prior(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])

    def predict(self, interaction: Interaction) -> Tensor:
        """[B]: the score of the row's ``item_id``."""
        states = self.interests(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])[:, 0]
        items = interaction[self.ITEM_ID]
        scores = (states * self.scored_vectors()[items]).sum(-1)
        if self.prior is None:
            return scores
        return scores + self.prior.of_items(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN], items)

    def embeddings(self) -> dict[str, Tensor]:
        """Item vectors [N, d] by name, for :mod:`recbole_eimf.study.agreement`: each tower's, the ids and projected
        text it is made of, and the text itself, where the model was built with text."""
        found = {} if self.text is None else {"titles": self.text}
        with torch.no_grad():
            for tower in self.towers:
                table = tower.table
                found[tower.name] = tower.targets.weight[: self.n_items]
                if tower.targets is not table:
                    found[f"{tower.name}.history"] = table.weight[: self.n_items]
                if table.kind in ("add", "concat", "gelu"):
                    found[f"{tower.name}.id"] = table.ids()[: self.n_items]
                    found[f"{tower.name}.text"] = table.projected()[: self.n_items]
        return found

    # ------------------------------------------------------------------ what was made from parameters is made again
    def train(self, mode: bool = True):
        self._catalogue = None
        return super().train(mode)

    def load_state_dict(self, *args, **kwargs):
        self._catalogue = None
        return super().load_state_dict(*args, **kwargs)

    def _apply(self, function, *args, **kwargs):
        self._catalogue = None
        return super()._apply(function, *args, **kwargs)


def numbered(kinds: Sequence[str]) -> list[tuple[str, int]]:
    """Each kind with how many of it stand before.

    >>> numbered(["id", "text", "id"])
    [('id', 0), ('text', 0), ('id', 1)]
    """
    return [(kind, list(kinds[:place]).count(kind)) for place, kind in enumerate(kinds)]
