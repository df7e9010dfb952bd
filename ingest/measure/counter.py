"""From the bytes of a tensor to counts: how often each pattern occurs, and what else cannot be had from that.

A tensor is counted in blocks, by any threads; `Total` joins the blocks' tallies in the order of the blocks, so that the outcome
depends on neither threads nor chunks.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from layerhouse.ingest.checkpoint.dtypes import DTYPES
from layerhouse.ingest.measure.kernels.moments import ROW, SUB_BLOCK

if TYPE_CHECKING:
    from layerhouse.ingest.measure.content_hash import ContentHash

Array = npt.NDArray[Any]

FEW_ELEMENTS = 4096
"""Up to this many elements of 16 bits are counted into a table of which only the touched entries are cleared."""

LEAST_DEVICE_BYTES = 1 << 20
"""Fewer bytes cost more to send to a GPU than to count here."""

INTEGER_KEY_BASE = 1022 << 9
"""See `key_of`: subtracted from the top 21 bits of a magnitude as a double, so that the key of 1 is 512."""


@dataclass(frozen=True)
class Tally:
    """What was counted in a part of a tensor.

    `codes` are distinct patterns (types of at most 16 bits) or keys of magnitude (the rest, see `key_of`) in any order,
    `counts` how often each occurs, int64. Only 32- and 64-bit types fill the rest: near_zeros is 0 without a threshold; `least`
    and `greatest` are over finite values (inf, -inf if there are none); `rows`: see numpy_sums.moments.
    """

    codes: Array
    counts: Array
    zeros: int = 0
    nans: int = 0
    infs: int = 0
    near_zeros: int = 0
    least: float = np.inf
    greatest: float = -np.inf
    rows: Array | None = None


def fits_device(code: str, elements: int) -> bool:
    """Whether a GPU counts a tensor, or block of one: types of 8 and 16 bits, but no small tensors."""
    bits = DTYPES[code].bits
    return bits in (8, 16) and elements * bits // 8 >= LEAST_DEVICE_BYTES


def counted_by_code(code: str) -> bool:
    """Whether every number of a tensor follows from how often each of its patterns occurs."""
    return DTYPES[code].bits <= 16


def key_of(code: str, chunk: Array) -> tuple[Array, Array]:
    """Values (float32 or float64) of a chunk of a 32- or 64-bit type, and the 16-bit keys that its histogram counts.

    Floats: the top 16 bits of the pattern. Integers: exponent and the top 9 bits of the fraction of the magnitude as a double,
    0 for 0; every magnitude below 1024 has its own key. An integer beyond 2**53 is rounded to the nearest double.
    """
    dtype = DTYPES[code]
    if dtype.kind == "float":
        width = dtype.bits // 16
        return chunk.view(f"f{dtype.bits // 8}"), np.ascontiguousarray(chunk.view(np.uint16)[width - 1 :: width])
    values = chunk.view(f"{'i' if dtype.kind == 'int' else 'u'}{dtype.bits // 8}").astype(np.float64)
    keys = (np.abs(values).view(np.uint64) >> np.uint64(43)).astype(np.int64) - INTEGER_KEY_BASE
    return values, np.maximum(keys, 0).astype(np.uint16)


class AnyCounter(Protocol):
    """What counts the chunks of one tensor at a time, on some device, for one thread."""

    def begin(self, code: str, elements: int, near_zero: float | None) -> None: ...

    def add(self, chunk: Array, content: ContentHash | None = None) -> None: ...

    def finish(self) -> Tally: ...

    def mark_nonzeros(
        self, chunks: Iterable[Array], code: str, mask: int, start: int, rows: Array, columns: Array, fullest: Array
    ) -> bool: ...


class Counter:
    """Counts chunks of one tensor at a time, for one thread; its tables are used again. 1.2 MiB."""

    def __init__(self) -> None:
        from layerhouse.ingest.measure.kernels import cpu

        self._cpu = cpu
        self._tables = {8: np.zeros((4, 1 << 8), np.uint32), 16: np.zeros((2, 1 << 16), np.uint32)}
        self._codes = np.empty(1 << 16, np.uint16)
        self._counts = np.empty(1 << 16, np.int64)
        self._dirty = False
        self.begin("U8", 0, None)

    def begin(self, code: str, elements: int, near_zero: float | None) -> None:
        """Start with the next `elements` elements of a type. They must be under 2**32, the range of a table."""
        self._dtype = DTYPES[code]
        self._left = elements
        self._few = elements <= FEW_ELEMENTS
        self._near_zero = -1.0 if near_zero is None else near_zero
        self._small = np.zeros(1 << self._dtype.bits, np.int64) if self._dtype.bits < 8 else None
        self._mixes = self._dtype.bits == 8 or (self._dtype.bits == 16 and not self._few) or code == "F32"
        self._carry = np.empty(0, np.uint8)
        self._few_found = -1
        self._tallied = np.zeros(4, np.int64)
        self._ends = np.array([np.inf, -np.inf])
        self._rows: list[Array] = []
        if self._dirty:  # what came before was given up
            self._cpu.drain(self._tables[8], self._codes, self._counts)
            self._cpu.drain(self._tables[16], self._codes, self._counts)
        self._dirty = False

    def add(self, chunk: Array, content: ContentHash | None = None) -> None:
        """Count a chunk of bytes, and mix it into the hash of its content; all but the last are a multiple of 32 KiB."""
        dtype = self._dtype
        state: tuple[bytearray, ...] = ()
        if content is not None and content.state is not None and self._mixes:
            state = (content.state,)
        elif content is not None:
            content.update(chunk)
        if self._small is not None:
            self._add_packed(chunk)
        elif dtype.kind == "complex":
            self._add_complex(chunk.view(f"c{dtype.bits // 8}"))
        elif dtype.bits <= 16:
            self._add_codes(chunk.view(f"u{dtype.bits // 8}"), *state)
        elif dtype.code == "F32":
            self._add_floats(chunk, *state)
        else:
            values, keys = key_of(dtype.code, chunk)
            rows = np.empty((-(-values.size // SUB_BLOCK), ROW))
            self._cpu.moments(values, self._near_zero, self._tallied, self._ends, rows)
            self._rows.append(rows)
            self._add_codes(keys)

    def finish(self) -> Tally:
        """The tally of all that was added since `begin`."""
        if self._small is not None:
            found = np.flatnonzero(self._small)
            return Tally(found, self._small[found])
        codes, counts = self._drained()
        if self._dtype.bits <= 16:
            return Tally(codes, counts)
        zeros, nans, infs, near_zeros = (int(count) for count in self._tallied)
        rows = np.concatenate(self._rows) if self._rows else None
        return Tally(codes, counts, zeros, nans, infs, near_zeros, float(self._ends[0]), float(self._ends[1]), rows)

    def mark_nonzeros(
        self, chunks: Iterable[Array], code: str, mask: int, start: int, rows: Array, columns: Array, fullest: Array
    ) -> bool:
        """See mark_on_cpu; always done."""
        mark_on_cpu(chunks, code, mask, start, rows, columns, fullest)
        return True

    def _drained(self) -> tuple[Array, Array]:
        found = self._few_found
        if found < 0:
            found = self._cpu.drain(self._tables[min(self._dtype.bits, 16)], self._codes, self._counts) if self._dirty else 0
            self._dirty = False
        return self._codes[:found].copy(), self._counts[:found].copy()

    def _add_codes(self, codes: Array, *state: bytearray) -> None:
        if self._few and codes.itemsize == 2:
            self._few_found = self._cpu.count_few(codes, self._tables[16][0], self._codes, self._counts)
        else:
            self._dirty = True
            if codes.itemsize == 1:
                self._cpu.count_bytes(codes, self._tables[8], *state)
            else:
                whole = codes.size // 4 * 4
                self._cpu.count_words(codes[:whole].view(np.uint64), codes[whole:], self._tables[16], *state)

    def _add_floats(self, chunk: Array, *state: bytearray) -> None:
        values = chunk.view(np.float32)
        rows = np.empty((-(-values.size // SUB_BLOCK), ROW))
        self._dirty = True
        self._cpu.moments_of_floats(values, self._near_zero, self._tallied, self._ends, rows, self._tables[16], *state)
        self._rows.append(rows)

    def _add_complex(self, values: Array) -> None:
        with np.errstate(invalid="ignore"):  # a signalling NaN
            zeros, nans = values == 0, np.isnan(values)
        found = (np.count_nonzero(zeros), np.count_nonzero(nans), np.count_nonzero(np.isinf(values) & ~nans), 0)
        self._tallied += np.array(found)

    def _add_packed(self, chunk: Array) -> None:
        """Codes of 4 or 6 bits, little-endian within the stream of bits: the low bits of the first byte come first."""
        assert self._small is not None
        bits = self._dtype.bits
        stream = np.concatenate((self._carry, chunk))
        if bits == 4:
            codes = np.stack((stream & 15, stream >> 4), axis=1).ravel()
        else:
            whole = stream.size // 3 * 3
            if whole * 8 // bits < self._left <= stream.size * 8 // bits:  # the end of the tensor, within three bytes
                stream, whole = np.concatenate((stream, np.zeros(whole + 3 - stream.size, np.uint8))), whole + 3
            self._carry = stream[whole:]
            triples = stream[:whole].reshape(-1, 3).astype(np.uint32)
            words = triples[:, 0] | triples[:, 1] << 8 | triples[:, 2] << 16
            codes = np.stack([words >> shift & 63 for shift in (0, 6, 12, 18)], axis=1).ravel()
        codes = codes[: self._left]
        self._left -= codes.size
        self._small += np.bincount(codes, minlength=self._small.size)


def make_counter(device: str) -> AnyCounter:
    """A counter for one thread. `device` is cpu or one that torch knows, such as cuda:0."""
    if device == "cpu":
        return Counter()
    from layerhouse.ingest.measure.gpu_counter import DeviceCounter

    return DeviceCounter(device)


class Total:
    """Joins the tallies of a tensor's blocks. Not locked: the caller sees to it that one thread adds at a time."""

    def __init__(self, code: str, blocks: int) -> None:
        self._tallies: list[Tally | None] = [None] * blocks
        self._counts = np.zeros(1 << min(DTYPES[code].bits, 16), np.int64) if blocks > 1 else None

    def add(self, block: int, tally: Tally) -> None:
        """Take in the tally of one block; `rows` are to be one row a block by now."""
        if self._counts is not None:
            self._counts[tally.codes] += tally.counts
            empty = np.empty(0, np.int64)
            tally = Tally(empty, empty, *list(vars(tally).values())[2:])
        self._tallies[block] = tally

    def tally(self) -> Tally:
        """The tally of the tensor, once the blocks are in."""
        tallies = [tally for tally in self._tallies if tally is not None]
        if self._counts is None:
            return tallies[0]
        codes = np.flatnonzero(self._counts)
        rows = [tally.rows for tally in tallies if tally.rows is not None]
        return Tally(
            codes,
            self._counts[codes],
            sum(tally.zeros for tally in tallies),
            sum(tally.nans for tally in tallies),
            sum(tally.infs for tally in tallies),
            sum(tally.near_zeros for tally in tallies),
            min(tally.least for tally in tallies),
            max(tally.greatest for tally in tallies),
            np.concatenate(rows) if rows else None,
        )


def mark_on_cpu(chunks: Iterable[Array], code: str, mask: int, start: int, rows: Array, columns: Array, fullest: Array) -> None:
    """Mark rows and columns of a matrix that hold a value, in chunks of bytes from element `start` on; cpu.mark_nonzeros."""
    from layerhouse.ingest.measure.kernels import cpu

    size = DTYPES[code].bits // 8
    is_by_words = size in (2, 4) and columns.size % 8 == 0 and start % 8 == 0
    flags = np.zeros(columns.size * size // 8 if is_by_words else 0, np.uint64)
    if is_by_words:
        flags.view(f"u{size}")[:] = columns.astype(f"u{size}") << (8 * size - 1)
    masks, tops = (np.uint64(sum(bits << place for place in range(0, 64, 8 * size))) for bits in (mask, 1 << (8 * size - 1)))
    for chunk in chunks:
        words = chunk.view(np.uint64) if is_by_words and chunk.size % (8 * size) == 0 else None
        if words is not None and words.flags.aligned:
            cpu.mark_nonzero_words(words, masks, tops, start, rows, flags, fullest)
        else:
            cpu.mark_nonzeros(chunk.view(f"u{size}"), np.uint64(mask), start, rows, columns, fullest)
        start += chunk.size // size
    if is_by_words:
        columns |= flags.view(f"u{size}") != 0


class ZeroStructure:
    """Which rows and columns of a matrix (outputs, inputs) hold no value, and which N:M pattern runs along its inputs.

    Threads may look at different parts at once: a row is only ever set, columns are joined under a lock. Memory: a byte for
    each row, and for each column one and one more a thread.
    """

    def __init__(self, code: str, outputs: int, inputs: int) -> None:
        dtype = DTYPES[code]
        everything = (1 << dtype.bits) - 1
        signs = {"complex": (1 << 31) | (1 << 63), "float": 1 << (dtype.bits - 1)}.get(dtype.kind, 0)
        self._mask = np.uint64(everything if dtype.special in ("fnuz", "e8m0") else everything & ~signs)
        self._code = code
        self._rows = np.zeros(outputs, np.uint8)
        self._columns = np.zeros(inputs, np.uint8)
        self._fullest = np.zeros(2, np.int64)
        self._lock = threading.Lock()

    def look(self, chunks: Iterable[Array], start: int, counter: AnyCounter) -> None:
        """Look at chunks of bytes that follow each other from element `start` on, a multiple of 8."""
        with self._lock:  # what is known already need not be looked for
            columns, fullest = self._columns.copy(), self._fullest.copy()
        found = (self._rows, columns, fullest)
        if not counter.mark_nonzeros(chunks, self._code, int(self._mask), start, *found):
            mark_on_cpu(chunks, self._code, int(self._mask), start, *found)
        with self._lock:
            self._columns |= columns
            np.maximum(self._fullest, fullest, out=self._fullest)

    @property
    def zero_rows(self) -> int:
        return int(self._rows.size - np.count_nonzero(self._rows))

    @property
    def zero_columns(self) -> int:
        return int(self._columns.size - np.count_nonzero(self._columns))

    @property
    def pattern(self) -> str | None:
        """`1:4`, `2:4` or `4:8`, the first that holds; None: none does."""
        four, eight = self._fullest.tolist()
        if self._columns.size % 4:
            return "not applicable"
        if four <= 2:
            return "1:4" if four <= 1 else "2:4"
        return "4:8" if self._columns.size % 8 == 0 and eight <= 4 else None
