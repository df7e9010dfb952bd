"""Weights in a form that is not read have no count of parameters: they are never a smaller model, and never a pruned one."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

import layerhouse as lh
from layerhouse.tests.test_layouts import CONFIG, LINEAR, SHAPES, Entry, plain, rows_of, write
from layerhouse.warehouse.study.analysis_files import write_analyses

Shape = tuple[int, ...]
Pack = Callable[[str, Shape], dict[str, Entry]]

FORMS: dict[str, tuple[Pack, dict[str, Any] | None]] = {
    "words of a declared method": (lambda name, shape: {f"{name}.blob": ("U8", (7,), None)}, {"quant_method": "zipnn9"}),
    "words alone": (lambda name, shape: {f"{name}.blob": ("U8", (7,), None)}, None),
    "words that are floats": (lambda name, shape: {f"{name}.lattice": ("F16", (shape[0], shape[1] // 8), None)}, None),
    "bytes in place of the weight": (lambda name, shape: {f"{name}.weight": ("U8", (shape[0], shape[1] // 2), None)}, None),
    "bytes with scales of another name": (
        lambda name, shape: {
            f"{name}.weight": ("U8", (shape[0], shape[1] // 2), None),
            f"{name}.scales": ("F32", (shape[0], 1), None),
        },
        None,
    ),
    "flat words in place of the weight": (
        lambda name, shape: {f"{name}.weight": ("I32", (math.prod(shape) // 8,), None)},
        None,
    ),
    "words of floats in place of the weight": (
        lambda name, shape: {f"{name}.weight": ("F32", (shape[0], shape[1] // 8), None)},
        {"quant_method": "zipnn9"},
    ),
    "ternary words without their config": (
        lambda name, shape: {
            f"{name}.weight": ("U8", (shape[0] // 4, shape[1]), None),
            f"{name}.weight_scale": ("BF16", (1,), None),
        },
        None,
    ),
    "words that pass for codes of half the width": (
        lambda name, shape: {
            f"{name}.weight": ("I8", (shape[0], shape[1] // 2), None),
            f"{name}.weight_scale": ("F32", (shape[0], 1), None),
        },
        None,
    ),
}
COUNTS = ("params", "params_stored", "layer_params", "prunable_params", "zeros", "nonzero_params", "macs_per_token")
SIZES = ("params", "attention_params", "mlp_params", "num_heads", "num_kv_heads", "intermediate_size", "zeros", "is_zero_layer")


def packed(pack: Pack, names: list[str] = LINEAR) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for name, shape in SHAPES.items():
        entries |= pack(name.removesuffix(".weight"), shape) if name in names else plain({name: shape})
    return entries


def declared(block: Mapping[str, Any] | None) -> dict[str, Any]:
    return {**CONFIG, **({} if block is None else {"quantization_config": block})}


@pytest.mark.parametrize("form", FORMS)
def test_what_depends_on_their_shapes_is_null(tmp_path, form):
    pack, block = FORMS[form]
    checkpoint, tensors, layers = rows_of(write(tmp_path / "m", packed(pack), declared(block)))
    assert {word: checkpoint[word] for word in COUNTS} == dict.fromkeys(COUNTS)
    assert [{word: row[word] for word in SIZES} for row in layers] == [dict.fromkeys(SIZES)] * 2
    assert [(row["hidden_size"], row["norm_params"]) for row in layers] == [(64, 128)] * 2
    assert checkpoint["embedding_params"] == math.prod(SHAPES["model.embed_tokens.weight"])
    unread = [row for row in tensors.values() if row["params"] is None]
    assert {row["role"] for row in unread} == {name.split(".")[-2] for name in LINEAR}
    assert all(row["content_hash"] for row in unread)
    (text,) = (note["text"] for note in checkpoint["notes"] if note["code"] == "unread")
    assert text.startswith(f"packed {'by zipnn9' if block else 'in an unknown form'}, not read: model.layers.0.")


def test_they_are_compared_with_no_base_and_called_nothing(tmp_path):
    """As a model and as the base of others."""
    write(tmp_path / "zoo/base", plain(SHAPES))
    for name, (pack, block) in zip("abcdefghi", FORMS.values(), strict=True):
        write(tmp_path / "zoo" / name, packed(pack), declared(block))
    report = lh.ingest([tmp_path / "zoo"], warehouse=tmp_path / "w", base=tmp_path / "zoo/base")
    assert (report.count("failed"), report.count("taken")) == (0, 10)
    said = {event.where: event.what for event in report.events if "not comparable" in event.what}
    assert said["zoo/a"] == "not comparable with zoo/base: packed by zipnn9, not read"
    assert len(said) == 9
    with lh.open(tmp_path / "w") as wh:
        words = "params, reduction_ratio, strategy, removed_layers, num_removed_layers, sparsity, zero_layers"
        rows = wh.sql(f"SELECT {words} FROM models WHERE model_id <> 'zoo/base'").rows()
        assert rows == [(None,) * 7] * 9
        notes = wh.sql("SELECT status_note FROM models WHERE model_id <> 'zoo/base'")["status_note"]
        assert notes.str.starts_with("not comparable with a base; packed ").all()
        levels = wh.sql("SELECT DISTINCT level, num_heads FROM layer_pruning WHERE model_id <> 'zoo/base'").rows()
        assert levels == [(None, None)]
    again = lh.ingest([tmp_path / "zoo/base"], warehouse=tmp_path / "w2", base=tmp_path / "zoo/a")
    assert [(event.where, event.what) for event in again.events if "not read" in event.what] == [
        ("zoo/a", "no base for others: packed by zipnn9, not read"),
        ("zoo/base", "not comparable with zoo/a: zoo/a is packed by zipnn9, not read"),
    ]


def test_no_analysis_is_written_of_them(tmp_path):
    pack, block = FORMS["words of a declared method"]
    folder = write(tmp_path / "zoo/m", packed(pack), declared(block))
    lh.ingest([tmp_path / "zoo"], warehouse=tmp_path / "w")
    with lh.open(tmp_path / "w") as wh:
        failures = write_analyses(wh.connection_for(), ["zoo/m"], tmp_path / "out", force=False)
    assert failures["zoo/m"].startswith("zoo/m: its parameters are not known, not comparable with a base; packed by zipnn9")
    assert not (folder / "analysis").exists()


def test_one_weight_leaves_the_other_modules_known(tmp_path):
    pack, _ = FORMS["words alone"]
    names = ["model.layers.1.mlp.up_proj.weight"]
    checkpoint, _, layers = rows_of(write(tmp_path / "m", packed(pack, names)))
    whole, _, whole_layers = rows_of(write(tmp_path / "whole", plain(SHAPES)))
    assert (checkpoint["params"], checkpoint["embedding_params"]) == (None, whole["embedding_params"])
    assert layers[0] | {"checkpoint_id": ""} == whole_layers[0] | {"checkpoint_id": ""}
    words = ("num_heads", "num_kv_heads", "head_dim", "attention_params", "norm_params", "hidden_size")
    assert {word: layers[1][word] for word in words} == {word: whole_layers[1][word] for word in words}
    unknown = ("params", "mlp_params", "other_params", "role_params", "intermediate_size", "zeros", "macs_per_token")
    assert {word: layers[1][word] for word in unknown} == dict.fromkeys(unknown)


def test_flat_words_without_config_or_family_are_no_model(tmp_path):
    """Rows of bytes in the blocks; an index of 64 bits is none of them."""
    entries: dict[str, Entry] = {
        "net.layers.0.first.norm.weight": ("F32", (8,), None),
        "net.layers.0.first.order": ("I64", (8,), None),
    }
    checkpoint, _, _ = rows_of(write(tmp_path / "m", entries, None))
    assert checkpoint["params"] == 8
    entries["net.layers.0.first.blob"] = ("U8", (100,), None)
    checkpoint, tensors, _ = rows_of(write(tmp_path / "n", entries, None))
    assert (checkpoint["params"], tensors["net.layers.0.first.blob"]["params"]) == (None, None)


def test_one_expert_leaves_their_number_open(tmp_path):
    module = "model.layers.0.mlp"
    entries: dict[str, Entry] = {
        **plain({name: shape for name, shape in SHAPES.items() if "mlp." not in name and ".1." not in name}),
        f"{module}.gate.weight": ("BF16", (3, 64), None),
        **{f"{module}.experts.{number}.up_proj.weight": ("BF16", (32, 64), None) for number in range(2)},
        f"{module}.experts.2.up_proj.blob": ("U8", (32, 8), None),
    }
    _, _, (layer,) = rows_of(write(tmp_path / "m", entries, {**CONFIG, "model_type": "qwen3_moe"}))
    assert (layer["num_experts"], layer["intermediate_size"], layer["mlp_params"]) == (None, None, None)
    assert layer["num_heads"] == 4


def test_a_quantisation_that_is_declared_and_not_there_changes_nothing(tmp_path):
    """Before a model is quantised, or after it was read back; buffers of integers are no words."""
    block = {"quant_method": "zipnn9"}
    entries = {
        **plain(SHAPES),
        "model.embeddings.position_ids": ("I64", (1, 16), None),
        "model.layers.0.mlp.gate.weight": ("F32", (4, 64), None),
        "model.layers.0.mlp.gate.tid2eid": ("I64", (96, 2), None),
    }
    checkpoint, _, _ = rows_of(write(tmp_path / "m", entries, declared(block)))
    whole, _, _ = rows_of(write(tmp_path / "whole", plain(SHAPES)))
    assert checkpoint["params"] == whole["params"] + 4 * 64
    assert "unread" not in {note["code"] for note in checkpoint["notes"]}


def test_pickled_tensors_of_a_class_that_is_not_read_are_no_small_model(tmp_path):
    weights = {name: torch.ones(shape) for name, shape in SHAPES.items()}
    (tmp_path / "m").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that nested tensors are a prototype
        nested = torch.nested.nested_tensor([torch.ones(3), torch.ones(4)])
    torch.save({**weights, "model.layers.0.mlp.down_proj.weight": nested}, tmp_path / "m/pytorch_model.bin")
    (tmp_path / "m/config.json").write_text(json.dumps(CONFIG))
    checkpoints = [rows_of(tmp_path / "m", "*.bin")]
    (text,) = (note["text"] for note in checkpoints[0][0]["notes"] if note["code"] == "unread")
    assert "pytorch_model.bin: kind of tensor" in text
    assert {word: checkpoints[0][0][word] for word in COUNTS} == dict.fromkeys(COUNTS)
    assert [row["params"] for row in checkpoints[0][2]] == [None, None]


def test_what_was_not_read_is_part_of_no_shared_checkpoint(tmp_path):
    """Two files that differ in what is not read alone are two checkpoints."""
    for name, value in (("a", 1.0), ("b", 2.0)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nested = torch.nested.nested_tensor([torch.full((3,), value), torch.ones(4)])
        (tmp_path / "zoo" / name).mkdir(parents=True)
        torch.save({"a.weight": torch.ones(2, 2), "b.weight": nested}, tmp_path / "zoo" / name / "model.bin")
    lh.ingest([tmp_path / "zoo"], warehouse=tmp_path / "w")
    with lh.open(tmp_path / "w") as wh:
        assert wh.sql("SELECT count(DISTINCT checkpoint_id) FROM models").item() == 2
        assert not wh.sql("SELECT status_note FROM models")["status_note"].str.contains("identical").any()
