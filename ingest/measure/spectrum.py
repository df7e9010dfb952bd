"""Numbers of a weight matrix's singular values: norm, ranks, and the exponent of the tail of its spectrum.

Singular values are computed in float32 (solvers.Solver), of the matrix divided by a power of two near its greatest magnitude.
Both solvers are backward stable: each value is within about 1e-6 of the greatest one of what float64 gives, so spectral_norm,
stable_rank and effective_rank agree to a relative 1e-5. alpha depends on the logarithms of the tail and on where the tail
starts, which a last digit may move: it agrees to a relative 1e-3 on matrices of random weights.

A matrix of more than WHOLE_BYTES is read a block of rows at a time. The triangle of a QR decomposition has the singular values
of all rows so far; it is decomposed again together with the next block. Memory: about six squares of the smaller dimension,
which MAX_SMALLER bounds, in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from layerhouse.ingest.checkpoint.dtypes import DTYPES
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef
from layerhouse.ingest.measure.decode import floats_of
from layerhouse.ingest.measure.io.tensor_reader import TensorReader
from layerhouse.ingest.measure.solvers import Solver, make_solver
from layerhouse.ingest.measure.statistics import scale_up

Array = npt.NDArray[Any]

MAX_SMALLER = 8192
"""A matrix whose smaller dimension is greater has no spectrum: memory and time grow with its square and cube."""

WHOLE_BYTES = 1 << 28
"""float32 bytes of a matrix that is decomposed whole."""

LEAST_VALUES = 50
"""Fewer values in a spectrum, or in its tail, have no exponent: Clauset et al. 2009, section 3, on small samples."""


@dataclass(frozen=True)
class Spectrum:
    """Numbers of one matrix, named as the columns of the tensors table that hold them.

    spectral_norm: the greatest singular value s1. stable_rank: sum of s^2 over s1^2 (Rudelson, Vershynin 2007). effective_rank:
    exp of the entropy of s over the sum of s (Roy, Vetterli 2007). alpha: see fit_alpha. A matrix of zeros has norm 0; the rest
    is None. `reason` says why a number is None.
    """

    spectral_norm: float | None = None
    stable_rank: float | None = None
    effective_rank: float | None = None
    alpha: float | None = None
    reason: str | None = None


def measure_spectra(
    refs: Iterable[TensorRef], device: str, on_done: Callable[[int], None] = lambda size: None
) -> Iterator[Spectrum]:
    """The spectrum of each matrix, in order, one at a time. `on_done` is called with the logical bytes of each.

    Raises InputError if bytes cannot be read, and UsageError if the device fails.
    """
    solver = make_solver(device)
    with TensorReader() as reader:
        for ref in refs:
            yield _measure(reader, ref, solver)
            on_done(ref.logical_bytes)


def describe_values(values: Array, larger: int, scale: float = 1.0) -> Spectrum:
    """The numbers of singular values (descending, any float type), times `scale`; `larger` is the matrix's larger dimension.

    alpha leaves out values up to s1 * larger * 2**-23, the usual bound of the rounding errors of a float32 decomposition.
    """
    values = np.asarray(values, np.float64)
    if values.size == 0 or values[0] == 0:
        return Spectrum(0.0 if values.size else None, reason="all zero" if values.size else "empty")
    shares = values[values > 0] / values.sum()
    entropy = -float(np.sum(shares * np.log(shares)))
    noise = values[0] * larger * np.finfo(np.float32).eps
    alpha = fit_alpha(np.square(values[values > noise] / values[0]))
    return Spectrum(
        spectral_norm=float(values[0]) * scale,
        stable_rank=float(np.sum(np.square(values / values[0]))),
        effective_rank=math.exp(entropy),
        alpha=alpha,
        reason=None if alpha is not None else f"no alpha: under {LEAST_VALUES} singular values, or none that differ",
    )


def fit_alpha(eigenvalues: Array) -> float | None:
    """Exponent of a power law p(x) ~ x^-alpha, x >= x_min, fitted to eigenvalues of W^T W.

    The estimator of Clauset, Shalizi and Newman 2009 (SIAM Review 51, equations 3.1 and 3.9), as Martin and Mahoney 2021 (JMLR
    22:165) fit spectra of weights. Each eigenvalue but the greatest is tried as x_min: alpha = 1 + n / sum(log(x / x_min)) over
    the n eigenvalues from it on. The x_min with the least Kolmogorov-Smirnov distance is chosen. None for under LEAST_VALUES
    eigenvalues, or if no tail has two that differ.
    """
    values = np.sort(np.asarray(eigenvalues, np.float64))
    if values.size < LEAST_VALUES:
        return None
    logs = np.log(values)
    counts = np.arange(values.size, 0, -1)
    spreads = np.cumsum(logs[::-1])[::-1] - counts * logs
    best, alpha = math.inf, None
    for first in range(values.size - 1):
        if spreads[first] <= 1e-12 * counts[first]:
            continue
        slope = counts[first] / spreads[first]
        law = -np.expm1(slope * (logs[first] - logs[first:]))
        distance = float(np.abs(law - np.arange(counts[first]) / counts[first]).max())
        if distance < best:
            best, alpha = distance, 1.0 + float(slope)
    return alpha


def _measure(reader: TensorReader, ref: TensorRef, solver: Solver) -> Spectrum:
    if len(ref.shape) != 2 or DTYPES[ref.dtype].kind in ("complex", "bool") or DTYPES[ref.dtype].bits < 8:
        return Spectrum(reason="no matrix of plain numbers")
    rows, columns = ref.shape
    if ref.elements == 0:
        return Spectrum(reason="empty")
    if min(rows, columns) > MAX_SMALLER:
        return Spectrum(reason=f"both dimensions are over {MAX_SMALLER}")
    if rows < columns and 4 * ref.elements > WHOLE_BYTES:
        strides = ref.strides or (columns, 1)
        ref = replace(ref, shape=(columns, rows), strides=strides[::-1])
    top = 0.0
    for block in _blocks(reader, ref):
        if not np.isfinite(block).all():
            return Spectrum(reason="some values are not finite")
        top = max(top, float(np.abs(block).max()))
    if top == 0:
        return describe_values(np.zeros(1), 1)
    exponent = math.frexp(top)[1]
    triangle = _triangle(
        (np.ldexp(block, -exponent).astype(np.float32) for block in _blocks(reader, ref)), ref.shape[0], solver
    )
    spectrum = describe_values(solver.singular_values(triangle), max(rows, columns))
    assert spectrum.spectral_norm is not None
    return replace(spectrum, spectral_norm=scale_up(spectrum.spectral_norm, exponent))


def _triangle(blocks: Iterable[Array], rows: int, solver: Solver) -> Array:
    """A matrix with the singular values of the blocks of rows: their one block, or the triangle of their QR decomposition."""
    triangle: Array | None = None
    for block in blocks:
        if block.shape[0] == rows:
            return block
        triangle = solver.triangle(block if triangle is None else np.concatenate((triangle, block)))
    assert triangle is not None
    return triangle


def _blocks(reader: TensorReader, ref: TensorRef) -> Iterator[Array]:
    """The values of a matrix, in blocks of rows: all rows if it is decomposed whole, else twice as many as there are
    columns."""
    rows, columns = ref.shape
    height = rows if 4 * ref.elements <= WHOLE_BYTES else 2 * columns
    for low in range(0, rows, height):
        high = min(low + height, rows)
        elements = reader.elements(ref, low * columns, high * columns)
        yield floats_of(ref.dtype, elements.view(np.uint8)).reshape(high - low, columns)
