"""Which unit of the base each unit of a checkpoint is, from stored rows alone: by the hashes of its parts, then by signature.

A unit whose every part is that of one unit of the base is exact. One of which some part moved is similar to the unit that its
other parts name, or that its signature leads to; where its parts name several units it is inconsistent, and nothing is claimed.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from layerhouse.ingest.measure.unit_vectors import DIMENSIONS, Array

if TYPE_CHECKING:
    import pyarrow as pa

Place = tuple[str, int]
"""Stack and layer."""

EXACT, SIMILAR, INCONSISTENT, NONE = "exact", "similar", "inconsistent", "none"

LEAST_SIMILARITY = 0.5
CLEAR = 0.1
"""A unit is similar only where the next best one is less alike by so much."""

SURE = 0.9
"""A part that is so much like a part of another unit than the rest says is of that one."""

ROWS_AT_ONCE = 128
"""Units that are set beside all of the base's at once: what comes of it should stay near the processor."""

SHOWN_PLACES = 3


@dataclass(frozen=True)
class UnitGroup:
    """The units of one kind of one layer: their numbers (n,), hashes (n,) by part, and signatures (n, 16) by part that has one,
    rows of NaN where a unit has none."""

    numbers: Array
    hashes: Mapping[str, Array]
    signatures: Mapping[str, Array]


@dataclass(frozen=True)
class UnitPlaces:
    """For the units of a group: the position of the base's unit, -1 where there is none; the rule; the confidence, or NaN."""

    positions: Array
    matches: Array
    confidences: Array


def match_units(
    units: pa.Table, base_units: pa.Table, layer_map: Iterable[tuple[str, int, int]]
) -> tuple[pa.Table | None, list[str]]:
    """Rows of unit_matches without ids and commits, for every layer of the map (stack, layer, block of the base) whose units
    both sides have, and lines on what is not exact. None where there is nothing to match."""
    import pyarrow as pa

    groups, base_groups = group_units(units), group_units(base_units)
    tables: list[pa.Table] = []
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    mixed: dict[str, list[int]] = defaultdict(list)
    for stack, layer, base_layer in sorted(layer_map):
        theirs = base_groups.get((stack, base_layer), {})
        ours = {kind: group for kind, group in groups.get((stack, layer), {}).items() if kind in theirs}
        placed = {kind: place_units(group, theirs[kind]) for kind, group in ours.items()}
        if {"head", "kv_group"} <= placed.keys():
            _check_groups(placed["head"], placed["kv_group"], *(len(theirs[kind].numbers) for kind in ("head", "kv_group")))
        for kind, places in placed.items():
            group, base = ours[kind], theirs[kind]
            tables.append(_rows((stack, layer, base_layer, kind), group, base, places))
            counts[kind].update(places.matches.tolist())
            if INCONSISTENT in places.matches:
                mixed[kind].append(layer)
    lines = [line for kind, found in counts.items() if (line := _line(kind, found, mixed[kind]))]
    return (pa.concat_tables(tables) if tables else None), lines


def group_units(units: pa.Table) -> dict[Place, dict[str, UnitGroup]]:
    """Stored rows by stack and layer and by kind. Parts that not all units of a group have are left out."""
    stacks, kinds = units.column("stack").to_pylist(), units.column("kind").to_pylist()
    layers = units.column("layer_index").to_pylist()
    rows: dict[tuple[str, int, str], list[int]] = defaultdict(list)
    for row, key in enumerate(zip(stacks, layers, kinds, strict=True)):
        rows[key].append(row)
    answer: dict[Place, dict[str, UnitGroup]] = defaultdict(dict)
    for (stack, layer, kind), at in rows.items():
        is_run = at[-1] - at[0] + 1 == len(at)
        answer[stack, layer][kind] = _group(units.slice(at[0], len(at)) if is_run else units.take(at))
    return answer


def place_units(units: UnitGroup, base: UnitGroup) -> UnitPlaces:
    """Place the units of a layer among those of its block."""
    count = len(units.numbers)
    answer = UnitPlaces(np.full(count, -1), np.full(count, NONE, object), np.full(count, np.nan))
    parts = [name for name in units.hashes if name in base.hashes]
    if units.hashes.keys() == base.hashes.keys():
        _place_exactly(units, base, answer)
    rest = np.flatnonzero(answer.positions < 0)
    named, is_mixed = _named_by_parts(units, base, parts, rest)
    for low in range(0, len(rest), ROWS_AT_ONCE):
        some = slice(low, low + ROWS_AT_ONCE)
        _place_by_signature(units, base, rest[some], named[some], is_mixed[some], answer)
    _keep_best_claims(answer)
    return answer


def _group(rows: pa.Table) -> UnitGroup:
    maps = rows.column("part_hashes").to_pylist()
    parts = [dict(one or ()) for one in maps]
    names = [name for name in parts[0] if all(name in one for one in parts)]
    hashes = {name: np.array([one[name] for one in parts], object) for name in names}
    signed = [name for name in parts[0] if not name.endswith("_bias")]
    signatures = np.full((len(parts), len(signed) * DIMENSIONS), np.nan)
    stored = rows.column("signature").combine_chunks()
    values = stored.drop_null().flatten().to_numpy(zero_copy_only=False)
    if len(values) == signatures.shape[1] * (len(parts) - stored.null_count):
        signatures[stored.is_valid().to_numpy(zero_copy_only=False)] = values.reshape(-1, signatures.shape[1])
    by_part = {name: signatures[:, at * DIMENSIONS : (at + 1) * DIMENSIONS] for at, name in enumerate(signed) if name in names}
    return UnitGroup(rows.column("unit_index").to_numpy(), hashes, by_part)


def _place_exactly(units: UnitGroup, base: UnitGroup, answer: UnitPlaces) -> None:
    """By all parts' hashes. Units that the base has several times are taken in order; which of them is kept is as sure as the
    share of them that is."""
    names = sorted(units.hashes)
    ours, theirs = (list(zip(*(group.hashes[name] for name in names), strict=True)) for group in (units, base))
    alike: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for position, key in enumerate(theirs):
        alike[key].append(position)
    copies = Counter(ours)
    used: Counter[tuple[str, ...]] = Counter()
    for row, key in enumerate(ours):
        positions = alike.get(key)
        if not positions:
            continue
        answer.positions[row] = positions[used[key] % len(positions)]
        answer.matches[row] = EXACT
        answer.confidences[row] = min(1.0, copies[key] / len(positions))
        used[key] += 1


def _named_by_parts(units: UnitGroup, base: UnitGroup, parts: Sequence[str], rows: Array) -> tuple[Array, Array]:
    """The base's unit that the parts name which are identical to one of a single unit, -1 where none does; and whether they
    name several."""
    named, is_mixed = np.full(len(rows), -1), np.zeros(len(rows), bool)
    for name in parts:
        copies = Counter(base.hashes[name].tolist())
        place = {value: at for at, value in enumerate(base.hashes[name].tolist()) if copies[value] == 1}
        found = np.array([place.get(value, -1) for value in units.hashes[name][rows].tolist()], int)
        is_mixed |= (found >= 0) & (named >= 0) & (found != named)
        named = np.where(named < 0, found, named)
    return named, is_mixed


def _place_by_signature(
    units: UnitGroup, base: UnitGroup, rows: Array, named: Array, is_mixed: Array, answer: UnitPlaces
) -> None:
    """Place some units by what their parts name, else by the likeness of all parts together, each part being asked."""
    parts = [name for name in units.signatures if name in base.signatures]
    answer.matches[rows[is_mixed]] = INCONSISTENT
    if not parts:
        _claim(answer, rows[(named >= 0) & ~is_mixed], named[(named >= 0) & ~is_mixed], np.nan)
        return
    likeness = [_cosines(units.signatures[name][rows], base.signatures[name]) for name in parts]
    total = likeness[0].copy()
    for scores in likeness[1:]:
        total += scores
    count = total.shape[1]
    chosen = np.where(named >= 0, named, total.argmax(axis=1))
    at = np.arange(len(rows))
    own = total[at, chosen] / len(parts)
    total[at, chosen] = -1.0
    lead = own - total.max(axis=1, initial=0.0) / len(parts)
    least = np.clip((math.sqrt(2 * math.log(max(count, 2))) + 1) / math.sqrt(DIMENSIONS * len(parts)), LEAST_SIMILARITY, SURE)
    is_mixed = is_mixed.copy()
    for scores in likeness:
        unlike = np.flatnonzero(scores[at, chosen] < LEAST_SIMILARITY)
        is_mixed[unlike] |= scores[unlike].max(axis=1) >= SURE
    is_placed = ~is_mixed & ((named >= 0) | ((own >= least) & (lead >= CLEAR)))
    answer.matches[rows[is_mixed]] = INCONSISTENT
    _claim(answer, rows[is_placed], chosen[is_placed], np.clip(lead[is_placed], 0.0, 1.0))


def _claim(answer: UnitPlaces, rows: Array, positions: Array, confidences: Any) -> None:
    answer.positions[rows] = positions
    answer.matches[rows] = SIMILAR
    answer.confidences[rows] = confidences


def _keep_best_claims(answer: UnitPlaces) -> None:
    """Of several similar units that claim one of the base's, or claim one that an exact unit is, the surest keeps it."""
    claims: dict[int, list[int]] = defaultdict(list)
    for row in np.flatnonzero(answer.positions >= 0).tolist():
        claims[int(answer.positions[row])].append(row)
    for rows in claims.values():
        if len(rows) == 1 or all(answer.matches[row] == EXACT for row in rows):
            continue
        ranked = sorted(rows, key=lambda row: (answer.matches[row] != EXACT, -np.nan_to_num(answer.confidences[row]), row))
        for row in ranked[1:]:
            if answer.matches[row] != EXACT:
                answer.positions[row], answer.matches[row], answer.confidences[row] = -1, NONE, np.nan


def _check_groups(heads: UnitPlaces, groups: UnitPlaces, num_base_heads: int, num_base_groups: int) -> None:
    """A head whose q and o are those of a head of another KV group than its k and v are is inconsistent."""
    count, num_groups = len(heads.positions), len(groups.positions)
    if count % num_groups or num_base_heads % num_base_groups:
        return
    read = groups.positions[np.arange(count) // (count // num_groups)]
    of_base = heads.positions // (num_base_heads // num_base_groups)
    wrong = (heads.positions >= 0) & (read >= 0) & (of_base != read)
    heads.positions[wrong], heads.matches[wrong], heads.confidences[wrong] = -1, INCONSISTENT, np.nan


def _cosines(ours: Array, theirs: Array) -> Array:
    """Dot products of sketches of unit length, (n, m) of (n, 16) and (m, 16); -1 where one has none."""
    answer: Array = ours @ theirs.T
    answer[~np.isfinite(ours).all(axis=1)] = -1.0
    answer[:, ~np.isfinite(theirs).all(axis=1)] = -1.0
    return answer


def _rows(where: tuple[str, int, int, str], group: UnitGroup, base: UnitGroup, places: UnitPlaces) -> pa.Table:
    import pyarrow as pa

    count = len(group.numbers)
    is_placed = places.positions >= 0
    base_numbers = np.where(is_placed, base.numbers[np.maximum(places.positions, 0)], 0)
    stack, layer, base_layer, kind = where
    return pa.table(
        {
            "stack": pa.repeat(stack, count),
            "layer_index": pa.repeat(pa.scalar(layer, pa.int32()), count),
            "base_layer_index": pa.repeat(pa.scalar(base_layer, pa.int32()), count),
            "kind": pa.repeat(kind, count),
            "unit_index": pa.array(group.numbers, pa.int32()),
            "base_unit_index": pa.array(base_numbers, pa.int32(), mask=~is_placed),
            "match": pa.array(places.matches.tolist(), pa.string()),
            "confidence": pa.array(places.confidences, pa.float64(), mask=np.isnan(places.confidences)),
        }
    )


PLURALS = {"head": "heads", "kv_group": "KV groups", "neuron": "neurons", "expert": "experts"}


def _line(kind: str, found: Counter[str], mixed: Sequence[int]) -> str | None:
    """What is not exact of one kind in a line; None where all is."""
    total = found.total()
    if found[EXACT] == total:
        return None
    said = [f"{found[SIMILAR]} of {total} are similar by signature"] if found[SIMILAR] else []
    if found[INCONSISTENT]:
        shown = ", ".join(map(str, mixed[:SHOWN_PLACES])) + (" and more" if len(mixed) > SHOWN_PLACES else "")
        said.append(f"the parts of {found[INCONSISTENT]} are of several units of the base (layer {shown})")
    if found[NONE]:
        said.append(f"{found[NONE]} are not known")
    return f"{PLURALS[kind]} are not recoverable exactly: {', '.join(said)}"
