"""Tell what a weight file is from its first bytes and its size; a suffix proves nothing."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from layerhouse.ingest.readers.zip_members import find_directory, read_names
from layerhouse.warehouse.errors import InputError

HEAD_BYTES = 1024
LEGACY_TORCH = bytes.fromhex("80028a0a6cfc9c46f9206aa85019")
"""Protocol 2 and torch's magic number as a LONG1: how torch before 1.6 began every file."""
LFS_POINTER = re.compile(rb"version https://git-lfs\.github\.com/spec/.*?\nsize (\d{1,19})\n", re.DOTALL)
TAR_MAGIC = slice(257, 262)
TORCH_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")


class Kind(StrEnum):
    """What a file's bytes are."""

    SAFETENSORS = "safetensors"
    TORCH_ZIP = "torch zip"
    TORCH_LEGACY = "torch's old (non-zip) format"
    TORCHSCRIPT = "a TorchScript archive"
    PICKLE = "a plain pickle"
    TAR = "a tar archive"
    OTHER_ZIP = "a zip file without a folder that holds data.pkl"
    TRUNCATED_ZIP = "a truncated zip file"
    GGUF = "GGUF"
    LFS_POINTER = "a Git LFS pointer"
    HTML = "an HTML page"
    XML = "an XML page"
    JSON = "JSON text"
    GZIP = "a gzip file"
    HDF5 = "an HDF5 file"
    EMPTY = "an empty file"
    ZEROS = "a file that begins with zero bytes only"
    UNKNOWN = "a file of an unknown kind"


# Kinds that hold weights, or might, in a form that no reader here takes.
NOT_READ = (Kind.TORCH_LEGACY, Kind.TORCHSCRIPT, Kind.PICKLE, Kind.TAR, Kind.GZIP, Kind.HDF5)
# Kinds that a download leaves in place of the weights.
NOT_FETCHED = (Kind.TRUNCATED_ZIP, Kind.HTML, Kind.XML, Kind.EMPTY, Kind.ZEROS)


@dataclass(frozen=True)
class Sniffed:
    """What a file is; `diagnosis` is one line for the case that it cannot be read."""

    kind: Kind
    diagnosis: str


@contextmanager
def opened(path: Path, shown: str) -> Iterator[tuple[BinaryIO, int]]:
    """A regular file open for reading, and its size in bytes; whatever the system refuses is an InputError."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise InputError(shown, "no such file") from error
    except OSError as error:
        raise InputError(shown, f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(shown, f"is no path: {error}") from error
    if not stat.S_ISREG(mode):
        raise InputError(shown, "is not a regular file")
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            yield file, size
    except OSError as error:
        raise InputError(shown, f"cannot be read: {error.strerror}") from error


def expected_kind(path: Path) -> str:
    """What the suffix promises."""
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return "a safetensors file"
    return "a torch zip file" if suffix in TORCH_SUFFIXES else "a weight file"


def sniff(path: Path, shown: str) -> Sniffed:
    """Say what the file is. Raises InputError only if it cannot be read, or is a zip whose end record contradicts itself."""
    with opened(path, shown) as (file, size):
        head = file.read(HEAD_BYTES)
        kind = _sniff_zip(file, size, shown) if head.startswith(b"PK\x03\x04") else _sniff_head(head)
    return Sniffed(kind, _diagnosis(kind, head, size, expected_kind(path)))


def _sniff_zip(file: BinaryIO, size: int, shown: str) -> Kind:
    directory = find_directory(file, size, shown)
    if directory is None:
        return Kind.TRUNCATED_ZIP
    parts = [name.split("/")[1:] for name in read_names(file, directory, shown)]
    if any(part == ["constants.pkl"] or part[:1] == ["code"] for part in parts):
        return Kind.TORCHSCRIPT
    return Kind.TORCH_ZIP if ["data.pkl"] in parts else Kind.OTHER_ZIP


def _sniff_head(head: bytes) -> Kind:
    # A safetensors header is at most 100 MB, so that the high half of its length is zero.
    signs = (
        (not head, Kind.EMPTY),
        (head[4:8] == b"\0\0\0\0" and head[8:9] == b"{", Kind.SAFETENSORS),
        (head.startswith(LEGACY_TORCH), Kind.TORCH_LEGACY),
        (head[TAR_MAGIC] == b"ustar", Kind.TAR),
        (head.startswith(b"GGUF"), Kind.GGUF),
        (head.startswith(b"\x1f\x8b"), Kind.GZIP),
        (head.startswith(b"\x89HDF\r\n\x1a\n"), Kind.HDF5),
        (len(head) > 2 and head[0] == 0x80 and 2 <= head[1] <= 5, Kind.PICKLE),
        (not head.strip(b"\0"), Kind.ZEROS),
    )
    return next((kind for holds, kind in signs if holds), None) or _sniff_text(head)


def _sniff_text(head: bytes) -> Kind:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if LFS_POINTER.match(head):
        return Kind.LFS_POINTER
    if text.startswith((b"<!doctype html", b"<html", b"<head")):
        return Kind.HTML
    if text.startswith(b"<?xml"):
        return Kind.XML
    return Kind.JSON if text.startswith((b"{", b"[")) else Kind.UNKNOWN


def _diagnosis(kind: Kind, head: bytes, size: int, expected: str) -> str:
    pointer = LFS_POINTER.match(head)
    if kind is Kind.LFS_POINTER and pointer:
        promised = int(pointer[1])
        return f"a Git LFS pointer of {size} bytes, not the weights of {promised} bytes; fetch them with: git lfs pull"
    if kind in (Kind.EMPTY, Kind.TRUNCATED_ZIP):
        reason = "" if kind is Kind.EMPTY else ", its end record is missing"
        return f"{kind} of {size} bytes where {expected} was expected{reason}; fetch it again"
    if kind in NOT_READ:
        return f"{kind} is not read by this version: {size} bytes that begin with {head[:16].hex(' ')}, {expected} was expected"
    advice = "; fetch it again" if kind in NOT_FETCHED else ""
    return f"{kind}, {size} bytes that begin with {head[:16]!r}, where {expected} was expected{advice}"
