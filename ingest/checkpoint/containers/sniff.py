"""Tell what a file is from its first bytes and its size, never from its suffix. The kinds are in containers.kinds."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.containers.kinds import (
    ADVICE,
    LFS_POINTER,
    NOT_READ,
    READ_AS_WEIGHTS,
    TEXTS,
    Kind,
    is_binary,
    kind_of_head,
    kind_of_zip,
)
from layerhouse.ingest.checkpoint.containers.zip_directory import find_directory, read_names
from layerhouse.ingest.checkpoint.file_names import SAFETENSORS_SUFFIX, TORCH_SUFFIXES, TRAINING_STATE, WEIGHT_SUFFIXES
from layerhouse.ingest.checkpoint.regular_file import open_regular_file

__all__ = ["HEAD_BYTES", "Kind", "SniffedFile", "expected_kind", "holds_weights", "reason_no_text", "sniff", "unread_weights"]

HEAD_BYTES = 1024
ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")
"""A member, or the end record of a zip without members."""
TAR_MAGIC = slice(257, 262)
TAR_BLOCK = 512
TORCH_TAR_MEMBERS = {b"sys_info", b"pickle", b"storages", b"tensors"}
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")
UNREAD_SUFFIXES = frozenset(
    (
        *(".onnx", ".h5", ".hdf5", ".keras", ".msgpack", ".pt2", ".tflite", ".pb", ".npz", ".npy", ".pkl", ".pickle", ".ggml"),
        *(".nemo", ".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"),
    )
)
"""Suffixes of weights in formats that are not read, and of archives of a model."""
NO_WEIGHTS = frozenset(
    (
        *(".json", ".jsonl", ".csv", ".tsv", ".txt", ".log", ".md", ".rst", ".html", ".xml", ".yaml", ".yml", ".toml", ".ini"),
        *(".py", ".ipynb", ".sh", ".c", ".cpp", ".h", ".cu", ".js", ".ts", ".css", ".sql", ".lock", ".jinja", ".tex", ".bib"),
        *(".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg", ".pdf", ".mp3", ".wav", ".mp4", ".arrow", ".parquet", ".distcp"),
    )
)
"""Suffixes of files that are not asked whether they hold weights."""
SAVED_BY_TORCH = (Kind.TORCH_ZIP, Kind.TORCH_LEGACY, Kind.PICKLE)


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
        kind = _sniff_zip(file, size, display_path) if head.startswith(ZIP_STARTS) else kind_of_head(head)
        if kind is Kind.TAR and _is_torch_tar(file):
            kind = Kind.TORCH_TAR
    return SniffedFile(path, head, size, kind, _diagnosis(kind, head, size, expected_kind(path)))


def reason_no_text(path: Path, display_path: str) -> str | None:
    """Why a file that should hold results is none, by its first bytes: what it is and what to do. None for a text, and for an
    empty file. Raises InputError if it cannot be read.
    """
    file = sniff(path, display_path)
    kind = file.kind
    if kind in SAVED_BY_TORCH and TRAINING_STATE.fullmatch(path.name):
        kind = Kind.TRAINING_STATE
    elif kind is Kind.UNKNOWN and (file.head.startswith(UTF16_MARKS) or _has_wide_letters(file.head)):
        kind = Kind.UTF16
    elif kind is Kind.UNKNOWN and is_binary(file.head):
        kind = Kind.BINARY
    if kind in READ_AS_WEIGHTS:
        return f"weights ({kind}), not results: give the file the suffix {READ_AS_WEIGHTS[kind]}"
    if pointer := LFS_POINTER.match(file.head):
        return f"{kind}, not the file of {int(pointer[1])} bytes; fetch it with: git lfs pull"
    return None if kind in TEXTS else f"{kind}: not read; {ADVICE[kind]}"


def holds_weights(path: Path) -> bool:
    """Whether a file without a suffix of weights is one that is read, by its first bytes; also `w.th`, `w.pth.tar`, `w.sft`."""
    suffix = path.suffix.lower()
    if suffix in WEIGHT_SUFFIXES or suffix in NO_WEIGHTS or TRAINING_STATE.fullmatch(path.name):
        return False
    try:
        return sniff(path, path.name).kind in READ_AS_WEIGHTS
    except InputError:
        return False


def unread_weights(paths: Iterable[Path], display_folder: str) -> str | None:
    """The first file that may hold weights in a format that is not read, by its suffix and its first bytes, and what to do."""
    for path in paths:
        if path.suffix.lower() in UNREAD_SUFFIXES:
            try:
                reason = reason_no_text(path, f"{display_folder}/{path.name}")
            except InputError:
                continue
            if reason is not None:
                return f"{path.name}: {reason}"
    return None


def _has_wide_letters(head: bytes) -> bool:
    """Whether every second byte is zero and the others are not, as in UTF-16 without a mark."""
    pairs = head[:64]
    return len(pairs) >= 8 and any(not pairs[at::2].strip(b"\0") and b"\0" not in pairs[1 - at :: 2] for at in (0, 1))


def _sniff_zip(file: BinaryIO, size: int, display_path: str) -> Kind:
    directory = find_directory(file, size, display_path)
    return Kind.TRUNCATED_ZIP if directory is None else kind_of_zip(read_names(file, directory, display_path))


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
