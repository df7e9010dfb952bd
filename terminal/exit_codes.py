"""The exit codes of every command."""

from __future__ import annotations

import enum


class Exit(enum.IntEnum):
    """The exit codes of every command."""

    DONE = 0
    SOME_FAILED = 1
    USAGE = 2
    BROKEN = 3
    INTERRUPTED = 130
