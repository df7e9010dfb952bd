"""What became of each tensor of the base: from stored rows as far as they tell, and from the values of both sides.

From rows: identical (equal content hashes), sliced (fewer rows or columns), added, removed. Tensors of one shape whose hashes
differ are read side by side: cast (the base's values rounded to another dtype), masked (some values set to zero, the others
kept), refilled (zeros of the base filled, the others kept), changed. A layer whose block is not known gets no relation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from layerhouse.ingest.checkpoint.dtypes import DTYPES
from layerhouse.ingest.checkpoint.tensor_ref import PLAIN, TensorRef
from layerhouse.vocabulary import LayerMatch, Module, Relation

if TYPE_CHECKING:
    from layerhouse.ingest.compare.value_differences import Difference

Row = Mapping[str, Any]
Refs = Mapping[str, TensorRef]


def relate_tensors(tensors: Sequence[Row], base_tensors: Sequence[Row], matches: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows of tensor_matches (without the checkpoint ids) as far as stored rows tell; `matches` are those of the layers.

    `relation` is None if the tensors have one shape and different hashes, so that only their values tell, and if the block of a
    layer is not known. Tensors that are no parameters are left out. Rotations count as added in any layer, since methods add
    them beside the weights.
    """
    places = {(row["stack"], row["layer_index"]): row for row in matches if row["layer_index"] is not None}
    known_blocks = {(row["stack"], row["base_layer_index"]) for row in matches if row["match"] != LayerMatch.NONE}
    base = {row["canonical_name"]: row for row in base_tensors if row["is_parameter"]}
    experts = _experts_by_content(base_tensors)
    used: set[str] = set()
    related = []
    for row in tensors:
        if not row["is_parameter"]:
            continue
        name = _name_in_base(row, places)
        base_row = None if name is None else base.get(name)
        if base_row is None or (row["expert_index"] is not None and not _is_identical(row, base_row)):
            base_row = experts.get(_expert_key(row, _base_layer(row, places)), base_row)
        if base_row is not None:
            used.add(base_row["canonical_name"])
        is_added = name is not None or row["module"] == Module.ROTATION
        relation = _relation_of_rows(row, base_row) if base_row is not None else Relation.ADDED if is_added else None
        related.append({"name": row["name"], "base_name": base_row and base_row["name"], "relation": relation})
    for name, row in base.items():
        if name not in used:
            is_known = row["layer_index"] is None or (row["stack"], row["layer_index"]) in known_blocks
            related.append({"name": None, "base_name": row["name"], "relation": Relation.REMOVED if is_known else None})
    return related


def compare_values(
    related: Iterable[dict[str, Any]],
    refs: Refs,
    base_refs: Refs,
    *,
    threads: int,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> None:
    """Read both sides of the tensors of one shape whose hashes differ, and add what their values tell to the rows.

    That is relation, changed, relative_difference and cosine. Raises InputError naming the tensor that could not be read.
    """
    from layerhouse.ingest.compare.value_differences import difference

    def compare(row: dict[str, Any]) -> tuple[dict[str, Any], Difference, int]:
        ref, base_ref = refs[row["name"]], base_refs[row["base_name"]]
        return row, difference(ref.as_stored, base_ref.as_stored), ref.logical_bytes

    pairs = list(open_pairs(related, refs, base_refs))
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for row, counted, num_bytes in pool.map(compare, pairs):
            row |= {
                "relation": relation_of(counted, is_cast=refs[row["name"]].dtype != base_refs[row["base_name"]].dtype),
                "changed": counted.changed,
                "relative_difference": counted.relative_difference,
                "cosine": counted.cosine,
            }
            on_bytes(num_bytes)


def open_pairs(related: Iterable[dict[str, Any]], refs: Refs, base_refs: Refs) -> Iterator[dict[str, Any]]:
    """The rows whose relation only the values of both sides tell, if these can be read: not those of packed words or 4-bit
    dtypes."""
    for row in related:
        ref, base_ref = refs.get(row["name"] or ""), base_refs.get(row["base_name"] or "")
        if row["relation"] is not None or ref is None or base_ref is None or ref.shape != base_ref.shape:
            continue
        if _has_values(ref) and _has_values(base_ref):
            yield row


def relation_of(difference: Difference, *, is_cast: bool) -> Relation:
    """The relation that counted differences show. Values that differ in the sign of zero only are identical."""
    if difference.other or (difference.zeroed and difference.filled):
        return Relation.CHANGED
    if difference.zeroed:
        return Relation.MASKED
    if difference.filled:
        return Relation.REFILLED
    return Relation.CAST if is_cast else Relation.IDENTICAL


def _has_values(ref: TensorRef) -> bool:
    dtype = DTYPES[ref.dtype]
    is_plain = ref.layout is None or ref.layout.values == PLAIN
    return is_plain and dtype.bits >= 8 and dtype.kind != "complex"


def _base_layer(row: Row, places: Mapping[tuple[str, int], Row]) -> int | None:
    """The block that a tensor's layer is; None if that is not known."""
    place = places.get((row["stack"], row["layer_index"]))
    return None if place is None else place["base_layer_index"]


def _name_in_base(row: Row, places: Mapping[tuple[str, int], Row]) -> str | None:
    """The canonical name that the tensor has in the base, by its layer's block; None if that is not known."""
    name: str = row["canonical_name"]
    if row["layer_index"] is None:
        return name
    base_layer = _base_layer(row, places)
    if base_layer is None:
        return None
    prefix = f"{row['stack']}.{row['layer_index']}."
    return f"{row['stack']}.{base_layer}.{name.removeprefix(prefix)}" if name.startswith(prefix) else None


def _expert_key(row: Row, layer: int | None) -> tuple[Any, ...]:
    return (row["stack"], layer, row["role"], row["part"], row["dtype"], row.get("content_hash"))


def _experts_by_content(base_tensors: Iterable[Row]) -> dict[tuple[Any, ...], Row]:
    """Tensors of single experts by layer, role and content: once some are removed, the others have new numbers."""
    rows: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in base_tensors:
        if row["expert_index"] is not None and row.get("content_hash") is not None:
            rows[_expert_key(row, row["layer_index"])].append(row)
    return {key: equal[0] for key, equal in rows.items()}


def _is_identical(row: Row, base: Row) -> bool:
    return row.get("content_hash") is not None and (row["dtype"], _shape(row), row.get("content_hash")) == (
        base["dtype"],
        _shape(base),
        base.get("content_hash"),
    )


def _relation_of_rows(row: Row, base: Row) -> Relation | None:
    """The relation of two tensors as far as their rows tell."""
    shape, base_shape = _shape(row), _shape(base)
    if shape == base_shape:
        return Relation.IDENTICAL if _is_identical(row, base) else None
    if len(shape) != len(base_shape):
        return Relation.CHANGED
    is_part = all(size <= base_size for size, base_size in zip(shape, base_shape, strict=True))
    return Relation.SLICED if is_part else Relation.CHANGED


def _shape(row: Row) -> list[int]:
    return list(row.get("weight_shape") or row["shape"])
