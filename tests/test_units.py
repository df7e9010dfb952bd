"""Which heads, KV groups, neurons and experts of the base a pruned model kept: exact by their bytes, similar after tuning."""

from __future__ import annotations

import json
import math
import threading
from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest
import torch
import xxhash
from safetensors.torch import load_file, save_file

import layerhouse as lh
from layerhouse.ingest import units as ingest_units
from layerhouse.ingest.checkpoint.tensor_ref import TensorRef
from layerhouse.ingest.checkpoint_rows import open_weights
from layerhouse.ingest.compare import match_units as unit_matches
from layerhouse.ingest.compare.match_units import UnitGroup, place_units
from layerhouse.ingest.measure import unit_vectors
from layerhouse.ingest.measure.io.tensor_reader import TensorReader
from layerhouse.ingest.measure.unit_vectors import DIMENSIONS, read_vectors
from layerhouse.tests.tiny_models import (
    EXPERTS,
    EXPLICIT,
    GPT2,
    GROUPED,
    HEAD_DIM,
    HEADS,
    INTERMEDIATE,
    KV_HEADS,
    TinyModel,
    build,
)
from layerhouse.warehouse.admin.health import check_warehouse

RATIO = HEADS // KV_HEADS


@dataclass(frozen=True)
class Kept:
    """What one layer keeps: KV groups (with their query heads), neurons and experts, by the base's numbers."""

    groups: tuple[int, ...] = tuple(range(KV_HEADS))
    neurons: tuple[int, ...] = tuple(range(INTERMEDIATE))
    experts: tuple[int, ...] = tuple(range(EXPERTS))

    @property
    def heads(self):
        return tuple(group * RATIO + at for group in self.groups for at in range(RATIO))


def rows_of(units, size=HEAD_DIM):
    return torch.tensor([unit * size + at for unit in units for at in range(size)], dtype=torch.long)


def state_of(tiny):
    model = build(tiny)
    generator = torch.Generator().manual_seed(5)
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    for name, tensor in state.items():
        if "norm" in name or "ln_" in name or name.endswith("bias"):
            state[name] = tensor + 0.1 * torch.randn(tensor.shape, generator=generator)
    return state, json.loads(model.config.to_json_string(use_diff=False))


def layer_of(name):
    pieces = name.split(".")
    at = next((at for at, piece in enumerate(pieces) if piece in ("layers", "h")), None)
    return None if at is None else int(pieces[at + 1])


def cut_llama(name, tensor, kept):
    """The pruned tensor of a Llama or Mixtral layer, separate or fused (phi3)."""
    role = name.split(".")[-2] if name.endswith((".weight", ".bias")) else name.split(".")[-1]
    queries, keys, neurons = rows_of(kept.heads), rows_of(kept.groups), torch.tensor(kept.neurons)
    if role in ("k_proj", "v_proj", "q_proj"):
        return tensor[queries if role == "q_proj" else keys]
    if role == "qkv_proj":
        starts = (0, HEADS * HEAD_DIM, (HEADS + KV_HEADS) * HEAD_DIM)
        return tensor[torch.cat([start + rows for start, rows in zip(starts, (queries, keys, keys), strict=True)])]
    if role == "o_proj":
        return tensor[:, queries] if tensor.dim() == 2 else tensor
    if role == "gate_up_proj" and tensor.dim() == 2:
        return tensor[torch.cat([neurons, INTERMEDIATE + neurons])]
    if role in ("gate_proj", "up_proj"):
        return tensor[neurons]
    return tensor[:, neurons] if role == "down_proj" and tensor.dim() == 2 else tensor


def cut_gpt2(name, tensor, kept):
    """Conv1D: inputs first, queries, keys and values in one."""
    heads = rows_of(kept.groups)
    if ".c_attn." in name:
        return tensor[..., torch.cat([third * HEADS * HEAD_DIM + heads for third in range(3)])]
    if ".attn.c_proj.weight" in name:
        return tensor[heads]
    if ".c_fc." in name:
        return tensor[..., torch.tensor(kept.neurons)]
    return tensor[torch.tensor(kept.neurons)] if ".mlp.c_proj.weight" in name else tensor


def cut_experts(name, tensor, kept):
    experts = torch.tensor(kept.experts)
    return tensor[experts] if ".mlp.experts." in name or ".mlp.gate." in name else tensor


def prune(state, kept, cut):
    """Prune each layer by its entry of `kept`."""
    return {
        name: tensor if (index := layer_of(name)) is None or index not in kept else cut(name, tensor, kept[index]).contiguous()
        for name, tensor in state.items()
    }


def tuned(state, share=0.02):
    generator = torch.Generator().manual_seed(9)
    return {name: tensor * (1 + share * torch.randn(tensor.shape, generator=generator)) for name, tensor in state.items()}


def write(folder, name, state, config):
    path = folder / "models" / name
    path.mkdir(parents=True)
    save_file(state, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(config))


def ingest(folder, *roots, **options):
    return lh.ingest([folder / root for root in roots or ("models",)], warehouse=folder / "w", threads=1, **options)


def choose(seed, count, total):
    return tuple(sorted(np.random.default_rng(seed).choice(total, count, replace=False).tolist()))


def kept_by_layer(num, groups_total=KV_HEADS):
    """Other groups and neurons in each layer; the last one whole."""
    answer = {
        index: Kept(choose(index, groups_total - 1, groups_total), choose(10 + index, 40 + 30 * index, INTERMEDIATE))
        for index in range(num - 1)
    }
    return {**answer, num - 1: Kept(tuple(range(groups_total)))}


def units(folder, name):
    """(layer, kind) -> the kept_units row of a model."""
    with lh.open(folder / "w") as wh:
        rows = wh.query("unit_pruning", models=[f"models/{name}"]).to_dicts()
    return {(row["layer_index"], row["kind"]): row for row in rows}


def lines(report, name):
    return [event.what for event in report.events if event.where == f"models/{name}" and event.kind == "passed"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A grouped Llama, pruned by two methods, one of which was tuned after; a block removed; and odd ones."""
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
        write(folder, name, {key: tensor.contiguous() for key, tensor in tensors.items()}, config)
    return folder, ingest(folder, base=folder / "models/base", units=True), kept, other


def test_kept_heads_groups_and_neurons_of_a_grouped_llama_are_exact(llama):
    folder, report, kept, _ = llama
    assert report.count("failed") == 0
    assert check_warehouse(folder / "w") == []
    found = units(folder, "first")
    assert len(found) == 12
    for index, one in kept.items():
        for kind, expected in (("head", one.heads), ("kv_group", one.groups), ("neuron", one.neurons)):
            row = found[index, kind]
            total = {"head": HEADS, "kv_group": KV_HEADS, "neuron": INTERMEDIATE}[kind]
            assert row["units_kept"] == list(expected)
            assert row["units_removed"] == sorted(set(range(total)) - set(expected))
            assert (row["num_base_units"], row["num_units"], row["num_exact"]) == (total, len(expected), len(expected))
            assert row["least_confidence"] == 1.0
    assert lines(report, "first") == []


def test_after_tuning_the_same_units_are_similar_and_a_line_says_that_they_are_not_exact(llama):
    folder, report, kept, _ = llama
    for name in ("tuned", "cast"):
        found = units(folder, name)
        for index, one in kept.items():
            for kind, expected in (("head", one.heads), ("kv_group", one.groups), ("neuron", one.neurons)):
                row = found[index, kind]
                assert row["units_kept"] == list(expected)
                assert (row["num_exact"], row["num_similar"], row["num_unknown"]) == (0, len(expected), 0)
                assert 0.1 <= row["least_confidence"] <= 1
        said = [line for line in lines(report, name) if "exactly" in line]
        neurons = sum(len(one.neurons) for one in kept.values())
        assert (
            f"compared with models/base: neurons are not recoverable exactly: {neurons} of {neurons} are similar by signature"
            in said
        )


def test_neurons_whose_gate_and_up_are_not_those_of_their_down_are_claimed_for_nobody(llama):
    folder, report, kept, _ = llama
    row = units(folder, "swapped")[0, "neuron"]
    assert (row["units_kept"], row["units_removed"], row["num_exact"]) == (None, None, 0)
    assert row["num_unknown"] == len(kept[0].neurons)
    with lh.open(folder / "w") as wh:
        rows = wh.sql(
            "SELECT DISTINCT match, base_unit_index FROM unit_matches JOIN current_checkpoints USING (checkpoint_id)"
            " WHERE model_id = 'models/swapped' AND kind = 'neuron' AND layer_index = 0"
        ).rows()
    assert rows == [("inconsistent", None)]
    count = len(kept[0].neurons)
    assert f"the parts of {count} are of several units of the base (layer 0)" in " ".join(lines(report, "swapped"))


def test_heads_that_read_another_group_than_in_the_base_are_claimed_for_nobody(llama):
    folder, report, *_ = llama
    found = units(folder, "regrouped")
    assert found[1, "kv_group"]["num_exact"] == KV_HEADS
    assert (found[1, "head"]["num_unknown"], found[1, "head"]["units_kept"]) == (HEADS, None)
    assert found[0, "head"]["num_unknown"] == 0
    assert any("heads are not recoverable exactly" in line for line in lines(report, "regrouped"))


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


def test_who_interrupts_waits_for_no_layer(llama, monkeypatch):
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
        found = by_one.sql(f"SELECT * EXCLUDE (commit_id, ingested_at) FROM units WHERE checkpoint_id = '{checkpoint_id}'")
    keys = ["layer_index", "kind", "unit_index"]
    assert own.height > 0
    assert own.sort(keys).equals(found.sort(keys))


@pytest.mark.parametrize(
    ("tiny", "cut", "groups"),
    [
        (TinyModel("gpt2", {**GPT2, "bos_token_id": 0, "eos_token_id": 0}), cut_gpt2, HEADS),
        (TinyModel("phi3", {**GROUPED, "pad_token_id": 0}), cut_llama, KV_HEADS),
        (TinyModel("qwen2", GROUPED), cut_llama, KV_HEADS),
    ],
    ids=["gpt2, fused and transposed", "phi3, fused", "qwen2, with biases"],
)
def test_kept_units_are_exact_whatever_the_layout(tmp_path, tiny, cut, groups):
    state, config = state_of(tiny)
    state = {name: tensor for name, tensor in state.items() if not name.startswith("lm_head")}
    kept = kept_by_layer(4, groups)
    write(tmp_path, "base", state, config)
    write(tmp_path, "child", prune(state, kept, cut), config)
    ingest(tmp_path, base=tmp_path / "models/base", units=True)
    found = units(tmp_path, "child")
    assert len(found) == 12
    for index, one in kept.items():
        heads = one.groups if groups == HEADS else one.heads
        for kind, expected in (("head", heads), ("kv_group", one.groups), ("neuron", one.neurons)):
            assert (found[index, kind]["units_kept"], found[index, kind]["num_exact"]) == (list(expected), len(expected))


def split_experts(state):
    """A tensor for each expert, as files on disk have it, of the one for all that models have in memory."""
    answer = {}
    for name, tensor in state.items():
        place = name.removesuffix(".mlp.experts.gate_up_proj").removesuffix(".mlp.experts.down_proj")
        for expert in range(len(tensor)) if place != name else ():
            prefix = f"{place}.block_sparse_moe.experts.{expert}"
            if name.endswith("gate_up_proj"):
                answer[f"{prefix}.w1.weight"], answer[f"{prefix}.w3.weight"] = (
                    half.clone() for half in tensor[expert].chunk(2)
                )
            else:
                answer[f"{prefix}.w2.weight"] = tensor[expert].clone()
        if place == name:
            answer[name.replace(".mlp.gate.", ".block_sparse_moe.gate.")] = tensor
    return answer


@pytest.mark.parametrize("layout", [dict, split_experts], ids=["one tensor for all experts", "a tensor for each"])
def test_kept_experts_are_exact(tmp_path, layout):
    state, config = state_of(TinyModel("mixtral", {**EXPLICIT, "num_local_experts": EXPERTS}))
    kept = {0: Kept(experts=(1, 3)), 1: Kept(experts=(0,)), 2: Kept(experts=(0, 2, 3))}
    pruned = prune(state, kept, cut_experts)
    write(tmp_path, "base", layout(state), config)
    write(tmp_path, "child", layout(pruned), config)
    write(tmp_path, "tuned", layout(tuned(pruned)), config)
    report = ingest(tmp_path, base=tmp_path / "models/base", units=True)
    assert report.count("failed") == 0
    found, after = units(tmp_path, "child"), units(tmp_path, "tuned")
    for index in range(4):
        expected = list(kept.get(index, Kept()).experts)
        assert found[index, "expert"]["units_kept"] == after[index, "expert"]["units_kept"] == expected
        assert (found[index, "expert"]["num_exact"], after[index, "expert"]["num_similar"]) == (len(expected), len(expected))
        assert found[index, "head"]["units_kept"] == list(range(HEADS))


def test_a_neuron_of_zeros_is_dead(tmp_path):
    state, config = state_of(TinyModel("llama", EXPLICIT))
    masked = {name: tensor.clone() for name, tensor in state.items()}
    for role, axis in (("gate_proj", 0), ("up_proj", 0), ("down_proj", 1)):
        masked[f"model.layers.1.mlp.{role}.weight"].index_fill_(axis, torch.tensor([3, 8]), 0)
    masked["model.layers.0.mlp.up_proj.weight"][5] = 0
    write(tmp_path, "base", state, config)
    write(tmp_path, "masked", masked, config)
    ingest(tmp_path, base=tmp_path / "models/base", units=True)
    found = units(tmp_path, "masked")
    assert [found[index, "neuron"]["num_dead"] for index in range(3)] == [0, 2, 0]


# When units are read


def events(report):
    return {(event.where, event.kind): event.what for event in report.events}


def test_units_are_added_to_models_that_are_in_already_and_matched_once(tmp_path):
    state, config = state_of(TinyModel("llama", EXPLICIT))
    kept = kept_by_layer(4)
    write(tmp_path, "base", state, config)
    write(tmp_path, "child", prune(state, kept, cut_llama), config)
    ingest(tmp_path, base=tmp_path / "models/base")
    assert units(tmp_path, "child") == {}
    report = events(ingest(tmp_path, base=tmp_path / "models/base", units=True))
    total = 4 * (HEADS + KV_HEADS + INTERMEDIATE)
    assert report["models/base", "taken"].endswith(f", {total:,} units")
    assert units(tmp_path, "child")[0, "head"]["units_kept"] == list(kept[0].heads)
    before = sorted((tmp_path / "w/commits").iterdir())
    again = ingest(tmp_path, base=tmp_path / "models/base", units=True)
    assert [event.kind for event in again.events] == ["unchanged", "unchanged"]
    assert sorted((tmp_path / "w/commits").iterdir()) == before
    with lh.open(tmp_path / "w") as wh:
        assert (
            wh.sql("SELECT count(*) FROM units JOIN models USING (checkpoint_id) WHERE model_id = 'models/base'").item()
            == total
        )


def test_a_base_without_units_is_named(tmp_path):
    state, config = state_of(TinyModel("llama", EXPLICIT))
    write(tmp_path, "base", state, config)
    write(tmp_path, "child", prune(state, kept_by_layer(4), cut_llama), config)
    ingest(tmp_path, "models/base")
    report = ingest(tmp_path, "models/child", base="models/base", units=True)
    assert lines(report, "base") == ["no units of the base are in the warehouse to match with; take it with --units"]
    assert units(tmp_path, "child") == {}


def test_units_need_values(tmp_path):
    with pytest.raises(lh.UsageError, match=r"units are read from values, and stats is 'none': leave out one of them"):
        ingest(tmp_path, units=True, stats="none")


def test_what_the_shapes_do_not_give_is_noted_and_the_rest_is_read(tmp_path):
    state, config = state_of(TinyModel("llama", EXPLICIT))
    name = "model.layers.1.self_attn.q_proj.weight"
    write(tmp_path, "odd", {**state, name: state[name][:55].clone()}, config)
    write(tmp_path, "unknown", {"blocks.0.thing": torch.zeros(4, 4)}, config)
    report = ingest(tmp_path, units=True)
    assert report.count("failed") == 0
    with lh.open(tmp_path / "w") as wh:
        counted = wh.sql("SELECT layer_index, kind, count(*) FROM units GROUP BY ALL ORDER BY ALL").rows()
        note = wh.sql("SELECT status_note FROM models WHERE model_id = 'models/odd'").item()
    assert [row for row in counted if row[0] == 1] == [(1, "neuron", INTERMEDIATE)]
    assert len(counted) == 4 * 3 - 2
    assert "layer 1: heads are not known: the shapes do not give the heads" in note


def test_a_file_cut_off_while_units_are_read_fails_by_name(tmp_path):
    state, config = state_of(TinyModel("llama", EXPLICIT))
    write(tmp_path, "model", state, config)
    ingest(tmp_path)
    path = tmp_path / "models/model/model.safetensors"
    status = path.stat()
    path.write_bytes(path.read_bytes()[:-1000])
    report = ingest(tmp_path, units=True)
    assert report.count("failed") == 1
    assert status.st_size > path.stat().st_size


# The rules alone


def group(vectors, parts=("gate", "up"), hashes=None):
    """Units whose parts have these sketches, shape (units, parts, 16)."""
    unit = vectors / np.linalg.norm(vectors, axis=2, keepdims=True)
    found = hashes or {
        name: np.array([str(hash(v.tobytes())) for v in vectors[:, at]], object) for at, name in enumerate(parts)
    }
    return UnitGroup(np.arange(len(vectors)), found, {name: unit[:, at] for at, name in enumerate(parts)})


def test_units_that_the_base_has_several_times_are_as_sure_as_the_share_that_is_kept():
    vectors = np.random.default_rng(0).normal(size=(4, 2, DIMENSIONS))
    base = group(vectors[[0, 1, 1, 1, 2]])
    places = place_units(group(vectors[[1, 1, 2]]), base)
    assert places.positions.tolist() == [1, 2, 4]
    assert places.confidences.tolist() == pytest.approx([2 / 3, 2 / 3, 1.0])


def test_a_part_that_moved_leaves_the_unit_that_the_other_part_names():
    vectors = np.random.default_rng(1).normal(size=(6, 2, DIMENSIONS))
    child = vectors[[4, 2]].copy()
    child[:, 1] += 0.1 * np.random.default_rng(2).normal(size=(2, DIMENSIONS))
    places = place_units(group(child), group(vectors))
    assert (places.positions.tolist(), places.matches.tolist()) == ([4, 2], ["similar", "similar"])


def test_a_part_of_which_nothing_is_known_leaves_the_unit_that_the_other_part_names():
    vectors = np.random.default_rng(8).normal(size=(6, 2, DIMENSIONS))
    child = vectors[[4, 2]].copy()
    child[0, 1] = np.nan
    places = place_units(group(child), group(vectors))
    assert (places.positions.tolist(), places.matches.tolist()) == ([4, 2], ["similar", "exact"])
    assert places.confidences.tolist() == [0.0, 1.0]


def test_units_like_none_of_the_base_are_not_placed():
    generator = np.random.default_rng(3)
    places = place_units(group(generator.normal(size=(50, 2, DIMENSIONS))), group(generator.normal(size=(200, 2, DIMENSIONS))))
    assert set(places.matches.tolist()) == {"none"}
    assert places.positions.tolist() == [-1] * 50


def test_of_two_that_claim_one_unit_the_surer_keeps_it():
    vectors = np.random.default_rng(4).normal(size=(8, 2, DIMENSIONS))
    noise = np.random.default_rng(5).normal(size=(2, 2, DIMENSIONS))
    child = vectors[[3, 3]] + noise * np.array([0.05, 0.3])[:, None, None]
    places = place_units(group(child), group(vectors))
    assert (places.positions.tolist(), places.matches.tolist()) == ([3, -1], ["similar", "none"])


def test_units_are_placed_alike_however_many_are_set_beside_the_base_at_once(monkeypatch):
    generator = np.random.default_rng(6)
    vectors = generator.normal(size=(300, 2, DIMENSIONS))
    child = vectors[200:20:-1] + 0.1 * generator.normal(size=(180, 2, DIMENSIONS))
    child[7, 1] = np.nan
    vectors[150] = np.nan
    expected = list(range(200, 20, -1))
    expected[7] = expected[50] = -1  # half of its likeness is not known; its unit's is not
    for at_once in (1, 7, 180):
        monkeypatch.setattr(unit_matches, "ROWS_AT_ONCE", at_once)
        assert place_units(group(child), group(vectors)).positions.tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_vectors_are_the_same_whichever_way_the_matrix_lies_and_however_it_is_read(tmp_path, dtype, monkeypatch):
    weight = torch.randn(70, 48, generator=torch.Generator().manual_seed(0)).to(dtype)
    codes = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}

    def read(tensor, axis):
        raw = tensor.contiguous().flatten().view(torch.uint8).numpy()
        (tmp_path / "w").write_bytes(raw.tobytes())
        with TensorReader() as reader:
            return read_vectors(reader, TensorRef("w", codes[dtype], tuple(tensor.shape), tmp_path / "w", 0, raw.size), axis)

    one, other = read(weight, 0), read(weight.T, 1)
    monkeypatch.setattr(unit_vectors, "PIECE_BYTES", 700)
    for found in (other, read(weight, 0), read(weight.T, 1)):
        assert (found.digests == one.digests).all()
        assert found.squares == pytest.approx(one.squares, rel=1e-6)
        assert found.sketches == pytest.approx(one.sketches, rel=1e-4, abs=1e-4)
    assert one.squares == pytest.approx((weight.double() ** 2).sum(1).numpy(), rel=1e-6)
    expected = xxhash.xxh3_128_digest(weight[9].contiguous().view(torch.uint8).numpy().tobytes())
    assert one.digests[9].tobytes() == expected
