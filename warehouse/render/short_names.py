"""Short names of models: what a figure or a terminal shows where full names take too much space."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Collection, Iterable, Iterator

_GLOB_CHARACTERS = frozenset("*?[")


def shortest_endings(names: Iterable[str], among: Collection[str] | None = None) -> dict[str, str]:
    """The shortest ending of each name that means just this name where a model is asked for.

    An ending is made of whole parts of the path, such as `HGSP_2000` of `results/HGSP_2000`. It is unique among the names
    in `among`, by default `names`. A name stays whole if each of its endings is another name, ends another name as well, or is
    a glob that matches another name.
    """
    names = list(names)
    known = {*names, *(among or ())}
    counts = Counter(ending for name in known for ending in _endings(name))
    return {
        name: next((end for end in _endings(name) if counts[end] == 1 and _means(end, name, known)), name) for name in names
    }


def _endings(name: str) -> Iterator[str]:
    """The proper endings of a name, from the shortest."""
    parts = name.split("/")
    for start in range(len(parts) - 1, 0, -1):
        if ending := "/".join(parts[start:]):
            yield ending


def _means(ending: str, name: str, known: Collection[str]) -> bool:
    """Whether an ending that no other name has is neither another name nor a glob that matches one."""
    if ending in known:
        return False
    return _GLOB_CHARACTERS.isdisjoint(ending) or all(other == name for other in known if fnmatch.fnmatchcase(other, ending))
