"""Read the weights of models ahead of their turn, which keeps the disk and all cores busy over many small models.

Models come out in the order of the ingest, so rows, events and commits are the same for any number of workers. A model of at
least LARGE_BYTES is read at its turn by all threads; smaller ones are read ahead, by one thread each. With several devices
every model is read ahead, each on the next device.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")
LARGE_BYTES = 256 << 20
AHEAD = 2
"""Models that are being read or wait to be taken, for each worker. It bounds the memory."""


class ReadAhead(Generic[Item, Read]):
    """A context manager that runs `read(item, device, threads)` for items, given with their sizes in bytes."""

    def __init__(
        self,
        items: Sequence[tuple[Item, int]],
        read: Callable[[Item, str, int], Read],
        *,
        workers: int,
        threads: int,
        devices: Sequence[str],
    ) -> None:
        self._read, self._workers, self._threads, self._devices = read, workers, threads, devices
        self._left = deque(items)
        self._waiting: deque[tuple[Item, Future[Read] | None]] = deque()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="read") if workers > 1 else None
        self._started = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def take(self, item: Item) -> Read:
        """What `read` returns for an item: of those given the next one, or a later one, and those between are not taken.

        Raises what `read` raises.
        """
        while True:
            while self._left and len(self._waiting) < max(1, AHEAD * self._workers):
                self._waiting.append(self._start(*self._left.popleft()))
            expected, future = self._waiting.popleft()
            if expected is item:
                return self._read(item, self._devices[0], self._threads) if future is None else future.result()

    def _start(self, item: Item, size: int) -> tuple[Item, Future[Read] | None]:
        if self._pool is None or (size >= LARGE_BYTES and len(self._devices) == 1):
            return item, None
        device = self._devices[self._started % len(self._devices)]
        self._started += 1
        threads = 1 if size < LARGE_BYTES else max(1, self._threads // self._workers)
        try:
            return item, self._pool.submit(self._read, item, device, threads)
        except RuntimeError:  # the system allows no more threads: it is read at its turn
            return item, None
