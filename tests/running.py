"""Run the real command in a process of its own, for tests."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

CLEAN = {key: value for key, value in os.environ.items() if key not in ("LAYERHOUSE_WAREHOUSE", "COLUMNS", "LINES")}


def layerhouse(*arguments, cwd: Path | None = None, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `layerhouse` with these arguments; stdout and stderr as text."""
    return subprocess.run(
        [sys.executable, "-m", "layerhouse", *map(str, arguments)],
        cwd=cwd,
        input=stdin,
        env={**CLEAN, "PYTHONWARNINGS": "error", **environment},
        capture_output=True,
        encoding="utf-8",
        timeout=600,
        check=False,
    )


def run_on_terminal(
    arguments, cwd: Path, *, columns: int = 100, rows: int = 24, is_stdin: bool = True, **environment: str
) -> tuple[int, str]:
    """Run `layerhouse` on a pseudo-terminal of this size; return its exit code and output, with `\n` as the line end.

    Without `is_stdin`, standard input is none. There is neither a pager nor colours unless the environment asks for them.
    """
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    own = {"TERM": "xterm-256color", "PAGER": "cat", "NO_COLOR": "1"} | environment
    command = [sys.executable, "-m", "layerhouse", *map(str, arguments)]
    stdin = terminal if is_stdin else subprocess.DEVNULL
    with subprocess.Popen(command, stdin=stdin, stdout=terminal, stderr=terminal, cwd=cwd, env={**CLEAN, **own}) as process:
        os.close(terminal)
        output = b""
        while True:
            try:
                block = os.read(controller, 65536)
            except OSError:
                break
            if not block:
                break
            output += block
    os.close(controller)
    return process.returncode, output.decode().replace("\r\n", "\n")
