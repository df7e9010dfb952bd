"""What became of each tensor of the base: from stored rows as far as they tell, and from the values of both sides.

From rows: identical (equal content hashes), sliced (fewer rows or columns), grown (more), factorised (stored as two factors),
added, removed. Tensors of one shape whose hashes differ, the part of a grown one that the base has, and tensors that are fused
on one side, are read side by side: cast (the base's values rounded to another dtype), masked (some values set to zero, the
others kept), refilled (zeros of the base filled, the others kept), changed. What is packed on one side is quantised. A relation
that is not known has a reason. The output head of a tied model that its file leaves out is no evidence.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from layerhouse.ingest.checkpoint.dtypes import DTYPES
from layerhouse.ingest.checkpoint.layouts.factors import FACTOR_PARTS, LEFT
from layerhouse.ingest.checkpoint.tensor_ref import PLAIN, TensorRef
from layerhouse.ingest.compare.base_fit import MIN_KINSHIP
from layerhouse.ingest.compare.relayout import Block, c_strides, can_view, split_pairs
from layerhouse.vocabulary import LayerMatch, Module, Relation, Role, Unrelated

if TYPE_CHECKING:
    from layerhouse.ingest.compare.value_differences import Difference

Row = Mapping[str, Any]
Refs = Mapping[str, TensorRef]

_ADDED, _REMOVED, _UNKNOWN = (Relation.ADDED, None), (Relation.REMOVED, None), (None, Unrelated.UNKNOWN_BLOCK)
PLAIN_DTYPES = frozenset({"F64", "F32", "BF16", "F16"})


@dataclass
class RelatedTensor:
    """A tensor of the checkpoint beside the base's, and how they are related: a row of tensor_matches, without the ids.

    `relation` is None if it is not known, which has a `reason`. `row` and `base_row` are the rows of the tensors. `block` is
    the part of a fused tensor that the other side stores by itself; it is in the checkpoint's tensor if `is_fused_here`.
    """

    row: Row | None
    base_row: Row | None
    relation: Relation | None
    reason: Unrelated | None = None
    block: Block | None = None
    is_fused_here: bool = False
    difference: Difference | None = None

    @property
    def has_open_values(self) -> bool:
        """Whether values tell more than is known: those of tensors of one shape, or of the part that both have."""
        is_unknown = self.relation is None and self.reason == Unrelated.UNREAD_VALUES
        return is_unknown or (self.relation == Relation.GROWN and self.difference is None)

    def set_reason(self, reason: Unrelated) -> None:
        """Say why the relation is not known, if it is not."""
        if self.relation is None:
            self.reason = reason

    def as_row(self) -> dict[str, Any]:
        counted, row = self.difference, self.row
        return {
            "name": row and row["name"],
            "base_name": self.base_row and self.base_row["name"],
            "stack": (self.row or self.base_row or {})["stack"],
            "layer_index": self.row and self.row["layer_index"],
            "base_layer_index": self.base_row and self.base_row["layer_index"],
            "relation": self.relation,
            "reason": None if self.relation is not None else self.reason,
            "changed": counted and counted.changed,
            "zeroed": counted and counted.zeroed,
            "filled": counted and counted.filled,
            "altered": counted and counted.other,
            "relative_difference": counted and counted.relative_difference,
            "cosine": counted and counted.cosine,
            "is_relaid": self.block is not None,
            "rank": _rank(row) if row is not None and self.relation == Relation.FACTORISED else None,
            "nm_pattern": row.get("nm_pattern") if row is not None and self.relation == Relation.MASKED else None,
            "added_params": self._added_params(),
        }

    def _added_params(self) -> int | None:
        if self.row is None or self.relation not in (Relation.ADDED, Relation.GROWN):
            return None
        base_params = 0 if self.base_row is None else self.base_row.get("params")
        params = self.row.get("params")
        return None if params is None or base_params is None else params - base_params


def relate_tensors(tensors: Sequence[Row], base_tensors: Sequence[Row], matches: Sequence[Row]) -> list[RelatedTensor]:
    """The relation of every tensor of either side as far as stored rows tell; `matches` are those of the layers.

    Tensors that are no parameters are left out. Rotations count as added in any layer, since methods add them beside the
    weights.
    """
    pairing = _Pairing(tensors, base_tensors, matches)
    related = [pairing.relate(row) for row in tensors if row["is_parameter"] and not is_virtual(row)]
    return _join_fused([*related, *pairing.unused()], pairing)


def is_virtual(row: Row) -> bool:
    """Whether a row is of the output head of a tied model that its file leaves out."""
    return row["role"] == Role.LM_HEAD and row.get("logical_bytes") == 0 == row.get("stored_bytes") and all(row["shape"])


class _Pairing:
    """Finds the tensor of the base that a tensor of the checkpoint was made from."""

    def __init__(self, tensors: Sequence[Row], base_tensors: Sequence[Row], matches: Sequence[Row]) -> None:
        self.places = {(row["stack"], row["layer_index"]): row for row in matches if row["layer_index"] is not None}
        self._known_blocks = {(row["stack"], row["base_layer_index"]) for row in matches if row["match"] != LayerMatch.NONE}
        self._base = {row["canonical_name"]: row for row in base_tensors if row["is_parameter"] and not is_virtual(row)}
        self._experts = _experts_by_content(base_tensors)
        self._used: set[str] = set()
        embeddings = [row for row in self._base.values() if row["role"] == Role.EMBED_TOKENS and row["part"] == "weight"]
        heads = [row["canonical_name"] for row in base_tensors if is_virtual(row)]
        self._tied = dict.fromkeys(heads, embeddings[0]) if len(embeddings) == 1 else {}
        """The embedding of a tied base, by the name of its head."""

    def relate(self, row: Row) -> RelatedTensor:
        name = self._name_in_base(row)
        base_row = None if name is None else self._base.get(name)
        if base_row is None or (row["expert_index"] is not None and not _is_identical(row, base_row)):
            base_row = self._experts.get(_expert_key(row, self.base_layer(row)), base_row)
        if base_row is not None:
            self._used.add(base_row["canonical_name"])
            return RelatedTensor(row, base_row, *_relation_of_rows(row, base_row))
        if name is not None and name in self._tied:
            return RelatedTensor(row, self._tied[name], *_relation_of_rows(row, self._tied[name]))
        if name is not None and (other := self._find_factors(row, name)) is not None:
            return other
        is_added = name is not None or row["module"] == Module.ROTATION
        return RelatedTensor(row, None, *(_ADDED if is_added else _UNKNOWN))

    def _find_factors(self, row: Row, name: str) -> RelatedTensor | None:
        """A factor beside the weight that the base has, or a weight beside the factors of it that the base has."""
        stem, _, part = name.rpartition(".")
        if part in FACTOR_PARTS and (weight := self._base.get(f"{stem}.weight")) is not None:
            self._used.add(weight["canonical_name"])
            return RelatedTensor(row, weight, Relation.FACTORISED)
        factors = [f"{stem}.{factor}" for factor in sorted(FACTOR_PARTS)] if part == "weight" else []
        if factors and all(factor in self._base for factor in factors):
            self._used.update(factors)
            return RelatedTensor(row, self._base[f"{stem}.{LEFT}"], None, Unrelated.MULTIPLIED)
        return None

    def unused(self) -> Iterator[RelatedTensor]:
        """The tensors of the base that no tensor of the checkpoint is."""
        for name, row in self._base.items():
            if name not in self._used:
                is_known = row["layer_index"] is None or (row["stack"], row["layer_index"]) in self._known_blocks
                yield RelatedTensor(None, row, *(_REMOVED if is_known else _UNKNOWN))

    def base_layer(self, row: Row) -> int | None:
        """The block that a tensor's layer is; None if that is not known."""
        place = self.places.get((row["stack"], row["layer_index"]))
        return None if place is None else place["base_layer_index"]

    def _name_in_base(self, row: Row) -> str | None:
        """The canonical name that the tensor has in the base, by its layer's block; None if that is not known."""
        name: str = row["canonical_name"]
        if row["layer_index"] is None:
            return name
        base_layer = self.base_layer(row)
        if base_layer is None:
            return None
        prefix = f"{row['stack']}.{row['layer_index']}."
        return f"{row['stack']}.{base_layer}.{name.removeprefix(prefix)}" if name.startswith(prefix) else None


def _join_fused(related: list[RelatedTensor], pairing: _Pairing) -> list[RelatedTensor]:
    """The relations, with a row for each part of a tensor that one side stores fused and the other split, in place of rows that
    call them added and removed.
    """
    layers: dict[tuple[str, int], tuple[list[Row], list[Row]]] = defaultdict(lambda: ([], []))
    for entry in related:
        if entry.relation == Relation.ADDED and entry.row is not None and entry.row["layer_index"] is not None:
            layer = pairing.base_layer(entry.row)
            if layer is not None:
                layers[entry.row["stack"], layer][0].append(entry.row)
        elif entry.relation == Relation.REMOVED and entry.base_row is not None and entry.base_row["layer_index"] is not None:
            layers[entry.base_row["stack"], entry.base_row["layer_index"]][1].append(entry.base_row)
    joined: list[RelatedTensor] = []
    for own, base in layers.values():
        for pair in split_pairs(own, base):
            reason = Unrelated.OTHER_SIZES if pair.block is None else Unrelated.UNREAD_VALUES
            joined.append(RelatedTensor(pair.fused, pair.split, None, reason, pair.block, is_fused_here=True))
        for pair in split_pairs(base, own):
            reason = Unrelated.OTHER_SIZES if pair.block is None else Unrelated.UNREAD_VALUES
            joined.append(RelatedTensor(pair.split, pair.fused, None, reason, pair.block))
    if not joined:
        return related
    names = {entry.row["name"] for entry in joined if entry.row is not None}
    base_names = {entry.base_row["name"] for entry in joined if entry.base_row is not None}
    kept = [
        entry
        for entry in related
        if not (entry.base_row is None and entry.row is not None and entry.row["name"] in names)
        and not (entry.row is None and entry.base_row is not None and entry.base_row["name"] in base_names)
    ]
    return [*kept, *joined]


def compare_values(
    related: Iterable[RelatedTensor],
    refs: Refs,
    base_refs: Refs,
    *,
    threads: int,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> None:
    """Read both sides of what `open_pairs` gives, and complete the relations by what their values tell.

    Raises InputError naming the tensor that could not be read.
    """
    from layerhouse.ingest.compare.value_differences import difference

    def compare(pair: OpenPair) -> tuple[OpenPair, Difference]:
        return pair, difference(pair.ref.as_stored, pair.base_ref.as_stored)

    pairs = list(open_pairs(related, refs, base_refs))
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for pair, counted in pool.map(compare, pairs):
            on_bytes(pair.ref.logical_bytes)
            is_grown = pair.entry.relation == Relation.GROWN
            if is_grown and (counted.cosine or 0.0) < MIN_KINSHIP:
                continue  # the base's rows or columns may lie elsewhere in it, so that nothing was compared
            pair.entry.difference = counted
            if not is_grown:
                pair.entry.relation = relation_of(counted, is_cast=pair.ref.dtype != pair.base_ref.dtype)
    _check_orders(pair.entry for pair in pairs)


@dataclass(frozen=True)
class OpenPair:
    """A relation that values complete, and the tensors of one shape that are to be read."""

    entry: RelatedTensor
    ref: TensorRef
    base_ref: TensorRef


def open_pairs(related: Iterable[RelatedTensor], refs: Refs, base_refs: Refs) -> Iterator[OpenPair]:
    """The relations that only the values of both sides complete, if these can be read: not those of packed words or 4-bit
    dtypes.
    """
    for entry in related:
        if entry.row is None or entry.base_row is None or not entry.has_open_values:
            continue
        ref, base_ref = refs.get(entry.row["name"]), base_refs.get(entry.base_row["name"])
        if ref is None or base_ref is None or not (_has_values(ref) and _has_values(base_ref)):
            continue
        if entry.block is not None:
            fused = ref if entry.is_fused_here else base_ref
            if not can_view(fused):
                continue
            view = entry.block.view(fused)
            ref, base_ref = (view, base_ref) if entry.is_fused_here else (ref, view)
        elif entry.relation == Relation.GROWN:
            if not can_view(ref):
                continue
            ref = replace(ref, shape=base_ref.shape, strides=ref.strides or c_strides(ref.shape))
        if ref.shape == base_ref.shape:
            yield OpenPair(entry, ref, base_ref)


def settle_packed(related: Iterable[RelatedTensor]) -> None:
    """Settle the relations of codes of 8 bits whose values could not be compared."""
    for entry in related:
        row, base_row = entry.row, entry.base_row
        is_open = entry.relation is None and entry.reason == Unrelated.UNREAD_VALUES and entry.block is None
        if is_open and row is not None and base_row is not None and (_is_packed(row) or _is_packed(base_row)):
            entry.relation, entry.reason = _relation_of_packed(row, base_row, are_values_open=False)


def relation_of(difference: Difference, *, is_cast: bool) -> Relation:
    """The relation that counted differences show. Values that differ in the sign of zero only are identical."""
    if difference.other or (difference.zeroed and difference.filled):
        return Relation.CHANGED
    if difference.zeroed:
        return Relation.MASKED
    if difference.filled:
        return Relation.REFILLED
    return Relation.CAST if is_cast else Relation.IDENTICAL


def _check_orders(compared: Iterable[RelatedTensor]) -> None:
    """Make the relations of a fused tensor unknown if a part is unlike the tensor that it should be: the order is another."""
    parts: dict[str, list[RelatedTensor]] = defaultdict(list)
    for entry in compared:
        if entry.block is not None and entry.row is not None and entry.base_row is not None:
            parts[(entry.row if entry.is_fused_here else entry.base_row)["name"]].append(entry)
    for entries in parts.values():
        if any(entry.difference is not None and (entry.difference.cosine or 0.0) < MIN_KINSHIP for entry in entries):
            for entry in entries:
                entry.relation, entry.reason, entry.difference = None, Unrelated.OTHER_ORDER, None


def _has_values(ref: TensorRef) -> bool:
    dtype = DTYPES[ref.dtype]
    is_plain = ref.layout is None or ref.layout.values == PLAIN
    return is_plain and dtype.bits >= 8 and dtype.kind != "complex"


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


def _relation_of_rows(row: Row, base: Row) -> tuple[Relation | None, Unrelated | None]:
    """The relation of two tensors as far as their rows tell, and the reason if it is not known."""
    shape, base_shape = _shape(row), _shape(base)
    if shape == base_shape:
        if _is_identical(row, base):
            return Relation.IDENTICAL, None
        return _relation_of_packed(row, base)
    if len(shape) != len(base_shape):
        return Relation.CHANGED, None
    pairs = list(zip(shape, base_shape, strict=True))
    if all(size <= base_size for size, base_size in pairs):
        return Relation.SLICED, None
    return (Relation.GROWN if all(size >= base_size for size, base_size in pairs) else Relation.CHANGED), None


def _relation_of_packed(row: Row, base: Row, *, are_values_open: bool = True) -> tuple[Relation | None, Unrelated | None]:
    """The relation of two tensors of one shape with other bytes, if one is packed; what is stored as 8 bits may have values."""
    is_packed, is_base_packed = _is_packed(row), _is_packed(base)
    if are_values_open and _may_have_values(row) and _may_have_values(base):
        return None, Unrelated.UNREAD_VALUES
    if is_base_packed:
        return None, Unrelated.PACKED if is_packed else Unrelated.PACKED_BASE
    signature, base_signature = row.get("signature"), base.get("signature")
    if signature is not None and base_signature is not None and len(signature) == len(base_signature):
        one, other = np.asarray(signature, float), np.asarray(base_signature, float)
        if one @ other < MIN_KINSHIP * np.linalg.norm(one) * np.linalg.norm(other):
            return None, Unrelated.PACKED_UNLIKE
    return Relation.QUANTISED, None


def _may_have_values(row: Row) -> bool:
    """Whether the stored elements may be the values, as far as the row tells."""
    dtype = DTYPES.get(row["dtype"])
    return row.get("weight_shape") is None and dtype is not None and dtype.bits >= 8


def _is_packed(row: Row) -> bool:
    """Whether a tensor is stored as words, codes or numbers of 8 bits or fewer, instead of as plain values."""
    return row.get("weight_shape") is not None or row["dtype"] not in PLAIN_DTYPES


def _rank(row: Row) -> int | None:
    shape = list(row["shape"])
    return int(shape[1 if row["part"] == LEFT else 0]) if len(shape) == 2 else None


def _shape(row: Row) -> list[int]:
    return list(row.get("weight_shape") or row["shape"])
