"""Distillation of users' LLM profiles (Severin et al., ECIR 2026, arXiv 2604.21536).

In its first epochs a sequential model also learns to tell a user's profile, written by an LLM and encoded, from its
states; then it is trained on alone. Nothing of the profiles is needed to score.

**Decisions.** A user's profile is the mean vector of the interests that an LLM named for them, or for the user who
stands for their cluster (the paper asks for a text of every user's). The decoder goes from states to profiles, which
stand still: of the paper's two directions the one whose loss a map to zero does not meet. The loss is scaled to the
size of the recommendation loss (the published ``scale_guide_loss``). States are the interests of the rows, of several
their mean.
"""

from __future__ import annotations

from collections.abc import Iterator

from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_eimf.config import keys
from recbole_eimf.config.keys import DistillationSettings
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.model.backbones.backbone import TrainingStates
from recbole_eimf.model.ibim import IBIM
from recbole_eimf.model.layer import unit_rows
from recbole_eimf.model.phase import Phase


class ProfileDistillation(IBIM):
    """IBIM with a first phase of ``profile_epochs`` in which (1 - a) L_R + a c L_P is trained, c = L_R / L_P.

    ``L_P`` is the mean squared error of decoded states against unit profiles, over rows whose user has one.
    """

    in_phases = True
    last_phase = "train"

    def __init__(self, config, dataset) -> None:
        self.distillation = keys.read(DistillationSettings, config)
        super().__init__(config, dataset)
        self.distilling = False
        if self.inference_only:
            return
        side = getattr(dataset, "side", None)
        if side is None or side.interests is None:
            raise ConfigError("model=ProfileDistillation learns from users' interests, and the data set has none.")
        profiles = user_profiles(self.transform(side.interests), side.interest_mask)
        self.register_buffer("profiles", profiles, persistent=False)  # [C, d_t]
        self.register_buffer("user_exemplar", side.user_exemplar, persistent=False)  # [U]
        self.decoder = nn.Linear(self.backbone.item_embedding.dimension, profiles.shape[1])

    @classmethod
    def needs_side_information(cls, config) -> str | None:
        return "interests"

    @classmethod
    def reads_item_text(cls, config) -> bool:
        """Where its keys ask for it, as IBIM's do; the profiles are an LLM's words."""
        return super().needs_side_information(config) is not None

    def phases(self, dataset) -> Iterator[Phase]:
        """The distillation, whose last epoch is kept: the paper trains a fixed number of epochs."""
        if self.distillation.profile_epochs:
            self.distilling = True
            yield Phase("distil", self, {"epochs": self.distillation.profile_epochs}, select=False)
            self.distilling = False

    def calculate_loss(self, interaction: Interaction) -> Tensor | tuple[Tensor, ...]:
        """The recommendation loss; while distilling, its weighted parts with that of the profiles."""
        if not self.distilling:
            return super().calculate_loss(interaction)
        states, vectors, readout = self._forward(interaction)
        recommendation = self._recommendation_loss(states, vectors, readout, interaction)
        share = self.distillation.profile_weight
        found = self.profile_loss(interaction[self.USER_ID], states)
        scale = (recommendation / found.clamp(min=1e-12)).detach()
        return (1 - share) * recommendation, share * scale * found

    def profile_loss(self, user: Tensor, states: TrainingStates) -> Tensor:
        """Mean squared error of decoded states [P, K, d] against the users' profiles."""
        exemplar = self.user_exemplar[user[states.row]]
        profile = self.profiles[exemplar.clamp(min=0)]
        told = (exemplar >= 0) & profile.any(1)
        error = (self.decoder(states.interests.mean(1)) - profile).square().mean(1)
        return (error * told).sum() / told.sum().clamp(min=1)

    # ------------------------------------------------------------------ checkpoints
    def _load_from_state_dict(self, state_dict, prefix: str, *args) -> None:
        if self.inference_only:
            for key in [k for k in state_dict if k.startswith(prefix + "decoder.")]:
                del state_dict[key]
        super()._load_from_state_dict(state_dict, prefix, *args)


def user_profiles(interests: Tensor, mask: Tensor) -> Tensor:
    """[C, M, d_t], [C, M] bool -> [C, d_t]: the mean of each exemplar's interests, of length one; zero without any."""
    known = mask[..., None]
    return unit_rows((interests * known).sum(1) / known.sum(1).clamp(min=1))
