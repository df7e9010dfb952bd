"""What of a checkpoint its descent is found by: its tensors' hashes, sketches and extremes as arrays, in one order."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from layerhouse.vocabulary import Module, Role

if TYPE_CHECKING:
    import pyarrow as pa

Array = npt.NDArray[Any]
Row = Mapping[str, Any]

OUTLINE_COLUMNS = (
    "name",
    "canonical_name",
    "stack",
    "module",
    "role",
    "part",
    "layer_index",
    "expert_index",
    "dtype",
    "shape",
    "weight_shape",
    "params",
    "is_parameter",
    "content_hash",
    "signature",
    "sketch",
    "l2_norm",
    "min",
    "max",
    "std",
    "zeros",
)
"""Columns of the stored table `tensors` that an outline is made of."""

LANES = 64
PRECISIONS = {"F64": 4, "F32": 3, "BF16": 2, "F16": 2}
"""The order in which checkpoints can be made from each other by rounding; packed weights come last."""
MIN_PACKED_SHARE = 0.3
"""Share of packed parameters from which on a checkpoint counts as packed."""
MIN_TOLD_ELEMENTS = 32
"""A smaller tensor may be equal in models that have nothing to do with each other."""


class Codes:
    """Numbers for texts, the same for all checkpoints that share the instance."""

    def __init__(self) -> None:
        self._codes: dict[Any, int] = {}

    def of(self, text: Any) -> int:
        """The number of a text, which is given one if it is new."""
        return self._codes.setdefault(text, len(self._codes))


@dataclass(frozen=True)
class Facts:
    """What is known of a checkpoint as a whole, and the names of the models that have it."""

    checkpoint_id: str
    names: tuple[str, ...] = ()
    params: int | None = None
    num_layers: int | None = None
    prunable_params: int | None = None
    prunable_zeros: int | None = None
    container: str | None = None
    declared_base: str | None = None
    declared_name: str | None = None

    @property
    def zero_share(self) -> float | None:
        """The share of zeros among prunable parameters; None if it is not known."""
        if self.prunable_zeros is None or not self.prunable_params:
            return None
        return self.prunable_zeros / self.prunable_params


@dataclass(frozen=True, eq=False)
class Outline:
    """The tensors of one checkpoint, sorted by block and key. All arrays have an entry a tensor.

    `keys` are numbers for what a tensor is in its block, `blocks` the positions of the blocks, -1 outside of them. A hash of 0
    is unknown. `lengths` are the first two of each shape.
    `rounded` has the extremes as BF16, F16 and F32 hold them, of shape (3, 2, tensors).
    """

    facts: Facts
    keys: Array
    blocks: Array
    block_labels: tuple[tuple[str, int], ...]
    hashes: Array
    shapes: Array
    lengths: Array
    dtypes: Array
    sizes: Array
    zeros: Array
    extremes: Array
    norms: Array
    signatures: Array
    signature_sizes: Array
    sketches: Array
    has_sketch: Array
    is_telling: Array
    is_constant: Array
    precision: int
    is_adapter: bool
    width: int | None

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def form(self) -> tuple[bytes, bytes]:
        """What two checkpoints share whose tensors lie in one order."""
        return self.keys.tobytes(), self.blocks.tobytes()

    @cached_property
    def weights(self) -> Array:
        """How much each tensor counts: by the square root of its size, so that embeddings do not outvote all blocks."""
        return np.asarray(np.sqrt(self.sizes))

    @cached_property
    def squares(self) -> Array:
        """The squared length of each sketch."""
        return np.asarray(np.einsum("ij,ij->i", self.sketches, self.sketches, dtype=np.float64))

    @cached_property
    def rounded(self) -> Array:
        return np.stack([_round(self.extremes, name) for name in ROUNDED])

    @cached_property
    def constants(self) -> int:
        return int(self.is_constant.sum())

    @cached_property
    def has_equal_blocks(self) -> bool:
        """Whether two of its blocks are equal, as in a model that was made by stacking the blocks of another one."""
        kept = self.is_telling & (self.blocks >= 0) & (self.hashes != 0)
        blocks: dict[int, list[tuple[int, int]]] = {}
        for block, key, hashed in zip(
            self.blocks[kept].tolist(), self.keys[kept].tolist(), self.hashes[kept].tolist(), strict=True
        ):
            blocks.setdefault(block, []).append((key, hashed))
        return len({tuple(block) for block in blocks.values()}) < len(blocks)

    @property
    def num_blocks(self) -> int:
        return len(self.block_labels)


ROUNDED = ("BF16", "F16", "F32")


def outline_of(facts: Facts, tensors: pa.Table, codes: Codes) -> Outline:
    """The outline of a checkpoint from its rows, which have OUTLINE_COLUMNS."""
    columns = {
        name: tensors.column(name).to_pylist()
        for name in OUTLINE_COLUMNS
        if name not in ("signature", "sketch", "is_parameter")
    }
    is_held = tensors.column("is_parameter").to_numpy(zero_copy_only=False).astype(bool)
    is_adapter = bool(len(is_held)) and all(module in (Module.ADAPTER, Module.QUANT_AUX) for module in columns["module"])
    signatures, signature_sizes = padded_lists(tensors.column("signature"))
    sketches, sketch_sizes = padded_lists(tensors.column("sketch"))
    is_known = (
        (sketch_sizes > 0) | (signature_sizes > 0) | np.array([text is not None for text in columns["content_hash"]], bool)
    )
    rows = np.flatnonzero(is_held & is_known)
    labels = sorted(
        {
            (columns["stack"][row], columns["layer_index"][row])
            for row in rows
            if columns["layer_index"][row] is not None and columns["stack"][row]
        }
    )
    positions = {label: position for position, label in enumerate(labels)}
    blocks = np.array([positions.get((columns["stack"][row], columns["layer_index"][row]), -1) for row in rows], np.int32)
    keys = np.array([codes.of(_key(columns, row)) for row in rows], np.int32)
    order = np.lexsort((keys, blocks))
    rows, blocks, keys = rows[order], blocks[order], keys[order]
    shapes = [tuple(columns["weight_shape"][row] or columns["shape"][row] or ()) for row in rows]
    forms = [codes.of((columns["dtype"][row], shape)) for row, shape in zip(rows, shapes, strict=True)]
    sizes = np.array([columns["params"][row] or 1 for row in rows], np.float64)
    std = _floats(columns["std"], rows)
    is_matrix = np.array([len(shape) > 1 for shape in shapes], bool)
    is_position = np.array([columns["role"][row] == Role.EMBED_POSITIONS for row in rows], bool)
    return Outline(
        facts,
        keys,
        blocks,
        tuple(labels),
        np.array([_hash(columns, row, form) for row, form in zip(rows, forms, strict=True)], np.uint64),
        np.array([codes.of(shape) for shape in shapes], np.int32),
        np.array([(*shape[:2], 0, 0)[:2] for shape in shapes], np.int64).reshape(-1, 2),
        np.array([codes.of(columns["dtype"][row]) for row in rows], np.int32),
        sizes,
        _floats(columns["zeros"], rows),
        np.stack([_floats(columns["min"], rows), _floats(columns["max"], rows)]),
        _floats(columns["l2_norm"], rows),
        signatures[rows],
        signature_sizes[rows],
        sketches[rows],
        sketch_sizes[rows] > 0,
        is_matrix & ~is_position & (sizes >= MIN_TOLD_ELEMENTS) & ~(std == 0),
        std == 0,
        _precision(facts, [columns["dtype"][row] for row in rows], sizes),
        is_adapter,
        residual_width(columns),
    )


def _key(columns: dict[str, list[Any]], row: Any) -> tuple[Any, ...]:
    """What a tensor is in its block, whatever form it is stored in."""
    name, layer = columns["role"][row], columns["layer_index"][row]
    if name is None:
        name = str(columns["canonical_name"][row] or columns["name"][row])
        name = name if layer is None else re.sub(rf"\.{layer}\.", ".", name, count=1)
    part = "bias" if columns["part"][row] == "bias" else "weight"
    return columns["stack"][row], columns["module"][row], name, part, columns["expert_index"][row]


def _hash(columns: dict[str, list[Any]], row: Any, form: int) -> int:
    """64 bits of a tensor's hash and of the number of its type and shape; 0 if the hash is unknown."""
    text = columns["content_hash"][row]
    if text is None:
        return 0
    return (int(text[:16], 16) ^ form * 0x9E3779B97F4A7C15) % (1 << 64) or 1


def _floats(values: list[Any], rows: Array) -> Array:
    return np.array([np.nan if values[row] is None else values[row] for row in rows], np.float64)


def padded_lists(column: pa.ChunkedArray) -> tuple[Array, Array]:
    """Lists of up to 64 numbers as rows of an array, and their lengths; a null is an empty list."""
    import pyarrow.compute as pc

    sizes = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    sizes = np.minimum(sizes, LANES)
    values = pc.list_flatten(column).to_numpy(zero_copy_only=False) if sizes.any() else np.empty(0, np.float32)
    padded = np.zeros((len(sizes), LANES), np.float32)
    starts = np.cumsum(sizes) - sizes
    places = np.repeat(np.arange(len(sizes)), sizes), np.arange(len(values)) - np.repeat(starts, sizes)
    padded[places] = values
    return padded, sizes


def _precision(facts: Facts, dtypes: list[str], sizes: Array) -> int:
    """How finely most weights are stored, as PRECISIONS orders it; 0 if many of them are packed."""
    known = np.array([PRECISIONS.get(dtype, 0) for dtype in dtypes], np.int64)
    total = float(sizes.sum())
    if not total or float(sizes[known == 0].sum()) > MIN_PACKED_SHARE * total or facts.container == "gguf":
        return 0
    return int(np.bincount(known, weights=sizes).argmax())


def residual_width(columns: Mapping[str, Sequence[Any]]) -> int | None:
    """The width of the residual stream: the columns of the token embedding, else the most common length of norms."""
    for role, weight_shape, shape in zip(columns["role"], columns["weight_shape"], columns["shape"], strict=True):
        if role == Role.EMBED_TOKENS and len(own := weight_shape or shape) == 2:
            return int(own[1])
    norms = zip(columns["module"], columns["shape"], strict=True)
    lengths = [shape[0] for module, shape in norms if module == Module.NORM and shape]
    return max(sorted(set(lengths)), key=lengths.count) if lengths else None


def _round(values: Array, dtype: str) -> Array:
    """Numbers as a cast to a dtype rounds them, ties to even."""
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype != "BF16":
            return np.asarray(values.astype(np.float16 if dtype == "F16" else np.float32).astype(np.float64))
        bits = values.astype(np.float32).view(np.uint32)
        bits = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) & np.uint32(0xFFFF0000)
        return np.asarray(np.where(np.isnan(values), np.nan, bits.view(np.float32)))
