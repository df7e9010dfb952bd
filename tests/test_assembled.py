"""Masked and bitmask weights have the measurements of the dense weights that they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint_rows import open_weights
from layerhouse.ingest.measure import scheduler
from layerhouse.ingest.measure.io import assembled
from layerhouse.ingest.measure.io.tensor_reader import TensorReader
from layerhouse.ingest.measure.measurement import Job
from layerhouse.ingest.measure.scheduler import measure
from layerhouse.ingest.measure.signatures import read_profile
from layerhouse.tests.test_layouts import Entry, rows_of, write
from layerhouse.tests.weight_files import torch_values

CODES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int8: "I8", torch.bool: "BOOL"}
LEFT_OUT = ("name", "shape", "weight_shape", "stored_bytes", "checkpoint_id")


def entry(tensor: torch.Tensor) -> Entry:
    return CODES[tensor.dtype], tuple(tensor.shape), torch_values(tensor)


def dense_row(tmp_path, weight: torch.Tensor, name: str = "model.layers.0.mlp.up_proj.weight"):
    _, tensors, _ = rows_of(write(tmp_path / "dense", {name: entry(weight)}))
    return {key: value for key, value in tensors[name].items() if key not in LEFT_OUT}


def weights(dtype: torch.dtype, rows: int = 60, columns: int = 72) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight, and a mask that keeps about half of it, and no value of one row and one column."""
    generator = torch.Generator().manual_seed(3)
    mask = torch.rand(rows, columns, generator=generator) < 0.5
    mask[4], mask[:, 7] = False, False
    return (torch.randn(rows, columns, generator=generator) * 30).to(dtype), mask


@pytest.mark.parametrize("mask_type", [torch.float32, torch.bool, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int8])
def test_a_masked_weight_is_the_product(tmp_path, dtype, mask_type):
    original, mask = weights(dtype)
    module = "model.layers.0.mlp.up_proj"
    entries = {f"{module}.weight_orig": entry(original), f"{module}.weight_mask": entry(mask.to(mask_type))}
    checkpoint, tensors, _ = rows_of(write(tmp_path / "m", entries))
    row = tensors[f"{module}.weight_orig"]
    if dtype != torch.int8:  # which in place of a weight, without a mask, is of an unknown form
        assert {key: value for key, value in row.items() if key not in LEFT_OUT} == {**dense_row(tmp_path, original * mask)}
    assert (row["zeros"], row["max"]) == (int((original * mask == 0).sum()), float((original * mask).max()))
    assert (row["zero_rows"], row["zero_cols"]) == (1, 1)
    assert (checkpoint["params"], checkpoint["prunable_zeros"]) == (original.numel(), row["zeros"])
    aside = tensors[f"{module}.weight_mask"]
    assert (aside["module"], aside["params"], aside["is_parameter"]) == ("quant_aux", 0, False)


def test_masks_of_torch_prune_are_read_from_its_own_files(tmp_path):
    from torch.nn.utils import prune

    linear = torch.nn.Linear(64, 48)
    prune.random_unstructured(linear, "weight", 0.5)
    prune.random_unstructured(linear, "bias", 0.25)
    torch.save(linear.state_dict(), tmp_path / "pruned_model.bin")
    _, tensors, _ = rows_of(tmp_path, "*.bin")
    assert (tensors["weight_orig"]["zeros"], tensors["bias_orig"]["zeros"]) == (1536, 12)
    assert sum(row["params"] for row in tensors.values()) == 64 * 48 + 48


def compress(dense: torch.Tensor, *, halves: bool) -> dict[str, Entry]:
    """The tensors of compressed-tensors' sparse layouts."""
    present = dense != 0
    bits = np.packbits(present.numpy(), axis=1, bitorder="little")
    values = dense[present]
    parts = {
        "shape": entry_of_integers([*dense.shape], (2, 1)),
        "compressed": entry(values.reshape(len(dense), -1) if halves else values),
        "bitmask": ("U8", bits.shape, bits.tobytes()),
    }
    if not halves:
        counts = present.sum(dim=1)
        parts["row_offsets"] = entry_of_integers((counts.cumsum(0) - counts).tolist(), (len(dense),))
    return parts


def entry_of_integers(values: list[int], shape: tuple[int, ...]) -> Entry:
    return "I64", shape, b"".join(value.to_bytes(8, "little", signed=True) for value in values)


def half(dtype: torch.dtype, rows: int = 60, columns: int = 72) -> torch.Tensor:
    """A weight with a 2:4 pattern along the rows, whose other values are not zero."""
    weight = torch.rand(rows, columns, generator=torch.Generator().manual_seed(5)) + 0.5
    weight.reshape(-1, 4)[:, 1:3] = 0
    return weight.to(dtype)


@pytest.mark.parametrize("infix", ["", "weight."])
@pytest.mark.parametrize("halves", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_bitmask_weight_is_decoded(tmp_path, dtype, halves, infix):
    dense = half(dtype) if halves else torch.mul(*weights(dtype, columns=70))
    module = "model.layers.0.mlp.up_proj"
    entries = {f"{module}.{infix}{part}": value for part, value in compress(dense, halves=halves).items()}
    checkpoint, tensors, _ = rows_of(write(tmp_path / "m", entries))
    row = tensors[f"{module}.{infix}compressed"]
    plus = dense + 0  # missing values are +0
    assert {key: value for key, value in row.items() if key not in LEFT_OUT} == dense_row(tmp_path, plus)
    assert row["nm_pattern"] == ("2:4" if halves else "not applicable")
    assert (row["weight_shape"], checkpoint["params"]) == ([*dense.shape], dense.numel())


def test_blocks_chunks_and_views_of_an_assembly_are_those_of_its_copy(tmp_path, monkeypatch):
    """Over several blocks, by rows and by columns, for chunks of several sizes."""
    monkeypatch.setattr(scheduler, "BLOCK_BYTES", 1 << 15)
    original, mask = weights(torch.float32, 300, 500)
    folder = write(tmp_path / "m", {"up.weight_orig": entry(original), "up.weight_mask": entry(mask)}, None)
    plain = write(tmp_path / "d", {"up.weight": entry(original * mask)}, None)
    one, other = (
        next(t.ref for t in open_weights(f, [f / "model.safetensors"], "m").placement.placed if t.is_parameter).as_stored
        for f in (folder, plain)
    )
    measured = [
        dict(measure([Job(ref, axis, 1)], threads=threads, chunk_bytes=chunk))[0]
        for ref in (one, other)
        for axis in (0, 1)
        for threads, chunk in ((1, 1 << 15), (2, 1 << 20))
    ]
    assert measured[0] == measured[1] == measured[4]
    assert measured[2] == measured[3] == measured[6]
    with TensorReader() as reader:
        assert read_profile(reader, one, 0) == read_profile(reader, other, 0)


def test_a_view_across_a_large_assembly_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(assembled, "MAX_DENSE_BYTES", 100)
    original, mask = weights(torch.float32)
    folder = write(tmp_path / "m", {"up.weight_orig": entry(original), "up.weight_mask": entry(mask)}, None)
    placed = open_weights(folder, [folder / "model.safetensors"], "m").placement.placed[0]
    ((_, outcome),) = measure([Job(placed.ref.as_stored, 0, None)], threads=1)
    assert isinstance(outcome, InputError)
    assert "limit exceeded" in outcome.what


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compressed": ("F32", (7,), None)}, "7 compressed values without row_offsets"),
        ({"shape": entry_of_integers([60, 80], (2, 1))}, "does not fit the bitmask"),
        ({"shape": entry_of_integers([60, -72], (2, 1))}, "does not fit the bitmask"),
        ({"row_offsets": ("I32", (60,), None)}, "are not one for each of 60 rows"),
    ],
)
def test_parts_that_do_not_fit_each_other_have_no_size(tmp_path, changes, message):
    parts = compress(half(torch.float32), halves=True) | changes
    checkpoint, _, _ = rows_of(write(tmp_path / "m", {f"a.{part}": value for part, value in parts.items()}, None))
    (text,) = (note["text"] for note in checkpoint["notes"] if note["code"] == "unread")
    assert (checkpoint["params"], message in text) == (None, True)


@pytest.mark.parametrize("offset", [-5, 10**15, 3])
def test_bits_that_do_not_fit_the_values_are_refused(tmp_path, offset):
    parts = compress(torch.mul(*weights(torch.float32)), halves=False)
    starts = np.frombuffer(parts["row_offsets"][2] or b"", np.int64).copy()
    starts[30] = offset
    parts["row_offsets"] = ("I64", (60,), starts.tobytes())
    with pytest.raises(InputError, match="does not fit its values"):
        rows_of(write(tmp_path / "m", {f"a.{part}": value for part, value in parts.items()}, None))


def test_a_mask_of_other_values_is_refused(tmp_path):
    original, mask = weights(torch.float32)
    entries = {"a.weight_orig": entry(original), "a.weight_mask": entry(mask.float() * 0.5)}
    with pytest.raises(InputError, match="values other than 0 and 1"):
        rows_of(write(tmp_path / "m", entries, None))
    entries["a.weight_mask"] = entry(mask[:-1])
    checkpoint, _, _ = rows_of(write(tmp_path / "n", entries, None))
    assert (checkpoint["params"], "its mask" in str(checkpoint["notes"])) == (None, True)
