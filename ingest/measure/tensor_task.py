"""One tensor that is being measured: a pass that counts, and a second one if zeros may form rows, columns or patterns."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.dtypes import DTYPES
from layerhouse.ingest.measure.content_hash import ContentHash
from layerhouse.ingest.measure.counter import AnyCounter
from layerhouse.ingest.measure.io.tensor_reader import TensorReader
from layerhouse.ingest.measure.measurement import Job, Measurement
from layerhouse.ingest.measure.signatures import NO_PROFILE, read_profile
from layerhouse.ingest.measure.statistics import EMPTY, Statistics, join_rows, statistics_from_tally
from layerhouse.ingest.measure.tally import Total
from layerhouse.ingest.measure.zero_structure import ZeroStructure
from layerhouse.vocabulary import ZeroPattern

Array = npt.NDArray[Any]
Outcome = tuple[int, Measurement | InputError]
"""The index of a job, and its measurement or the reason why it could not be read."""


@dataclass
class Worker:
    """The reader and the counter of one thread."""

    reader: TensorReader
    counter: AnyCounter


@dataclass(frozen=True)
class Zeros:
    """What is known of a matrix's zeros."""

    rows: int | None = 0
    columns: int | None = 0
    pattern: ZeroPattern | None = None


UNKNOWN_ZEROS = Zeros(None, None)


class TensorTask:
    """Measures one tensor in blocks. Threads may work on different blocks of a pass; the passes follow each other.

    `position` is the number of bytes of all tensors before this one.
    """

    def __init__(self, index: int, job: Job, position: int, near_zero: float | None, block_bytes: int) -> None:
        self.index, self.job, self.position = index, job, position
        self.size = job.ref.logical_bytes
        self.blocks = max(1, -(-self.size // block_bytes))
        self.error: InputError | None = None
        self._near_zero, self._block_bytes = near_zero, block_bytes
        self._blocks_left = self.blocks
        self._lock = threading.Lock()
        self._total = Total(job.ref.dtype, self.blocks)
        self._digests = [b""] * self.blocks
        self._statistics = Statistics()
        self._zeros = Zeros()
        self._structure: ZeroStructure | None = None

    def finish_blocks(self, count: int) -> bool:
        """Record that `count` blocks of the pass are done; returns whether they were the last."""
        with self._lock:
            self._blocks_left -= count
            return self._blocks_left == 0

    def count(self, worker: Worker, first: int, last: int, on_chunk: Callable[[int], None]) -> None:
        """Hash and count the blocks from `first` to before `last`."""
        ref, bits = self.job.ref, DTYPES[self.job.ref.dtype].bits
        start, stop = first * self._block_bytes, min(last * self._block_bytes, self.size)
        if self.job.is_counted:
            worker.counter.begin(ref.dtype, min(ref.elements, stop * 8 // bits) - start * 8 // bits, self._near_zero)
        for block in range(first, last):
            low = block * self._block_bytes
            high = min(low + self._block_bytes, stop)
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
        """After the first pass: compute the statistics; returns whether zeros may fill a row or column or form a pattern."""
        ref, axis = self.job.ref, self.job.input_axis
        if not self.job.is_counted:
            self._zeros = UNKNOWN_ZEROS
            return False
        self._statistics = statistics_from_tally(ref.dtype, self._total.tally(), self._near_zero)
        zeros = self._statistics.zeros
        if ref.elements == 0:
            self._statistics, self._zeros = EMPTY, UNKNOWN_ZEROS
            return False
        if zeros == 0:
            return False
        if zeros is None or axis is None or len(ref.shape) != 2:
            self._zeros = UNKNOWN_ZEROS
            return False
        outputs, inputs = ref.shape[1 - axis], ref.shape[axis]
        if zeros == ref.elements:
            self._zeros = Zeros(outputs, inputs, ZeroPattern.TRIVIAL)
        elif DTYPES[ref.dtype].bits < 8:
            self._zeros = UNKNOWN_ZEROS
        elif zeros < min(outputs, inputs):  # and so under half of the elements: no row, column or pattern
            self._zeros = Zeros(pattern=ZeroPattern.NOT_APPLICABLE if inputs % 4 else None)
        else:
            self._structure = ZeroStructure(ref.dtype, outputs, inputs)
            self._blocks_left = self.blocks
        return self._structure is not None

    def search_zeros(self, worker: Worker, block: int, on_chunk: Callable[[int], None]) -> None:
        """Search the zeros of one block of the matrix (outputs, inputs)."""
        assert self._structure is not None
        ref = self.job.ref
        if self.job.input_axis == 0:
            strides = ref.strides or (ref.shape[1], 1)
            ref = replace(ref, shape=ref.shape[::-1], strides=strides[::-1])
        start = block * self._block_bytes

        def chunks() -> Iterator[Array]:
            for chunk in worker.reader.chunks(ref, start, min(start + self._block_bytes, self.size)):
                on_chunk(0)
                yield chunk

        self._structure.search(chunks(), start * 8 // DTYPES[ref.dtype].bits, worker.counter)

    def outcome(self, worker: Worker) -> Outcome:
        """After the last pass: the measurement, with the signature and sketch that are computed now."""
        if self.error is not None:
            return self.index, self.error
        zeros, structure = self._zeros, self._structure
        if structure is not None:
            zeros = Zeros(structure.zero_rows, structure.zero_columns, structure.pattern)
        try:
            profiled = self.job.profiled
            profile = NO_PROFILE if profiled is None else read_profile(worker.reader, profiled, self.job.residual_axis)
        except InputError as error:
            return self.index, error
        digest = self._digests[0] if self.blocks == 1 else xxhash.xxh3_128_digest(b"".join(self._digests))
        return self.index, Measurement(
            **vars(self._statistics),
            content_hash=digest.hex(),
            zero_rows=zeros.rows,
            zero_cols=zeros.columns,
            nm_pattern=zeros.pattern,
            signature=profile.signature,
            sketch=profile.sketch,
        )
