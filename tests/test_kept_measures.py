"""What is kept, in four measures: parameters, parameters that are not zero, bytes and MACs, of masked and quantised models."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path

import pytest

import layerhouse as lh
from layerhouse.errors import UsageError
from layerhouse.tests.pruned_models import state_of, write_model
from layerhouse.tests.running import layerhouse
from layerhouse.tests.test_layouts import bnb_4bit, gptq, write
from layerhouse.tests.tiny_models import COMMON, LAYERS, TinyModel
from layerhouse.warehouse.answers.query import counted_by

ACCURACIES = {"base": 0.62, "Wanda_30": 0.60, "Wanda_50": 0.55, "Wanda_70": 0.50, "gptq": 0.61, "nf4": 0.58}
MASKED = ("Wanda_30", "Wanda_50", "Wanda_70")
TASKS = ("boolq", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa")
PACKINGS = {
    "gptq": (partial(gptq, bits=8), {"quant_method": "gptq", "bits": 8, "group_size": -1}),
    "nf4": (bnb_4bit, {"quant_method": "bitsandbytes", "load_in_4bit": True}),
}
"""How models are quantised; the zeros of nf4 are not known."""


def masked(state, share):
    """The weights of the blocks with that share of the smallest values of each matrix set to zero."""
    pruned = dict(state)
    for name, tensor in state.items():
        if ".layers." in name and tensor.dim() == 2:
            bound = tensor.abs().flatten().kthvalue(max(1, int(share * tensor.numel()))).values
            pruned[name] = tensor * (tensor.abs() > bound)
    return pruned


def packed(state, pack):
    """The blocks' matrices in packed words, which hold no real values: their bytes alone count here."""
    entries = {}
    for name, tensor in state.items():
        if ".layers." in name and tensor.dim() == 2:
            entries |= dict(pack(name.removesuffix(".weight"), *tensor.shape))
        else:
            entries[name] = ("F32", tuple(tensor.shape), tensor.numpy().tobytes())
    return entries


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """A warehouse of a base, three masked and two quantised models, and their accuracies."""
    root = tmp_path_factory.mktemp("kept")
    state, config = state_of(TinyModel("llama", {**COMMON, "num_key_value_heads": 2, "tie_word_embeddings": False}))
    write_model(root, "base", state, config)
    for name in MASKED:
        write_model(root, name, masked(state, int(name[-2:]) / 100), config)
    for name, (pack, declared) in PACKINGS.items():
        write(root / "models" / name, packed(state, pack), {**config, "quantization_config": declared})
    for name, accuracy in ACCURACIES.items():
        scores = {task: {"acc,none": accuracy, "acc_norm,none": accuracy} for task in TASKS}
        document = {"results": scores, "config": {"model_args": f"pretrained=models/{name}"}, "n-shot": dict.fromkeys(TASKS, 0)}
        (root / "models" / name / "results.json").write_text(json.dumps(document))
    report = lh.ingest([root / "models"], warehouse=root / "w", base=root / "models/base", threads=1)
    assert report.count("failed") == 0, report
    return root


@pytest.fixture(scope="module")
def opened(study):
    with lh.open(study / "w") as wh:
        yield wh


def by_name(rows, *columns):
    """The values of the columns by the last part of the model's name."""
    return {row["model_id"].rpartition("/")[2]: tuple(row[column] for column in columns) for row in rows.to_dicts()}


def test_masked_models_are_on_the_front_by_what_is_not_zero(opened):
    front = opened.query("trade_off", models=[f"models/{name}" for name in ("base", *MASKED)], by="nonzero")
    found = by_name(front, "kept_by", "is_on_front", "dominated_by")
    assert found == dict.fromkeys(("base", *MASKED), ("nonzero", True, []))
    shares = by_name(front, "kept_share")
    assert shares["base"] == (1.0,)
    assert 1.0 > shares["Wanda_30"][0] > shares["Wanda_50"][0] > shares["Wanda_70"][0] > 0.3


def test_quantised_models_are_on_the_front_by_bytes(opened):
    front = opened.query("trade_off", by="bytes")
    found = by_name(front, "kept_by", "kept_share", "is_on_front", "dominated_by")
    assert {name: values[2] for name, values in found.items()} == {
        "base": True, "gptq": True, "nf4": True, "Wanda_30": False, "Wanda_50": False, "Wanda_70": False,
    }  # fmt: skip
    assert {values[0] for values in found.values()} == {"bytes"}
    assert found["Wanda_30"][1] == 1.0
    assert found["Wanda_30"][3] == ["models/base", "models/gptq"]
    assert 0 < found["nf4"][1] < found["gptq"][1] < 1


def test_one_table_is_of_one_measure_and_by_parameters_where_zeros_of_one_are_not_known(opened):
    names = ("trade_off", "summary", "performance", "performance_variants", "per_layer", "history")
    assert {(name, by) for name in names for by in opened.query(name)["kept_by"]} == {(name, "params") for name in names}
    assert set(opened.query("methods")["kept_by"]) == {"nonzero"}  # a name alone declares no method nf4
    assert set(by_name(opened.query("trade_off"), "kept_share").values()) == {(1.0,)}


@pytest.mark.parametrize("by", ["params", "nonzero", "bytes", "macs"])
def test_a_query_counts_in_the_measure_that_is_asked_for(opened, by):
    wanted = {name: share for name, (share,) in by_name(opened.models(), f"{by}_retention").items()}
    assert (
        len({share for share in wanted.values() if share is not None}) == {"params": 1, "nonzero": 4, "bytes": 3, "macs": 1}[by]
    )
    for name in ("summary", "performance", "history", "trade_off"):
        found = by_name(opened.query(name, by=by), "kept_by", "kept_share")
        assert found == {model: (by, share) for model, share in wanted.items()}, name


def test_a_measure_of_one_query_is_not_that_of_the_next(opened):
    opened.query("summary", by="bytes")
    assert opened.connection_for("SELECT 1").sql("SELECT getvariable('kept_by')").fetchall() == [(None,)]
    with pytest.raises(ZeroDivisionError), counted_by(opened.connection_for("SELECT 1"), "macs"):
        raise ZeroDivisionError
    assert opened.query("summary")["kept_by"][0] == "params"


def test_layers_of_a_masked_model_have_levels_by_what_is_not_zero(opened):
    rows = opened.query("per_layer", models=["models/Wanda_50"], by="nonzero")
    assert rows["level"].to_list() == ["untouched"] * LAYERS
    assert rows["kept_level"].to_list() == ["medium"] * LAYERS
    assert rows["stack"].unique().to_list() == ["text"]
    special = opened.query("special_layers", by="bytes")
    heavy = by_name(special.filter(special["level"] == "heavy"), "n_layers", "kept_by")
    assert heavy == {"nf4": (LAYERS, "bytes")}


def test_layers_without_the_measure_are_a_row_without_a_level(opened):
    rows = opened.query("special_layers", by="nonzero")
    unknown = rows.filter(rows["level"].is_null())
    assert by_name(unknown, "n_layers", "kept_share_max") == {"nf4": (LAYERS, None)}


def test_the_bytes_of_layers_and_the_rest_sum_to_the_model_s(opened):
    sql = """
        SELECT model_id, any_value(facts.logical_bytes), sum(layers.logical_bytes), any_value(outside.bytes)
        FROM current_checkpoints AS facts
        JOIN layers USING (checkpoint_id)
        JOIN (SELECT checkpoint_id, sum(logical_bytes) AS bytes FROM tensors WHERE layer_index IS NULL GROUP BY ALL) AS outside
        USING (checkpoint_id)
        GROUP BY model_id
    """
    rows = opened.connection_for(sql).sql(sql).fetchall()
    assert len(rows) == len(ACCURACIES)
    assert all(total == in_layers + outside for _, total, in_layers, outside in rows)


def test_tensors_sum_to_their_layers_in_every_measure(opened):
    measures = ("params", "nonzero_params", "logical_bytes", "macs_per_token")
    sums = ", ".join(f"sum({measure}), sum(base_{measure})" for measure in measures)
    layers = ", ".join(f"{measure}, base_{measure}" for measure in measures)
    where = "WHERE model_id = 'models/Wanda_50'"
    sql = f"""
        SELECT base_layer_index, {sums} FROM tensor_changes {where} AND base_layer_index IS NOT NULL GROUP BY ALL
        EXCEPT SELECT base_layer_index, {layers} FROM layer_pruning {where}
    """
    connection = opened.connection_for(sql)
    assert connection.sql(sql).fetchall() == []
    count = f"SELECT count(*), count(DISTINCT base_layer_index) FROM tensor_changes {where} AND base_layer_index IS NOT NULL"
    assert connection.sql(count).fetchall() == [(9 * LAYERS, LAYERS)]


def test_correlation_and_methods_know_zeros_and_the_measure(opened):
    rows = opened.query("correlation", by="nonzero")
    found = {row["structure"]: (row["kept_by"], row["n_models"], row["rank_correlation"]) for row in rows.to_dicts()}
    assert found["kept_share"] == ("nonzero", 5, pytest.approx(math.sqrt(0.95)))
    assert found["sparsity"] == (None, 5, pytest.approx(-math.sqrt(0.95)))
    assert found["reduction_ratio"] == (None, 6, None)
    methods = opened.query("methods", by="nonzero")
    assert set(zip(methods["method"], methods["declared_ratio"], methods["n_kept"], strict=True)) >= {("Wanda", 0.5, 1)}
    half = methods.filter((methods["method"] == "Wanda") & (methods["declared_ratio"] == 0.5)).to_dicts()[0]
    models = by_name(opened.models(), "nonzero_retention", "sparsity")
    assert (half["kept_share_mean"], half["sparsity_mean"]) == models["Wanda_50"]


@pytest.mark.parametrize(
    ("name", "by", "message"),
    [
        ("summary", "weights", "--by weights: choose one of params, nonzero, bytes, macs"),
        ("structure", "bytes", "--by is for queries that show what is kept: correlation, "),
    ],
)
def test_a_measure_that_does_not_fit_is_refused(opened, name, by, message):
    with pytest.raises(UsageError, match=message):
        opened.query(name, by=by)


def test_the_command_says_what_it_counts_in_and_how_many_rows_lack_it(study):
    done = layerhouse("query", "trade_off", "--by", "nonzero", "-w", "w", "-f", "csv", cwd=study)
    assert done.stdout.count(",nonzero,") == len(ACCURACIES)
    assert done.stderr == "1 row has no share by nonzero: without a base, or it is not known\n"
    for command in (("summarize",), ("performance",), ("layers", "models/Wanda_50")):
        done = layerhouse(*command, "--by", "macs", "-w", "w", "-f", "ndjson", cwd=study)
        assert {json.loads(line)["kept_by"] for line in done.stdout.splitlines()} == {"macs"}, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("query", "structure", "--by", "bytes"), "--by is for queries that show what is kept"),
        (("summarize", "--by", "bytes", "--since", "2026-01-01"), "--by is not for --since"),
        (("summarize", "--by", "bytes", "-o", "out"), "--by is not for the form of the study scripts"),
    ],
)
def test_a_command_without_a_measure_says_so_in_one_line(study, arguments, message):
    done = layerhouse(*arguments, "-w", "w", cwd=study)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr
