"""Read the `.metadata` of a checkpoint of torch.distributed.checkpoint (DCP): which tensors it has, and where their chunks lie.

It is a pickled `Metadata` (torch/distributed/checkpoint/metadata.py), which is not executed (see checkpoint.pickle):
`state_dict_metadata` has the size, the dtype and the chunks of every tensor, `storage_data` the file and the bytes of every
chunk, `planner_data` the path of every name in the nested dict that was saved.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.dtypes import TORCH_DTYPES
from layerhouse.ingest.checkpoint.limits import MAX_TENSOR_NAME, allowed, exceeded
from layerhouse.ingest.checkpoint.pickle.find_model import printable
from layerhouse.ingest.checkpoint.pickle.load import Unpickled, load_pickle
from layerhouse.ingest.checkpoint.pickle.machine import default_limits
from layerhouse.ingest.checkpoint.pickle.values import Global, PickledDict, Stub
from layerhouse.ingest.checkpoint.regular_file import open_regular_file
from layerhouse.ingest.checkpoint.shapes import MAX_ELEMENTS, count_elements

CLASSES = "torch.distributed."
"""What the names of DCP's own classes begin with."""
PATH_CLASSES = ("pathlib.PosixPath", "pathlib.WindowsPath", "pathlib._local.PosixPath", "pathlib._local.WindowsPath")
"""The class of the path that the checkpoint was saved to, which is not used."""
MAX_NAME_BYTES = 255
MAX_VERSION = "1."


@dataclass(frozen=True)
class Blob:
    """The bytes of one chunk: so many from `offset` on of a file in the checkpoint's folder."""

    file: str
    offset: int
    size_bytes: int


@dataclass(frozen=True)
class Chunk:
    """A block of a tensor: the first index on every axis, its shape, and its bytes."""

    origin: tuple[int, ...]
    shape: tuple[int, ...]
    blob: Blob


@dataclass(frozen=True)
class SavedTensor:
    """A tensor as the metadata describes it; `dtype` is None if the table of dtypes does not have `dtype_name`.

    `chunk_shapes` are by the first indices of the chunks, `blobs` as well.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str | None
    dtype_name: str
    chunk_shapes: dict[tuple[int, ...], tuple[int, ...]]
    blobs: dict[tuple[int, ...], Blob] = field(default_factory=dict)


@dataclass(frozen=True)
class DcpMetadata:
    """What `.metadata` says: tensors and the names of other objects; the path of a name in the nested dict, if it is known; the
    names of all files that hold any of them.

    `inert` are classes and functions that are not DCP's own. `containers` is that of Unpickled.
    """

    tensors: dict[str, SavedTensor]
    objects: tuple[str, ...]
    paths: dict[str, tuple[Any, ...]]
    files: frozenset[str]
    inert: tuple[Global, ...]
    containers: int


def read_metadata(path: Path, display_path: str) -> DcpMetadata:
    """Read `.metadata`. Raises InputError of one line for one that is damaged, or of another version."""
    limits = default_limits()
    with open_regular_file(path, display_path) as (file, size):
        if size > limits.bytes:
            raise InputError(display_path, exceeded(f"a pickle of {size} bytes", limits.bytes))
        raw = file.read(size)
    unpickled = load_pickle(raw, display_path, limits=limits)
    if unpickled.end != len(raw):
        raise InputError(display_path, f"pickle: {len(raw) - unpickled.end} bytes after its end, at byte {unpickled.end}")
    return _Parser(display_path).parse(unpickled)


class _Parser:
    """Checks the values of the pickle on their way into DcpMetadata."""

    def __init__(self, display_path: str) -> None:
        self.display_path = display_path

    def refuse(self, what: str) -> NoReturn:
        """Raise InputError for the file."""
        raise InputError(self.display_path, what)

    def parse(self, unpickled: Unpickled) -> DcpMetadata:
        """The metadata in the value of the pickle."""
        fields = self.fields(unpickled.value, "Metadata")
        version = fields.get("version")
        if version is not None and not (isinstance(version, str) and version.startswith(MAX_VERSION)):
            self.refuse(f"distributed checkpoint of version {printable(str(version)[:40])}: only {MAX_VERSION}x is read")
        tensors: dict[str, SavedTensor] = {}
        objects: list[str] = []
        for name, entry in self.entries(fields.get("state_dict_metadata"), "state_dict_metadata"):
            if len(name) > MAX_TENSOR_NAME:
                self.refuse(f"limit exceeded: a tensor name of over {MAX_TENSOR_NAME} characters")
            if isinstance(entry, Stub) and entry.class_path.endswith(".TensorStorageMetadata"):
                tensors[name] = self.tensor(name, entry)
            else:
                objects.append(name)
        files = self.add_blobs(tensors, fields.get("storage_data"))
        inert = tuple(name for name in unpickled.inert if not name.path.startswith(CLASSES) and name.path not in PATH_CLASSES)
        paths = _paths(fields.get("planner_data"))
        return DcpMetadata(tensors, tuple(objects), paths, files, inert, unpickled.containers)

    def fields(self, value: Any, class_name: str) -> dict[str, Any]:
        """The fields of an object of one of DCP's dataclasses."""
        is_known = isinstance(value, Stub) and value.class_path.startswith(CLASSES)
        if not is_known or value.class_path.rpartition(".")[2] != class_name or not isinstance(value.state, PickledDict):
            self.refuse(f"damaged: no {class_name} of torch.distributed.checkpoint where one was expected")
        return value.state.by_text

    def entries(self, value: Any, what: str) -> Iterator[tuple[str, Any]]:
        """The entries of a dict whose keys are text."""
        if not isinstance(value, PickledDict):
            self.refuse(f"damaged: no {what} in the metadata")
        if value.other_keys:
            self.refuse(f"damaged: {what} has {value.other_keys} keys that are not text")
        yield from value.by_text.items()

    def tensor(self, name: str, entry: Stub) -> SavedTensor:
        """One tensor of `state_dict_metadata`."""
        fields = self.fields(entry, "TensorStorageMetadata")
        properties = fields.get("properties")
        state = properties.state if isinstance(properties, Stub) else None
        dtype = state[0] if isinstance(state, tuple) and state else None
        if not isinstance(dtype, Global) or dtype.module != "torch":
            self.refuse(f"tensor {name[:80]!r}: its dtype is not said")
        shape = self.sizes(name, fields.get("size"), "size")
        if count_elements(shape) is None:
            self.refuse(f"tensor {name[:80]!r}: limit exceeded: over {MAX_ELEMENTS} elements, or too many dimensions")
        listed = fields.get("chunks")
        if not isinstance(listed, list):
            self.refuse(f"tensor {name[:80]!r}: no list of chunks")
        chunk_shapes: dict[tuple[int, ...], tuple[int, ...]] = {}
        for item in listed:
            chunk = self.fields(item, "ChunkStorageMetadata")
            origin = self.sizes(name, chunk.get("offsets"), "offsets")
            sizes = self.sizes(name, chunk.get("sizes"), "sizes")
            if not len(origin) == len(sizes) == len(shape):
                self.refuse(f"tensor {name[:80]!r}: a chunk of {len(sizes)} dimensions at {len(origin)} of {len(shape)}")
            if 0 in sizes and 0 not in shape:
                continue  # a rank without a part of the tensor
            if chunk_shapes.setdefault(origin, sizes) != sizes:
                self.refuse(
                    f"tensor {name[:80]!r}: two chunks at {list(origin)}, {list(chunk_shapes[origin])} and {list(sizes)}"
                )
        return SavedTensor(name, shape, TORCH_DTYPES.get(dtype.name), dtype.path, chunk_shapes)

    def sizes(self, name: str, value: Any, what: str) -> tuple[int, ...]:
        """A tuple of whole numbers that are not negative."""
        if (
            not isinstance(value, tuple)
            or set(map(type, value)) - {int}
            or any(not 0 <= item <= MAX_ELEMENTS for item in value)
        ):
            self.refuse(f"tensor {name[:80]!r}: its {what} are no whole numbers of at least 0")
        return value

    def add_blobs(self, tensors: dict[str, SavedTensor], storage_data: Any) -> frozenset[str]:
        """Add the entries of `storage_data` to their tensors; returns the names of all files."""
        if not isinstance(storage_data, PickledDict):
            self.refuse("damaged: no storage_data in the metadata: where the chunks lie is not known")
        files: set[str] = set()
        for key, value in zip(storage_data.flat[::2], storage_data.flat[1::2], strict=True):
            index = self.fields(key, "MetadataIndex")
            file = self.fields(value, "_StorageInfo").get("relative_path")
            files |= {file} if isinstance(file, str) else set()
            name, origin = index.get("fqn"), index.get("offset")
            tensor = tensors.get(name) if isinstance(name, str) else None
            if tensor is None:
                continue
            if origin is None:
                origin = (0,) * len(tensor.shape)
            tensor.blobs[self.sizes(tensor.name, origin, "offset")] = self.blob(tensor.name, value)
        return frozenset(files)

    def blob(self, name: str, value: Any) -> Blob:
        """The place of one chunk."""
        fields = self.fields(value, "_StorageInfo")
        file, offset, length = (fields.get(key) for key in ("relative_path", "offset", "length"))
        transforms = fields.get("transform_descriptors")
        if transforms:
            how = transforms[0] if isinstance(transforms, list | tuple) and isinstance(transforms[0], str) else "a tool"
            self.refuse(f"tensor {name[:80]!r}: its chunks are transformed by {printable(how)[:80]}, and are not read")
        if not isinstance(file, str) or not _is_size(offset) or not _is_size(length):
            self.refuse(f"tensor {name[:80]!r}: where its chunk lies is not said")
        is_plain = file not in ("", ".", "..") and not any(mark in file for mark in "/\\\0")
        if not is_plain or len(file.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
            self.refuse(f"tensor {name[:80]!r}: its chunk is in {printable(file)!r}, no plain file name in this folder")
        return Blob(file, offset, length)


def _is_size(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= MAX_ELEMENTS


def _paths(planner_data: Any) -> dict[str, tuple[Any, ...]]:
    """The path of every name in the dict that was saved; only of names that are made of their path, as torch makes them."""
    paths: dict[str, tuple[Any, ...]] = {}
    budget = allowed(1_000_000)
    for name, path in (planner_data.by_text if isinstance(planner_data, PickledDict) else {}).items():
        if not isinstance(path, tuple) or not 0 < len(path) <= name.count(".") + 1:
            continue
        budget -= len(path)
        if budget < 0:
            break
        if set(map(type, path)) <= {str, int} and ".".join(map(str, path)) == name:
            paths[name] = path
    return paths
