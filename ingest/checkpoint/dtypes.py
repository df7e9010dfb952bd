"""The one table of element types: safetensors' code, width in bits, and how a bit pattern encodes a value.

Sources: the safetensors format's dtype list; OCP 8-bit and Microscaling formats for F8, F6 and F4; IEEE 754 for the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class DType:
    """One element type. `bits` per element; `kind` is float, int, uint, bool or complex.

    For floats `exponent` and `mantissa` are widths of fields in bits, and `special` says which patterns are not finite: ieee
    (the top exponent is infinity and NaN), fn (all ones is NaN, no infinity), fnuz (negative zero's pattern is NaN, no
    infinity, no negative zero), e8m0 (a power of two, all ones is NaN, no zero), none (every pattern is finite).
    """

    code: str
    bits: int
    kind: str
    exponent: int = 0
    mantissa: int = 0
    bias: int = 0
    special: str = "ieee"


DTYPES: dict[str, DType] = {
    dtype.code: dtype
    for dtype in (
        DType("BOOL", 8, "bool"),
        DType("U8", 8, "uint"),
        DType("I8", 8, "int"),
        DType("I16", 16, "int"),
        DType("U16", 16, "uint"),
        DType("I32", 32, "int"),
        DType("U32", 32, "uint"),
        DType("I64", 64, "int"),
        DType("U64", 64, "uint"),
        DType("F16", 16, "float", 5, 10, 15),
        DType("BF16", 16, "float", 8, 7, 127),
        DType("F32", 32, "float", 8, 23, 127),
        DType("F64", 64, "float", 11, 52, 1023),
        DType("C64", 64, "complex"),
        DType("F8_E4M3", 8, "float", 4, 3, 7, "fn"),
        DType("F8_E5M2", 8, "float", 5, 2, 15),
        DType("F8_E8M0", 8, "float", 8, 0, 127, "e8m0"),
        DType("F8_E4M3FNUZ", 8, "float", 4, 3, 8, "fnuz"),
        DType("F8_E5M2FNUZ", 8, "float", 5, 2, 16, "fnuz"),
        DType("F6_E2M3", 6, "float", 2, 3, 1, "none"),
        DType("F6_E3M2", 6, "float", 3, 2, 3, "none"),
        DType("F4", 4, "float", 2, 1, 1, "none"),
    )
}

TORCH_DTYPES: dict[str, str] = {
    "float32": "F32",
    "float": "F32",
    "float64": "F64",
    "double": "F64",
    "float16": "F16",
    "half": "F16",
    "bfloat16": "BF16",
    "int8": "I8",
    "uint8": "U8",
    "int16": "I16",
    "short": "I16",
    "uint16": "U16",
    "int32": "I32",
    "int": "I32",
    "uint32": "U32",
    "int64": "I64",
    "long": "I64",
    "uint64": "U64",
    "bool": "BOOL",
    "complex64": "C64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
}
"""torch's names of its dtypes, as pickles and configs spell them."""
TORCH_STORAGES: dict[str, str] = {
    "FloatStorage": "F32",
    "DoubleStorage": "F64",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "ShortStorage": "I16",
    "IntStorage": "I32",
    "LongStorage": "I64",
    "BoolStorage": "BOOL",
    "ComplexFloatStorage": "C64",
    "UntypedStorage": "U8",
}
"""torch's storage classes, as pickles spell them."""
QUANTIZED_STORAGES: dict[str, tuple[str, int]] = {
    "QInt8Storage": ("I8", 8),
    "QUInt8Storage": ("U8", 8),
    "QInt32Storage": ("I32", 32),
    "QUInt4x2Storage": ("U8", 4),
    "QUInt2x4Storage": ("U8", 2),
}
"""torch's storage classes of quantised tensors: the type of what is stored, and the bits of one code in it."""


@cache
def decoded(code: str) -> np.ndarray:
    """A lookup table of a type of at most 16 bits: bit pattern as an unsigned integer -> float64 value."""
    import numpy as np

    dtype = DTYPES[code]
    patterns = np.arange(1 << dtype.bits, dtype=np.uint32)
    if dtype.kind in ("uint", "bool"):
        return patterns.astype(np.float64)
    if dtype.kind == "int":
        return np.where(
            patterns >> (dtype.bits - 1), patterns.astype(np.float64) - (1 << dtype.bits), patterns.astype(np.float64)
        )
    if dtype.special == "e8m0":
        values = np.ldexp(1.0, patterns.astype(np.int64) - dtype.bias)
        values[-1] = np.nan
        return values
    sign = np.where(patterns >> (dtype.bits - 1), -1.0, 1.0)
    exponents = (patterns >> dtype.mantissa) & ((1 << dtype.exponent) - 1)
    fractions = (patterns & ((1 << dtype.mantissa) - 1)).astype(np.float64)
    scale = float(1 << dtype.mantissa)
    subnormal = np.ldexp(fractions / scale, 1 - dtype.bias)
    normal = np.ldexp(1.0 + fractions / scale, exponents.astype(np.int64) - dtype.bias)
    values = sign * np.where(exponents == 0, subnormal, normal)
    top = (1 << dtype.exponent) - 1
    if dtype.special == "ieee":
        values = np.where(exponents == top, np.where(fractions == 0, sign * np.inf, np.nan), values)
    elif dtype.special == "fn":
        values[(patterns & ((1 << (dtype.bits - 1)) - 1)) == (1 << (dtype.bits - 1)) - 1] = np.nan
    elif dtype.special == "fnuz":
        values[1 << (dtype.bits - 1)] = np.nan
    return values


def byte_count(code: str, elements: int) -> int:
    """Bytes of so many elements, packed without padding and rounded up to a whole byte."""
    return (elements * DTYPES[code].bits + 7) // 8
