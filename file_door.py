"""The one door to files: only regular files are opened, without waiting, and what was opened is what was checked."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import NamedTuple

_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_BINARY", 0)
)
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a link",
}


class Identity(NamedTuple):
    """What changes with a file when it is written or replaced. A file of a server would have its ETag in place of the rest.

    `ctime_ns` is the time of the last change by the system's clock, which no program can set back, as it can `mtime_ns`.
    """

    size: int
    mtime_ns: int
    inode: int
    device: int
    ctime_ns: int

    @staticmethod
    def of(status: os.stat_result) -> Identity:
        return Identity(status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev, status.st_ctime_ns)


class NotRegularError(OSError):
    """A path that leads to something else than a file; its `strerror` says to what."""

    def __init__(self, mode: int, path: Path) -> None:
        super().__init__(errno.EINVAL, f"is {kind_text(mode)}, which is not a regular file", str(path))


def kind_text(mode: int) -> str:
    """What a path with this st_mode leads to, for messages: `a named pipe`."""
    return _KINDS.get(stat.S_IFMT(mode), "something else than a file")


def open_regular(path: Path) -> tuple[int, Identity]:
    """A file descriptor for reading, which child processes do not inherit, and the identity of the open file. Raises OSError.

    Pipes, devices and sockets are refused by NotRegularError, before they are opened, as that can block or have effects; what
    is put in the place of the file meanwhile is opened without waiting, and refused.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise NotRegularError(mode, path)
    file = os.open(path, _FLAGS)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise NotRegularError(status.st_mode, path)
    except BaseException:
        os.close(file)
        raise
    return file, Identity.of(status)


def read_regular(path: Path, most: int) -> bytes:
    """The bytes of a file that has no more than `most`. Raises OSError."""
    descriptor, identity = open_regular(path)
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(min(identity.size, most) + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"has more than {most} bytes", str(path))
    return data


def identity_of(path: Path) -> Identity | None:
    """The identity of the file that a path leads to; None where there is none."""
    try:
        return Identity.of(path.stat())
    except (OSError, ValueError):
        return None
