"""EIMF (arXiv 2411.09410): explicit semantic interests train a behaviour-only multi-interest model.

**Decisions** where the paper is silent or contradicts itself: eq. 13 prints h_ex, but serving uses behaviour alone and
the text says "user behavior interest representation", so it is h_im; cosine and softmax between d_t and d need a
projection the paper does not have: one learned linear map, shared by interests and item text; rows of a batch that
share what they align are not negatives of each other. Semantic scores (eq. 9) are scaled cosines (``semantic_score``,
``score_scale``) whatever the model's own scores are, because products of projected unit vectors are flat for a softmax
at first; ``recipe=paper`` takes the printed inner products. docs/models.md lists what else that recipe is and is not.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_eimf.config import keys
from recbole_eimf.config.keys import EIMFSettings
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.data.views import host_side
from recbole_eimf.model.backbones.backbone import TrainingStates
from recbole_eimf.model.ibim import IBIM
from recbole_eimf.model.layer import MaskedSelfAttention, scored_items, scored_states, target_attention
from recbole_eimf.model.losses import loss
from recbole_eimf.model.losses.soft_label import SoftLabels
from recbole_eimf.model.selection import distinct_values, shared_rows


class ExplicitInterests(nn.Module):
    """The training-only half of EIMF: projected LLM interests and item text, attended by the target (eq. 7-8).

    Nothing here is needed to score, and the side-loaded tensors are not saved with a checkpoint.

    Args:
        side: side-loaded tensors (:class:`~recbole_eimf.semantic.side_load.SideInformation`).
        transform: the text transform fitted on item text, applied to the interests too.
        dimension: d; users: U; dtype: what products with all items' text are taken in.
    """

    def __init__(self, side, transform, dimension: int, users: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        keep = {"persistent": False}
        self.register_buffer("item_text", transform(side.item_text), **keep)  # [N, d_t]
        other = side.match_text  # what eq. 7-9 match interests to, where it is not the text that is aligned with ids
        # a buffer of its own where it is other text alone: on its way to a GPU one that is shared becomes two
        self.register_buffer("other_text", None if other is None else transform(other), **keep)  # [N, d_t]
        # under global_time nothing learns from the text of items that come later, not even as candidates
        has_text = side.fitted
        self.register_buffer("item_has_text", has_text, **keep)  # [N]
        none = side.interests is None  # use_interests=False: nobody has interests
        self.register_buffer("interests", torch.empty(0) if none else transform(side.interests), **keep)  # [C, M, d_t]
        self.register_buffer("interest_mask", torch.empty(0) if none else side.interest_mask, **keep)  # [C, M]
        # [U], -1 where there is none
        self.register_buffer("user_exemplar", torch.full((users,), -1) if none else side.user_exemplar, **keep)
        absent = torch.zeros(len(has_text)).masked_fill(~has_text, -torch.inf)
        self.register_buffer("absent", None if has_text[1:].all() else absent, **keep)  # [N], 0 or -inf
        self.register_buffer("items_with_text", has_text.nonzero().squeeze(1), **keep)
        narrow = dtype != torch.float32
        self.register_buffer("narrow_text", self.item_text.to(dtype) if narrow else None, **keep)  # [N, d_t]
        other = self.other_text.to(dtype) if narrow and other is not None else None
        self.register_buffer("narrow_other", other, **keep)  # [N, d_t]
        self.projection = nn.Linear(self.item_text.shape[1], dimension, bias=False)
        self.attention = MaskedSelfAttention(dimension)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))  # kept, so that a resumed run goes on alike
        self._counted: int | None = None  # the same number, which no GPU has to be asked for

    @property
    def match_text(self) -> Tensor:
        """What interests are matched to: [N, d_t]."""
        return self.item_text if self.other_text is None else self.other_text

    def projected(self, items: Tensor | slice) -> Tensor:
        """Projected text of many items, that which is aligned with ids: [n, d]."""
        return self._projected(self.item_text, self.narrow_text, items)

    def matched(self, items: Tensor | slice) -> Tensor:
        """Projected text of many items, that which interests are matched to: [n, d]."""
        narrow = self.narrow_text if self.other_text is None else self.narrow_other
        return self._projected(self.match_text, narrow, items)

    def _projected(self, text: Tensor, narrow: Tensor | None, items: Tensor | slice) -> Tensor:
        if narrow is None:
            return self.projection(text[items])
        return F.linear(narrow[items], self.projection.weight.to(narrow.dtype)).float()

    def known(self, user: Tensor, target: Tensor) -> Tensor:
        """[R] bool: the user has interests and the target has text."""
        return (self.user_exemplar[user] >= 0) & self.item_has_text[target]

    def count_step(self) -> int:
        """The number of this training step, from 0."""
        if self._counted is None:
            self._counted = int(self.steps)
        self.steps += 1
        self._counted += 1
        return self._counted - 1

    def forward(self, user: Tensor, target: Tensor) -> Tensor:
        """h_ex of users for targets (eq. 7-8): [R], [R] -> [R, d]; a row of a user without interests is meaningless."""
        exemplar = self.user_exemplar[user].clamp(min=0)
        # users of one exemplar share H_ex: attend once per exemplar
        distinct, inverse = shared_rows(exemplar, len(self.interests))
        mask = self.interest_mask[distinct]
        mask = mask | ~mask.any(1, keepdim=True)  # an exemplar without interests counts nowhere, but not as NaN
        attended = self.attention(self.projection(self.interests[distinct]), mask)
        query = self.projection(self.match_text[target])
        return target_attention(query, attended[inverse], mask[inverse], scale=query.shape[-1] ** -0.5)

    def _load_from_state_dict(self, *args: Any) -> None:
        self._counted = None
        super()._load_from_state_dict(*args)


class EIMF(IBIM):
    """IBIM trained jointly with semantic prediction and modality alignment (eq. 15).

    ``calculate_loss`` returns (L_R, gamma L_S, gamma L_A), whose sum is trained. With ``auxiliary_targets=one`` the
    auxiliary losses take one random target of each row (a user is visited with another one every epoch); with ``all``
    they take every target. With ``auxiliary_interval`` n every n-th batch has them, weighing n times as much: their
    gradient is the same on average and their cost is a n-th.
    """

    def __init__(self, config, dataset) -> None:
        self.eimf = keys.read(EIMFSettings, config)
        super().__init__(config, dataset)
        self.esim = self.labels = None
        if self.inference_only:
            return
        side = getattr(dataset, "side", None)
        if side is None or (side.interests is None and self.eimf.use_interests):
            raise ConfigError(
                "model=EIMF trains with side-loaded interests and the data set has none: build it with "
                "recbole_eimf (register() first), or set inference_only=True to score only."
            )
        dimension = self.backbone.item_embedding.dimension
        self.esim = ExplicitInterests(side, self.transform, dimension, dataset.user_num, self.logits_dtype)
        drawn = self.eimf.semantic_negatives
        self.semantic_negatives = self.item_settings.num_negatives if drawn is None else drawn
        if self.eimf.interest_labels or self.eimf.text_labels:
            parts = (self.esim.item_text, self.esim.item_has_text, self.esim.interests, self.esim.interest_mask)
            self.labels = SoftLabels(*parts, self.eimf)

    @classmethod
    def check_configuration(cls, config) -> None:
        """Refuse soft labels from interests where there are none. Raises ConfigError."""
        super().check_configuration(config)
        wanted = keys.read(EIMFSettings, config)
        if wanted.interest_labels and not wanted.use_interests:
            raise ConfigError(
                f"interest_labels={wanted.interest_labels}: needs interests, and use_interests is False. Set one."
            )
        shares = {key: config[key] or 0.0 for key in ("text_labels", "interest_labels", "next_labels")}
        if sum(shares.values()) > 1:
            said = ", ".join(f"{key}={share}" for key, share in shares.items() if share)
            raise ConfigError(f"{said}: shares of one label, together at most 1; what is left is the target's.")

    @classmethod
    def needs_side_information(cls, config) -> str | None:
        return "interests" if config["use_interests"] else "text"

    # ------------------------------------------------------------------ training
    @property
    def looks_up(self) -> bool:
        return super().looks_up and self.labels is None  # a soft label is a mean over hundreds of items

    def calculate_loss(self, interaction: Interaction) -> tuple[Tensor, ...]:
        states, vectors, readout = self._forward(interaction)
        recommendation = self._recommendation_loss(states, vectors, readout, interaction)
        if not self._takes_auxiliary_losses():
            return recommendation, readout.new_zeros(()), readout.new_zeros(())
        semantic, alignment = self._auxiliary_losses(interaction, states, readout)
        weight = self.eimf.gamma * self.eimf.auxiliary_interval
        return recommendation, weight * semantic, weight * alignment

    def _takes_auxiliary_losses(self) -> bool:
        """Whether this batch, the next to train on, has them."""
        if self.eimf.auxiliary_interval == 1:
            return True
        return self.esim.count_step() % self.eimf.auxiliary_interval == 0

    def _labelled_score(
        self, positive: Tensor, states: TrainingStates, vectors: Tensor, readout: Tensor, interaction: Interaction
    ) -> Tensor:
        labelled = super()._labelled_score(positive, states, vectors, readout, interaction)
        if self.labels is None:
            return labelled
        exemplar = self.esim.user_exemplar[interaction[self.USER_ID][states.row]]
        found = self.labels(positive, *self._with_bias(readout, vectors), states.target, exemplar)
        return found + (labelled - positive)

    def _auxiliary_losses(
        self, interaction: Interaction, states: TrainingStates, readout: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(L_S, L_A) of eq. 9 and 12."""
        zero = readout.new_zeros(())
        chosen = self._auxiliary_rows(states.row, len(interaction[self.ITEM_SEQ]))
        target = states.target[chosen]
        user = interaction[self.USER_ID][states.row[chosen]]
        semantic = alignment = zero
        if len(self.esim.interests):
            known = self.esim.known(user, target)
            explicit = self.esim(user, target)
            if self.eimf.use_prediction:
                semantic = self._semantic_prediction(explicit, target, known)
            if self.eimf.use_alignment:
                exemplar = self.esim.user_exemplar[user]
                same = (target[:, None] == target) & (exemplar[:, None] == exemplar)
                alignment = self._aligned(explicit, readout[chosen], same, known)
        if self.eimf.use_alignment:
            alignment = alignment + self._item_alignment(interaction, target)
        return semantic, alignment

    def _auxiliary_rows(self, row: Tensor, rows: int) -> Tensor:
        """Indices of the targets that enter the auxiliary losses; with ``one``, a random one of each of the batch's
        ``rows``, [rows]."""
        if self.eimf.auxiliary_targets == "all":
            return torch.arange(len(row), device=row.device)
        order = torch.argsort(row.double() + torch.rand(len(row), dtype=torch.float64, device=row.device) * 0.999)
        # every row has a target: those of row r begin where the first r is
        return order[torch.searchsorted(row, torch.arange(rows, device=row.device))]

    def _semantic_prediction(self, explicit: Tensor, target: Tensor, known: Tensor) -> Tensor:
        """Eq. 9: cross entropy of the target among all items that have text, a mean over the rows that are ``known``.

        With ``semantic_negatives``, or ``num_negatives``, the sum over items is estimated from that many drawn ones
        (log-Q corrected).
        """
        states = scored_states(explicit, self.eimf.semantic_score, self.item_settings.score_scale)
        count = self.semantic_negatives
        if count:
            competing = self.esim.items_with_text
            drawn = competing[torch.randint(len(competing), (count,), device=competing.device)]
            positive = (states * self._text_vectors(target)).sum(-1)
            negative = states @ self._text_vectors(drawn).T + math.log(len(competing) / count)
            negative = negative.masked_fill(drawn == target[:, None], -torch.inf)
            return loss.interest_aware_loss(positive, negative, 0.0, counts=known)
        vectors = self._text_vectors(slice(None))
        positive = loss.target_score(states, vectors, target)
        return loss.full_softmax_loss(states, vectors, positive, self.esim.absent, self.logits_dtype, known)

    def _text_vectors(self, items: Tensor | slice) -> Tensor:
        return scored_items(self.esim.matched(items), self.eimf.semantic_score)

    def _item_alignment(self, interaction: Interaction, target: Tensor) -> Tensor:
        """The second pair of eq. 12: text and id vectors of the targets, or of all items of the batch."""
        # an item is not a negative of itself
        if self.eimf.item_alignment == "batch_items":
            there = host_side(interaction)
            items = torch.cat([there[self.ITEM_SEQ].flatten(), there[self.ITEM_ID].flatten()]).unique()
            items = items[self._has_text.to(items.device)[items]].to(target.device, non_blocking=True)
            counts = None
        else:
            items, first = distinct_values(target)
            counts = self.esim.item_has_text[items]
            counts = counts if first is None else counts & first
        if not len(items):
            return self.esim.projection.weight.new_zeros(())
        return self._aligned(self.esim.projected(items), self.backbone.item_embedding(items), counts=counts)

    def _aligned(
        self, first: Tensor, second: Tensor, same: Tensor | None = None, counts: Tensor | None = None
    ) -> Tensor:
        contrast = loss.info_nce(first, second, self.eimf.tau, same, self.logits_dtype, counts)
        return self.eimf.alpha * contrast + self.eimf.beta * loss.cosine_distance(first, second, counts)

    # ------------------------------------------------------------------ checkpoints
    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if self.inference_only:
            for key in [k for k in state_dict if k.startswith(prefix + "esim.")]:
                del state_dict[key]
        super()._load_from_state_dict(state_dict, prefix, *args)
