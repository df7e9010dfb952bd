"""What Ctrl-C does while the command starts: it ends with one line and exit code 130, whatever is being imported then.

Importing this module takes the signal if the process is the `layerhouse` command; a program that imports the library keeps its
own handlers. So it is what the package imports first, and it imports next to nothing itself.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False  # The module typing takes 5 ms to import.
if TYPE_CHECKING:
    from typing import NoReturn

INTERRUPTED = 130
"""The exit code, as shells have it."""


def end_at_once(*_: object) -> NoReturn:
    """A signal handler that ends the process without a teardown."""
    os.write(2, b"layerhouse: interrupted\n")
    os._exit(INTERRUPTED)


def is_command() -> bool:
    """True if this process is the installed command, or `python -m layerhouse`."""
    program = (getattr(sys, "argv", None) or [""])[0]
    if program == "-m":  # What Python has there until it has found the module.
        return "layerhouse" in sys.orig_argv or "-mlayerhouse" in sys.orig_argv
    return os.path.basename(program) in ("layerhouse", "layerhouse.exe")  # noqa: PTH119 - pathlib takes 10 ms to import


if is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, end_at_once)
