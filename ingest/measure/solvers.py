"""Decompositions of float32 matrices: by LAPACK through numpy on the CPU, by torch on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from layerhouse.ingest.measure.device_errors import device_errors
from layerhouse.ingest.measure.devices import CPU
from layerhouse.optional import require

Array = npt.NDArray[Any]


class Solver(Protocol):
    """Decomposes float32 matrices."""

    def singular_values(self, matrix: Array) -> Array:
        """In descending order."""
        ...

    def triangle(self, matrix: Array) -> Array:
        """The triangle R of a QR decomposition."""
        ...


def make_solver(device: str) -> Solver:
    """The solver of a device: cpu, or one that torch knows, such as cuda:0."""
    return NumpySolver() if device == CPU else TorchSolver(device)


class NumpySolver:
    """LAPACK on the CPU."""

    def singular_values(self, matrix: Array) -> Array:
        return np.linalg.svd(matrix, compute_uv=False)

    def triangle(self, matrix: Array) -> Array:
        return np.asarray(np.linalg.qr(matrix, mode="r"))


class TorchSolver:
    """torch on a device; its errors are UsageErrors."""

    def __init__(self, device: str) -> None:
        self._torch, self._device = require("torch", for_what=f"--spectral with --device {device}"), device

    def singular_values(self, matrix: Array) -> Array:
        return self._solve(self._torch.linalg.svdvals, matrix)

    def triangle(self, matrix: Array) -> Array:
        return self._solve(lambda tensor: self._torch.linalg.qr(tensor, mode="r")[1], matrix)

    def _solve(self, solve: Callable[[Any], Any], matrix: Array) -> Array:
        with device_errors(self._device, "measure"):
            return np.asarray(solve(self._torch.from_numpy(matrix).to(self._device)).cpu().numpy())
