"""Which checkpoints are kin at all: mean signatures by role, which tuning, masking, packing and cutting leave alike.

A checkpoint joins the first one that it is kin to, so that not all pairs are compared; one that is kin to several makes these
one clan.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from layerhouse.ingest.lineage.outline import LANES, Array, padded_lists, residual_width

if TYPE_CHECKING:
    import pyarrow as pa

PROBE_COLUMNS = ("stack", "module", "role", "part", "is_parameter", "shape", "weight_shape", "signature")
"""Columns of the stored table `tensors` that a probe is made of."""
MIN_KINSHIP = 0.3
"""Mean cosine from which on two checkpoints are kin, unless so few numbers are compared that chance may reach it."""
CHANCE = 4.0
"""Standard deviations of the mean cosine of unrelated checkpoints."""
BLOCK, LEADERS = 512, 16
"""Checkpoints that are compared with the leaders at once, and how many leaders they are compared with before those that found
one are left out."""
LARGE_CLAN, WINDOW = 128, 24
"""Members of a clan from which on not every pair is looked at, and how many are on either side of each."""


@dataclass(frozen=True, eq=False)
class Probe:
    """Mean signatures of unit length, of shape (roles, 64), and the width of the residual stream that they lie over."""

    width: int | None
    roles: tuple[str, ...]
    vectors: Array


def probe_of(tensors: pa.Table) -> Probe:
    """The probe of a checkpoint from its rows, which have PROBE_COLUMNS."""
    columns = {name: tensors.column(name).to_pylist() for name in PROBE_COLUMNS if name != "signature"}
    vectors, sizes = padded_lists(tensors.column("signature"))
    rows: dict[str, list[int]] = defaultdict(list)
    for row, size in enumerate(sizes.tolist()):
        role = columns["role"][row]
        if size and role is not None and columns["is_parameter"][row]:
            part = "bias" if columns["part"][row] == "bias" else "weight"
            rows[f"{columns['stack'][row] or ''} {columns['module'][row] or ''} {role} {part} {size}"].append(row)
    sums = {role: vectors[rows[role]].sum(axis=0, dtype=np.float64) for role in sorted(rows)}
    lengths = {role: float(np.linalg.norm(total)) for role, total in sums.items()}
    roles = tuple(role for role in sums if lengths[role] > 1e-9)
    means = np.array([sums[role] / lengths[role] for role in roles], np.float32).reshape(-1, LANES)
    return Probe(residual_width(columns), roles, means)


class Kinship:
    """The probes of many checkpoints, to compare. `comparisons` counts the pairs that were looked at."""

    def __init__(self, probes: Sequence[Probe]) -> None:
        self.comparisons = 0
        names = {role: at for at, role in enumerate(sorted({role for probe in probes for role in probe.roles}))}
        self._vectors = np.zeros((len(probes), max(len(names), 1) * LANES), np.float32)
        self._has = np.zeros((len(probes), max(len(names), 1)), np.float32)
        self.widths = [probe.width for probe in probes]
        self._widths = np.array([-1 if width is None else width for width in self.widths], np.int64)
        for row, probe in enumerate(probes):
            places = np.array([names[role] for role in probe.roles], np.int64)
            self._has[row, places] = 1
            self._vectors.reshape(len(probes), -1, LANES)[row, places] = probe.vectors

    def between(self, rows: Array, others: Array) -> tuple[Array, Array]:
        """The mean cosine of each of `rows` with each of `others`, and whether they are kin."""
        self.comparisons += len(rows) * len(others)
        if not len(rows) or not len(others):
            return np.zeros((len(rows), len(others))), np.zeros((len(rows), len(others)), bool)
        common = self._has[rows] @ self._has[others].T
        with np.errstate(invalid="ignore", divide="ignore"):
            cosines = np.where(common > 0, (self._vectors[rows] @ self._vectors[others].T) / common, -1.0)
            least = np.maximum(MIN_KINSHIP, CHANCE / np.sqrt(LANES * common))
        widths = self._widths[rows][:, None] == self._widths[others][None]
        return cosines, (cosines >= least) & widths

    def clans(self) -> list[list[int]]:
        """The clans as lists of checkpoints, the largest first."""
        union = Union(len(self.widths))
        by_width: dict[int | None, list[int]] = defaultdict(list)
        for row, width in enumerate(self.widths):
            by_width[width].append(row)
        for members in by_width.values():
            self._join_kin(np.array(members), union)
        clans: dict[int, list[int]] = defaultdict(list)
        for row in range(len(self.widths)):
            clans[union.top(row)].append(row)
        return sorted(clans.values(), key=lambda clan: (-len(clan), clan))

    def _join_kin(self, members: Array, union: Union) -> None:
        """Join kin: each member joins the first leaders that it is kin to, or leads; clans whose means are kin are one."""
        led: dict[int, list[int]] = {}
        for low in range(0, len(members), BLOCK):
            rest = members[low : low + BLOCK]
            leaders = sorted(led, key=lambda leader: -len(led[leader]))
            for first in range(0, len(leaders), LEADERS):
                chosen = leaders[first : first + LEADERS]
                kin = self.between(rest, np.array(chosen))[1]
                for row, leader in zip(*np.nonzero(kin), strict=True):
                    union.join(int(rest[row]), chosen[leader])
                    led[chosen[leader]].append(int(rest[row]))
                rest = rest[~kin.any(axis=1)]
            while len(rest):
                kin = self.between(rest[:1], rest)[1][0]
                leader = int(rest[0])
                led[leader] = [int(one) for one in rest[kin | (rest == leader)]]
                for one in led[leader]:
                    union.join(one, leader)
                rest = rest[~kin & (rest != leader)]
        self._join_means(led, union)

    def _join_means(self, led: Mapping[int, Sequence[int]], union: Union) -> None:
        """Join the clans of leaders whose members are kin on average."""
        leaders = [leader for leader, members in led.items() if len(members) > 1]
        if len(leaders) < 2:
            return
        probes = [self._mean(np.array(led[leader])) for leader in leaders]
        means = Kinship(probes)
        rows = np.arange(len(leaders))
        for one, other in zip(*np.nonzero(means.between(rows, rows)[1]), strict=True):
            union.join(leaders[one], leaders[other])
        self.comparisons += means.comparisons

    def _mean(self, members: Array) -> Probe:
        """The probe of the mean of some members of one width."""
        vectors = self._vectors[members].sum(axis=0).reshape(-1, LANES)
        lengths = np.linalg.norm(vectors, axis=1)
        roles = np.flatnonzero(lengths > 1e-9)
        return Probe(
            self.widths[int(members[0])], tuple(map(str, roles)), (vectors[roles] / lengths[roles][:, None]).astype(np.float32)
        )

    def nearest(self, clan: Sequence[int], count: int) -> list[list[int]]:
        """For each member of a clan the nearest others, at most `count`, as positions in it.

        In a large clan each member is compared with some pivots and with the members that are as near to its pivot as it is.
        """
        members = np.array(clan)
        if len(members) <= LARGE_CLAN:
            return _nearest(self.between(members, members)[0], np.arange(len(members)), np.arange(len(members)), count)
        pivots = members[np.random.default_rng(0).choice(len(members), int(np.sqrt(len(members))), replace=False)]
        cosines = self.between(members, pivots)[0]
        cell, likeness = cosines.argmax(axis=1), cosines.max(axis=1)
        order = np.lexsort((likeness, cell))
        found: list[list[int]] = [[] for _ in range(len(members))]
        for low in range(0, len(order), WINDOW):
            own = order[low : low + WINDOW]
            around = order[max(0, low - WINDOW) : low + 2 * WINDOW]
            near = _nearest(self.between(members[own], members[around])[0], own, around, count)
            for position, others in zip(own, near, strict=True):
                found[position] = others
        return found

    def centre(self, clan: Sequence[int], count: int) -> list[int]:
        """The members nearest to the mean of a clan, as positions in it."""
        members = np.array(clan)
        mean = self._vectors[members].sum(axis=0)
        likeness = self._vectors[members] @ mean / np.sqrt(np.maximum(self._has[members].sum(axis=1), 1))
        return [int(at) for at in np.argsort(-likeness, kind="stable")[:count]]


def _nearest(cosines: Array, rows: Array, columns: Array, count: int) -> list[list[int]]:
    """For each row the columns of the greatest cosines, without itself."""
    order = np.argsort(-cosines, axis=1, kind="stable")[:, : count + 1]
    return [[int(columns[at]) for at in best if columns[at] != row][:count] for row, best in zip(rows, order, strict=True)]


class Union:
    """Sets that grow together."""

    def __init__(self, count: int) -> None:
        self._above = list(range(count))

    def top(self, one: int) -> int:
        while self._above[one] != one:
            self._above[one] = self._above[self._above[one]]
            one = self._above[one]
        return one

    def join(self, one: int, other: int) -> None:
        tops = sorted((self.top(one), self.top(other)))
        self._above[tops[1]] = tops[0]
