"""Weights of every container through the real command: the same rows for one model, complete after a kill, in little memory."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import layerhouse as lh
from layerhouse.ingest.checkpoint_rows import measure_weights, open_weights, weight_rows
from layerhouse.ingest.discover import discover
from layerhouse.tests.running import CLEAN, layerhouse
from layerhouse.tests.tiny_models import (
    EXPLICIT,
    TinyModel,
    Width,
    build,
    llama_shapes,
)
from layerhouse.tests.weight_files import safetensors_bytes
from layerhouse.warehouse.admin.health import check_warehouse

STUDY = Path(__file__).parents[2] / "shared/data/llama3-8b"
SHARD = "pytorch_model-{:05}-of-00002.bin"


@pytest.fixture(scope="module")
def model():
    return build(TinyModel("llama", EXPLICIT)).to(torch.bfloat16)


@pytest.fixture(scope="module")
def zoo(model, tmp_path_factory):
    """One model in six forms."""
    folder = tmp_path_factory.mktemp("zoo") / "zoo"
    model.save_pretrained(folder / "one")
    model.save_pretrained(folder / "shards", max_shard_size="100KB")
    state = model.state_dict()
    for name in ("bin", "bin_shards", "pickled_bare", "pickled_in_dict"):
        (folder / name).mkdir()
        shutil.copy(folder / "one/config.json", folder / name)
    torch.save(state, folder / "bin/pytorch_model.bin")
    shards = {SHARD.format(1): list(state)[:20], SHARD.format(2): list(state)[20:]}
    for file, names in shards.items():
        torch.save({name: state[name] for name in names}, folder / "bin_shards" / file)
    weight_map = {name: file for file, names in shards.items() for name in names}
    (folder / "bin_shards/pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    torch.save(model, folder / "pickled_bare/pytorch_model.bin")
    torch.save({"model": model, "tokenizer": {"a": 1}}, folder / "pickled_in_dict/pytorch_model.bin")
    return folder


FORMS = {
    "bin": "torch zip",
    "bin_shards": "torch zip",
    "one": "safetensors",
    "pickled_bare": "torch zip, pickled whole model",
    "pickled_in_dict": "torch zip, pickled whole model",
    "shards": "safetensors",
}


def test_one_model_in_six_forms_gives_the_same_rows(zoo, model):
    found = {}
    for one in discover([zoo]).models:
        opened = open_weights(one.folder, one.weight_files, one.model_id)
        measured = measure_weights(opened, threads=1, near_zero=0.01, on_bytes=lambda count: None)
        checkpoint, tensors, layers = weight_rows(opened, measured, near_zero=0.01, fingerprint=one.model_id)
        totals = {key: value for key, value in checkpoint.items() if isinstance(value, int)} | {
            "id": checkpoint["checkpoint_id"]
        }
        del totals["file_bytes"], totals["stored_bytes"]
        rows = sorted(({key: value for key, value in row.items() if key != "stored_bytes"} for row in tensors), key=str)
        found[one.model_id] = (totals, rows, layers)
        assert totals["params"] == sum(tensor.numel() for tensor in model.parameters())
        assert {row["name"] for row in rows} == set(model.state_dict())
    assert list(found) == [f"zoo/{name}" for name in FORMS]
    for name in FORMS:
        assert found[f"zoo/{name}"] == found["zoo/one"]


def test_the_command_takes_every_form_and_stores_the_content_once(zoo, tmp_path):
    done = layerhouse("ingest", zoo, "--base", zoo / "one", "-w", tmp_path / "w")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.splitlines()[-1] == f"6 taken; warehouse {tmp_path / 'w'}"
    with lh.open(tmp_path / "w") as wh:
        columns = "model_id, container, num_layers, reduction_ratio, strategy, sparsity, architecture"
        assert wh.sql(f"SELECT {columns} FROM models ORDER BY 1").rows() == [
            (f"zoo/{name}", container, 4, 0.0, "dense", 0.0, "LlamaForCausalLM") for name, container in FORMS.items()
        ]
        assert wh.sql("SELECT count(*), count(DISTINCT name) FROM tensors").row(0) == (39, 39)
        assert wh.sql("SELECT num_heads, num_kv_heads, head_dim, intermediate_size FROM layers").rows() == [(4, 2, 16, 160)] * 4
    assert check_warehouse(tmp_path / "w") == []
    again = layerhouse("ingest", zoo, "--base", "zoo/one", "-w", tmp_path / "w")
    assert (again.returncode, again.stderr.splitlines()[-1]) == (0, f"6 unchanged; warehouse {tmp_path / 'w'}")


def test_every_broken_model_has_its_line_and_the_others_are_in(zoo, tmp_path):
    models = tmp_path / "models"
    for name in ("absent", "cut", "good", "html"):
        shutil.copytree(zoo / "shards", models / name)
    shards = sorted(path.name for path in (zoo / "shards").glob("*.safetensors"))
    (models / "absent" / shards[1]).unlink()
    (models / "cut" / shards[1]).write_bytes((zoo / "shards" / shards[1]).read_bytes()[:-10])
    (models / "html" / shards[0]).write_bytes(b"<!doctype html><title>Not found</title>")
    done = layerhouse("ingest", models, "-w", tmp_path / "w")
    said = done.stderr.splitlines()
    assert (done.returncode, done.stdout, len(said)) == (1, "", 5)
    assert [line.split()[:2] for line in said[:4]] == [
        ["FAILED", f"{models}/absent/model.safetensors.index.json:"],
        ["FAILED", f"{models}/cut/{shards[1]}:"],
        ["taken", "models/good:"],
        ["FAILED", f"{models}/html/{shards[0]}:"],
    ]
    assert said[4] == f"1 taken, 3 failed; warehouse {tmp_path / 'w'}"
    with lh.open(tmp_path / "w") as wh:
        assert wh.sql("SELECT model_id FROM checkpoints").rows() == [("models/good",)]
        assert wh.sql("SELECT DISTINCT checkpoint_id FROM tensors").height == 1


def test_a_base_that_is_nowhere_and_one_that_is_two_are_usage_errors(zoo, tmp_path):
    names = sorted(f"zoo/{name}" for name in FORMS)
    for base, said in (
        (
            "gone",
            f"layerhouse: no base, neither a path nor a model with weights or an analysis, 'gone'; did you mean 'zoo/one'? "
            f"there is {', '.join(names)}",
        ),
        (zoo, f"layerhouse: --base {zoo}: the base is one model with weights; found 6"),
    ):
        done = layerhouse("ingest", zoo, "--base", base, "-w", tmp_path / "w")
        assert (done.returncode, done.stdout, done.stderr.splitlines()) == (2, "", [said])


# Kills

FEW_AT_ONCE = """
import sys
from layerhouse.ingest import batch as batches
from layerhouse.cli import main
batches.FLUSH_ITEMS = 5
main()
"""


def start(models, root):
    command = [sys.executable, "-c", FEW_AT_ONCE, "ingest", models, "-w", root]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=CLEAN, encoding="utf-8")


def taken_until(process, num_taken, stop=lambda: None):
    """Call `stop` once `num_taken` models were taken; return all lines of output."""
    said = []
    with process:
        for line in process.stderr:
            said.append(line.rstrip())
            if line.startswith("taken ") and sum(one.startswith("taken ") for one in said) == num_taken:
                stop()
    return said


@pytest.fixture
def fifty(tmp_path):
    """Fifty checkpoints, all different."""
    folder = tmp_path / "models"
    for number in range(50):
        path = folder / f"m{number:02}"
        path.mkdir(parents=True)
        tensors = {name: torch.full(shape, number + 1.0) for name, shape in llama_shapes({0: Width(), 1: Width()}).items()}
        save_file(tensors, path / "model.safetensors")
    return folder


def present(root):
    """The committed models, each complete and present once."""
    with lh.open(root) as wh:
        names = wh.sql("SELECT model_id FROM checkpoints ORDER BY model_id")["model_id"].to_list()
        for table, size in (("tensors", 21), ("layers", 2)):
            counted = wh.sql(f"SELECT count(*) AS n FROM {table} GROUP BY checkpoint_id")["n"].to_list()
            assert counted == [size] * len(names)
        assert sorted(set(names)) == names
        return names


def assert_the_next_run_completes(models, root, there):
    """Make the files of committed models unreadable first, so that a run that reads them again fails."""
    for name in there:
        path = models.parent / name / "model.safetensors"
        status = path.stat()
        path.write_bytes(bytes(status.st_size))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    said = taken_until(start(models, root), 0)
    assert said[-1] == f"{50 - len(there)} taken, {len(there)} unchanged; warehouse {root}"
    assert present(root) == [f"models/m{number:02}" for number in range(50)]
    check_warehouse(root, repair=True)
    assert check_warehouse(root) == []


def test_kill_9_loses_nothing_that_was_committed_and_reads_none_of_it_again(fifty, tmp_path):
    root = tmp_path / "w"
    process = start(fifty, root)
    taken_until(process, 23, process.kill)
    assert process.returncode == -signal.SIGKILL
    there = present(root)
    assert 20 <= len(there) < 50
    assert_the_next_run_completes(fifty, root, there)


def test_an_interrupt_commits_what_was_finished(fifty, tmp_path):
    root = tmp_path / "w"
    process = start(fifty, root)
    said = taken_until(process, 23, lambda: process.send_signal(signal.SIGINT))
    assert (process.returncode, said[-1].split(";")[0]) == (130, "layerhouse: interrupted")
    there = present(root)
    assert 23 <= len(there) < 50
    assert_the_next_run_completes(fifty, root, there)


# Memory

WATCHED = """
import sys
from pathlib import Path
import layerhouse as lh
report = lh.ingest(sys.argv[1:2], warehouse=sys.argv[2], stats=sys.argv[3], threads=1)
assert report.count("failed") == 0 and report.count("taken") == 1, report
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(int(peak.split()[1]) // 1024, "torch" in sys.modules, "transformers" in sys.modules)
"""

needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")


def peak_of_ingest(folder, root, stats):
    """Peak MiB of an ingest in a fresh interpreter, which must not import torch."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WATCHED, folder, root, stats],
        capture_output=True,
        encoding="utf-8",
        check=False,
        env=CLEAN,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    peak, *imported = done.stdout.split()
    assert imported == ["False", "False"]
    return int(peak)


def sparse_file(path, shapes, dtype="BF16"):
    """A safetensors file of these shapes whose values are a hole: all zero, without blocks on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    raw = safetensors_bytes(header)
    with path.open("wb") as file:
        file.write(raw)
        file.truncate(len(raw) + end)


@needs_proc
def test_fifty_thousand_tensors_take_under_400_mib_and_no_torch(tmp_path):
    shapes = {f"model.layers.{layer}.mlp.experts.{e}.up_proj.weight": (2, 2) for layer in range(50) for e in range(1000)}
    sparse_file(tmp_path / "models/wide/model.safetensors", shapes)
    assert peak_of_ingest(tmp_path / "models", tmp_path / "w", "full") < 400
    with lh.open(tmp_path / "w") as wh:
        assert wh.sql("SELECT count(*), sum(params), sum(zeros) FROM tensors").row(0) == (50_000, 200_000, 200_000)


LLAMA3 = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}


@needs_proc
def test_a_full_size_llama_3_8b_is_counted_by_its_header_in_under_300_mib(tmp_path):
    shapes = llama_shapes(dict.fromkeys(range(32), Width(4096, 1024, 14336)), 128256, 4096)
    sparse_file(tmp_path / "models/Llama-3-8B/model.safetensors", shapes)
    (tmp_path / "models/Llama-3-8B/config.json").write_text(json.dumps(LLAMA3))
    assert peak_of_ingest(tmp_path / "models", tmp_path / "w", "none") < 300
    with lh.open(tmp_path / "w") as wh:
        assert wh.sql("SELECT params, num_layers, layer_params, embedding_params FROM models").row(0) == (
            8_030_261_248,
            32,
            8_030_261_248 - 2 * 128256 * 4096 - 4096,
            128256 * 4096,
        )
        assert wh.sql("SELECT DISTINCT num_heads, num_kv_heads, head_dim, intermediate_size FROM layers").rows() == [
            (32, 8, 128, 14336)
        ]


@pytest.mark.skipif(not STUDY.is_dir(), reason="the published study is not part of the repository")
def test_a_full_size_hgsp_2000_has_the_rows_of_its_published_analysis(tmp_path):
    analysis = json.loads((STUDY / "results/HGSP_2000/analysis/pruned_model_analysis.json").read_text())
    layers = {
        layer["layer_idx"]: Width(
            layer["attention"]["q_proj"] // 4096, layer["attention"]["k_proj"] // 4096, layer["mlp"]["gate_proj"] // 4096
        )
        for layer in analysis["layers"]
    }
    sparse_file(tmp_path / "weights/HGSP_2000/model.safetensors", llama_shapes(layers, 128256, 4096))
    (tmp_path / "weights/HGSP_2000/config.json").write_text(json.dumps({**LLAMA3, "head_dim": 128}))
    roots = [tmp_path / "weights/HGSP_2000", STUDY / "results/HGSP_2000"]
    report = lh.ingest(roots, warehouse=tmp_path / "w", stats="none", threads=1)
    assert (report.count("taken"), report.count("failed")) == (2, 0)
    with lh.open(tmp_path / "w") as wh:
        columns = "params, layer_params, embedding_params, lm_head_params, num_layers"
        weights, published = wh.sql(f"SELECT {columns} FROM models ORDER BY params_source DESC").rows()
        assert weights == published
        of_layers = (
            "SELECT layer_index, layers.params, attention_params, mlp_params, norm_params, intermediate_size "
            "FROM layers JOIN current_checkpoints USING (checkpoint_id) WHERE model_id LIKE '{}/%' ORDER BY layer_index"
        )
        rows = wh.sql(of_layers.format("weights")).rows()
        assert (len(rows), rows) == (len(layers), wh.sql(of_layers.format("results")).rows())
