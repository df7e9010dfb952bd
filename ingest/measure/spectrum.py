"""Numbers of a weight matrix's singular values: norm, ranks, and the exponent of the tail of its spectrum.

Singular values are taken in float32, by LAPACK through numpy on the CPU and by torch.linalg.svdvals on a GPU, of the matrix
divided by the power of two at its greatest magnitude. Both are backward stable: each value is within about 1e-6 of the greatest
one of what float64 gives, so that spectral_norm, stable_rank and effective_rank agree to a relative 1e-5. alpha rests on the
logarithms of the tail and on the choice of where it starts, which a last digit may move: to a relative 1e-3 on matrices of
random weights.

A matrix of more than WHOLE_BYTES is taken a block of rows at a time: the triangle of a QR decomposition stands for all rows so
far (its singular values are theirs), and is decomposed again with the next block. Memory: about six squares of the smaller
dimension, which MAX_SMALLER bounds, in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from layerhouse.errors import UsageError
from layerhouse.ingest.checkpoint.dtypes import DTYPES, decoded
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef
from layerhouse.ingest.measure.io.tensor_reader import TensorReader
from layerhouse.optional import require

Array = npt.NDArray[Any]

MAX_SMALLER = 8192
"""A matrix whose smaller dimension is greater has no spectrum: memory and time grow with its square and cube."""

WHOLE_BYTES = 1 << 28
"""float32 bytes of a matrix that is taken at once."""

LEAST_VALUES = 50
"""Fewer values in a spectrum, or in its tail, give no exponent: Clauset et al. 2009, section 3, on small samples."""


@dataclass(frozen=True)
class Spectrum:
    """Numbers of one matrix, named as the columns of the tensors table that hold them.

    spectral_norm: the greatest singular value s1. stable_rank: sum of s^2 over s1^2 (Rudelson, Vershynin 2007). effective_rank:
    exp of the entropy of s over the sum of s (Roy, Vetterli 2007). alpha: see fit_alpha. Of a matrix of zeros the norm is 0 and
    the rest None. `reason` says why something is None.
    """

    spectral_norm: float | None = None
    stable_rank: float | None = None
    effective_rank: float | None = None
    alpha: float | None = None
    reason: str | None = None


class Solver(Protocol):
    """Singular values, descending, and the triangle of a QR decomposition, of float32 matrices."""

    def singular_values(self, matrix: Array) -> Array: ...

    def triangle(self, matrix: Array) -> Array: ...


def make_solver(device: str) -> Solver:
    """The solver of a device: cpu (numpy), or one that torch knows, such as cuda:0."""
    return _NumpySolver() if device == "cpu" else _TorchSolver(device)


def measure_spectra(
    refs: Iterable[TensorRef], device: str, on_done: Callable[[int], None] = lambda size: None
) -> Iterator[Spectrum]:
    """The spectrum of each matrix, in order, one at a time. `on_done` is called with the logical bytes of each.

    Raises InputError where bytes cannot be read and UsageError where the device refuses.
    """
    solver = make_solver(device)
    with TensorReader() as reader:
        for ref in refs:
            yield _measure(reader, ref, solver)
            on_done(ref.logical_bytes)


def describe_values(values: Array, larger: int, scale: float = 1.0) -> Spectrum:
    """The numbers of singular values (descending, any float) of `scale` times a matrix; `larger` is its larger dimension."""
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
    22:165) fit spectra of weights: for each eigenvalue but the greatest as x_min, alpha = 1 + n / sum(log(x / x_min)) over
    the n eigenvalues from it on; the x_min with the least Kolmogorov-Smirnov distance is taken. None for under LEAST_VALUES
    eigenvalues, or where no tail has two that differ.
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
        rows, columns = columns, rows
    top = 0.0
    for part in _blocks(reader, ref, _rows_at_once(ref)):
        if not np.isfinite(part).all():
            return Spectrum(reason="some values are not finite")
        top = max(top, float(np.abs(part).max()))
    if top == 0:
        return describe_values(np.zeros(1), 1)
    exponent = math.frexp(top)[1]
    triangle: Array | None = None
    for part in _blocks(reader, ref, _rows_at_once(ref)):
        scaled = np.ldexp(part, -exponent).astype(np.float32)
        if triangle is None and scaled.shape[0] == rows:
            triangle = scaled
        else:
            triangle = solver.triangle(scaled if triangle is None else np.concatenate((triangle, scaled)))
    assert triangle is not None
    found = describe_values(solver.singular_values(triangle), max(rows, columns))
    assert found.spectral_norm is not None
    return replace(found, spectral_norm=_ldexp(found.spectral_norm, exponent))


def _rows_at_once(ref: TensorRef) -> int:
    """Rows of a block: all of a matrix that may be taken whole, else twice the columns, so that few triangles are made."""
    return ref.shape[0] if 4 * ref.elements <= WHOLE_BYTES else 2 * ref.shape[1]


def _blocks(reader: TensorReader, ref: TensorRef, height: int) -> Iterator[Array]:
    """Blocks of rows, as float32 where that holds every value of the type, else as float64."""
    rows, columns = ref.shape
    size = DTYPES[ref.dtype].bits // 8
    for low in range(0, rows, height):
        high = min(low + height, rows)
        pieces = [_floats(ref.dtype, chunk) for chunk in reader.chunks(ref, low * columns * size, high * columns * size)]
        yield np.concatenate(pieces).reshape(high - low, columns)


def _floats(code: str, chunk: Array) -> Array:
    dtype = DTYPES[code]
    with np.errstate(invalid="ignore"):  # a signalling NaN
        if dtype.bits <= 16:
            return np.asarray(decoded(code).astype(np.float32)[chunk.view(f"u{dtype.bits // 8}")])
        values = chunk.view(f"{dtype.kind[0]}{dtype.bits // 8}")
        return values.astype(np.float32 if code == "F32" else np.float64)


def _ldexp(value: float, exponent: int) -> float:
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        return math.inf


class _NumpySolver:
    """LAPACK on the CPU, without torch."""

    def singular_values(self, matrix: Array) -> Array:
        return np.linalg.svd(matrix, compute_uv=False)

    def triangle(self, matrix: Array) -> Array:
        return np.asarray(np.linalg.qr(matrix, mode="r"))


class _TorchSolver:
    """torch on a device; what the device refuses is a UsageError."""

    def __init__(self, device: str) -> None:
        self._torch, self._device = require("torch", for_what=f"--spectral with --device {device}"), device

    def singular_values(self, matrix: Array) -> Array:
        return self._solve(self._torch.linalg.svdvals, matrix)

    def triangle(self, matrix: Array) -> Array:
        return self._solve(lambda there: self._torch.linalg.qr(there, mode="r")[1], matrix)

    def _solve(self, solve: Callable[[Any], Any], matrix: Array) -> Array:
        try:
            return np.asarray(solve(self._torch.from_numpy(matrix).to(self._device)).cpu().numpy())
        except RuntimeError as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UsageError(f"device {self._device!r}: {reason}; measure on the CPU with --device cpu") from error
