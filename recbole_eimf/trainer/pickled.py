"""Reading the pickle that older runs, and ``save_pth=True``, wrote of a model, without running what it asks for."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recbole_eimf.core.errors import DataError

#: all that a checkpoint's numbers are made with; whatever else a pickle names becomes an empty stand-in
_OF_NUMBERS = {
    ("collections", "OrderedDict"), ("torch", "device"), ("torch", "Size"), ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
}  # fmt: skip


class _StandIn:
    """Takes the place of an object whose class a pickle names; ``__dict__`` is what the object had."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _StandIn:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def __call__(self, *args: Any, **kwargs: Any) -> _StandIn:
        return self


class _NumbersOnly(pickle.Unpickler):
    """Reads a pickle without running what it asks for."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _OF_NUMBERS or (module == "torch" and name.endswith(("Storage", "float32", "int64"))):
            return super().find_class(module, name)
        return type(name, (_StandIn,), {})


class Pickled(NamedTuple):
    """What a pickled checkpoint says: the configuration in full and as it was given, the best epoch and its tensors."""

    model: str
    dataset: str
    settings: dict[str, Any]
    given: dict[str, Any]
    epoch: int
    tensors: dict[str, Tensor]


def read_pickled(pth: Path) -> Pickled:
    """Numbers and settings of a checkpoint; nothing that the pickle names is called, it need not be trusted.

    Raises:
        DataError: the file is not a checkpoint of ours.
    """
    reader = SimpleNamespace(Unpickler=_NumbersOnly, load=None, __name__="pickle")
    try:
        saved = torch.load(pth, map_location="cpu", pickle_module=reader, weights_only=False)
        config, tensors, epoch = vars(saved["config"]), saved["state_dict"], int(saved["epoch"])
        settings, given = (_jsonable(config[name]) for name in ("final_config_dict", "external_config_dict"))
        model, dataset = settings["model"], settings["dataset"]
        if not all(isinstance(value, Tensor) for value in tensors.values()):
            raise TypeError("state_dict holds more than tensors")
    except Exception as error:
        raise DataError(f"{pth}: not a checkpoint that a run of recbole_eimf has written ({error!r}).") from error
    return Pickled(model, dataset, settings, given, epoch, tensors)


def _jsonable(values: Mapping[str, Any]) -> dict[str, Any]:
    def plain(value: Any) -> bool:
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            return False
        return True

    return {key: value for key, value in values.items() if plain(value)}
