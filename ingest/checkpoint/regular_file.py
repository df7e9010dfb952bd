"""Open a file of an input; whatever the system refuses is an error of one line, and so is a file that changes meanwhile."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO

from layerhouse.errors import ChangedError, InputError
from layerhouse.file_door import NotRegularError, identity_of, open_regular
from layerhouse.ingest.checkpoint.symlinks import LEADS_OUT, leads_out

LARGE_READ = 1 << 20
"""Bytes of a read above which it is limited to what the file has."""
_folder: ContextVar[Path | None] = ContextVar("folder", default=None)


def check_file_size(display_path: str, size: int, expected: int) -> None:
    """Raise InputError unless a file has exactly the bytes that its header describes."""
    if expected > size:
        raise InputError(display_path, f"cut off: expected {expected} bytes, found {size}; fetch it again")
    if expected < size:
        raise InputError(display_path, f"{size - expected} trailing bytes: expected {expected} bytes, found {size}")


@contextmanager
def confined_to(folder: Path | None) -> Iterator[None]:
    """Within the block, this thread opens no file by a link that leads out of a model's folder; None: it may open any."""
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


class _Reader(io.BufferedReader):
    """A file that sets no memory aside for more bytes than it has, however many a caller would take."""

    size = 0

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > LARGE_READ:
            size = min(size, max(0, self.size - self.tell()) + 1)
        return super().read(size)


@contextmanager
def open_regular_file(path: Path, display_path: str, *, expected: str | None = None) -> Iterator[tuple[BinaryIO, int]]:
    """A regular file open for reading, and its size in bytes. Any OSError, also within the block, becomes an InputError.

    `expected` says what the file should be, for the message that it is a directory. Raises ChangedError, whatever the block
    raises, if the file is another one after the block than it was before.
    """
    try:
        descriptor, before = open_regular(path)
    except FileNotFoundError as error:
        raise InputError(display_path, "no such file") from error
    except NotRegularError as error:
        what = f"is a directory, not {expected}" if expected is not None and path.is_dir() else str(error.strerror)
        raise InputError(display_path, what) from error
    except OSError as error:
        raise InputError(display_path, f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(display_path, f"is no path: {error}") from error
    with _Reader(io.FileIO(descriptor, "rb")) as file:
        file.size = before.size
        folder = _folder.get()
        if folder is not None and leads_out(folder, path):
            raise InputError(display_path, LEADS_OUT)
        try:
            yield file, before.size
        except InputError as error:
            if identity_of(path) != before:
                raise ChangedError(display_path) from error
            raise
        except OSError as error:
            raise InputError(display_path, f"cannot be read: {error.strerror}") from error
    if identity_of(path) != before:
        raise ChangedError(display_path)
