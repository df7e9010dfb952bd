"""Headers of many models, read by a second process beside this one, as threads do not run Python code in parallel.

The process only helps. What it does not answer, because it could not be started, ended early or was asked for a model that is
refused, is read here: rows, errors and their order are those of one process. This process does not wait idly either: while the
next model is with the other one, it reads a later one.

The process is a fresh interpreter and not one of multiprocessing, which would import the caller's script again: without an
`if __name__ == "__main__"` guard the script would run twice.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.limits import current_limit_factor, scaled_limits
from layerhouse.ingest.column_rows import ColumnRows
from layerhouse.ingest.take_weights import ReadWeights, read_headers
from layerhouse.vocabulary import StatsLevel

if TYPE_CHECKING:
    import subprocess
    from multiprocessing.connection import Connection

Item = TypeVar("Item")
Request = tuple[str, list[str], str, str]
"""A model's folder, its weight files, its name and their fingerprint."""
Answer = tuple[str, dict[str, Any], dict[str, list[Any]], Sequence[dict[str, Any]]]
"""The text on the files, the checkpoint's row, the columns of its tensors and the rows of its layers."""

LEAST_MODELS = 512
"""Fewer take as long with a process, which has to start, as without."""
AHEAD = 16
"""Models that are read or asked for ahead of their turn."""
ASKED = 8
"""Those of them that the process is asked for."""
TENSORS_AHEAD = 50_000
"""While the rows of so many tensors are read ahead, some 20 MiB, no further model is read here."""
MAX_REQUEST_BYTES = 4096
"""A model with longer file names is read here, so that all requests fit into a pipe and no write of one blocks."""
PIPE_BYTES = 1 << 20
"""Room for answers that wait while this process commits, where the system grants it."""
SERVE = """
import sys
from multiprocessing.connection import Connection
requests, answers = (Connection(int(number)) for number in sys.argv[1:])
sys.path[:], limit_factor = requests.recv()
from layerhouse.ingest.header_process import serve
serve(requests, answers, limit_factor)
"""


class HeadersAhead(Generic[Item]):
    """A context manager that reads items in order with the help of a process. `read` reads one here."""

    def __init__(self, items: Sequence[tuple[Item, Request]], read: Callable[[Item], ReadWeights]) -> None:
        self._items, self._read = items, read
        self._next = 0
        self._unread = deque(range(len(items)))
        self._asked: deque[int] = deque()
        self._outcomes: dict[int, ReadWeights | InputError] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        if os.name == "posix":
            with contextlib.suppress(OSError):
                self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def take(self, item: Item) -> ReadWeights:
        """What was read of an item, which has to be the next of those given. Raises InputError of one line."""
        position = self._next
        assert self._items[position][0] is item
        self._next += 1
        while position not in self._outcomes:
            self._ask()
            if self._asked and (not self._may_read_on(position) or self._answers.poll()):
                self._receive()
            else:
                self._read_here(self._unread.popleft())
        outcome = self._outcomes.pop(position)
        if isinstance(outcome, InputError):
            raise outcome
        return outcome

    def _start(self) -> None:
        import fcntl
        import subprocess
        from multiprocessing import Pipe

        their_requests, self._requests = Pipe(duplex=False)
        self._answers, their_answers = Pipe(duplex=False)
        with contextlib.suppress(OSError, AttributeError):
            fcntl.fcntl(self._answers.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        with their_requests, their_answers:
            ends = their_requests.fileno(), their_answers.fileno()
            self._process = subprocess.Popen(
                [sys.executable or "", "-c", SERVE, *map(str, ends)],
                pass_fds=ends,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # an interrupt from the terminal is for this process to handle
            )
        self._requests.send(([*map(str, sys.path)], current_limit_factor()))

    def _may_read_on(self, position: int) -> bool:
        """Whether a later model may be read here while the process is at the one of this position."""
        tensors = sum(len(outcome.tensors) for outcome in self._outcomes.values() if isinstance(outcome, ReadWeights))
        return bool(self._unread) and self._unread[0] < position + AHEAD and tensors < TENSORS_AHEAD

    def _read_here(self, position: int) -> None:
        try:
            self._outcomes[position] = self._read(self._items[position][0])
        except InputError as error:
            self._outcomes[position] = error

    def _ask(self) -> None:
        """Ask the process for the next models."""
        while self._process is not None and self._unread and len(self._asked) < ASKED:
            request = pickle.dumps(self._items[self._unread[0]][1])
            if self._unread[0] >= self._next - 1 + AHEAD or len(request) > MAX_REQUEST_BYTES:
                break
            self._asked.append(self._unread.popleft())
            try:
                self._requests.send_bytes(request)
            except OSError:
                self._end()

    def _receive(self) -> None:
        """Take the next answer; a model without one is read here."""
        try:
            answer = self._answers.recv()
        except (OSError, EOFError, pickle.UnpicklingError):
            self._end()
            return
        position = self._asked.popleft()
        if answer is None:
            self._read_here(position)
        else:
            self._outcomes[position] = _unpack(answer)

    def _end(self) -> None:
        """Go on without the process; what it was asked for is read here."""
        self._unread.extendleft(reversed(self._asked))
        self._asked.clear()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self._requests.close()
            self._answers.close()


def serve(requests: Connection, answers: Connection, limit_factor: float) -> None:
    """What the process runs: answer requests until there are no more."""
    with contextlib.suppress(EOFError, OSError), scaled_limits(limit_factor):
        while True:
            folder, files, model_id, fingerprint = requests.recv()
            answer = None
            with contextlib.suppress(Exception):  # the other process meets it too, and reports it
                answer = _pack(read_headers(Path(folder), [*map(Path, files)], model_id, fingerprint))
            answers.send(answer)


def _pack(weights: ReadWeights) -> Answer:
    assert weights.checkpoint is not None and isinstance(weights.tensors, ColumnRows)
    return weights.files_text, weights.checkpoint, weights.tensors.columns, weights.layers


def _unpack(answer: Answer) -> ReadWeights:
    files_text, checkpoint, columns, layers = answer
    return ReadWeights(
        None, files_text, checkpoint["checkpoint_id"], StatsLevel.NONE, checkpoint, ColumnRows(columns), tuple(layers)
    )
