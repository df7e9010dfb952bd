"""Counting on a device of torch gives the CPU's numbers to the bit, for every type; and which devices an option names."""

from __future__ import annotations

import os
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
import torch

from layerhouse.errors import InputError, UsageError
from layerhouse.ingest.checkpoint.dtypes import DTYPES
from layerhouse.ingest.measure import counter, devices, gpu_counter, scheduler
from layerhouse.ingest.measure.devices import find_devices
from layerhouse.ingest.measure.gpu_counter import DeviceCounter
from layerhouse.ingest.measure.measurement import Job
from layerhouse.ingest.measure.scheduler import measure
from layerhouse.tests.measuring import job_of

DEVICES = [
    "torch",
    pytest.param("cuda:0", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")),
]
HAS_DRIVER = devices.has_driver()


@pytest.fixture(params=DEVICES)
def device(request, monkeypatch):
    """A device that DeviceCounter counts on: a GPU, or torch's CPU. It counts tensors of any size."""
    monkeypatch.setattr(counter, "LEAST_DEVICE_BYTES", 1)
    monkeypatch.setattr(gpu_counter, "STAGE_BYTES", 1 << 16)
    if request.param == "torch":
        monkeypatch.setattr(
            scheduler, "make_counter", lambda name: DeviceCounter("cpu") if name == "torch" else counter.Counter()
        )
    return request.param


def random_bytes(code: str, elements: int, seed: int) -> bytes:
    """Random patterns, with zeros of both signs, and infinities and NaNs where the type has them."""
    rng = np.random.default_rng(seed)
    dtype = DTYPES[code]
    raw = np.frombuffer(rng.bytes(-(-elements * dtype.bits // 8)), np.uint8).copy()
    if dtype.bits >= 8 and dtype.bits <= 32:
        words = raw.view(f"u{dtype.bits // 8}")
        words[rng.random(elements) < 0.4] = 0
        for pattern in (1 << (dtype.bits - 1), (1 << (dtype.bits - 1)) - 1, ((1 << dtype.exponent) - 1) << dtype.mantissa):
            words[rng.random(elements) < 0.02] = pattern
    return raw.tobytes()


def measure_on_both(jobs: list[Job], device: str, **options):
    """The measurements of the device and those of the CPU."""
    return [dict(measure(jobs, threads=2, near_zero=0.25, device=name, **options)) for name in (device, "cpu")]


@pytest.mark.parametrize("elements", [1, 7, 4096, 65_536, 100_003])
@pytest.mark.parametrize("code", sorted(DTYPES))
def test_every_type_has_the_cpus_numbers_to_the_bit(tmp_path, device, code, elements):
    elements += elements % 2 if DTYPES[code].bits == 4 else -elements % 4 if DTYPES[code].bits == 6 else 0
    job = job_of(tmp_path / "w", code, (elements,), random_bytes(code, elements, elements))
    with mock.patch.multiple(scheduler, BLOCK_BYTES=1 << 17, BATCH_BYTES=1000):
        measured, expected = measure_on_both([job], device)
    assert repr(measured) == repr(expected)
    assert measured[0].zeros == expected[0].zeros


@pytest.mark.parametrize("shape", [(40, 64), (64, 40), (3, 100_000), (5000, 12), (301, 62), (700, 333)])
@pytest.mark.parametrize("code", ["BF16", "I16", "F8_E4M3FNUZ", "U8", "F32"])
def test_zero_rows_columns_and_patterns_are_those_of_the_cpu(tmp_path, device, code, shape):
    bits = DTYPES[code].bits
    jobs = []
    for number, make in enumerate(("random", "rows", "2:4", "4:8")):
        rng = np.random.default_rng(number)
        words = rng.integers(1, 100, shape).astype(f"u{bits // 8}")
        if make == "random":
            words[rng.random(shape) < 0.5] = 0
            words[rng.random(shape) < 0.1] = 1 << (bits - 1)
        if make == "rows":
            words[::3] = 0
            words[:, 1::4] = 0
        if make in ("2:4", "4:8"):
            group = int(make[-1])
            words[:, np.arange(shape[1]) % group < group // 2] = 0
        jobs += [
            job_of(tmp_path / f"w{number}{axis}", code, shape, words.tobytes(), input_axis=axis, residual_axis=axis)
            for axis in (0, 1)
        ]
    with mock.patch.multiple(scheduler, BLOCK_BYTES=1 << 16, BATCH_BYTES=0):
        measured, expected = measure_on_both(jobs, device, chunk_bytes=1 << 15)
    assert repr([measured[index] for index in range(8)]) == repr([expected[index] for index in range(8)])
    assert measured[1].zeros and measured[3].zero_rows == -(-shape[0] // 3)


def test_a_tensor_longer_than_the_buffers_is_counted_in_turns(tmp_path, device):
    raw = np.random.default_rng(0).integers(0, 3, 1_000_001).astype(np.uint16).tobytes()
    measured, expected = measure_on_both([job_of(tmp_path / "w", "BF16", (1_000_001,), raw)], device)
    assert repr(measured) == repr(expected)


def test_counts_of_a_truncated_tensor_are_discarded(tmp_path, device):
    jobs = [job_of(tmp_path / name, "F16", (400_000,), bytes([17]) * 800_000) for name in ("cut", "whole")]
    os.truncate(tmp_path / "cut", 700_000)
    measured = dict(measure(jobs, threads=1, device=device))
    assert isinstance(measured[0], InputError)
    assert (measured[1].zeros, measured[1].min) == (0, measured[1].max)


def test_small_and_wide_tensors_stay_on_the_cpu():
    assert [counter.fits_device(code, 1 << 20) for code in ("BF16", "U8", "F32", "F4", "C64", "I64")] == [
        True,
        True,
        *[False] * 4,
    ]
    assert not counter.fits_device("BF16", 1 << 18)


def test_an_error_of_a_device_is_one_line(tmp_path):
    job = job_of(tmp_path / "w", "BF16", (1 << 20,), bytes(1 << 21))
    with (
        mock.patch.object(gpu_counter.torch, "zeros", side_effect=RuntimeError("out of memory\nmore")),
        mock.patch.object(scheduler, "make_counter", lambda name: DeviceCounter("cpu")),
        pytest.raises(UsageError, match="device 'cpu': out of memory; count on the CPU with --device cpu"),
    ):
        list(measure([job], threads=2, device="torch"))


@pytest.mark.parametrize("option", ["gpu", "cuda:", "cuda:x", "cuda:-1", "CPU", ""])
def test_the_error_for_an_unknown_device_lists_the_choices(option):
    with pytest.raises(UsageError, match="there is cpu, cuda, cuda:N"):
        find_devices(option)


def test_options_name_devices(monkeypatch):
    monkeypatch.setattr(devices, "has_driver", lambda: True)
    monkeypatch.setattr(devices, "_count_gpus", lambda: (2, ""))
    assert find_devices("cpu") == ("cpu",)
    assert find_devices("cuda") == find_devices("auto") == ("cuda:0", "cuda:1")
    assert find_devices("cuda:1") == ("cuda:1",)
    with pytest.raises(UsageError, match="device 'cuda:2': there is cuda:0, cuda:1"):
        find_devices("cuda:2")
    monkeypatch.setattr(devices, "_count_gpus", lambda: (0, "it is off"))
    assert find_devices("auto") == ("cpu",)
    with pytest.raises(UsageError, match="device 'cuda': it is off; count on the CPU"):
        find_devices("cuda")


def test_a_driver_is_searched_in_three_places(monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "DRIVER_FOLDER", tmp_path / "none")
    monkeypatch.setattr(devices, "DRIVER_LIBRARY", "libnone.so.1")
    monkeypatch.setattr(devices, "DRIVER_PROGRAM", "no-such-program")
    assert not devices.has_driver()
    for name, value in (("DRIVER_FOLDER", tmp_path), ("DRIVER_PROGRAM", sys.executable), ("DRIVER_LIBRARY", None)):
        with monkeypatch.context() as there:
            there.setattr(devices, name, value)
            assert devices.has_driver()


@pytest.mark.skipif(HAS_DRIVER, reason="this machine has a driver")
def test_without_a_driver_torch_is_not_imported():
    code = (
        "import sys\nfrom layerhouse.ingest.measure.devices import find_devices\nfrom layerhouse.errors import UsageError\n"
        "print(find_devices('auto'))\ntry:\n    find_devices('cuda')\nexcept UsageError as error:\n    print(error)\n"
        "print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.splitlines() == [
        "('cpu',)",
        "device 'cuda': this machine has no NVIDIA driver; count on the CPU with --device cpu",
        "False",
    ]
