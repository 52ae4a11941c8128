"""Rows of a table: the models' names, files of rows, and what each row is measured against.

===================  ==============================================================================================
``SASRec``           a backbone of ours, or of the user's own (``package.module:Class``), trained as EIMF trains it
                     (IBIM with that backbone)
``EIMF[SASRec]``     a framework over a backbone, measured against the backbone's row and the placebo's where they are
``placebo[SASRec]``  EIMF whose users get a random exemplar's interests
``text[SASRec]``     EIMF without interests: what item text alone is worth
``shuffled_text[R]``  a row R (``PAD``, ``EIMF[SASRec]``) that reads other items' texts; ``noise_text[R]``: noise in
                     place of text; ``shuffled_history[R]``: sequences in an order of chance
``placebo[PAD]``     of a model's row what takes its claim away: ``shuffled_text`` of those that read item text,
                     ``shuffled_interests`` of EIMF and ProfileDistillation, ``shuffled_knowledge`` of NextKNN
``shuffled_knowledge[R]``  a row R that gets an LLM's knowledge of other items, as popular
``RecBole[SASRec]``  RecBole's class as it is
anything else        what ``--model`` takes: ``Pop``, ``Markov``, ``LLM2BERT4Rec``, ``package.module:Class``
===================  ==============================================================================================
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from recbole_eimf.config.config import EIMFConfig
from recbole_eimf.config.contract import CHOSEN, contract_of
from recbole_eimf.config.layers import merged, our_layers
from recbole_eimf.config.models import BACKBONES, FLOORS, MODELS, known_model_names, load_class, load_model_class
from recbole_eimf.config.placebo import PLACEBOS, is_placebo, own_placebo
from recbole_eimf.config.yaml_file import places_of, read_yaml
from recbole_eimf.core.errors import ConfigError, suggestion
from recbole_eimf.model.backbones.backbone import Backbone, backbone_class

#: what EIMF has to be compared with to say anything about the LLM: name -> keys
_CONTROLS = {"placebo": {"interest_source": "shuffled"}, "text": {"use_interests": False}}

_ALIASES = {"ItemKNN+text": "ItemKNNText", "ItemKNN+text+next": "ItemKNNTextNext"}
FRAMED = re.compile(r"(?P<frame>[^\[\]]+)\[(?P<inner>[^\[\]]+)\]")
#: keys of the floors that forget, which tables under one time for all have beside the plain ones
_RECENT = {"recency_half_life": CHOSEN}
_ROW_KEYS = ("name", "model", "backbone", "keys", "against", "x")


@dataclass(frozen=True)
class Row:
    """One line of a table.

    ``model`` and ``keys`` are what :func:`recbole_eimf.run` takes, ``keys`` being stronger than those that
    all rows share. ``against`` names the rows it is tested against; its improvement is over the first of them that is
    there. ``x`` is its place on a study's x-axis.
    """

    name: str
    model: str
    keys: Mapping[str, Any] = field(default_factory=dict)
    against: tuple[str, ...] = ()
    x: str | float | None = None
    #: key -> ``FILE, line N``, of those among its own and all rows' keys that a file gives
    places: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def counting(self) -> bool:
        """Whether the model only counts, so that every seed gives the same."""
        from recbole.utils import ModelType

        model_class = load_model_class(self.model)
        traditional = getattr(model_class, "type", None) == ModelType.TRADITIONAL  # of RecBole's: Pop and the like
        return contract_of(model_class).counting or traditional

    @property
    def backbone_alone(self) -> bool:
        """Whether it is a backbone as rows over it have it, nothing added."""
        return self.model == "IBIM" and not set(self.keys) - {"backbone"}

    @property
    def floor(self) -> bool:
        """Whether it is one of the rows that every table has."""
        return self.model in FLOORS and dict(self.keys) in ({}, _RECENT)

    @property
    def placebo(self) -> bool:
        """Whether it stands for another row with what that one's claim is about taken away."""
        return is_placebo(self.keys)


def floors(protocol: str | None = None) -> list[Row]:
    """The rows that every table begins with; under ``global_time`` also with a half-life that validation chooses.

    What sold last week is the stronger floor there: plain counts are as old as the data.
    """
    plain = [Row(name, name) for name in FLOORS]
    return [*plain, *_recent_floors()] if protocol == "global_time" else plain


def _recent_floors() -> list[Row]:
    return [Row(f"{name}, recent", name, _RECENT) for name in FLOORS]


def parse_models(text: str) -> list[Row]:
    """Rows of ``--models=SASRec,EIMF[SASRec],placebo[SASRec],Pop``.

    Raises:
        ConfigError: an unknown name or backbone, with the closest one.
    """
    return [parse_model(name.strip()) for name in text.split(",") if name.strip()]


def parse_model(text: str) -> Row:
    """The row of one name.

    >>> parse_model("EIMF[SASRec]").against
    ('SASRec', 'placebo[SASRec]', 'text[SASRec]')

    Raises:
        ConfigError: see :func:`parse_models`.
    """
    if outer := re.fullmatch(r"(\w+)\[(.+)\]", text):
        name, inner = outer[1], outer[2].strip()
        if name == "placebo":
            name = _placebo_of(inner)
        if name in PLACEBOS:
            row = parse_model(inner)
            return Row(text, row.model, {**row.keys, **PLACEBOS[name]}, (row.name,))
    if text in _ALIASES:
        return Row(text, _ALIASES[text])
    framed = FRAMED.fullmatch(text)
    if framed:
        return _framed(text, framed["frame"].strip(), framed["inner"].strip())
    if text in BACKBONES or _own_backbone(text):
        return Row(text, "IBIM", {"backbone": text})
    if "[" not in text:
        if ":" not in text:
            _check_name(text, text)
        load_model_class(text)
        return Row(text, text)
    raise ConfigError(f"models: {text!r} is not of the form Name or Framework[Backbone], for example EIMF[SASRec].")


def _own_backbone(text: str) -> bool:
    """Whether a name is the import path of a backbone of the user's own. Raises ConfigError for one with no class."""
    return ":" in text and "[" not in text and issubclass(load_class("model", text), Backbone)


def _placebo_of(inner: str) -> str:
    """What ``placebo`` takes away of a row: of a backbone's name the interests that EIMF over it would have, of a
    model's what its claim is about: an LLM's interests or knowledge where it reads some, else item text."""
    name = inner.partition("[")[0].strip()
    card = MODELS.get(_ALIASES.get(name, name))
    if name in BACKBONES or card is None:
        return "placebo"
    from recbole_eimf.experiment import plugin

    plugin.adapt_recbole()  # names are read before a run has done it
    return own_placebo(EIMFConfig(card.name, "ml-100k")) or "placebo"


def _framed(text: str, frame: str, inner: str) -> Row:
    if frame == "RecBole":
        if inner in MODELS:
            raise ConfigError(f"models: {text}: {inner} is this plugin's, RecBole has none. Write {inner}.")
        _check_name(inner, text)
        return Row(text, inner)
    if frame in _CONTROLS:
        return Row(text, "EIMF", {"backbone": backbone_class(inner) and inner, **_CONTROLS[frame]}, (inner,))
    _check_name(frame, text)
    if contract_of(load_model_class(frame)).fixed_backbone:
        raise ConfigError(f"models: {text}: {frame} is a backbone itself. Write {frame}, or EIMF[{frame}].")
    backbone_class(inner)
    return Row(text, frame, {"backbone": inner}, _measured_against(inner) if frame == "EIMF" else (inner,))


def over_their_own(rows: Iterable[Row], shared: Mapping[str, Any]) -> list[Row]:
    """Rows with a framework's bare name (``PAD``) measured against the backbone that it has, as ``PAD[SASRec]`` is."""
    rows = list(rows)
    there = {row.name for row in rows}
    bare = [row.name == row.model and row.model in MODELS and not row.against for row in rows]
    own = [[name for name in _of_bare(row, shared) if name in there] if is_bare else row.against
           for row, is_bare in zip(rows, bare)]  # fmt: skip
    return [replace(row, against=tuple(against)) for row, against in zip(rows, own)]


def _of_bare(row: Row, shared: Mapping[str, Any]) -> tuple[str, ...]:
    model_class = load_model_class(row.model)
    contract = contract_of(model_class)
    if row.model == "IBIM" or contract.fixed_backbone or contract.counting:
        return ()
    backbone = {**merged(our_layers(model_class, row.model, "", {})), **shared, **row.keys}.get("backbone")
    if not isinstance(backbone, str):
        return ()
    return _measured_against(backbone) if row.model == "EIMF" else (backbone,)


def _measured_against(backbone: str) -> tuple[str, ...]:
    return (backbone, *(f"{control}[{backbone}]" for control in _CONTROLS))


def _check_name(name: str, text: str) -> None:
    known = {*known_model_names(), *BACKBONES}
    if name in known:
        return
    try:
        load_model_class(name)  # RecBole's general models (Pop, BPR) stand in no list
    except ConfigError:
        near = suggestion(name, [*known, "RecBole", *_CONTROLS, *PLACEBOS, "Pop"])
        if shown := re.fullmatch(r"(\w+)\((\w+)\)", name):  # as tables show it
            near = f" Did you mean '{shown[1]}[{shown[2]}]'?"
        raise ConfigError(
            f"models: {text!r}: no such model.{near} Backbones: {', '.join(BACKBONES)}; over one of them "
            f"EIMF[SASRec], placebo[SASRec]; RecBole's own as RecBole[SASRec]; yours as package.module:Class."
        ) from None


def read_rows(path: str | Path) -> list[Row]:
    """Rows of a YAML file: a list ``rows`` of mappings with ``model`` and, if wanted, the other fields of a row.

    Raises:
        ConfigError: no file, another form, an unknown field or model.
    """
    content = read_yaml(path, placed=("keys",))
    extra = [key for key in content if key != "rows"]
    if extra or "rows" not in content:
        raise ConfigError(f"{path}: expected one list called rows{f', not {extra[0]!r}' if extra else ''}.")
    return [row_of(entry, str(path)) for entry in as_list(content["rows"], "rows", str(path))]


def row_of(entry: Any, where: str, model: str | None = None) -> Row:
    """One entry of a YAML list of rows; ``model`` is that of entries that name none.

    Raises:
        ConfigError: naming file, row and field.
    """
    if isinstance(entry, str):
        entry = {"model": entry}
    if not isinstance(entry, dict):
        raise ConfigError(f"{where}: a row is a mapping with {', '.join(_ROW_KEYS)}, not {entry!r}.")
    label = entry.get("name", entry.get("model", entry))
    for key in entry:
        if key not in _ROW_KEYS:
            raise ConfigError(f"{where}, row {label!r}: unknown field {key!r}.{suggestion(key, _ROW_KEYS)}")
    chosen = entry.get("model", model)
    if not chosen:
        raise ConfigError(f"{where}, row {label!r}: model is missing, for example model: EIMF[SASRec].")
    keys = entry.get("keys") or {}
    if not isinstance(keys, dict):
        raise ConfigError(f"{where}, row {label!r}: keys={keys!r} is not a mapping of configuration keys.")
    backbone = {"backbone": entry["backbone"]} if "backbone" in entry else {}
    row = parse_model(str(chosen))
    against = row.against if "against" not in entry else tuple(map(str, _listed(entry["against"])))
    check_name(entry, where)
    name = " ".join(str(entry.get("name", row.name)).split())  # it is a cell of tables of lines
    return Row(name, row.model, {**row.keys, **backbone, **keys}, against, entry.get("x"), places_of(keys))


def check_name(entry: Any, where: str) -> None:
    """Raise ConfigError where an entry's ``name`` is a list or a mapping."""
    if isinstance(entry, dict) and isinstance(entry.get("name"), list | dict):
        raise ConfigError(f"{where}, row {entry['name']!r}: its name is not text.")


def as_list(value: Any, key: str, where: str) -> list[Any]:
    """``value`` if it is a list that is not empty. Raises ConfigError naming file and key."""
    if not isinstance(value, list) or not value:
        raise ConfigError(f"{where}: {key}={value!r} is not a list with at least one entry.")
    return value


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def complete(rows: Iterable[Row], with_floors: bool = True, protocol: str | None = None) -> list[Row]:
    """Put the floors of a protocol first, check names and keep of ``against`` what is there.

    Raises:
        ConfigError: two rows of one name, or a file's row that is measured against one that does not exist.
    """
    given = list(rows)
    names = [row.name for row in given]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{name} is given twice. Give each row once; rows that differ by keys need other names.")
    first = [row for row in floors(protocol) if row.name not in names] if with_floors else []
    known = {row.name for row in [*first, *given]}
    return [*first, *(_with_known(row, known) for row in given)]


def _with_known(row: Row, known: set[str]) -> Row:
    implied = (*_implied(row), *(floor.name for floor in _recent_floors()))  # not under every protocol
    for other in row.against:
        if other == row.name or (other not in known and other not in implied):
            raise ConfigError(f"row {row.name!r}: against={other!r} is not another row.{suggestion(other, known)}")
    return replace(row, against=tuple(other for other in row.against if other in known))


def _implied(row: Row) -> tuple[str, ...]:
    """What a framework's row is measured against if it happens to be in the table."""
    backbone = row.keys.get("backbone")
    return _measured_against(backbone) if isinstance(backbone, str) else ()
