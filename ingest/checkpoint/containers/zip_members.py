"""Check what stands before and behind a zip member's bytes: its local header, and the data descriptor where it has one.

Tools that read a zip from its begin see only these, others only the directory, so the two have to say the same (PKWARE's
APPNOTE 6.3.9, sections 4.3.7 and 4.3.9).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO, NoReturn

from layerhouse.errors import InputError

LOCAL = struct.Struct("<4s5H3L2H")
LOCAL_SIGNATURE, DESCRIPTOR_SIGNATURE = b"PK\x03\x04", b"PK\x07\x08"
DESCRIPTORS = (struct.Struct("<3L"), struct.Struct("<L2Q"))
"""Checksum and sizes behind a member, of 32 or 64 bits, with or without a signature before them."""
FULL32 = 0xFFFFFFFF
STORED, DEFLATED = 0, 8
ENCRYPTED, SIZES_FOLLOW = 0x1, 0x8


@dataclass(frozen=True)
class Entry:
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
        """The name as text."""
        return self.name.decode("utf-8", "backslashreplace")


def find_data(file: BinaryIO, entry: Entry, display_path: str) -> tuple[int, int]:
    """The byte at which a member's data begin, and the one behind the member. Raises InputError, which names the member, if its
    local header or its data descriptor differs from the directory.
    """

    def refuse(what: str, kind: str = "ambiguous") -> NoReturn:
        raise InputError(display_path, f"{kind} zip: {what}".replace("MEMBER", f"member {entry.text[:80]!r}"))

    file.seek(entry.header_offset)
    raw = file.read(LOCAL.size + len(entry.name))
    if len(raw) < LOCAL.size or not raw.startswith(LOCAL_SIGNATURE):
        refuse(f"no header of MEMBER at byte {entry.header_offset}", "damaged")
    _, _, flags, method, _, _, crc, stored_bytes, size_bytes, name_bytes, extra_bytes = LOCAL.unpack_from(raw)
    extra = file.read(extra_bytes)
    wide = wide_values(extra, (size_bytes, stored_bytes)) or (size_bytes, stored_bytes)
    deferred = (0,) if flags & SIZES_FOLLOW else ()
    for what, is_same in (
        ("name", name_bytes == len(entry.name) and raw[LOCAL.size :] == entry.name),
        ("flags", flags == entry.flags),
        ("method", method == entry.method),
        ("checksum", crc in (entry.crc, *deferred)),
        ("sizes", wide[1] in (entry.stored_bytes, *deferred) and wide[0] in (entry.size_bytes, *deferred)),
    ):
        if not is_same:
            refuse(f"the header of MEMBER disagrees with the directory on its {what}")
    if entry.method == STORED and entry.stored_bytes != entry.size_bytes:
        refuse("MEMBER is stored as it is, with two different sizes", "damaged")
    begin = entry.header_offset + LOCAL.size + len(entry.name) + int(extra_bytes)
    end = begin + entry.stored_bytes
    if not flags & SIZES_FOLLOW:
        return begin, end
    descriptor = _descriptor_bytes(file, entry, end)
    if descriptor is None:
        refuse("the data descriptor of MEMBER disagrees with the directory")
    return begin, end + descriptor


def _descriptor_bytes(file: BinaryIO, entry: Entry, at: int) -> int | None:
    """The bytes of the data descriptor at this byte; None if there is none that says what the directory says."""
    file.seek(at)
    raw = file.read(len(DESCRIPTOR_SIGNATURE) + DESCRIPTORS[-1].size)
    expected = (entry.crc, entry.stored_bytes, entry.size_bytes)
    for start in (len(DESCRIPTOR_SIGNATURE), 0) if raw.startswith(DESCRIPTOR_SIGNATURE) else (0,):
        for form in DESCRIPTORS:
            if len(raw) >= start + form.size and form.unpack_from(raw, start) == expected:
                return start + form.size
    return None


def wide_values(extra: bytes, values: tuple[int, ...]) -> tuple[int, ...] | None:
    """32-bit values, with those of 0xFFFFFFFF replaced from the 64-bit extra field; None if that lacks one."""
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
            return tuple(next(wide) if value == FULL32 else value for value in values)
        at += 4 + length
    return None


def describe_gap(file: BinaryIO, begin: int, end: int) -> str:
    """One line on bytes of a zip that belong to no member of its directory."""
    file.seek(begin)
    raw = file.read(LOCAL.size)
    if len(raw) == LOCAL.size and raw.startswith(LOCAL_SIGNATURE):
        name = file.read(min(LOCAL.unpack(raw)[9], 80)).decode("utf-8", "backslashreplace")
        return f"not in the zip's directory, so not read: member {name!r} at byte {begin}"
    return f"not in the zip's directory, so not read: {end - begin} bytes at byte {begin}"
