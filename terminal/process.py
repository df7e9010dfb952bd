"""How the process ends: which error gives which message and exit code, and an exit that skips the teardown."""

from __future__ import annotations

import errno
import gc
import io
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from importlib.machinery import ExtensionFileLoader
from types import FrameType
from typing import NoReturn

import click

from layerhouse.errors import LayerhouseError, QueryError, UsageError, WarehouseError
from layerhouse.escapes import visible
from layerhouse.starting import end_at_once
from layerhouse.terminal.exit_codes import Exit
from layerhouse.terminal.messages import fail

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
INTERRUPTED_TEXT = "interrupted; what was finished is in the warehouse, and the same command goes on from there"
DEBUG = "LAYERHOUSE_DEBUG"
"""The environment variable with which an unexpected error prints its traceback."""
MAX_UNEXPECTED = 500
SIGNALS = (signal.SIGINT, signal.SIGTERM)
SECONDS_TO_TRY_AGAIN = 0.02
SECONDS_OF_PATIENCE = 1.0
"""How long a signal may wait for Python code to run, while the code of some package runs."""
SECONDS_TO_END = 10.0
"""How long the command may then take to end, as it commits what is finished."""


class Interrupted(BaseException):
    """A KeyboardInterrupt on its way out. It is another class, as click answers that one with an empty line."""


class Commands(click.Group):
    """A group of commands that a signal ends with one line."""

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except KeyboardInterrupt:
            raise Interrupted from None


class Interrupts:
    """How SIGINT and SIGTERM end a command: the first raises KeyboardInterrupt, so that what is finished is committed; the next
    ends the process at once. `have_come` is true after the first: it is the cause of whatever error the command then ends with.
    """

    def __init__(self) -> None:
        self.have_come = False
        sys.unraisablehook = self._on_unraisable
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reader,), daemon=True).start()
        self._handle_with(self._raise)

    def end_at_once(self) -> None:
        """No KeyboardInterrupt from here on."""
        self._handle_with(end_at_once)

    def ignore(self) -> None:
        """The command is done, and its answer is on its way."""
        self._handle_with(signal.SIG_IGN)

    def _watch(self, reader: int) -> None:
        """End the process if a signal, of which a byte tells, does not end the command in time."""
        while os.read(reader, 1):
            time.sleep(SECONDS_OF_PATIENCE)
            if self.have_come:
                time.sleep(SECONDS_TO_END)
            end_at_once()

    def _raise(self, _: object = None, frame: FrameType | None = None) -> None:
        if hasattr(signal, "setitimer") and _is_in_compiled_import(frame):
            self._try_again()
            return
        self.have_come = True
        self.end_at_once()
        if reach := sys.modules.get("layerhouse.warehouse.answers.reach"):
            reach.interrupt_queries()  # DuckDB takes the signal itself, and yet would run its query to the end.
        raise KeyboardInterrupt

    def _handle_with(self, handler: Callable[..., object] | signal.Handlers) -> None:
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, handler)

    def _on_unraisable(self, unraisable: sys.UnraisableHookArgs) -> None:
        """Raise KeyboardInterrupt again a moment later, if it came where Python cannot raise it, as in a callback."""
        if not isinstance(unraisable.exc_value, KeyboardInterrupt):
            sys.__unraisablehook__(unraisable)
        elif hasattr(signal, "setitimer"):
            self._try_again()
        else:
            end_at_once()

    def _try_again(self) -> None:
        signal.signal(signal.SIGALRM, self._raise)
        signal.setitimer(signal.ITIMER_REAL, SECONDS_TO_TRY_AGAIN)


def _is_in_compiled_import(frame: FrameType | None) -> bool:
    """Whether a compiled module is being imported: some end the process, with words of their own, at an exception within."""
    while frame is not None:
        is_loading = frame.f_code.co_name in ("create_module", "exec_module")
        if is_loading and isinstance(frame.f_locals.get("self"), ExtensionFileLoader):
            return True
        frame = frame.f_back
    return False


def run_to_exit(command: Callable[[], object]) -> NoReturn:
    """Call a command and exit. Every error that layerhouse raises on purpose becomes one line on stderr and an exit code."""
    interrupts = None
    try:
        interrupts = Interrupts()
        code = command()
        interrupts.ignore()
        sys.exit(code if isinstance(code, int) else Exit.DONE)
    except BaseException as error:
        if interrupts is not None:
            interrupts.end_at_once()
        if isinstance(error, KeyboardInterrupt | click.Abort) or (interrupts is not None and interrupts.have_come):
            fail(INTERRUPTED_TEXT, Exit.INTERRUPTED)
        _report(error)


def _report(error: BaseException) -> NoReturn:
    """Write the line of an error and exit with its code. One that nobody foresaw is a line too; see DEBUG."""
    match error:
        case QueryError():
            fail(str(error), Exit.USAGE, has_lines=True)
        case UsageError():
            fail(str(error), Exit.USAGE)
        case WarehouseError():
            fail(str(error), Exit.BROKEN)
        case LayerhouseError():
            fail(str(error), Exit.SOME_FAILED)
        case click.ClickException():
            _show_usage(error)
            sys.exit(Exit.USAGE)
        case BrokenPipeError():
            _discard_stdout()
            sys.exit(Exit.SOME_FAILED)
        case OSError() if error.errno in DISK_FULL:
            _discard_stdout()
            target = error.filename or "stdout"
            fail(f"{target}: cannot be written: {error.strerror}; make room and run it again", Exit.SOME_FAILED)
        case Exception():
            if os.environ.get(DEBUG):
                traceback.print_exception(error)
            what = f"unexpected {type(error).__name__}: {error}"[:MAX_UNEXPECTED]
            fail(f"{what}; please report it with the command; {DEBUG}=1 prints where it happened", Exit.SOME_FAILED)
        case _:
            raise error


def _show_usage(error: click.ClickException) -> None:
    """What click shows of wrong usage, with the arguments in its message escaped."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    shown = io.StringIO()
    click.UsageError(visible(error.format_message()), ctx=context).show(file=shown)
    click.echo(shown.getvalue(), err=True, nl=False)


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
    except KeyboardInterrupt:
        end_at_once()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (BrokenPipeError, ValueError):
        code = code or Exit.SOME_FAILED
    os._exit(Exit.DONE if code is None else code if isinstance(code, int) else Exit.SOME_FAILED)


def _discard_stdout() -> None:
    """Send stdout to the null device, so that the flush at exit does not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
