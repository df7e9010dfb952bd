"""Packed and scaled weights have the values that their libraries make of them, and the signatures and sketches of these."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerhouse as lh
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef
from layerhouse.ingest.checkpoint_rows import open_weights
from layerhouse.ingest.measure.io import assembled
from layerhouse.ingest.measure.io.gguf_blocks import BLOCK_VALUES, BLOCKS
from layerhouse.ingest.measure.io.tensor_reader import TensorReader
from layerhouse.ingest.measure.signatures import read_profile
from layerhouse.tests.test_layouts import Entry, rows_of, write
from layerhouse.tests.test_packed_values import CASES, FORMATS, IN, MODULE, OUT, gptq, scaled, write_case

BASE = FORMATS / "base-llama"


@pytest.fixture
def chance() -> np.random.Generator:
    return np.random.default_rng(11)


def weight_of(folder: Path) -> TensorRef:
    """The one weight of a model."""
    placed = open_weights(folder, [folder / "model.safetensors"], "m").placement.placed
    (ref,) = (tensor.ref for tensor in placed if tensor.is_parameter)
    return ref


def values_of(ref: TensorRef | None) -> np.ndarray:
    assert ref is not None
    assert ref.dtype == "F32"
    with TensorReader() as reader:
        return np.concatenate([chunk.copy() for chunk in reader.chunks(ref)]).view(np.float32).reshape(ref.shape)


@pytest.mark.parametrize("name", CASES)
def test_values_are_those_of_the_library_for_every_element(tmp_path, chance, name):
    case = CASES[name](chance)
    ref = weight_of(write_case(tmp_path, case))
    values = values_of(ref.as_values)
    expected = np.array([[case[3](row, column) for column in range(IN)] for row in range(OUT)], np.float32)
    is_zero = np.array([[case[2](row, column) for column in range(IN)] for row in range(OUT)])
    np.testing.assert_allclose(values, expected, rtol=1e-6, atol=0)
    assert ((values == 0) == is_zero).all()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("step", "first"), [(2, 0), (3, 1), (8, 5), (11, 2)])
def test_a_sample_of_rows_has_the_values_of_these_rows(tmp_path, chance, name, step, first, monkeypatch):
    monkeypatch.setattr(assembled, "SAMPLED_BYTES", 5 * 4 * IN)
    monkeypatch.setattr(assembled, "PICKED_BYTES", 700)
    ref = weight_of(write_case(tmp_path, CASES[name](chance))).as_values
    assert ref is not None
    rows = len(range(first, OUT, step))
    view = replace(ref, shape=(rows, IN), strides=(step * IN, 1), storage_offset=first * IN)
    np.testing.assert_array_equal(values_of(view), values_of(ref)[first::step])


@pytest.mark.parametrize("name", ["gptq 4", "awq", "nf4", "fp8 of tiles", "quanto 4"])
def test_signature_and_sketch_are_those_of_a_plain_copy_of_the_values(tmp_path, chance, name):
    folder = write_case(tmp_path / "packed", CASES[name](chance))
    values = values_of(weight_of(folder).as_values)
    plain = write(tmp_path / "plain", {f"{MODULE}.weight": ("F32", (OUT, IN), values.tobytes())}, {"model_type": "llama"})
    (row,), (plain_row,) = ([row for row in rows_of(folder)[1].values() if row["is_parameter"]] for folder in (folder, plain))
    assert len(row["signature"]) == 64
    assert (row["signature"], row["sketch"]) == (plain_row["signature"], plain_row["sketch"])
    assert (row["mean"], row["l2_norm"], row["ladder_counts"]) == (None, None, None)


def test_a_sample_of_many_rows_is_one_pass_over_transposed_words(tmp_path, chance, monkeypatch):
    """Of qweight, whose columns are outputs, every byte is read once, and of the values only the sampled rows are made."""
    outputs, inputs = 4096, 64
    words = chance.integers(0, 1 << 32, (inputs // 8, outputs), dtype=np.uint32)
    parts: dict[str, Entry] = {
        f"{MODULE}.qweight": ("I32", words.shape, words.tobytes()),
        f"{MODULE}.qzeros": ("I32", (1, outputs // 8), bytes(outputs // 2)),
        f"{MODULE}.scales": ("F16", (1, outputs), np.ones(outputs, np.float16).tobytes()),
    }
    ref = weight_of(write(tmp_path, parts, {"quantization_config": {"quant_method": "gptq"}}))
    read: list[int] = []
    elements = TensorReader.elements

    def counted(self: TensorReader, part: TensorRef, first: int, last: int) -> np.ndarray:
        if part.name.endswith("qweight"):
            read.append(last - first)
        return elements(self, part, first, last)

    monkeypatch.setattr(TensorReader, "elements", counted)
    with TensorReader() as reader:
        profile = read_profile(reader, ref.as_values, 1)
    assert profile.signature is not None
    assert sum(read) == words.size


NOT_KNOWN: dict[str, Any] = {
    "tiles of no declared size": ("weight_scale_inv", "F32", (2, 2), {}),
    "scales of another number of rows": ("weight_scale", "F32", (OUT - 1, 1), {}),
    "groups that are no whole part": ("weight_scale", "F32", (OUT, 5), {}),
    "scales of a type of whole numbers": ("weight_scale", "I32", (OUT, 1), {}),
}


@pytest.mark.parametrize("name", NOT_KNOWN)
def test_codes_whose_scales_are_not_known_have_zeros_and_no_signature(tmp_path, chance, name):
    suffix, dtype, shape, declared = NOT_KNOWN[name]
    codes = chance.integers(0, 100, (OUT, IN), dtype=np.uint8)
    entries: dict[str, Entry] = {
        f"{MODULE}.weight": ("F8_E4M3", (OUT, IN), codes.tobytes()),
        f"{MODULE}.{suffix}": (dtype, shape, None),
    }
    _, tensors, _ = rows_of(write(tmp_path, entries, {"quantization_config": declared, "model_type": "llama"}))
    row = tensors[f"{MODULE}.weight"]
    assert row["zeros"] == (codes == 0).sum()
    assert (row["signature"], row["sketch"]) == (None, None)


@pytest.mark.parametrize("stored", [float("inf"), float("nan"), 3e38])
def test_words_that_stand_for_infinity_have_no_signature(tmp_path, chance, stored):
    case = scaled(chance, "fp8 of rows")
    case[0]["weight_scale"][1].view(np.float32)[3] = stored
    (row,) = (row for row in rows_of(write_case(tmp_path, case))[1].values() if row["is_parameter"])
    assert (row["signature"], row["sketch"]) == (None, None)
    assert row["zeros"] > 0


def test_transposed_words_of_a_view_are_read_by_its_own_strides(tmp_path, chance):
    """qweight of a torch file that is a view with other strides than C order."""
    torch = pytest.importorskip("torch")
    parts, declared, *_ = gptq(chance, 4)
    expected = values_of(weight_of(write_case(tmp_path / "plain", (parts, declared, *_))).as_values)
    kinds = {"I32": np.int32, "F16": np.float16}
    tensors = {f"{MODULE}.{name}": torch.tensor(values.view(kinds[dtype])) for name, (dtype, values) in parts.items()}
    tensors[f"{MODULE}.qweight"] = tensors[f"{MODULE}.qweight"].t().contiguous().t()
    folder = tmp_path / "torch"
    folder.mkdir()
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "quantization_config": declared}))
    placed = open_weights(folder, [folder / "pytorch_model.bin"], "m").placement.placed
    (ref,) = (tensor.ref for tensor in placed if tensor.is_parameter)
    assert (values_of(ref.as_values) == expected).all()


def test_eight_bit_values_in_a_bitmask_are_codes_under_their_scales(tmp_path, chance):
    """A sparse weight of FP8 has no mean of its own: the scales are not in it."""
    dense = chance.integers(0x20, 0x70, (OUT, IN), dtype=np.uint8)
    dense[:, chance.permutation(IN)[: IN // 2]] = 0
    scales = (chance.integers(1, 9, OUT) / 32).astype(np.float32)
    entries: dict[str, Entry] = {
        f"{MODULE}.compressed": ("F8_E4M3", (OUT, IN // 2), dense[dense != 0].tobytes()),
        f"{MODULE}.bitmask": ("U8", (OUT, IN // 8), np.packbits(dense != 0, axis=1, bitorder="little").tobytes()),
        f"{MODULE}.shape": ("I64", (2, 1), np.array([OUT, IN], np.int64).tobytes()),
        f"{MODULE}.weight_scale": ("F32", (OUT, 1), scales.tobytes()),
    }
    folder = write(tmp_path, entries, {"model_type": "llama"})
    (row,) = (row for row in rows_of(folder)[1].values() if row["is_parameter"])
    assert (row["zeros"], row["mean"], row["l2_norm"]) == (OUT * IN // 2, None, None)
    torch = pytest.importorskip("torch")
    codes = torch.tensor(dense).view(torch.float8_e4m3fn).float().numpy()
    ref = weight_of(folder).as_values
    assert ref is not None
    assert (values_of(ref) == codes * scales[:, np.newaxis]).all()
    assert (values_of(replace(ref, shape=(8, IN), strides=(4 * IN, 1))) == (codes * scales[:, np.newaxis])[::4]).all()


@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_values_of_ggml_blocks_are_those_of_its_own_library(chance, name):
    gguf = pytest.importorskip("gguf", reason="the gguf package, ggml's own reference in Python, is not installed")
    number = gguf.GGMLQuantizationType[name]
    elements, size = gguf.GGML_QUANT_SIZES[number]
    blocks = chance.integers(0, 256, (2000, size), dtype=np.uint8)
    with np.errstate(all="ignore"):
        values = BLOCK_VALUES[name](blocks)
        expected = gguf.quants.dequantize(blocks.reshape(-1), number).reshape(-1, elements)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, expected)


needs_formats = pytest.mark.skipif(
    not FORMATS.is_dir(), reason=f"no checkpoints in {FORMATS}, which is not part of the project"
)
OF_BASE = sorted(
    folder.name
    for folder in (FORMATS.iterdir() if FORMATS.is_dir() else ())
    if json.loads((folder / "expected.json").read_text())["base_kind"] == "llama" and folder.name != BASE.name
)
NOT_DECODED = {"hqq-1bit-g32", "hqq-4bit-g64", "vptq-v8-k256-16"}
SMOOTHED = {"autoawq-gemm", "modelopt-int4-awq"}
"""Scales of inputs are moved into the norms before them, and so the weights are others."""
COARSE = {"gptqmodel-2bit", "bitnet-offline"}
"""Fewer than 3 bits."""


def _layer_matrices(folder: Path) -> dict[str, Mapping[str, Any]]:
    """The matrices of a model's layers, by name in the model."""
    files = "*.gguf" if any(folder.glob("*.gguf")) else "*.safetensors"
    rows = rows_of(folder, files)[1].values()
    matrices = (row for row in rows if row["is_parameter"] and row["layer_index"] is not None)
    return {row["canonical_name"]: row for row in matrices if len(row["weight_shape"] or row["shape"]) == 2}


@needs_formats
@pytest.mark.parametrize("name", [name for name in OF_BASE if name not in NOT_DECODED | SMOOTHED | COARSE])
def test_signatures_of_a_quantised_copy_are_those_of_the_model(name):
    base, copy = _layer_matrices(BASE), _layer_matrices(FORMATS / name)
    assert copy.keys() == base.keys()
    for key, row in copy.items():
        one, other = (np.array(side[key]["signature"]) for side in (base, copy))
        assert row["sketch"] is not None
        assert one @ other / np.linalg.norm(one) / np.linalg.norm(other) > 0.9, key


def _without_block(source: Path, target: Path, removed: int) -> None:
    """A copy of a model in one safetensors file, without a block; later ones have other numbers."""
    safetensors = pytest.importorskip("safetensors.torch")

    def renumbered(match: re.Match[str]) -> str:
        return f"layers.{int(match[1]) - (int(match[1]) > removed)}."

    target.mkdir(parents=True)
    tensors = {name: tensor for file in source.glob("*.safetensors") for name, tensor in safetensors.load_file(file).items()}
    kept = {name: tensor for name, tensor in tensors.items() if f"layers.{removed}." not in name}
    safetensors.save_file(
        {re.sub(r"layers\.(\d+)\.", renumbered, name): kept[name] for name in kept}, target / "model.safetensors"
    )
    for file in source.glob("*.json"):
        if file.name != "expected.json" and "index" not in file.name:
            text = file.read_text().replace('"num_hidden_layers": 3', '"num_hidden_layers": 2')
            (target / file.name).write_text(text)


WITHOUT_OWN_ENTRIES = {"quanto-int4", "mlx-mixed-4-6"}
"""Their configs say something of every module by name."""


@needs_formats
def test_layers_of_a_quantised_child_are_those_of_its_base_also_after_one_was_removed(tmp_path):
    names = [name for name in OF_BASE if name not in NOT_DECODED and not name.startswith("gguf")]
    cut = [name for name in names if name not in WITHOUT_OWN_ENTRIES]
    for name in cut:
        _without_block(FORMATS / name, tmp_path / "cut" / name, 1)
    folders = [BASE, *(FORMATS / name for name in OF_BASE if name not in NOT_DECODED)]
    lh.ingest([*folders, tmp_path / "cut"], warehouse=tmp_path / "w", base=BASE)
    with lh.open(tmp_path / "w") as wh:
        rows = wh.sql(
            "SELECT model_id, layer_index, base_layer_index, match FROM layer_matches JOIN current_checkpoints"
            " USING (checkpoint_id) WHERE layer_index IS NOT NULL ORDER BY ALL"
        ).rows()
    places: dict[str, list[tuple[int, int, str]]] = {}
    for model, *place in rows:
        places.setdefault(model, []).append(tuple(place))
    for name in OF_BASE:
        if name not in NOT_DECODED:
            (model,) = (model for model in places if model.split("/")[-1] == name and "cut" not in model)
            assert places[model] == [(layer, layer, "similar") for layer in range(3)], name
    for name in cut:
        (model,) = (model for model in places if model.endswith(f"cut/{name}"))
        assert places[model] == [(0, 0, "similar"), (1, 2, "similar")], name
