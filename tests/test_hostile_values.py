"""Values and lines that no tool writes: each costs its own file one line, quickly, and the other files are taken."""

from __future__ import annotations

import json
import random
import time
from base64 import b64encode
from pathlib import Path

import pytest

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.containers.registry import read_weight_file
from layerhouse.ingest.checkpoint.json_files import MAX_DEPTH, read_json
from layerhouse.ingest.checkpoint.slicegpt import read_slicing
from layerhouse.ingest.checkpoint.weight_set import MAX_SHARDS, find_weight_set
from layerhouse.ingest.checkpoint_rows import open_weights
from layerhouse.ingest.declarations.declare import declare
from layerhouse.ingest.model.config import declared_number, declared_numbers
from layerhouse.ingest.model.family_files import load_families
from layerhouse.ingest.results.model_lookup import Models
from layerhouse.ingest.study.layer_map import match_layers
from layerhouse.ingest.study.removal_list import Removal
from layerhouse.ingest.units import read_units
from layerhouse.tests.running import layerhouse
from layerhouse.tests.study_files import put
from layerhouse.tests.test_result_formats import lm_eval, parse
from layerhouse.tests.weight_files import entry, safetensors_bytes

ONE_TENSOR = safetensors_bytes({"w": entry("F32", [2], 0, 8)}, bytes(8))
LONG = 140_000
SECONDS = 2.0
"""CPU time of what takes a tenth of it at most, and took minutes where it was not linear."""


def cpu_seconds(call) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


LINES = {
    "chinese": "\u4e2d" * LONG,
    "base64": b64encode(random.Random(1).randbytes(LONG)).decode(),
    "blanks": " " * LONG,
    "words": "a " * LONG,
    "quotes": '"' * LONG,
    "commas": "," * LONG,
    "tabs": "\t" * LONG,
    "slashes": "/" * LONG,
    "digits": "1" * LONG,
    "numbers": "1," * LONG,
    "braces": "PPL before pruning: {" * 10_000,
    "ppl": "ppl on " * 20_000,
    "perplexity": "a perplexity 1" + "1," * LONG + "x",
    "sparsity": "sparsity sanity check " * 10_000,
    "speed": "Throughput: 1.1.1" * 10_000,
    "sliced": "Sliced model parameters: " + "1," * LONG,
    "returns": "a\r" * LONG,
    "zeros": "\0" * LONG,
    "marks": "\ufeff" * LONG,
}


@pytest.mark.parametrize("suffix", [".txt", ".log", ".csv", ".tsv", ".json", ".jsonl"])
def test_a_long_line_beside_weights_takes_no_time(tmp_path, suffix):
    from layerhouse.tests.study_files import plan

    put(tmp_path / "m/model.safetensors", ONE_TENSOR)
    for name, line in LINES.items():
        put(tmp_path / "m" / f"{name}{suffix}", f"first\n{line}\nlast\n".encode())
        put(tmp_path / "m" / f"{name} alone{suffix}", line.encode())
    reports = []
    assert cpu_seconds(lambda: reports.append(plan(tmp_path / "m"))) < 10 * SECONDS
    assert reports[0].count("planned") == 1


@pytest.mark.parametrize("key", ["model", "task", "metric"])
@pytest.mark.parametrize("line", ["words", "chinese", "slashes", "digits"])
def test_a_name_too_long_costs_its_number(tmp_path, key, line):
    rows = [{"model": "a", "task": "t", "metric": "acc", "value": 0.5}] * 2
    rows[1] = rows[1] | {key: LINES[line]}
    file_results = parse(tmp_path, "a.json", rows)
    assert [row["value"] for row in file_results.rows] == [0.5]
    assert file_results.left_out == ("line 2: model, task and metric must be text",)


def test_a_task_and_a_metric_too_long_are_named(tmp_path):
    document = lm_eval({"x" * LONG: {"acc,none": 0.5}, "t": {"y" * LONG: 0.5, "acc": 0.25}})
    file_results = parse(tmp_path, "results.json", document)
    assert [row["value"] for row in file_results.rows] == [0.25]
    assert all(line.endswith("the names of task and metric have over 2000 characters") for line in file_results.left_out)
    assert len(file_results.left_out) == 2


def test_sections_that_hold_nothing_are_named(tmp_path):
    native = {"metrics": {"ppl": 7.5, "ppl_1024": {}, "zeroshot": {"piqa": {}}}}
    assert parse(tmp_path, "e.json", native).left_out == (
        "metrics.ppl_1024: it holds nothing",
        "metrics.zeroshot.piqa: it holds nothing",
    )
    assert parse(tmp_path, "results.json", lm_eval({"a": {}, "b": {"acc": 0.5}})).left_out == ("results.a: it holds nothing",)


def test_groups_of_groups_have_a_limit(tmp_path):
    count = 3000
    subtasks = {f"g{place}": [f"g{place + 1}", "t"] for place in range(count)}
    document = lm_eval({**{name: {} for name in subtasks}, "t": {"acc": 1}}, group_subtasks=subtasks)
    with pytest.raises(InputError, match="limit exceeded: 1000001 members of groups"):
        parse(tmp_path, "results.json", document)


def test_many_sections_of_perplexities_are_not_compared_with_each_other(tmp_path):
    metrics = {"ppl": {f"d{place}": 1.5 for place in range(20_000)}} | {f"ppl_{place}": 1.5 for place in range(1, 200)}
    seconds = cpu_seconds(lambda: parse(tmp_path, "e.json", {"metrics": metrics}))
    assert seconds < 5 * SECONDS
    name = "ppl" + "_1" * LONG + "x"
    assert cpu_seconds(lambda: parse(tmp_path, "e.json", {"metrics": {name: 1.5, "ppl": {"(" * LONG: 1.5}}})) < SECONDS


def test_long_names_declare_nothing_and_take_no_time():
    for line in LINES.values():
        assert cpu_seconds(lambda line=line: declare(line)) < SECONDS
        assert cpu_seconds(lambda line=line: Models([("a", "/a")]).find(line, Path("/m/r.json"))) < SECONDS
    assert declare("a " * 1000 + "Wanda_2000").ratio is None
    assert declare("a " * 100 + "Wanda_2000").ratio == 0.2


@pytest.mark.parametrize("declared", ["a/\0b", "/" + "x/" * 5000, "./" + "y" * 300, "~/\u0130"])
def test_a_declared_path_that_no_system_has_belongs_to_no_model(declared):
    assert Models([("a", "/a")]).find(declared, Path("/m/r.json")).model_id is None


def test_a_list_of_many_removed_layers_is_matched_in_linear_time():
    removal = Removal(tuple(range(50_000)), 100_000)
    assert cpu_seconds(lambda: match_layers(list(range(50_000)), 100_000, removal)) < SECONDS


DECI = next(family for family in load_families() if family.name == "deci")
VALUES = [float("inf"), float("-inf"), float("nan"), 1e308, -1, -0.5, True, "2", [2], {"a": 2}, None, 10**400, 2**63]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: str(value)[:10])
def test_config_values_that_no_model_has_are_not_declared(value):
    ffn = [{"ffn": {"ffn_mult": value}}, {"ffn": {"intermediate_size": value}}, {"ffn": {"ffn_mult": 1.5}}]
    config = {"hidden_size": 64, "num_attention_heads": 4, "block_configs": ffn}
    assert declared_numbers(config, DECI, "intermediate_size") == (None, None, 256)
    assert declared_number(config | {"hidden_size": value}, DECI, "hidden_size") is None


@pytest.mark.parametrize("value", [float("inf"), -1, True, "64", [64], 10**400, None])
def test_a_slicing_config_without_a_width_is_none(tmp_path, value):
    path = put(tmp_path / "a.json", {"hidden_size": value, "attention_input_dimensions": {"0": 48}})
    assert read_slicing(path, "a.json") is None


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("x" * 300, "names shard '" + "x" * 200 + "', a name of over 255 bytes, which no file has"),
        ("\u4e2d" * 100, "names shard '" + "\u4e2d" * 100 + "', a name of over 255 bytes, which no file has"),
        ("a\0b", "names shard 'a\\x00b', which is not a plain file name in this folder"),
        ("x" * 250, "names shard '" + "x" * 200 + "' of 1 tensors, which is not there; fetch it"),
    ],
    ids=["long", "chinese", "zero", "absent"],
)
def test_names_of_shards_that_no_file_has(tmp_path, name, what):
    put(tmp_path / "model.safetensors", ONE_TENSOR)
    put(tmp_path / "model.safetensors.index.json", {"weight_map": {"w": name, "v": "model.safetensors"}})
    with pytest.raises(InputError) as caught:
        find_weight_set(tmp_path, [tmp_path / "model.safetensors"], "m")
    assert caught.value.what.startswith(what.split("; ")[0])


def test_an_index_of_very_many_shards_has_a_limit(tmp_path):
    put(tmp_path / "m.index.json", {"weight_map": {f"w{place}": f"s{place}" for place in range(MAX_SHARDS + 1)}})
    with pytest.raises(InputError, match="limit exceeded: 10001 shards, over 10000"):
        find_weight_set(tmp_path, [put(tmp_path / "a.bin", b"")], "m")


def test_a_tensor_name_without_end_is_refused(tmp_path):
    path = put(tmp_path / "m.safetensors", safetensors_bytes({"module." * 300: entry("U8", [0], 0, 0)}))
    with pytest.raises(InputError, match="limit exceeded: a tensor name of over 2048 characters"):
        read_weight_file(path, "m")


def test_shapes_without_elements_and_with_lengths_that_no_column_holds_are_refused(tmp_path):
    path = put(tmp_path / "m.safetensors", safetensors_bytes({"w": entry("U8", [0, 2**63], 0, 0)}))
    with pytest.raises(InputError, match="shape is not a list of whole numbers from 0 to"):
        read_weight_file(path, "m")


def test_shapes_without_elements_have_no_units_and_cost_nothing(tmp_path):
    prefix = "model.layers.0."
    shapes = {
        "model.embed_tokens.weight": [32, 64],
        **{f"{prefix}self_attn.{name}_proj.weight": [2**40, 0] for name in "qkv"},
        f"{prefix}self_attn.o_proj.weight": [0, 2**40],
        **{f"{prefix}mlp.{name}_proj.weight": [2**20, 0] for name in ("gate", "up")},
        f"{prefix}mlp.down_proj.weight": [0, 2**20],
    }
    header = {name: entry("F16", shape, 4096 if 0 in shape else 0, 4096) for name, shape in shapes.items()}
    path = put(tmp_path / "model.safetensors", safetensors_bytes(header, bytes(4096)))
    put(tmp_path / "config.json", {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "head_dim": 16})
    units, notes = read_units(open_weights(tmp_path, [path], "m"), "c")
    assert units is None
    assert sorted(note["text"].split(":")[0] for note in notes) == ["layer 0"] * 2


@pytest.mark.parametrize("depth", [MAX_DEPTH - 1, MAX_DEPTH + 1, 950, 200_000])
def test_json_is_nested_as_deep_as_the_limit(tmp_path, depth):
    path = put(tmp_path / "a.json", "[" * depth + "]" * depth)
    if depth < MAX_DEPTH:
        assert read_json(path, "a.json")[1]
        return
    with pytest.raises(InputError, match="limit exceeded: nesting is too deep"):
        read_json(path, "a.json")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("[" + "1," * 5_000_001 + "1]", "limit exceeded: 5000001 commas in JSON"),
        ("[" + "[]," * 1_500_001 + "1]", "limit exceeded: 1500002 lists and objects"),
        ('["\u4e2d' + "x" * (48 << 20) + '"]', "limit exceeded: .* bytes of a JSON file that is not ASCII alone"),
    ],
    ids=["values", "lists", "wide"],
)
def test_json_of_many_values_is_refused_before_it_is_parsed(tmp_path, content, what):
    path = put(tmp_path / "a.json", content)
    with pytest.raises(InputError, match=what):
        read_json(path, "a.json")


def test_a_table_of_many_cells_is_refused(tmp_path):
    text = "model," + ",".join(f"t{place}/acc" for place in range(5000)) + "\n" + ("m" + "," * 5000 + "\n") * 800
    with pytest.raises(InputError, match="limit exceeded: 4005000 cells, over 4000000"):
        parse(tmp_path, "a.csv", text)


def test_each_hostile_file_is_a_line_and_the_others_are_taken(tmp_path):
    """Through the command: exit code 1, one FAILED line for each file that claims to be something, no traceback."""
    good = tmp_path / "models/good"
    put(good / "model.safetensors", ONE_TENSOR)
    put(good / "evaluation/results.json", lm_eval({"piqa": {"acc": 0.5}}))
    put(tmp_path / "models/shard/model.safetensors", ONE_TENSOR)
    put(tmp_path / "models/shard/model.safetensors.index.json", {"weight_map": {"w": "x" * 300}})
    put(tmp_path / "models/infinite/model.safetensors", ONE_TENSOR)
    put(tmp_path / "models/infinite/config.json", '{"hidden_size": 8, "block_configs": [{"ffn": {"ffn_mult": Infinity}}]}')
    put(tmp_path / "models/unit/evaluation/b.json", {"decode": {"throughput": {"value": 1.0, "unit": ["a"]}, "latency": {}}})
    put(tmp_path / "models/big/evaluation/r.json", lm_eval({"a": {"acc": 10**400}, "b": {"acc": 0.5}}))
    put(tmp_path / "models/deep/evaluation/r.json", "[" * 200_000)
    put(tmp_path / "models/returns/evaluation/r.csv", "model,task,metric,value\ra,t,acc,0.5\r")
    put(tmp_path / "models/field/evaluation/r.csv", f"model,task,metric,value\na,t,acc,0.5\nb,{'x' * 140_000},acc,1\n")
    put(tmp_path / "models/binary/evaluation/r.csv", b"\x89HDF\r\n\x1a\n" + bytes(100))
    done = layerhouse("ingest", "models", cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    failed = [line.split(":")[0].split()[1] for line in done.stderr.splitlines() if line.startswith("FAILED")]
    assert sorted(failed) == [
        "models/binary/evaluation/r.csv",
        "models/deep/evaluation/r.json",
        "models/shard/model.safetensors.index.json",
    ]
    taken = layerhouse("sql", "SELECT model_id, value FROM model_results ORDER BY ALL", "--format", "json", cwd=tmp_path)
    names = {row["model_id"] for row in json.loads(taken.stdout)}
    assert names >= {"models/good", "models/unit", "models/big", "models/returns", "models/field"}
