"""What is stored of a model's weights: exact numbers in every type, at every level, once; and nothing of what is broken."""

from __future__ import annotations

import json
import math
import os
import shutil

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

import layerhouse as lh
from layerhouse.tests.family_models import MODELS
from layerhouse.tests.study_files import (
    ANALYSIS,
    FULL,
    put,
    structure,
)
from layerhouse.tests.tiny_models import (
    EXPLICIT,
    GROUPED,
    TinyModel,
    build,
)
from layerhouse.tests.weight_files import (
    p_call,
    p_dict,
    p_tensor,
    p_text,
    torch_zip_bytes,
)
from layerhouse.warehouse.admin.health import check_warehouse

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def is_linear(name):
    return name.split(".")[-2] in LINEARS


@pytest.fixture(scope="module")
def llama():
    """State and config of a tiny Llama of four layers, in float32."""
    model = build(TinyModel("llama", EXPLICIT))
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    return state, json.loads(model.config.to_json_string(use_diff=False))


def write(folder, state, config=None):
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def ingest(tmp_path, *roots, **options):
    return lh.ingest(roots or [tmp_path / "models"], warehouse=tmp_path / "w", threads=1, **options)


def lines(report):
    return [f"{event.kind} {event.where}: {event.what}" for event in report.events]


def answer(tmp_path, sql):
    with lh.open(tmp_path / "w") as wh:
        return wh.sql(sql).rows()


def commits(tmp_path):
    return len(list((tmp_path / "w/commits").iterdir()))


# Statistics


@pytest.fixture(scope="module")
def typed(llama, tmp_path_factory):
    """The model in three types, with zeros of both signs; and its tensors' rows."""
    folder = tmp_path_factory.mktemp("typed")
    state, config = llama
    states = {}
    for name, dtype in (("bf16", torch.bfloat16), ("f16", torch.float16), ("f32", torch.float32)):
        states[name] = {key: tensor.to(dtype) for key, tensor in state.items()}
        states[name]["model.layers.1.mlp.up_proj.weight"] = states[name]["model.layers.1.mlp.up_proj.weight"].clone()
        states[name]["model.layers.1.mlp.up_proj.weight"][:3] = torch.tensor([0.0, -0.0]).repeat(32).to(dtype)
        write(folder / "models" / name, states[name], config)
    lh.ingest([folder / "models"], warehouse=folder / "w", near_zero=0.01, threads=2)
    with lh.open(folder / "w") as wh:
        return states, {name: {row["name"]: row for row in wh.tensors(f"models/{name}").to_dicts()} for name in states}


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
def test_every_tensor_has_the_numbers_that_torch_gives_in_float64(typed, dtype):
    states, rows = typed[0][dtype], typed[1][dtype]
    assert rows.keys() == states.keys()
    for name, tensor in states.items():
        row, values = rows[name], tensor.double()
        magnitudes = values.abs()
        assert (row["params"], row["zeros"], row["nans"], row["infs"]) == (tensor.numel(), int((values == 0).sum()), 0, 0)
        assert (row["min"], row["max"], row["abs_max"]) == (values.min(), values.max(), magnitudes.max())
        assert (row["near_zeros"], row["near_zero_threshold"]) == (int((magnitudes <= 0.01).sum()), 0.01)
        tolerance = 1e-12 * float(magnitudes.sum())
        assert math.isclose(row["mean"], values.mean(), abs_tol=tolerance / tensor.numel())
        assert math.isclose(row["l1_norm"], magnitudes.sum(), abs_tol=tolerance)
        assert math.isclose(row["l2_norm"], values.norm(), rel_tol=1e-12)
        assert math.isclose(row["std"], values.std(correction=0), rel_tol=1e-9, abs_tol=1e-15)
        assert (row["shape"], row["logical_bytes"]) == (list(tensor.shape), tensor.numel() * tensor.element_size())
    row = rows["model.layers.1.mlp.up_proj.weight"]
    assert (row["zeros"], row["zero_rows"], row["zero_cols"]) == (3 * 64, 3, 0)


def test_exact_zeros_are_counted_over_all_and_over_prunable_parameters(llama, tmp_path):
    state, config = llama
    sparse = {name: tensor.clone() for name, tensor in state.items()}
    sparse["model.embed_tokens.weight"][:10] = 0
    sparse["model.layers.2.mlp.down_proj.weight"][:, :16] = 0
    for role in LINEARS:
        block = "self_attn" if role in LINEARS[:4] else "mlp"
        sparse[f"model.layers.3.{block}.{role}.weight"] = torch.zeros_like(sparse[f"model.layers.3.{block}.{role}.weight"])
    write(tmp_path / "models/a", sparse, config)
    ingest(tmp_path)
    total, prunable = sum(t.numel() for t in state.values()), sum(t.numel() for n, t in state.items() if is_linear(n))
    in_layer = prunable // 4
    zeros = 10 * 64 + 64 * 16 + in_layer
    columns = "params, prunable_params, zeros, prunable_zeros, nonzero_params"
    assert answer(tmp_path, f"SELECT {columns} FROM checkpoints") == [(total, prunable, zeros, zeros - 640, total - zeros)]
    assert answer(tmp_path, "SELECT zeros, is_zero_layer FROM layers ORDER BY layer_index") == [
        (0, False),
        (0, False),
        (1024, False),
        (in_layer, True),
    ]
    ((sparsity, prunable_sparsity, zero_layers),) = answer(
        tmp_path, "SELECT sparsity, prunable_sparsity, zero_layers FROM models"
    )
    assert (sparsity, prunable_sparsity, zero_layers) == (zeros / total, (zeros - 640) / prunable, 1)


def test_two_of_four_in_every_linear_is_exactly_half_of_the_prunable_and_less_of_all(llama, tmp_path):
    state, config = llama
    mask = torch.tensor([1.0, 0.0, 0.0, 1.0])
    halved = {n: t * mask.repeat(t.shape[1] // 4) if is_linear(n) else t for n, t in state.items()}
    write(tmp_path / "models/base", state, config)
    write(tmp_path / "models/x-wanda-0.5", halved, config)
    ingest(tmp_path, base=tmp_path / "models/base")
    ((params, nonzero, sparsity, prunable, strategy, ratio, compact, size),) = answer(
        tmp_path,
        "SELECT params, nonzero_params, sparsity, prunable_sparsity, strategy, reduction_ratio, compact_size_gb, size_gb "
        "FROM models WHERE model_id LIKE '%wanda%'",
    )
    assert (prunable, strategy, ratio) == (0.5, "masked", 0.0)
    assert 0 < sparsity == (params - nonzero) / params < 0.5
    assert compact == pytest.approx(size * nonzero / params, rel=1e-12)
    found = answer(
        tmp_path,
        "SELECT DISTINCT module IN ('attention', 'mlp') AS is_linear, tensors.zeros / tensors.params, nm_pattern FROM tensors "
        "JOIN current_checkpoints USING (checkpoint_id) WHERE model_id LIKE '%wanda%' ORDER BY 1",
    )
    assert found == [(False, 0.0, None), (True, 0.5, "2:4")]


def test_what_is_not_finite_is_counted_and_noted_and_the_rest_is_measured(llama, tmp_path):
    state, config = llama
    broken = {name: tensor.clone() for name, tensor in state.items()}
    broken["model.layers.0.mlp.up_proj.weight"][0, :2] = math.nan
    broken["model.layers.1.mlp.up_proj.weight"][5, 5] = -math.inf
    broken["model.layers.2.mlp.up_proj.weight"][:] = math.nan
    write(tmp_path / "models/a", broken, config)
    ingest(tmp_path)
    ((notes,),) = answer(tmp_path, "SELECT notes FROM checkpoints")
    assert [(note["code"], note["text"]) for note in notes if note["code"] in ("nans", "infs")] == [
        ("nans", f"{160 * 64 + 2} NaN values, the first in model.layers.0.mlp.up_proj.weight"),
        ("infs", "1 infinite values, the first in model.layers.1.mlp.up_proj.weight"),
    ]
    found = answer(
        tmp_path, "SELECT nans, infs, mean IS NULL, max IS NULL FROM tensors WHERE nans + infs > 0 ORDER BY layer_index"
    )
    assert found == [(2, 0, False, False), (0, 1, False, False), (160 * 64, 0, True, True)]


# Levels, and what is new


STATISTICS = [
    "zeros",
    "near_zeros",
    "near_zero_threshold",
    "nans",
    "infs",
    "min",
    "max",
    "abs_max",
    "mean",
    "std",
    "l1_norm",
    "l2_norm",
    "abs_quantiles",
    "zero_rows",
    "zero_cols",
    "nm_pattern",
    "signature",
    "content_hash",
]


def test_headers_alone_give_exact_counts_and_nulls_elsewhere_until_a_full_run(llama, tmp_path):
    state, config = llama
    write(tmp_path / "models/a", state, config)
    assert ingest(tmp_path, stats="none").count("taken") == 1
    total = sum(tensor.numel() for tensor in state.values())
    columns = "params, prunable_params, zeros, prunable_zeros, nonzero_params, stats_level, device, num_layers"
    prunable = sum(t.numel() for n, t in state.items() if is_linear(n))
    assert answer(tmp_path, f"SELECT {columns} FROM checkpoints") == [(total, prunable, None, None, None, "none", None, 4)]
    nulls = ", ".join(f"count({column})" for column in STATISTICS)
    assert answer(tmp_path, f"SELECT sum(params), {nulls} FROM tensors") == [(total, *[0] * len(STATISTICS))]
    assert answer(tmp_path, "SELECT sparsity, prunable_sparsity FROM models") == [(None, None)]
    assert lines(ingest(tmp_path, stats="none")) == ["unchanged models/a: nothing new"]

    assert ingest(tmp_path).count("taken") == 1
    assert answer(tmp_path, "SELECT params, sparsity FROM models") == [(total, 0.0)]
    assert answer(tmp_path, "SELECT count(DISTINCT checkpoint_id) FROM sightings") == [(2,)]
    assert lines(ingest(tmp_path, stats="none")) == ["unchanged models/a: nothing new"]
    assert answer(tmp_path, "SELECT params, sparsity FROM models") == [(total, 0.0)]


def test_what_is_unchanged_is_not_read_again_and_one_byte_is_a_new_checkpoint(llama, tmp_path):
    state, config = llama
    path = write(tmp_path / "models/a", state, config) / "model.safetensors"
    ingest(tmp_path)
    before, data, status = commits(tmp_path), bytearray(path.read_bytes()), path.stat()
    path.write_bytes(bytes(len(data)))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert lines(ingest(tmp_path)) == ["unchanged models/a: nothing new"]
    assert commits(tmp_path) == before

    path.write_bytes(data)
    assert ingest(tmp_path).count("taken") == 1
    assert answer(tmp_path, "SELECT count(*) FROM history") == [(1,)]
    data[-1] ^= 1
    path.write_bytes(data)
    assert ingest(tmp_path).count("taken") == 1
    assert answer(tmp_path, "SELECT count(DISTINCT checkpoint_id), count(*) FROM history") == [(2, 2)]
    assert answer(tmp_path, "SELECT count(DISTINCT content_hash), count(*) FROM tensors") == [
        (len({hash_ for (hash_,) in answer(tmp_path, "SELECT content_hash FROM tensors")}), 2 * len(state))
    ]


def test_a_config_that_comes_later_gives_the_heads_that_were_unknown(llama, tmp_path):
    state, config = llama
    write(tmp_path / "models/a", state)
    ingest(tmp_path)
    heads = "SELECT DISTINCT num_heads, num_kv_heads FROM layer_pruning"
    assert answer(tmp_path, heads) == [(None, None)]
    write(tmp_path / "models/a", state, config)
    assert ingest(tmp_path).count("taken") == 1
    assert answer(tmp_path, heads) == [(4, 2)]


def test_the_same_content_under_two_names_is_stored_once(llama, tmp_path):
    state, config = llama
    for name in ("a", "b"):
        write(tmp_path / "models" / name, state, config)
    ingest(tmp_path)
    assert answer(tmp_path, "SELECT count(*), count(DISTINCT checkpoint_id) FROM tensors") == [(len(state), 1)]
    assert answer(tmp_path, "SELECT count(*), count(DISTINCT params), sum(num_layers) FROM models") == [(2, 1, 8)]


@pytest.mark.parametrize(
    "options", [{"stats": "some"}, {"near_zero": -1.0}, {"near_zero": math.nan}, {"near_zero": math.inf}, {"threads": -1}]
)
def test_options_that_cannot_hold_are_a_usage_error(tmp_path, options):
    (tmp_path / "models").mkdir()
    with pytest.raises(lh.UsageError):
        lh.ingest([tmp_path / "models"], warehouse=tmp_path / "w", **options)


# Tied embeddings (B1)


def test_a_tied_head_counts_once_however_it_is_stored(tmp_path):
    model = build(TinyModel("qwen2", {**GROUPED, "tie_word_embeddings": True}))
    config = json.loads(model.config.to_json_string(use_diff=False))
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    absent = {name: tensor for name, tensor in state.items() if name != "lm_head.weight"}
    write(tmp_path / "models/absent", absent, config)
    write(tmp_path / "models/copies", absent | {"lm_head.weight": state["lm_head.weight"].clone()}, config)
    write(tmp_path / "models/missing", absent, {**config, "tie_word_embeddings": False})
    shared = write(tmp_path / "models/shared", {}, config)
    (shared / "model.safetensors").unlink()
    torch.save(state, shared / "pytorch_model.bin")
    ingest(tmp_path)
    once, vocab = sum(tensor.numel() for tensor in absent.values()), 96 * 64
    columns = "model_id, params, params_stored, tied_embeddings, tie_evidence, lm_head_params"
    assert answer(tmp_path, f"SELECT {columns} FROM sightings ORDER BY model_id") == [
        ("models/absent", once, once, True, "config", vocab),
        ("models/copies", once, once + vocab, True, "equal bytes", vocab),
        ("models/missing", once, once, False, None, 0),
        ("models/shared", once, once, True, "shared storage", vocab),
    ]
    assert (
        "declared untied, head missing"
        in answer(tmp_path, "SELECT status_note FROM models WHERE model_id = 'models/missing'")[0][0]
    )
    sums = "SELECT model_id, sum(tensors.params) FROM tensors JOIN current_checkpoints USING (checkpoint_id) GROUP BY 1"
    assert {total for _, total in answer(tmp_path, sums)} == {once}


# What is broken


def test_a_pickle_that_would_run_a_program_runs_nothing_and_its_good_tensors_are_in(tmp_path):
    sentinel = tmp_path / "ran"
    evil = p_call("os", "system", p_text(f"touch {sentinel}"))
    put(tmp_path / "models/a/pytorch_model.bin", torch_zip_bytes(p_dict({"evil": evil, "w.weight": p_tensor()})))
    assert ingest(tmp_path).count("failed") == 0
    assert not sentinel.exists()
    assert answer(tmp_path, "SELECT name, params FROM tensors") == [("w.weight", 6)]
    ((note,),) = answer(tmp_path, "SELECT status_note FROM models")
    assert "skipped, not executed: os.system" in note


@pytest.fixture
def sharded(llama, tmp_path):
    """A model in two shards with an index, and a good model beside it."""
    state, config = llama
    names = list(state)
    files = {"model-00001-of-00002.safetensors": names[:20], "model-00002-of-00002.safetensors": names[20:]}
    broken = tmp_path / "models/broken"
    broken.mkdir(parents=True)
    for file, chosen in files.items():
        save_file({name: state[name] for name in chosen}, broken / file)
    weight_map = {name: file for file, chosen in files.items() for name in chosen}
    put(broken / "model.safetensors.index.json", {"metadata": {"total_size": 1}, "weight_map": weight_map})
    put(broken / "config.json", config)
    write(tmp_path / "models/good", {"a.weight": torch.ones(2, 2)})
    return tmp_path


def cut(path):
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: size // 2])


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 4976698672\n"
FAULTS = {
    "cut": (cut, "bytes"),
    "lfs": (lambda path: path.write_bytes(LFS), "4976698672"),
    "html": (lambda path: path.write_bytes(b"<!DOCTYPE html><html><body>404</body></html>"), "HTML"),
    "empty": (lambda path: path.write_bytes(b""), "empty"),
    "absent": (lambda path: path.unlink(), "names shard 'model-00001-of-00002.safetensors' of 20 tensors, which is not there"),
    "folder": (lambda path: (path.unlink(), path.mkdir()), "model-00001-of-00002.safetensors"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_model_has_one_line_and_nothing_of_it_is_in(sharded, fault):
    damage, said = FAULTS[fault]
    damage(sharded / "models/broken/model-00001-of-00002.safetensors")
    report = ingest(sharded)
    (failed,) = (event for event in report.events if event.kind == "failed")
    assert failed.where.startswith(f"{sharded}/models/broken")
    assert said in f"{failed.where}: {failed.what}"
    assert "\n" not in failed.what
    assert report.count("taken") == 1
    assert answer(sharded, "SELECT model_id FROM sightings") == [("models/good",)]
    assert answer(sharded, "SELECT count(*) FROM tensors") == [(1,)]


def test_a_declared_total_that_the_tensors_contradict_is_a_note(sharded, llama):
    ingest(sharded)
    size = sum(tensor.numel() * 4 for tensor in llama[0].values())
    ((notes,),) = answer(sharded, "SELECT notes FROM sightings WHERE model_id = 'models/broken'")
    assert {"code": "declared", "text": f"the index declares 1 bytes, the tensors have {size}"} in notes


@pytest.mark.parametrize("data", [b"{", b"[1]", b"\xff\xfe", b""])
def test_a_config_that_cannot_be_read_is_a_note(llama, tmp_path, data):
    write(tmp_path / "models/a", llama[0])
    put(tmp_path / "models/a/config.json", data)
    assert ingest(tmp_path).count("taken") == 1
    ((notes,),) = answer(tmp_path, "SELECT notes FROM checkpoints")
    assert "config" in {note["code"] for note in notes}


def test_a_model_that_breaks_keeps_what_was_taken_of_it(llama, tmp_path):
    path = write(tmp_path / "models/a", *llama) / "model.safetensors"
    ingest(tmp_path)
    before = commits(tmp_path)
    cut(path)
    assert ingest(tmp_path).count("failed") == 1
    assert (commits(tmp_path), len(answer(tmp_path, "SELECT * FROM models"))) == (before, 1)


# Weights beside other files


def test_weights_win_over_an_analysis_and_a_disagreement_is_a_note(llama, tmp_path):
    state, config = llama
    write(tmp_path / "models/a", state, config)
    put(tmp_path / "models/a" / ANALYSIS, structure(FULL, FULL))
    (line,) = lines(ingest(tmp_path))
    assert line.startswith("taken models/a: 1 analysis file, weights (1 file, ")
    total = sum(tensor.numel() for tensor in state.values())
    ((params, source, layers, note),) = answer(tmp_path, "SELECT params, params_source, num_layers, status_note FROM models")
    assert (params, source, layers) == (total, "weights", 4)
    assert f"the analysis files say 7048 parameters, the weights {total}, which is taken" in note
    assert lines(ingest(tmp_path)) == ["unchanged models/a: nothing new"]


def test_a_lost_layers_file_of_a_checkpoint_that_two_folders_show_heals(llama, tmp_path):
    state, config = llama
    for name in ("a", "b"):
        write(tmp_path / "models" / name, state, config)
        ingest(tmp_path, tmp_path / "models" / name)
    with lh.open(tmp_path / "w") as wh:
        before = {table: wh.scan(table).drop("commit_id", "ingested_at").collect().rows() for table in ("layers", "tensors")}
    (path,) = (path for path in (tmp_path / "w/layers").iterdir() if pq.read_metadata(path).num_rows)
    path.unlink()
    check_warehouse(tmp_path / "w", repair=True)
    report = ingest(tmp_path)
    assert report.count("taken") == 2
    with lh.open(tmp_path / "w") as wh:
        for table, rows in before.items():
            found = wh.scan(table).drop("commit_id", "ingested_at").collect().rows()
            assert sorted(map(str, found)) == sorted(map(str, rows))
        assert wh.models()["num_layers"].to_list() == [4, 4]
    assert check_warehouse(tmp_path / "w") == []
    assert ingest(tmp_path).count("unchanged") == 2


# One process


def test_two_ingests_and_a_moved_working_directory_in_one_process(llama, tmp_path, monkeypatch):
    state, config = llama
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "models/a", state, config)
    lh.ingest(["models"], warehouse="w", threads=1)
    with lh.open("w") as wh:
        monkeypatch.chdir(tmp_path / "elsewhere")
        shutil.copytree(tmp_path / "models/a", tmp_path / "models/b")
        lh.ingest([tmp_path / "models"], warehouse=tmp_path / "w", threads=1)
        assert wh.models()["model_id"].to_list() == ["models/a"]
        wh.refresh()
        assert wh.models()["model_id"].to_list() == ["models/a", "models/b"]
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_more_zeros_than_float32_can_count_are_counted_exactly(tmp_path):
    zeros, elements = (1 << 24) + 3, 20_000_000
    (tmp_path / "m").mkdir()
    tensors = {"half": torch.ones(elements, dtype=torch.float16), "byte": torch.ones(elements, dtype=torch.uint8)}
    for tensor in tensors.values():
        tensor[:zeros] = 0
    save_file(tensors, tmp_path / "m/model.safetensors")
    lh.ingest(tmp_path / "m", warehouse=tmp_path / "w")
    with lh.open(tmp_path / "w") as wh:
        rows = {name: counts for name, *counts in wh.sql("SELECT name, zeros, mean FROM tensors").rows()}
        assert {name: count for name, (count, _) in rows.items()} == {"half": zeros, "byte": zeros}
        assert rows["half"][1] == pytest.approx((elements - zeros) / elements, rel=1e-15)
        assert wh.sql("SELECT params, zeros FROM checkpoints").rows() == [(elements, zeros)]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_zero_rows_and_columns_of_an_embedding_are_those_of_its_table(tmp_path, family):
    model = build(MODELS[family][0])
    embedding = model.get_input_embeddings().weight
    with torch.no_grad():
        embedding[5], embedding[:, 7] = 0, 0
    model.save_pretrained(tmp_path / "model")
    lh.ingest([tmp_path / "model"], warehouse=tmp_path / "w")
    with lh.open(tmp_path / "w") as wh:
        rows = wh.sql(
            "SELECT zeros, zero_rows, zero_cols, nm_pattern FROM tensors WHERE module = 'embedding' AND zeros > 0"
        ).rows()
    assert rows == [(64 + 96 - 1, 1, 1, None)]


def test_zero_rows_of_a_matrix_of_no_known_axes_are_null(tmp_path):
    (tmp_path / "model").mkdir()
    save_file({"a.b": torch.zeros(3, 5), "a.c": torch.ones(3, 5), "a.d": torch.zeros(3)}, tmp_path / "model/model.safetensors")
    lh.ingest([tmp_path / "model"], warehouse=tmp_path / "w")
    with lh.open(tmp_path / "w") as wh:
        rows = wh.sql("SELECT name, zeros, zero_rows, zero_cols FROM tensors ORDER BY name").rows()
    assert rows == [("a.b", 15, None, None), ("a.c", 0, 0, 0), ("a.d", 3, None, None)]
