"""The loops of _loops.c in numpy, for machines without the extension, and the reference that its tests compare it with.

All results are those of the C loops to the bit; only what a docstring leaves open may differ (the order of distinct patterns,
which of several tables counts a pattern). Nothing is mixed into a content hash here: see content_hash.ContentHash.
"""

from __future__ import annotations

from layerhouse.ingest.measure.kernels.numpy_counts import (
    count_bytes,
    count_few,
    count_words,
    describe_codes,
    drain,
    sum_codes,
)
from layerhouse.ingest.measure.kernels.numpy_marks import mark_nonzero_words, mark_nonzeros
from layerhouse.ingest.measure.kernels.numpy_sums import (
    add_bfloat16,
    add_signed,
    add_squares,
    add_up,
    count_differences,
    moments,
    moments_of_floats,
    project,
)

__all__ = [
    "add_bfloat16",
    "add_signed",
    "add_squares",
    "add_up",
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
