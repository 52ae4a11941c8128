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
        values, vectors = torch.linalg.eigh(centred.T @ centred / max(len(known), 1))
        order = values.argsort(descending=True)[:dimension]
        values, vectors = values[order].clamp(min=0), vectors[:, order]
        # eigenvectors have no sign of their own: fix it, so that every machine gets the same vectors
        vectors = vectors * torch.sign(vectors.gather(0, vectors.abs().argmax(0, keepdim=True)))
        power = {"none": 0.0, "center": 0.0, "half": -0.25, "full": -0.5}[self.kind]
        floor = values.max() * 1e-6
        self.map = vectors * values.clamp(min=float(floor)).pow(power)
        moved = centred @ self.map
        self.scale = 1.0 if self.kind == "none" else 1 / moved.square().sum(1).mean().sqrt().clamp(min=1e-12)

    def __call__(self, text: Tensor) -> Tensor:
        """[..., d_t] -> [..., text_dimension or d_t], float32."""
        if self.identity:
            return text.float()
        return ((text.double() - self.mean) @ self.map * self.scale).float()


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
    values, directions = torch.linalg.eigh(centred.T @ centred)
    keep = min(dimension, text.shape[1])
    directions = directions[:, values.argsort(descending=True)[:keep]]
    directions = directions * torch.sign(directions.gather(0, directions.abs().argmax(0, keepdim=True)))
    components = (text[has_text].double() - mean) @ directions
    scaled = components / (centred @ directions).std() * std
    vectors[has_text.nonzero().squeeze(1)[:, None], torch.arange(keep)] = scaled.float()
    return vectors


class ItemTable(nn.Module):
    """Item vectors [rows, d], used in place of ``nn.Embedding`` in RecBole's networks.

    Args:
        n_items: N, row 0 is padding.
        dimension: d.
        settings: ``item_init``, ``item_text`` and their kin.
        text: [N, d_t] transformed text vectors, or None.
        has_text: [N] bool, or None.
        fitted: [N] bool, the items that ``item_init=pca_text`` is fitted on; None: all with text.
        extra_rows: rows after the items (BERT4Rec's mask token).
        inference_only: build only what scoring needs; a checkpoint's folded table is loaded into it.

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
    ) -> None:
        super().__init__()
        self.n_items = n_items
        self.kind = "none" if inference_only else settings.item_text
        self.inference_only = inference_only
        self.embedding = nn.Embedding(n_items + extra_rows, dimension, padding_idx=0)
        self._weight: Tensor | None = None
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
            self.register_buffer("text", F.pad(text, (0, 0, 0, extra_rows)), persistent=False)
            self.projection = nn.Linear(text.shape[1], dimension, bias=False)
            if self.kind == "concat":
                self.mix = nn.Linear(2 * dimension, dimension, bias=False)

    def _initialise(
        self, settings: ItemSettings, text: Tensor | None, has_text: Tensor | None, fitted: Tensor | None
    ) -> None:
        weight = self.embedding.weight
        with torch.no_grad():
            if settings.item_init == "xavier":
                nn.init.xavier_normal_(weight)
            else:
                nn.init.normal_(weight, std=settings.item_init_std)
                if settings.item_init == "pca_text" and not self.inference_only:
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
                object.__setattr__(self, "_weight", self._fold())
        return self._weight

    def _fold(self) -> Tensor:
        if self.before_lookup is not None:
            self.before_lookup(None)
        ids = self.embedding.weight
        if self.kind == "none":
            return ids
        projected = self.projection(self.text)
        if self.kind == "add":
            return ids + projected
        mixed = self.mix(torch.cat([ids, projected], 1))
        return mixed * (torch.arange(len(mixed), device=mixed.device) != 0)[:, None]

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
        if self.kind != "none":
            with torch.no_grad():
                destination[prefix + "folded"] = self._fold().detach().clone()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        self._weight = None
        folded = state_dict.pop(prefix + "folded", None)
        if self.inference_only:
            if folded is not None:
                state_dict[prefix + "embedding.weight"] = folded
            for key in [k for k in state_dict if k.startswith((prefix + "projection.", prefix + "mix."))]:
                del state_dict[key]
        super()._load_from_state_dict(state_dict, prefix, *args)
