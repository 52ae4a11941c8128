"""The contract of backbones: RecBole's networks (``recbole_backbone``) and ours (``multi_interest``).

A backbone turns item sequences into interests. EIMF and IBIM know nothing else of it:

* ``interests(item_seq, item_seq_len) -> [B, K, d]``: what is served; a user with fewer than K interests has copies of
  the first in the other slots, which changes no maximum over interests;
* ``positions(item_seq) -> [B, L, d]`` where the network is causal: the state after each item;
* ``training_states(batch) -> TrainingStates``: the states a training batch asks to predict items with;
* ``item_embedding``: the :class:`~recbole_eimf.model.item_table.ItemTable`; ``item_bias`` [N] or None;
* ``view``: the training rows it wants (:mod:`recbole_eimf.data.views`).

A further backbone is one class, in any importable module: ``--backbone=package.module:Class``. The shipped ones have a
card each in :mod:`recbole_eimf.config.models`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from recbole_eimf.config.models import load_backbone_class, short_name
from recbole_eimf.core.errors import ConfigError, UserError, raised, suggestion
from recbole_eimf.data.views import TARGET_LIST, TRAINING_VIEWS, host_side
from recbole_eimf.model.item_table import ItemTable
from recbole_eimf.model.layer import encoded_by_length

if TYPE_CHECKING:  # what serving needs of a backbone is free of RecBole
    from recbole.data.interaction import Interaction

#: (dimension, extra rows) -> table; the model that owns the text makes it
TableFactory = Callable[[int, int], ItemTable]


class TrainingStates(NamedTuple):
    """States of a training batch, one per target.

    interests: [P, K, d]; target: [P] item ids; row: [P] the batch row a target belongs to, ascending, every row of the
    batch at least once; penalty: a scalar the backbone adds to the recommendation loss; mask: [P, K] bool, False where
    an interest is a copy of a user's first because the user has fewer than K, None where all are real; before: [P] the
    item before each target, 0 where there is none.
    """

    interests: Tensor
    target: Tensor
    row: Tensor
    penalty: Tensor | float
    mask: Tensor | None = None
    before: Tensor | None = None


def target_places(batch: Interaction) -> tuple[Tensor, Tensor]:
    """(row, column) of the targets in a batch of ``sequence`` rows, int64 [P] each, in their order."""
    found = (host_side(batch)[TARGET_LIST] != 0).nonzero(as_tuple=True)
    row, column = (part.to(batch[TARGET_LIST].device, non_blocking=True) for part in found)
    return row, column


def last_items(item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
    """[B, L] right-padded, [B] -> [B]."""
    return item_seq.gather(1, item_seq_len[:, None] - 1)[:, 0]


class WeighsTargets:
    """Part of a recommender that lets every target of an epoch weigh the same.

    Rows of like length share a batch, so a mean over a batch of long rows would count each of its targets for less than
    one of short rows: a batch weighs by its targets, in units of the mean of all rows.
    """

    mean_targets = 1.0

    def count_targets(self, dataset) -> None:
        """Take the mean number of targets from the training rows of ``dataset``."""
        view = getattr(dataset, "view", None)
        if hasattr(view, "targets"):
            self.mean_targets = float(view.targets.mean())

    def batch_weight(self, batch: Interaction) -> Tensor | float:
        """What a batch's mean loss is to be multiplied by; 1 where every row has one target."""
        if TARGET_LIST not in batch:
            return 1.0
        return (batch[TARGET_LIST] != 0).sum(1).float().mean() / self.mean_targets


class Backbone(nn.Module):
    """The contract; subclasses give ``interests`` and, where causal, ``positions``."""

    view: str = "prefix"
    #: whether PAD's towers can be built over it: K = 1, and every tower takes its states at the same places
    fits_towers: bool = False
    #: whether a row's own target is learned; False: only what is hidden within the row is
    sees_what_follows: bool = True
    #: whether it has an encoder that ``torch_compile`` compiles
    has_transformer: bool = False
    #: the key of d, the dimension of its items
    dimension_key: str = "hidden_size"
    item_bias: Tensor | None = None
    #: beta of REMI's interest-aware hard negatives; None trains with the plain softmax
    hard_negative_beta: float | None = None

    def __init__(self, config) -> None:
        super().__init__()
        self.item_seq_field = config["ITEM_ID_FIELD"] + config["LIST_SUFFIX"]
        self.length_field = config["ITEM_LIST_LENGTH_FIELD"]
        self.item_field = config["ITEM_ID_FIELD"]
        self.max_length = config["MAX_ITEM_LIST_LENGTH"]

    def interests(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """[B, L] right-padded item ids, [B] lengths (at least 1) -> [B, K, d]."""
        raise NotImplementedError

    def interests_by_length(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """:meth:`interests`, with rows of like length together: users are scored in the order of the data, where one
        long history would have every short one of its batch padded to its length."""
        return encoded_by_length(self.interests, item_seq, item_seq_len)

    def positions(self, item_seq: Tensor) -> Tensor:
        """[B, L] -> [B, L, d]: the state after each item. Causal networks only."""
        raise NotImplementedError(f"{type(self).__name__} is not causal: it has no state per position.")

    def training_states(self, batch: Interaction) -> TrainingStates:
        """States for the targets of a batch: every position of ``sequence`` rows, else the one target of a row."""
        item_seq, target = batch[self.item_seq_field], batch[self.item_field]
        if TARGET_LIST in batch:
            row, column = target_places(batch)
            states = self.positions(item_seq)[row, column]
            return TrainingStates(
                states[:, None], batch[TARGET_LIST][row, column], row, 0.0, before=item_seq[row, column]
            )
        interests = self.interests(item_seq, batch[self.length_field])
        row = torch.arange(len(target), device=target.device)
        return TrainingStates(interests, target, row, 0.0, before=last_items(item_seq, batch[self.length_field]))


class CausalBackbone(Backbone):
    """A network with a state per position, served from the last one; subclasses give ``positions``. K = 1."""

    view = "sequence"

    def interests(self, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        states = self.positions(item_seq)
        row = torch.arange(item_seq.shape[0], device=item_seq.device)  # len() would fix an exported graph's batch
        return states[row, item_seq_len - 1][:, None]


def backbone_class(name: str) -> type[Backbone]:
    """Look a backbone up by its name, or by ``package.module:Class``.

    Raises:
        ConfigError: there is none of that name, with the closest one, or the class is no backbone.
    """
    found = load_backbone_class(name)
    if not issubclass(found, Backbone):
        raise ConfigError(
            f"backbone={name}: {found.__name__} is not a backbone; derive it from {Backbone.__module__}.Backbone."
        )
    if found.view not in TRAINING_VIEWS:
        raise ConfigError(
            f"backbone={name}: {found.__name__} says view = {found.view!r}.{suggestion(found.view, TRAINING_VIEWS)} "
            f"Allowed are {', '.join(TRAINING_VIEWS)}."
        )
    return found


def try_out(name: str, made: Backbone) -> None:
    """Ask a backbone of a user's own for the states of two histories, and hold them against the contract.

    What is wrong would show hours later, after an epoch or in the first evaluation, in words about somebody else's
    code; or never: parameters that are made by the first batch are not trained.

    Args:
        name: as the user gave it; made: on its device, before its optimiser is made.

    Raises:
        ConfigError: it fails, or gives something else than states.
    """
    table = getattr(made, "item_embedding", None)
    if not isinstance(table, ItemTable):
        has = "is missing" if table is None else f"is of type {type(table).__name__}"
        raise ConfigError(
            f"backbone={name}: its item_embedding {has}. The model scores by a table that it makes itself: "
            f"self.item_embedding = make_table(dimension, 0)."
        )
    training, before = made.training, {key for key, _ in made.named_parameters()}
    made.eval()  # nothing is dropped, no running mean moves
    device, dimension = table.weight.device, table.weight.shape[1]
    length = torch.tensor([1, made.max_length], device=device)
    item_seq = (torch.arange(made.max_length, device=device) < length[:, None]).long()  # item 1, padded with item 0
    gpus = [device] if device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(gpus):
        shape = f"[2, {made.max_length}]"
        found = _given(name, f"interests(item_seq {shape}, item_seq_len [2])", made.interests, item_seq, length)
        _check_states(found, None, dimension)
        if made.view == "sequence" and type(made).training_states is Backbone.training_states:
            found = _given(name, f"positions(item_seq {shape})", made.positions, item_seq)
            _check_states(found, made.max_length, dimension)
    made.train(training)
    late = sorted({key for key, _ in made.named_parameters()} - before)
    if late:
        raise ConfigError(
            f"backbone={name}: its parameters {', '.join(late)} come to be with the first batch, too late to be "
            f"trained. Make them in __init__."
        )


class _Given(NamedTuple):
    """What a method of a user's backbone gave, and how it was called, for an error."""

    said: str
    value: Any


def _given(name: str, call: str, method: Callable, *arguments: Tensor) -> _Given:
    said = f"backbone={name}: {call}"
    try:
        return _Given(said, method(*arguments))
    except UserError:
        raise
    except NotImplementedError as error:
        remedy = "Define it"
        if call.startswith("positions"):
            remedy += ', or say view = "prefix", a training row for every item of a sequence'
        raise ConfigError(f"{said} is not defined. {remedy} (docs/extend.md).") from error
    except Exception as error:  # whatever it raises, the user wants to know whose error it is
        raise ConfigError(f"{said} raised {raised(error)}.") from error


def _check_states(found: _Given, places: int | None, dimension: int) -> None:
    """Refuse what is not [2, K, d], or [2, ``places``, d]. Raises ConfigError."""
    value = found.value
    needed = f"a tensor of float32 [2, {places or 'K'}, {dimension}] is needed"
    if not isinstance(value, Tensor):
        raise ConfigError(f"{found.said} gave a {type(value).__name__}; {needed}.")
    fits = value.ndim == 3 and value.shape[0] == 2 and value.shape[1] == (places or value.shape[1])
    if not fits or value.shape[2] != dimension or value.dtype != torch.float32:
        kind = str(value.dtype).removeprefix("torch.")
        raise ConfigError(f"{found.said} gave {kind} {list(value.shape)}; {needed}: d is the item table's.")
    if not value.isfinite().all():
        raise ConfigError(
            f"{found.said} gave numbers that are not finite, before any training: a division by zero, or all of a "
            f"row masked?"
        )


def check_training_view(config, name: str) -> None:
    """Refuse ``training_view=sequence``, several targets a row, where a backbone has one state a history.

    Raises:
        ConfigError: it does, and the run trains.
    """
    own = backbone_class(name).view
    if config["training_view"] == "sequence" != own and not config["inference_only"]:
        raise ConfigError(
            f"training_view=sequence: {short_name(name)} has one state a history, and would learn the last target of "
            f"each alone. Leave it out ({own}), or take prefix."
        )
    one_target = config["training_view"] in ("prefix", "random_cut")
    if one_target and not backbone_class(name).sees_what_follows and not config["inference_only"]:
        raise ConfigError(
            f"training_view={config['training_view']}: {short_name(name)} guesses items that are hidden in its row, "
            f"and would never see the one that follows. Leave it out ({own})."
        )
