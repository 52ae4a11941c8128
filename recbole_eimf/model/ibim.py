"""IBIM: a backbone trained on behaviour alone (EIMF section 3.3), the base of EIMF and its own baseline.

``--model=IBIM --backbone=SASRec`` is EIMF without any text or LLM: same rows, same loss, same scores. ``REMI``,
``MIND`` and the others below are IBIM with that backbone.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial, reduce

import torch
from recbole.data.interaction import Interaction
from torch import Tensor
from torch.nn import functional as F

from recbole_eimf.config import keys
from recbole_eimf.config.keys import InterestModelSettings, ItemSettings
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.data.views import HAD_LIST
from recbole_eimf.model.backbones.backbone import TrainingStates, backbone_class, check_training_view
from recbole_eimf.model.diversity import ControllableAggregation
from recbole_eimf.model.item_graph import heaviest, vector_mixture
from recbole_eimf.model.item_table import ItemTable, TextTransform
from recbole_eimf.model.layer import first_rows, hard_readout, scored_items, scored_states, target_attention
from recbole_eimf.model.losses import loss
from recbole_eimf.model.losses.negatives import drawn_scores, sampled_softmax_loss
from recbole_eimf.model.losses.soft_label import NextLabels
from recbole_eimf.model.over_backbone import OverBackbone
from recbole_eimf.model.products import scored_by_products
from recbole_eimf.model.score_prior import prior_of, reads_next, reads_text


class IBIM(OverBackbone):
    """A backbone, an item table, a readout and a softmax over the catalogue.

    Args:
        config: RecBole's configuration.
        dataset: the training part; ``dataset.side`` holds item text where the keys ask for it.

    Raises:
        ConfigError: unknown backbone, or keys that need text where there is none.
    """

    def __init__(self, config, dataset) -> None:
        super().__init__(config, dataset)
        self.interest_settings = keys.read(InterestModelSettings, config)
        side = None if self.inference_only else getattr(dataset, "side", None)
        self.transform = None
        self._text = self._has_text = self._fitted = None
        if side is not None:
            self.transform = TextTransform(side.item_text, side.fitted, self.item_settings)
            self._has_text, self._fitted = side.item_has_text, side.fitted
            self._text = self.transform.of_items(side.item_text, self._has_text)
        self._mixture = self.next_labels = None
        if side is not None:
            wanted = self.item_settings
            self._mixture = vector_mixture(wanted.vector_graph, wanted.vector_graph_weight, side, dataset.item_counts())
            if wanted.next_labels:
                near = (torch.from_numpy(part) for part in heaviest(side.next_known, wanted.next_label_items))
                self.next_labels = NextLabels(*near, wanted.next_labels)
        self.backbone = backbone_class(self.network_name(config))(config, dataset, self._make_table)
        competing = self._competing_items(config, dataset, side is not None and self._titles_make_vectors)
        self.register_buffer("competing", competing, persistent=False)  # [C] ids
        self.negatives = None
        if self.item_settings.num_negatives and not self.inference_only:
            items = torch.arange(1, self.n_items) if self.competing is None else self.competing
            self.negatives = self._new_sampler(dataset, items)
        wants_diversity = self.interest_settings.diversity_lambda != 0
        self.diversity = ControllableAggregation(config, dataset) if wants_diversity else None
        self.prior = prior_of(config, dataset, self.n_items)
        self.count_targets(dataset)

    # ------------------------------------------------------------------ what configuration and data set ask the class
    @classmethod
    def needs_side_information(cls, config) -> str | None:
        """``"text"`` if keys ask for item text, None otherwise."""
        wants = keys.read(ItemSettings, config)
        asked = (
            wants.item_init == "pca_text" or wants.item_text != "none" or reads_text(config) or config["place_unseen"]
        )
        return "text" if asked or wants.vector_graph != "none" or wants.next_labels else None

    @classmethod
    def needs_next_items(cls, config) -> bool:
        wants = keys.read(ItemSettings, config)
        return reads_next(config) or wants.vector_graph == "next" or wants.next_labels > 0

    @classmethod
    def check_configuration(cls, config) -> None:
        """Refuse a backbone that is none, and a loss that the softmax over items would silently stand in for.

        Raises:
            ConfigError: naming the key.
        """
        check_training_view(config, cls.network_name(config))
        mode = (config["eval_args"] or {}).get("mode") or "full"
        drawn = [each for each in (mode.values() if isinstance(mode, Mapping) else [mode]) if each != "full"]
        if config["diversity_lambda"] and drawn:
            raise ConfigError(
                f"diversity_lambda={config['diversity_lambda']}: re-ranks the best of all items, and eval_args draws "
                f"some ({drawn[0]}). Add \"--eval_args={{'mode': 'full'}}\"."
            )
        if config["loss"] in ("bce", "gbce") and not config["inference_only"]:  # a saved model has had its training
            raise ConfigError(
                f"loss={config['loss']}: {config['model']} is trained by a softmax over items. Add --loss=ce (beside "
                f"recipe=published too). A backbone under PAD's binary losses is --model=PAD --experts=id "
                f"--fine_tune=False."
            )

    @property
    def item_bias(self) -> Tensor | None:
        return self.backbone.item_bias

    @property
    def scores_are_products(self) -> bool:
        return self.diversity is None and self.prior is None

    def _make_table(self, dimension: int, extra_rows: int) -> ItemTable:
        return ItemTable(
            self.n_items,
            dimension,
            self.item_settings,
            self._text,
            self._has_text,
            extra_rows,
            self.inference_only,
            self._fitted,
            self._mixture,
        )

    @property
    def _titles_make_vectors(self) -> bool:
        wanted = self.item_settings
        return wanted.item_text != "none" or wanted.item_init == "pca_text" or self._mixture is not None

    # ------------------------------------------------------------------ training
    @property
    def looks_up(self) -> bool:
        """Whether a training step reads a few items' vectors alone, by id: then their gradient can be sparse."""
        alone = self.item_settings.item_text == "none" and self._mixture is None
        few = self.negatives is not None and not self.negatives.for_each
        return few and alone and self.next_labels is None

    def calculate_loss(self, interaction: Interaction) -> Tensor | tuple[Tensor, ...]:
        """The recommendation loss (eq. 13-14) plus the backbone's own penalty."""
        states, vectors, readout = self._forward(interaction)
        return self._recommendation_loss(states, vectors, readout, interaction)

    def _forward(self, interaction: Interaction) -> tuple[TrainingStates, Tensor | LookedUpVectors, Tensor]:
        """(states, scored item vectors [N, d], readout [P, d]) of a batch."""
        self.backbone.item_embedding.refresh()
        states = self.backbone.training_states(interaction)
        vectors = LookedUpVectors(self) if self.looks_up else self.scored_vectors()
        interests = self._scored_states(states.interests)
        return states, vectors, self._readout(interests, vectors[states.target], states.mask)

    def _readout(self, interests: Tensor, query: Tensor, mask: Tensor | None) -> Tensor:
        """Target-aware attention over the interests (eq. 6): [P, K, d], [P, d], [P, K] or None -> [P, d]."""
        if interests.shape[1] == 1:
            return interests[:, 0]
        if self.interest_settings.readout == "hard":
            return hard_readout(query, interests)
        wanted = self.interest_settings
        return target_attention(query, interests, mask, 1 / wanted.readout_temperature, wanted.readout_power)

    def _recommendation_loss(
        self, states: TrainingStates, vectors: Tensor, readout: Tensor, interaction: Interaction
    ) -> Tensor:
        """Eq. 13-14, every target of an epoch weighing the same, plus the backbone's own penalty."""
        bias = self.backbone.item_bias
        positive = loss.target_score(readout, vectors, states.target, bias)
        labelled = self._labelled_score(positive, states, vectors, readout, interaction)
        softmax = self._softmax_loss(readout, states.target, vectors, positive, labelled)
        return softmax * self.batch_weight(interaction) + states.penalty

    def _labelled_score(
        self, positive: Tensor, states: TrainingStates, vectors: Tensor, readout: Tensor, interaction: Interaction
    ) -> Tensor:
        """[P]: the mean score under each target's label (:mod:`recbole_eimf.model.losses.soft_label`)."""
        if self.next_labels is None:
            return positive
        if states.before is None:
            raise ConfigError(
                f"next_labels={self.next_labels.share}: {type(self.backbone).__name__} does not say which item stands "
                f"before a target (TrainingStates.before). Use next_labels=0."
            )
        return self.next_labels(positive, *self._with_bias(readout, vectors), states.before)

    def _with_bias(self, readout: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Readout [P, d] and table [N, d], with one more dimension where items have a bias: their product holds it."""
        bias = self.backbone.item_bias
        if bias is None:
            return readout, vectors
        ones = readout.new_ones(len(readout), 1)
        return torch.cat([readout, ones], 1), torch.cat([vectors, bias[: len(vectors), None]], 1)

    def _softmax_loss(
        self, readout: Tensor, target: Tensor, vectors: Tensor, positive: Tensor, labelled: Tensor
    ) -> Tensor:
        beta, count = self.backbone.hard_negative_beta, self.item_settings.num_negatives
        bias, competing = self.backbone.item_bias, self.competing
        if count:
            drawn = self.negatives.draw(count, len(target))
            of = partial(_rows, vectors)
            scores = drawn_scores(readout, drawn.items, of, self.n_items)
            scores = scores if bias is None else scores + bias[drawn.items]
            return sampled_softmax_loss(positive, labelled, target, drawn, scores, beta or 0.0)
        if competing is not None:  # behind a row of padding, as in the whole table
            vectors = F.pad(vectors[competing], (0, 0, 1, 0))
            bias = None if bias is None else F.pad(bias[competing], (1, 0))
            target = 1 + torch.searchsorted(competing, target)
        return loss.full_interest_aware_loss(
            readout, vectors, positive, labelled, target, beta or 0.0, bias, self.logits_dtype
        )

    # ------------------------------------------------------------------ scoring
    def scored_vectors(self) -> Tensor:
        """[N, d]: the vectors whose inner product with a state is the score."""
        return self._scored(first_rows(self.backbone.item_embedding.weight, self.n_items))

    def _scored(self, vectors: Tensor) -> Tensor:
        return scored_items(vectors, self.item_settings.score)

    def _scored_states(self, states: Tensor) -> Tensor:
        return scored_states(states, self.item_settings.score, self.item_settings.score_scale)

    def interests(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """[B, L], [B] -> [B, K, d]: a user's interests, ready for an inner-product index over ``scored_vectors``."""
        return self._scored_states(self.backbone.interests_by_length(item_seq, item_seq_len))

    @scored_by_products
    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """[B, N]: score(i) = max over k of h_k · e_i (EIMF section 3.4.3, serving). Behaviour alone.

        With ``diversity_lambda`` the top of each row is re-ranked by ComiRec's controllable aggregation.
        """
        interests = self.interests(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        vectors = self.scored_vectors()
        # one interest at a time: [B, K, N] would be K times the memory
        of_interest = (interest @ vectors.T for interest in interests.unbind(1))
        added = self.item_bias
        if self.prior is not None:
            prior = self.prior(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
            added = prior if added is None else added + prior
        if self.diversity is None:
            scores = reduce(torch.maximum, of_interest)
            return scores if added is None else scores + added
        of_interest = (scores if added is None else scores + added for scores in of_interest)
        return self.diversity(of_interest, interaction[HAD_LIST if HAD_LIST in interaction else self.ITEM_SEQ])

    def predict(self, interaction: Interaction) -> Tensor:
        """[B]: the score of the row's ``item_id``."""
        interests = self.interests(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        items = interaction[self.ITEM_ID]
        scores = torch.einsum("bkd,bd->bk", interests, self.scored_vectors()[items]).amax(1)
        bias = self.item_bias
        scores = scores if bias is None else scores + bias[items]
        if self.prior is None:
            return scores
        return scores + self.prior.of_items(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN], items)

    def embeddings(self) -> dict[str, Tensor]:
        """The ids' vectors [N, d], as ``id``."""
        return {"id": self.backbone.item_embedding.weight[: self.n_items]}


def _rows(vectors: Tensor | LookedUpVectors, items: Tensor | None = None) -> Tensor:
    return vectors if items is None else vectors[items]


class LookedUpVectors:
    """The scored vectors of a model as a table that is only ever read by item ids: ``vectors[items]``."""

    def __init__(self, model: IBIM) -> None:
        self.model = model

    def __getitem__(self, items: Tensor) -> Tensor:
        return self.model._scored(self.model.backbone.item_embedding(items))


class ComiRecSA(IBIM):
    """ComiRec-SA (Cen et al. 2020)."""

    fixed_backbone = "ComiRecSA"


class REMI(IBIM):
    """REMI (Xie et al. 2023)."""

    fixed_backbone = "REMI"


class ComiRecDR(IBIM):
    """ComiRec-DR (Cen et al. 2020)."""

    fixed_backbone = "ComiRecDR"


class MIND(IBIM):
    """MIND (Li et al. 2019)."""

    fixed_backbone = "MIND"


class DNN(IBIM):
    """YouTube's DNN (Covington et al. 2016)."""

    fixed_backbone = "DNN"


class LiGR(IBIM):
    """LiGR layers (Borisyuk et al. 2025); with ``recipe=esasrec`` eSASRec (Tikhonovich et al. 2025)."""

    fixed_backbone = "LiGR"


class LLM2BERT4Rec(IBIM):
    """BERT4Rec whose item vectors start from the principal components of item text (Harte et al. 2023)."""

    fixed_backbone = "BERT4Rec"
