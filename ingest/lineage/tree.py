"""The tree of a clan without its copies and merges: the cheapest parents of all members together.

What cannot be is left out: packed weights are no parent, zeros and removed blocks do not come back. Where two members could
each be the parent, the place in the clan decides: a base is nearer to all than its children are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from layerhouse.ingest.lineage.arborescence import cheapest_parents
from layerhouse.ingest.lineage.clan import Clan
from layerhouse.ingest.lineage.explain import LIKE, Explained, aligned
from layerhouse.ingest.lineage.outline import Outline

MAX_COST = 1.0
"""A squared distance from which on one explains nothing of the other: half of that of unrelated weights."""
MAX_ADDED = 0.02
"""Share of the parameters that added tokens may make."""
ROOT_COST = 10.0
"""What it costs that a member has no parent: more than any parent."""
PARENT_RANK, CHILD_RANK = 0.15, 0.05
"""By how much more a parent costs that is far from all others, relative to its distance."""
NO_FINER_COST = 1e-4
"""What it costs that a parent is stored less finely than its child."""


@dataclass(frozen=True)
class Edge:
    """A parent that a member can have: what it costs in the tree, and what it explains."""

    parent: int
    cost: float
    explained: Explained


def possible_parents(clan: Clan, nodes: Sequence[int], stacks: set[int]) -> dict[int, list[Edge]]:
    """For each node those that it can have been made from, the cheapest first."""
    ranks = _ranks(clan, nodes)
    edges: dict[int, list[Edge]] = {}
    own = set(nodes)
    for child in nodes:
        found = []
        for parent in clan.near[child]:
            explained = clan.pairs.get((parent, child))
            if parent in own and explained is not None and _can_be(clan, parent, child, explained, stacks):
                found.append(Edge(parent, _cost(clan, parent, child, explained, ranks), explained))
        edges[child] = sorted(found, key=lambda edge: (edge.cost, edge.parent))
    return edges


def plant(clan: Clan, nodes: Sequence[int], edges: dict[int, list[Edge]], stacks: set[int]) -> dict[int, int | None]:
    """The parent of each node in the cheapest tree; None for those that have none."""
    ranks = _ranks(clan, nodes)
    places = {node: place for place, node in enumerate(nodes, 1)}
    largest = max((clan.members[node].facts.params or 0 for node in nodes if node not in stacks), default=0) or 1
    sharing = max((clan.shared_tensors[node] for node in nodes), default=0) or 1
    costs = {
        (0, places[node]): ROOT_COST
        + 0.01 * ranks[node]
        - 0.02 * (clan.members[node].facts.params or 0) / largest
        - 0.01 * clan.shared_tensors[node] / sharing
        + (0.05 if node in stacks else 0.0)
        for node in nodes
    }
    for child, found in edges.items():
        costs |= {(places[edge.parent], places[child]): edge.cost for edge in found}
    parents = cheapest_parents(0, len(nodes) + 1, costs)
    return {node: nodes[parents[place] - 1] if parents[place] else None for node, place in places.items()}


def _ranks(clan: Clan, nodes: Sequence[int]) -> dict[int, float]:
    """From 0 to 1, how far each node is from the clan's references."""
    own = set(nodes)
    means = {}
    for node in nodes:
        costs = [clan.pairs[other, node].cost for other in clan.references if other in own and (other, node) in clan.pairs]
        means[node] = float(np.mean(np.log10(np.array(costs) + 1e-9))) if costs else 1.0
    order = sorted(nodes, key=lambda node: (means[node], node))
    return {node: rank / max(1, len(order) - 1) for rank, node in enumerate(order)}


def _can_be(clan: Clan, parent: int, child: int, explained: Explained, stacks: set[int]) -> bool:
    above, below = clan.members[parent], clan.members[child]
    if above.precision == 0 or explained.cost > MAX_COST or clan.is_rounded_from(parent, child):
        return False
    if above.num_blocks == 0 < below.num_blocks:
        return False
    shares = above.facts.zero_share, below.facts.zero_share
    if shares[0] is not None and shares[1] is not None and shares[0] > shares[1] + 0.02:
        return False
    if above.constants < below.constants and above.form == below.form:
        return False
    return _fits(clan, parent, child, explained, stacks)


def _fits(clan: Clan, parent: int, child: int, explained: Explained, stacks: set[int]) -> bool:
    """Whether a member has the size that a child of the other one can have."""
    above, below = clan.members[parent], clan.members[child]
    if parent in stacks and below.num_blocks < above.num_blocks:
        return False
    if above.facts.params != below.facts.params and _has_wider_blocks(below, above, explained):
        return False
    more = (above.facts.params or 0) - (below.facts.params or 0)
    is_shape_kept = above.num_blocks == below.num_blocks and above.width == below.width
    is_little = is_shape_kept and abs(more) < MAX_ADDED * (below.facts.params or 1)
    if more < 0:
        return is_little or (child in stacks and clan.is_stack(child, parent))
    return not (more > 0 and is_little and explained.exact <= 0.5)


def _has_wider_blocks(child: Outline, parent: Outline, explained: Explained) -> bool:
    """Whether a tensor of a block is longer in the child: rows that were cut off do not come back."""
    own, others = aligned(child, parent, explained.blocks)
    is_wider = (child.lengths[own] > parent.lengths[others]).any(axis=1)
    return bool((is_wider & (child.blocks[own] >= 0)).any())


def _cost(clan: Clan, parent: int, child: int, explained: Explained, ranks: dict[int, float]) -> float:
    above, below = clan.members[parent], clan.members[child]
    change = abs((above.facts.params or 0) - (below.facts.params or 0)) / max(below.facts.params or 0, 1)
    cost = explained.cost * (1 + PARENT_RANK * ranks[parent] + CHILD_RANK * ranks[child])
    if change and explained.shares[LIKE] > 0.9:
        cost *= 1.25
    cost += 1e-5 * min(change, 1.0) + 2e-7 * ranks[parent]
    return cost + (NO_FINER_COST if above.precision < below.precision else 0.0)
