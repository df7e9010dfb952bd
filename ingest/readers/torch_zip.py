"""Read a file of torch.save since 1.6: a zip of one folder that holds data.pkl and, uncompressed, one member a storage.

The layout is torch/serialization.py's (_save): FOLDER/data.pkl, FOLDER/data/KEY, FOLDER/byteorder, FOLDER/version. The pickle
is read by our own machine; what it claims of a storage is checked against the bytes that are there.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

from layerhouse.ingest.dtypes import byte_count
from layerhouse.ingest.readers.pickle_machine import DEFAULT_LIMITS, PickleLimits
from layerhouse.ingest.readers.pickled_models import NamedTensor, find_model, printable
from layerhouse.ingest.readers.pickles import load_pickle
from layerhouse.ingest.readers.shapes import MAX_DIMENSIONS, MAX_ELEMENTS, count_elements, kept_strides, reach
from layerhouse.ingest.readers.sniff import opened
from layerhouse.ingest.readers.zip_members import DEFLATED, STORED, Member, find_directory, read_members
from layerhouse.ingest.tensors import Contents, TensorRef
from layerhouse.warehouse.errors import InputError

MAX_RATIO = 200
"""How many times its stored size data.pkl may be; that of a real model is 10 to 20."""
MAX_EXPANDED_BYTES = 16 * 1024 * 1024
MAX_TOTAL_FACTOR = 4


def read_torch_zip(path: Path, shown: str, *, limits: PickleLimits = DEFAULT_LIMITS) -> Contents:
    """The tensors of the model in the file: of a dict of tensors, or of a whole pickled module (see pickled_models).

    Views keep their offset and strides. A view whose strides make it larger than its storage (torch's expand) is taken up to
    16 MiB, as masks and position ids are; a larger one is refused, and so is a file whose tensors claim over four times its
    size. Raises InputError of one line that names the tensor at fault.
    """
    with opened(path, shown) as (file, size):
        directory = find_directory(file, size, shown)
        if directory is None:
            raise InputError(shown, f"cut off: a zip file of {size} bytes without an end record")
        members = read_members(file, directory, shown)
        folder = _folder(members, shown)
        _check_byte_order(file, members.get(f"{folder}/byteorder"), shown)
        raw, notes = _read_pickle(file, members[f"{folder}/data.pkl"], limits, shown)
    unpickled = load_pickle(raw, shown, limits=limits)
    if unpickled.end != len(raw):
        raise InputError(shown, f"pickle: {len(raw) - unpickled.end} bytes after its end, at byte {unpickled.end}")
    model = find_model(unpickled, shown)
    storages = _Storages(members, f"{folder}/data/", path, shown)
    tensors = tuple(storages.reference(named) for named in model.tensors)
    _check_total(tensors, size, shown)
    container = "torch zip" if model.class_path is None else "torch zip, pickled whole model"
    return Contents(container, tensors, class_path=model.class_path, config=model.config, skipped=(*notes, *model.skipped))


def _folder(members: dict[str, Member], shown: str) -> str:
    """The one folder that everything is in."""
    folders = {name.partition("/")[0] for name in members}
    pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise InputError(shown, f"{len(pickles)} members named FOLDER/data.pkl in the zip file, expected one")
    folder = pickles[0].partition("/")[0]
    strangers = sorted(folders - {folder})
    if strangers:
        raise InputError(
            shown, f"ambiguous zip: {printable(strangers[0])!r} beside the folder {printable(folder)!r} of data.pkl"
        )
    return folder


def _read_bytes(file: BinaryIO, member: Member, shown: str) -> bytes:
    file.seek(member.offset)
    raw = file.read(member.stored_bytes)
    if len(raw) < member.stored_bytes:
        raise InputError(shown, f"cut off: member {member.name!r} is {member.stored_bytes} bytes, found {len(raw)}")
    return raw


def _check_byte_order(file: BinaryIO, member: Member | None, shown: str) -> None:
    if member is None:
        return
    if member.stored_bytes > 16 or member.method != STORED:
        raise InputError(shown, f"member {member.name!r} names no byte order")
    order = _read_bytes(file, member, shown)
    if order != b"little":
        raise InputError(shown, f"byte order {order!r}: only little-endian files are read")


def _read_pickle(file: BinaryIO, member: Member, limits: PickleLimits, shown: str) -> tuple[bytes, list[str]]:
    """The pickle, unpacked within the limits. A wrong checksum is only noted: torch can be told not to compute any."""
    if member.size_bytes > limits.bytes:
        raise InputError(shown, f"limit exceeded: data.pkl of {member.size_bytes} bytes, over {limits.bytes}")
    if member.size_bytes > MAX_RATIO * max(member.stored_bytes, 1024):
        raise InputError(shown, f"limit exceeded: data.pkl unpacks to over {MAX_RATIO} times its size")
    if member.method not in (STORED, DEFLATED):
        raise InputError(shown, f"compressed member {member.name!r}: zip method {member.method} is not read")
    raw = _read_bytes(file, member, shown)
    if member.method == DEFLATED:
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            raw = unpacker.decompress(raw, member.size_bytes + 1)
        except zlib.error as error:
            raise InputError(shown, f"damaged zip: data.pkl does not unpack ({error})") from error
        if not unpacker.eof or len(raw) != member.size_bytes:
            raise InputError(shown, f"damaged zip: data.pkl does not unpack to the {member.size_bytes} bytes promised")
    wrong = zlib.crc32(raw) != member.crc
    return raw, ["the zip checksum of data.pkl does not fit its bytes"] if wrong else []


@dataclass(frozen=True)
class _Storages:
    """The storages of a file, against which tensors are checked."""

    members: dict[str, Member]
    prefix: str
    path: Path
    shown: str

    def reference(self, named: NamedTensor) -> TensorRef:
        """The tensor as a reference into the file, if every claim of the pickle about it can be true."""
        name, tensor = named.name, named.tensor
        if tensor.dtype is None:
            self.refuse(name, f"unknown dtype {printable(tensor.dtype_name)}")
        member = self.storage(named)
        if len(tensor.shape) != len(tensor.strides):
            self.refuse(name, f"{len(tensor.shape)} dimensions with {len(tensor.strides)} strides")
        for what, values in (("size", tensor.shape), ("stride", tensor.strides), ("offset", (tensor.storage_offset,))):
            if any(value < 0 for value in values):
                self.refuse(name, f"negative {what}")
            if any(value > MAX_ELEMENTS for value in values):
                self.refuse(name, f"{what} over {MAX_ELEMENTS}")
        elements = count_elements(tensor.shape)
        if elements is None:
            self.refuse(name, f"limit exceeded: more than {MAX_DIMENSIONS} dimensions or {MAX_ELEMENTS} elements")
        end = tensor.storage_offset + reach(tensor.shape, tensor.strides)
        if byte_count(tensor.dtype, end) > member.size_bytes:
            self.refuse(name, f"needs {byte_count(tensor.dtype, end)} bytes of a storage of {member.size_bytes}")
        logical_bytes = byte_count(tensor.dtype, elements)
        if logical_bytes > max(member.size_bytes, MAX_EXPANDED_BYTES):
            self.refuse(name, f"overlapping view: {logical_bytes} bytes out of a storage of {member.size_bytes}")
        return TensorRef(
            name,
            tensor.dtype,
            tensor.shape,
            self.path,
            member.offset,
            member.size_bytes,
            tensor.storage_offset,
            kept_strides(tensor.shape, tensor.strides),
            named.is_buffer,
        )

    def storage(self, named: NamedTensor) -> Member:
        """The member that holds the storage, as large as the pickle says at least."""
        storage = named.tensor.storage
        member = self.members.get(self.prefix + storage.key)
        if member is None:
            self.refuse(named.name, f"its storage {printable(storage.key)!r} is not in the file")
        if member.method != STORED:
            self.refuse(named.name, f"compressed member {printable(member.name)!r}: its bytes have no place in the file")
        if storage.dtype is None:
            self.refuse(named.name, f"unknown storage {printable(storage.class_path)}")
        claimed = byte_count(storage.dtype, storage.elements) if 0 <= storage.elements <= MAX_ELEMENTS else -1
        if not 0 <= claimed <= member.size_bytes:
            claim = printable(str(storage.elements))
            self.refuse(named.name, f"its storage claims {claim} elements, the member holds {member.size_bytes} bytes")
        return member

    def refuse(self, name: str, what: str) -> NoReturn:
        raise InputError(self.shown, f"tensor {name[:80]!r}: {what}")


def _check_total(tensors: tuple[TensorRef, ...], size: int, shown: str) -> None:
    """Overlapping views, each within its limit, must not add up to work without end; a tied tensor counts once."""
    total = sum({tensor.place: tensor.logical_bytes for tensor in tensors}.values())
    limit = MAX_TOTAL_FACTOR * size + MAX_TOTAL_FACTOR * MAX_EXPANDED_BYTES
    if total > limit:
        raise InputError(shown, f"limit exceeded: tensors of {total} bytes in a file of {size} bytes, overlapping views")
