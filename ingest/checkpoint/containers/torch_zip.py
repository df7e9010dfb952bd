"""Read a file of torch.save since 1.6: a zip of one folder, with data.pkl and one uncompressed member for each storage.

The layout is that of torch/serialization.py (_save): FOLDER/data.pkl, FOLDER/data/KEY, FOLDER/byteorder, FOLDER/version. The
pickle is not executed (see checkpoint.pickle), and what it claims of a storage is checked against the bytes of the member.
"""

from __future__ import annotations

import zlib
from collections.abc import Container, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.containers.torch_storages import Block, PickledFile, Storages
from layerhouse.ingest.checkpoint.containers.zip_directory import Member, find_directory, read_members
from layerhouse.ingest.checkpoint.containers.zip_members import DEFLATED, STORED
from layerhouse.ingest.checkpoint.limits import allowed, exceeded
from layerhouse.ingest.checkpoint.pickle.find_model import printable
from layerhouse.ingest.checkpoint.pickle.load import Unpickled, load_pickle
from layerhouse.ingest.checkpoint.pickle.machine import PickleLimits, default_limits
from layerhouse.ingest.checkpoint.regular_file import open_regular_file
from layerhouse.ingest.checkpoint.tensor_ref import Contents

TORCH_MEMBERS = ("data.pkl", "byteorder", "version", ".format_version", ".storage_alignment", ".data/serialization_id")
"""What torch writes beside the storages."""
MAX_NAMED = 5
MAX_RATIO = 200
"""Limit on the compression ratio of data.pkl, which is 10 to 20 in a real model."""


@dataclass(frozen=True)
class TorchZip:
    """What torch.save wrote into one zip: the members, the folder that they are in, the value of the pickle, and notes."""

    members: dict[str, Member]
    folder: str
    unpickled: Unpickled
    notes: tuple[str, ...]

    def find(self, key: str) -> Block | str:
        """Where a storage lies in the zip, or why its bytes have no place there."""
        member = self.members.get(f"{self.folder}/data/{key}")
        if member is None:
            return f"its storage {printable(key)!r} is not in the file"
        if member.method != STORED:
            return f"compressed member {printable(member.name)!r}: its bytes have no place in the file"
        return Block(member.offset, member.size_bytes)


def read_torch_zip(path: Path, display_path: str, *, limits: PickleLimits | None = None) -> Contents:
    """The tensors of the model in the file, a dict of tensors or a whole pickled module (see pickle.find_model).

    Views keep their offset and strides. A view that its strides make larger than its storage (torch's expand) is read up to
    16 MiB, as masks and position ids are, and a file's tensors up to about four times its size (see torch_storages). Raises
    InputError of one line that names the tensor at fault.
    """
    return open_torch_zip(path, display_path, limits=limits).contents()


def open_torch_zip(path: Path, display_path: str, *, limits: PickleLimits | None = None) -> PickledFile:
    """The value of the file's pickle, and its storages. Raises InputError of one line."""
    with open_regular_file(path, display_path) as (file, size):
        archive = read_archive(file, size, display_path, limits=limits)
    return PickledFile("torch zip", archive.unpickled, Storages(path, display_path, archive.find), size, archive.notes)


def read_archive(file: BinaryIO, size: int, display_path: str, *, limits: PickleLimits | None = None) -> TorchZip:
    """The members and the pickle of a zip of `size` bytes, which the file begins with. Raises InputError of one line."""
    limits = limits or default_limits()
    directory = find_directory(file, size, display_path)
    if directory is None:
        raise InputError(display_path, f"cut off: a zip file of {size} bytes without an end record")
    members, notes = read_members(file, directory, display_path)
    folder = _folder(members, display_path)
    _check_byte_order(file, members.get(f"{folder}/byteorder"), display_path)
    raw, pickle_notes = _read_pickle(file, members[f"{folder}/data.pkl"], limits, display_path)
    unpickled = load_pickle(raw, display_path, limits=limits)
    if unpickled.end != len(raw):
        raise InputError(display_path, f"pickle: {len(raw) - unpickled.end} bytes after its end, at byte {unpickled.end}")
    notes += [*pickle_notes, *_unused(members, folder, unpickled.storages)]
    return TorchZip(members, folder, unpickled, tuple(notes))


def _folder(members: dict[str, Member], display_path: str) -> str:
    """The one folder that all members are in."""
    folders = {name.partition("/")[0] for name in members}
    pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise InputError(display_path, f"{len(pickles)} members named FOLDER/data.pkl in the zip file, expected one")
    folder = pickles[0].partition("/")[0]
    others = sorted(folders - {folder})
    if others:
        raise InputError(
            display_path, f"ambiguous zip: {printable(others[0])!r} beside the folder {printable(folder)!r} of data.pkl"
        )
    return folder


def _unused(members: Iterable[str], folder: str, storages: Container[str]) -> list[str]:
    """One line on the members that neither torch writes beside the pickle nor the pickle refers to."""
    prefix = f"{folder}/data/"
    known = {f"{folder}/{name}" for name in TORCH_MEMBERS}
    unused = [
        name
        for name in members
        if name not in known and not (name.startswith(prefix) and name.removeprefix(prefix) in storages)
    ]
    if not unused:
        return []
    more = f" and {len(unused) - MAX_NAMED} more" if len(unused) > MAX_NAMED else ""
    return [f"not read, as nothing refers to it: {', '.join(repr(name[:80]) for name in unused[:MAX_NAMED])}{more}"]


def _read_bytes(file: BinaryIO, member: Member, display_path: str) -> bytes:
    file.seek(member.offset)
    raw = file.read(member.stored_bytes)
    if len(raw) < member.stored_bytes:
        raise InputError(display_path, f"cut off: member {member.name!r} is {member.stored_bytes} bytes, found {len(raw)}")
    return raw


def _check_byte_order(file: BinaryIO, member: Member | None, display_path: str) -> None:
    if member is None:
        return
    if member.stored_bytes > 16 or member.method != STORED:
        raise InputError(display_path, f"member {member.name!r} names no byte order")
    order = _read_bytes(file, member, display_path)
    if order != b"little":
        raise InputError(display_path, f"byte order {order!r}: only little-endian files are read")


def _read_pickle(file: BinaryIO, member: Member, limits: PickleLimits, display_path: str) -> tuple[bytes, list[str]]:
    """The pickle, decompressed within the limits, and notes. A checksum of zero is only noted if it is wrong: torch writes it
    where it was told to omit checksums."""
    if member.size_bytes > limits.bytes:
        raise InputError(display_path, exceeded(f"data.pkl of {member.size_bytes} bytes", limits.bytes))
    if member.size_bytes > allowed(MAX_RATIO) * max(member.stored_bytes, 1024):
        raise InputError(
            display_path,
            exceeded("times its size that data.pkl unpacks to", allowed(MAX_RATIO)),
        )
    if member.method not in (STORED, DEFLATED):
        raise InputError(display_path, f"compressed member {member.name!r}: zip method {member.method} is not read")
    raw = _read_bytes(file, member, display_path)
    if member.method == DEFLATED:
        decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            raw = decompressor.decompress(raw, member.size_bytes + 1)
        except zlib.error as error:
            raise InputError(display_path, f"damaged zip: data.pkl does not unpack ({error})") from error
        if not decompressor.eof or len(raw) != member.size_bytes:
            raise InputError(display_path, f"damaged zip: data.pkl does not unpack to the {member.size_bytes} bytes promised")
    if zlib.crc32(raw) == member.crc:
        return raw, []
    if member.crc:
        raise InputError(display_path, "damaged zip: the checksum of data.pkl does not fit its bytes; fetch it again")
    return raw, ["the zip has no checksum of data.pkl"]
