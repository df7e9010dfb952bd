"""Matches the units of a checkpoint to the base's from stored rows alone: by the hashes of their parts, then by signature.

A unit whose parts are all identical to those of one unit of the base is exact. If some of its parts changed, it is similar to
the unit that its other parts identify, or else to the one with the most similar signature. If its parts belong to several
units, it is inconsistent and is not matched.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from layerhouse.ingest.measure.unit_vectors import DIMENSIONS, Array
from layerhouse.vocabulary import UnitKind, UnitMatch

if TYPE_CHECKING:
    import pyarrow as pa

LayerKey = tuple[str, int]
"""Stack and layer."""

MIN_SIMILARITY = 0.5
MIN_LEAD = 0.1
"""A unit is similar only if the similarity of the next best unit is lower by at least this much."""

CERTAIN = 0.9
"""A part that is dissimilar to the matched unit's and at least this similar to another unit's belongs to that other unit."""

ROWS_AT_ONCE = 128
"""Units that are compared with all of the base's at once, so that the matrix of similarities stays in the CPU's cache."""

MAX_NAMED_LAYERS = 3


@dataclass(frozen=True)
class UnitGroup:
    """The units of one kind in one layer: their numbers (n,), hashes (n,) by part, and signatures (n, 16) by part.

    Biases have no signature. A unit without one has a row of NaN.
    """

    numbers: Array
    hashes: Mapping[str, Array]
    signatures: Mapping[str, Array]


@dataclass(frozen=True)
class UnitPlaces:
    """For each unit of a group: the position of the base's unit or -1, the rule (UnitMatch), and the confidence or NaN."""

    positions: Array
    matches: Array
    confidences: Array


def match_units(
    units: pa.Table, base_units: pa.Table, layer_map: Iterable[tuple[str, int, int]]
) -> tuple[pa.Table | None, list[str]]:
    """Rows of unit_matches without ids and commits, and a text for each kind of unit that is not matched exactly.

    `layer_map` has the stack, layer and base's block of each matched layer; layers without units on both sides are left out.
    None if nothing can be matched.
    """
    import pyarrow as pa

    groups, base_groups = group_units(units), group_units(base_units)
    tables: list[pa.Table] = []
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    inconsistent_layers: dict[str, list[int]] = defaultdict(list)
    for stack, layer, base_layer in sorted(layer_map):
        base_kinds = base_groups.get((stack, base_layer), {})
        kinds = {kind: group for kind, group in groups.get((stack, layer), {}).items() if kind in base_kinds}
        places_by_kind = {kind: place_units(group, base_kinds[kind]) for kind, group in kinds.items()}
        _unmatch_regrouped_heads(places_by_kind, base_kinds)
        for kind, places in places_by_kind.items():
            tables.append(_table((stack, layer, base_layer, kind), kinds[kind], base_kinds[kind], places))
            counts[kind].update(places.matches.tolist())
            if UnitMatch.INCONSISTENT in places.matches:
                inconsistent_layers[kind].append(layer)
    texts = [_inexact_text(kind, kind_counts, inconsistent_layers[kind]) for kind, kind_counts in counts.items()]
    return (pa.concat_tables(tables) if tables else None), [text for text in texts if text]


def group_units(units: pa.Table) -> dict[LayerKey, dict[str, UnitGroup]]:
    """Stored rows by layer and by kind. Parts that not all units of a group have are left out."""
    stacks, kinds = units.column("stack").to_pylist(), units.column("kind").to_pylist()
    layers = units.column("layer_index").to_pylist()
    rows: dict[tuple[str, int, str], list[int]] = defaultdict(list)
    for row, key in enumerate(zip(stacks, layers, kinds, strict=True)):
        rows[key].append(row)
    groups: dict[LayerKey, dict[str, UnitGroup]] = defaultdict(dict)
    for (stack, layer, kind), at in rows.items():
        is_run = at[-1] - at[0] + 1 == len(at)
        groups[stack, layer][kind] = _group(units.slice(at[0], len(at)) if is_run else units.take(at))
    return groups


def place_units(units: UnitGroup, base: UnitGroup) -> UnitPlaces:
    """Place the units of a layer among those of its block."""
    count = len(units.numbers)
    matches = np.full(count, UnitMatch.NONE, object)
    places = UnitPlaces(np.full(count, -1), matches, np.full(count, np.nan))
    parts = [name for name in units.hashes if name in base.hashes]
    if units.hashes.keys() == base.hashes.keys():
        _place_exactly(units, base, places)
    rest = np.flatnonzero(places.positions < 0)
    identified, is_mixed = _identify_by_parts(units, base, parts, rest)
    for low in range(0, len(rest), ROWS_AT_ONCE):
        some = slice(low, low + ROWS_AT_ONCE)
        _place_by_signature(units, base, rest[some], identified[some], is_mixed[some], places)
    _keep_best_claims(places)
    return places


def _group(rows: pa.Table) -> UnitGroup:
    part_hashes = [dict(entries or ()) for entries in rows.column("part_hashes").to_pylist()]
    names = [name for name in part_hashes[0] if all(name in hashes for hashes in part_hashes)]
    hashes_by_part = {name: np.array([hashes[name] for hashes in part_hashes], object) for name in names}
    signed = [name for name in part_hashes[0] if not name.endswith("_bias")]
    signatures = np.full((len(part_hashes), len(signed) * DIMENSIONS), np.nan)
    stored = rows.column("signature").combine_chunks()
    values = stored.drop_null().flatten().to_numpy(zero_copy_only=False)
    if len(values) == signatures.shape[1] * (len(part_hashes) - stored.null_count):
        signatures[stored.is_valid().to_numpy(zero_copy_only=False)] = values.reshape(-1, signatures.shape[1])
    by_part = {name: signatures[:, at * DIMENSIONS : (at + 1) * DIMENSIONS] for at, name in enumerate(signed) if name in names}
    return UnitGroup(rows.column("unit_index").to_numpy(), hashes_by_part, by_part)


def _place_exactly(units: UnitGroup, base: UnitGroup, places: UnitPlaces) -> None:
    """Place units by the hashes of all parts.

    Equal units of the base are taken in order; the confidence that a given one of them was kept is the share that was kept.
    """
    names = sorted(units.hashes)
    keys, base_keys = (list(zip(*(group.hashes[name] for name in names), strict=True)) for group in (units, base))
    positions_by_key: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for position, key in enumerate(base_keys):
        positions_by_key[key].append(position)
    copies = Counter(keys)
    used: Counter[tuple[str, ...]] = Counter()
    for row, key in enumerate(keys):
        positions = positions_by_key.get(key)
        if not positions:
            continue
        places.positions[row] = positions[used[key] % len(positions)]
        places.matches[row] = UnitMatch.EXACT
        places.confidences[row] = min(1.0, copies[key] / len(positions))
        used[key] += 1


def _identify_by_parts(units: UnitGroup, base: UnitGroup, parts: Sequence[str], rows: Array) -> tuple[Array, Array]:
    """The base's units that have an identical part which no other unit of the base has, -1 for none; and whether the parts of a
    unit identify several."""
    identified, is_mixed = np.full(len(rows), -1), np.zeros(len(rows), bool)
    for name in parts:
        hashes = base.hashes[name].tolist()
        copies = Counter(hashes)
        position_by_hash = {value: at for at, value in enumerate(hashes) if copies[value] == 1}
        positions = np.array([position_by_hash.get(value, -1) for value in units.hashes[name][rows].tolist()], int)
        is_mixed |= (positions >= 0) & (identified >= 0) & (positions != identified)
        identified = np.where(identified < 0, positions, identified)
    return identified, is_mixed


def _place_by_signature(
    units: UnitGroup, base: UnitGroup, rows: Array, identified: Array, is_mixed: Array, places: UnitPlaces
) -> None:
    """Place some units by their identical parts, else by the mean similarity of all parts.

    A unit is inconsistent if a part is dissimilar to the chosen unit's and certainly another unit's.
    """
    parts = [name for name in units.signatures if name in base.signatures]
    places.matches[rows[is_mixed]] = UnitMatch.INCONSISTENT
    if not parts:
        is_placed = (identified >= 0) & ~is_mixed
        _claim(places, rows[is_placed], identified[is_placed], np.nan)
        return
    cosines_by_part = [_cosines(units.signatures[name][rows], base.signatures[name]) for name in parts]
    total = cosines_by_part[0].copy()
    for cosines in cosines_by_part[1:]:
        total += cosines
    count = total.shape[1]
    chosen = np.where(identified >= 0, identified, total.argmax(axis=1))
    at = np.arange(len(rows))
    score = total[at, chosen] / len(parts)
    total[at, chosen] = -1.0
    lead = score - total.max(axis=1, initial=0.0) / len(parts)
    random_best = (math.sqrt(2 * math.log(max(count, 2))) + 1) / math.sqrt(DIMENSIONS * len(parts))
    least = np.clip(random_best, MIN_SIMILARITY, CERTAIN)
    is_mixed = is_mixed.copy()
    for cosines in cosines_by_part:
        dissimilar = np.flatnonzero(cosines[at, chosen] < MIN_SIMILARITY)
        is_mixed[dissimilar] |= cosines[dissimilar].max(axis=1) >= CERTAIN
    is_placed = ~is_mixed & ((identified >= 0) | ((score >= least) & (lead >= MIN_LEAD)))
    places.matches[rows[is_mixed]] = UnitMatch.INCONSISTENT
    _claim(places, rows[is_placed], chosen[is_placed], np.clip(lead[is_placed], 0.0, 1.0))


def _claim(places: UnitPlaces, rows: Array, positions: Array, confidences: Any) -> None:
    places.positions[rows] = positions
    places.matches[rows] = UnitMatch.SIMILAR
    places.confidences[rows] = confidences


def _keep_best_claims(places: UnitPlaces) -> None:
    """Of several similar units with one position the one with the highest confidence keeps it, and none if an exact unit has
    it."""
    claims: dict[int, list[int]] = defaultdict(list)
    for row in np.flatnonzero(places.positions >= 0).tolist():
        claims[int(places.positions[row])].append(row)
    for rows in claims.values():
        if len(rows) == 1:
            continue
        exact = [row for row in rows if places.matches[row] == UnitMatch.EXACT]
        similar = sorted(set(rows) - set(exact), key=lambda row: (-np.nan_to_num(places.confidences[row]), row))
        for row in similar if exact else similar[1:]:
            places.positions[row], places.matches[row], places.confidences[row] = -1, UnitMatch.NONE, np.nan


def _unmatch_regrouped_heads(places_by_kind: Mapping[str, UnitPlaces], base_kinds: Mapping[str, UnitGroup]) -> None:
    """Make heads inconsistent whose q and o are those of a head that reads another KV group in the base."""
    if not {UnitKind.HEAD, UnitKind.KV_GROUP} <= places_by_kind.keys():
        return
    heads, groups = places_by_kind[UnitKind.HEAD], places_by_kind[UnitKind.KV_GROUP]
    num_heads, num_groups = len(heads.positions), len(groups.positions)
    num_base_heads, num_base_groups = (len(base_kinds[kind].numbers) for kind in (UnitKind.HEAD, UnitKind.KV_GROUP))
    if num_heads % num_groups or num_base_heads % num_base_groups:
        return
    group_read = groups.positions[np.arange(num_heads) // (num_heads // num_groups)]
    group_in_base = heads.positions // (num_base_heads // num_base_groups)
    wrong = (heads.positions >= 0) & (group_read >= 0) & (group_in_base != group_read)
    heads.positions[wrong], heads.matches[wrong], heads.confidences[wrong] = -1, UnitMatch.INCONSISTENT, np.nan


def _cosines(signatures: Array, base_signatures: Array) -> Array:
    """Dot products of signatures of unit length, (n, m) of (n, 16) and (m, 16); -1 if one is missing."""
    cosines: Array = signatures @ base_signatures.T
    cosines[~np.isfinite(signatures).all(axis=1)] = -1.0
    cosines[:, ~np.isfinite(base_signatures).all(axis=1)] = -1.0
    return cosines


def _table(where: tuple[str, int, int, str], group: UnitGroup, base: UnitGroup, places: UnitPlaces) -> pa.Table:
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


PLURALS = {
    UnitKind.HEAD: "heads",
    UnitKind.KV_GROUP: "KV groups",
    UnitKind.NEURON: "neurons",
    UnitKind.EXPERT: "experts",
}


def _inexact_text(kind: str, counts: Counter[str], layers: Sequence[int]) -> str | None:
    """A line on the units of one kind that are not exact; None if all are. `layers` are those with inconsistent units."""
    total = counts.total()
    if counts[UnitMatch.EXACT] == total:
        return None
    texts = [f"{counts[UnitMatch.SIMILAR]} of {total} are similar by signature"] if counts[UnitMatch.SIMILAR] else []
    if counts[UnitMatch.INCONSISTENT]:
        numbers = ", ".join(map(str, layers[:MAX_NAMED_LAYERS])) + (" and more" if len(layers) > MAX_NAMED_LAYERS else "")
        texts.append(f"the parts of {counts[UnitMatch.INCONSISTENT]} are of several units of the base (layer {numbers})")
    if counts[UnitMatch.NONE]:
        texts.append(f"{counts[UnitMatch.NONE]} are not known")
    return f"{PLURALS[UnitKind(kind)]} are not recoverable exactly: {', '.join(texts)}"
