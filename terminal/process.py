"""How the process ends: which error gives which message and exit code, and an exit that skips the teardown."""

from __future__ import annotations

import errno
import gc
import os
import sys
from collections.abc import Callable
from typing import NoReturn

import click

from layerhouse.errors import LayerhouseError, UsageError, WarehouseError
from layerhouse.terminal.exit_codes import Exit
from layerhouse.terminal.messages import fail

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
INTERRUPTED_TEXT = "interrupted; what was finished is in the warehouse, and the same command goes on from there"


def run_to_exit(command: Callable[[], object]) -> NoReturn:
    """Call a command and exit. Every error that layerhouse raises on purpose becomes one line on stderr and an exit code."""
    try:
        code = command()
        sys.exit(code if isinstance(code, int) else Exit.DONE)
    except UsageError as error:
        fail(str(error), Exit.USAGE)
    except WarehouseError as error:
        fail(str(error), Exit.BROKEN)
    except LayerhouseError as error:
        fail(str(error), Exit.SOME_FAILED)
    except click.ClickException as error:
        error.show()
        sys.exit(Exit.USAGE)
    except (click.Abort, KeyboardInterrupt):
        fail(INTERRUPTED_TEXT, Exit.INTERRUPTED)
    except BrokenPipeError:
        _discard_stdout()
        sys.exit(Exit.SOME_FAILED)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        _discard_stdout()
        target = error.filename or "stdout"
        fail(f"{target}: cannot be written: {error.strerror}; make room and run it again", Exit.SOME_FAILED)


def exit_without_teardown(run: Callable[[], object]) -> NoReturn:
    """Call a function that exits, such as a command, and end the process with its exit code at once.

    Tearing down the interpreter and DuckDB takes up to half a second, and by then all files are closed and all commits made.
    """
    # Collect garbage less often. Nearly all objects live to the end and few are in reference cycles: with the default
    # thresholds the collector took an eighth of the time and freed next to nothing.
    gc.set_threshold(50_000, 20, 20)
    code: object = Exit.DONE
    try:
        run()
    except SystemExit as leaving:
        code = leaving.code
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (BrokenPipeError, ValueError):
        code = code or Exit.SOME_FAILED
    os._exit(Exit.DONE if code is None else code if isinstance(code, int) else Exit.SOME_FAILED)


def interrupt(*_: object) -> NoReturn:
    """A signal handler that ends the command as Ctrl-C does: what is finished is committed first."""
    raise KeyboardInterrupt


def _discard_stdout() -> None:
    """Send stdout to the null device, so that the flush at exit does not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
