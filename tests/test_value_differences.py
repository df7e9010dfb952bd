"""How the values of two tensors differ: counts, distances and the relation that they show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from layerhouse.ingest.checkpoint.tensor_ref import TensorRef
from layerhouse.ingest.compare.match_tensors import relation_of
from layerhouse.ingest.compare.value_differences import STEP, difference, round_to
from layerhouse.tests.weight_files import torch_values

CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int8: "I8",
    torch.int64: "I64",
}


def stored(path: Path, tensor: torch.Tensor) -> TensorRef:
    raw = torch_values(tensor)
    path.write_bytes(raw)
    return TensorRef(path.name, CODES[tensor.dtype], tuple(tensor.shape), path, 0, len(raw))


@pytest.fixture
def compare(tmp_path):
    def compared(one: torch.Tensor, other: torch.Tensor):
        counted = difference(stored(tmp_path / "one", one), stored(tmp_path / "other", other))
        return relation_of(counted, is_cast=one.dtype != other.dtype), counted

    return compared


def weights(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_masked_refilled_and_changed_are_counted(compare, dtype):
    base = weights(70, 30).to(dtype)
    masked = base.clone()
    masked[:7] = 0
    assert compare(masked, base)[0] == "masked"
    assert compare(masked, base)[1].zeroed == compare(masked, base)[1].changed == 210
    assert compare(base, masked)[0] == "refilled"
    assert compare(base, masked)[1].filled == 210
    noisy = base.clone()
    noisy[3, 4] += 1
    relation, counted = compare(noisy, base)
    assert (relation, counted.changed, counted.other) == ("changed", 1, 1)
    both = masked.clone()
    both[0, 0] = 5
    assert compare(both, base)[0] == "changed"
    mixed = base.clone()
    mixed[0] = 0
    assert compare(mixed, torch.where(torch.arange(70)[:, None] == 9, torch.zeros((), dtype=dtype), base))[0] == "changed"


@pytest.mark.parametrize(
    ("to", "source"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float16),
        (torch.float16, torch.bfloat16),
        (torch.float32, torch.bfloat16),
        (torch.float32, torch.float64),
        (torch.float64, torch.float32),
    ],
)
def test_a_cast_is_distinguished_from_a_change(compare, to, source):
    base = torch.cat([weights(5000) * 3, torch.tensor([0.0, -0.0, 65504.0, 1e-7, 70000.0, float("nan"), float("inf")])]).to(
        source
    )
    relation, counted = compare(base.to(to), base)
    assert relation == "cast"
    assert counted.changed == int((base.to(to).double() != base.double()).sum()) - 1  # NaN is NaN
    child = base.to(to)
    child[17] = child[17] * 1.5
    assert compare(child, base)[0] == "changed"
    child = base.to(to)
    child[:100] = 0
    assert compare(child, base)[0] == "masked"


def test_distances_are_those_of_numpy(compare):
    base, child = weights(3 * STEP + 17), weights(3 * STEP + 17) * 1.01
    child[5] = float("nan")
    _, counted = compare(child, base)
    one, other = child.double().numpy(), base.double().numpy()
    kept = np.isfinite(one)
    one, other = one[kept], other[kept]
    assert counted.relative_difference == pytest.approx(np.linalg.norm(one - other) / np.linalg.norm(other), rel=1e-10)
    assert counted.cosine == pytest.approx(one @ other / np.linalg.norm(one) / np.linalg.norm(other), rel=1e-10)
    assert counted.changed == 3 * STEP + 17


def test_signs_of_zero_and_nan_are_no_change(compare):
    base = torch.tensor([0.0, -0.0, float("nan"), float("inf"), 1.0])
    child = torch.tensor([-0.0, 0.0, float("nan"), float("inf"), 1.0])
    assert compare(child, base)[0] == "identical"


def test_norms_of_zero_leave_nothing_to_compare(compare):
    _, counted = compare(torch.zeros(9), torch.zeros(9))
    assert (counted.relative_difference, counted.cosine) == (None, None)
    _, counted = compare(torch.full((2,), 1e300, dtype=torch.float64), torch.full((2,), 1e300, dtype=torch.float64))
    assert (counted.relative_difference, counted.cosine) == (None, None)
    _, counted = compare(torch.zeros(0), torch.zeros(0))
    assert counted.changed == 0


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.float8_e4m3fn])
def test_other_types_compare_by_value(compare, dtype):
    base = (weights(100) * 10).to(dtype)
    child = base.clone()
    child[3] = 0
    assert compare(child, base)[0] == "masked"


@pytest.mark.parametrize(("code", "dtype"), [("BF16", torch.bfloat16), ("F16", torch.float16)])
def test_rounding_is_that_of_torch(code, dtype):
    values = torch.from_numpy(np.random.default_rng(2).integers(0, 1 << 32, 20000, dtype=np.uint32).view(np.float32))
    finite = values[values.isfinite()]
    assert np.array_equal(round_to(code, finite.numpy()), finite.to(dtype).float().numpy())
