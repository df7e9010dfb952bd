"""The terminal that a command writes to: its size, and whether it shows colours and is read by a person."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass

PAGER = "PAGER"
DEFAULT_PAGER = "less"
LESS_FLAGS = "FRX"
"""For less, unless its own variable is set: shades are kept, and what fits the screen after all is not paged."""


@dataclass(frozen=True)
class Screen:
    """A terminal: its size in cells, whether colours may be used, and whether long texts go through a pager."""

    width: int
    height: int
    has_colors: bool = False
    is_paged: bool = False


def screen(*, has_pager: bool = True) -> Screen | None:
    """The terminal on stdout, or None if stdout is none.

    There are no colours with NO_COLOR (https://no-color.org) or a terminal that is `dumb`, and no pager unless stdin is a
    terminal, too.
    """
    if not sys.stdout.isatty():
        return None
    size = shutil.get_terminal_size()
    has_colors = not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"
    return Screen(size.columns, size.lines, has_colors, has_pager and sys.stdin.isatty() and _pager() is not None)


def show_text(text: str, target: Screen | None) -> None:
    """Write a text to stdout, through the pager if it is longer than the screen and has one."""
    if target is not None and target.is_paged and text.count("\n") >= target.height and _page(text):
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode(sys.stdout.encoding or "utf-8", "backslashreplace"))
    sys.stdout.buffer.flush()


def _pager() -> list[str] | None:
    """The command of the pager: that of PAGER, else less if there is one; None for none, or if PAGER is empty or `cat`."""
    import shlex

    try:
        command = shlex.split(os.environ.get(PAGER, DEFAULT_PAGER))
    except ValueError:
        return None
    if not command or command == ["cat"] or shutil.which(command[0]) is None:
        return None
    return command


def _page(text: str) -> bool:
    """Show a text in the pager; false if it cannot be started. Leaving the pager early is no error, and Ctrl-C is for it."""
    import signal
    import subprocess

    try:
        pager = subprocess.Popen(_pager() or [], stdin=subprocess.PIPE, env={"LESS": LESS_FLAGS, **os.environ})
    except OSError:
        return False
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pager:
            pager.communicate(text.encode())
    finally:
        signal.signal(signal.SIGINT, handler)
    return True
