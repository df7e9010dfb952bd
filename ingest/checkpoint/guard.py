"""The one guard of an ingest: what goes wrong while one input is read is an error of that input, and the others are taken.

Every step that reads an input runs within `Guard.reading`: sorting the files of a folder, planning, reading ahead, analyses,
results, comparing. Errors of the whole run pass through: wrong usage, a warehouse that cannot be written, an interrupt.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from layerhouse.errors import InputError, UnexpectedError, UsageError, WarehouseError

MAX_REASON = 300
"""Characters of an exception's own text that a message shows."""


@dataclass(frozen=True)
class Guard:
    """Makes an InputError of what goes wrong within a block; `shows_tracebacks` prints those of unexpected errors to stderr."""

    shows_tracebacks: bool = False

    @contextmanager
    def reading(self, where: str, on_failure: Callable[[InputError], None]) -> Iterator[None]:
        """Read one input within the block. What is raised there ends the block and is passed to `on_failure` as an InputError.

        `where` is the input in messages of unexpected errors. UsageError, WarehouseError, KeyboardInterrupt and SystemExit pass
        through.
        """
        try:
            yield
        except Exception as error:
            on_failure(self.input_error(where, error))

    def input_error(self, where: str, error: Exception) -> InputError:
        """The error of an input as an InputError. Raises UsageError and WarehouseError, which are errors of the whole run."""
        if isinstance(error, InputError):
            return error
        if isinstance(error, UsageError | WarehouseError):
            raise error
        if self.shows_tracebacks:
            sys.stderr.write(_printable("".join(traceback.format_exception(error))))
        return UnexpectedError(where, _unexpected_text(error))


NO_TRACEBACKS = Guard()


def _unexpected_text(error: Exception) -> str:
    name = type(error).__name__
    if isinstance(error, MemoryError):
        return (
            f"too little memory to read it ({name}); free some and ingest it again, and if there was enough, please report this"
        )
    try:
        reason = " ".join(str(error).split())
    except Exception:  # the text of an exception may be what is broken
        reason = ""
    reason = f"{name}: {reason[:MAX_REASON]}" if reason else name
    if isinstance(error, OSError):
        return f"cannot be read: {reason}; if the file is in order, please report this"
    return f"unexpected {reason}; please report this, with the traceback that --debug prints"


def _printable(text: str) -> str:
    """Text of several lines whose other control characters are escaped, so that it cannot drive a terminal."""
    return "".join(
        character if character.isprintable() or character == "\n" else character.encode("unicode_escape").decode()
        for character in text
    )
