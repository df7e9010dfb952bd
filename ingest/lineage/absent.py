"""Roots that are no base: of a base that is absent, one child can stand in for it, as it is near to all others.

A tensor that a parent holds otherwise was made in the child, and only what descends from that child can hold it. Where several
branches of a tree share tensors that its root holds otherwise, and fewer share the root's, they come from a base that is not
there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from layerhouse.ingest.lineage.clan import Clan
from layerhouse.ingest.lineage.explain import MIN_NEW_ZEROS, aligned
from layerhouse.ingest.lineage.outline import Array, Outline
from layerhouse.ingest.lineage.probes import Union

MIN_CONTRADICTED = 0.05
"""Share of a node's tensors that more branches have to hold otherwise than as the node does."""
MIN_OWN = 0.5
"""Share of the tensors in which a node and the absent base differ of which a child has to have the node's values to stay its
child."""
NEARER = 0.8
"""By how much a child has to be nearer to its parent than to the absent base, in squared distances, to stay its child."""


@dataclass(frozen=True)
class _Vectors:
    """Sketches and signatures of some tensors, by which they can be compared."""

    shapes: Array
    sketches: Array
    has_sketch: Array
    signatures: Array
    sizes: Array

    @staticmethod
    def of(outline: Outline, at: Array) -> _Vectors:
        """Those of a member's tensors at these positions."""
        return _Vectors(
            outline.shapes[at],
            outline.sketches[at],
            outline.has_sketch[at],
            outline.signatures[at],
            outline.signature_sizes[at],
        )

    def at(self, rows: Array) -> _Vectors:
        return _Vectors(*(array[rows] for array in self._arrays()))

    def replaced(self, rows: Array, others: _Vectors) -> _Vectors:
        """The same with other tensors in some rows."""
        arrays = [array.copy() for array in self._arrays()]
        for array, values in zip(arrays, others._arrays(), strict=True):
            array[rows] = values
        return _Vectors(*arrays)

    def distances(self, others: _Vectors) -> Array:
        """Squared distances by sketch where both have one of one shape, else by signature; NaN where there is neither."""
        difference, scale = self.sketches - others.sketches, (self.sketches**2 + others.sketches**2).sum(axis=1) / 2
        square = (difference.astype(np.float64) ** 2).sum(axis=1)
        by_sketch = np.divide(square, scale, out=np.zeros_like(square), where=scale > 0)
        by_profile = ((self.signatures - others.signatures).astype(np.float64) ** 2).sum(axis=1)
        is_sketched = (self.shapes == others.shapes) & self.has_sketch & others.has_sketch
        is_profiled = (self.sizes == others.sizes) & (self.sizes > 0)
        return np.where(is_sketched, by_sketch, np.where(is_profiled, by_profile, np.nan))

    def _arrays(self) -> tuple[Array, ...]:
        return self.shapes, self.sketches, self.has_sketch, self.signatures, self.sizes


@dataclass(frozen=True)
class _Holding:
    """The values that a member of a branch has of a node's tensors, as comparable hashes."""

    branch: int
    member: int
    hashes: Array


@dataclass(frozen=True)
class AbsentBase:
    """What is known of a base that is not there, beside a node: the positions of that node's tensors that the base has
    otherwise, and the tensors of the node with these replaced.
    """

    slots: Array
    hashes: Array
    extremes: Array
    vectors: _Vectors


def find_orphans(clan: Clan, parents: Mapping[int, int | None]) -> set[int]:
    """The nodes of a clan's trees that come from an absent base, though some of them were given parents.

    `parents` are the trees. Around each node that stands in for an absent base its tree falls into pieces, but for what has the
    values that are that node's own; each piece is one more branch for what is left.
    """
    found: set[int] = set()
    for tree in _components({node: parent for node, parent in parents.items() if parent is not None}):
        edges = {node: parent for node in tree if (parent := parents.get(node)) is not None}
        nodes = [node for node in sorted({*edges.values()}) if _has_rivals(clan, node, tree)]
        is_changed = bool(nodes)
        while is_changed:
            is_changed = False
            for node in nodes:
                cut = _edges_to_cut(clan, node, edges, tree)
                edges = {child: parent for child, parent in edges.items() if child not in cut}
                found |= {node, *cut} if cut else set()
                is_changed = is_changed or bool(cut)
    return found


def _has_rivals(clan: Clan, node: int, tree: Sequence[int]) -> bool:
    """Whether two members of a tree share a tensor that a node holds otherwise."""
    own = clan.members[node]
    held = [_comparable_hashes(clan, node, one) for one in tree if one != node and (node, one) in clan.pairs]
    if len(held) < 2:
        return False
    values = np.sort(np.stack(held), axis=0)
    return bool(((values[1:] == values[:-1]) & (values[1:] != 0) & (values[1:] != own.hashes) & own.is_telling).any())


def _edges_to_cut(clan: Clan, node: int, edges: Mapping[int, int], tree: Sequence[int]) -> list[int]:
    """The children of the edges at a node that an absent base explains as well: the child is as near to it as to the node."""
    if node not in edges and node not in edges.values():
        return []
    base = _absent_base(clan, node, _branches(node, edges, tree))
    if base is None:
        return []
    cut = [
        child
        for child, parent in edges.items()
        if parent == node and not _has_own(clan, node, child, base) and not _is_nearer_to(clan, node, child, base)
    ]
    parent = edges.get(node)
    if parent is not None and _is_far_from(clan, node, parent, base):
        cut.append(node)
    return cut


def _branches(node: int, edges: Mapping[int, int], tree: Sequence[int]) -> list[list[int]]:
    """What is left of a tree, or of the pieces that it fell into, without a node."""
    rest = {child: parent for child, parent in edges.items() if node not in (child, parent)}
    return _components(rest, [one for one in tree if one != node])


def _components(edges: Mapping[int, int], nodes: Iterable[int] = ()) -> list[list[int]]:
    """The connected components of a graph whose edges lead from children to parents, with `nodes` as further nodes."""
    members = sorted({*edges, *edges.values(), *nodes})
    union = Union(len(members))
    places = {node: place for place, node in enumerate(members)}
    for child, parent in edges.items():
        union.join(places[child], places[parent])
    found: dict[int, list[int]] = defaultdict(list)
    for node in members:
        found[union.top(places[node])].append(node)
    return list(found.values())


def _absent_base(clan: Clan, node: int, branches: Sequence[Sequence[int]]) -> AbsentBase | None:
    """What more branches of its tree hold otherwise than hold it as a node does.

    None if that is little, so that the others can come from the node.
    """
    own = clan.members[node]
    held = [[one for one in branch if (node, one) in clan.pairs] for branch in branches]
    if sum(map(bool, held)) < 2:
        return None
    rivals, support, holders = _counted(
        own, [_Holding(branch, one, _comparable_hashes(clan, node, one)) for branch, ones in enumerate(held) for one in ones]
    )
    is_other = (rivals > 1) & own.is_telling & (own.hashes != 0)
    total = own.weights[own.is_telling].sum()
    if not total or own.weights[is_other & (rivals > support)].sum() / total < MIN_CONTRADICTED:
        return None
    hashes, extremes, vectors = own.hashes.copy(), own.extremes.copy(), _Vectors.of(own, np.arange(len(own)))
    for holder in np.unique(holders[is_other]).tolist():
        at, counterparts = _counterparts(clan, node, holder)
        is_held = (holders[at] == holder) & is_other[at]
        at, counterparts, member = at[is_held], counterparts[is_held], clan.members[holder]
        vectors = vectors.replaced(at, _Vectors.of(member, counterparts))
        hashes[at], extremes[:, at] = member.hashes[counterparts], member.extremes[:, counterparts]
    return AbsentBase(np.flatnonzero(is_other), hashes, extremes, vectors)


def _counted(own: Outline, holdings: Sequence[_Holding]) -> tuple[Array, Array, Array]:
    """For each tensor: how many branches hold the value that most hold otherwise than its owner, how many hold the owner's,
    itself included, and a member that holds the first.
    """
    values = np.stack([holding.hashes for holding in holdings])
    rows, slots = np.nonzero(values)
    codes, branches = values[rows, slots], np.array([holding.branch for holding in holdings])[rows]
    order = np.lexsort((branches, codes, slots))
    rows, slots, codes, branches = rows[order], slots[order], codes[order], branches[order]
    is_value = np.ones(len(rows), bool)
    is_value[1:] = (slots[1:] != slots[:-1]) | (codes[1:] != codes[:-1])
    is_branch = is_value.copy()
    is_branch[1:] |= branches[1:] != branches[:-1]
    starts = np.flatnonzero(is_value)
    counts = np.add.reduceat(is_branch, starts, dtype=np.int64) if len(starts) else np.zeros(0, np.int64)
    slots, codes, members = slots[starts], codes[starts], np.array([holding.member for holding in holdings])[rows[starts]]
    is_own = codes == own.hashes[slots]
    support = np.ones(len(own), np.int64)
    support[slots[is_own]] += counts[is_own]
    rivals, holders = np.zeros(len(own), np.int64), np.full(len(own), -1)
    for at in np.flatnonzero(~is_own & (counts > 1)).tolist():
        if counts[at] > rivals[slots[at]]:
            rivals[slots[at]], holders[slots[at]] = counts[at], members[at]
    return rivals, support, holders


def _comparable_hashes(clan: Clan, node: int, other: int) -> Array:
    """For each tensor of a node the hash of another member's counterpart; 0 if that is of another shape or type, or masked."""
    own, member = clan.members[node], clan.members[other]
    at, counterparts = _counterparts(clan, node, other)
    hashes = np.zeros(len(own), own.hashes.dtype)
    is_alike = (own.shapes[at] == member.shapes[counterparts]) & (own.dtypes[at] == member.dtypes[counterparts])
    is_alike &= member.zeros[counterparts] <= own.zeros[at] + MIN_NEW_ZEROS * own.sizes[at]
    hashes[at[is_alike]] = member.hashes[counterparts[is_alike]]
    return hashes


def _counterparts(clan: Clan, node: int, other: int) -> tuple[Array, Array]:
    """The positions of tensors with a counterpart, in a node and in another member that was compared with it as its child."""
    own, member = clan.members[node], clan.members[other]
    if own.form == member.form:
        return np.arange(len(own)), np.arange(len(own))
    counterparts, at = aligned(member, own, clan.pairs[node, other].blocks)
    return at, counterparts


def _has_own(clan: Clan, node: int, child: int, base: AbsentBase) -> bool:
    """Whether a child has the values, perhaps rounded or masked, that a node has otherwise than the absent base."""
    own, member = clan.members[node], clan.members[child]
    at, counterparts = _asked(clan, node, child, base)
    is_shape = own.shapes[at] == member.shapes[counterparts]
    at, counterparts = at[is_shape], counterparts[is_shape]
    are_extremes_own = (own.extremes[:, at] != base.extremes[:, at]).any(axis=0)
    is_node, is_base = (hashes[at] == member.hashes[counterparts] for hashes in (own.hashes, base.hashes))
    is_own = is_node | (are_extremes_own & _are_extremes_kept(own, member, at, counterparts))
    is_asked = is_node | is_base | are_extremes_own
    weights = own.weights[at]
    return bool(weights[is_own & ~is_base].sum() > MIN_OWN * weights[is_asked].sum())


def _is_nearer_to(clan: Clan, node: int, child: int, base: AbsentBase) -> bool:
    """Whether a child is clearly nearer to a node than to the absent base, over the tensors in which these differ.

    One that has a tensor of the absent base was not made from the node, however near it is.
    """
    at, counterparts = _asked(clan, node, child, base)
    own, member = clan.members[node], clan.members[child]
    if (base.hashes[at] == member.hashes[counterparts]).any():
        return False
    vectors = _Vectors.of(member, counterparts)
    to_node, to_base = _distances(own.weights[at], vectors, _Vectors.of(own, at), base.vectors.at(at))
    return to_node < NEARER * to_base


def _is_far_from(clan: Clan, node: int, parent: int, base: AbsentBase) -> bool:
    """Whether a node is nearer to the absent base than to its parent."""
    at, counterparts = _asked(clan, node, parent, base)
    own, vectors = clan.members[node], _Vectors.of(clan.members[parent], counterparts)
    to_parent, to_base = _distances(own.weights[at], _Vectors.of(own, at), vectors, base.vectors.at(at))
    return not to_parent <= to_base


def _asked(clan: Clan, node: int, other: int, base: AbsentBase) -> tuple[Array, Array]:
    """The tensors in which a node differs from the absent base and their counterparts in another member."""
    if (node, other) not in clan.pairs:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    at, counterparts = _counterparts(clan, node, other)
    is_asked = np.isin(at, base.slots)
    return at[is_asked], counterparts[is_asked]


def _distances(weights: Array, own: _Vectors, one: _Vectors, other: _Vectors) -> tuple[float, float]:
    """The summed squared distances of some tensors to two others, over those that can be compared with both."""
    first, second = own.distances(one), own.distances(other)
    is_known = ~np.isnan(first) & ~np.isnan(second)
    return float((weights * first)[is_known].sum()), float((weights * second)[is_known].sum())


def _are_extremes_kept(own: Outline, member: Outline, at: Array, counterparts: Array) -> Array:
    """Whether the least and the greatest value are the same, or the same rounded."""
    forms = np.concatenate([own.extremes[np.newaxis], own.rounded])[:, :, at]
    return np.asarray((forms == member.extremes[:, counterparts]).all(axis=1).any(axis=0))
