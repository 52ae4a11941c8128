"""What a run found, and how it is shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from recbole_eimf.config.maker import IN_WORDS, made_by
from recbole_eimf.config.models import MODELS, short_name
from recbole_eimf.config.placebo import was_placebo
from recbole_eimf.core.errors import counted
from recbole_eimf.core.version import __version__
from recbole_eimf.data import time_split
from recbole_eimf.data.history_mask import repeats_text, target_repeats
from recbole_eimf.evaluator import candidates
from recbole_eimf.evaluator.direction import less_is_better
from recbole_eimf.model.score_prior import weights_text


@dataclass
class RunResult:
    """What a run found.

    Metrics are fractions. ``epochs`` counts trained epochs, ``best_epoch`` (from 0) is the one that was tested;
    ``train_seconds`` is training alone, validation not counted; ``parameters`` are the trained ones; ``side_load`` is
    the coverage of text and interests; ``slices`` the test metrics by training frequency of the target (``unseen``,
    ``cold``, ``median``, ``warm`` and those of ``slice_bounds``), with the number of ``targets`` and ``users`` of each;
    ``config`` holds every setting; ``compared`` the runs made beside this one. ``refit``: of a model that was trained
    again before the test, its ``epochs``, the ``interactions`` it was trained on, how many of these validation had
    (``interactions_added``), and ``train_seconds``; ``valid`` and the other numbers are then of the first training.
    ``tested``: how many ``users`` and ``targets`` the test asks for, where a model's lists are at hand. ``borders``:
    of ``protocol=global_time`` the dates (UTC) where training ends and after which the test begins. ``chosen``: what
    validation chose in place of a key's ``chosen`` (``recency_half_life``), by the key. ``prior``: of ``score_prior``
    what each part weighs (with ``prior_weights=by_frequency`` a list, for each class of training frequency).
    """

    model: str
    backbone: str | None
    dataset: str
    protocol: str
    mask_history: bool
    seed: int
    valid: dict[str, float]
    test: dict[str, float]
    epochs: int
    best_epoch: int
    train_seconds: float
    seconds_per_epoch: float
    parameters: int
    side_load: dict[str, Any] | None
    slices: dict[str, dict[str, float]] = field(default_factory=dict)
    version: str = __version__
    config: dict[str, Any] = field(default_factory=dict)
    compared: list[RunResult] = field(default_factory=list)
    refit: dict[str, Any] | None = None
    tested: dict[str, int] | None = None
    borders: list[str] | None = None
    chosen: dict[str, Any] | None = None
    prior: dict[str, Any] | None = None

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> RunResult:
        """The result that ``result.json`` holds."""
        return cls(**{**values, "compared": [cls.from_json(other) for other in values["compared"]]})

    def to_frame(self) -> pd.DataFrame:
        """A row for this run and for each made beside it: what it is, its effort, and its metrics as fractions.

        Test metrics, or those of validation where the test part was left alone.
        """
        facts = ("dataset", "protocol", "mask_history", "seed", "epochs", "seconds_per_epoch", "parameters")
        rows = [
            {"model": run.name, **{fact: getattr(run, fact) for fact in facts}, **(run.test or run.valid)}
            for run in (self, *self.compared)
        ]
        return pd.DataFrame(rows)

    def __str__(self) -> str:
        return summary(self)

    @property
    def name(self) -> str:
        """``EIMF(SASRec)``, ``PAD(SASRec)``, ``SASRec`` for IBIM, other models' names; a placebo says so."""
        backbone = short_name(self.backbone)
        if self.model == "IBIM":
            name = backbone or "IBIM"
        elif self.model not in MODELS or not MODELS[self.model].named_over:
            name = self.model
        else:
            name = f"{self.model}({backbone})"
        if was_placebo(self.config, self.side_load):
            return f"{name} placebo"
        return f"{name} text only" if self.model == "EIMF" and not self.config.get("use_interests", True) else name


def table(results: list[RunResult], metrics: list[str] | None = None) -> str:
    """A small text table of test metrics, in percent; the best of each column is marked with ``*``.

    Without ``metrics``: those at the smallest and the largest k; with one target per user recall is the hit rate, and
    one of them is enough. Runs that skipped the test show validation.
    """
    of_run = [run.test or run.valid for run in results]
    if metrics is None:
        places = sorted({int(k) for m in of_run[0] if (k := m.partition("@")[2])})  # AUC and its like have none
        one = all(values.get(f"recall@{k}") == values.get(f"hit@{k}") for values in of_run for k in places)
        kinds = ("hit", "ndcg") if one else ("recall", "hit", "ndcg")
        shown = [f"{kind}@{k}" for k in dict.fromkeys((*places[:1], *places[-1:])) for kind in kinds]
        metrics = [m for m in shown if m in of_run[0]] or list(of_run[0])
    best = {m: _best(m, [values[m] for values in of_run if m in values]) for m in metrics}
    head = ["model", *metrics, "epochs", "s/epoch", "parameters"]
    rows = [
        [
            r.name,
            *(f"{100 * values[m]:.2f}{'*' if values[m] == best[m] else ' '}" if m in values else "- " for m in metrics),
            str(r.epochs),
            f"{r.seconds_per_epoch:.1f}",
            f"{r.parameters:,}",
        ]
        for r, values in zip(results, of_run, strict=True)
    ]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths)))
             for row in [head, *rows]]  # fmt: skip
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _best(metric: str, values: list[float]) -> float | None:
    """The best of a column."""
    return (min if less_is_better(metric) else max)(values, default=None)


def summary(result: RunResult) -> str:
    """What a user wants to read at the end of a run."""
    asked = result.tested
    whom = f" of {asked['users']:,} users with {asked['targets']:,} targets" if asked else ""
    first = (
        f"{result.dataset}, {result.protocol}, history {'masked' if result.mask_history else 'not masked'}, "
        f"{'test' if result.test else 'validation'}{whom}, %, seed {result.seed}"
    )
    if {candidates.mode_of(result.config, part) for part in ("valid", "test")} != {"full"}:
        first += f", {candidates.told(result.config)}"
    first += "; *: best of its column, one training each and no test" if result.compared else ""
    share = target_repeats(result.slices or {})
    lines = [first + ("" if share is None else f"; {repeats_text(share, result.mask_history)}")]
    side = result.side_load
    if side and "source" in side:
        used = IN_WORDS[made_by(side)]
        lines.append(
            f"interests: {side['source']} ({used}), {side['training_users_with_interests']} of "
            f"{side['training_users']} training users covered"
        )
    lines += _added(result)
    if result.protocol == "global_time":
        lines.append(time_split.told(result.config, bool(result.config.get("refit")), result.borders))
    lines += [f"{key}={value}: chosen on validation" for key, value in (result.chosen or {}).items()]
    if result.refit:
        lines.append(
            f"trained again for {counted(result.refit['epochs'], 'epoch')} on all before the test: "
            f"{result.refit['interactions_added']:,} interactions more"
        )
    return "\n".join([*lines, "", table([result, *result.compared])])


def _added(result: RunResult) -> list[str]:
    """Of a score prior what it weighs, and whose words on items a run read: without them its name says too little."""
    lines = []
    if result.prior is not None:
        lines.append(f"score prior added to its scores: {weights_text(result.prior)}")
    known = (result.side_load or {}).get("knowledge")
    if known:
        lines.append(
            f"knowledge of items: {known['source']}, of {known['items_known']:,} of {known['items_with_text']:,} items"
        )
    return lines
