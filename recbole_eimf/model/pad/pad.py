"""PAD (arXiv 2412.04107): pre-train, align, disentangle.

Three phases (section 3.1): an id expert is trained alone; the aligned expert, which starts from a copy of it, learns
to join ids and text under a recommendation loss and MK-MMD; three experts, of ids, of text and the aligned one, are
trained together, mixed by a gate that knows the candidate's frequency.

**Decisions** where the paper is silent: the alignment loss of a batch sees each of its items once, items that have text
only, and at most ``mmd_items`` of them; a phase without a loss that ranks (``alignment=non_anchored``) keeps its last
epoch; the state before the last phase takes part in choosing the best epoch. The gate is that of the released code,
which knows an item's frequency bucket and not, as section 3.3 has it, the experts' embeddings too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_eimf.config.keys import PADSettings
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.data.views import TARGET_LIST, host_side
from recbole_eimf.model.losses.loss import info_nce
from recbole_eimf.model.losses.mmd import mmd
from recbole_eimf.model.pad.experts import Tower, parse_experts
from recbole_eimf.model.pad.towers import TowerModel
from recbole_eimf.model.phase import Phase


class Alignment(TowerModel):
    """Phase 2 (section 3.2): the aligned expert alone, under eq. 4.

    ``calculate_loss`` returns (anchor, gamma * alignment); without an anchor, the alignment loss alone.
    """

    def calculate_loss(self, interaction: Interaction) -> tuple[Tensor, ...]:
        aligned = self.alignment_loss(batch_items(interaction, self.ITEM_SEQ, self.ITEM_ID))
        if self.wanted.alignment == "non_anchored":
            return (aligned,)
        return super().calculate_loss(interaction), self.wanted.gamma * aligned

    def alignment_loss(self, items: Tensor) -> Tensor:
        """MK-MMD, or InfoNCE, between projected text and id vectors of distinct items [n] (eq. 5).

        The text itself is a constant (SG in eq. 5); its projection learns.
        """
        (tower,) = self.towers
        items = items[self.has_text.to(items.device)[items]]
        return text_alignment(tower, items, self.wanted)


def text_alignment(tower: Tower, items: Tensor, wanted: PADSettings) -> Tensor:
    """The alignment loss of a tower with ids and text for distinct items [n] that have text: a scalar."""
    if wanted.mmd_items and len(items) > wanted.mmd_items:
        items = items[torch.randperm(len(items), device=items.device)[: wanted.mmd_items]]
    items = items.to(tower.table.projection[0].weight.device, non_blocking=True)
    text, ids = tower.table.projected(items), tower.table.ids(items)
    if not len(items):
        return text.sum()
    if wanted.kernel == "infonce":
        return info_nce(text, ids, wanted.tau)
    return mmd(text, ids, wanted.kernel, wanted.mmd_estimator == "unbiased", wanted.mmd_width)


def batch_items(interaction: Interaction, sequence_field: str, item_field: str) -> Tensor:
    """The distinct items of a batch, targets included, without padding: [n], where the batch was made."""
    interaction = host_side(interaction)
    parts = [interaction[sequence_field], interaction[item_field]]
    parts += [interaction[TARGET_LIST]] if TARGET_LIST in interaction else []
    items = torch.cat([part.flatten() for part in parts]).unique()
    return items[items != 0]


class PAD(TowerModel):
    """Experts by ``experts``, alignment by ``alignment`` and ``kernel``, mixed by ``gate``.

    ``pretrain=id`` is the paper's: the experts that were not trained before meet in the last phase. ``pretrain=all``
    trains every expert alone first; with ``fine_tune=False`` the model is the sum of separately trained towers.
    """

    last_phase = "finetune"

    @classmethod
    def expert_kinds(cls, config) -> tuple[str, ...]:
        wanted = cls.read_settings(config)
        kinds = parse_experts(wanted.experts)
        if not (wanted.fine_tune or config["inference_only"]):
            cls._check_trained(kinds, wanted)
        return kinds

    @staticmethod
    def _check_trained(kinds: tuple[str, ...], wanted: PADSettings) -> None:
        """Without a last phase every expert needs an earlier one. Raises ConfigError naming one that has none."""
        trained = {"id"}
        if wanted.pretrain == "all":
            trained |= {"text", "hybrid", "next"}
        if wanted.alignment != "none":
            trained.add("aligned")
        left = next((kind for kind in kinds if kind not in trained), None)
        if left is None:
            return
        # SMEM's alignment is none whatever is given
        remedy = "or take model=PAD with alignment=anchored" if left == "aligned" else "or set pretrain=all"
        raise ConfigError(
            f"fine_tune=False: with pretrain={wanted.pretrain}, alignment={wanted.alignment} nothing trains the {left} "
            f"expert of experts={wanted.experts}. Leave fine_tune on, {remedy}."
        )

    def phases(self, dataset) -> Iterator[Phase]:
        wanted = self.wanted
        keys = {"learning_rate": wanted.pretrain_learning_rate, "epochs": wanted.pretrain_epochs}
        aligned = [tower for tower in self.towers if tower.kind == "aligned"]
        kinds = ("id",) if wanted.pretrain == "id" else ("id", "text", "hybrid", "next")
        alone = [tower for tower in self.towers if tower.kind in kinds]
        source = next((tower for tower in alone if tower.kind == "id"), None)
        if aligned and source is None:  # the aligned expert starts from pre-trained ids, whether or not they are kept
            source = self.new_tower("id", 0, dataset).to(self.device)
            alone.append(source)
        for tower in alone:
            yield Phase(f"pretrain-{tower.name}", self.part([tower], dataset), keys, cached=True)
        for tower in aligned:
            tower.start_from(source)
            if wanted.alignment != "none":
                yield from self._align(tower, dataset)

    def _align(self, tower: Tower, dataset) -> Iterator[Phase]:
        wanted = self.wanted
        part = Alignment(self.config, dataset, [tower])
        part.has_text = self.has_text
        keys = {"learning_rate": wanted.align_learning_rate, "epochs": wanted.align_epochs}
        tower.table.frozen_ids = wanted.alignment == "anchored_frozen"
        yield Phase(f"align-{tower.name}", part.to(self.device), keys, select=wanted.alignment != "non_anchored")
        tower.table.frozen_ids = False


class SMEM(PAD):
    """PAD's experts without the align phase: Shared and Modality-specific EMbeddings (section 4.1.3)."""

    @classmethod
    def read_settings(cls, config) -> PADSettings:
        return replace(super().read_settings(config), alignment="none")
