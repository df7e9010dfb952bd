"""Read a checkpoint of torch.distributed.checkpoint (DCP): a folder with a hidden `.metadata` and files `*.distcp`.

Every tensor is cut into chunks, one for each rank that had a part of it. A chunk is a torch zip of its own within a `.distcp`
file. The chunks of a tensor must be a grid that fills it; then they are read as the one tensor that they are.
"""

from __future__ import annotations

import io
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.containers.dcp_metadata import Blob, Chunk, DcpMetadata, SavedTensor, read_metadata
from layerhouse.ingest.checkpoint.containers.torch_storages import Block, Storages
from layerhouse.ingest.checkpoint.containers.torch_zip import read_archive
from layerhouse.ingest.checkpoint.file_names import DCP_METADATA, DCP_SUFFIX
from layerhouse.ingest.checkpoint.limits import check_limit
from layerhouse.ingest.checkpoint.pickle.find_model import PickledModel, describe, find_model, printable
from layerhouse.ingest.checkpoint.pickle.load import Unpickled
from layerhouse.ingest.checkpoint.pickle.values import Global, PickledDict, StorageStub, Stub, TensorStub
from layerhouse.ingest.checkpoint.regular_file import open_regular_file
from layerhouse.ingest.checkpoint.tensor_ref import CHUNKS, Assembly, Contents, TensorRef

MAX_CHUNKS = 500_000
MAX_UNWRAPPED = 8
MAX_NAMED = 5
ZIP_START = b"PK\x03\x04"
OPTIMIZER = re.compile(r"optim(izer)?s?(_states?)?(_\d+)?|optims?_dict", re.IGNORECASE)
RUN = r"lr_schedulers?(_\d+)?|train(er)?_state|dataloaders?(_states?)?|rng_states?|random_states?|grad_scaler"
RUN_STATE = re.compile(rf"{OPTIMIZER.pattern}|{RUN}", re.IGNORECASE)
"""Names of the state of a training run that no module of a model has."""
TRAINING_STATE = re.compile(rf"{RUN_STATE.pattern}|schedulers?(_\d+)?|rng|scaler", re.IGNORECASE)
"""Entries of the dict that was saved which hold the state of a training run."""
OBJECT = Global("torch.distributed.checkpoint", "object")


def read_dcp(folder: Path, display_path: str) -> Contents:
    """The tensors of the model that was saved into the folder, named as in its state dict. Raises InputError of one line, which
    names the tensor at fault.
    """
    metadata_path = f"{display_path}/{DCP_METADATA}"
    metadata = read_metadata(folder / DCP_METADATA, metadata_path)
    model, notes = _find_model(metadata, metadata_path)
    saved = [(named.name, metadata.tensors[_key(named.tensor)]) for named in model.tensors]
    chunks = [(tensor, chunk) for _, tensor in saved for chunk in _grid(tensor, metadata_path)]
    check_limit(metadata_path, "chunks", len(chunks), MAX_CHUNKS)
    parts = _read_chunks(folder, display_path, chunks)
    tensors = tuple(_whole(name, tensor, parts[tensor.name]) for name, tensor in saved)
    strays = sorted(path.name for path in folder.glob(f"*{DCP_SUFFIX}") if path.name not in metadata.files)
    notes += [f"not read, as nothing refers to it: {printable(name)}" for name in strays[:MAX_NAMED]]
    notes += [f"and {len(strays) - MAX_NAMED} more such files"] * (len(strays) > MAX_NAMED)
    return Contents("dcp", tensors, skipped=(*notes, *model.skipped))


def _key(tensor: object) -> str:
    assert isinstance(tensor, TensorStub)
    return tensor.storage.key


def _find_model(metadata: DcpMetadata, display_path: str) -> tuple[PickledModel, list[str]]:
    """The model among the tensors, by the rules for dicts of torch files, and a line on each state of the training run."""
    root = PickledDict()
    dicts: dict[tuple[Any, ...], PickledDict] = {(): root}
    left_out: Counter[str] = Counter()
    for name in (*metadata.tensors, *metadata.objects):
        path = metadata.paths.get(name, (name,))
        state = _training_state(name, path)
        if state is not None:
            left_out[state] += name in metadata.tensors
            continue
        parent = root
        for depth in range(1, len(path)):
            if path[:depth] not in dicts:
                dicts[path[:depth]] = PickledDict()
                parent.flat += [path[depth - 1], dicts[path[:depth]]]
            parent = dicts[path[:depth]]
        parent.flat += [path[-1], _leaf(metadata.tensors[name]) if name in metadata.tensors else Stub(OBJECT, (), True)]
    notes = [f"not taken: {count} tensors of {printable(state)}" for state, count in left_out.items() if count]
    if not root.flat:
        what = f"no weights of a model, but the state of a training run ({printable(next(iter(left_out), 'nothing'))})"
        raise InputError(display_path, what)
    unpickled = Unpickled(_unwrapped(root), 0, metadata.inert, {}, metadata.containers)
    return find_model(unpickled, display_path), notes


def _training_state(name: str, path: tuple[Any, ...]) -> str | None:
    """The entry, if a tensor belongs to the state of a training run: one on its path, or the begin of a name without one."""
    for entry in path[:-1]:
        if isinstance(entry, str) and TRAINING_STATE.fullmatch(entry):
            return entry
    return next((entry for entry in name.split(".")[:-1][:2] if RUN_STATE.fullmatch(entry)), None)


def _leaf(tensor: SavedTensor) -> TensorStub:
    storage = StorageStub(tensor.name, tensor.dtype_name, tensor.dtype, 0)
    return TensorStub(storage, tensor.dtype, tensor.dtype_name, 0, tensor.shape, (), False)


def _unwrapped(root: PickledDict) -> PickledDict:
    """The dict below entries that are alone in theirs, such as that of an application's whole state."""
    for _ in range(MAX_UNWRAPPED):
        values = root.flat[1::2]
        if len(values) != 1 or not isinstance(values[0], PickledDict):
            break
        root = values[0]
    return root


def _grid(tensor: SavedTensor, display_path: str) -> list[Chunk]:
    """The chunks of a tensor in C order of their places. Raises InputError unless they are a grid that fills it."""

    def refuse(what: str) -> InputError:
        return InputError(display_path, f"tensor {tensor.name[:80]!r}: {what}")

    shapes = tensor.chunk_shapes
    if 0 in tensor.shape:
        shapes = {origin: shape for origin, shape in shapes.items() if shape == tensor.shape}
        if not shapes:
            raise refuse(f"no chunk of its shape {list(tensor.shape)}")
    total, held = math.prod(tensor.shape), sum(math.prod(shape) for shape in shapes.values())
    counted = f"{len(shapes)} chunks of {held} elements, the tensor has {total}"
    if held < total:
        raise refuse(f"a chunk is missing: {counted}; copy the whole folder, or save it again")
    if held > total:
        raise refuse(f"chunks overlap: {counted}")
    ends = []
    for axis, extent in enumerate(tensor.shape):
        starts = sorted({origin[axis] for origin in shapes})
        ends.append(dict(zip(starts, [*starts[1:], extent], strict=True)))
    for origin, shape in shapes.items():
        if any(end[start] - start != size for end, start, size in zip(ends, origin, shape, strict=True)):
            raise refuse(f"its chunks overlap or are no grid: that at {list(origin)} has the shape {list(shape)}")
    chunks = []
    for origin in sorted(shapes):
        blob = tensor.blobs.get(origin)
        if blob is None:
            raise refuse(f"its chunk at {list(origin)} is in no file; save the checkpoint again")
        chunks.append(Chunk(origin, shapes[origin], blob))
    return chunks


def _read_chunks(
    folder: Path, display_path: str, chunks: Sequence[tuple[SavedTensor, Chunk]]
) -> dict[str, list[tuple[Chunk, TensorRef]]]:
    """References to all chunks, by the names of their tensors. Each file is opened once and read from its begin to its end."""
    by_file: dict[str, list[tuple[SavedTensor, Chunk]]] = {}
    for tensor, chunk in chunks:
        by_file.setdefault(chunk.blob.file, []).append((tensor, chunk))
    parts: dict[str, list[tuple[Chunk, TensorRef]]] = {tensor.name: [] for tensor, _ in chunks}
    for name, own in sorted(by_file.items()):
        own.sort(key=lambda pair: (pair[1].blob.offset, pair[1].blob.size_bytes))
        path, shown = folder / name, f"{display_path}/{name}"
        with open_regular_file(path, shown) as (file, size):
            _check_blobs(own, size, shown)
            refs = [_read_chunk(file, path, shown, tensor, chunk) for tensor, chunk in own]
        Storages(path, shown, lambda key: key).check_total(refs, size)
        for (tensor, chunk), ref in zip(own, refs, strict=True):
            parts[tensor.name].append((chunk, ref))
    return parts


def _check_blobs(chunks: Sequence[tuple[SavedTensor, Chunk]], size: int, display_path: str) -> None:
    """Raise InputError unless every chunk lies in the file, and none in the bytes of another."""
    end, previous = 0, ""
    for tensor, chunk in chunks:
        blob = chunk.blob
        if blob.offset < end:
            raise InputError(display_path, f"tensor {tensor.name[:80]!r}: its chunk overlaps one of {previous[:80]!r}")
        end, previous = blob.offset + blob.size_bytes, tensor.name
        if end > size:
            what = f"its chunk ends at byte {end} of a file of {size} bytes; copy the file again"
            raise InputError(display_path, f"cut off: tensor {tensor.name[:80]!r}: {what}")


def _read_chunk(file: BinaryIO, path: Path, display_path: str, tensor: SavedTensor, chunk: Chunk) -> TensorRef:
    """The reference to one chunk, whose zip must hold one plain tensor of the dtype and shape that the metadata says."""
    blob, name = chunk.blob, tensor.name
    part = cast(BinaryIO, _FilePart(file, blob))
    where = f"{display_path}: tensor {name[:80]!r} at byte {blob.offset}"
    if part.read(len(ZIP_START)) != ZIP_START:
        raise InputError(where, "its chunk is no torch zip; it is not read")
    archive = read_archive(part, blob.size_bytes, where)
    value = archive.unpickled.value
    if not isinstance(value, TensorStub):
        raise InputError(where, f"its chunk is no plain tensor, but {describe(value)}; it is not read")

    def find(key: str) -> Block | str:
        block = archive.find(key)
        return block if isinstance(block, str) else Block(blob.offset + block.offset, block.size_bytes)

    ref = Storages(path, display_path, find).reference(name, value)
    if (ref.dtype, ref.shape) != (tensor.dtype, chunk.shape):
        what = f"its chunk is {ref.dtype} {list(ref.shape)}, the metadata says {tensor.dtype} {list(chunk.shape)}"
        raise InputError(where, what)
    return ref


def _whole(name: str, tensor: SavedTensor, parts: Sequence[tuple[Chunk, TensorRef]]) -> TensorRef:
    """The tensor that a grid of chunks is."""
    ordered = sorted(parts, key=lambda part: part[0].origin)
    first = ordered[0][1]
    if len(ordered) == 1:
        first.name = name
        return first
    sources = tuple(ref for _, ref in ordered)
    origins = {"origins": tuple(chunk.origin for chunk, _ in ordered)}
    assembly = Assembly(CHUNKS, sources, tensor.shape, first.dtype, origins)
    stored = sum(ref.storage_bytes for ref in sources)
    return TensorRef(name, first.dtype, tensor.shape, first.path, first.offset, stored, assembly=assembly)


class _FilePart(io.BufferedIOBase):
    """Some bytes of a file, as a file that begins and ends with them."""

    def __init__(self, file: BinaryIO, blob: Blob) -> None:
        self._file, self._begin, self._size, self._at = file, blob.offset, blob.size_bytes, 0

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to a byte, as a file does."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        """The byte that is read next."""
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        """The next bytes, fewer at the end."""
        left = max(0, self._size - self._at)
        count = left if size is None or size < 0 else min(size, left)
        if not count:
            return b""
        self._file.seek(self._begin + self._at)
        raw = self._file.read(count)
        self._at += len(raw)
        return raw
