"""The baselines of PAD's table 2, made of PAD's parts: same rows, losses, tables and trainer.

``SMEM`` stands in :mod:`recbole_eimf.model.pad.pad`. The published descriptions are a sentence each (section 4.1.3);
what they leave open is decided in the docstrings.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_eimf.core.errors import ConfigError
from recbole_eimf.data.views import host_side
from recbole_eimf.model.backbones.backbone import backbone_class
from recbole_eimf.model.layer import unit_rows
from recbole_eimf.model.losses.loss import info_nce
from recbole_eimf.model.pad.pad import batch_items
from recbole_eimf.model.pad.towers import TowerModel
from recbole_eimf.model.phase import Phase


class Hybrid(TowerModel):
    """Ids and projected text joined into one item vector (``fusion``), one tower, trained from scratch."""

    @classmethod
    def expert_kinds(cls, config) -> tuple[str, ...]:
        return ("hybrid",)


class MoRec(TowerModel):
    """Projected text in place of ids (Yuan et al. 2023)."""

    @classmethod
    def expert_kinds(cls, config) -> tuple[str, ...]:
        return ("text",)


class MAKE(TowerModel):
    """A text expert pre-trained as MoRec, its score then fused with that of an id expert (Sheng et al. 2024).

    **Decision:** the id expert is pre-trained too where ``pretrain=all``; the fusion is ``gate``, by default one
    learned weight per expert.
    """

    last_phase = "finetune"

    @classmethod
    def expert_kinds(cls, config) -> tuple[str, ...]:
        return ("id", "text")

    @classmethod
    def check_configuration(cls, config) -> None:
        """Refuse experts that nothing trains. Raises ConfigError."""
        super().check_configuration(config)
        if not config["fine_tune"] and config["pretrain"] != "all":
            raise ConfigError(
                f"fine_tune=False: with pretrain={config['pretrain']} nothing trains MAKE's id expert. Leave fine_tune "
                f"on, or set pretrain=all."
            )

    def phases(self, dataset) -> Iterator[Phase]:
        keys = {"learning_rate": self.wanted.pretrain_learning_rate, "epochs": self.wanted.pretrain_epochs}
        for tower in self.towers:
            if tower.kind == "text" or self.wanted.pretrain == "all":
                yield Phase(f"pretrain-{tower.name}", self.part([tower], dataset), keys, cached=True)


class CTRL(TowerModel):
    """Ids aligned with text by contrast first, then trained alone (Li et al. 2023).

    **Decision:** CTRL contrasts whole samples; here a row's state is contrasted with the mean text of its items, and
    every item's id vector with its text. Stage 1 runs ``align_epochs`` and keeps the last: its loss does not rank.
    """

    last_phase = "finetune"

    @classmethod
    def expert_kinds(cls, config) -> tuple[str, ...]:
        return ("id",)

    @classmethod
    def check_configuration(cls, config) -> None:
        """Refuse a model that is aligned and never trained to recommend. Raises ConfigError."""
        super().check_configuration(config)
        if not config["fine_tune"]:
            raise ConfigError("fine_tune=False: nothing but that phase trains CTRL to recommend. Leave fine_tune on.")

    @classmethod
    def needs_side_information(cls, config) -> str | None:
        super().needs_side_information(config)
        return "text"

    def phases(self, dataset) -> Iterator[Phase]:
        part = ContrastiveStage(self.config, dataset, list(self.towers))
        part.take_text(self)
        keys = {"learning_rate": self.wanted.align_learning_rate, "epochs": self.wanted.align_epochs}
        yield Phase("align", part.to(self.device), keys, select=False)


class ContrastiveStage(TowerModel):
    """CTRL's first stage: symmetric InfoNCE between collaborative and textual sides, of items and of rows."""

    def take_text(self, model: TowerModel) -> None:
        """Hold the text of ``model``, and make a projection to the towers' dimension."""
        self.register_buffer("item_text", model.text, persistent=False)
        self.register_buffer("item_has_text", model.has_text, persistent=False)
        self.has_text = model.has_text
        self.all_told = bool(model.has_text[1:].all())
        self.projection = nn.Linear(model.text.shape[1], self.towers[0].table.embedding.embedding_dim, bias=False)

    def calculate_loss(self, interaction: Interaction) -> tuple[Tensor, Tensor]:
        """(contrast of items, contrast of rows)."""
        (tower,) = self.towers
        tower.table.refresh()
        items = batch_items(interaction, self.ITEM_SEQ, self.ITEM_ID)
        items = items[self.has_text.to(items.device)[items]].to(interaction[self.ITEM_SEQ].device, non_blocking=True)
        of_items = self._contrast(tower.table.ids(items), self.projection(self.item_text[items]))
        sequence, length = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        real = self.item_has_text[sequence][..., None]
        text = (self.item_text[sequence] * real).sum(1) / real.sum(1).clamp(min=1)
        states = tower.states(sequence, length)
        same = _equal_rows(host_side(interaction)[self.ITEM_SEQ], sequence.device)
        told = None if self.all_told else real.any(1)[:, 0]  # of the other rows no text says anything
        return of_items, self._contrast(states, self.projection(text), same, told)

    def _contrast(
        self, first: Tensor, second: Tensor, same: Tensor | None = None, counts: Tensor | None = None
    ) -> Tensor:
        if not len(first):  # a batch of items none of which has text
            return first.sum() + second.sum()
        tau = self.wanted.tau
        pairs = ((first, second), (second, first))
        return sum(info_nce(one, other, tau, same, counts=counts) for one, other in pairs) / 2


def _equal_rows(sequence: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """[B, L] -> [B, B] on ``device``: which rows hold the same items, and are no negatives of each other."""
    _, group = sequence.unique(dim=0, return_inverse=True)
    group = group.to(device, non_blocking=True)
    return group[:, None] == group[None]


class DisCo(TowerModel):
    """Ids and text disentangled in chunks, one tower (Du et al. 2024).

    **Decision** (the paper's sentence: chunks, a sufficiency and a disentanglement loss): the id and the projected text
    vector of an item are each cut into ``chunks``. Sufficiency: the tower's states must find the target by ids alone
    and by text alone, so that neither drops what the task needs. Disentanglement: different chunks of an item, of one
    side or of both, are to point in unrelated directions (mean squared cosine): each holds something of its own.
    """

    @classmethod
    def check_configuration(cls, config) -> None:
        """Refuse chunks that do not divide the dimension of items. Raises ConfigError."""
        super().check_configuration(config)
        chunks = cls.read_settings(config).chunks
        key = backbone_class(cls.backbone_name(config)).dimension_key
        dimension = config[key]
        if dimension and dimension % chunks:
            raise ConfigError(f"chunks={chunks}: a divisor of the dimension of items ({key}={dimension}), at least 2.")

    @classmethod
    def expert_kinds(cls, config) -> tuple[str, ...]:
        return ("hybrid",)

    def calculate_loss(self, interaction: Interaction) -> tuple[Tensor, ...]:
        """(recommendation, weighted sufficiency, weighted disentanglement)."""
        states, target, row, penalty = self._training_states(interaction)
        user, (tower,), weight = interaction[self.USER_ID][row], self.towers, self.batch_weight(interaction)
        recommendation = self.score_loss(states, target, user, self.item_vectors) * weight + penalty
        one_sided = [
            self.score_loss(states, target, user, lambda items=None, side=side: self._side(side, items))
            for side in (tower.table.ids, tower.table.projected)
        ]
        items = batch_items(interaction, self.ITEM_SEQ, self.ITEM_ID).to(target.device, non_blocking=True)
        sufficiency = self.wanted.sufficiency_weight * sum(one_sided) / 2 * weight
        return recommendation, sufficiency, self.wanted.disentanglement_weight * self.disentanglement(items)

    def _side(self, side, items: Tensor | None) -> Tensor:
        vectors = side() if items is None else side(items)
        return unit_rows(vectors) if self.item_settings.score == "cosine" else vectors

    def disentanglement(self, items: Tensor) -> Tensor:
        """Mean squared cosine between different chunks of an item: [n] items -> a scalar."""
        (tower,) = self.towers
        both = torch.cat([tower.table.ids(items), tower.table.projected(items)], 1)
        chunks = unit_rows(both.view(len(items), 2 * self.wanted.chunks, -1))
        cosine = chunks @ chunks.transpose(1, 2)
        number = 2 * self.wanted.chunks
        own = torch.eye(number, dtype=torch.bool, device=items.device)
        return cosine.masked_fill(own, 0).square().sum() / (len(items) * number * (number - 1))
