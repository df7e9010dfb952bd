"""Open a file of a checkpoint; whatever the system refuses is an error of one line."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from layerhouse.errors import InputError


def check_file_size(display_path: str, size: int, expected: int) -> None:
    """Raise InputError unless a file has exactly the bytes that its header describes."""
    if expected > size:
        raise InputError(display_path, f"cut off: expected {expected} bytes, found {size}; fetch it again")
    if expected < size:
        raise InputError(display_path, f"{size - expected} trailing bytes: expected {expected} bytes, found {size}")


@contextmanager
def open_regular_file(path: Path, display_path: str, *, expected: str | None = None) -> Iterator[tuple[BinaryIO, int]]:
    """A regular file open for reading, and its size in bytes. Any OSError, also within the block, becomes an InputError.

    `expected` says what the file should be, for the message that it is a directory. Devices and pipes are refused before they
    are opened, since opening one can block or have side effects.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise InputError(display_path, "no such file") from error
    except OSError as error:
        raise InputError(display_path, f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(display_path, f"is no path: {error}") from error
    if expected is not None and stat.S_ISDIR(mode):
        raise InputError(display_path, f"is a directory, not {expected}")
    if not stat.S_ISREG(mode):
        raise InputError(display_path, "is not a regular file")
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            yield file, size
    except OSError as error:
        raise InputError(display_path, f"cannot be read: {error.strerror}") from error
