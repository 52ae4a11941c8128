"""A source of interests of the user's own: any importable function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from recbole_eimf.core.errors import ConfigError, InterestSourceError, imported, raised, suggestion
from recbole_eimf.semantic.llm.reply import Reply


@dataclass(frozen=True)
class Cluster:
    """What a source is told of a cluster.

    user_id: of its exemplar; titles: of the exemplar's training items, oldest first; cluster_titles: of all items its
    members have, each once; prompt: the paper's question about the exemplar (section 3.2.2).
    """

    user_id: str
    titles: tuple[str, ...]
    cluster_titles: tuple[str, ...]
    prompt: str


#: a source: clusters in, for each exemplar its interests out, most important first; who is left out or None has none
Source = Callable[[Sequence[Cluster]], Mapping[str, Sequence[str] | None]]


def own_source(path: str, key: str = "interest_source") -> Source:
    """Import ``package.module:function``.

    Raises:
        ConfigError: no such module or function, or the module fails while it is imported.
    """
    module_name, _, name = path.partition(":")
    module = imported(key, path)
    found = getattr(module, name, None)
    if not callable(found):
        raise ConfigError(f"{key}={path}: {module_name} has no function {name!r}.{suggestion(name, vars(module))}")
    return found


def own_replies(path: str, clusters: Sequence[Cluster], max_interests: int) -> dict[str, Reply]:
    """Ask a user's source.

    Args:
        path: ``package.module:function``; clusters: of the training users; max_interests: used of each.

    Raises:
        ConfigError: no such function.
        InterestSourceError: it fails, or gives something other than texts by exemplar.
    """
    source = own_source(path)
    try:
        found = source(clusters)
    except (Exception, SystemExit) as error:  # whatever it raises, the user wants to know whose error it is
        raise InterestSourceError(f"interest_source={path}: it raised {raised(error)}") from error
    if not isinstance(found, Mapping):
        raise InterestSourceError(
            f"interest_source={path}: it gave a {type(found).__name__}; a mapping of user id to texts is needed."
        )
    foreign = set(found) - {cluster.user_id for cluster in clusters}
    if foreign:
        raise InterestSourceError(
            f"interest_source={path}: {len(foreign)} of its users are not exemplars, the first is "
            f"{min(map(str, foreign))!r}."
        )
    return {
        cluster.user_id: _reply(path, cluster, found.get(cluster.user_id, ()), max_interests) for cluster in clusters
    }


def _reply(path: str, cluster: Cluster, texts: Sequence[str] | None, most: int) -> Reply:
    texts = () if texts is None else texts
    texts = list(texts) if isinstance(texts, Iterable) and not isinstance(texts, str) else texts
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        user = str(cluster.user_id)  # numpy's text shows its type
        raise InterestSourceError(
            f"interest_source={path}: the interests of {user!r} are {texts!r}; a list of texts is needed."
        )
    kept = tuple(dict.fromkeys(text.strip() for text in texts if text.strip()))[:most]
    error = None if kept else "no interests given"
    return Reply(cluster.user_id, "", None, kept, "ok" if kept else "failed", error, None, path)
