"""Which unit of the base each unit is, by the rules alone: hashes of parts, then signatures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xxhash

from layerhouse.ingest.checkpoint.tensor_ref import TensorRef
from layerhouse.ingest.compare import match_units
from layerhouse.ingest.compare.match_units import UnitGroup, place_units
from layerhouse.ingest.measure import unit_vectors
from layerhouse.ingest.measure.io.tensor_reader import TensorReader
from layerhouse.ingest.measure.unit_vectors import DIMENSIONS, read_vectors


def group(vectors, parts=("gate", "up"), hashes=None):
    """Units whose parts have these signatures, shape (units, parts, 16)."""
    unit = vectors / np.linalg.norm(vectors, axis=2, keepdims=True)
    hashes_by_part = hashes or {
        name: np.array([str(hash(v.tobytes())) for v in vectors[:, at]], object) for at, name in enumerate(parts)
    }
    return UnitGroup(np.arange(len(vectors)), hashes_by_part, {name: unit[:, at] for at, name in enumerate(parts)})


def test_the_confidence_of_equal_units_is_the_share_of_them_that_was_kept():
    vectors = np.random.default_rng(0).normal(size=(4, 2, DIMENSIONS))
    base = group(vectors[[0, 1, 1, 1, 2]])
    places = place_units(group(vectors[[1, 1, 2]]), base)
    assert places.positions.tolist() == [1, 2, 4]
    assert places.confidences.tolist() == pytest.approx([2 / 3, 2 / 3, 1.0])


def test_a_unit_with_one_changed_part_is_identified_by_the_other():
    vectors = np.random.default_rng(1).normal(size=(6, 2, DIMENSIONS))
    child = vectors[[4, 2]].copy()
    child[:, 1] += 0.1 * np.random.default_rng(2).normal(size=(2, DIMENSIONS))
    places = place_units(group(child), group(vectors))
    assert (places.positions.tolist(), places.matches.tolist()) == ([4, 2], ["similar", "similar"])


def test_a_unit_with_one_part_without_signature_is_identified_by_the_other():
    vectors = np.random.default_rng(8).normal(size=(6, 2, DIMENSIONS))
    child = vectors[[4, 2]].copy()
    child[0, 1] = np.nan
    places = place_units(group(child), group(vectors))
    assert (places.positions.tolist(), places.matches.tolist()) == ([4, 2], ["similar", "exact"])
    assert places.confidences.tolist() == [0.0, 1.0]


def test_units_that_are_similar_to_none_of_the_base_are_not_matched():
    generator = np.random.default_rng(3)
    places = place_units(group(generator.normal(size=(50, 2, DIMENSIONS))), group(generator.normal(size=(200, 2, DIMENSIONS))))
    assert set(places.matches.tolist()) == {"none"}
    assert places.positions.tolist() == [-1] * 50


def test_of_two_similar_units_with_one_match_the_more_certain_keeps_it():
    vectors = np.random.default_rng(4).normal(size=(8, 2, DIMENSIONS))
    noise = np.random.default_rng(5).normal(size=(2, 2, DIMENSIONS))
    child = vectors[[3, 3]] + noise * np.array([0.05, 0.3])[:, None, None]
    places = place_units(group(child), group(vectors))
    assert (places.positions.tolist(), places.matches.tolist()) == ([3, -1], ["similar", "none"])


def test_the_number_of_units_that_are_compared_at_once_does_not_matter(monkeypatch):
    generator = np.random.default_rng(6)
    vectors = generator.normal(size=(300, 2, DIMENSIONS))
    child = vectors[200:20:-1] + 0.1 * generator.normal(size=(180, 2, DIMENSIONS))
    child[7, 1] = np.nan
    vectors[150] = np.nan
    expected = list(range(200, 20, -1))
    expected[7] = expected[50] = -1  # one has half of its signature, the unit of the base of the other has none
    for at_once in (1, 7, 180):
        monkeypatch.setattr(match_units, "ROWS_AT_ONCE", at_once)
        assert place_units(group(child), group(vectors)).positions.tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_vectors_do_not_depend_on_the_matrix_being_transposed_or_on_the_pieces_that_are_read(tmp_path, dtype, monkeypatch):
    weight = torch.randn(70, 48, generator=torch.Generator().manual_seed(0)).to(dtype)
    codes = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}

    def read(tensor, axis):
        raw = tensor.contiguous().flatten().view(torch.uint8).numpy()
        (tmp_path / "w").write_bytes(raw.tobytes())
        with TensorReader() as reader:
            return read_vectors(reader, TensorRef("w", codes[dtype], tuple(tensor.shape), tmp_path / "w", 0, raw.size), axis)

    one, other = read(weight, 0), read(weight.T, 1)
    monkeypatch.setattr(unit_vectors, "PIECE_BYTES", 700)
    for vectors in (other, read(weight, 0), read(weight.T, 1)):
        assert (vectors.digests == one.digests).all()
        assert vectors.squares == pytest.approx(one.squares, rel=1e-6)
        assert vectors.sketches == pytest.approx(one.sketches, rel=1e-4, abs=1e-4)
    assert one.squares == pytest.approx((weight.double() ** 2).sum(1).numpy(), rel=1e-6)
    expected = xxhash.xxh3_128_digest(weight[9].contiguous().view(torch.uint8).numpy().tobytes())
    assert one.digests[9].tobytes() == expected
