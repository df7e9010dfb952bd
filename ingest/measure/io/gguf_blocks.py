"""Block-quantised tensors of GGUF as one code an element, zero just where the value is zero, and as values.

The forms are those of ggml (ggml-common.h, dequantize_row_* in ggml-quants.c), whose products are float32. Types whose values
are indices into codebooks are not read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from layerhouse.ingest.checkpoint.dtypes import decoded

Array = npt.NDArray[Any]
Blocks = Callable[[Array], Array]
"""From blocks as stored, uint8 (blocks, bytes of a block), to codes or float32 values (blocks, elements of a block)."""

_PLACES_OF_2_BITS = np.array([0, 2, 4, 6], np.uint8)[:, np.newaxis]


def _half(blocks: Array, at: int) -> Array:
    """The float16 at a byte of each block, as float32 (blocks, 1)."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16).astype(np.float32)


def _halves(packed: Array) -> Array:
    """The low bits of all bytes, then the high bits."""
    return np.concatenate([packed & 15, packed >> 4], axis=1)


def _fifth_bits(blocks: Array, at: int) -> Array:
    """32 bits of each block, one an element, in place for a fifth bit."""
    return np.unpackbits(blocks[:, at : at + 4], axis=1, bitorder="little") << 4


def _codes(codes: Array, is_zero: Array) -> Array:
    return np.where(is_zero, 0, codes.astype(np.uint8) + 1).astype(np.uint8)


def _two_bits(packed: Array) -> Array:
    """64 bytes as 256 fields of 2 bits: of every 32 bytes the lowest ones first."""
    return ((packed.reshape(-1, 2, 1, 32) >> _PLACES_OF_2_BITS) & 3).reshape(-1, 256)


def _nibbles_of_5_bits(blocks: Array, at: int) -> Array:
    """Codes of 5 bits: the fifth ones at a byte of each block, then the nibbles."""
    return _halves(blocks[:, at + 4 : at + 20]) | _fifth_bits(blocks, at)


def _q4_0(blocks: Array) -> Array:
    codes = _halves(blocks[:, 2:18])
    return _codes(codes, (codes == 8) | (_half(blocks, 0) == 0))


def _q4_0_values(blocks: Array) -> Array:
    return _half(blocks, 0) * (_halves(blocks[:, 2:18]).astype(np.float32) - 8)


def _q4_1(blocks: Array) -> Array:
    return _codes(_halves(blocks[:, 4:20]), _q4_1_values(blocks) == 0)


def _q4_1_values(blocks: Array) -> Array:
    return _half(blocks, 0) * _halves(blocks[:, 4:20]) + _half(blocks, 2)


def _q5_0(blocks: Array) -> Array:
    codes = _nibbles_of_5_bits(blocks, 2)
    return _codes(codes, (codes == 16) | (_half(blocks, 0) == 0))


def _q5_0_values(blocks: Array) -> Array:
    return _half(blocks, 0) * (_nibbles_of_5_bits(blocks, 2).astype(np.float32) - 16)


def _q5_1(blocks: Array) -> Array:
    return _codes(_nibbles_of_5_bits(blocks, 4), _q5_1_values(blocks) == 0)


def _q5_1_values(blocks: Array) -> Array:
    return _half(blocks, 0) * _nibbles_of_5_bits(blocks, 4) + _half(blocks, 2)


def _q8_0(blocks: Array) -> Array:
    return np.where(_half(blocks, 0) == 0, 0, blocks[:, 2:34]).astype(np.uint8)


def _q8_0_values(blocks: Array) -> Array:
    return _half(blocks, 0) * blocks[:, 2:34].view(np.int8)


def _q2_k_parts(blocks: Array) -> tuple[Array, Array]:
    """Codes and values (blocks, 16, 16): scales and minima of 16 elements in a byte."""
    codes = _two_bits(blocks[:, 16:80]).reshape(-1, 16, 16)
    scales = _half(blocks, 80) * (blocks[:, :16] & 15)
    minima = _half(blocks, 82) * (blocks[:, :16] >> 4)
    return codes, scales[:, :, np.newaxis] * codes - minima[:, :, np.newaxis]


def _q2_k(blocks: Array) -> Array:
    codes, values = _q2_k_parts(blocks)
    return _codes(codes, values == 0).reshape(-1, 256)


def _q2_k_values(blocks: Array) -> Array:
    return _q2_k_parts(blocks)[1].reshape(-1, 256)


def _q3_k_parts(blocks: Array) -> tuple[Array, Array]:
    """Codes (blocks, 16, 16), a third bit in a mask, which stands for 4, and scales, of 6 bits less 32 for 16 elements."""
    low = _two_bits(blocks[:, 32:96]).reshape(-1, 8, 32)
    high = (blocks[:, np.newaxis, :32] >> np.arange(8, dtype=np.uint8)[:, np.newaxis]) & 1
    codes = (low | high << 2).reshape(-1, 16, 16)
    stored = blocks[:, 96:108]
    low_scales = np.concatenate([stored[:, :8] & 15, stored[:, :8] >> 4], axis=1)
    high_scales = ((stored[:, np.newaxis, 8:12] >> _PLACES_OF_2_BITS) & 3).reshape(-1, 16)
    scales = _half(blocks, 108) * ((low_scales | high_scales << 4).astype(np.float32) - 32)
    return codes, scales[:, :, np.newaxis]


def _q3_k(blocks: Array) -> Array:
    codes, scales = _q3_k_parts(blocks)
    return _codes(codes, (codes == 4) | (scales == 0)).reshape(-1, 256)


def _q3_k_values(blocks: Array) -> Array:
    codes, scales = _q3_k_parts(blocks)
    return (scales * (codes.astype(np.float32) - 4)).reshape(-1, 256)


def _scales_and_minima(stored: Array) -> tuple[Array, Array]:
    """Eight scales and eight minima of 6 bits in 12 bytes (get_scale_min_k4)."""
    first, second, third = stored[:, :4], stored[:, 4:8], stored[:, 8:12]
    scales = np.concatenate([first & 63, (third & 15) | (first >> 6) << 4], axis=1)
    minima = np.concatenate([second & 63, (third >> 4) | (second >> 6) << 4], axis=1)
    return scales, minima


def _of_k(blocks: Array, codes: Array) -> Array:
    """Values of codes (blocks, 8, 32) of the types that have d, dmin, and eight scales and minima."""
    scales, minima = _scales_and_minima(blocks[:, 4:16])
    scaled, shifted = _half(blocks, 0) * scales, _half(blocks, 2) * minima
    values: Array = scaled[:, :, np.newaxis] * codes - shifted[:, :, np.newaxis]
    return values


def _nibbles_of_k(packed: Array) -> Array:
    """128 bytes as (8, 32): the low and then the high bits of every 32."""
    quarters = packed.reshape(-1, 4, 32)
    return np.stack([quarters & 15, quarters >> 4], axis=2).reshape(-1, 8, 32)


def _q4_k(blocks: Array) -> Array:
    codes = _nibbles_of_k(blocks[:, 16:144])
    return _codes(codes, _of_k(blocks, codes) == 0).reshape(-1, 256)


def _q4_k_values(blocks: Array) -> Array:
    return _of_k(blocks, _nibbles_of_k(blocks[:, 16:144])).reshape(-1, 256)


def _q5_k_codes(blocks: Array) -> Array:
    high = (blocks[:, np.newaxis, 16:48] >> np.arange(8, dtype=np.uint8)[:, np.newaxis]) & 1
    codes: Array = _nibbles_of_k(blocks[:, 48:176]) | high << 4
    return codes


def _q5_k(blocks: Array) -> Array:
    codes = _q5_k_codes(blocks)
    return _codes(codes, _of_k(blocks, codes) == 0).reshape(-1, 256)


def _q5_k_values(blocks: Array) -> Array:
    return _of_k(blocks, _q5_k_codes(blocks)).reshape(-1, 256)


def _q6_k_codes(blocks: Array) -> Array:
    """Codes (blocks, 16, 16); 32 is zero."""
    low = blocks[:, :128].reshape(-1, 2, 2, 32)
    low = np.stack([low & 15, low >> 4], axis=2).reshape(-1, 2, 4, 32)
    high = (blocks[:, 128:192].reshape(-1, 2, 1, 32) >> _PLACES_OF_2_BITS) & 3
    codes: Array = low | high << 4
    return codes.reshape(-1, 16, 16)


def _q6_k(blocks: Array) -> Array:
    codes = _q6_k_codes(blocks)
    is_flat = (blocks[:, 192:208] == 0) | (_half(blocks, 208) == 0)
    return _codes(codes, (codes == 32) | is_flat[:, :, np.newaxis]).reshape(-1, 256)


def _q6_k_values(blocks: Array) -> Array:
    """Scales of 8 bits for 16 elements."""
    scales = _half(blocks, 208) * blocks[:, 192:208].view(np.int8)
    return (scales[:, :, np.newaxis] * (_q6_k_codes(blocks).astype(np.float32) - 32)).reshape(-1, 256)


def _tq1_0_codes(blocks: Array) -> Array:
    """Five ternary digits a byte, as a fraction of 256: the next digit is the carry of a multiplication by 3."""
    powers = np.array([1, 3, 9, 27, 81], np.uint8)[:, np.newaxis]

    def digits(stored: Array, count: int) -> Array:
        turned = (stored[:, np.newaxis, :] * powers[:count]).astype(np.uint8)
        return (turned.astype(np.uint16) * 3 >> 8).astype(np.uint8).reshape(len(stored), -1)

    return np.concatenate([digits(blocks[:, :32], 5), digits(blocks[:, 32:48], 5), digits(blocks[:, 48:52], 4)], axis=1)


def _tq1_0(blocks: Array) -> Array:
    codes = _tq1_0_codes(blocks)
    return _codes(codes, (codes == 1) | (_half(blocks, 52) == 0))


def _tq1_0_values(blocks: Array) -> Array:
    return _half(blocks, 52) * (_tq1_0_codes(blocks).astype(np.float32) - 1)


def _tq2_0(blocks: Array) -> Array:
    codes = _two_bits(blocks[:, :64])
    return _codes(codes, (codes == 1) | (_half(blocks, 64) == 0))


def _tq2_0_values(blocks: Array) -> Array:
    return _half(blocks, 64) * (_two_bits(blocks[:, :64]).astype(np.float32) - 1)


def _mxfp4(blocks: Array) -> Array:
    """E2M1; both of its zeros are 8-bit floats' zeros, as for other FP4 weights."""
    codes = _halves(blocks[:, 1:17])
    return (codes & 7) | (codes & 8) << 4


def _mxfp4_values(blocks: Array) -> Array:
    """E2M1 times a power of two; the scale of all ones is one, and no NaN."""
    scales = np.ldexp(np.float32(1), blocks[:, :1].astype(np.int32) - 128)
    return scales * _DOUBLED_F4[_halves(blocks[:, 1:17])]


_DOUBLED_F4 = 2 * decoded("F4").astype(np.float32)

BLOCKS: dict[str, Blocks] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "TQ1_0": _tq1_0,
    "TQ2_0": _tq2_0,
    "MXFP4": _mxfp4,
}
"""Blocks to codes, by ggml's name of the type."""

BLOCK_VALUES: dict[str, Blocks] = {
    "Q4_0": _q4_0_values,
    "Q4_1": _q4_1_values,
    "Q5_0": _q5_0_values,
    "Q5_1": _q5_1_values,
    "Q8_0": _q8_0_values,
    "Q2_K": _q2_k_values,
    "Q3_K": _q3_k_values,
    "Q4_K": _q4_k_values,
    "Q5_K": _q5_k_values,
    "Q6_K": _q6_k_values,
    "TQ1_0": _tq1_0_values,
    "TQ2_0": _tq2_0_values,
    "MXFP4": _mxfp4_values,
}
"""Blocks to values, by ggml's name of the type."""
