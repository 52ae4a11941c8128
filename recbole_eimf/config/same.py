"""Which settings decide a run's figures, from what the catalogue says that each key affects.

From it :mod:`recbole_eimf.config.same_experiment` knows what a resumed run, ``tune`` and ``compare`` regard as the
same, and :mod:`recbole_eimf.trainer.phases` which pre-trained experts runs share. Keys that the catalogue does not know
count: a model of somebody's may read them.
"""

from __future__ import annotations

from recbole_eimf.config.key import Key
from recbole_eimf.config.keys import our_keys
from recbole_eimf.config.recbole_keys import checked_recbole_keys


def _affecting(*kinds: str) -> frozenset[str]:
    return frozenset(name for name, each in known_keys().items() if each.affects in kinds)


def known_keys() -> dict[str, Key]:
    """Every key of the catalogue, ours and RecBole's."""
    return {**checked_recbole_keys(), **our_keys()}


#: keys that name what a run reads: made absolute where a worker stands elsewhere
PATHS = tuple(sorted(_affecting("path", "content")))
#: of those, files that decide figures by what is in them
CONTENT = tuple(sorted(_affecting("content")))
#: keys that decide which interactions train, and in what order: filters, times, split
TRAINING = tuple(name for name, each in known_keys().items() if each.training)
#: keys that change no figure; a file of CONTENT counts by its content
INDIFFERENT = _affecting("path", "output", "content", "machine")
#: keys that a pre-trained expert does not depend on; an expert without text depends on less
NOT_OF_EXPERTS = INDIFFERENT | _affecting("figures")
ONLY_OF_TEXT_EXPERTS = _affecting("text expert")
