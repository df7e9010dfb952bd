"""Values and codes from the bytes of tensors."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from layerhouse.ingest.checkpoint.dtypes import DTYPES, decoded

Array = npt.NDArray[Any]


def floats_of(code: str, chunk: Array) -> Array:
    """The values of a chunk of bytes: float32 where that holds every value of the type, else float64.

    For real types of at least 8 bits. The result may share the chunk's memory. 64-bit integers beyond 2**53 are rounded.
    """
    dtype = DTYPES[code]
    if dtype.bits == 8:
        return np.asarray(_float32_table(code)[chunk])
    if code == "BF16":
        return (chunk.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
    values: Array = chunk.view(f"{dtype.kind[0]}{dtype.bits // 8}")
    if dtype.kind == "float" and dtype.bits >= 32:
        return values
    with np.errstate(invalid="ignore"):  # a signalling NaN
        return values.astype(np.float32 if dtype.bits == 16 else np.float64)


@cache
def _float32_table(code: str) -> Array:
    return decoded(code).astype(np.float32)


class PackedCodes:
    """Unpacks the codes of `elements` elements of 4 or 6 bits from chunks of bytes.

    Codes are little-endian within the stream of bits: the low bits of the first byte come first.
    """

    def __init__(self, bits: int, elements: int) -> None:
        self._bits, self._left = bits, elements
        self._carry = np.empty(0, np.uint8)

    def unpack(self, chunk: Array) -> Array:
        """The codes of the next chunk, without padding bits; a code that continues in the next chunk is left to that one."""
        codes = self._unpack_4(chunk) if self._bits == 4 else self._unpack_6(chunk)
        codes = codes[: self._left]
        self._left -= codes.size
        return codes

    @staticmethod
    def _unpack_4(chunk: Array) -> Array:
        return np.stack((chunk & 15, chunk >> 4), axis=1).ravel()

    def _unpack_6(self, chunk: Array) -> Array:
        """Four codes in three bytes; bytes after the last three are carried over."""
        stream = np.concatenate((self._carry, chunk))
        whole = stream.size // 3 * 3
        if whole // 3 * 4 < self._left <= stream.size * 8 // 6:  # the tensor ends within three bytes
            stream, whole = np.concatenate((stream, np.zeros(whole + 3 - stream.size, np.uint8))), whole + 3
        self._carry = stream[whole:]
        triples = stream[:whole].reshape(-1, 3).astype(np.uint32)
        words = triples[:, 0] | triples[:, 1] << 8 | triples[:, 2] << 16
        return np.stack([words >> shift & 63 for shift in (0, 6, 12, 18)], axis=1).ravel()
