"""Read a zip file's directory strictly, so that every tool that opens the file sees the same members at the same bytes.

The layout is that of PKWARE's APPNOTE 6.3.9, sections 4.3.7, 4.3.12 and 4.3.14 to 4.3.16. The standard library's zipfile is
lenient: it searches for an end record, corrects offsets for a prefix, and takes the last of two members with one name. A
checkpoint that needs any of this can show different weights to different readers, so it is refused here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.limits import check_limit

MAX_DIRECTORY_BYTES = 128 * 1024 * 1024
MAX_MEMBERS = 500_000
STORED, DEFLATED = 0, 8

END = struct.Struct("<4s4H2LH")
END64_LOCATOR = struct.Struct("<4sLQL")
END64 = struct.Struct("<4sQ2H2L4Q")
ENTRY = struct.Struct("<4s6H3L5H2L")
LOCAL = struct.Struct("<4s5H3L2H")
MAX_COMMENT = 0xFFFF
FULL16, FULL32 = 0xFFFF, 0xFFFFFFFF
ENCRYPTED, SIZES_FOLLOW = 0x1, 0x8


@dataclass(frozen=True)
class Directory:
    """Where the central directory lies in the file, in bytes, and how many members it has."""

    offset: int
    bytes: int
    members: int


@dataclass(frozen=True)
class Member:
    """One member: `stored_bytes` bytes from `offset` on, which decompress to `size_bytes`."""

    name: str
    method: int
    crc: int
    stored_bytes: int
    size_bytes: int
    offset: int


@dataclass(frozen=True)
class _Entry:
    """An entry of the central directory, with 64-bit sizes."""

    name: bytes
    flags: int
    method: int
    crc: int
    stored_bytes: int
    size_bytes: int
    header_offset: int

    @property
    def text(self) -> str:
        return self.name.decode("utf-8", "backslashreplace")


def find_directory(file: BinaryIO, size: int, display_path: str) -> Directory | None:
    """Find the central directory by the end record; None if there is none, as in a file that was cut off."""
    tail_start = max(0, size - END.size - MAX_COMMENT)
    file.seek(tail_start)
    tail = file.read(size - tail_start)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + END.size > len(tail):
        return None
    if at + END.size != len(tail):
        raise InputError(display_path, f"ambiguous zip: {len(tail) - at - END.size} bytes after its end record")
    end_offset = tail_start + at
    _, disk, first_disk, here, members, size_bytes, offset, _ = END.unpack_from(tail, at)
    fields = (disk, first_disk, here, members, size_bytes, offset)
    stop = end_offset
    if at >= END64_LOCATOR.size and tail[at - END64_LOCATOR.size :].startswith(b"PK\x06\x07"):
        _, _, stop, _ = END64_LOCATOR.unpack_from(tail, at - END64_LOCATOR.size)
        fields = _read_end64(file, end_offset - END64_LOCATOR.size, stop, fields, display_path)
    disk, first_disk, here, members, size_bytes, offset = fields
    if disk or first_disk or here != members:
        raise InputError(display_path, "a zip file in several parts is not read")
    if offset + size_bytes != stop:
        raise InputError(
            display_path, f"ambiguous zip: its directory is {size_bytes} bytes at {offset}, its end record at {stop}"
        )
    check_limit(display_path, "bytes of a zip directory", size_bytes, MAX_DIRECTORY_BYTES)
    check_limit(display_path, "zip members", members, MAX_MEMBERS)
    return Directory(offset, size_bytes, members)


def _read_end64(
    file: BinaryIO, locator_offset: int, offset: int, short: tuple[int, ...], display_path: str
) -> tuple[int, int, int, int, int, int]:
    """The fields of the 64-bit end record. Raises InputError if they disagree with those of the 16- and 32-bit record."""
    file.seek(min(offset, locator_offset))
    record = file.read(END64.size)
    if len(record) < END64.size or not record.startswith(b"PK\x06\x06") or offset + END64.size != locator_offset:
        raise InputError(display_path, "ambiguous zip: its 64-bit end record is not where it should be")
    _, _, _, _, disk, first_disk, here, members, size_bytes, directory_offset = END64.unpack(record)
    fields = (disk, first_disk, here, members, size_bytes, directory_offset)
    full = (FULL16, FULL16, FULL16, FULL16, FULL32, FULL32)
    if any(value not in (wide, mark) for value, wide, mark in zip(short, fields, full, strict=True)):
        raise InputError(display_path, "ambiguous zip: its two end records disagree")
    return fields


def read_names(file: BinaryIO, directory: Directory, display_path: str) -> list[str]:
    """The names of all members, as the directory lists them."""
    return [entry.text for entry in _entries(file, directory, display_path)]


def read_members(file: BinaryIO, directory: Directory, display_path: str) -> dict[str, Member]:
    """Every member by name, in order of the directory.

    Raises InputError for duplicate names, encryption, overlapping members, and local headers that differ from the directory.
    """
    members: dict[str, Member] = {}
    ranges: list[tuple[int, int, str]] = []
    for entry in _entries(file, directory, display_path):
        name = entry.text
        if name in members:
            raise InputError(display_path, f"ambiguous zip: two members are named {name[:80]!r}")
        if "\0" in name:
            raise InputError(display_path, f"ambiguous zip: the name {name[:80]!r} ends early for other tools")
        if entry.flags & ENCRYPTED:
            raise InputError(display_path, f"encrypted zip member {name[:80]!r}")
        offset = _data_offset(file, entry, display_path)
        ranges.append((entry.header_offset, offset + entry.stored_bytes, name))
        members[name] = Member(name, entry.method, entry.crc, entry.stored_bytes, entry.size_bytes, offset)
    ranges.sort()
    starts = [start for start, _, _ in ranges[1:]] + [directory.offset]
    for (_, stop, name), following in zip(ranges, starts, strict=False):
        if stop > following:
            raise InputError(
                display_path, f"ambiguous zip: member {name[:80]!r} ends at {stop}, the next begins at {following}"
            )
    return members


def _entries(file: BinaryIO, directory: Directory, display_path: str) -> Iterator[_Entry]:
    file.seek(directory.offset)
    raw = file.read(directory.bytes)
    at = 0
    for _ in range(directory.members):
        if at + ENTRY.size > len(raw) or not raw.startswith(b"PK\x01\x02", at):
            raise InputError(display_path, f"damaged zip: no directory entry at byte {directory.offset + at}")
        fields = ENTRY.unpack_from(raw, at)
        flags, method, crc, stored_bytes, size_bytes, name_bytes, extra_bytes, comment_bytes = fields[3:5] + fields[7:13]
        name_end = at + ENTRY.size + name_bytes
        extra = raw[name_end : name_end + extra_bytes]
        name = raw[at + ENTRY.size : name_end]
        at = name_end + extra_bytes + comment_bytes
        if at > len(raw):
            raise InputError(display_path, f"damaged zip: its directory is cut off at byte {directory.offset + len(raw)}")
        wide = _wide_sizes(extra, (size_bytes, stored_bytes, fields[16]))
        if wide is None:
            raise InputError(
                display_path,
                f"damaged zip: the 64-bit sizes of member {name.decode('utf-8', 'backslashreplace')[:80]!r} are missing",
            )
        yield _Entry(name, flags, method, crc, wide[1], wide[0], wide[2])
    if at != len(raw):
        raise InputError(display_path, f"damaged zip: {len(raw) - at} bytes after the last directory entry")


def _wide_sizes(extra: bytes, values: tuple[int, int, int]) -> tuple[int, int, int] | None:
    """The 32-bit sizes, with those of value 0xFFFFFFFF replaced from the 64-bit extra field; None if that lacks one."""
    if FULL32 not in values:
        return values
    at = 0
    while at + 4 <= len(extra):
        field, length = struct.unpack_from("<2H", extra, at)
        if field == 1:
            num_wide = sum(value == FULL32 for value in values)
            if length < 8 * num_wide or at + 4 + length > len(extra):
                return None
            wide = iter(struct.unpack_from(f"<{num_wide}Q", extra, at + 4))
            first, second, third = (next(wide) if value == FULL32 else value for value in values)
            return first, second, third
        at += 4 + length
    return None


def _data_offset(file: BinaryIO, entry: _Entry, display_path: str) -> int:
    """The byte at which a member's data begin. Raises InputError if its local header differs from the directory."""
    file.seek(entry.header_offset)
    raw = file.read(LOCAL.size + len(entry.name))
    if len(raw) < LOCAL.size or not raw.startswith(b"PK\x03\x04"):
        raise InputError(display_path, f"damaged zip: no header of member {entry.text[:80]!r} at byte {entry.header_offset}")
    _, _, flags, method, _, _, _, stored_bytes, size_bytes, name_bytes, extra_bytes = LOCAL.unpack_from(raw)
    deferred = 0 if flags & SIZES_FOLLOW else FULL32
    same_sizes = stored_bytes in (entry.stored_bytes, FULL32, deferred) and size_bytes in (entry.size_bytes, FULL32, deferred)
    same_name = name_bytes == len(entry.name) and raw[LOCAL.size :] == entry.name
    if not same_name or not same_sizes or method != entry.method or flags & ENCRYPTED:
        raise InputError(display_path, f"ambiguous zip: the header of member {entry.text[:80]!r} disagrees with the directory")
    if entry.method == STORED and entry.stored_bytes != entry.size_bytes:
        raise InputError(display_path, f"damaged zip: member {entry.text[:80]!r} is stored as it is, with two different sizes")
    return entry.header_offset + LOCAL.size + len(entry.name) + int(extra_bytes)
