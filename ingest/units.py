"""The units of a checkpoint that structured pruning removes: heads, KV groups, MLP neurons and experts, one row each.

A unit consists of parts: for a head the rows of q and the columns of o; for a KV group the rows of k and v; for a neuron the
rows of gate and up and the column of down; for an expert its matrices and its row of the router; and the elements of their
biases. Each part is hashed and sketched, so that a unit can be found in a base, and its parts can be checked for consistency.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from layerhouse.ingest.checkpoint.notes import Note, note
from layerhouse.ingest.measure.io.tensor_reader import TensorReader
from layerhouse.ingest.measure.signatures import signs
from layerhouse.ingest.measure.unit_vectors import Array, Vectors, read_vectors
from layerhouse.ingest.model.layer_sizes import Sizes, declared_head_dim, measure_layer
from layerhouse.ingest.model.placement import Placed
from layerhouse.ingest.model.unit_parts import Part, find_parts
from layerhouse.vocabulary import UnitKind
from layerhouse.warehouse.storage.schema import arrow_schema

if TYPE_CHECKING:
    import pyarrow as pa

    from layerhouse.ingest.checkpoint_rows import OpenedWeights

PART_HASH_DIGITS = 16
MAX_NAMED_LAYERS = 3


@dataclass(frozen=True)
class _DescribedPart:
    """One part of consecutive units: digests (units, 16), sums of squares (units,), sketches (units, n) or None for a bias."""

    digests: Array
    squares: Array
    sketches: Array | None


def read_units(opened: OpenedWeights, checkpoint_id: str, *, threads: int = 1) -> tuple[pa.Table | None, list[Note]]:
    """The rows of `units` of a checkpoint without commit columns, None if there are none; and notes on layers whose units are
    unknown.

    The weights of attention, MLP and experts are read once, each layer by one thread. Memory: a piece of a matrix for each
    thread, and the rows. Raises InputError.
    """
    import pyarrow as pa

    family = opened.placement.template_family
    layers: dict[tuple[str, int], list[Placed]] = defaultdict(list)
    for tensor in opened.placement.placed:
        if tensor.stack is not None and tensor.layer_index is not None:
            layers[tensor.stack, tensor.layer_index].append(tensor)
    head_dims = {stack: declared_head_dim(opened.config, family, stack) for stack, _ in layers}
    tables: list[pa.Table] = []
    unknown: dict[str, list[int]] = defaultdict(list)

    def read_layer(place: tuple[str, int]) -> tuple[list[pa.Table], list[str]]:
        sizes = Sizes() if family is None else measure_layer(layers[place], head_dims[place[0]])
        parts, reasons = find_parts(layers[place], sizes)
        where = {"checkpoint_id": checkpoint_id, "stack": place[0], "layer_index": place[1]}
        with TensorReader() as reader:
            return list(_layer_tables(reader, parts, where)), reasons

    places = sorted(layers)
    pool = ThreadPoolExecutor(max(1, threads))
    try:
        for (_, index), (layer_tables, reasons) in zip(places, pool.map(read_layer, places), strict=True):
            tables += layer_tables
            for reason in reasons:
                unknown[reason].append(index)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # an interrupt does not wait for layers
    notes = [note("units", _unknown_text(reason, indices)) for reason, indices in unknown.items()]
    return (pa.concat_tables(tables) if tables else None), notes


def _unknown_text(reason: str, layers: Sequence[int]) -> str:
    numbers = ", ".join(map(str, layers[:MAX_NAMED_LAYERS]))
    more = f" and {len(layers) - MAX_NAMED_LAYERS} more" if len(layers) > MAX_NAMED_LAYERS else ""
    return f"layer{'' if len(layers) == 1 else 's'} {numbers}{more}: {reason}"


def _layer_tables(reader: TensorReader, parts: Iterable[Part], where: dict[str, Any]) -> Iterator[pa.Table]:
    """A table for each kind of unit of one layer. A part that only some of the units have is left out."""
    vectors: dict[tuple[Any, ...], Vectors] = {}
    described: dict[str, dict[str, dict[int, _DescribedPart]]] = defaultdict(lambda: defaultdict(dict))
    for part in parts:
        if not part.vectors.size:
            continue
        key = (part.ref.place, part.axis)
        if key not in vectors:
            if part.kind == UnitKind.EXPERT:
                vectors.clear()
            vectors[key] = read_vectors(reader, part.ref, part.axis)
        described[part.kind][part.name][part.first_unit] = _describe(vectors[key], part)
    for kind in UnitKind:
        parts_by_name = {name: _joined(pieces) for name, pieces in described[kind].items()}
        count = max((len(units) for units, _ in parts_by_name.values()), default=0)
        whole = {name: part for name, (units, part) in parts_by_name.items() if len(units) == count}
        if whole:
            numbers = next(units for units, _ in parts_by_name.values() if len(units) == count)
            yield _kind_table({**where, "kind": kind}, numbers, whole)


def _describe(vectors: Vectors, part: Part) -> _DescribedPart:
    """A part of units: the hash is over its vectors one after the other, the sketch is their sum with random signs."""
    units, size = part.vectors.shape
    digests = vectors.digests[part.vectors]
    if size == 1:
        joined = digests[:, 0]
    else:
        hashed = [xxhash.xxh3_128_digest(unit.tobytes()) for unit in digests]
        joined = np.frombuffer(b"".join(hashed), np.uint8).reshape(units, -1)
    squares = vectors.squares[part.vectors].sum(axis=1)
    if part.is_bias:
        return _DescribedPart(joined, squares, None)
    with np.errstate(invalid="ignore"):
        return _DescribedPart(joined, squares, np.einsum("uvd,v->ud", vectors.sketches[part.vectors], signs(0, size)[:, 0]))


def _joined(pieces: dict[int, _DescribedPart]) -> tuple[list[int], _DescribedPart]:
    """Join the pieces of one part, given by the number of their first unit. Returns the units' numbers too."""
    ordered = sorted(pieces.items())
    numbers = [first + at for first, piece in ordered for at in range(len(piece.squares))]
    sketches = [piece.sketches for _, piece in ordered if piece.sketches is not None]
    return numbers, _DescribedPart(
        np.concatenate([piece.digests for _, piece in ordered]),
        np.concatenate([piece.squares for _, piece in ordered]),
        np.concatenate(sketches) if sketches else None,
    )


def _kind_table(where: dict[str, Any], numbers: Sequence[int], parts: dict[str, _DescribedPart]) -> pa.Table:
    import pyarrow as pa

    schema = arrow_schema("units")
    count = len(numbers)
    hexes = {name: [digest.tobytes().hex() for digest in part.digests] for name, part in parts.items()}
    together = np.concatenate([part.digests for part in parts.values()], axis=1)
    columns = {
        **{name: pa.repeat(pa.scalar(value, schema.field(name).type), count) for name, value in where.items()},
        "unit_index": pa.array(numbers, pa.int32()),
        "l2_norm": pa.array(_finite(np.sqrt(sum(part.squares for part in parts.values()))), pa.float64()),
        "content_hash": pa.array([xxhash.xxh3_128_hexdigest(digests.tobytes()) for digests in together], pa.string()),
        "part_hashes": pa.MapArray.from_arrays(
            pa.array(np.arange(count + 1) * len(parts), pa.int32()),
            pa.array([*parts] * count, pa.string()),
            pa.array([hexes[name][at][:PART_HASH_DIGITS] for at in range(count) for name in parts], pa.string()),
        ),
        "signature": _signatures([part.sketches for part in parts.values() if part.sketches is not None], count),
    }
    fields = [field for field in schema if field.name in columns]
    return pa.Table.from_arrays([columns[field.name] for field in fields], schema=pa.schema(fields))


def _finite(values: Array) -> list[float | None]:
    return [value if np.isfinite(value) else None for value in values.tolist()]


def _signatures(sketches: Sequence[Array], count: int) -> pa.Array:
    """The sketches of the parts, concatenated, each of unit length or zero; null where a value is not finite."""
    import pyarrow as pa
    import pyarrow.compute as pc

    scaled = []
    for sketch in sketches:
        top = np.abs(sketch).max(axis=1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            unit = np.where(top > 0, sketch / top, 0.0)
            scaled.append(np.where(top > 0, unit / np.linalg.norm(unit, axis=1, keepdims=True), unit))
    rows = np.concatenate(scaled, axis=1).astype(np.float32) if scaled else np.zeros((count, 0), np.float32)
    known = np.isfinite(rows).all(axis=1) & (rows.shape[1] > 0)
    lists = pa.ListArray.from_arrays(
        pa.array(np.arange(count + 1) * rows.shape[1], pa.int32()), pa.array(rows.reshape(-1), pa.float32())
    )
    return pc.if_else(pa.array(known), lists, pa.scalar(None, lists.type)).cast(pa.list_(pa.float32()))
