"""What the name of a source says: who made interests (an LLM, a function of the user's own, or nobody: keywords of
titles), and whether what comes of it was shuffled. Serving reads it too, so that nothing of RecBole is imported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

from recbole_eimf.config.keys import SOURCES

#: whether a function of the user's own asks an LLM it alone knows
Maker = Literal["llm", "own", "keywords"]

#: whose interests are an LLM's words
LLM_SOURCES = tuple(source for source in SOURCES if source != "keywords")
_MARK = "shuffled "


def marked(source: str) -> str:
    """A source as reports and files' lines name it where what comes of it was shuffled.

    >>> marked("file"), marked("shuffled file")
    ('shuffled file', 'shuffled file')
    """
    return _MARK + unmarked(source)


def unmarked(source: str) -> str:
    """What was shuffled; a source that was not as it is."""
    return source.removeprefix(_MARK)


def is_marked(source: str) -> bool:
    """Whether what comes of a source was shuffled."""
    return source.startswith(_MARK)


def is_own(source: str) -> bool:
    """Whether a source is a function of the user's own, ``package.module:function``."""
    return ":" in source


def whose(source: str, sources_in_file: Iterable[str] = ()) -> Maker:
    """Who made interests; where several did, an LLM's part weighs most.

    Args:
        source: where the interests come from, shuffled or not.
        sources_in_file: of ``file``, what its replies say of themselves.

    >>> whose("openai"), whose("shuffled keywords"), whose("my.module:function")
    ('llm', 'keywords', 'own')
    >>> whose("file", ["keywords", "shuffled my.module:function"])
    'own'
    """
    sources = {unmarked(source)}
    if sources == {"file"}:
        sources = {unmarked(each) for each in sources_in_file}
    if not sources.isdisjoint(LLM_SOURCES):
        return "llm"
    return "own" if any(map(is_own, sources)) else "keywords"


#: a run's own user is told
IN_WORDS: Mapping[Maker, str] = {
    "llm": "an LLM's replies",
    "own": "a function of your own",
    "keywords": "NO LLM: keywords of the clusters' titles",
}


def made_by(report: Mapping[str, Any]) -> Maker:
    """Who made the interests that a report tells of: ``side_load`` of a result, an export's ``meta.json``, a model.

    Those that earlier versions wrote do not say it, and one that was edited may say something else.

    >>> made_by({"source": "file", "llm_used": True}), made_by({"source": "a.b:c", "llm_used": False})
    ('llm', 'own')
    >>> made_by({"source": "file", "llm_used": False, "made_by": "own"}), made_by({"made_by": "me", "llm_used": False})
    ('own', 'keywords')
    """
    if report.get("made_by") in get_args(Maker):
        return report["made_by"]
    if is_own(report.get("source", "")):
        return "own"
    return "llm" if report.get("llm_used", True) else "keywords"
