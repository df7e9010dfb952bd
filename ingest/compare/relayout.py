"""Weights that one side stores fused and the other split: experts in one tensor, queries with keys and values, gate with up.

Each split tensor is a block of rows of the fused one. Only the values of both tell whether the blocks are equal, so the fused
tensor is read through a view of each block.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from layerhouse.ingest.checkpoint.tensor_ref import PLAIN, TensorRef
from layerhouse.vocabulary import Role

Row = Mapping[str, Any]

FUSED_ROLES: Mapping[str, tuple[str, ...]] = {
    Role.QKV_PROJ: (Role.Q_PROJ, Role.K_PROJ, Role.V_PROJ),
    Role.GATE_UP_PROJ: (Role.GATE_PROJ, Role.UP_PROJ),
    Role.SHARED_GATE_UP_PROJ: (Role.SHARED_GATE_PROJ, Role.SHARED_UP_PROJ),
}
"""Fused role -> the roles that it holds, in the order of its rows."""


@dataclass(frozen=True)
class Block:
    """Where a split tensor lies in a fused one.

    `expert` is the index on a first axis that counts experts, None if there is no such axis; the block has `rows` outputs from
    `first` on. With `is_transposed` the fused tensor's last axis counts outputs.
    """

    expert: int | None
    first: int
    rows: int
    is_transposed: bool

    def view(self, fused: TensorRef) -> TensorRef:
        """The block as a tensor of the split one's shape: (outputs, inputs), or (outputs,) of a bias."""
        strides = list(c_strides(fused.shape) if fused.strides is None else fused.strides)
        sizes, offset = list(fused.shape), fused.storage_offset
        if self.expert is not None:
            offset += self.expert * strides.pop(0)
            sizes.pop(0)
        if self.is_transposed:
            sizes.reverse()
            strides.reverse()
        offset += self.first * strides[0]
        return replace(fused, shape=(self.rows, *sizes[1:]), strides=tuple(strides), storage_offset=offset)


@dataclass(frozen=True)
class SplitPair:
    """A fused tensor's row, a split one's, and the block of the first that the second is; None if the sizes do not fit."""

    fused: Row
    split: Row
    block: Block | None


def can_view(ref: TensorRef) -> bool:
    """Whether parts of a tensor can be read: it is stored as one, plainly."""
    return ref.assembly is None and ref.sparse is None and (ref.layout is None or ref.layout.values == PLAIN)


def c_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of a tensor in C order, in elements."""
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * shape[axis + 1]
    return tuple(strides)


def split_pairs(fused_rows: Iterable[Row], split_rows: Iterable[Row]) -> Iterator[SplitPair]:
    """Pairs of tensors of one layer, of which those of one side are stored fused on the other.

    Both sides are the tensors of one layer, or of the block that it is, that have no counterpart by name.
    """
    by_role: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in split_rows:
        by_role[row["module"], row["role"], row["part"]].append(row)
    for fused in fused_rows:
        roles = FUSED_ROLES.get(fused["role"], (fused["role"],))
        groups = [by_role.get((fused["module"], role, fused["part"]), []) for role in roles]
        is_of_experts = fused["expert_index"] is None and any(
            row["expert_index"] is not None for group in groups for row in group
        )
        if not all(groups) or (len(roles) == 1 and not is_of_experts):
            continue
        blocks = _blocks(fused, groups, is_of_experts=is_of_experts)
        for group in groups:
            for split in group:
                yield SplitPair(fused, split, blocks.get(split["name"]))


def _blocks(fused: Row, groups: Sequence[Sequence[Row]], *, is_of_experts: bool) -> dict[str, Block]:
    """Name of a split tensor -> its block; empty unless the blocks fill the fused tensor."""
    shape = _shape(fused)
    experts: list[int | None] = [None]
    if is_of_experts:
        experts = list(range(shape[0])) if shape else []
        shape = shape[1:]
    members = [{row["expert_index"]: row for row in group} for group in groups]
    if any(sorted(by_expert, key=str) != sorted(experts, key=str) for by_expert in members):
        return {}
    blocks: dict[str, Block] = {}
    for expert in experts:
        parts = [by_expert[expert] for by_expert in members]
        shapes = [_shape(part) for part in parts]
        if any(len(part) != len(shape) or not part or part[1:] != shapes[0][1:] for part in shapes):
            return {}
        whole = [sum(part[0] for part in shapes), *shapes[0][1:]]
        if shape not in (whole, whole[::-1]):
            return {}
        first = 0
        for part, (rows, *_) in zip(parts, shapes, strict=True):
            blocks[part["name"]] = Block(expert, first, rows, is_transposed=shape != whole)
            first += rows
    return blocks


def _shape(row: Row) -> list[int]:
    return list(row.get("weight_shape") or row["shape"])
