"""Which members of a clan are merges of two others: they lie on the line between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from layerhouse.ingest.lineage.clan import Clan, offsets

NEIGHBOURS = 8
"""Members near one that are tried as its two parents."""
INNER = 0.1
"""Least share of each parent."""
MAX_REST = 0.1
"""What is left of the squared distance to the nearer parent, at most, for a point to count as on the line."""


@dataclass(frozen=True)
class Merge:
    """Two parents, the nearer first; the share of the second, and the squared distance from the line relative to theirs."""

    first: int
    second: int
    share: float
    rest: float


def find_merges(clan: Clan, nodes: Sequence[int]) -> dict[int, Merge]:
    """The merges among some members of a clan."""
    own = set(nodes)
    found: dict[int, Merge] = {}
    for child in nodes:
        outline = clan.members[child]
        if not outline.precision:
            continue
        near = [
            other
            for other in clan.near[child]
            if other in own and clan.is_symmetric(child, other) and clan.members[other].form == outline.form
        ]
        near = sorted(near, key=lambda other: clan.pairs[other, child].cost if (other, child) in clan.pairs else np.inf)
        if len(near) >= 2:
            merge = _between(clan, child, near[:NEIGHBOURS])
            if merge is not None:
                found[child] = merge
    return _middle_ones(found)


def _between(clan: Clan, child: int, near: Sequence[int]) -> Merge | None:
    vectors = offsets([clan.members[one] for one in (child, *near)])
    if vectors is None:
        return None
    best: Merge | None = None
    away = vectors[1:] - vectors[0]
    products = (away @ away.T).astype(np.float64)
    for one, other in combinations(range(len(near)), 2):
        between = products[one, one] + products[other, other] - 2 * products[one, other]
        if between <= 1.2 * min(products[one, one], products[other, other]):
            continue
        share = (products[one, one] - products[one, other]) / between
        if not INNER < share < 1 - INNER:
            continue
        rest = products[one, one] - share * share * between
        relative = float(rest / min(products[one, one], products[other, other]))
        if relative < MAX_REST and (best is None or relative < best.rest):
            first, second = (near[one], near[other]) if share <= 0.5 else (near[other], near[one])
            best = Merge(first, second, float(min(share, 1 - share)), max(relative, 0.0))
    return best


def _middle_ones(found: dict[int, Merge]) -> dict[int, Merge]:
    """Without merges of merges that are each other's parents: of three points on a line the one with the least rest counts."""
    kept: dict[int, Merge] = {}
    for child, merge in sorted(found.items(), key=lambda item: (item[1].rest, item[0])):
        if not any(child in (other.first, other.second) and {merge.first, merge.second} & {one} for one, other in kept.items()):
            kept[child] = merge
    return kept
