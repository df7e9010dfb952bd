"""The members of one clan beside each other: which pairs are compared, and what each explains of the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from layerhouse.ingest.lineage.explain import Explained, explain
from layerhouse.ingest.lineage.outline import ROUNDED, Array, Codes, Outline

NEAREST, CENTRAL, SHARING = 12, 12, 4
"""Members that each one is compared with: the nearest by probe, those nearest to the clan's mean, those of most
equal tensors."""
HUBS = 5
"""Members that every one is compared with: of those that are not packed, the most central and those of most equal tensors."""
MAX_PARTNERS = 64
"""Of more members that chose one, those that it did not choose itself are left out."""
SMALL_CLAN = 48
"""Up to this many members, every pair is compared."""
MAX_SHARED = 64
"""A tensor that more members share tells little about each of them."""
MIN_EXACT = 0.99


@dataclass(eq=False)
class Clan:
    """Outlines of kin, and what was found by comparing pairs of them: `pairs` by (parent, child), as positions.

    `near` has for each member the others that may be its parent, `references` those that may be the parent of every other one.
    """

    members: Sequence[Outline]
    pairs: dict[tuple[int, int], Explained] = field(default_factory=dict)
    near: list[list[int]] = field(default_factory=list)
    references: Sequence[int] = ()

    @staticmethod
    def compared(members: Sequence[Outline], codes: Codes, nearest: Sequence[Sequence[int]], central: Sequence[int]) -> Clan:
        """The clan with its pairs; `nearest` and `central` are those by probe, as positions."""
        clan = Clan(members)
        partners, clan.references = _partners(members, nearest, central)
        roundings = [codes.of(name) for name in ROUNDED]
        clan.near = [sorted(others) for others in partners]
        for child, others in enumerate(clan.near):
            found = explain(members[child], [members[other] for other in others], roundings)
            clan.pairs |= {(other, child): one for other, one in zip(others, found, strict=True) if one is not None}
        return clan

    @cached_property
    def shared_tensors(self) -> list[int]:
        """For each member how often another one has one of its matrices."""
        counts = Counter[int]()
        for members in _sharers(self.members):
            for member in members:
                counts[member] += len(members) - 1
        return [counts[member] for member in range(len(self.members))]

    def exact(self, parent: int, child: int) -> float:
        """The share of a child that is exactly the parent's; 0 if they were not compared."""
        found = self.pairs.get((parent, child))
        return 0.0 if found is None else found.exact

    def is_copy(self, one: int, other: int) -> bool:
        """Whether two members hold the same weights, perhaps rounded; packed ones are no copies."""
        first, second = self.members[one], self.members[other]
        return (
            first.facts.params == second.facts.params
            and first.num_blocks == second.num_blocks
            and first.precision > 0
            and second.precision > 0
            and min(len(first), len(second)) > 0
            and max(self.exact(one, other), self.exact(other, one)) > MIN_EXACT
        )

    def is_stack(self, stacked: int, of: int) -> bool:
        """Whether a member is made of the blocks of another one, some of them several times."""
        found = self.pairs.get((of, stacked))
        if found is None or self.members[stacked].num_blocks <= self.members[of].num_blocks:
            return False
        are_all_placed = min(found.blocks, default=-1) >= 0
        return are_all_placed and found.exact > 0.95 and len(set(found.blocks)) < len(found.blocks)

    def is_symmetric(self, one: int, other: int) -> bool:
        """Whether either of two could have been made from the other, by tuning, as far as the two alone tell."""
        first, second = self.members[one], self.members[other]
        if not (first.precision and second.precision) or first.facts.params != second.facts.params:
            return False
        shares = first.facts.zero_share or 0.0, second.facts.zero_share or 0.0
        return first.num_blocks == second.num_blocks and abs(shares[0] - shares[1]) <= 0.02

    def is_rounded_from(self, child: int, parent: int) -> bool:
        """Whether a member holds the other's values rounded, which the other cannot have been made from."""
        first, second = self.members[child], self.members[parent]
        if first.form != second.form or first.precision >= second.precision or not len(first):
            return False
        rounding = {3: 2, 2: 0}.get(first.precision)
        if rounding is None:
            return False
        kept = [(second.rounded[at] == first.extremes).all(axis=0) for at in ((0, 1) if rounding == 0 else (2,))]
        is_lost = (second.extremes != first.extremes).any(axis=0) & np.any(kept, axis=0)
        return bool(is_lost.mean() > 0.25)


def _partners(
    members: Sequence[Outline], nearest: Sequence[Sequence[int]], central: Sequence[int]
) -> tuple[list[set[int]], list[int]]:
    """For each member the others that may be its parent, and those that may be the parent of every other one.

    Those that chose a member are among its own choices, if they are not too many.
    """
    count = len(members)
    if count <= SMALL_CLAN:
        return [set(range(count)) - {member} for member in range(count)], [*range(count)]
    shared: list[Counter[int]] = [Counter() for _ in members]
    totals = Counter[int]()
    for group in _sharers(members):
        totals.update(dict.fromkeys(group, len(group) - 1))
        if len(group) <= MAX_SHARED:
            for member in group:
                shared[member].update(group)
    hubs = [member for member in central if members[member].precision][:HUBS]
    hubs += [member for member, _ in totals.most_common() if members[member].precision][:HUBS]
    partners: list[set[int]] = [set() for _ in members]
    for member in range(count):
        sharing = [other for other, _ in shared[member].most_common(SHARING + 1)]
        partners[member].update(other for other in (*nearest[member][:NEAREST], *hubs, *sharing) if other != member)
    for member, chosen in enumerate([sorted(own) for own in partners]):
        for other in chosen:
            if len(partners[other]) < MAX_PARTNERS:
                partners[other].add(member)
    return partners, sorted(set(hubs))


def _sharers(members: Sequence[Outline]) -> Iterator[list[int]]:
    """For each matrix that several members have, these members."""
    hashes = [np.unique(outline.hashes[outline.is_telling & (outline.hashes != 0)]) for outline in members]
    owners = np.repeat(np.arange(len(members)), [len(own) for own in hashes])
    values = np.concatenate(hashes) if hashes else np.empty(0, np.uint64)
    order = np.lexsort((owners, values))
    starts = np.flatnonzero(np.r_[True, values[order][1:] != values[order][:-1]]) if len(values) else np.empty(0, np.int64)
    for low, high in zip(starts, np.r_[starts[1:], len(values)], strict=True):
        if high - low > 1:
            yield owners[order[low:high]].tolist()


def offsets(members: Sequence[Outline]) -> Array | None:
    """The sketches of members of one form as vectors, whose squared distances are those of `explain`; None for several forms.

    Shape (members, numbers). Tensors of different shapes are left out.
    """
    first = members[0]
    if any(member.form != first.form for member in members):
        return None
    is_used = np.all([member.has_sketch & (member.shapes == first.shapes) for member in members], axis=0)
    if not is_used.any():
        return None
    scale = np.mean([member.squares for member in members], axis=0)
    factors = np.sqrt(np.divide(first.weights, scale, out=np.zeros_like(scale), where=scale > 0) * is_used)
    factors /= np.sqrt((first.weights * is_used).sum())
    return np.stack([(member.sketches * factors[:, None]).ravel() for member in members])
