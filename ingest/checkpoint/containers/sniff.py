"""Tell what a weight file is from its first bytes and its size, never from its suffix."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

from layerhouse.ingest.checkpoint.containers.zip_directory import find_directory, read_names
from layerhouse.ingest.checkpoint.file_names import SAFETENSORS_SUFFIX, TORCH_SUFFIXES
from layerhouse.ingest.checkpoint.regular_file import open_regular_file

HEAD_BYTES = 1024
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""The number, a pickle of its own, with which torch before 1.6 began every file."""
LEGACY_HEAD = re.compile(
    rb"(?:\x80[\x02-\x05](?:\x95.{8})?)?(?:\x8a\x0a"
    + re.escape(LEGACY_MAGIC.to_bytes(10, "little"))
    + rb"|L%dL\n)" % LEGACY_MAGIC,
    re.DOTALL,
)
LFS_POINTER = re.compile(rb"version https://git-lfs\.github\.com/spec/.*?\nsize (\d{1,19})\n", re.DOTALL)
TAR_MAGIC = slice(257, 262)
TAR_BLOCK = 512
TORCH_TAR_MEMBERS = {b"sys_info", b"pickle", b"storages", b"tensors"}


class Kind(StrEnum):
    """What a file's bytes are; the value is the phrase for messages."""

    SAFETENSORS = "safetensors"
    TORCH_ZIP = "torch zip"
    TORCH_LEGACY = "torch's old (non-zip) format"
    TORCHSCRIPT = "a TorchScript archive"
    PICKLE = "a plain pickle"
    TORCH_TAR = "a tar archive of torch before 0.1.10"
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


NOT_READ = (Kind.TORCHSCRIPT, Kind.PICKLE, Kind.TORCH_TAR, Kind.TAR, Kind.GZIP, Kind.HDF5)
"""Kinds that can hold weights, in a form that no built-in container reads."""

FETCH = "fetch it again"
SAVE = "where it can be loaded, save its state_dict() as safetensors"
ADVICE = {
    Kind.TORCHSCRIPT: f"it holds a program beside its weights: {SAVE}",
    Kind.PICKLE: f"pickle wrote it, not torch.save: {SAVE}",
    Kind.TORCH_TAR: f"no torch of today reads it safely: {SAVE}",
    Kind.TAR: "unpack it",
    Kind.OTHER_ZIP: "unpack it, if it is an archive of a model; else fetch the weights again",
    Kind.TRUNCATED_ZIP: FETCH,
    Kind.HTML: f"{FETCH}: the server answered with a page, such as a login or an error",
    Kind.XML: f"{FETCH}: the server answered with a page, such as an error",
    Kind.JSON: f"{FETCH}, or take it out of the folder",
    Kind.GZIP: "unpack it",
    Kind.HDF5: "convert it to safetensors",
    Kind.EMPTY: FETCH,
    Kind.ZEROS: f"{FETCH}: the disk or the download left out the rest",
    Kind.UNKNOWN: f"{FETCH}, or take it out of the folder",
}
"""What to do about a file that cannot be read."""


@dataclass(frozen=True)
class SniffedFile:
    """What a file is. `head` has its first HEAD_BYTES bytes; `diagnosis` is the message, of one line, if nothing reads it."""

    path: Path
    head: bytes
    size_bytes: int
    kind: Kind
    diagnosis: str


def expected_kind(path: Path) -> str:
    """What the suffix says that the file is."""
    suffix = path.suffix.lower()
    if suffix == SAFETENSORS_SUFFIX:
        return "a safetensors file"
    return "a torch zip file" if suffix in TORCH_SUFFIXES else "a weight file"


def sniff(path: Path, display_path: str) -> SniffedFile:
    """Tell what the file is. Raises InputError if it cannot be read, or is a zip file whose end record contradicts itself."""
    with open_regular_file(path, display_path) as (file, size):
        head = file.read(HEAD_BYTES)
        kind = _sniff_zip(file, size, display_path) if head.startswith(b"PK\x03\x04") else _sniff_head(head)
        if kind is Kind.TAR and _is_torch_tar(file):
            kind = Kind.TORCH_TAR
    return SniffedFile(path, head, size, kind, _diagnosis(kind, head, size, expected_kind(path)))


def _sniff_zip(file: BinaryIO, size: int, display_path: str) -> Kind:
    directory = find_directory(file, size, display_path)
    if directory is None:
        return Kind.TRUNCATED_ZIP
    paths = [name.split("/")[1:] for name in read_names(file, directory, display_path)]
    if any(path == ["constants.pkl"] or path[:1] == ["code"] for path in paths):
        return Kind.TORCHSCRIPT
    return Kind.TORCH_ZIP if ["data.pkl"] in paths else Kind.OTHER_ZIP


def _is_torch_tar(file: BinaryIO) -> bool:
    """Whether the first members of a tar archive are those of torch's first format, in its root or in ./ (POSIX ustar)."""
    members: set[bytes] = set()
    position = 0
    for _ in range(8):
        file.seek(position)
        header = file.read(TAR_BLOCK)
        if header[TAR_MAGIC] != b"ustar":
            break
        members.add(header[:100].partition(b"\0")[0].removeprefix(b"./"))
        octal_size = header[124:136].strip(b"\0 ")
        if not re.fullmatch(rb"[0-7]{1,12}", octal_size):
            break
        position += TAR_BLOCK + -(-int(octal_size, 8) // TAR_BLOCK) * TAR_BLOCK
    return members >= TORCH_TAR_MEMBERS


def _sniff_head(head: bytes) -> Kind:
    # A safetensors header is at most 100 MB long, so the upper half of its 64-bit length is zero.
    signatures = (
        (not head, Kind.EMPTY),
        (head[4:8] == b"\0\0\0\0" and head[8:9] == b"{", Kind.SAFETENSORS),
        (LEGACY_HEAD.match(head) is not None, Kind.TORCH_LEGACY),
        (head[TAR_MAGIC] == b"ustar", Kind.TAR),
        (head.startswith(b"GGUF"), Kind.GGUF),
        (head.startswith(b"\x1f\x8b"), Kind.GZIP),
        (head.startswith(b"\x89HDF\r\n\x1a\n"), Kind.HDF5),
        (len(head) > 2 and head[0] == 0x80 and 2 <= head[1] <= 5, Kind.PICKLE),
        (not head.strip(b"\0"), Kind.ZEROS),
    )
    return next((kind for matches, kind in signatures if matches), None) or _sniff_text(head)


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
        size_of_weights = int(pointer[1])
        return f"a Git LFS pointer of {size} bytes, not the weights of {size_of_weights} bytes; fetch them with: git lfs pull"
    advice = f"; {ADVICE[kind]}" if kind in ADVICE else ""
    if kind in (Kind.EMPTY, Kind.TRUNCATED_ZIP):
        reason = "" if kind is Kind.EMPTY else ", its end record is missing"
        return f"{kind} of {size} bytes where {expected} was expected{reason}{advice}"
    if kind in NOT_READ:
        return f"{kind} is not read by this version: {size} bytes that begin with {head[:16].hex(' ')}{advice}"
    return f"{kind}, {size} bytes that begin with {head[:16]!r}, where {expected} was expected{advice}"
