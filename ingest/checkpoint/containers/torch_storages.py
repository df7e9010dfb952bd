"""The storages of a torch file, against which every claim of its pickle about a tensor is checked before it is a reference.

A file is taken at its bytes: a tensor's type, size, strides and offset must fit the storage that is there. What overlaps
(torch's expand) or is stored sparse can stand for more bytes than the file has, and is bounded for that reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.containers.torch_sparse import MAX_SPARSE_FACTOR, SPARSE_SLACK, sparse_reference
from layerhouse.ingest.checkpoint.dtypes import byte_count
from layerhouse.ingest.checkpoint.limits import allowed
from layerhouse.ingest.checkpoint.pickle.find_model import NamedTensor, PickledModel, printable
from layerhouse.ingest.checkpoint.pickle.values import SparseStub, StorageStub, TensorStub
from layerhouse.ingest.checkpoint.shapes import (
    MAX_DIMENSIONS,
    MAX_ELEMENTS,
    count_elements,
    normalized_strides,
    span,
)
from layerhouse.ingest.checkpoint.tensor_ref import Contents, TensorRef

MAX_EXPANDED_BYTES = 16 * 1024 * 1024
MAX_TOTAL_FACTOR = 4


@dataclass(frozen=True)
class Block:
    """Where a storage's bytes lie in the file."""

    offset: int
    size_bytes: int


@dataclass(frozen=True)
class Storages:
    """The storages of one file. `find` gives the block of a key, or what keeps it from being read."""

    path: Path
    display_path: str
    find: Callable[[str], Block | str]

    def references(self, tensors: Iterable[NamedTensor], size: int) -> tuple[tuple[TensorRef, ...], tuple[str, ...]]:
        """References to the tensors of a file of `size` bytes, and a line for each sparse one that is not taken.

        Raises InputError where a claim cannot be true, or where overlapping views add up to over four times the file.
        """
        refs: list[TensorRef] = []
        left_out: list[str] = []
        left = allowed(MAX_SPARSE_FACTOR * size + SPARSE_SLACK)
        for named in tensors:
            if isinstance(named.tensor, TensorStub):
                refs.append(self.reference(named.name, named.tensor, is_buffer=named.is_buffer))
                continue
            found = self.sparse(named.name, named.tensor, is_buffer=named.is_buffer)
            if isinstance(found, TensorRef) and found.logical_bytes > left:
                found = f"limit exceeded: {found.logical_bytes} logical bytes, {MAX_SPARSE_FACTOR} times the file"
            if isinstance(found, TensorRef):
                left -= found.logical_bytes
                refs.append(found)
            else:
                left_out.append(f"sparse tensor not taken: {printable(named.name)}: {found}")
        self.check_total([ref for ref in refs if ref.sparse is None], size)
        return tuple(refs), tuple(left_out)

    def reference(self, name: str, tensor: TensorStub, *, is_buffer: bool = False) -> TensorRef:
        """A strided tensor, if every claim of the pickle about it can be true."""
        if tensor.dtype is None:
            self.refuse(name, f"unknown dtype {printable(tensor.dtype_name)}")
        block = self.block(name, tensor.storage)
        if len(tensor.shape) != len(tensor.strides):
            self.refuse(name, f"{len(tensor.shape)} dimensions with {len(tensor.strides)} strides")
        for what, values in (("size", tensor.shape), ("stride", tensor.strides), ("offset", (tensor.storage_offset,))):
            if any(value < 0 for value in values):
                self.refuse(name, f"negative {what}")
            if any(value > MAX_ELEMENTS for value in values):
                self.refuse(name, f"{what} over {MAX_ELEMENTS}")
        elements = self.elements(name, tensor.shape)
        end = tensor.storage_offset + span(tensor.shape, tensor.strides)
        if byte_count(tensor.dtype, end) > block.size_bytes:
            self.refuse(name, f"needs {byte_count(tensor.dtype, end)} bytes of a storage of {block.size_bytes}")
        view = tensor.storage.view
        if view is not None and (tensor.storage_offset < view[0] or end > view[0] + view[1]):
            self.refuse(name, f"reaches out of its view of {view[1]} elements from {view[0]} on")
        logical_bytes = byte_count(tensor.dtype, elements)
        if logical_bytes > max(block.size_bytes, MAX_EXPANDED_BYTES):
            self.refuse(name, f"overlapping view: {logical_bytes} bytes out of a storage of {block.size_bytes}")
        return TensorRef(
            name,
            tensor.dtype,
            tensor.shape,
            self.path,
            block.offset,
            block.size_bytes,
            tensor.storage_offset,
            normalized_strides(tensor.shape, tensor.strides),
            is_buffer,
        )

    def sparse(self, name: str, tensor: SparseStub, *, is_buffer: bool) -> TensorRef | str:
        """A sparse tensor, its indices and values checked like tensors of their own; or why it is not taken."""
        if any(extent < 0 for extent in tensor.shape):
            self.refuse(name, "negative size")
        self.elements(name, tensor.shape)
        indices = tuple(self.reference(name, part) for part in tensor.indices)
        return sparse_reference(name, tensor, indices, self.reference(name, tensor.values), is_buffer=is_buffer)

    def elements(self, name: str, shape: tuple[int, ...]) -> int:
        elements = count_elements(shape)
        if elements is None:
            self.refuse(name, f"limit exceeded: more than {MAX_DIMENSIONS} dimensions or {MAX_ELEMENTS} elements")
        return elements

    def block(self, name: str, storage: StorageStub) -> Block:
        """The bytes that hold the storage, as many as the pickle says at least."""
        block = self.find(storage.key)
        if isinstance(block, str):
            self.refuse(name, block)
        if storage.dtype is None:
            self.refuse(name, f"unknown storage {printable(storage.class_path)}")
        claimed = byte_count(storage.dtype, storage.elements) if 0 <= storage.elements <= MAX_ELEMENTS else -1
        if not 0 <= claimed <= block.size_bytes:
            claim = printable(str(storage.elements))
            self.refuse(name, f"its storage claims {claim} elements, {block.size_bytes} bytes of it are there")
        if storage.view is not None:
            first, count = storage.view
            if first < 0 or count < 0 or first + count > storage.elements:
                self.refuse(name, f"its view of {count} elements from {first} on reaches out of its storage")
        return block

    def check_total(self, tensors: Iterable[TensorRef], size: int) -> None:
        """Overlapping views, each within its limit, must not add up to work without end; a tied tensor counts once."""
        total = sum({tensor.place: tensor.logical_bytes for tensor in tensors}.values())
        if total > allowed(MAX_TOTAL_FACTOR * size + MAX_TOTAL_FACTOR * MAX_EXPANDED_BYTES):
            what = f"limit exceeded: tensors of {total} bytes in a file of {size} bytes, overlapping views"
            raise InputError(self.display_path, what)

    def refuse(self, name: str, what: str) -> NoReturn:
        raise InputError(self.display_path, f"tensor {name[:80]!r}: {what}")


def contents_of(model: PickledModel, storages: Storages, size: int, container: str, notes: Sequence[str]) -> Contents:
    """What a file of `size` bytes holds, by the model in its pickle and its storages. Raises InputError if nothing."""
    tensors, left_out = storages.references(model.tensors, size)
    if not tensors:
        raise InputError(storages.display_path, f"no tensor that can be read; {left_out[0]}")
    name = container if model.class_path is None else f"{container}, pickled whole model"
    skipped = (*notes, *left_out, *model.skipped)
    return Contents(name, tensors, class_path=model.class_path, config=model.config, skipped=skipped)
