"""The one door to the files of a warehouse: regular files in folders of its own, of bounded size; no link is followed.

A warehouse may come from somebody else. A link or a named pipe in it could lead to files elsewhere, or block whoever opens it.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from layerhouse.errors import WarehouseError
from layerhouse.warehouse.storage.schema import TABLES

COMMITS = "commits"
HEADS = "heads"
KEPT = "kept"
DAMAGED = "damaged"
FOLDERS = (COMMITS, HEADS, KEPT, DAMAGED, *TABLES)
"""Every folder that a warehouse may have."""
MISSING_FILE = "missing"
"""The text of the error that there is no such file."""

_READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_READ |= getattr(os, "O_BINARY", 0)
_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISCHR, "a device"),
)


class FaultyFileError(Exception):
    """A file of a warehouse is not what it has to be; the text says what it is."""


def check_folders(root: Path) -> None:
    """Raise WarehouseError where a folder of the warehouse is a link: what it leads to is not the warehouse's."""
    for name in FOLDERS:
        if (root / name).is_symlink():
            what = "a symbolic link; the folders of a warehouse are its own: put the folder there"
            raise WarehouseError(f"{root / name}: {what}")


def file_status(path: Path) -> os.stat_result:
    """The status of a file of the warehouse. Raises FaultyFileError unless it is a regular file, WarehouseError if the system
    refuses to tell."""
    with _faults(path):
        status = os.lstat(path)
    _require_regular(status)
    return status


@contextmanager
def open_own_file(path: Path) -> Iterator[tuple[int, os.stat_result]]:
    """A file of the warehouse, open for reading, and its status.

    Raises FaultyFileError where the file is missing or is not a regular file, and WarehouseError for what may pass: denied
    permissions, an error of the disk. Neither is damage of the file.
    """
    with _faults(path):
        _require_regular(os.lstat(path))  # before it is opened: O_NOFOLLOW is not everywhere
        file = os.open(path, _READ)
        try:
            status = os.fstat(file)
            _require_regular(status)
            yield file, status
        finally:
            os.close(file)


def read_own_file(path: Path, max_bytes: int) -> bytes:
    """All bytes of a file of the warehouse. Raises as `open_own_file` does, and FaultyFileError for a file over the limit."""
    with open_own_file(path) as (file, status):
        if status.st_size > max_bytes:
            raise FaultyFileError(f"limit exceeded: {status.st_size} bytes, over {max_bytes}")
        return read_range(file, 0, status.st_size)


def read_range(file: int, offset: int, size: int) -> bytes:
    """Bytes of an open file; fewer where it ends before."""
    parts, position = [], 0
    os.lseek(file, offset, os.SEEK_SET)
    while position < size and (part := os.read(file, size - position)):
        parts.append(part)
        position += len(part)
    return b"".join(parts)


def write_durably(path: Path, data: bytes) -> None:
    """Write to a temporary file, flush it to the disk and rename it: the path has all of the bytes or does not exist."""
    with durable_file(path) as file:
        file.write(data)


@contextmanager
def durable_file(path: Path) -> Iterator[BinaryIO]:
    """A temporary file, open for writing and reading, that is flushed to the disk and renamed to the path at the end.

    It is deleted instead where the context ends with an error.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def unreadable(path: Path, error: OSError) -> WarehouseError:
    """The error that the system refuses a file at present, which says nothing of what is in it."""
    reason = error.strerror or str(error)
    return WarehouseError(f"{path}: cannot be read: {reason}; see to the disk or its permissions, then run it again")


@contextmanager
def _faults(path: Path) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise FaultyFileError(MISSING_FILE) from None
    except OSError as error:
        raise unreadable(path, error) from None


def _require_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(status.st_mode)), "not a regular file")
        raise FaultyFileError(f"{kind}, which no command opens")
