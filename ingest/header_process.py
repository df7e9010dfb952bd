"""Headers of many models, read by a second process beside this one: what takes time there is Python, whose threads take turns.

The process is a help and no more. What it does not answer, because it could not be started, ended early or was asked for a
model that is refused, is read here: rows, errors and their order are those of one process. No thread waits for it: while the
next model is with the process, another one is read here.

Requests and answers are frames: eight bytes of length, little-endian, and plain values as `marshal` writes them for the same
Python. What they hold of a checkpoint are texts and numbers.
"""

from __future__ import annotations

import contextlib
import marshal
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Generic, Self, TypeVar

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.limits import factor_now, scaled_limits
from layerhouse.ingest.checkpoint_rows import HEADERS
from layerhouse.ingest.column_rows import ColumnRows
from layerhouse.ingest.take_weights import ReadWeights, read_headers

if TYPE_CHECKING:
    import subprocess

Item = TypeVar("Item")
Request = tuple[str, list[str], str, str]
"""A model's folder, its weight files, its name and their fingerprint."""

LEAST_MODELS = 128
"""Fewer take as long with a process, which has to start, as without."""

AHEAD = 16
"""Models that are read or asked for ahead of their turn."""

ASKED = 8
"""Of them those that are asked of the process."""

TENSORS_AHEAD = 50_000
"""With the rows of so many tensors read ahead, the next model waits for its turn: some 20 MiB."""

MOST_REQUEST_BYTES = 4096
"""A model with longer names of files is read here, so that all requests fit in a pipe and none waits to be written."""

PIPE_BYTES = 1 << 20
"""Room for answers that wait while this process commits, where the system grants it."""

LENGTH_BYTES = 8

SERVE = """
import marshal, sys
path, factor = marshal.loads(sys.stdin.buffer.read(int.from_bytes(sys.stdin.buffer.read(8), "little")))
sys.path[:] = path
from layerhouse.ingest.header_process import serve
serve(sys.stdin.buffer, sys.stdout.buffer, factor)
"""


class HeadersAhead(Generic[Item]):
    """Reads items in order with the help of a process; for use in a `with` block. `read` reads one here."""

    def __init__(self, items: Sequence[tuple[Item, Request]], read: Callable[[Item], ReadWeights]) -> None:
        self._items, self._read = items, read
        self._next = 0
        self._unread = deque(range(len(items)))
        self._asked: deque[int] = deque()
        self._found: dict[int, ReadWeights | InputError] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        import fcntl
        import subprocess

        with contextlib.suppress(OSError):
            self._process = subprocess.Popen(
                [sys.executable or "", "-c", SERVE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                start_new_session=True,  # an interrupt of the terminal is for this process to deal with
            )
            with contextlib.suppress(OSError, AttributeError):
                fcntl.fcntl(_open(self._process.stdout), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            self._send(marshal.dumps(([*map(str, sys.path)], factor_now())))
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def take(self, item: Item) -> ReadWeights:
        """What there is to an item, which has to be the next of those given. Raises InputError of one line."""
        position = self._next
        assert self._items[position][0] is item
        self._next += 1
        while position not in self._found:
            self._ask()
            if self._asked and (not self._may_read_on(position) or self._has_answer()):
                self._hear()
            else:
                self._read_here(self._unread.popleft())
        found = self._found.pop(position)
        if isinstance(found, InputError):
            raise found
        return found

    def _may_read_on(self, position: int) -> bool:
        """Whether there is a model to read while the process is at the one of this position."""
        tensors = sum(len(one.tensors) for one in self._found.values() if isinstance(one, ReadWeights))
        return bool(self._unread) and self._unread[0] < position + AHEAD and tensors < TENSORS_AHEAD

    def _read_here(self, position: int) -> None:
        try:
            self._found[position] = self._read(self._items[position][0])
        except InputError as error:
            self._found[position] = error

    def _ask(self) -> None:
        while self._process is not None and self._unread and len(self._asked) < ASKED:
            request = marshal.dumps(self._items[self._unread[0]][1])
            if self._unread[0] >= self._next - 1 + AHEAD or len(request) > MOST_REQUEST_BYTES:
                break
            self._asked.append(self._unread.popleft())
            self._send(request)

    def _hear(self) -> None:
        """Take in the next answer."""
        assert self._process is not None
        try:
            answer = marshal.loads(_frame(_open(self._process.stdout)))
        except (OSError, EOFError, ValueError, TypeError):
            self._end()
            return
        position = self._asked.popleft()
        if answer is None:
            self._read_here(position)
            return
        line, checkpoint, columns, layers = answer
        self._found[position] = ReadWeights(
            None, line, checkpoint["checkpoint_id"], HEADERS, checkpoint, ColumnRows(columns), tuple(layers)
        )

    def _has_answer(self) -> bool:
        import select

        assert self._process is not None
        answers = select.poll()
        answers.register(_open(self._process.stdout), select.POLLIN)
        return bool(answers.poll(0))

    def _send(self, content: bytes) -> None:
        assert self._process is not None
        frame = len(content).to_bytes(LENGTH_BYTES, "little") + content
        try:
            while frame:
                frame = frame[_open(self._process.stdin).write(frame) :]
        except OSError:
            self._end()

    def _end(self) -> None:
        """Do without the process; what it was asked for is read here."""
        self._unread.extendleft(reversed(self._asked))
        self._asked.clear()
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def serve(requests: IO[bytes], answers: IO[bytes], limit_factor: float) -> None:
    """The process's own part: answer requests until they end."""
    with contextlib.suppress(EOFError, OSError), scaled_limits(limit_factor):
        while True:
            folder, files, model_id, fingerprint = marshal.loads(_frame(requests))
            content = marshal.dumps(None)
            with contextlib.suppress(Exception):  # whatever it is, the other process meets it too, and says so
                found = read_headers(Path(folder), [*map(Path, files)], model_id, fingerprint)
                assert isinstance(found.tensors, ColumnRows)
                content = marshal.dumps((found.line, found.checkpoint, found.tensors.columns, found.layers))
            answers.write(len(content).to_bytes(LENGTH_BYTES, "little") + content)
            answers.flush()


def _open(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def _frame(pipe: IO[bytes]) -> bytes:
    """The next frame of a pipe. Raises EOFError where it ends."""
    return _exactly(pipe, int.from_bytes(_exactly(pipe, LENGTH_BYTES), "little"))


def _exactly(pipe: IO[bytes], count: int) -> bytes:
    parts = []
    while count:
        part = pipe.read(count)
        if not part:
            raise EOFError
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
