"""Measuring a tensor that a test makes."""

from __future__ import annotations

from pathlib import Path

import torch

from layerhouse.ingest.checkpoint.tensor_ref import TensorRef
from layerhouse.ingest.measure.measurement import Job, Measurement
from layerhouse.ingest.measure.scheduler import measure

TORCH = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "I8": torch.int8,
    "U8": torch.uint8,
    "I16": torch.int16,
    "U16": torch.uint16,
    "I32": torch.int32,
    "I64": torch.int64,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
}


def raw_of(tensor: torch.Tensor) -> bytes:
    """The tensor's bytes in C order."""
    return tensor.flatten().clone(memory_format=torch.contiguous_format).view(torch.uint8).numpy().tobytes()


def job_of(path: Path, code: str, shape: tuple[int, ...], raw: bytes, **axes) -> Job:
    """A job whose bytes lie in a file of their own, at an odd offset."""
    path.write_bytes(b"\x01" * 3 + raw)
    return Job(TensorRef(path.name, code, shape, path, 3, len(raw)), **axes)


def measure_one(job: Job, **options) -> Measurement:
    """The measurement of one job, by one thread unless the options say otherwise."""
    [(index, outcome)] = measure([job], **{"threads": 1, **options})
    assert index == 0
    assert isinstance(outcome, Measurement), outcome
    return outcome


def measure_matrix(path: Path, tensor: torch.Tensor, input_axis: int | None = 1, **options) -> Measurement:
    """The measurement of a matrix that is written to `path`."""
    code = next(code for code, dtype in TORCH.items() if dtype == tensor.dtype)
    return measure_one(job_of(path, code, tuple(tensor.shape), raw_of(tensor), input_axis=input_axis), **options)
