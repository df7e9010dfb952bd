"""Loops over the bytes of tensors: the C extension `_loops`, or their reference in numpy where it is not installed.

The C loops release the GIL, so that threads count in parallel. Both give the same results. Only the extension mixes what it
counts into a content hash (`begin`, `mix`, `digest`, and the optional last argument of some loops).
"""

from __future__ import annotations

try:
    from layerhouse.ingest.measure.kernels import _loops as loops

    IS_BUILT = True
except ImportError:
    from layerhouse.ingest.measure.kernels import numpy_loops as loops  # type: ignore[no-redef]

    IS_BUILT = False

ENGINE = "C" if IS_BUILT else "numpy"
"""What the loops are written in."""

add_bfloat16 = loops.add_bfloat16
add_signed = loops.add_signed
add_squares = loops.add_squares
add_up = loops.add_up
count_bytes = loops.count_bytes
count_differences = loops.count_differences
count_few = loops.count_few
count_words = loops.count_words
describe_codes = loops.describe_codes
drain = loops.drain
mark_nonzero_words = loops.mark_nonzero_words
mark_nonzeros = loops.mark_nonzeros
moments = loops.moments
moments_of_floats = loops.moments_of_floats
project = loops.project
sum_codes = loops.sum_codes

if IS_BUILT:
    begin = loops.begin
    mix = loops.mix
    digest = loops.digest
