"""Measures many tensors by several threads. Each tensor's bytes are read once, or twice if zeros may form rows or patterns.

A tensor of over BLOCK_BYTES is counted in blocks of that size by whichever threads are free; small tensors are measured in
batches. Memory: a chunk and tables per thread (and tiles for strided views), mappings of 32 MiB of the page cache, 0.5 MiB per
tensor in progress, and where the zeros of a matrix are searched a byte for each row, and a byte for each column and thread.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, islice
from operator import itemgetter
from queue import Empty, Full, Queue

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.dtypes import DTYPES
from layerhouse.ingest.measure.devices import CPU, make_counter
from layerhouse.ingest.measure.io.prefetch import Prefetch
from layerhouse.ingest.measure.io.tensor_reader import TensorReader
from layerhouse.ingest.measure.measurement import Job
from layerhouse.ingest.measure.tensor_task import Outcome, TensorTask, Worker

BLOCK_BYTES = 1 << 26
"""Bytes of a block: one thread counts it, and the content hash of a longer tensor is made of the hashes of its blocks."""

BATCH_BYTES = 1 << 20
"""Tensors in a row that together have no more bytes are measured as one task."""

BATCH_JOBS = 64

TAIL_BYTES = 4 * BLOCK_BYTES
"""Bytes per thread at the end of which the largest tensors come first, so that no thread waits long for another's last one."""

COLD_TAIL_BYTES = BLOCK_BYTES
"""The same where bytes were not in the page cache: the disk delivers them in file order, and what has arrived is best
counted."""

_POLL_S = 0.1


def measure(
    jobs: Sequence[Job],
    *,
    threads: int,
    near_zero: float | None = None,
    device: str = "cpu",
    chunk_bytes: int = 2 << 20,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> Iterator[Outcome]:
    """Measure tensors; yields (index of the job, measurement or InputError) as they are finished.

    The measurements do not depend on `threads`, `device` (cpu, or one that torch knows) or `chunk_bytes`; their order does.
    `near_zero` is the magnitude up to which near_zeros counts. `on_bytes` is called in the caller's thread with the logical
    bytes processed since its last call, including those of unreadable tensors. Closing the generator stops the threads at their
    next chunk.
    """
    if not jobs:
        return
    threads = max(1, threads)
    run = _Run(jobs, _Options(near_zero, device, chunk_bytes, threads))
    workers = [threading.Thread(target=run.work, name=f"measure-{number}", daemon=True) for number in range(threads)]
    try:
        for worker in workers:
            worker.start()
        left = len(jobs)
        while left:
            with suppress(Empty):
                outcomes = run.outcomes.get(timeout=_POLL_S)
                if isinstance(outcomes, BaseException):
                    raise outcomes
                left -= len(outcomes)
                yield from outcomes
            if count := run.take_bytes():
                on_bytes(count)
    finally:
        run.stop()
        for worker in workers:
            if worker.ident is not None:
                worker.join()


class _StoppedError(Exception):
    """The caller closed the generator."""


@dataclass(frozen=True)
class _Options:
    near_zero: float | None
    device: str
    chunk_bytes: int
    threads: int


Step = Callable[[Worker], "list[Step]"]
"""Work for one thread; returns the steps that it makes possible."""


class _Run:
    """The state that the threads share: steps to take, outcomes to deliver, bytes to report."""

    def __init__(self, jobs: Sequence[Job], options: _Options) -> None:
        self.outcomes: Queue[list[Outcome] | BaseException] = Queue(maxsize=64)
        self.stopped = threading.Event()
        self._options = options
        positions = list(accumulate((job.ref.logical_bytes for job in jobs), initial=0))  # the last one is the end
        tensors = (TensorTask(index, job, positions[index], options.near_zero, BLOCK_BYTES) for index, job in enumerate(jobs))
        self._prefetch = Prefetch(job.ref for job in jobs)
        self._steps = self._plan(tensors, positions)
        self._ready: deque[Step] = deque()
        self._busy = 0
        self._condition = threading.Condition()
        self._bytes = 0
        self._bytes_lock = threading.Lock()

    def work(self) -> None:
        """Take steps until none is left; the body of a thread."""
        device, chunk_bytes = self._options.device, self._options.chunk_bytes
        try:
            with TensorReader(chunk_bytes, in_place=device == CPU, arrived=self._prefetch.arrived) as reader:
                worker = Worker(reader, make_counter(device))
                while step := self._take():
                    self._return(step(worker))
        except _StoppedError:
            pass
        except BaseException as error:  # raised again in the caller's thread
            with suppress(_StoppedError):
                self._deliver(error)

    def stop(self) -> None:
        """End the threads at their next chunk."""
        self.stopped.set()
        self._prefetch.close()

    def take_bytes(self) -> int:
        """The bytes processed since the last call."""
        with self._bytes_lock:
            count, self._bytes = self._bytes, 0
        return count

    def _plan(self, tensors: Iterator[TensorTask], positions: Sequence[int]) -> Iterator[Step]:
        """Steps in the order of the jobs, made as they are taken; at the end of several threads' work the largest come
        first."""
        threads = self._options.threads

        def tail_start(tail_bytes: int) -> int:
            return bisect_left(positions, positions[-1] - threads * tail_bytes)

        if threads > 1:
            tail = tail_start(TAIL_BYTES)
            yield from (step for _, step in self._steps_of(islice(tensors, tail)))
            self._prefetch.reach(positions[tail])
            if self._prefetch.has_prefetched:
                yield from (step for _, step in self._steps_of(islice(tensors, max(0, tail_start(COLD_TAIL_BYTES) - tail))))
            last = deque(sorted(self._steps_of(tensors), key=itemgetter(0), reverse=True))
            while last:  # popped, so that a finished tensor is freed
                yield last.popleft()[1]
        yield from (step for _, step in self._steps_of(tensors))

    def _steps_of(self, tensors: Iterable[TensorTask]) -> Iterator[tuple[int, Step]]:
        """The number of bytes of each step and the step, in the order of the tensors."""
        batch: list[TensorTask] = []
        batch_bytes = 0
        for tensor in tensors:
            if batch and (batch_bytes + tensor.size > BATCH_BYTES or len(batch) == BATCH_JOBS):
                yield batch_bytes, partial(self._measure_batch, batch)
                batch, batch_bytes = [], 0
            if tensor.size <= BATCH_BYTES:
                batch.append(tensor)
                batch_bytes += tensor.size
            elif BLOCK_BYTES * 8 % DTYPES[tensor.job.ref.dtype].bits:  # F6: an element may cross the end of a block
                yield tensor.size, partial(self._count, tensor, 0, tensor.blocks)
            else:
                for block in range(tensor.blocks):
                    yield min(BLOCK_BYTES, tensor.size - block * BLOCK_BYTES), partial(self._count, tensor, block, block + 1)
        if batch:
            yield batch_bytes, partial(self._measure_batch, batch)

    def _take(self) -> Step | None:
        with self._condition:
            while not self.stopped.is_set():
                step = self._ready.popleft() if self._ready else next(self._steps, None)
                if step is not None:
                    self._busy += 1
                    return step
                if self._busy == 0:
                    return None
                self._condition.wait(_POLL_S)
        return None

    def _return(self, following: list[Step]) -> None:
        with self._condition:
            self._busy -= 1
            self._ready.extend(following)
            if following or self._busy == 0:
                self._condition.notify_all()

    def _deliver(self, outcomes: list[Outcome] | BaseException) -> None:
        while not self.stopped.is_set():
            with suppress(Full):
                self.outcomes.put(outcomes, timeout=_POLL_S)
                return
        raise _StoppedError

    def _add_bytes(self, count: int) -> None:
        if self.stopped.is_set():
            raise _StoppedError
        with self._bytes_lock:
            self._bytes += count

    def _measure_batch(self, batch: Sequence[TensorTask], worker: Worker) -> list[Step]:
        """Measure small tensors, from the first byte to the outcome."""
        outcomes: list[Outcome] = []
        self._prefetch.reach(batch[-1].position)
        for tensor in batch:
            try:
                tensor.count(worker, 0, 1, _ignore)
                if tensor.needs_second_pass():
                    tensor.search_zeros(worker, 0, _ignore)
            except InputError as error:
                tensor.error = error
            outcomes.append(tensor.outcome(worker))
            self._add_bytes(tensor.size)
        self._deliver(outcomes)
        return []

    def _count(self, tensor: TensorTask, first: int, last: int, worker: Worker) -> list[Step]:
        """Count blocks of a larger tensor; the last of them starts the second pass or finishes the tensor."""
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
        if not tensor.finish_blocks(last - first):
            return []
        if tensor.error is None and tensor.needs_second_pass():
            return [partial(self._search_zeros, tensor, block) for block in range(tensor.blocks)]
        self._deliver([tensor.outcome(worker)])
        return []

    def _search_zeros(self, tensor: TensorTask, block: int, worker: Worker) -> list[Step]:
        """The second pass over one block of a larger tensor."""
        try:
            if tensor.error is None:
                tensor.search_zeros(worker, block, self._add_bytes)
        except InputError as error:
            tensor.error = error
        if tensor.finish_blocks(1):
            self._deliver([tensor.outcome(worker)])
        return []


def _ignore(_: int) -> None:
    """Small tensors report their bytes once, at the end."""
