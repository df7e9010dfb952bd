"""Ladders count the elements of each bin of magnitudes exactly, whatever the type."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from layerhouse.ingest.checkpoint.dtypes import DTYPES, decoded
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef
from layerhouse.ingest.measure.measurement import Job, Measurement
from layerhouse.ingest.measure.scheduler import measure
from layerhouse.tests.test_layouts import SHAPES, plain, rows_of, write

SMALL = [code for code, dtype in DTYPES.items() if dtype.bits in (8, 16) and dtype.kind != "bool"]


def measured(path: Path, code: str, raw: bytes, elements: int) -> Measurement:
    path.write_bytes(raw)
    ((_, outcome),) = measure([Job(TensorRef("w", code, (elements,), path, 0, len(raw)))], threads=1)
    assert isinstance(outcome, Measurement)
    return outcome


def bin_of(value: float) -> int:
    """By the definition, with exact fractions."""
    size = abs(Fraction(value))
    octave = math.floor(math.log2(size))
    octave += (Fraction(2) ** (octave + 1) <= size) - (Fraction(2) ** octave > size)
    return 8 * octave + math.floor((size / Fraction(2) ** octave - 1) * 8)


def expected_ladder(values: list[float]) -> tuple[int | None, tuple[int, ...]]:
    counts = Counter(bin_of(value) for value in values if math.isfinite(value) and value != 0)
    if not counts:
        return None, ()
    return min(counts), tuple(counts[number] for number in range(min(counts), max(counts) + 1))


def ladder_of(outcome: Measurement) -> tuple[int | None, tuple[int, ...] | None]:
    return outcome.ladder_first, outcome.ladder_counts


@pytest.mark.parametrize("code", SMALL)
def test_every_pattern_of_a_small_type_is_in_its_bin(tmp_path, code):
    patterns = np.arange(1 << DTYPES[code].bits).astype(f"u{DTYPES[code].bits // 8}")
    patterns = np.concatenate([patterns, patterns[:100]])
    values = decoded(code)[patterns].tolist()
    assert ladder_of(measured(tmp_path / "w", code, patterns.tobytes(), len(patterns))) == expected_ladder(values)


@pytest.mark.parametrize(("code", "kind"), [("F32", np.float32), ("F64", np.float64)])
def test_floats_of_any_size_are_in_their_bins(tmp_path, code, kind):
    generator = np.random.default_rng(5)
    exponents = generator.integers(-126 if code == "F32" else -1022, 120, 4000)
    values = np.ldexp(generator.uniform(-2, 2, 4000), exponents).astype(kind)
    edges = np.array([1.0, 1.125, np.nextafter(kind(1.125), kind(0)), -2.0, 0.0, np.inf, np.nan], kind)
    values = np.concatenate([values[np.abs(values) >= np.finfo(kind).tiny], edges])
    assert ladder_of(measured(tmp_path / "w", code, values.tobytes(), len(values))) == expected_ladder(values.tolist())


@pytest.mark.parametrize(("code", "kind"), [("I32", np.int32), ("U32", np.uint32), ("I64", np.int64), ("U64", np.uint64)])
def test_integers_are_in_their_bins(tmp_path, code, kind):
    values = np.array([0, 1, 2, 3, 9, 15, 16, 17, 1023, 1024, 1151, 1152, 2**30, 2**31 - 1], kind)
    assert ladder_of(measured(tmp_path / "w", code, values.tobytes(), len(values))) == expected_ladder(values.tolist())


def test_a_magnitude_with_too_few_bits_leaves_the_ladder_open(tmp_path):
    for values, is_known in (([1.0, 0.0], True), ([1.0, 2.0**-130], True), ([1.0, 2.0**-140], False)):
        outcome = measured(tmp_path / "w", "F32", np.array(values, np.float32).tobytes(), 2)
        assert (outcome.ladder_counts is not None) == is_known
        assert not is_known or ladder_of(outcome) == expected_ladder(values)


def test_an_empty_tensor_has_an_empty_ladder_and_codes_have_none(tmp_path):
    assert ladder_of(measured(tmp_path / "w", "F32", b"", 0)) == (None, ())
    assert ladder_of(measured(tmp_path / "w", "C64", bytes(8), 1)) == (None, None)
    entries = {"a.weight": ("I8", (4, 4), bytes(range(16))), "a.weight_scale": ("F32", (4, 1), None)}
    _, tensors, _ = rows_of(write(tmp_path / "m", entries, None))
    row = tensors["a.weight"]
    assert (row["ladder_counts"], row["sketch"], row["zeros"]) == (None, None, 1)


def test_zeros_ladder_nans_and_infs_are_all_elements(tmp_path):
    write(tmp_path / "m", plain(SHAPES))
    generator = torch.Generator().manual_seed(0)
    raw = torch.randint(0, 256, (4096,), dtype=torch.uint8, generator=generator).numpy().tobytes()
    for code in ("BF16", "F16", "F8_E4M3", "F64"):
        elements = 4096 * 8 // DTYPES[code].bits
        outcome = measured(tmp_path / "w", code, raw, elements)
        counted = (outcome.zeros, outcome.nans, outcome.infs)
        assert sum(outcome.ladder_counts or ()) + sum(count or 0 for count in counted) == elements
