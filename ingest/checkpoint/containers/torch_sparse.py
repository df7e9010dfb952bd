"""References to sparse tensors of torch files: the parts that a pickle names are checked against the tensor's shape.

The layouts are those of torch.sparse: COO, CSR, CSC, BSR and BSC.
"""

from __future__ import annotations

from layerhouse.ingest.checkpoint.dtypes import DTYPES
from layerhouse.ingest.checkpoint.pickle.values import SparseStub
from layerhouse.ingest.checkpoint.tensor_ref import (
    DENSE_BYTES,
    MAX_ENTRY_ELEMENTS,
    SparseParts,
    TensorRef,
)

MAX_SPARSE_FACTOR = 256
"""Limit on the logical bytes of a file's sparse tensors, as a multiple of its size: float32 with 0.1 % non-zeros takes 200."""

SPARSE_SLACK = 1 << 28
"""Logical bytes that the sparse tensors of any file may have, however small it is."""
INDEX_TYPES = ("I64", "I32")


def sparse_reference(
    name: str, tensor: SparseStub, indices: tuple[TensorRef, ...], values: TensorRef, *, is_buffer: bool
) -> TensorRef | str:
    """A reference to the dense tensor that a sparse one stands for; or the reason, in a few words, why it cannot be read."""
    parts = _coo(tensor, indices[0], values) if tensor.layout == "coo" else _compressed(tensor, indices, values)
    if isinstance(parts, str):
        return parts
    if any(part.dtype not in INDEX_TYPES for part in indices):
        return f"indices of {', '.join(part.dtype for part in indices)}, expected {' or '.join(INDEX_TYPES)}"
    if DTYPES[values.dtype].bits % 8:
        return f"values of {values.dtype} are not scattered"
    if parts.entry_elements > MAX_ENTRY_ELEMENTS:
        return f"limit exceeded: blocks of {parts.entry_elements} elements, over {MAX_ENTRY_ELEMENTS}"
    stored = sum({(part.path, part.offset): part.storage_bytes for part in (*indices, values)}.values())
    ref = TensorRef(name, values.dtype, tensor.shape, values.path, values.offset, stored, is_buffer=is_buffer, sparse=parts)
    if ref.logical_bytes > DENSE_BYTES and not tensor.is_ordered:
        order = "the order of its entries is not given" if tensor.layout == "coo" else f"{tensor.layout} goes by columns"
        return f"limit exceeded: {ref.logical_bytes} logical bytes, over {DENSE_BYTES}, and {order}"
    return ref


def _coo(tensor: SparseStub, indices: TensorRef, values: TensorRef) -> SparseParts | str:
    """Indices (sparse dimensions, entries); values (entries, dense dimensions)."""
    if len(indices.shape) != 2 or not values.shape or indices.shape[1] != values.shape[0]:
        return _mismatch(tensor, (indices,), values)
    sparse_dimensions = indices.shape[0]
    if sparse_dimensions > len(tensor.shape) or values.shape[1:] != tensor.shape[sparse_dimensions:]:
        return _mismatch(tensor, (indices,), values)
    return SparseParts(tensor.layout, (indices,), values, tensor.shape)


def _compressed(tensor: SparseStub, indices: tuple[TensorRef, ...], values: TensorRef) -> SparseParts | str:
    """Compressed indices (rows + 1), plain indices (entries), values (entries) or, of blocks, (entries, height, width)."""
    has_blocks = tensor.layout in ("bsr", "bsc")
    if len(tensor.shape) != 2 or len(values.shape) != (3 if has_blocks else 1):
        return f"{tensor.layout} of {len(tensor.shape)} dimensions with values of {len(values.shape)}"
    block = values.shape[1:] if has_blocks else (1, 1)
    axis = 0 if tensor.layout in ("csr", "bsr") else 1
    fits = 0 not in block and not any(extent % size for extent, size in zip(tensor.shape, block, strict=True))
    compressed, plain = indices
    if not fits or compressed.shape != (tensor.shape[axis] // block[axis] + 1,) or plain.shape != values.shape[:1]:
        return _mismatch(tensor, indices, values)
    return SparseParts(tensor.layout, indices, values, tensor.shape)


def _mismatch(tensor: SparseStub, indices: tuple[TensorRef, ...], values: TensorRef) -> str:
    shapes = " and ".join(str(list(part.shape)) for part in indices)
    return f"{tensor.layout} indices {shapes} and values {list(values.shape)} do not fit the shape {list(tensor.shape)}"
