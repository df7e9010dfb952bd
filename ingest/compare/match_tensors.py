"""What became of each tensor of the base: from rows alone as far as they tell, and from both byte streams where they are there.

From rows: identical (equal content hashes), sliced (fewer rows or columns), added, removed. Tensors of one shape and other
bytes are read side by side: cast (the base's values rounded to the child's type), masked (some values zeroed, the rest kept),
refilled (zeros of the base filled, the rest kept), changed. A layer whose place in the base is not known gets no relation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from layerhouse.ingest.checkpoint.dtypes import DTYPES
from layerhouse.ingest.checkpoint.tensor_ref import PLAIN, TensorRef

if TYPE_CHECKING:
    from layerhouse.ingest.compare.value_differences import Difference

Row = Mapping[str, Any]
Refs = Mapping[str, TensorRef]

IDENTICAL, CAST, MASKED, REFILLED, CHANGED = "identical", "cast", "masked", "refilled", "changed"
SLICED, ADDED, REMOVED = "sliced", "added", "removed"
ROTATION = "rotation"
"""The module of what a method puts beside the weights of a layer, whichever layer of the base that was."""


def relate_tensors(tensors: Sequence[Row], base_tensors: Sequence[Row], matches: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows of tensor_matches (without the checkpoint ids), as far as stored rows tell; `matches` are those of the layers.

    `relation` is None where the tensors have one shape and other bytes, which only the bytes can explain, and where nothing
    says what a layer was. Tensors that are no parameters are left out.
    """
    places = {(row["stack"], row["layer_index"]): row for row in matches if row["layer_index"] is not None}
    sure = {(row["stack"], row["base_layer_index"]) for row in matches if row["match"] != "none"}
    base = {row["canonical_name"]: row for row in base_tensors if row["is_parameter"]}
    experts = _experts_by_content(base_tensors)
    used: set[str] = set()
    related = []
    for row in tensors:
        if not row["is_parameter"]:
            continue
        name = _name_in_base(row, places)
        found = None if name is None else base.get(name)
        if found is None or (row["expert_index"] is not None and not _is_same(row, found)):
            found = experts.get(_expert_key(row, places), found)
        if found is not None:
            used.add(found["canonical_name"])
        is_added = name is not None or row["module"] == ROTATION
        relation = _relation(row, found) if found is not None else ADDED if is_added else None
        related.append({"name": row["name"], "base_name": found and found["name"], "relation": relation})
    for name, row in base.items():
        if name not in used:
            is_known = row["layer_index"] is None or (row["stack"], row["layer_index"]) in sure
            related.append({"name": None, "base_name": row["name"], "relation": REMOVED if is_known else None})
    return related


def compare_values(
    related: Iterable[dict[str, Any]],
    refs: Refs,
    base_refs: Refs,
    *,
    threads: int,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> None:
    """Fill relation, changed, relative_difference and cosine of the tensors of one shape whose bytes differ, by reading both.

    Raises InputError naming the tensor that could not be read.
    """
    from layerhouse.ingest.compare.value_differences import difference

    def compare(row: dict[str, Any]) -> tuple[dict[str, Any], Difference, int]:
        one, other = refs[row["name"]], base_refs[row["base_name"]]
        return row, difference(one.as_stored, other.as_stored), one.logical_bytes

    waiting = list(open_pairs(related, refs, base_refs))
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for row, found, count in pool.map(compare, waiting):
            row |= {
                "relation": relation_of(found, is_cast=refs[row["name"]].dtype != base_refs[row["base_name"]].dtype),
                "changed": found.changed,
                "relative_difference": found.relative_difference,
                "cosine": found.cosine,
            }
            on_bytes(count)


def open_pairs(related: Iterable[dict[str, Any]], refs: Refs, base_refs: Refs) -> Iterator[dict[str, Any]]:
    """The rows that only the values of both sides can explain, where values can be had: none of packed words or 4-bit types."""
    for row in related:
        one, other = refs.get(row["name"] or ""), base_refs.get(row["base_name"] or "")
        if row["relation"] is not None or one is None or other is None or one.shape != other.shape:
            continue
        if _has_values(one) and _has_values(other):
            yield row


def relation_of(found: Difference, *, is_cast: bool) -> str:
    """The relation that counted differences show. Equal values under other bytes (a zero of the other sign) are identical."""
    if found.other:
        return CHANGED
    if found.zeroed and found.filled:
        return CHANGED
    if found.zeroed:
        return MASKED
    if found.filled:
        return REFILLED
    return CAST if is_cast else IDENTICAL


def _has_values(ref: TensorRef) -> bool:
    dtype = DTYPES[ref.dtype]
    is_plain = ref.layout is None or ref.layout.values == PLAIN
    return is_plain and dtype.bits >= 8 and dtype.kind != "complex"


def _name_in_base(row: Row, places: Mapping[tuple[str, int], Row]) -> str | None:
    """The canonical name that the tensor has in the base by its layer's place there; None where that is not known."""
    name: str = row["canonical_name"]
    if row["layer_index"] is None:
        return name
    place = places.get((row["stack"], row["layer_index"]))
    if place is None or place["base_layer_index"] is None:
        return None
    prefix = f"{row['stack']}.{row['layer_index']}."
    return f"{row['stack']}.{place['base_layer_index']}.{name.removeprefix(prefix)}" if name.startswith(prefix) else None


def _expert_key(row: Row, places: Mapping[tuple[str, int], Row]) -> tuple[Any, ...]:
    place = places.get((row["stack"], row["layer_index"]))
    layer = None if place is None else place["base_layer_index"]
    return (row["stack"], layer, row["role"], row["part"], row["dtype"], row.get("content_hash"))


def _experts_by_content(base_tensors: Iterable[Row]) -> dict[tuple[Any, ...], Row]:
    """Tensors of single experts by layer, role and content: removed experts leave the others renumbered."""
    found: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in base_tensors:
        if row["expert_index"] is not None and row.get("content_hash") is not None:
            key = (row["stack"], row["layer_index"], row["role"], row["part"], row["dtype"], row.get("content_hash"))
            found[key].append(row)
    return {key: rows[0] for key, rows in found.items()}


def _is_same(row: Row, base: Row) -> bool:
    return row.get("content_hash") is not None and (row["dtype"], _shape(row), row.get("content_hash")) == (
        base["dtype"],
        _shape(base),
        base.get("content_hash"),
    )


def _relation(row: Row, base: Row) -> str | None:
    """What two rows tell of their tensors."""
    shape, base_shape = _shape(row), _shape(base)
    if shape == base_shape:
        return IDENTICAL if _is_same(row, base) else None
    is_part = len(shape) == len(base_shape) and all(one <= other for one, other in zip(shape, base_shape, strict=True))
    return SLICED if is_part else CHANGED


def _shape(row: Row) -> list[int]:
    return list(row.get("weight_shape") or row["shape"])
