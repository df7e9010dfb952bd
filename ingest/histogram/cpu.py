"""Loops over the bytes of tensors, each without Python's lock, so that threads count side by side.

They are a C extension (_loops.c). Where it could not be built, the same loops are compiled by numba on the machine (jit.py):
the same results to the bit, at a start that takes half a second longer.
"""

from __future__ import annotations

from layerhouse.ingest.histogram.moments import ROW, SUB_BLOCK

try:
    from layerhouse.ingest.histogram._loops import (
        add_bfloat16,
        add_squares,
        count_bytes,
        count_differences,
        count_few,
        count_words,
        describe_codes,
        drain,
        mark_nonzero_words,
        mark_nonzeros,
        moments,
        moments_of_floats,
        project,
        sum_codes,
    )

    IS_BUILT = True
except ImportError:
    from layerhouse.ingest.histogram.jit import (
        add_bfloat16,
        add_squares,
        count_bytes,
        count_differences,
        count_few,
        count_words,
        describe_codes,
        drain,
        mark_nonzero_words,
        mark_nonzeros,
        moments,
        moments_of_floats,
        project,
        sum_codes,
    )

    IS_BUILT = False

__all__ = [
    "IS_BUILT",
    "ROW",
    "SUB_BLOCK",
    "add_bfloat16",
    "add_squares",
    "announce",
    "count_bytes",
    "count_differences",
    "count_few",
    "count_words",
    "describe_codes",
    "drain",
    "mark_nonzero_words",
    "mark_nonzeros",
    "moments",
    "moments_of_floats",
    "project",
    "sum_codes",
]


def announce() -> None:
    """Log, at level INFO, that the first call will compile, where it will."""
    if not IS_BUILT:
        from layerhouse.ingest.histogram.jit import announce as announce_compiling

        announce_compiling()
