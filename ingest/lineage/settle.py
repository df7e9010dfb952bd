"""The descent of every member of a clan: copies first, then stacks and merges, then the tree of the others, then doubts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from layerhouse.ingest.lineage.absent import find_orphans
from layerhouse.ingest.lineage.clan import Clan, offsets
from layerhouse.ingest.lineage.explain import MASKED, SAME, Explained, untouched_share
from layerhouse.ingest.lineage.merges import Merge, find_merges
from layerhouse.ingest.lineage.tree import Edge, plant, possible_parents
from layerhouse.vocabulary import Descent

MAX_ANGLE_COSINE = 0.35
"""Median cosine of the ways from a member to two others from which on a base of all three is missing: from their common base,
ways are independent, and their cosine is near 0; from one of its children it is near a half."""
MAX_WAYS = 24
"""Neighbours of a member whose ways are compared."""
CLEAR_ANCHORS = 2
"""By how many children, whose direction is known, one of two has to lead for it to be the parent."""
MIN_BYTES = 0.25
"""Share of equal bytes from which on they tell which of several copies a checkpoint was made from."""
MIN_UNTOUCHED, MIN_MASKED, MIN_UNCHANGED = 0.5, 0.5, 0.1
"""Shares that a parent has to explain exactly: of the tensors that were neither masked nor packed, or else of all; and of a
checkpoint that is stored more finely than it."""


@dataclass(frozen=True)
class Verdict:
    """What one member of a clan is; parents are positions in it.

    `distance` is what the parent leaves unexplained, `rival` the next best parent and its distance. `is_certain` is false where
    only the shape of the tree tells parent from child.
    """

    relation: Descent
    parent: int | None = None
    second_parent: int | None = None
    explained: Explained | None = None
    rival: int | None = None
    rival_distance: float | None = None
    merge: Merge | None = None
    is_certain: bool = True

    @property
    def distance(self) -> float | None:
        return None if self.explained is None else self.explained.cost

    @property
    def confidence(self) -> float | None:
        """From 0 to 1: the lead over the next best parent; half of it where only the shape of the tree gives the direction."""
        if self.relation == Descent.MERGE:
            return None if self.merge is None else max(0.0, 1 - self.merge.rest)
        if self.relation not in (Descent.CHILD, Descent.COPY) or self.distance is None:
            return None
        lead = 1.0
        if self.rival_distance is not None:
            lead = 1 - min(self.distance, self.rival_distance) / self.rival_distance if self.rival_distance > 0 else 0.0
        return lead if self.is_certain else lead / 2


def settle(clan: Clan) -> list[Verdict]:
    """The verdict on every member, in their order."""
    count = len(clan.members)
    if count == 1:
        return [Verdict(Descent.ALONE)]
    verdicts: dict[int, Verdict] = {}
    nodes = _without_copies(clan, verdicts)
    stacks = {stacked for (of, stacked) in clan.pairs if stacked in nodes and of in nodes and clan.is_stack(stacked, of)}
    stacks |= {node for node in nodes if clan.members[node].has_equal_blocks}
    merges = find_merges(clan, sorted(nodes))
    for child, merge in merges.items():
        explained = clan.pairs[merge.first, child]
        verdicts[child] = Verdict(Descent.MERGE, merge.first, merge.second, explained, merge=merge)
    rest = sorted(nodes - merges.keys())
    edges = possible_parents(clan, rest, stacks)
    parents = plant(clan, rest, edges, stacks)
    for child in parents:
        verdicts[child] = _verdict(clan, child, edges[child], parents)
    _choose_among_copies(clan, verdicts)
    _doubt_directions(clan, rest, verdicts)
    _doubt_unexplained(clan, rest, verdicts)
    for node in find_orphans(clan, {node: verdicts[node].parent for node in rest}):
        verdicts[node] = Verdict(Descent.SIBLING)
    has_children = {parent for verdict in verdicts.values() for parent in (verdict.parent, verdict.second_parent)}
    for node in rest:
        if verdicts[node].relation == Descent.ROOT and node not in has_children:
            verdicts[node] = Verdict(Descent.KIN if edges[node] or clan.near[node] else Descent.ALONE)
    return [verdicts[member] for member in range(count)]


def _without_copies(clan: Clan, verdicts: dict[int, Verdict]) -> set[int]:
    """The members of which each other one is a copy; those get their verdicts.

    Of equal members the finer one of which another is rounded stands for all, then the one that shares most matrices with
    others, then the first by name.
    """
    group_of = list(range(len(clan.members)))

    def top(one: int) -> int:
        while group_of[one] != one:
            one = group_of[one]
        return one

    for one, other in clan.pairs:
        if one < other and top(one) != top(other) and clan.is_copy(one, other):
            group_of[top(other)] = top(one)
    groups: dict[int, list[int]] = defaultdict(list)
    for member in range(len(clan.members)):
        groups[top(member)].append(member)
    heads = set()
    for group in groups.values():
        is_source = {one: any(clan.is_rounded_from(other, one) for other in group if other != one) for one in group}
        is_lossy = {one: any(clan.is_rounded_from(one, other) for other in group if other != one) for one in group}

        def order(one: int, is_source: dict[int, bool] = is_source, is_lossy: dict[int, bool] = is_lossy) -> tuple[object, ...]:
            outline = clan.members[one]
            is_finest = is_source[one] and not is_lossy[one]
            return (
                not is_finest,
                -clan.shared_tensors[one],
                -outline.precision,
                outline.facts.names,
                outline.facts.checkpoint_id,
            )

        head, *copies = sorted(group, key=order)
        heads.add(head)
        for copy in copies:
            certain = clan.is_rounded_from(copy, head)
            verdicts[copy] = Verdict(Descent.COPY, head, explained=clan.pairs.get((head, copy)), is_certain=certain)
    return heads


def _choose_among_copies(clan: Clan, verdicts: dict[int, Verdict]) -> None:
    """Of a parent and its copies, which explain a child alike, take the one that shares its bytes, else its precision."""
    copies: dict[int, list[int]] = defaultdict(list)
    for member, verdict in verdicts.items():
        if verdict.relation == Descent.COPY and verdict.parent is not None:
            copies[verdict.parent].append(member)
    for child, verdict in verdicts.items():
        if verdict.relation != Descent.CHILD or verdict.parent not in copies:
            continue
        group = [verdict.parent, *copies[verdict.parent]]

        def order(one: int, child: int = child, head: int = verdict.parent) -> tuple[bool, bool, bool]:
            explained = clan.pairs.get((one, child))
            is_same = explained is not None and explained.shares[SAME] > MIN_BYTES
            return not is_same, clan.members[one].precision != clan.members[child].precision, one != head

        best = min((one for one in group if (one, child) in clan.pairs), key=order, default=verdict.parent)
        verdicts[child] = replace(verdict, parent=best, explained=clan.pairs.get((best, child), verdict.explained))


def _verdict(clan: Clan, child: int, edges: Sequence[Edge], parents: Mapping[int, int | None]) -> Verdict:
    """The verdict on a member of the tree; what was made from it is no rival of its parent."""
    parent = parents[child]
    if parent is None:
        return Verdict(Descent.ROOT)
    chosen = next(edge for edge in edges if edge.parent == parent)
    rival = next((edge for edge in edges if edge.parent != parent and not _descends(edge.parent, child, parents)), None)
    return Verdict(
        Descent.CHILD,
        parent,
        explained=chosen.explained,
        rival=None if rival is None else rival.parent,
        rival_distance=None if rival is None else rival.explained.cost,
        is_certain=not clan.is_symmetric(parent, child),
    )


def _descends(one: int | None, other: int, parents: Mapping[int, int | None]) -> bool:
    while one is not None and one != other:
        one = parents[one]
    return one == other


def _doubt_directions(clan: Clan, nodes: Iterable[int], verdicts: dict[int, Verdict]) -> None:
    """Take back parents among members of which any could be that of any other, where nothing else tells the direction."""
    ties: dict[int, set[int]] = defaultdict(set)
    for node in nodes:
        parent = verdicts[node].parent
        if parent is not None and not verdicts[node].is_certain:
            ties[node].add(parent)
            ties[parent].add(node)
    for group in _components(ties):
        is_entered = any(verdicts[node].parent is not None and verdicts[node].parent not in group for node in group)
        if is_entered:
            continue
        if len(group) == 2:
            _doubt_pair(group, verdicts)
        elif _is_base_absent(clan, group):
            for node in group:
                verdicts[node] = replace(verdicts[node], relation=Descent.SIBLING, parent=None)


def _doubt_pair(group: Sequence[int], verdicts: dict[int, Verdict]) -> None:
    """Two that could each be the other's parent stay so if one of them clearly has more children of known direction."""
    child = next(node for node in group if verdicts[node].parent in group)
    parent = next(node for node in group if node != child)
    anchors = {node: sum(v.parent == node and v.is_certain for v in verdicts.values()) for node in group}
    if anchors[parent] - anchors[child] < CLEAR_ANCHORS:
        for node in group:
            verdicts[node] = replace(verdicts[node], relation=Descent.KIN, parent=None)


def _components(ties: dict[int, set[int]]) -> list[list[int]]:
    seen: set[int] = set()
    groups = []
    for start in sorted(ties):
        group, waiting = [], [start]
        while waiting:
            node = waiting.pop()
            if node not in seen:
                seen.add(node)
                group.append(node)
                waiting += ties[node]
        if group:
            groups.append(sorted(group))
    return groups


def _is_base_absent(clan: Clan, group: Sequence[int]) -> bool:
    """Whether from every member the ways to the others lead in one direction, as they do from children of one base."""
    return all((angle := _angle(clan, node, group)) is not None and angle > MAX_ANGLE_COSINE for node in group)


def _angle(clan: Clan, node: int, group: Sequence[int]) -> float | None:
    """The median cosine of the ways from a member to each two others; None where it cannot be known."""
    others = [other for other in group if other != node and clan.members[other].form == clan.members[node].form]
    others = sorted(others, key=lambda other: clan.pairs[other, node].cost if (other, node) in clan.pairs else np.inf)[
        :MAX_WAYS
    ]
    if len(others) < 2:
        return None
    vectors = offsets([clan.members[one] for one in (node, *others)])
    if vectors is None:
        return None
    ways = vectors[1:] - vectors[0]
    lengths = np.linalg.norm(ways, axis=1)
    if not lengths.all():
        return None
    cosines = (ways @ ways.T) / lengths[:, None] / lengths
    return float(np.median([cosines[one, other] for one, other in combinations(range(len(others)), 2)]))


def _doubt_unexplained(clan: Clan, nodes: Iterable[int], verdicts: dict[int, Verdict]) -> None:
    """Take back the parent of a member of which nothing is exactly the parent's that should be: it may come from an absent one.

    Of a masked or packed one that is what was neither masked nor packed; of one that is stored more finely, anything.
    """
    for node in nodes:
        verdict = verdicts[node]
        if verdict.parent is None or not verdict.is_certain or verdict.explained is None:
            continue
        child, parent = clan.members[node], clan.members[verdict.parent]
        shares = child.facts.zero_share or 0.0, parent.facts.zero_share or 0.0
        unchanged = verdict.explained.exact + verdict.explained.shares[MASKED]
        is_masked = shares[0] > shares[1] + 0.02
        if is_masked or not child.precision:
            share = untouched_share(child, parent, verdict.explained.blocks)
            is_doubtful = (is_masked if share is None else share < MIN_UNTOUCHED) and unchanged < MIN_MASKED
        else:
            is_doubtful = child.precision > parent.precision and unchanged < MIN_UNCHANGED
        if is_doubtful:
            verdicts[node] = replace(verdict, relation=Descent.KIN, parent=None)
