"""Many tensors measured by some threads, each tensor's bytes read once, and once more where zeros may form rows or patterns.

A tensor of over BLOCK_BYTES is counted in blocks of that size by whichever threads are free; small tensors go by the batch.
Memory: a chunk and tables a thread (and tiles for strided views), 32 MiB of the system's cache that it looks at, 0.5 MiB a
tensor under way, and where the zeros of a matrix are looked at a byte for each row, and a byte for each column and thread.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, islice
from operator import itemgetter
from queue import Empty, Full, Queue

import numpy as np
import xxhash

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.dtypes import DTYPES
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef
from layerhouse.ingest.measure.content_hash import ContentHash
from layerhouse.ingest.measure.counter import (
    AnyCounter,
    Array,
    Total,
    ZeroStructure,
    make_counter,
)
from layerhouse.ingest.measure.io.prefetch import Prefetch
from layerhouse.ingest.measure.io.tensor_reader import TensorReader
from layerhouse.ingest.measure.signatures import signature
from layerhouse.ingest.measure.statistics import Statistics, join_rows, statistics_from_tally

BLOCK_BYTES = 1 << 26
"""Bytes of a block: what one thread counts in a row, and what the content hash of a longer tensor is made of."""

BATCH_BYTES = 1 << 20
"""Tensors in a row that together have no more bytes are measured as one task."""

BATCH_JOBS = 64

TAIL_BYTES = 4 * BLOCK_BYTES
"""Bytes a thread of the last tensors: these are taken the largest first, so that no thread waits long for another's last."""

DRAWN_TAIL_BYTES = BLOCK_BYTES
"""The same where the disk is waited for, which brings them in their order: what has come is better counted than kept."""

_PATIENCE_S = 0.1


@dataclass(frozen=True)
class Job:
    """One tensor to measure.

    `input_axis`: the axis of a 2-D weight that its inputs run along (1 for Linear (out, in), 0 for Conv1D (in, out)); None:
    rows, columns and N:M patterns are not looked for. `residual_axis`: the axis that the residual stream (hidden size) indexes,
    for the signature; None: a vector is its own profile, anything else has no signature. `is_counted` is false for packed
    words: they are hashed and nothing else.
    """

    ref: TensorRef
    input_axis: int | None = None
    residual_axis: int | None = None
    is_counted: bool = True


@dataclass(frozen=True, kw_only=True)
class Measurement(Statistics):
    """What was measured of one tensor; the fields are columns of the tensors table.

    zero_rows (outputs), zero_cols (inputs): 0 where there are no zeros or no input axis; None for empty and uncounted tensors,
    and for F4 and F6 with some zeros. nm_pattern is along the inputs in aligned groups, for a matrix with zeros: `trivial`
    where all is zero; else `not applicable` where four does not divide the inputs; else `1:4` (at most one value in each group
    of four), else `2:4`, else `4:8` (where eight divides the inputs); None where none of these holds or none was looked for.
    The spectral numbers are those of spectral.Spectrum, None where they were not asked for.
    """

    content_hash: str
    zero_rows: int | None = None
    zero_cols: int | None = None
    nm_pattern: str | None = None
    signature: list[float] | None = None
    spectral_norm: float | None = None
    stable_rank: float | None = None
    effective_rank: float | None = None
    alpha: float | None = None


def known_of_codes(measured: Measurement) -> Measurement:
    """What is known of values whose codes were measured and whose scales were not: where they are zero, NaN or infinite."""
    known = {name: getattr(measured, name) for name in ("content_hash", "zeros", "nans", "infs", "signature")}
    return Measurement(**known, zero_rows=measured.zero_rows, zero_cols=measured.zero_cols, nm_pattern=measured.nm_pattern)


Outcome = tuple[int, Measurement | InputError]


def measure(
    jobs: Sequence[Job],
    *,
    threads: int,
    near_zero: float | None = None,
    device: str = "cpu",
    chunk_bytes: int = 2 << 20,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> Iterator[Outcome]:
    """Measure tensors; yields (index of the job, measurement or what kept it from being read) as they are finished.

    What is yielded depends on neither `threads`, `device` (cpu, or one that torch knows) nor `chunk_bytes`, but its order does.
    `near_zero` is the magnitude up to which near_zeros counts. `on_bytes` is called in the caller's thread with how many
    logical bytes were dealt with since its last call, those of unreadable tensors included. Closing the generator stops the
    threads at their next chunk.
    """
    if not jobs:
        return
    threads = max(1, threads)
    run = _Run(jobs, near_zero, device, chunk_bytes, threads)
    workers = [threading.Thread(target=run.work, name=f"measure-{number}", daemon=True) for number in range(threads)]
    try:
        for worker in workers:
            worker.start()
        left = len(jobs)
        while left:
            with suppress(Empty):
                found = run.outcomes.get(timeout=_PATIENCE_S)
                if isinstance(found, BaseException):
                    raise found
                left -= len(found)
                yield from found
            if count := run.take_bytes():
                on_bytes(count)
    finally:
        run.stop()
        for worker in workers:
            if worker.ident is not None:
                worker.join()


class _StoppedError(Exception):
    """The caller closed the generator."""


@dataclass
class _Worker:
    """What one thread reads and counts with."""

    reader: TensorReader
    counter: AnyCounter


class _Tensor:
    """A tensor under way. Parts of a pass may run in different threads; passes follow each other."""

    def __init__(self, index: int, job: Job, near_zero: float | None, position: int) -> None:
        self.index, self.job, self.near_zero = index, job, near_zero
        self.position = position  # bytes of all tensors before
        self.size = job.ref.logical_bytes
        self.blocks = max(1, -(-self.size // BLOCK_BYTES))
        self.error: InputError | None = None
        self._parts_left = self.blocks
        self._lock = threading.Lock()
        self._total = Total(job.ref.dtype, self.blocks)
        self._digests = [b""] * self.blocks
        self._statistics = Statistics()
        self._zeros: ZeroStructure | None = None
        self._found: tuple[int | None, int | None, str | None] = (0, 0, None)

    def finished(self, parts: int) -> bool:
        """Say that so many parts of the pass are done; whether they were the last."""
        with self._lock:
            self._parts_left -= parts
            return self._parts_left == 0

    def count(self, worker: _Worker, first: int, last: int, on_chunk: Callable[[int], None]) -> None:
        """Hash and count the blocks from `first` to before `last`."""
        ref, bits = self.job.ref, DTYPES[self.job.ref.dtype].bits
        start, stop = first * BLOCK_BYTES, min(last * BLOCK_BYTES, self.size)
        if self.job.is_counted:
            worker.counter.begin(ref.dtype, min(ref.elements, stop * 8 // bits) - start * 8 // bits, self.near_zero)
        for block in range(first, last):
            low = block * BLOCK_BYTES
            high = min(low + BLOCK_BYTES, stop)
            content = ContentHash(high - low)
            for chunk in worker.reader.chunks(ref, low, high):
                if self.job.is_counted:
                    worker.counter.add(chunk, content)
                else:
                    content.update(chunk)
                on_chunk(chunk.size)
            self._digests[block] = content.digest()
        if not self.job.is_counted:
            return
        tally = worker.counter.finish()
        if tally.rows is not None:
            tally = replace(tally, rows=join_rows(tally.rows)[np.newaxis])
        with self._lock:
            self._total.add(first, tally)

    def needs_second_pass(self) -> bool:
        """After the first pass: take the statistics, and whether zeros may fill a row or column or form a pattern."""
        ref, axis = self.job.ref, self.job.input_axis
        if not self.job.is_counted:
            self._found = (None, None, None)
            return False
        self._statistics = statistics_from_tally(ref.dtype, self._total.tally(), self.near_zero)
        zeros = self._statistics.zeros or 0
        if ref.elements == 0:
            self._statistics, self._found = Statistics(0), (None, None, None)
        if axis is None or zeros == 0 or len(ref.shape) != 2:
            return False
        outputs, inputs = ref.shape[1 - axis], ref.shape[axis]
        if zeros == ref.elements:
            self._found = (outputs, inputs, "trivial")
        elif DTYPES[ref.dtype].bits < 8:
            self._found = (None, None, None)
        elif zeros < min(outputs, inputs):  # and so under half of the elements
            self._found = (0, 0, "not applicable" if inputs % 4 else None)
        else:
            self._zeros = ZeroStructure(ref.dtype, outputs, inputs)
            self._parts_left = self.blocks
        return self._zeros is not None

    def find_zeros(self, worker: _Worker, block: int, on_chunk: Callable[[int], None]) -> None:
        """Look at the zeros of one block of the matrix (outputs, inputs)."""
        assert self._zeros is not None
        ref = self.job.ref
        if self.job.input_axis == 0:
            strides = ref.strides or (ref.shape[1], 1)
            ref = replace(ref, shape=ref.shape[::-1], strides=strides[::-1])
        start = block * BLOCK_BYTES

        def chunks() -> Iterator[Array]:
            for chunk in worker.reader.chunks(ref, start, min(start + BLOCK_BYTES, self.size)):
                on_chunk(0)
                yield chunk

        self._zeros.look(chunks(), start * 8 // DTYPES[ref.dtype].bits, worker.counter)

    def outcome(self, worker: _Worker) -> Outcome:
        """After the last pass: everything, the signature taken now."""
        if self.error is not None:
            return self.index, self.error
        if self._zeros is not None:
            self._found = (self._zeros.zero_rows, self._zeros.zero_columns, self._zeros.pattern)
        try:
            sketched = signature(worker.reader, self.job.ref, self.job.residual_axis) if self.job.is_counted else None
        except InputError as error:
            return self.index, error
        joined = self._digests[0] if self.blocks == 1 else xxhash.xxh3_128_digest(b"".join(self._digests))
        return self.index, Measurement(
            **vars(self._statistics),
            content_hash=joined.hex(),
            zero_rows=self._found[0],
            zero_cols=self._found[1],
            nm_pattern=self._found[2],
            signature=sketched,
        )


Task = Callable[[_Worker], "list[Task]"]
"""Work for one thread; returns the tasks that it makes possible."""


class _Run:
    """The threads' common state: tasks to take, outcomes to hand over, bytes to report."""

    def __init__(self, jobs: Sequence[Job], near_zero: float | None, device: str, chunk_bytes: int, threads: int) -> None:
        self.outcomes: Queue[list[Outcome] | BaseException] = Queue(maxsize=64)
        self.stopped = threading.Event()
        self._device, self._chunk_bytes = device, chunk_bytes
        positions = list(accumulate((job.ref.logical_bytes for job in jobs), initial=0))  # the last is after all
        tensors = (_Tensor(index, job, near_zero, positions[index]) for index, job in enumerate(jobs))
        self._prefetch = Prefetch(job.ref for job in jobs)
        self._tasks = self._plan(tensors, positions, threads)
        self._next: deque[Task] = deque()
        self._busy = 0
        self._turn = threading.Condition()
        self._bytes = 0
        self._bytes_lock = threading.Lock()

    def work(self) -> None:
        """Take tasks until there are none; the body of a thread."""
        try:
            with TensorReader(self._chunk_bytes, in_place=self._device == "cpu", arrived=self._prefetch.arrived) as reader:
                worker = _Worker(reader, make_counter(self._device))
                while task := self._take():
                    self._return(task(worker))
        except _StoppedError:
            pass
        except BaseException as error:  # raised again in the caller's thread
            with suppress(_StoppedError):
                self._put(error)

    def stop(self) -> None:
        """End the threads at their next chunk."""
        self.stopped.set()
        self._prefetch.close()

    def take_bytes(self) -> int:
        """Bytes dealt with since the last call."""
        with self._bytes_lock:
            count, self._bytes = self._bytes, 0
        return count

    def _plan(self, tensors: Iterator[_Tensor], positions: Sequence[int], threads: int) -> Iterator[Task]:
        """Tasks in the order of the jobs, made as they are taken; the last of several threads the largest first."""

        def start_of(tail_bytes: int) -> int:
            return bisect_left(positions, positions[-1] - threads * tail_bytes)

        if threads > 1:
            tail = start_of(TAIL_BYTES)
            yield from (task for _, task in self._tasks_of(islice(tensors, tail)))
            self._prefetch.reach(positions[tail])
            if self._prefetch.has_drawn:
                yield from (task for _, task in self._tasks_of(islice(tensors, max(0, start_of(DRAWN_TAIL_BYTES) - tail))))
            last = deque(sorted(self._tasks_of(tensors), key=itemgetter(0), reverse=True))
            while last:  # what is taken is kept no longer
                yield last.popleft()[1]
        yield from (task for _, task in self._tasks_of(tensors))

    def _tasks_of(self, tensors: Iterable[_Tensor]) -> Iterator[tuple[int, Task]]:
        """Tasks in the order of tensors, each after its bytes."""
        batch: list[_Tensor] = []
        batch_bytes = 0
        for tensor in tensors:
            if batch and (batch_bytes + tensor.size > BATCH_BYTES or len(batch) == BATCH_JOBS):
                yield batch_bytes, partial(self._measure_batch, batch)
                batch, batch_bytes = [], 0
            if tensor.size <= BATCH_BYTES:
                batch.append(tensor)
                batch_bytes += tensor.size
            elif BLOCK_BYTES * 8 % DTYPES[tensor.job.ref.dtype].bits:  # F6: an element may lie across two blocks
                yield tensor.size, partial(self._count, tensor, 0, tensor.blocks)
            else:
                for block in range(tensor.blocks):
                    yield min(BLOCK_BYTES, tensor.size - block * BLOCK_BYTES), partial(self._count, tensor, block, block + 1)
        if batch:
            yield batch_bytes, partial(self._measure_batch, batch)

    def _take(self) -> Task | None:
        with self._turn:
            while not self.stopped.is_set():
                task = self._next.popleft() if self._next else next(self._tasks, None)
                if task is not None:
                    self._busy += 1
                    return task
                if self._busy == 0:
                    return None
                self._turn.wait(_PATIENCE_S)
        return None

    def _return(self, more: list[Task]) -> None:
        with self._turn:
            self._busy -= 1
            self._next.extend(more)
            if more or self._busy == 0:
                self._turn.notify_all()

    def _put(self, found: list[Outcome] | BaseException) -> None:
        while not self.stopped.is_set():
            with suppress(Full):
                self.outcomes.put(found, timeout=_PATIENCE_S)
                return
        raise _StoppedError

    def _add_bytes(self, count: int) -> None:
        if self.stopped.is_set():
            raise _StoppedError
        with self._bytes_lock:
            self._bytes += count

    def _measure_batch(self, batch: Sequence[_Tensor], worker: _Worker) -> list[Task]:
        """Small tensors, from the first byte to the outcome."""
        outcomes: list[Outcome] = []
        self._prefetch.reach(batch[-1].position)
        for tensor in batch:
            try:
                tensor.count(worker, 0, 1, _ignore)
                if tensor.needs_second_pass():
                    tensor.find_zeros(worker, 0, _ignore)
            except InputError as error:
                tensor.error = error
            outcomes.append(tensor.outcome(worker))
            self._add_bytes(tensor.size)
        self._put(outcomes)
        return []

    def _count(self, tensor: _Tensor, first: int, last: int, worker: _Worker) -> list[Task]:
        """Blocks of a larger tensor; the last to be counted opens the second pass or ends the tensor."""
        left = min(last * BLOCK_BYTES, tensor.size) - first * BLOCK_BYTES
        self._prefetch.reach(tensor.position + first * BLOCK_BYTES)

        def on_chunk(count: int) -> None:
            nonlocal left
            left -= count
            self._add_bytes(count)

        try:
            if tensor.error is None:
                tensor.count(worker, first, last, on_chunk)
        except InputError as error:
            tensor.error = error
        self._add_bytes(left)
        if not tensor.finished(last - first):
            return []
        if tensor.error is None and tensor.needs_second_pass():
            return [partial(self._find_zeros, tensor, block) for block in range(tensor.blocks)]
        self._put([tensor.outcome(worker)])
        return []

    def _find_zeros(self, tensor: _Tensor, block: int, worker: _Worker) -> list[Task]:
        """The second pass over one block of a larger tensor."""
        try:
            if tensor.error is None:
                tensor.find_zeros(worker, block, self._add_bytes)
        except InputError as error:
            tensor.error = error
        if tensor.finished(1):
            self._put([tensor.outcome(worker)])
        return []


def _ignore(_: int) -> None:
    """Small tensors report their bytes once."""
