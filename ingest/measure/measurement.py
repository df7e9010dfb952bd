"""A tensor to measure, and what is measured of it."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from layerhouse.ingest.checkpoint.tensor_ref import TensorRef
from layerhouse.ingest.measure.statistics import Statistics
from layerhouse.vocabulary import ZeroPattern


@dataclass(frozen=True)
class Job:
    """One tensor to measure.

    `input_axis`: the axis of a 2-D weight that its inputs run along (1 for Linear (out, in), 0 for Conv1D (in, out)); None:
    zero rows, zero columns and N:M patterns are not searched for. `residual_axis`: the axis that the residual stream (hidden
    size) indexes, for the signature; None: a vector is its own profile, other tensors have no signature. `is_counted` is False
    for packed words, of which only the content hash is computed. `values_ref` is what signature and sketch are of; None: `ref`,
    if that is counted.
    """

    ref: TensorRef
    input_axis: int | None = None
    residual_axis: int | None = None
    is_counted: bool = True
    values_ref: TensorRef | None = None

    @property
    def profiled(self) -> TensorRef | None:
        """The tensor whose values signature and sketch are of."""
        return self.ref if self.values_ref is None and self.is_counted else self.values_ref


@dataclass(frozen=True, kw_only=True)
class Measurement(Statistics):
    """What was measured of one tensor; the fields are columns of the tensors table.

    zero_rows (outputs), zero_cols (inputs): 0 for a tensor without zeros; None where they are not counted: for empty tensors,
    those with zeros that are no matrix or have no input axis, and F4 and F6 with some zeros. nm_pattern is along the inputs, in
    aligned groups, for a matrix with zeros: a ZeroPattern, or None if none holds or none was searched for. The spectral numbers
    are those of spectrum.Spectrum, None if they were not requested. A tensor whose bytes are not read has no content_hash.
    """

    content_hash: str | None = None
    zero_rows: int | None = None
    zero_cols: int | None = None
    nm_pattern: ZeroPattern | str | None = None
    signature: list[float] | None = None
    sketch: array[float] | None = None
    spectral_norm: float | None = None
    stable_rank: float | None = None
    effective_rank: float | None = None
    alpha: float | None = None


NOTHING = Measurement()
"""What is measured of a tensor whose bytes are not read."""


def scale_free_part(measured: Measurement) -> Measurement:
    """What holds of values whose codes were counted without their scales: where they are zero, NaN or infinite, and what their
    profile is, which is of the values or missing.
    """
    known = {name: getattr(measured, name) for name in ("content_hash", "zeros", "nans", "infs", "signature", "sketch")}
    return Measurement(**known, zero_rows=measured.zero_rows, zero_cols=measured.zero_cols, nm_pattern=measured.nm_pattern)
