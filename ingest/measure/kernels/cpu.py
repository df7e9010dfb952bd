"""Loops over the bytes of tensors, each without Python's lock, so that threads count side by side.

They are a C extension (_loops.c). Where it could not be built, the same loops are compiled by numba on the machine (jit.py):
the same results to the bit, at a start that takes half a second longer. Only the extension mixes what it counts into a hash
(`begin`, `mix`, `digest`, and the last argument of some loops; content_hash.ContentHash).
"""

from __future__ import annotations

try:
    from layerhouse.ingest.measure.kernels import _loops as loops

    IS_BUILT = True
except ImportError:
    from layerhouse.ingest.measure.kernels import jit as loops  # type: ignore[no-redef]

    IS_BUILT = False

add_bfloat16 = loops.add_bfloat16
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


def announce() -> None:
    """Log, at level INFO, that the first call will compile, where it will."""
    if not IS_BUILT:
        from layerhouse.ingest.measure.kernels.jit import announce as announce_compiling

        announce_compiling()
