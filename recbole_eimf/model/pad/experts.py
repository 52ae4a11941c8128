"""Experts: towers over ids, over text or over both, and a gate that sums their scores (PAD section 3.3, eq. 8-11).

A tower is a backbone with an item table of its own (the ``next`` expert with two: its histories are made of what a
language model says is bought after their items, its candidates of their texts). Whatever joins ids and text, an item is
one vector of d numbers per tower, and the sum of E towers is one product of E d numbers:

    score(u, i) = sum over e of w_e(bucket of i) * u_e · v_ei = [u_1 ... u_E] · [w_1 v_1i ... w_E v_Ei]

so that the whole catalogue costs one matrix product per batch, and an inner-product index can serve it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_eimf.config.keys import ItemSettings, PADSettings
from recbole_eimf.config.models import TOWER_BACKBONES
from recbole_eimf.core.errors import ConfigError, suggestion
from recbole_eimf.model.backbones.backbone import TrainingStates, backbone_class
from recbole_eimf.model.item_table import ItemTable
from recbole_eimf.model.layer import first_rows, scored_items, scored_states
from recbole_eimf.model.selection import shared_rows

#: what a tower is made of: ids; projected text; both, trained together; both, the ids pre-trained and aligned to text;
#: what an LLM says is bought next, against text
KINDS = ("id", "text", "hybrid", "aligned", "next")
#: those whose candidates are text alone
OF_TEXT = ("text", "next")
#: the form of a kind's table, where ``fusion`` does not say it
FORMS = {"id": "none", **dict.fromkeys(OF_TEXT, "text")}


def parse_experts(text: str) -> tuple[str, ...]:
    """The kinds of ``experts=id+text+aligned``.

    >>> parse_experts("id + id")
    ('id', 'id')

    Raises:
        ConfigError: a kind that does not exist.
    """
    kinds = tuple(kind.strip() for kind in str(text).split("+"))
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(
                f"experts={text}: no expert {kind!r}.{suggestion(kind, KINDS)} Join {', '.join(KINDS)} by +."
            )
    return kinds


def check_tower_backbone(name: str, model: str) -> str:
    """Return ``name`` if experts can be built over it. Raises ConfigError."""
    if name in TOWER_BACKBONES or (":" in str(name) and backbone_class(name).fits_towers):
        return name
    raise ConfigError(
        f"backbone={name!r}:{suggestion(str(name), TOWER_BACKBONES)} {model} sums towers with one state per target: "
        f"allowed are {', '.join(TOWER_BACKBONES)}, or your own (package.module:Class) that says fits_towers = True."
    )


class ExpertTable(ItemTable):
    """An item table in one of five forms: ``none`` (ids alone), ``text``, ``add``, ``concat`` and ``gelu``.

    ``gelu`` is PAD's aligned expert: ids and projected text, concatenated -> dropout -> linear -> GELU.

    Args:
        form: the form; the other arguments are those of :class:`~recbole_eimf.model.item_table.ItemTable`.
        wanted: projection and dropout.
        seen: bool [N], items whose id vectors count; None: of all.
        looked_up: while training, make the vectors of a batch's items only (losses with drawn negatives).
        fitted: bool [N], the items that ``item_init=pca_text`` is fitted on; None: all with text.

    Raises:
        ConfigError: the form needs text and there is none.
    """

    def __init__(
        self,
        form: str,
        n_items: int,
        dimension: int,
        settings: ItemSettings,
        wanted: PADSettings,
        text: Tensor | None,
        has_text: Tensor | None,
        extra_rows: int,
        inference_only: bool,
        looked_up: bool,
        seen: Tensor | None = None,
        fitted: Tensor | None = None,
    ) -> None:
        plain = replace(settings, item_text="none")
        super().__init__(n_items, dimension, plain, text, has_text, extra_rows, inference_only, fitted)
        self.looked_up = looked_up
        self.frozen_ids = False
        self.dropout = wanted.fusion_dropout
        self.rows = n_items + extra_rows
        self.kind = "none" if inference_only else form
        if self.kind == "none":
            return
        if text is None:
            raise ConfigError(
                "an expert with text needs item text: give text_fields and an .item file, or use experts=id."
            )
        if form == "text":
            del self.embedding
        self.register_buffer("text", F.pad(text, (0, 0, 0, extra_rows)) if extra_rows else text, persistent=False)
        self.projection = text_projection(text.shape[1], dimension, wanted)
        self.each_activated = wanted.text_projection == "gelu"
        known = F.pad(has_text, (0, extra_rows)) if self.each_activated and has_text is not None else None
        self.register_buffer("known", known, persistent=False)  # [rows]
        counted = None if seen is None else F.pad(seen, (0, extra_rows), value=True)
        self.register_buffer("seen", counted, persistent=False)
        if form in ("concat", "gelu"):
            self.mix = nn.Linear(2 * dimension, dimension, bias=form == "gelu")

    def ids(self, items: Tensor | None = None) -> Tensor:
        """Id vectors of items [n], or of all: [n, d]. Constants to the gradient while ``frozen_ids``."""
        weight = self.embedding.weight.detach() if self.frozen_ids else self.embedding.weight
        return weight if items is None else F.embedding(items, weight, padding_idx=0)

    def projected(self, items: Tensor | None = None) -> Tensor:
        """Projected text of items [n], or of all: [n, d]. No text is the zero vector."""
        text = self.text if items is None else self.text[items]
        if not self.each_activated:
            return self.projection(text)
        found = self.projection[1](self.projection[0](text))
        for layer in self.projection[2:]:
            if isinstance(layer, nn.Linear):
                found = F.dropout(found, self.dropout, self.training)
            found = layer(found)
        known = self.known if items is None else self.known[items]
        return found * known[..., None]

    def _fold(self, items: Tensor | None = None) -> Tensor:
        if self.kind == "none":
            return self.ids(items)
        if self.kind == "text":
            return self.projected(items)
        ids, text = self.ids(items), self.projected(items)
        if self.seen is not None:
            ids = ids * (self.seen if items is None else self.seen[items])[:, None]
        if self.kind == "add":
            return ids + text
        both = torch.cat([ids, text], 1)
        if self.kind == "concat":
            return self.mix(both)
        made = F.gelu(self.mix(F.dropout(both, self.dropout, self.training)))
        real = torch.arange(len(made), device=made.device) if items is None else items
        return made * (real != 0)[:, None]  # the bias is padding's too

    def forward(self, ids: Tensor) -> Tensor:
        if not (self.looked_up and self.training):
            return super().forward(ids)
        distinct, place = shared_rows(ids, self.rows)
        return F.embedding(place, self._fold(distinct))


def text_projection(source: int, dimension: int, wanted: PADSettings) -> nn.Sequential:
    """Layers from text of ``source`` numbers to ``dimension``.

    ``linear`` and ``mlp`` have no biases, so that no text stays the zero vector. ``gelu`` has the form and the start of
    PAD's released code (xavier, biases of zero): a GELU after every layer, the last one too.
    """
    kind = wanted.text_projection
    sizes = [source] + [dimension] * (1 if kind == "linear" else 1 + wanted.projection_layers)
    layers: list[nn.Module] = []
    for before, after in zip(sizes, sizes[1:]):
        layers += [nn.Linear(before, after, bias=kind == "gelu"), nn.GELU()]
        if kind == "gelu":
            nn.init.xavier_normal_(layers[-2].weight)
            nn.init.zeros_(layers[-2].bias)
    return nn.Sequential(*(layers if kind == "gelu" else layers[:-1]))


class Tower(nn.Module):
    """One expert: a backbone over a table of its own.

    Args:
        kind: one of ``KINDS``; index: which of its kind it is.
        config, dataset: RecBole's.
        make_table: (dimension, extra rows) -> table.
        settings: how scores are taken.
        make_targets: (dimension, extra rows) -> a table of its own for candidates; None: they are in the other.
    """

    def __init__(
        self, kind: str, index: int, config, dataset, make_table, settings: ItemSettings, make_targets=None
    ) -> None:
        super().__init__()
        self.kind, self.index, self.settings = kind, index, settings
        self.backbone = backbone_class(config["backbone"])(config, dataset, make_table)
        self.own_targets = None if make_targets is None else make_targets(self.table.dimension, 0)

    @property
    def table(self) -> ExpertTable:
        """What histories are made of."""
        return self.backbone.item_embedding

    @property
    def targets(self) -> ExpertTable:
        """What candidates are."""
        return self.table if self.own_targets is None else self.own_targets

    @property
    def name(self) -> str:
        """``id``, and ``id-2`` for a second one."""
        return self.kind if self.index == 0 else f"{self.kind}-{self.index + 1}"

    def training_states(self, batch: Interaction) -> TrainingStates:
        """The backbone's states of a training batch; ``interests`` [P, 1, d] ready to score."""
        self.table.refresh()
        self.targets.refresh()
        found = self.backbone.training_states(batch)
        return found._replace(interests=self._scored_states(found.interests))

    def states(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """[B, L], [B] -> [B, d], ready to score."""
        return self._scored_states(self.backbone.interests_by_length(item_seq, item_seq_len)[:, 0])

    def vectors(self, items: Tensor | None = None) -> Tensor:
        """Scored vectors of items [...] -> [..., d], or of the catalogue [N, d]."""
        table = self.targets
        found = first_rows(table.weight, table.n_items) if items is None else table(items)
        return scored_items(found, self.settings.score)

    def _scored_states(self, states: Tensor) -> Tensor:
        return scored_states(states, self.settings.score, self.settings.score_scale)

    def start_from(self, other: Tower) -> None:
        """Copy another tower's encoder and id vectors; what only this one has stays as it is."""
        self.load_state_dict(other.state_dict(), strict=False)


def frequency_buckets(counts: np.ndarray, buckets: int) -> np.ndarray:
    """Buckets of equal interaction mass by training frequency: 0 is padding, 1 hot, ``buckets`` cold and unseen.

    Items of one frequency share a bucket: the one in which the middle of their interactions lies. So the masses are
    equal up to the mass of one frequency's items (2 % of Prime Pantry's interactions).

    Args:
        counts: training interactions of every item, int [N]; row 0 is padding.

    Returns:
        int64 [N].

    >>> frequency_buckets(np.array([0, 4, 2, 2, 1, 1, 1, 1, 0]), 3)
    array([0, 1, 2, 2, 3, 3, 3, 3, 3])
    """
    frequency, place, items = np.unique(counts[1:], return_inverse=True, return_counts=True)
    mass = (frequency * items)[::-1]  # hot first
    middle = (np.cumsum(mass) - mass / 2)[::-1]
    bucket = np.minimum(buckets * middle / max(mass.sum(), 1), buckets - 1).astype(np.int64) + 1
    return np.concatenate([[0], bucket[place]])


class FrequencyGate(nn.Module):
    """Weights of the experts by the candidate item's bucket: sigmoids, normalised over the experts.

    This is the gate of PAD's released code. The paper's (section 3.3, eq. 11) reads the experts' embeddings beside the
    bucket; here, as there, every bucket has a logit for each expert and nothing else.

    Args:
        bucket: int64 [N], the bucket of every item, 0 to ``buckets``; it is saved with a checkpoint.
        start, end: a logit per expert at bucket 0 (padding) and at the coldest; between them equal steps.
        total: what an item's weights add up to.
    """

    def __init__(self, bucket: Tensor, buckets: int, start: list[float], end: list[float], total: float) -> None:
        super().__init__()
        self.total = total
        self.register_buffer("bucket", bucket)
        first, last = torch.tensor(start)[:, None], torch.tensor(end)[:, None]
        self.logit = nn.Parameter(first + (last - first) * torch.linspace(0, 1, buckets + 1))

    def forward(self, items: Tensor | None = None) -> Tensor:
        """Items [...] -> [..., E], or the catalogue -> [N, E]."""
        weight = torch.sigmoid(self.logit)
        weight = self.total * weight / weight.sum(0)
        return weight.T[self.bucket if items is None else self.bucket[items]]
