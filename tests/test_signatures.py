"""Signatures match a layer with itself after pruning, noise and casts, and distinguish different layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from layerhouse.ingest.checkpoint.tensor_ref import TensorRef
from layerhouse.ingest.measure.io.tensor_reader import TensorReader
from layerhouse.ingest.measure.signatures import (
    DIMENSIONS,
    LONGEST,
    Profile,
    project,
    read_profile,
    signs,
)
from layerhouse.tests.test_kernels import split_mix

TYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64", torch.int32: "I32"}


def signature_of(path: Path, tensor: torch.Tensor, axis: int | None, chunk: int = 1 << 20):
    return profile_of(path, tensor, axis, chunk).signature


def profile_of(path: Path, tensor: torch.Tensor, axis: int | None, chunk: int = 1 << 20) -> Profile:
    stored = tensor.contiguous().flatten().view(torch.uint8).numpy()
    path.write_bytes(stored.tobytes())
    with TensorReader(chunk) as reader:
        return read_profile(reader, TensorRef("w", TYPES[tensor.dtype], tuple(tensor.shape), path, 0, stored.size), axis)


def cosine(a, b) -> float:
    return float(np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))


def layers(count: int, outputs: int, inputs: int, spread: float) -> list[torch.Tensor]:
    """Random layers whose inputs differ in scale (log-normal with this spread), as in trained models."""
    generator = torch.Generator().manual_seed(7)
    return [
        torch.randn(outputs, inputs, generator=generator) * torch.exp(spread * torch.randn(inputs, generator=generator))
        for _ in range(count)
    ]


def pruned(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Three quarters of the rows, in order, with 5 % multiplicative noise, cast."""
    generator = torch.Generator().manual_seed(8)
    kept = torch.randperm(len(weight), generator=generator)[: len(weight) * 3 // 4].sort().values
    return (weight[kept] * (1 + 0.05 * torch.randn(len(kept), weight.shape[1], generator=generator))).to(dtype)


@pytest.mark.parametrize(
    ("shape", "spread", "same", "other"),
    [((160, 64), 0.3, 0.95, 0.5), ((160, 64), 0.0, 0.75, 0.5), ((2100, 256), 0.3, 0.95, 0.5)],
    ids=["narrow", "narrow, inputs of one scale", "wide, sampled and projected"],
)
@pytest.mark.parametrize("axis", [1, 0])
def test_the_same_layer_is_recognised(tmp_path, shape, spread, same, other, axis):
    base = layers(8, *shape, spread)
    before = [signature_of(tmp_path / "w", weight if axis else weight.T, axis) for weight in base]
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        children = [pruned(weight, dtype) for weight in base]
        after = [signature_of(tmp_path / "w", child if axis else child.T, axis) for child in children]
        cosines = np.array([[cosine(a, b) for b in after] for a in before])
        assert cosines.diagonal().min() > same
        assert np.abs(cosines - np.diag(cosines.diagonal())).max() < other
        assert (cosines.argmax(axis=1) == range(8)).all()


def test_a_short_profile_is_itself_centred_and_scaled(tmp_path):
    weight = layers(1, 160, 64, 0.3)[0]
    norms = weight.double().norm(dim=0).numpy()
    expected = (norms - norms.mean()) / np.linalg.norm(norms - norms.mean())
    assert signature_of(tmp_path / "w", weight, 1) == pytest.approx(expected, abs=1e-6)
    assert signature_of(tmp_path / "w", weight.T, 0) == pytest.approx(expected, abs=1e-6)
    vector = weight[0]
    centred = vector.double() - vector.double().mean()
    assert signature_of(tmp_path / "w", vector, None) == pytest.approx((centred / centred.norm()).numpy(), abs=1e-6)


def test_a_long_profile_is_projected_by_the_sign_matrix():
    profile = np.random.default_rng(0).standard_normal(5000)
    unit = (profile - profile.mean()) / np.linalg.norm(profile - profile.mean())
    assert project(profile) == pytest.approx(unit @ signs(0, 5000) / 8, abs=1e-6)
    assert np.linalg.norm(project(profile)) == pytest.approx(1, abs=0.4)


def test_the_sign_matrix_never_changes():
    assert signs(0, 2)[:, :16].tolist() == signs(0, 5000)[:2, :16].tolist()
    assert signs(4999, 1).tolist() == signs(0, 5000)[4999:].tolist()
    mask = (1 << 64) - 1
    z = (3 * DIMENSIONS + 5 + 1) * 0x9E3779B97F4A7C15 & mask
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
    assert signs(3, 1)[0, 5] == (-1 if (z ^ z >> 31) >> 63 else 1)
    assert abs(signs(0, 4096).mean()) < 0.01
    assert 0xE220A8397B1DCDAF >> 63 == 1  # SplitMix64's first output from seed 0
    assert signs(0, 1)[0, 0] == -1


def test_at_most_256_evenly_spaced_rows_are_read(tmp_path):
    weight = torch.randn(1200, 40, generator=torch.Generator().manual_seed(0))
    changed = weight.clone()
    changed[torch.arange(1200) % 5 != 0] = 99
    assert signature_of(tmp_path / "w", weight, 1) == signature_of(tmp_path / "w", changed, 1)
    changed[5] = 99
    assert signature_of(tmp_path / "w", weight, 1) != signature_of(tmp_path / "w", changed, 1)


@pytest.mark.parametrize("dtype", list(TYPES))
def test_chunks_do_not_matter(tmp_path, dtype):
    weight = (torch.randn(700, 300, generator=torch.Generator().manual_seed(0)) * 9).to(dtype)
    for axis in (0, 1):
        assert signature_of(tmp_path / "w", weight, axis, 1) == signature_of(tmp_path / "w", weight, axis)


@pytest.mark.parametrize(
    ("tensor", "axis"),
    [
        (torch.ones(64), None),
        (torch.full((64,), 0.1), None),
        (torch.zeros(8, 8), 1),
        (torch.tensor([1.0, float("nan")]), None),
        (torch.tensor([[1.0, float("inf")]]), 1),
        (torch.full((4, 4), 1e300, dtype=torch.float64).triu(), 1),
        (torch.tensor(3.0), None),
        (torch.tensor([3.0]), None),
        (torch.zeros(0), None),
        (torch.rand(4, 4), None),
        (torch.rand(2, 3, 4), 1),
        (torch.zeros(LONGEST + 1, dtype=torch.bfloat16), None),
    ],
)
def test_tensors_without_a_signature(tmp_path, tensor, axis):
    assert signature_of(tmp_path / "w", tensor, axis) is None


def test_a_sketch_is_a_sum_with_signs_of_the_rows_that_are_read(tmp_path):
    """Element i of every second row, as 600 rows are more than 256 are; lane i % 64, negative by bit i % 64 of SplitMix64."""
    weight = torch.randn(600, 100, generator=torch.Generator().manual_seed(1))
    sample = weight[::3].flatten().double().tolist()
    expected = np.zeros(64)
    for number, value in enumerate(sample):
        expected[number % 64] += -value if split_mix(number // 64) >> number % 64 & 1 else value
    for chunk in (1 << 20, 1000):
        assert profile_of(tmp_path / "w", weight, 1, chunk).sketch.tolist() == expected.astype(np.float32).tolist()
    vector = profile_of(tmp_path / "v", torch.tensor([1.0, 2.0, 3.0]), None)
    signed = [-value if split_mix(0) >> lane & 1 else value for lane, value in enumerate([1.0, 2.0, 3.0])]
    assert vector.sketch is not None
    assert vector.sketch.tolist() == signed + [0.0] * 61


@pytest.mark.parametrize("amount", [1e-3, 0.1])
def test_the_distance_of_sketches_is_that_of_the_rows(tmp_path, amount):
    """Of a small change, which the profile of norms does not show, within the deviation of 64 lanes."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(256, 512, generator=generator)
    change = amount * torch.randn(256, 512, generator=generator)
    one, other = (np.array(profile_of(tmp_path / "w", each, 1).sketch) for each in (weight, weight + change))
    assert np.square(one - other).sum() == pytest.approx(change.double().square().sum().item(), rel=0.7)


@pytest.mark.parametrize(
    ("tensor", "axis"),
    [
        (torch.tensor([1.0, float("nan")]), None),
        (torch.tensor([[float("inf"), 1.0]]), 1),
        (torch.ones(2, 2, 2), 2),
        (torch.ones(3, 3), None),
        (torch.full((2,), 1e300, dtype=torch.float64), None),
    ],
)
def test_tensors_without_a_sketch(tmp_path, tensor, axis):
    profile = profile_of(tmp_path / "w", tensor, axis)
    assert profile.sketch is None


def test_a_constant_has_a_sketch_and_no_signature(tmp_path):
    profile = profile_of(tmp_path / "w", torch.ones(3), None)
    assert profile.signature is None
    assert [abs(value) for value in profile.sketch or ()] == [1.0] * 3 + [0.0] * 61
