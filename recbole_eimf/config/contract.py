"""What the configuration, the data and the trainer ask a model's *class*, before there is a model.

:class:`ModelContract` holds the questions with the answers of a model that is not ours; models of ours answer for
themselves (:mod:`recbole_eimf.model.base`). :func:`contract_of` is how everybody asks.
"""

from __future__ import annotations

from typing import Any

#: of ``recency_half_life``: validation chooses
CHOSEN = "chosen"


class ModelContract:
    """The questions, answered as RecBole's own models would."""

    #: batches are as wide as their longest row; False: every row has MAX_ITEM_LIST_LENGTH items
    trims_batches: bool = False
    #: it only counts: one pass, no seed matters
    counting: bool = False
    #: weights that validation chooses among, one an epoch, of a model that has nothing else to train (``set_weight``)
    weights: tuple[float, ...] = ()
    #: whether its scores are counts or made of counts alone, 0 where there is none; such can choose how fast to forget
    counts_alone: bool = False
    #: it has ``phases`` before its last, and a name for that: ``last_phase`` (:mod:`recbole_eimf.trainer.phases`)
    in_phases: bool = False
    #: whether the key ``backbone`` chooses its network
    takes_backbone: bool = False
    #: the one backbone it has, whatever the key says
    fixed_backbone: str | None = None
    #: whether the order of a history makes a difference
    reads_order: bool = True
    #: whether items that training never saw can be ranked by their text (``place_unseen``)
    places_unseen: bool = False
    #: data set and trainer; None: those that every model gets
    dataset_class: type | None = None
    trainer_class: type | None = None

    @classmethod
    def backbone_name(cls, config: Any) -> str | None:
        """The backbone of a configuration; None where it has none."""
        return None

    @classmethod
    def choices(cls, config: Any) -> tuple[Any, ...]:
        """``weights``, of a configuration: what validation chooses among, one an epoch; empty where it trains."""
        return cls.weights

    @classmethod
    def chosen(cls, config: Any, epoch: int) -> dict[str, Any] | None:
        """What a run whose best epoch (from 0) was this chose in place of a key's ``chosen``, by the key; or None."""
        return None

    @classmethod
    def choose_training_view(cls, config: Any) -> str:
        """The rows it trains on (:mod:`recbole_eimf.data.views`), where ``training_view`` does not say."""
        return "prefix"

    @classmethod
    def needs_side_information(cls, config: Any) -> str | None:
        """``"text"``, ``"interests"`` (and text), or None: what is attached to the training part."""
        return None

    @classmethod
    def needs_next_items(cls, config: Any) -> bool:
        """Whether it also reads what an LLM says is bought after each item."""
        return False

    @classmethod
    def reads_item_text(cls, config: Any) -> bool:
        """Whether the model itself reads items' text: it may be attached only to say whose it is."""
        return cls.needs_side_information(config) is not None

    @classmethod
    def check_configuration(cls, config: Any) -> None:
        """Refuse settings it cannot honour, before any data are read. Raises ConfigError."""


def contract_of(model_class: Any) -> type[ModelContract]:
    """The class itself where it is one of ours, else the answers of a model that is not."""
    return model_class if is_ours(model_class) else ModelContract


def is_ours(model_class: Any) -> bool:
    """Whether a model class is one of this plugin's, or derives from one."""
    return isinstance(model_class, type) and issubclass(model_class, ModelContract)
