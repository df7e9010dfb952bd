"""The cheapest way to give every node one parent without a circle (Chu and Liu 1965; Edmonds 1967)."""

from __future__ import annotations

from collections.abc import Mapping

Edges = Mapping[tuple[int, int], float]
"""Cost by (parent, child)."""


def cheapest_parents(root: int, nodes: int, edges: Edges) -> dict[int, int]:
    """The parent of every node but the root in the spanning arborescence of least total cost.

    Nodes are 0 to `nodes` - 1. Of equal costs the lower parent counts. Raises ValueError where a node cannot be reached.
    """
    chosen = _solve(root, set(range(nodes)), {(p, c): (cost, (p, c)) for (p, c), cost in edges.items() if c not in (p, root)})
    return {child: parent for parent, child in chosen}


def _solve(root: int, nodes: set[int], edges: dict[tuple[int, int], tuple[float, tuple[int, int]]]) -> set[tuple[int, int]]:
    """The chosen edges, by the names that they had before nodes were joined.

    `edges` has the cost and that name by (parent, child). One round takes the cheapest edge into every node; circles become
    nodes of their own, into which an edge costs what it costs more than the edge of the circle that it replaces.
    """
    best: dict[int, tuple[float, int]] = {}
    for (parent, child), (cost, _) in edges.items():
        if child not in best or (cost, parent) < best[child]:
            best[child] = (cost, parent)
    lost = nodes - best.keys() - {root}
    if lost:
        raise ValueError(f"node {min(lost)} has no parent")
    circle_of = _circles(root, nodes, {child: parent for child, (_, parent) in best.items()})
    if not circle_of:
        return {edges[parent, child][1] for child, (_, parent) in best.items()}
    joined: dict[tuple[int, int], tuple[float, tuple[int, int]]] = {}
    replaced: dict[tuple[int, int], int] = {}
    for (parent, child), (cost, name) in edges.items():
        ends = circle_of.get(parent, parent), circle_of.get(child, child)
        if ends[0] == ends[1]:
            continue
        reduced = cost - best[child][0] if child in circle_of else cost
        if ends not in joined or (reduced, name) < joined[ends]:
            joined[ends] = reduced, name
            replaced[name] = child
    rest = _solve(root, {circle_of.get(node, node) for node in nodes}, joined)
    entered = {replaced[name] for name in rest if replaced[name] in circle_of}
    return rest | {edges[best[node][1], node][1] for node in circle_of if node not in entered}


def _circles(root: int, nodes: set[int], parents: Mapping[int, int]) -> dict[int, int]:
    """The least node of its circle for every node on one."""
    circle_of: dict[int, int] = {}
    done = {root}
    for start in sorted(nodes):
        path: list[int] = []
        on_path: set[int] = set()
        node = start
        while node not in done and node not in on_path:
            path.append(node)
            on_path.add(node)
            node = parents[node]
        if node in on_path:
            circle = path[path.index(node) :]
            circle_of |= dict.fromkeys(circle, min(circle))
        done |= on_path
    return circle_of
