"""What every form of a table says in words: what it is about, what its marks mean, and what limits what it says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from recbole_eimf.config.maker import is_marked, made_by
from recbole_eimf.core.version import made_with
from recbole_eimf.data import time_split
from recbole_eimf.data.history_mask import FEW_REPEATS, repeats_text, target_repeats
from recbole_eimf.evaluator import candidates
from recbole_eimf.evaluator.ranks import Asked
from recbole_eimf.evaluator.significance import LEVEL
from recbole_eimf.study.table.summary import Line, Summary, View

BARE_REMI = (
    "REMI without its hard negatives (remi_beta=0) is ComiRec-SA with REMI's routing regularisation under a full "
    "softmax, which has every item as a negative; --recipe=paper has them."
)
SHARED = "**s/epoch is not to be compared:**"
_BUSY = 1.2  # processes that want a core, for each there is: more than timing noise


def facts(summary: Summary, view: View) -> str:
    """What a reader must know to read a table: data, protocol, history, whom it is about, unit, seeds."""
    seeds = ", ".join(map(str, summary.experiment.seeds))
    chosen = "" if view.chosen else "; the same checkpoints, chosen by the validation metric of the other table"
    asked = next(iter(view.tested.values()), None)
    size = f"{_asked(asked)}, " if asked else ""
    return (
        f"{summary.experiment.dataset}, {summary.protocol}, history {'masked' if view.mask_history else 'not masked'} "
        f"(mask_history={view.mask_history}), {size}test, %, mean ± sample deviation over seeds {seeds} (counting "
        f"models have one run), {_ranked(summary)}{_order(summary)}{_times(summary)}{_repeats(summary, view)}{chosen}"
    )


def _ranked(summary: Summary) -> str:
    """What targets are ranked among; in validation rows may differ."""
    said = dict.fromkeys(candidates.told(line.runs[0].settings) for line in summary.lines if line.runs)
    return " / ".join(said)


def _times(summary: Summary) -> str:
    """What the targets of a split by time are, and how old its models."""
    if summary.protocol != "global_time":
        return ""
    lines = [line for line in summary.lines if line.runs]
    said = dict.fromkeys(time_split.told(line.runs[0].settings, _refit(line), _borders(summary)) for line in lines)
    return "".join(f"; {one}" for one in said) if len(said) == 1 else f"; rows differ: {' / '.join(said)}"


def _refit(line: Line) -> bool:
    return bool(_settings(line).get("refit"))


def _borders(summary: Summary) -> list[str] | None:
    """The dates between which the runs were parted, of the first that tells them."""
    told = (result.get("borders") for line in summary.lines for result in line.results)
    return next(filter(None, told), None)


def _asked(asked: Asked) -> str:
    """``2,237 test users with 4,833 targets``, and how often they were asked where that is more than once each."""
    often = f" asked {asked.rows:,} times" if asked.rows else ""
    return f"{asked.users:,} test users{often} with {asked.targets:,} targets"


def _repeats(summary: Summary, view: View) -> str:
    """Which share of the targets their users had before, with a warning where own histories are ranked and hardly
    anybody has an item twice."""
    share = target_repeats(next(iter(summary.slices.values()), {}))
    if share is None:
        return ""
    idle = not view.mask_history and share < FEW_REPEATS
    warning = ": mask_history=False ranks users' own histories for nothing" if idle else ""
    return f"; {repeats_text(share, view.mask_history)}{warning}"


_TIES = {"source": "as in the source", "shuffle": "shuffled", "together": "shuffled, targets together"}


def _order(summary: Summary) -> str:
    """What the order of events of one time is."""
    if summary.ties not in _TIES:
        return ", order of ties by row"
    said = f", events of one time {_TIES[summary.ties]} (ties={summary.ties})"
    first = next(iter(summary.slices.values()), {})
    if first.get("tied", {}).get("targets") and not first["untied"]["targets"]:
        return f"{said}; the data has no times that tell a target from a tie"
    return said


def which(summary: Summary, view: View) -> str:
    """What tells a view from the other in headings; nothing where there is one."""
    return "" if len(summary.views) == 1 else f", history {'masked' if view.mask_history else 'not masked'}"


def legend(summary: Summary, signs: tuple[str, str]) -> str:
    """What the marks mean."""
    found = "Bold: best of a column, underlined: second."
    if any(view.comparisons for view in summary.views):
        tests = sum(c.test is not None for view in summary.views for c in view.comparisons) // len(summary.views)
        first, second = signs
        often = any(asked.rows for view in summary.views for asked in view.tested.values())
        together = ", a user's rows together" if often else ""
        found += (
            f" {first}, {second}: differs from the first ({first}), the base, or the second ({second}) row it is "
            f"measured against, p < {LEVEL} (sign-flip test over users{together}, values averaged over seeds, "
            f"Holm-corrected over the {tests} tests of a table)."
        )
    return found


def notes(summary: Summary, signs: tuple[str, str], metrics: Sequence[str]) -> list[str]:
    """Marks explained, and everything that limits what a table of ``metrics`` says; ``**`` around what matters most."""
    lines = summary.lines
    found = [legend(summary, signs), *summary.experiment.remarks]
    if summary.finished < summary.planned:
        found.append(f"**Incomplete:** {summary.finished} of {summary.planned} runs finished.{_fewer_seeds(lines)}")
    for line in lines:
        found += [f"**{line.row.name}, seed {seed}, failed:** {why}" for seed, why in line.errors]
    found += _about_users(summary) + _about_forms(lines) + _about_interests(lines)
    if average := average_precision(summary, metrics):
        found.append(average)
    found += _about_half_lives(lines)
    found += _about_refits(summary) + _about_slices(lines)
    if any(line.results and not line.row.counting for line in lines):
        found.append(
            "Best epochs count from 1, of a model that is trained in phases those of the last one: 0 is the model "
            "before it. s/epoch is training alone, validation not counted."
        )
    return [*found, *_about_machines(summary), *_about_versions(summary)]


def _about_slices(lines: Sequence[Line]) -> list[str]:
    """Runs whose slices have other bounds than those asked for: a finished run is kept, and its slices with it."""
    rows: dict[tuple[int, ...], list[str]] = {}
    asked: tuple[int, ...] | None = None
    for line in lines:
        for run, result in line.done:
            had, asked = (result.get("config") or {}).get("slice_bounds"), run.slice_bounds
            if asked is not None and had is not None and tuple(had) != asked:
                of_bounds = rows.setdefault(tuple(had), [])
                of_bounds += [line.row.name] * (line.row.name not in of_bounds)
    if not rows:
        return []
    found = "; ".join(f"{list(had)} of {', '.join(names)}" for had, names in rows.items())
    return [
        f"**Slices have the bounds that the runs were made with**, not slice_bounds={list(asked or ())}: {found}. "
        f"Remove a run's folder to have it made again."
    ]


def _fewer_seeds(lines: Sequence[Line]) -> str:
    """Which rows' means are over fewer seeds than other rows'."""
    seeds = {line.row.name: [result["seed"] for result in line.results] for line in lines if not line.row.counting}
    most = max(map(len, seeds.values()), default=0)
    fewer = [f"{name} {', '.join(map(str, had))}" for name, had in seeds.items() if 0 < len(had) < most]
    return f" Means over fewer seeds than others': {'; '.join(fewer)}." if fewer else ""


def average_precision(summary: Summary, metrics: Sequence[str]) -> str | None:
    """How MAP is defined, where a table shows it and users have several targets: the field knows two definitions."""
    sizes = [asked for view in summary.views for asked in view.tested.values()]
    told = any(asked.targets > (asked.rows or asked.users) for asked in sizes)
    several = told if sizes else summary.protocol != "leave_one_out"
    if not several or not any(metric.startswith("map@") for metric in metrics):
        return None
    return (
        "MAP@k is RecBole's: a user's sum of precisions is divided by the smaller of k and the number of targets. "
        "trec_eval and pytrec_eval (map_cut_k) divide by the number of targets, which gives less where there are more "
        "than k."
    )


def _about_users(summary: Summary) -> list[str]:
    if any(len({asked.identity for asked in view.tested.values()}) > 1 for view in summary.views):
        sizes = dict.fromkeys(
            f"{row} {asked.users:,} users, {asked.targets:,} targets"
            for row, asked in summary.views[0].tested.items()
        )  # fmt: skip
        return [
            f"**Not all rows were tested on the same users and targets**, and are not compared: {'; '.join(sizes)}."
        ]
    return []


def _settings(line: Line) -> Mapping[str, Any]:
    return line.runs[0].settings if line.runs else {}


def _about_forms(lines: Sequence[Line]) -> list[str]:
    """Which form of a paper's model each row is."""
    found = []
    recipes: dict[str, list[str]] = {}
    for line in lines:
        if line.row.model in ("EIMF", "IBIM") and (recipe := _settings(line).get("recipe")):
            recipes.setdefault(recipe, []).append(line.row.name)
    said = {"paper": "the paper's form (recipe=paper)", "strong": "our form, not the paper's (recipe=strong)"}
    for recipe, rows in recipes.items():
        found.append(f"{said.get(recipe, f'recipe={recipe}')}: {'; '.join(rows)}.")
    if any(line.bare for line in lines):
        found.append(BARE_REMI)
    return [text[0].upper() + text[1:] for text in found]


def _about_interests(lines: Sequence[Line]) -> list[str]:
    found = []
    ours = [line.runs[0].settings for line in lines if line.row.model == "EIMF"]
    placebos = {_settings(line)["backbone"] for line in lines if line.row.model == "EIMF" and _others_interests(line)}
    for backbone in dict.fromkeys(s["backbone"] for s in ours if s["backbone"] not in placebos):
        found.append(
            f"EIMF over {backbone} stands without its placebo (placebo[{backbone}]): this says nothing about the LLM."
        )
    sides = [side for line in lines for result in line.results if (side := result.get("side_load"))]
    if any("llm_used" in side and made_by(side) == "keywords" for side in sides):
        found.append("Interests are keywords of the clusters' titles: **no LLM was used**.")
    return found


def _others_interests(line: Line) -> bool:
    """Whether users had the interests of exemplars by chance, drawn by the run or by whoever wrote its files."""
    sides = [result.get("side_load") or {} for result in line.results]
    return _settings(line)["interest_source"] == "shuffled" or any(is_marked(side.get("source", "")) for side in sides)


def _about_half_lives(lines: Sequence[Line]) -> list[str]:
    """How fast the floors forget whose half-life validation chose."""
    chosen = {line.row.name: line.results[0].get("chosen") or {} for line in lines if line.results}
    days = {row: told["recency_half_life"] for row, told in chosen.items() if "recency_half_life" in told}
    if not days:
        return []
    each = "; ".join(f"{row}: {'none' if half is None else f'{half:g} days'}" for row, half in days.items())
    return [f"Half-lives of counts, chosen on validation (recency_half_life=chosen): {each}."]


def _about_age(summary: Summary) -> list[str]:
    """Under one time for all that models are as old as the validation window is long, where none was trained again."""
    if summary.protocol != "global_time" or any(map(_refit, summary.lines)):
        return []
    days = time_split.days_between(_borders(summary) or ())
    later = "where validation ends" if days is None else f"{days:,} days after training ends"
    return [
        f"**Measures the age of models too:** the test begins {later}, and no row was trained again before it. "
        f"--refit=True does, as a service would."
    ]


def _about_refits(summary: Summary) -> list[str]:
    """Which rows were trained again before the test."""
    lines = summary.lines
    rows = {line.row.name: any(result.get("refit") for result in line.results) for line in lines if line.results}
    again = [name for name, refit in rows.items() if refit]
    if not again:
        return _about_age(summary)
    who = "Rows were" if len(again) == len(rows) else f"**{', '.join(again)}** (not the others):"
    return [f"{who} trained again on all before the test, for the number of epochs that validation chose (refit=True)."]


def _about_machines(summary: Summary) -> list[str]:
    """Seconds per epoch compare only where runs had the machine for themselves."""
    reasons = _shared(summary)
    return [f"{SHARED} {'; '.join(reasons)}."] if reasons else []


def seconds_title(summary: Summary) -> str:
    return "s/epoch, shared machine" if _shared(summary) else "s/epoch"


def _shared(summary: Summary) -> list[str]:
    """Why seconds are not those of a machine that runs had for themselves."""
    told = [notes for line in summary.lines if not line.row.counting for notes in line.notes]
    at_once = max((notes.get("runs_at_once") or 1 for notes in told), default=1)
    busy = [
        machine["load"] / machine["cores"] for notes in told
        if (machine := notes.get("machine") or {}).get("load") is not None and machine.get("cores")
    ]  # fmt: skip
    reasons = []
    if at_once > 1:
        reasons.append(f"up to {at_once} runs shared a machine")
    if any("runs_at_once" in notes and notes["runs_at_once"] is None for notes in told):
        reasons.append("runs were made on a cluster")
    if busy and max(busy) > _BUSY:
        reasons.append(f"the machine was busy (up to {max(busy):.1f} processes wanted each of its cores)")
    return reasons


def versions_of_runs(summary: Summary) -> list[dict[str, str]]:
    """The different sets of versions that the runs were made with, the newest recbole_eimf of a run alone if it says
    no more; this program's where nothing has run."""
    found = []
    for line in summary.lines:
        for told, result in zip(line.notes, line.results):
            with_ = told.get("made_with") or ({"recbole_eimf": result["version"]} if result.get("version") else {})
            if with_ and with_ not in found:
                found.append(with_)
    return found or [made_with()]


def versions_texts(found: Iterable[Mapping[str, str]]) -> list[str]:
    """``recbole_eimf 0.1.0, commit 0123456789ab, Python 3.12.3, ...`` of every set of versions; sets that differ in
    their commit alone are one text with all commits."""
    commits: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for one in found:
        same = tuple((name, "" if name == "commit" else value) for name, value in one.items())
        of_all = commits.setdefault(same, [])
        if one.get("commit") not in (None, *of_all):
            of_all.append(one["commit"])
    return [
        ", ".join(
            f"{name} {value}" if name != "commit" else f"commit{'s' * (len(of_all) > 1)} {', '.join(of_all)}"
            for name, value in same
        )
        for same, of_all in commits.items()
    ]


def _about_versions(summary: Summary) -> list[str]:
    found = versions_of_runs(summary)
    if len(found) < 2:
        return []
    return [f"**Runs were made with different versions:** {'; '.join(versions_texts(found))}."]
