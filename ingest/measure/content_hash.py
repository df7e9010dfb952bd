"""The content hash of bytes that come in chunks: XXH3 of 128 bits, as the xxhash library computes it.

The C loops that count bytes also mix them into the hash, because hashing them again takes a third of the time of counting them.
Both ways give the same hash.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import xxhash

from layerhouse.ingest.measure.kernels import cpu

Array = npt.NDArray[Any]

LEAST_BYTES = 1 << 16
"""The library hashes fewer bytes as fast as the loops do."""


class ContentHash:
    """The hash of `size` bytes. All chunks but the last must be a multiple of 1024 bytes.

    A chunk goes either to a C loop that takes `state`, or to `update`. `state` is None for short contents and without the C
    extension: then every chunk goes to `update`.
    """

    def __init__(self, size: int) -> None:
        self.state = cpu.begin(size) if size >= LEAST_BYTES and cpu.IS_BUILT else None
        if self.state is None:
            self._hasher = xxhash.xxh3_128()

    def update(self, chunk: Array) -> None:
        """Mix in a chunk of bytes that no loop mixes in."""
        if self.state is None:
            self._hasher.update(chunk.data)
        else:
            cpu.mix(chunk, self.state)

    def digest(self) -> bytes:
        """The 16 bytes of the hash, after the last chunk."""
        return self._hasher.digest() if self.state is None else cpu.digest(self.state)
