"""The cheapest way to give every node one parent without a circle (Chu and Liu 1965; Edmonds 1967).

As Tarjan (1977) does it: cheapest edges are followed backwards; a circle becomes one node, whose edges cost by how much they
are dearer than the edge of the circle that they would replace. O(E log^2 V).
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass

Edges = Mapping[tuple[int, int], float]
"""Cost by (parent, child)."""
Edge = tuple[int, int]


def cheapest_parents(root: int, nodes: int, edges: Edges) -> dict[int, int]:
    """The parent of every node but the root in the spanning arborescence of least total cost.

    Nodes are 0 to `nodes` - 1. Raises ValueError where a node cannot be reached.
    """
    queues = [_Queue() for _ in range(nodes)]
    for (parent, child), cost in edges.items():
        if child not in (parent, root):
            queues[child].entries.append((cost, parent, child))
    for queue in queues:
        heapq.heapify(queue.entries)
    sets = _Sets(nodes)
    entering: dict[int, Edge] = {}
    circles: list[tuple[int, int, list[Edge]]] = []
    seen = [-1] * nodes
    seen[root] = root
    for start in range(nodes):
        node, path = start, list[tuple[int, Edge]]()
        while seen[node] < 0:
            if not queues[node].entries:
                raise ValueError(f"node {node} has no parent")
            edge = queues[node].pop()
            path.append((node, edge))
            seen[node] = start
            node = sets.top(edge[0])
            if seen[node] == start:
                node = _join_circle(node, path, queues, sets, circles)
                seen[node] = -1
        for _, edge in path:
            entering[sets.top(edge[1])] = edge
    for node, joins, circle in reversed(circles):
        sets.undo(joins)
        outer = entering[node]
        entering.update({sets.top(edge[1]): edge for edge in circle})
        entering[sets.top(outer[1])] = outer
    return {child: parent for parent, child in entering.values() if child != root}


def _join_circle(
    node: int,
    path: list[tuple[int, Edge]],
    queues: list[_Queue],
    sets: _Sets,
    circles: list[tuple[int, int, list[Edge]]],
) -> int:
    """Make the nodes of the path back to `node` one, and return the node that stands for them. Its edges are kept."""
    joins, queue, circle = len(sets.joins), _Queue(), list[Edge]()
    while True:
        member, edge = path.pop()
        circle.append(edge)
        queue = queue.with_all_of(queues[member])
        if not sets.join(node, member):
            break
    top = sets.top(node)
    queues[top] = queue
    circles.append((top, joins, circle))
    return top


@dataclass
class _Queue:
    """Edges into a node, the cheapest first; `added` is to be added to the cost of each."""

    entries: list[tuple[float, int, int]]
    added: float = 0.0

    def __init__(self) -> None:
        self.entries = []

    def pop(self) -> Edge:
        """Take the cheapest edge; the others cost less by what it costs from now on."""
        cost, parent, child = heapq.heappop(self.entries)
        self.added = -cost
        return parent, child

    def with_all_of(self, other: _Queue) -> _Queue:
        """The edges of both; the fewer ones are moved."""
        few, many = sorted((self, other), key=lambda queue: len(queue.entries))
        for cost, parent, child in few.entries:
            heapq.heappush(many.entries, (cost + few.added - many.added, parent, child))
        return many


class _Sets:
    """Sets of nodes that grow together, and can be taken apart again in the order of their joins."""

    def __init__(self, count: int) -> None:
        self._above = [-1] * count
        self.joins: list[tuple[int, int]] = []

    def top(self, node: int) -> int:
        while self._above[node] >= 0:
            node = self._above[node]
        return node

    def join(self, one: int, other: int) -> bool:
        """Whether the two were in different sets, which are one now."""
        one, other = self.top(one), self.top(other)
        if one == other:
            return False
        if self._above[one] > self._above[other]:
            one, other = other, one
        self.joins.append((other, self._above[other]))
        self._above[one] += self._above[other]
        self._above[other] = one
        return True

    def undo(self, count: int) -> None:
        """Take sets apart until only the first `count` joins are left."""
        while len(self.joins) > count:
            node, size = self.joins.pop()
            self._above[self._above[node]] -= size
            self._above[node] = size
