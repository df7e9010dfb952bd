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
from layerhouse.ingest.checkpoint.containers.zip_members import (
    ENCRYPTED,
    FULL32,
    Entry,
    describe_gap,
    find_data,
    wide_values,
)
from layerhouse.ingest.checkpoint.limits import check_limit

MAX_DIRECTORY_BYTES = 128 * 1024 * 1024
MAX_MEMBERS = 200_000
MAX_GAPS = 8

END = struct.Struct("<4s4H2LH")
END64_LOCATOR = struct.Struct("<4sLQL")
END64 = struct.Struct("<4sQ2H2L4Q")
ENTRY = struct.Struct("<4s6H3L5H2L")
MAX_COMMENT = 0xFFFF
FULL16 = 0xFFFF


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


def read_members(file: BinaryIO, directory: Directory, display_path: str) -> tuple[dict[str, Member], list[str]]:
    """Every member by name, in order of the directory; and a line for each of the first MAX_GAPS runs of bytes that no member
    has, such as a member that the directory does not list.

    Raises InputError for duplicate names, encryption, overlapping members, and local headers and data descriptors that differ
    from the directory.
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
        if max(entry.header_offset, entry.stored_bytes) > directory.offset:
            where = f"{entry.stored_bytes} bytes behind byte {entry.header_offset}, its directory begins at {directory.offset}"
            raise InputError(display_path, f"damaged zip: member {name[:80]!r} is {where}")
        offset, end = find_data(file, entry, display_path)
        ranges.append((entry.header_offset, end, name))
        members[name] = Member(name, entry.method, entry.crc, entry.stored_bytes, entry.size_bytes, offset)
    ranges.sort()
    gaps: list[tuple[int, int]] = []
    at, previous = 0, ""
    for start, stop, name in [*ranges, (directory.offset, directory.offset, "")]:
        if start < at:
            raise InputError(display_path, f"ambiguous zip: member {previous[:80]!r} ends at {at}, the next begins at {start}")
        gaps += [(at, start)] * (start > at)
        at, previous = stop, name
    notes = [describe_gap(file, begin, end) for begin, end in gaps[:MAX_GAPS]]
    return members, notes + [f"and {len(gaps) - MAX_GAPS} more such places"] * (len(gaps) > MAX_GAPS)


def _entries(file: BinaryIO, directory: Directory, display_path: str) -> Iterator[Entry]:
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
        wide = wide_values(extra, (size_bytes, stored_bytes, fields[16]))
        if wide is None:
            raise InputError(
                display_path,
                f"damaged zip: the 64-bit sizes of member {name.decode('utf-8', 'backslashreplace')[:80]!r} are missing",
            )
        yield Entry(name, flags, method, crc, wide[1], wide[0], wide[2])
    if at != len(raw):
        raise InputError(display_path, f"damaged zip: {len(raw) - at} bytes after the last directory entry")
