"""Opening files and reading at an offset, on systems without `preadv` (Windows) too."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy.typing as npt

from layerhouse.file_door import open_regular


def open_file(path: Path) -> int:
    """A file descriptor of a regular file for reading, which child processes do not inherit. Raises OSError."""
    return open_regular(path)[0]


def read_at(file: int, target: npt.NDArray[Any], offset: int) -> int:
    """Fill a part of an array of bytes from byte `offset` of a file on; returns the size of the part, 0 at the end of the file.

    Without `preadv` this moves the position of the descriptor, so a descriptor is for one thread. Raises OSError.
    """
    if hasattr(os, "preadv"):
        return os.preadv(file, [target.data], offset)
    os.lseek(file, offset, os.SEEK_SET)
    return io.FileIO(file, closefd=False).readinto(target.data) or 0
