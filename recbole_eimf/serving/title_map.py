"""What places new items of a served model by their titles (:mod:`recbole_eimf.model.placing` says how)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from recbole_eimf.core.errors import ConfigError
from recbole_eimf.model.placing import Neighbours, neighbours
from recbole_eimf.serving.catalogue import Catalogue

if TYPE_CHECKING:
    from recbole_eimf.semantic.encoders.text_encoder import TextEncoder


@dataclass(frozen=True)
class TitleEncoder:
    """What turns a title into a vector: the settings of :mod:`recbole_eimf.semantic.encoders.text_encoder`."""

    name: str
    max_length: int
    pooling: str
    identity: str


@dataclass(frozen=True)
class TitleMap:
    """What places items by their titles.

    text: float16 [N, d_t], unit vectors, zero where an item has no text; trained: bool [N], items with text that
    training saw; shares: [E], what each tower counts for a new item; fitted: by its settings, the encoder that
    was fitted to the catalogue's first titles, once it was asked for; maps that grow from this one share it.
    """

    text: Tensor
    trained: Tensor
    shares: Tensor
    fitted: dict[TitleEncoder, TextEncoder] = field(default_factory=dict, repr=False, compare=False)

    def neighbours(self, titles: Tensor) -> Neighbours:
        """[n, d_t] -> the nearest trained items of each."""
        return neighbours(titles, self.text, self.trained)

    def extended(self, titles: Tensor) -> TitleMap:
        """With further items, which were not trained."""
        none = torch.zeros(len(titles), dtype=torch.bool)
        return replace(self, text=torch.cat([self.text, titles.half()]), trained=torch.cat([self.trained, none]))

    def tensors(self) -> dict[str, Tensor]:
        """As they stand in ``text.safetensors``."""
        return {"text": self.text, "trained": self.trained, "shares": self.shares}

    @classmethod
    def of_tensors(cls, found: Mapping[str, Tensor]) -> TitleMap:
        """From ``text.safetensors``. Raises KeyError for what is missing."""
        return cls(found["text"], found["trained"], found["shares"])


def encoded(
    wanted: Mapping[str, Any], titles: list[str], place: TitleMap, catalogue: Catalogue, protocol: str
) -> np.ndarray:
    """Titles to vectors, float32 [n, d_t] of unit length.

    Args:
        wanted: what ``config.json`` says of the encoder; place: where they will be; protocol: of the run, which decides
            what the encoder was fitted on.

    Raises:
        ConfigError: the encoder is not here, or is another than the one the model was trained with.
    """
    asked = TitleEncoder(**{key: wanted[key] for key in TitleEncoder.__annotations__})
    if wanted["name"] != "tfidf-svd":
        return _loaded(asked).encode(titles)
    if asked not in place.fitted:  # on the titles of the run's catalogue
        known = zip(catalogue.titles.to_pylist()[: wanted["fitted_on"]], catalogue.counts)
        whole = protocol != "global_time"  # there titles of later items were not there yet
        place.fitted[asked] = _built(asked, tuple(title for title, count in known if title and (whole or count > 0)))
    return place.fitted[asked].encode(titles)


@lru_cache(maxsize=2)
def _loaded(wanted: TitleEncoder) -> TextEncoder:
    """An encoder that needs no fitting: one for all models of this process that ask for it."""
    return _built(wanted)


def _built(wanted: TitleEncoder, corpus: tuple[str, ...] | None = None) -> TextEncoder:
    from recbole_eimf.semantic.encoders.build import build_encoder
    from recbole_eimf.semantic.encoders.text_encoder import EncoderSettings

    keys = asdict(wanted)
    identity = keys.pop("identity")
    encoder = build_encoder(EncoderSettings(**keys), corpus)
    if encoder.identity != identity:
        raise ConfigError(
            f"text encoder {wanted.name}: here it is {encoder.identity}, and the model was trained with {identity}. "
            f"Vectors of two encoders do not belong in one space: install what the model was trained with."
        )
    return encoder
