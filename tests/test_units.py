"""Which heads, KV groups and neurons of the base a pruned model kept: exact by their bytes, similar after tuning."""

from __future__ import annotations

import math
import threading

import polars as pl
import pytest
import torch
import transformers
import xxhash
from safetensors.torch import load_file

import layerhouse as lh
from layerhouse.ingest import units as ingest_units
from layerhouse.ingest.checkpoint_rows import open_weights
from layerhouse.ingest.measure.unit_vectors import DIMENSIONS
from layerhouse.tests.pruned_models import (
    Kept,
    choose,
    cut_llama,
    ingest_models,
    kept_by_layer,
    passed_texts,
    prune,
    state_of,
    tuned,
    unit_rows,
    write_model,
)
from layerhouse.tests.tiny_models import EXPLICIT, HEAD_DIM, HEADS, INTERMEDIATE, KV_HEADS, TinyModel
from layerhouse.warehouse.admin.health import check_warehouse


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A Llama with grouped KV heads, and what pruning by two methods, tuning, and exchanging parts make of it."""
    folder = tmp_path_factory.mktemp("units")
    state, config = state_of(TinyModel("llama", {**EXPLICIT, "num_hidden_layers": 4, "tie_word_embeddings": False}))
    kept = kept_by_layer(4)
    pruned = prune(state, kept, cut_llama)
    swapped = dict(pruned)
    swapped["model.layers.0.mlp.down_proj.weight"] = pruned["model.layers.0.mlp.down_proj.weight"].flip(1)
    regrouped = dict(state)
    for role in ("k_proj", "v_proj"):
        regrouped[f"model.layers.1.self_attn.{role}.weight"] = state[f"model.layers.1.self_attn.{role}.weight"].roll(
            HEAD_DIM, 0
        )
    shorter = {name.replace("layers.3.", "layers.2."): tensor for name, tensor in pruned.items() if "layers.2." not in name}
    other = {index: Kept(choose(70 + index, 1, 2), choose(80 + index, 100, INTERMEDIATE)) for index in range(4)}
    for name, tensors in {
        "base": state,
        "first": pruned,
        "second": prune(state, other, cut_llama),
        "tuned": tuned(pruned),
        "cast": {name: tensor.bfloat16() for name, tensor in pruned.items()},
        "swapped": swapped,
        "regrouped": regrouped,
        "shorter": shorter,
    }.items():
        write_model(folder, name, {key: tensor.contiguous() for key, tensor in tensors.items()}, config)
    return folder, ingest_models(folder, base=folder / "models/base", units=True), kept, other


def test_kept_heads_groups_and_neurons_of_a_grouped_llama_are_exact(llama):
    folder, report, kept, _ = llama
    assert report.count("failed") == 0
    assert check_warehouse(folder / "w") == []
    rows = unit_rows(folder, "first")
    assert len(rows) == 12
    for index, one in kept.items():
        for kind, expected in (("head", one.heads), ("kv_group", one.groups), ("neuron", one.neurons)):
            row = rows[index, kind]
            total = {"head": HEADS, "kv_group": KV_HEADS, "neuron": INTERMEDIATE}[kind]
            assert row["units_kept"] == list(expected)
            assert row["units_removed"] == sorted(set(range(total)) - set(expected))
            assert (row["num_base_units"], row["num_units"], row["num_exact"]) == (total, len(expected), len(expected))
            assert row["least_confidence"] == 1.0
    assert passed_texts(report, "first") == []


def test_after_tuning_the_same_units_are_similar_and_a_line_says_that_they_are_not_exact(llama):
    folder, report, kept, _ = llama
    for name in ("tuned", "cast"):
        rows = unit_rows(folder, name)
        for index, one in kept.items():
            for kind, expected in (("head", one.heads), ("kv_group", one.groups), ("neuron", one.neurons)):
                row = rows[index, kind]
                assert row["units_kept"] == list(expected)
                assert (row["num_exact"], row["num_similar"], row["num_unknown"]) == (0, len(expected), 0)
                assert 0.1 <= row["least_confidence"] <= 1
        inexact = [line for line in passed_texts(report, name) if "exactly" in line]
        neurons = sum(len(one.neurons) for one in kept.values())
        assert (
            f"compared with models/base: neurons are not recoverable exactly: {neurons} of {neurons} are similar by signature"
            in inexact
        )


def test_neurons_whose_gate_and_up_are_not_those_of_their_down_are_not_matched(llama):
    folder, report, kept, _ = llama
    row = unit_rows(folder, "swapped")[0, "neuron"]
    assert (row["units_kept"], row["units_removed"], row["num_exact"]) == (None, None, 0)
    assert row["num_unknown"] == len(kept[0].neurons)
    with lh.open(folder / "w") as wh:
        rows = wh.sql(
            "SELECT DISTINCT match, base_unit_index FROM unit_matches JOIN current_checkpoints USING (checkpoint_id)"
            " WHERE model_id = 'models/swapped' AND kind = 'neuron' AND layer_index = 0"
        ).rows()
    assert rows == [("inconsistent", None)]
    count = len(kept[0].neurons)
    assert f"the parts of {count} are of several units of the base (layer 0)" in " ".join(passed_texts(report, "swapped"))


def test_heads_that_read_another_group_than_in_the_base_are_not_matched(llama):
    folder, report, *_ = llama
    rows = unit_rows(folder, "regrouped")
    assert rows[1, "kv_group"]["num_exact"] == KV_HEADS
    assert (rows[1, "head"]["num_unknown"], rows[1, "head"]["units_kept"]) == (HEADS, None)
    assert rows[0, "head"]["num_unknown"] == 0
    assert any("heads are not recoverable exactly" in line for line in passed_texts(report, "regrouped"))


def test_a_removed_block_keeps_no_units_and_the_blocks_after_it_their_own(llama):
    folder, _, kept, _ = llama
    with lh.open(folder / "w") as wh:
        rows = wh.query("unit_pruning", models=["models/shorter"]).to_dicts()
    by_base = {(row["base_layer_index"], row["kind"]): row for row in rows}
    assert len(rows) == 12
    assert (
        by_base[2, "head"] | {"units_kept": [], "units_removed": [0, 1, 2, 3], "num_units": 0, "layer_index": None}
        == by_base[2, "head"]
    )
    assert by_base[3, "neuron"]["layer_index"] == 2
    assert by_base[1, "neuron"]["units_kept"] == list(kept[1].neurons)


def test_the_overlap_of_two_methods_is_that_of_their_sets(llama):
    folder, _, kept, other = llama
    with lh.open(folder / "w") as wh:
        rows = wh.query("unit_overlap", models=["models/first"]).filter(pl.col("other_model_id") == "models/second").to_dicts()
    assert len(rows) == 12
    for row in rows:
        ours, theirs = (
            set({"head": one.heads, "kv_group": one.groups, "neuron": one.neurons}[row["kind"]])
            for one in (kept[row["base_layer_index"]], other[row["base_layer_index"]])
        )
        assert (row["num_kept"], row["other_num_kept"], row["num_kept_by_both"]) == (len(ours), len(theirs), len(ours & theirs))
        assert row["jaccard"] == len(ours & theirs) / len(ours | theirs)


def test_the_stored_units_are_the_rows_and_columns_of_the_weights(llama):
    folder, *_ = llama
    state = load_file(folder / "models/first/model.safetensors")
    with lh.open(folder / "w") as wh:
        rows = wh.sql(
            "SELECT units.* FROM units JOIN current_checkpoints USING (checkpoint_id)"
            " WHERE model_id = 'models/first' AND layer_index = 1 ORDER BY kind, unit_index"
        ).to_dicts()
    neuron = next(row for row in rows if row["kind"] == "neuron" and row["unit_index"] == 7)
    weights = {role: state[f"model.layers.1.mlp.{role}_proj.weight"] for role in ("gate", "up", "down")}
    vectors = {"gate": weights["gate"][7], "up": weights["up"][7], "down": weights["down"][:, 7]}
    hashes = {name: xxhash.xxh3_128_hexdigest(vector.numpy().tobytes()) for name, vector in vectors.items()}
    assert neuron["part_hashes"] == {name: text[:16] for name, text in hashes.items()}
    squares = sum(float((vector.double() ** 2).sum()) for vector in vectors.values())
    assert neuron["l2_norm"] == pytest.approx(math.sqrt(squares), rel=1e-6)
    assert len(neuron["signature"]) == 3 * DIMENSIONS
    head = next(row for row in rows if row["kind"] == "head" and row["unit_index"] == 1)
    own = slice(HEAD_DIM, 2 * HEAD_DIM)
    attention = [state[f"model.layers.1.self_attn.{role}_proj.weight"].double() for role in "qo"]
    assert head["l2_norm"] == pytest.approx(
        math.sqrt((attention[0][own] ** 2).sum() + (attention[1][:, own] ** 2).sum()), rel=1e-6
    )


def test_an_interrupt_does_not_wait_for_running_layers(llama, monkeypatch):
    folder, *_ = llama
    path = folder / "models/first/model.safetensors"
    opened = open_weights(path.parent, (path,), "first")
    may_end, ended = threading.Event(), []

    def tables(reader, parts, where):
        if where["layer_index"] == 0:
            raise KeyboardInterrupt
        ended.append(may_end.wait(20))
        return []

    monkeypatch.setattr(ingest_units, "_layer_tables", tables)
    with pytest.raises(KeyboardInterrupt):
        ingest_units.read_units(opened, "c", threads=2)
    assert ended == []
    may_end.set()


def test_units_are_the_same_by_any_number_of_threads(llama, tmp_path):
    folder, *_ = llama
    lh.ingest([folder / "models/first"], warehouse=tmp_path / "w", threads=3, units=True)
    with lh.open(tmp_path / "w") as by_three, lh.open(folder / "w") as by_one:
        own = by_three.sql("SELECT * EXCLUDE (commit_id, ingested_at) FROM units")
        checkpoint_id = own["checkpoint_id"][0]
        expected = by_one.sql(f"SELECT * EXCLUDE (commit_id, ingested_at) FROM units WHERE checkpoint_id = '{checkpoint_id}'")
    keys = ["layer_index", "kind", "unit_index"]
    assert own.height > 0
    assert own.sort(keys).equals(expected.sort(keys))


def test_a_neuron_of_zeros_is_dead(tmp_path):
    state, config = state_of(TinyModel("llama", EXPLICIT))
    masked = {name: tensor.clone() for name, tensor in state.items()}
    for role, axis in (("gate_proj", 0), ("up_proj", 0), ("down_proj", 1)):
        masked[f"model.layers.1.mlp.{role}.weight"].index_fill_(axis, torch.tensor([3, 8]), 0)
    masked["model.layers.0.mlp.up_proj.weight"][5] = 0
    write_model(tmp_path, "base", state, config)
    write_model(tmp_path, "masked", masked, config)
    ingest_models(tmp_path, base=tmp_path / "models/base", units=True)
    rows = unit_rows(tmp_path, "masked")
    assert [rows[index, "neuron"]["num_dead"] for index in range(3)] == [0, 2, 0]


# When units are read


def events(report):
    return {(event.where, event.kind): event.what for event in report.events}


def test_units_are_added_to_models_that_were_taken_before_and_matched_once(tmp_path):
    state, config = state_of(TinyModel("llama", EXPLICIT))
    kept = kept_by_layer(4)
    write_model(tmp_path, "base", state, config)
    write_model(tmp_path, "child", prune(state, kept, cut_llama), config)
    ingest_models(tmp_path, base=tmp_path / "models/base")
    assert unit_rows(tmp_path, "child") == {}
    report = events(ingest_models(tmp_path, base=tmp_path / "models/base", units=True))
    total = 4 * (HEADS + KV_HEADS + INTERMEDIATE)
    assert report["models/base", "taken"].endswith(f", {total:,} units")
    assert unit_rows(tmp_path, "child")[0, "head"]["units_kept"] == list(kept[0].heads)
    before = sorted((tmp_path / "w/commits").iterdir())
    again = ingest_models(tmp_path, base=tmp_path / "models/base", units=True)
    assert [event.kind for event in again.events] == ["unchanged", "unchanged"]
    assert sorted((tmp_path / "w/commits").iterdir()) == before
    with lh.open(tmp_path / "w") as wh:
        assert (
            wh.sql("SELECT count(*) FROM units JOIN models USING (checkpoint_id) WHERE model_id = 'models/base'").item()
            == total
        )


def test_a_base_without_units_is_reported(tmp_path):
    state, config = state_of(TinyModel("llama", EXPLICIT))
    write_model(tmp_path, "base", state, config)
    write_model(tmp_path, "child", prune(state, kept_by_layer(4), cut_llama), config)
    ingest_models(tmp_path, "models/base")
    report = ingest_models(tmp_path, "models/child", base="models/base", units=True)
    assert passed_texts(report, "base") == ["no units of the base are in the warehouse to match with; take it with --units"]
    assert unit_rows(tmp_path, "child") == {}


def test_units_need_values(tmp_path):
    with pytest.raises(lh.UsageError, match=r"units are read from values, and stats is 'none': leave out one of them"):
        ingest_models(tmp_path, units=True, stats="none")


def test_units_that_the_shapes_do_not_give_are_noted_and_the_others_read(tmp_path):
    state, config = state_of(TinyModel("llama", EXPLICIT))
    name = "model.layers.1.self_attn.q_proj.weight"
    write_model(tmp_path, "odd", {**state, name: state[name][:55].clone()}, config)
    write_model(tmp_path, "unknown", {"blocks.0.thing": torch.zeros(4, 4)}, config)
    report = ingest_models(tmp_path, units=True)
    assert report.count("failed") == 0
    with lh.open(tmp_path / "w") as wh:
        counted = wh.sql("SELECT layer_index, kind, count(*) FROM units GROUP BY ALL ORDER BY ALL").rows()
        note = wh.sql("SELECT status_note FROM models WHERE model_id = 'models/odd'").item()
    assert [row for row in counted if row[0] == 1] == [(1, "neuron", INTERMEDIATE)]
    assert len(counted) == 4 * 3 - 2
    assert "layer 1: heads are not known: the shapes do not give the heads" in note


def test_a_file_that_is_truncated_before_units_are_read_fails(tmp_path):
    state, config = state_of(TinyModel("llama", EXPLICIT))
    write_model(tmp_path, "model", state, config)
    ingest_models(tmp_path)
    path = tmp_path / "models/model/model.safetensors"
    status = path.stat()
    path.write_bytes(path.read_bytes()[:-1000])
    report = ingest_models(tmp_path, units=True)
    assert report.count("failed") == 1
    assert status.st_size > path.stat().st_size


def test_each_stack_has_heads_of_its_own_size(tmp_path):
    text = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 96}
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "image_size": 28, "patch_size": 14}
    config = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(num_hidden_layers=2, **text),
        vision_config=transformers.CLIPVisionConfig(num_hidden_layers=2, **vision),
    )
    transformers.LlavaForConditionalGeneration(config).save_pretrained(tmp_path / "models/llava")
    lh.ingest([tmp_path / "models"], warehouse=tmp_path / "w", units=True)
    with lh.open(tmp_path / "w") as wh:
        counts = wh.sql(
            "SELECT DISTINCT stack, kind, count(*) AS units FROM units WHERE kind <> 'neuron' "
            "GROUP BY stack, layer_index, kind ORDER BY stack, kind"
        )
    assert counts.rows() == [("text", "head", 4), ("text", "kv_group", 2), ("vision", "head", 4), ("vision", "kv_group", 4)]
