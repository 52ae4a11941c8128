"""Item vectors: an embedding by id, which may start from text, or have projected text added to it.

Whatever the training form, an item is one vector of d numbers when it is scored: text is *folded* into the table, and
a checkpoint carries the folded table, so that serving needs no text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_eimf.config.keys import ItemSettings
from recbole_eimf.core.errors import ConfigError
from recbole_eimf.model.placing import Neighbours
from recbole_eimf.model.text_adaptor import text_adaptor
from recbole_eimf.model.text_codes import product_codes


def principal_directions(products: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The directions in which rows vary most, those of the largest variance first.

    Eigenvectors have no sign of their own: the largest entry of each is made positive, so that every machine gets the
    same vectors.

    Args:
        products: [d, d], of centred rows X: X'X, or a multiple of it.
        count: how many, at most d.

    Returns:
        eigenvalues [count]; directions [d, count], unit columns.
    """
    values, directions = torch.linalg.eigh(products)
    order = values.argsort(descending=True)[:count]
    values, directions = values[order], directions[:, order]
    return values, directions * torch.sign(directions.gather(0, directions.abs().argmax(0, keepdim=True)))


class TextTransform:
    """Centring, whitening and dimension reduction of text vectors, fitted on the items that have text.

    ``text_whitening``: ``none`` leaves vectors as they are, ``center`` subtracts the mean, ``half`` also rotates to
    principal components and multiplies by eigenvalue^(-1/4), ``full`` by eigenvalue^(-1/2). ``text_dimension`` keeps
    that many components. Centred vectors are scaled back to a mean squared length of one.
    """

    def __init__(self, text: Tensor, has_text: Tensor, settings: ItemSettings) -> None:
        self.kind = settings.text_whitening
        dimension = settings.text_dimension or text.shape[1]
        if dimension > text.shape[1]:
            raise ConfigError(f"text_dimension={dimension}: the text vectors have {text.shape[1]} dimensions.")
        self.identity = self.kind == "none" and dimension == text.shape[1]
        if self.identity:
            return
        known = text[has_text].double()
        self.mean = known.mean(0) if self.kind != "none" else torch.zeros(text.shape[1], dtype=torch.float64)
        centred = known - self.mean
        values, vectors = principal_directions(centred.T @ centred / max(len(known), 1), dimension)
        power = {"none": 0.0, "center": 0.0, "half": -0.25, "full": -0.5}[self.kind]
        floor = max(float(values.max()) * 1e-6, 1e-30)  # where all texts are alike nothing varies: zeros, not 0 / 0
        self.map = vectors * values.clamp(min=floor).pow(power)
        if power:  # where the fitted texts do not vary (fewer of them than dimensions) others would be blown up
            self.map = self.map * (values > floor)
        moved = centred @ self.map
        self.scale = 1.0 if self.kind == "none" else 1 / moved.square().sum(1).mean().sqrt().clamp(min=1e-12)

    def __call__(self, text: Tensor) -> Tensor:
        """[..., d_t] -> [..., text_dimension or d_t], float32."""
        if self.identity:
            return text.float()
        return ((text.double() - self.mean) @ self.map * self.scale).float()

    def of_items(self, text: Tensor, has_text: Tensor) -> Tensor:
        """The text of all items, [N, d_t] and bool [N], transformed; zero for an item without text, as centring would
        have moved it."""
        return self(text) * has_text[:, None]


def principal_components(
    text: Tensor, has_text: Tensor, dimension: int, std: float, generator=None, fitted: Tensor | None = None
) -> Tensor:
    """The first ``dimension`` principal components of the items' text, scaled to standard deviation ``std``.

    Items without text, and dimensions the text does not fill, get normal noise of the same deviation.

    Args:
        text: [N, d_t]; has_text: [N] bool; fitted: [N] bool, the items with text that say what the mean, the
            components and the deviation are; None: all with text. The others are only projected.

    Returns:
        [N, dimension]
    """
    vectors = torch.randn(len(text), dimension, generator=generator) * std
    known = text[has_text if fitted is None else fitted].double()
    if len(known) == 0:
        return vectors
    mean = known.mean(0)
    centred = known - mean
    keep = min(dimension, text.shape[1])
    _, directions = principal_directions(centred.T @ centred, keep)
    spread = (centred @ directions).std()
    if not spread > 0:  # all texts are alike: they fill no dimension
        return vectors
    scaled = (text[has_text].double() - mean) @ directions / spread * std
    vectors[has_text.nonzero().squeeze(1)[:, None], torch.arange(keep)] = scaled.float()
    return vectors


def standardised_components(text: Tensor, has_text: Tensor, dimension: int, fitted: Tensor | None = None) -> Tensor:
    """The items' text along its first ``dimension`` principal directions, each of the same variance (AlphaFuse).

    Args:
        text: [N, d_t]; has_text: bool [N]; fitted: bool [N], the items with text that mean, directions and variance are
            of; None: all with text. The others are only projected.

    Returns:
        [N, dimension], of mean squared length one over the fitted items, zero where there is no text. Directions in
        which their text does not vary at all are zero too.
    """
    known = text[has_text if fitted is None else fitted].double()
    mean = known.mean(0)
    centred = known - mean
    values, directions = principal_directions(centred.T @ centred / max(len(known), 1), dimension)
    varies = values > values.max() * 1e-9
    made = (
        (text[has_text].double() - mean)
        @ directions
        * varies
        / values.clamp(min=1e-30).sqrt()
        / varies.sum().clamp(min=1).sqrt()
    )
    found = torch.zeros(len(text), dimension)
    found[has_text, : made.shape[1]] = made.float()
    return found


class ItemTable(nn.Module):
    """Item vectors [rows, d], used in place of ``nn.Embedding`` in RecBole's networks.

    ``item_text`` says what they are made of:

    ``none``        ids.
    ``add``         ids plus text through ``text_adaptor`` (UniSRec's and WhitenRec's adaptors, with ids).
    ``concat``      ids and that, side by side, through one linear map.
    ``null_space``  AlphaFuse (Hu et al., SIGIR 2025): the text rotated to its principal directions and standardised,
                    frozen; ids are learned in the last ``id_dimension`` of the d dimensions alone, where the directions
                    of the least variance, the text's (nearly) null space, are given up to them.
    ``codes``       VQ-Rec (Hou et al., WWW 2023): the sum of the embeddings of a text's product-quantised codes, over
                    the root of their number. Items without text have an id.

    Args:
        n_items: N, row 0 is padding.
        dimension: d.
        settings: ``item_init``, ``item_text`` and their kin.
        text: [N, d_t] transformed text vectors, or None.
        has_text: [N] bool, or None.
        fitted: [N] bool, the items whose texts say where components lie (``item_init=pca_text``, ``null_space``) and
            what the codes are; None: all with text.
        extra_rows: rows after the items (BERT4Rec's mask token).
        inference_only: build only what scoring needs; a checkpoint's folded table is loaded into it.
        mixture: sparse [N, N], what a scored vector is made of (:mod:`recbole_eimf.model.item_graph`); None: itself.

    Raises:
        ConfigError: ``item_text`` or ``item_init`` ask for text and there is none.
    """

    def __init__(
        self,
        n_items: int,
        dimension: int,
        settings: ItemSettings,
        text: Tensor | None = None,
        has_text: Tensor | None = None,
        extra_rows: int = 0,
        inference_only: bool = False,
        fitted: Tensor | None = None,
        mixture: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.n_items = n_items
        self.register_buffer("mixture", mixture, persistent=False)
        self.kind = "none" if inference_only else settings.item_text
        self.inference_only = inference_only
        self.dimension = dimension
        rows = n_items + extra_rows
        if self.kind == "codes" and text is not None:  # ids of what has no codes alone, the mask token among them
            own = F.pad(has_text, (0, extra_rows)).logical_not()
            self.register_buffer("own_row", own.cumsum(0).sub(1) * own, persistent=False)
            rows = int(own.sum())
        self.embedding = nn.Embedding(rows, self._id_dimension(settings, text), padding_idx=0)
        self._weight: Tensor | None = None
        self._placed: tuple[Tensor, Neighbours] | None = None
        # set by a trainer whose optimiser updates looked-up rows alone: it is told of rows before they are read
        self.before_lookup: Callable[[Tensor | None], None] | None = None
        needs_text = self.kind != "none" or (settings.item_init == "pca_text" and not inference_only)
        if needs_text and text is None:
            raise ConfigError(
                f"item_init={settings.item_init}, item_text={settings.item_text} need item text: "
                f"give text_fields and an .item file, or use item_init=normal and item_text=none."
            )
        self._initialise(settings, text, has_text, fitted)
        if self.kind != "none":
            self._take_text(settings, text, has_text, fitted, extra_rows)

    def _id_dimension(self, settings: ItemSettings, text: Tensor | None) -> int:
        if self.kind != "null_space":
            return self.dimension
        least = 1 if text is None else self.dimension - text.shape[1]  # what a narrow text cannot fill is null space
        wanted = settings.id_dimension or max(self.dimension // 2, least)
        if wanted >= self.dimension:
            raise ConfigError(
                f"id_dimension={wanted}: of item_text=null_space, less than the {self.dimension} of an item vector."
            )
        if wanted < least:
            raise ConfigError(
                f"id_dimension={wanted}: of item_text=null_space, leaves the text {self.dimension - wanted} dimensions "
                f"of an item vector, and it has {text.shape[1]}. Give at least {least}, or 0."
            )
        return wanted

    def _take_text(
        self, settings: ItemSettings, text: Tensor, has_text: Tensor, fitted: Tensor | None, extra_rows: int
    ) -> None:
        """Make what the form needs; a buffer of text is never saved."""
        if self.kind == "null_space":
            rest = self.dimension - self.embedding.embedding_dim
            made = standardised_components(text, has_text, rest, fitted)
            self.register_buffer("text", F.pad(made, (0, 0, 0, extra_rows)), persistent=False)
        elif self.kind == "codes":
            codes = product_codes(text, has_text, settings.code_pieces, settings.code_centroids, fitted=fitted)
            # a row of embeddings for each centroid of each piece
            codes = codes + settings.code_centroids * torch.arange(settings.code_pieces)
            self.register_buffer("codes", F.pad(codes, (0, 0, 0, extra_rows)), persistent=False)
            self.register_buffer("has_text", F.pad(has_text, (0, extra_rows)), persistent=False)
            self.code_embedding = nn.Embedding(settings.code_pieces * settings.code_centroids, self.dimension)
            nn.init.normal_(self.code_embedding.weight, std=settings.item_init_std)
        else:
            self.register_buffer("text", F.pad(text, (0, 0, 0, extra_rows)), persistent=False)
            kept = (settings.adaptor_experts, settings.adaptor_dropout)
            self.projection = text_adaptor(settings.text_adaptor, text.shape[1], self.dimension, *kept)
            if self.kind == "concat":
                self.mix = nn.Linear(2 * self.dimension, self.dimension, bias=False)

    def _initialise(
        self, settings: ItemSettings, text: Tensor | None, has_text: Tensor | None, fitted: Tensor | None
    ) -> None:
        weight = self.embedding.weight
        with torch.no_grad():
            if settings.item_init == "xavier":
                nn.init.xavier_normal_(weight)
            else:
                nn.init.normal_(weight, std=settings.item_init_std)
                if settings.item_init == "pca_text" and not self.inference_only and self.kind != "codes":
                    weight[: self.n_items] = principal_components(
                        text, has_text, weight.shape[1], settings.item_init_std, fitted=fitted
                    )
            weight[0] = 0

    # the network and the loss of one step, and all batches of one evaluation, share one table
    def refresh(self) -> None:
        """Forget the table of the last step; call once at the start of a training step."""
        self._weight = None

    @property
    def weight(self) -> Tensor:
        """[rows, d]: the table that is scored, text folded in; row 0 is zero."""
        if self._weight is None:
            with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
                # past nn.Module, which would register the table as a second parameter
                object.__setattr__(self, "_weight", self._served())
        return self._weight

    def place(self, rows: Tensor, near: Neighbours) -> None:
        """From now on let rows [n] of items be where their ``near`` ones are; a table that is saved says so too."""
        self._weight, self._placed = None, (rows, near)

    def _served(self) -> Tensor:
        """[rows, d]: the folded table, with the items that :meth:`place` has placed."""
        found = self._fold()
        if self._placed is None:
            return found
        rows, near = self._placed
        return found.index_copy(0, rows, near.place(found))

    def _fold(self) -> Tensor:
        found = self._unmixed()
        if self.mixture is None:
            return found
        with torch.autocast(found.device.type, enabled=False):  # its backward pass knows one type
            found = found.float()
            return torch.cat([torch.sparse.mm(self.mixture, found[: self.n_items]), found[self.n_items :]])

    def _unmixed(self) -> Tensor:
        if self.before_lookup is not None:
            self.before_lookup(None)
        ids = self.embedding.weight
        if self.kind == "none":
            return ids
        if self.kind == "null_space":
            return torch.cat([self.text, ids], 1)
        if self.kind == "codes":
            return torch.where(self.has_text[:, None], self._coded(), ids[self.own_row])
        projected = self.projection(self.text)
        if self.kind == "add":
            return ids + projected
        mixed = self.mix(torch.cat([ids, projected], 1))
        return mixed * (torch.arange(len(mixed), device=mixed.device) != 0)[:, None]

    def _coded(self) -> Tensor:
        """[rows, d]: the sum of the embeddings of every row's codes, at the variance of one of them."""
        return F.embedding_bag(self.codes, self.code_embedding.weight, mode="sum") / self.codes.shape[1] ** 0.5

    def forward(self, ids: Tensor) -> Tensor:
        """[...] item ids -> [..., d]."""
        if self.before_lookup is None or not self.training:
            return F.embedding(ids, self.weight, padding_idx=0)
        self.before_lookup(ids)
        return F.embedding(ids, self.embedding.weight, padding_idx=0, sparse=True)

    def train(self, mode: bool = True):
        self._weight = None
        return super().train(mode)

    def _apply(self, function, *args, **kwargs):
        self._weight = None
        return super()._apply(function, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        # a table with a graph behind it can be neither copied nor pickled; it is made again when asked for
        return {**self.__dict__, "_weight": None, "before_lookup": None}

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        if self.before_lookup is not None:
            self.before_lookup(None)
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.kind != "none" or self.mixture is not None or self._placed is not None:
            training = self.training
            self.train(False)  # the folded table is the one that serves: no dropout, no noise
            with torch.no_grad():
                destination[prefix + "folded"] = self._served().detach().clone()
            self.train(training)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        self._weight = None
        folded = state_dict.pop(prefix + "folded", None)
        if self.inference_only:
            if folded is not None:
                state_dict[prefix + "embedding.weight"] = folded
            parts = tuple(f"{prefix}{part}." for part in ("projection", "mix", "code_embedding"))
            for key in [k for k in state_dict if k.startswith(parts)]:
                del state_dict[key]
        super()._load_from_state_dict(state_dict, prefix, *args)
