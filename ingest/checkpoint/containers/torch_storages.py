"""The storages of a torch file. What its pickle claims of a tensor is checked against them before it becomes a reference.

A tensor's type, shape, strides and offset must fit the bytes of its storage. An overlapping view (torch's expand) and a sparse
tensor can stand for more bytes than the file has, so there are limits on both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.containers.torch_quantized import quantized_reference, served_reference, unread_reference
from layerhouse.ingest.checkpoint.containers.torch_sparse import MAX_SPARSE_FACTOR, SPARSE_SLACK, sparse_reference
from layerhouse.ingest.checkpoint.dtypes import byte_count
from layerhouse.ingest.checkpoint.limits import allowed, check_limit
from layerhouse.ingest.checkpoint.pickle.find_model import find_model, printable
from layerhouse.ingest.checkpoint.pickle.load import Unpickled
from layerhouse.ingest.checkpoint.pickle.parts import NamedTensor
from layerhouse.ingest.checkpoint.pickle.values import QuantizedStub, ShapeStub, SparseStub, StorageStub, TensorStub
from layerhouse.ingest.checkpoint.shapes import (
    MAX_DIMENSIONS,
    MAX_ELEMENTS,
    count_elements,
    normalized_strides,
    span,
)
from layerhouse.ingest.checkpoint.tensor_ref import Contents, TensorRef

MAX_EXPANDED_BYTES = 16 * 1024 * 1024
"""Logical bytes up to which a view may be larger than its storage, as masks and position ids are."""
MAX_TOTAL_FACTOR = 4
"""Limit on the logical bytes of all views together, as a multiple of the file's size and of MAX_EXPANDED_BYTES."""
EXCEEDED = "limit exceeded: "
MAX_UNREAD_ELEMENTS = 1 << 46
"""Limit on the elements that tensors without values may claim in one file: 70 trillion parameters."""


@dataclass(frozen=True)
class Block:
    """Where a storage's bytes lie in the file."""

    offset: int
    size_bytes: int


@dataclass(frozen=True)
class Storages:
    """The storages of one file. `find` returns the block of a storage's key, or the reason why its bytes cannot be read."""

    path: Path
    display_path: str
    find: Callable[[str], Block | str]

    def references(self, tensors: Iterable[NamedTensor], size: int) -> tuple[tuple[TensorRef, ...], tuple[str, ...]]:
        """References to the tensors of a file of `size` bytes, and a line for each sparse tensor that cannot be read.

        One over a limit has a reference by its shape alone. Raises InputError if a claim cannot be true, or if overlapping
        views add up to more than MAX_TOTAL_FACTOR allows.
        """
        refs: list[TensorRef] = []
        left_out: list[str] = []
        sparse_budget = allowed(MAX_SPARSE_FACTOR * size + SPARSE_SLACK)
        unread: dict[int, TensorRef] = {}
        for named in tensors:
            if isinstance(named.tensor, TensorStub):
                ref = self.reference(named.name, named.tensor, is_buffer=named.is_buffer)
                refs.append(ref if named.served is None else served_reference(ref, named.served))
                continue
            if isinstance(named.tensor, ShapeStub):
                refs.append(self.unread(named, named.tensor, unread))
                continue
            if isinstance(named.tensor, QuantizedStub):
                refs.append(self.quantized(named, named.tensor))
                continue
            outcome = self.sparse(named.name, named.tensor, is_buffer=named.is_buffer)
            if isinstance(outcome, TensorRef) and outcome.logical_bytes > sparse_budget:
                outcome = f"{EXCEEDED}{outcome.logical_bytes} logical bytes, {MAX_SPARSE_FACTOR} times the file"
            if isinstance(outcome, TensorRef):
                sparse_budget -= outcome.logical_bytes
                refs.append(outcome)
            elif outcome.startswith(EXCEEDED):
                shape = ShapeStub(
                    named.tensor.values.dtype, named.tensor.values.dtype_name, named.tensor.shape, "sparse, over a limit"
                )
                refs.append(self.unread(named, shape, unread))
                left_out.append(f"values of sparse tensor not read: {printable(named.name)}: {outcome}")
            else:
                left_out.append(f"sparse tensor unsupported: tensor {printable(named.name)}: {outcome}")
        self.check_total([ref for ref in refs if ref.sparse is None and ref.offset >= 0], size)
        check_limit(
            self.display_path,
            "elements of tensors without values",
            sum(ref.elements for ref in unread.values()),
            MAX_UNREAD_ELEMENTS,
        )
        return tuple(refs), tuple(left_out)

    def reference(self, name: str, tensor: TensorStub, *, is_buffer: bool = False) -> TensorRef:
        """The reference to a strided tensor. Raises InputError if the pickle claims anything that cannot be true."""
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

    def unread(self, named: NamedTensor, tensor: ShapeStub, known: dict[int, TensorRef]) -> TensorRef:
        """The reference to a tensor of which only type and shape are known. `known` are those that have been made, by the
        identity of what they stand for: a tensor of two names is one."""
        if tensor.dtype is None:
            self.refuse(named.name, f"unknown dtype {printable(tensor.dtype_name)}")
        if any(extent < 0 for extent in tensor.shape):
            self.refuse(named.name, "negative size")
        self.elements(named.name, tensor.shape)
        number = -1 - len(known)
        first = known.setdefault(id(named.tensor), unread_reference(named, tensor, tensor.dtype, self.path, number))
        return unread_reference(named, tensor, tensor.dtype, self.path, first.offset)

    def quantized(self, named: NamedTensor, tensor: QuantizedStub) -> TensorRef:
        """The reference to a quantised tensor of torch, whose codes, scales and zero points are checked like tensors."""
        codes = tensor.codes
        if tensor.bits < 8:
            stored = byte_count("U8", -(-self.elements(named.name, tuple(map(abs, codes.shape))) * tensor.bits // 8))
            codes = replace(codes, shape=(stored,), strides=(1,))
            is_plain = normalized_strides(tensor.codes.shape, tensor.codes.strides) is None
            if not is_plain or tensor.codes.storage_offset or min(tensor.codes.shape, default=0) < 0:
                self.refuse(named.name, f"a view of codes of {tensor.bits} bits, which share bytes")
        stored_ref = self.reference(named.name, codes, is_buffer=named.is_buffer)
        parts = (tensor.scale, tensor.zero_point)
        refs = [self.reference(named.name, part) for part in parts if isinstance(part, TensorStub)]
        return quantized_reference(stored_ref, tensor, refs)

    def sparse(self, name: str, tensor: SparseStub, *, is_buffer: bool) -> TensorRef | str:
        """The reference to a sparse tensor, whose indices and values are checked like tensors; or why it cannot be read."""
        if any(extent < 0 for extent in tensor.shape):
            self.refuse(name, "negative size")
        self.elements(name, tensor.shape)
        indices = tuple(self.reference(name, part) for part in tensor.indices)
        return sparse_reference(name, tensor, indices, self.reference(name, tensor.values), is_buffer=is_buffer)

    def elements(self, name: str, shape: tuple[int, ...]) -> int:
        """The number of elements of a shape. Raises InputError beyond the limits."""
        elements = count_elements(shape)
        if elements is None:
            self.refuse(name, f"limit exceeded: more than {MAX_DIMENSIONS} dimensions or {MAX_ELEMENTS} elements")
        return elements

    def block(self, name: str, storage: StorageStub) -> Block:
        """The bytes of a storage. Raises InputError if they are fewer than the pickle claims."""
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
        """Raise InputError if views, each of them within its limit, add up to too many bytes. A tied tensor counts once."""
        total = sum({tensor.place: tensor.logical_bytes for tensor in tensors}.values())
        if total > allowed(MAX_TOTAL_FACTOR * size + MAX_TOTAL_FACTOR * MAX_EXPANDED_BYTES):
            what = f"limit exceeded: tensors of {total} bytes in a file of {size} bytes, overlapping views"
            raise InputError(self.display_path, what)

    def refuse(self, name: str, what: str) -> NoReturn:
        """Raise InputError that names the tensor."""
        raise InputError(self.display_path, f"tensor {name[:80]!r}: {what}")


@dataclass(frozen=True)
class PickledFile:
    """An opened torch file of `size` bytes: the value of its pickle, and its storages. `notes` say what of it was not read."""

    container: str
    unpickled: Unpickled
    storages: Storages
    size: int
    notes: Sequence[str] = ()

    def contents(self) -> Contents:
        """The tensors of the model in the file. Raises InputError if there is none, or if no tensor can be read."""
        model = find_model(self.unpickled, self.storages.display_path)
        tensors, left_out = self.storages.references(model.tensors, self.size)
        if not tensors:
            raise InputError(self.storages.display_path, f"no tensor that can be read; {left_out[0]}")
        name = self.container if model.class_path is None else f"{self.container}, pickled whole model"
        skipped = (*self.notes, *left_out, *model.skipped)
        contents = Contents(name, tensors, class_path=model.class_path, config=model.config, skipped=skipped)
        return replace(contents, descriptions=model.descriptions, entry_names=model.entry_names)
