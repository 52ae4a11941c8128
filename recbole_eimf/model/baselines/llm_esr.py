"""LLM-ESR (Liu et al., NeurIPS 2024): two views of items, and self-distillation from users of like text.

**Decisions.** A user's text vector is the mean of the texts of their training items, where the paper embeds a prompt of
the titles. The loss is this project's (softmax over the catalogue, all positions), where the paper has a pairwise one.
Teachers are the users' states at the start of the epoch (``similar_states=step``: of the step, as in the paper, which
encodes ten histories more for every row). The views are described in :mod:`recbole_eimf.model.backbones.dual_view`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_eimf.config import keys
from recbole_eimf.config.keys import DistillationSettings
from recbole_eimf.config.models import DUAL_BACKBONES
from recbole_eimf.core.errors import ConfigError, suggestion
from recbole_eimf.model.backbones.backbone import TrainingStates
from recbole_eimf.model.ibim import IBIM
from recbole_eimf.model.item_table import ItemTable, principal_components

_LIKENESSES = 5 * 10**7  # of users to users that are held at a time
_USERS_TOGETHER = 2048  # whose states are made at a time


class TwoViewTable(ItemTable):
    """[id, adapted text], [rows, 2 d]: ids from the text's principal components, text frozen under two linear maps.

    Args:
        as of :class:`~recbole_eimf.model.item_table.ItemTable`; ``dimension`` is 2 d.
    """

    def __init__(
        self, n_items: int, dimension: int, settings, text: Tensor, has_text: Tensor, fitted: Tensor | None
    ) -> None:
        super().__init__(n_items, dimension // 2, settings)
        self.dimension, self.kind = dimension, "two views"
        with torch.no_grad():
            self.embedding.weight[:] = principal_components(
                text, has_text, dimension // 2, settings.item_init_std, fitted=fitted
            )
            self.embedding.weight[0] = 0
        self.register_buffer("text", text, persistent=False)
        width = max(text.shape[1] // 2, 1)
        self.projection = nn.Sequential(nn.Linear(text.shape[1], width), nn.Linear(width, dimension // 2))
        self.register_buffer("has_text", has_text, persistent=False)

    def _fold(self) -> Tensor:
        return torch.cat([self.embedding.weight, self.projection(self.text) * self.has_text[:, None]], 1)


class LLMESR(IBIM):
    """IBIM over a dual view, plus alpha times the squared distance of a user's state to the mean of similar users'."""

    def __init__(self, config, dataset) -> None:
        self.distillation = keys.read(DistillationSettings, config)
        super().__init__(config, dataset)
        self._teachers: Tensor | None = None  # [rows, 2 d], of this epoch
        if self.inference_only or not self.distillation.similar_weight:
            return
        users, histories = dataset.sequences()
        found = similar_users(histories, self._text, self.distillation.similar_users)
        row_of = torch.full((dataset.user_num,), -1)
        row_of[torch.as_tensor(users)] = torch.arange(len(users))
        self.register_buffer("row_of", row_of, persistent=False)  # [U], of a training user
        self.register_buffer("similar", found, persistent=False)  # [rows, N], -1 where there is none
        latest = [torch.as_tensor(history[-self.max_seq_length :]) for history in histories]
        self.register_buffer("histories", nn.utils.rnn.pad_sequence(latest, batch_first=True), persistent=False)

    @property
    def _titles_make_vectors(self) -> bool:
        return True

    @classmethod
    def network_name(cls, config) -> str:
        return f"Dual{cls.backbone_name(config)}"

    @classmethod
    def check_configuration(cls, config) -> None:
        """Refuse a backbone without a dual view, and another way of text. Raises ConfigError."""
        name = cls.backbone_name(config)
        if name not in DUAL_BACKBONES:
            raise ConfigError(
                f"backbone={name!r}:{suggestion(str(name), DUAL_BACKBONES)} LLMESR's two views need a causal network "
                f"of RecBole's: {', '.join(DUAL_BACKBONES)}."
            )
        for key, only in (("item_text", "none"), ("item_init", "normal"), ("vector_graph", "none")):
            if config[key] not in (only, None):
                raise ConfigError(f"{key}={config[key]}: LLMESR's views say how text joins ids; leave {key}={only}.")
        super().check_configuration(config)

    @classmethod
    def needs_side_information(cls, config) -> str | None:
        return "text"

    def _make_table(self, dimension: int, extra_rows: int) -> ItemTable:
        if self.inference_only:
            return super()._make_table(dimension, extra_rows)
        return TwoViewTable(self.n_items, dimension, self.item_settings, self._text, self._has_text, self._fitted)

    @property
    def looks_up(self) -> bool:
        return False  # every row depends on the projection

    def calculate_loss(self, interaction: Interaction) -> tuple[Tensor, ...]:
        """(recommendation, alpha times the self-distillation)."""
        states, vectors, readout = self._forward(interaction)
        recommendation = self._recommendation_loss(states, vectors, readout, interaction)
        if not self.distillation.similar_weight:
            return recommendation, readout.new_zeros(())
        found = self._distilled(interaction[self.USER_ID], states)
        return recommendation, self.distillation.similar_weight * found

    def _distilled(self, user: Tensor, states: TrainingStates) -> Tensor:
        """Mean squared distance of the rows' latest states to their teachers'."""
        # states stand by row; how many rows have one is not asked, which would wait for the device
        row = torch.arange(len(user), device=user.device)
        last = (torch.searchsorted(states.row, row, right=True) - 1).clamp(min=0)
        mine = states.interests[last, 0]  # [B, 2 d]
        similar = self.similar[self.row_of[user]]  # [B, N]
        known = (similar >= 0) & (states.row[last] == row)[:, None]
        with torch.no_grad():
            of_others = self._states_of(similar.clamp(min=0))  # [B, N, 2 d]
            teacher = (of_others * known[..., None]).sum(1) / known.sum(1, keepdim=True).clamp(min=1)
        told = known.any(1)
        return ((mine - teacher).square().mean(1) * told).sum() / told.sum().clamp(min=1)

    def _states_of(self, rows: Tensor) -> Tensor:
        """Training users [...] -> [..., 2 d]: their states after all their training items."""
        if self.distillation.similar_states == "step":
            distinct, place = rows.unique(return_inverse=True)
            return self._latest_states(self.histories[distinct])[place]
        if self._teachers is None:
            # without dropout, and leaving the numbers that training draws as they are
            self.backbone.train(False)
            self._teachers = torch.cat([self._latest_states(part) for part in self.histories.split(_USERS_TOGETHER)])
            self.backbone.train(True)
        return self._teachers[rows]

    def _latest_states(self, histories: Tensor) -> Tensor:
        return self.backbone.interests_by_length(histories, (histories != 0).sum(1))[:, 0]

    def train(self, mode: bool = True):
        self._teachers = None  # an epoch begins, or ends
        return super().train(mode)


def similar_users(histories, text: Tensor, count: int) -> Tensor:
    """Who is likest to each user by the mean text of their items (cosine), themselves left out.

    Args:
        histories: lists of item ids; text: [N, d_t], zero where an item has none; count: N of the paper.

    Returns:
        int64 [users, at most count]; -1 for a user without text, who also is nobody's.
    """
    means = torch.stack([F.normalize(text[torch.as_tensor(items)], dim=-1).sum(0) for items in histories])
    unit = F.normalize(means, dim=-1)
    known = unit.any(1)
    kept = max(min(count, len(unit) - 1), 1)
    found = []
    together = max(_LIKENESSES // len(unit), 1)
    for first in range(0, len(unit), together):
        likeness = unit[first : first + together] @ unit.T
        likeness[:, ~known] = -torch.inf
        likeness[torch.arange(len(likeness)), torch.arange(first, first + len(likeness))] = -torch.inf
        value, who = likeness.topk(kept)
        found.append(who.masked_fill(value == -torch.inf, -1))
    return torch.cat(found).masked_fill(~known[:, None], -1)
