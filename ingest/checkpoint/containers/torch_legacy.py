"""Read a file of torch.save before 1.6, or with _use_new_zipfile_serialization=False: pickles, then the storages.

The layout is that of torch/serialization.py (_legacy_save, _legacy_load). Five pickles: the magic number, the protocol version,
a dict that describes the machine, the object, and the list of storage keys. Then, for every key of the list, the number of
elements (int64) and the bytes, little-endian on every machine. The offset of a storage follows from the sizes of all before it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.containers.kinds import LEGACY_MAGIC
from layerhouse.ingest.checkpoint.containers.torch_storages import Block, PickledFile, Storages
from layerhouse.ingest.checkpoint.dtypes import TORCH_STORAGES, byte_count
from layerhouse.ingest.checkpoint.limits import exceeded
from layerhouse.ingest.checkpoint.pickle.find_model import printable
from layerhouse.ingest.checkpoint.pickle.load import Unpickled, load_pickle
from layerhouse.ingest.checkpoint.pickle.machine import CutOffError, PickleLimits, default_limits
from layerhouse.ingest.checkpoint.pickle.values import PickledDict, StorageStub
from layerhouse.ingest.checkpoint.regular_file import check_file_size, open_regular_file
from layerhouse.ingest.checkpoint.shapes import MAX_ELEMENTS
from layerhouse.ingest.checkpoint.tensor_ref import Contents

PROTOCOL_VERSION = 1001
FIRST_WINDOW = 1 << 20
"""Bytes that are read first for the pickles; eight times as many each time the pickles are longer."""

COUNT_BYTES = 8

OPAQUE_STORAGES = {"QInt8Storage": 1, "QUInt8Storage": 1, "QInt32Storage": 4, "QUInt4x2Storage": 1, "QUInt2x4Storage": 1}
OPAQUE_STORAGES |= {"ComplexDoubleStorage": 16, "TypedStorage": 1}
"""Element sizes in bytes of storages whose values are not read, since the offsets of the next storages depend on them."""


def read_torch_legacy(path: Path, display_path: str, *, limits: PickleLimits | None = None) -> Contents:
    """The tensors of the model in the file, by the rules of read_torch_zip. Raises InputError of one line."""
    return open_torch_legacy(path, display_path, limits=limits).contents()


def open_torch_legacy(path: Path, display_path: str, *, limits: PickleLimits | None = None) -> PickledFile:
    """The value of the file's pickle, and its storages. Raises InputError of one line."""
    with open_regular_file(path, display_path) as (file, size):
        unpickled, keys, start = _read_pickles(file, size, limits or default_limits(), display_path)
        blocks = _find_blocks(file, size, start, keys, unpickled.storages, display_path)

    def find(key: str) -> Block | str:
        return blocks.get(key, f"its storage {printable(key)!r} is not in the file")

    return PickledFile("torch legacy", unpickled, Storages(path, display_path, find), size)


def _read_pickles(file: BinaryIO, size: int, limits: PickleLimits, display_path: str) -> tuple[Unpickled, list[str], int]:
    """The object, the keys of the storages in file order, and the byte at which the storages begin."""
    window = FIRST_WINDOW
    while True:
        file.seek(0)
        data = file.read(min(window, size, limits.bytes))
        try:
            return _load_pickles(data, limits, display_path)
        except CutOffError as error:
            if len(data) == size:
                raise InputError(display_path, f"{error.what}; the file has {size} bytes, fetch it again") from error
            if len(data) == limits.bytes:
                raise InputError(display_path, exceeded("bytes of pickles", limits.bytes)) from error
        window *= 8


def _load_pickles(data: bytes, limits: PickleLimits, display_path: str) -> tuple[Unpickled, list[str], int]:
    magic = load_pickle(data, display_path, limits=limits)
    if magic.value != LEGACY_MAGIC:
        raise InputError(display_path, "a pickle without torch's magic number")
    version = load_pickle(data, display_path, start=magic.end, limits=limits)
    if version.value != PROTOCOL_VERSION or isinstance(version.value, bool):
        number = printable(str(version.value)) if isinstance(version.value, int) else type(version.value).__name__
        raise InputError(display_path, f"torch's old format of version {number}: only {PROTOCOL_VERSION} is read")
    machine = load_pickle(data, display_path, start=version.end, limits=limits)
    if not isinstance(machine.value, PickledDict):
        raise InputError(display_path, "damaged: no description of the machine after the version")
    if machine.value.by_text.get("little_endian") is False:
        raise InputError(display_path, "written on a big-endian machine: only little-endian files are read")
    unpickled = load_pickle(data, display_path, start=machine.end, limits=limits)
    keys = load_pickle(data, display_path, start=unpickled.end, limits=limits)
    return unpickled, _checked_keys(keys.value, display_path), keys.end


def _checked_keys(value: Any, display_path: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(key, str) for key in value):
        raise InputError(display_path, "damaged: no list of storage keys after the object")
    if len(set(value)) != len(value):
        raise InputError(display_path, "damaged: the list of storage keys names one twice")
    return value


def _find_blocks(
    file: BinaryIO, size: int, start: int, keys: list[str], storages: dict[str, StorageStub], display_path: str
) -> dict[str, Block]:
    """Where each storage lies. Raises InputError if a count is not the pickle's, or if the storages do not fill the file."""
    expected = start + sum(COUNT_BYTES + _claimed_bytes(key, storages.get(key), display_path) for key in keys)
    check_file_size(display_path, size, expected)
    blocks: dict[str, Block] = {}
    position = start
    for key in keys:
        file.seek(position)
        count = int.from_bytes(file.read(COUNT_BYTES), "little", signed=True)
        if count != storages[key].elements:
            claimed = storages[key].elements
            raise InputError(display_path, f"storage {printable(key)!r} has {count} elements, the pickle claims {claimed}")
        block = blocks[key] = Block(position + COUNT_BYTES, _claimed_bytes(key, storages[key], display_path))
        position = block.offset + block.size_bytes
    return blocks


def _claimed_bytes(key: str, storage: StorageStub | None, display_path: str) -> int:
    """Bytes of a storage, by its type and number of elements in the pickle."""

    def refuse(what: str) -> NoReturn:
        raise InputError(display_path, f"storage {printable(key)!r} {what}")

    if storage is None:
        refuse("is listed, and the pickle says nothing of its type: the ones behind it are not found")
    name = storage.class_path.rpartition(".")[2]
    if not 0 <= storage.elements <= MAX_ELEMENTS:
        refuse(f"claims {printable(str(storage.elements))} elements")
    if name in TORCH_STORAGES:
        return byte_count(TORCH_STORAGES[name], storage.elements)
    if name not in OPAQUE_STORAGES:
        refuse(f"of unknown type {printable(storage.class_path)}: the ones behind it are not found")
    return OPAQUE_STORAGES[name] * storage.elements
