"""Which files and words a configuration is made of, weakest first, and which of them set a key.

1. RecBole's YAML files. 2. The catalogue's defaults. 3. Ours: ``overall.yaml``, the backbone's (RecBole's, ours), those
of the model's ancestors and its own, the data set's, the recipe's. 4. The user's files. 5. The user's words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import recbole
from recbole.utils import ModelType

from recbole_eimf.config import keys
from recbole_eimf.config.contract import contract_of, is_ours
from recbole_eimf.config.models import backbone_lineage, load_model_class
from recbole_eimf.config.old_names import old_name, today
from recbole_eimf.config.reading import ignored, recbole_defaults
from recbole_eimf.config.yaml_file import line_of, read_shipped, read_yaml
from recbole_eimf.core.errors import ConfigError, DataError, suggestion

#: what a recipe's file calls the recipe it builds on
BASE = "base"


@dataclass(frozen=True)
class Layer:
    """A source of keys: ``path`` is None where it is no file, ``name`` says what it is."""

    name: str
    values: Mapping[str, Any]
    path: Path | None = None

    def where(self, key: str) -> str:
        """``properties/model/PAD.yaml, line 7``, or the name."""
        if self.path is None:
            return self.name
        line = line_of(self.path, key) or line_of(self.path, old_name(key) or key)
        return f"{self.name} ({self.path}, line {line})"


def merged(layers: list[Layer]) -> dict[str, Any]:
    """All keys; of one that several layers set, the last."""
    return {key: value for layer in layers for key, value in layer.values.items()}


def properties_folder() -> Path:
    """Return the folder that holds ``model/``, ``dataset/`` and ``prompts/``.

    An installed wheel carries it inside the package, a checkout (also an editable install) beside it.
    Raises DataError if neither exists, which is a broken installation.

    >>> (properties_folder() / "prompts" / "interests.txt").is_file()
    True
    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "properties", package.parent / "properties"):
        # a folder of that name without prompts is someone else's
        if (folder / "prompts").is_dir():
            return folder
    raise DataError(
        f"{package}: the shipped properties folder is neither in the package nor beside it. Install recbole_eimf again."
    )


def our_layers(model_class: type | None, model: str, dataset: str, external: Mapping[str, Any]) -> list[Layer]:
    """The layers of this plugin.

    Args:
        model_class: the model's class; None is a model that is not ours.
        model, dataset: names; external: the user's keys.

    Raises:
        ConfigError: there is no such recipe, or no such backbone.
    """
    folder = properties_folder()
    shipped = _lineage(model_class, model)
    own = [Layer(f"model {name}", *_read(_file("model", name))) for name in shipped]
    of_model = merged(own)
    layers = [Layer("default", keys.defaults()), Layer("every model", *_read(folder / "overall.yaml"))]
    backbone = external.get("backbone", of_model.get("backbone"))
    for name in backbone_lineage(backbone) if isinstance(backbone, str) else ():
        files = (Path(recbole.__file__).parent / "properties" / "model" / f"{name}.yaml", _file("backbone", name))
        layers += [Layer(f"backbone {name}", *_read(path)) for path in files if path.is_file()]
    layers += own
    if (path := _file("dataset", dataset)).is_file():
        layers.append(Layer(f"data set {dataset}", *_read(path)))
    recipe = external.get("recipe", of_model.get("recipe"))
    if recipe is not None:
        lineage = backbone_lineage(backbone) if isinstance(backbone, str) else []
        layers += recipe_layers(shipped or [model], str(recipe), lineage)
        if "exemplar_ratio" in external and "preference" not in external and merged(layers).get("preference"):
            layers.append(Layer("exemplar_ratio, which takes its place", {"preference": None}))
    return layers


def _lineage(model_class: type | None, model: str) -> list[str]:
    """The models whose files one starts from: a subclass of ours in anybody's module, what it derives from."""
    family = [cls.__name__ for cls in reversed(model_class.__mro__) if is_ours(cls)] if model_class else [model]
    return [name for name in family if _file("model", name).is_file()]


def recipe_owners(model_class: type) -> list[str]:
    """The models whose recipes a model takes: what it derives from, and itself."""
    name = model_class.__name__
    return _lineage(model_class if is_ours(model_class) else None, name) or [name]


def _file(kind: str, name: str) -> Path:
    return properties_folder() / kind / f"{name}.yaml"


def _read(path: Path) -> tuple[dict[str, Any], Path]:
    return read_shipped(path), path


# ---------------------------------------------------------------------- recipes
def recipes_of(*models: str) -> list[str]:
    """The recipes of models, those for every model first."""
    stems = sorted(path.stem for path in (properties_folder() / "recipe").glob("*.yaml"))
    own = [stem.removeprefix(f"{model}-") for model in models for stem in stems if stem.startswith(f"{model}-")]
    return list(dict.fromkeys([*(stem for stem in stems if "-" not in stem), *own]))


def recipe_layers(models: Sequence[str], recipe: str, backbones: Sequence[str] = ()) -> list[Layer]:
    """``<recipe>.yaml``, for every model, and over it ``<Model>-<recipe>.yaml``; under both what they build on.

    A file's ``base`` names the recipe it builds on: its own keys are stronger. A model without such a file takes those
    of what it derives from; one with a file does so if its ``base`` is the recipe's own name, for two models' ``paper``
    may be two papers.

    Args:
        models: the model, after those it derives from; backbones: what it is built over, whose files
            (``REMI-paper.yaml``) come between.

    Raises:
        ConfigError: the model has no such recipe.
    """
    known = recipes_of(*models)
    if recipe not in known:
        raise ConfigError(
            f"recipe={recipe}: no such recipe of {models[-1]}.{suggestion(recipe, known)} "
            f"There are: {', '.join(known)}."
        )
    path = _file("recipe", f"{models[-1]}-{recipe}")
    inherits = not path.is_file() or read_shipped(path).get(BASE) == recipe
    names = dict.fromkeys([*(models[:-1] if inherits else ()), *backbones, models[-1]])
    stems = [recipe, *(f"{name}-{recipe}" for name in names)]
    own = [(path, read_shipped(path)) for path in map(partial(_file, "recipe"), stems) if path.is_file()]
    below: list[Layer] = []
    for _, values in own:
        if (base := values.get(BASE)) and base != recipe:
            below += recipe_layers(models, str(base), backbones)
    return below + [
        Layer(f"recipe {recipe}", {k: v for k, v in values.items() if k != BASE}, path) for path, values in own
    ]


def concerning(model: str | type, shared: Mapping[str, Any]) -> dict[str, Any]:
    """Of keys that several models share, those that concern one of them.

    A backbone goes to models that take one, a recipe to models that have one of that name, ``place_unseen`` to models
    that can, ``torch_compile`` to those that are trained, a key of the catalogue to models that read its part
    (:mod:`recbole_eimf.config.reading`); others train as they are.

    Args:
        model: as ``--model`` takes it, or a class; shared: keys of all.
    """
    model_class = load_model_class(model) if isinstance(model, str) else model
    asked = contract_of(model_class)
    left = today(shared)
    takes = asked.takes_backbone or asked.counting  # floors keep the backbone's length of sequences
    if "backbone" in left and (asked.fixed_backbone or not takes):
        del left["backbone"]
    if left.get("place_unseen") and not asked.places_unseen:
        del left["place_unseen"]
    if left.get("torch_compile") and asked.counting:
        del left["torch_compile"]
    if left.get("recipe") is not None and str(left["recipe"]) not in recipes_of(*recipe_owners(model_class)):
        del left["recipe"]
    for name in ignored(model_class, left):
        del left[name]
    return left


# ---------------------------------------------------------------------- RecBole's, and the user's
def recbole_layers(model_class: type, model: str, dataset: str) -> list[Layer]:
    """RecBole's own files, in the order its Config reads them (its ``_load_internal_config_dict``)."""
    folder = Path(recbole.__file__).parent / "properties"
    files = [folder / "overall.yaml", folder / "model" / f"{model}.yaml", folder / "dataset" / "sample.yaml",
             folder / "dataset" / f"{dataset}.yaml"]  # fmt: skip
    if getattr(model_class, "type", None) == ModelType.SEQUENTIAL:
        files.append(folder / "quick_start_config" / "sequential.yaml")
    return [Layer("RecBole", *_read(path)) for path in files if path.is_file()]


def user_layers(files: list[str], words: Mapping[str, Any]) -> list[Layer]:
    """Configuration files, the later ones stronger, and what was given as ``--key=value``."""
    own = [Layer("your file", today(read_yaml(path)), Path(path)) for path in files]
    return [*own, Layer("the command line", today(words))]


def every_layer(config, files: list[str], words: Mapping[str, Any]) -> list[Layer]:
    """All layers of a configuration, weakest first."""
    model_class, model, dataset = config.model_class, config["model"], config["dataset"]
    ours = our_layers(model_class if is_ours(model_class) else None, model, dataset, config.external_config_dict)
    if not is_ours(model_class):  # what a model of RecBole's calls by a name of ours is its own
        own = recbole_defaults(model)
        ours = [replace(each, values={k: v for k, v in each.values.items() if k not in own or each.name != "default"})
                for each in ours]  # fmt: skip
    return [*recbole_layers(model_class, model, dataset), *ours, *user_layers(files, words)]


def house_defaults() -> dict[str, Any]:
    """What every key is before a model, a backbone, a data set or a user says something."""
    folder = Path(recbole.__file__).parent / "properties"
    files = [folder / "overall.yaml", folder / "dataset" / "sample.yaml"]
    below = [Layer("RecBole", *_read(path)) for path in files]
    return merged(
        [*below, Layer("default", keys.defaults()), Layer("every model", *_read(properties_folder() / "overall.yaml"))]
    )


def setters(layers: list[Layer], key: str) -> Iterator[Layer]:
    """The layers that set a key, the one that decides first."""
    return (layer for layer in reversed(layers) if key in layer.values)
