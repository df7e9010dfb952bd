"""The study's own result files: every number becomes one exact row, every other key one line."""

from __future__ import annotations

import json
import math
import os
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.json_files import read_json
from layerhouse.ingest.results import native
from layerhouse.ingest.results.native import parse
from layerhouse.ingest.results.parsed import ADDED_BY_CALLER, ResultFormat
from layerhouse.ingest.results.registry import FORMATS, recognise, register
from layerhouse.ingest.results.rows import left_out_line
from layerhouse.ingest.results.scores import finite, score
from layerhouse.warehouse.storage.schema import RESULTS, arrow_schema

STUDY = Path(__file__).parents[2] / "shared/data/llama3-8b"
HARNESS = Path(__file__).parents[2] / "shared/data/harness"
WHEN = "2025-11-19T16:23:03.931479"
WHEN_READ = datetime(2025, 12, 1, tzinfo=UTC)
ADDED = {*ADDED_BY_CALLER}
INT32_MAX = 2147483647


def parsed(tmp_path, metrics, *, name="evaluation_results.json", **top_level):
    path = tmp_path / name
    path.write_text(json.dumps({"timestamp": WHEN, **top_level, "metrics": metrics}))
    _, document = read_json(path, name)
    return parse(document, path)


def rows_of(tmp_path, metrics, *columns, **options):
    """The chosen columns of every row, as tuples; nothing may be left out."""
    results = parsed(tmp_path, metrics, **options)
    assert results.left_out == ()
    return [tuple(row[column] for column in columns) for row in results.rows]


def notes_of(results):
    return [tuple(note["code"] for note in row["notes"]) for row in results.rows]


def measured(row):
    """The columns of a row that hold something."""
    return {name: value for name, value in row.items() if value is not None and value != []}


# One number


@pytest.mark.parametrize(
    ("value", "columns"),
    [
        (7, (7.0, 7, "ok")),
        (-0.5, (-0.5, None, "ok")),
        (146760.7188, (146760.7188, None, "ok")),
        (0, (0.0, 0, "ok")),
        (2**53 + 1, (float(2**53), 2**53 + 1, "ok")),
        (2**63 - 1, (2.0**63, 2**63 - 1, "ok")),
        (2**63, (2.0**63, None, "ok")),
        (-(2**63), (-(2.0**63), -(2**63), "ok")),
        (10**400, (None, None, "inf")),
        (math.nan, (None, None, "nan")),
        (math.inf, (None, None, "inf")),
        (-math.inf, (None, None, "inf")),
        ("NaN", (None, None, "nan")),
        ("nan", (None, None, "nan")),
        ("Infinity", (None, None, "inf")),
        ("-inf", (None, None, "inf")),
        (None, (None, None, "missing")),
    ],
)
def test_score(value, columns):
    assert score(value) == dict(zip(("value", "value_integer", "status"), columns, strict=True))


@pytest.mark.parametrize("value", [True, False, "", "0.5", "N/A", "nano", [], [1], {}, {"a": 1}])
def test_what_is_no_score(value):
    assert score(value) is None


@pytest.mark.parametrize(
    ("value", "stderr"),
    [(0.01, 0.01), (0, 0.0), (1, 1.0)]
    + [(value, None) for value in ("N/A", [], None, math.nan, math.inf, "nan", "0.01", True, {}, 10**400)],
)
def test_stderr_is_never_made_up(value, stderr):
    assert finite(value) == stderr


# The registry


def test_formats_have_one_name_each():
    names = [result_format.name for result_format in FORMATS]
    assert names[:3] == ["native", "lm_eval", "lighteval"]
    assert len(set(names)) == len(names)
    with pytest.raises(ValueError, match="two result formats are called 'native'"):
        register(*FORMATS, ResultFormat("native", lambda document, path: True, parse))


@pytest.mark.parametrize(
    "metrics",
    [
        {"ppl": {}},
        {"ppl_quick_128": {}},
        {"model_info": {}},
        {"zeroshot": {}},
        {"efficiency": {}, "x": 1},
        {"avg_zeroshot_acc": 1},
    ],
)
def test_native_is_recognised(metrics):
    result_format = recognise({"metrics": metrics}, Path("any.json"))
    assert result_format is not None
    assert result_format.name == "native"


@pytest.mark.parametrize(
    "document",
    [
        *(None, 1, "metrics", [], ["metrics"], {}, {"metrics": None}, {"metrics": []}, {"metrics": ["ppl"]}),
        *({"metrics": {}}, {"metrics": {"pplx": 1}}, {"results": {"ppl": 1}}, {"ppl": {"ptb": 1}}),
    ],
)
def test_other_documents_are_not(document):
    assert recognise(document, Path("ppl_2048.json")) is None


def test_a_left_out_line_is_one_short_line():
    assert left_out_line("a\nb", "not\n known") == "a b: not known"
    assert left_out_line("k" * 500, "not known") == "k" * 99 + "…: not known"
    assert len(left_out_line("k" * 500, "not known " * 50)) == 200


# Shape and time


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ([], "the document must be an object, not a list"),
        ({}, "metrics must be an object, not null"),
        ({"metrics": []}, "metrics must be an object, not a list"),
        ({"metrics": "x\ny"}, "metrics must be an object, not 'x\\ny'"),
    ],
)
def test_a_wrong_shape_names_the_key(document, reason):
    with pytest.raises(InputError) as caught:
        parse(document, Path("a.json"))
    assert str(caught.value) == f"a.json: {reason}"


@pytest.mark.parametrize(
    ("timestamp", "run_at"),
    [
        (WHEN, datetime(2025, 11, 19, 16, 23, 3, 931479, UTC)),
        ("2025-11-19T16:23:03Z", datetime(2025, 11, 19, 16, 23, 3, 0, UTC)),
        ("2025-11-19 16:23:03+08:00", datetime(2025, 11, 19, 8, 23, 3, 0, UTC)),
        ("2025-11-19", datetime(2025, 11, 19, tzinfo=UTC)),
    ],
)
def test_timestamps_are_utc_unless_they_say_otherwise(tmp_path, timestamp, run_at):
    [row] = parsed(tmp_path, {"avg_zeroshot_acc": 0.5}, timestamp=timestamp).rows
    assert row["run_at"] == run_at
    assert row["run_at"].tzinfo is UTC
    assert row["notes"] == []


@pytest.mark.parametrize(
    ("timestamp", "text"),
    [
        (None, "the file has no timestamp that is text: run_at is the file's modification time"),
        (1763569383, "the file has no timestamp that is text: run_at is the file's modification time"),
        ("yesterday", "timestamp 'yesterday' is no time: run_at is the file's modification time"),
        (
            "0001-01-01T00:00:00+14:00",
            "timestamp '0001-01-01T00:00:00+14:00' is no time: run_at is the file's modification time",
        ),
    ],
)
def test_without_a_timestamp_the_file_dates_every_row(tmp_path, timestamp, text):
    path = tmp_path / "a.json"
    path.write_text("{}")
    os.utime(path, ns=(0, 1_700_000_000_123_456_789))
    results = parse({"timestamp": timestamp, "metrics": {"ppl_2048": {"ptb": 5.0}, "avg_zeroshot_acc": 0.5}}, path)
    assert len(results.rows) == 2
    for row in results.rows:
        assert row["run_at"] == datetime(2023, 11, 14, 22, 13, 20, 123456, UTC)
        assert row["notes"] == [{"code": "run_at", "text": text}]


def test_a_file_that_is_gone_has_no_time(tmp_path):
    [row] = parse({"metrics": {"avg_zeroshot_acc": 0.5}}, tmp_path / "gone.json").rows
    assert row["run_at"] is None
    assert row["notes"] == [{"code": "run_at", "text": "the file has no timestamp that is text"}]


def test_rows_have_the_columns_of_the_table_and_fit_its_types(tmp_path):
    metrics = {
        "model_info": {"total_params": 2**63 - 1, "huge": 2**70},
        f"ppl_{INT32_MAX}_{INT32_MAX}": {"ptb": math.nan},
        "zeroshot": {"boolq": {"accuracy": 1, "full_results": {"n_samples": 2**63 - 1, "n_shot": INT32_MAX}}},
        "efficiency": {"speed": {f"batch_size_{INT32_MAX}": {"total_tokens": 1}}},
    }
    results = parsed(tmp_path, metrics, model_path="名/前")
    assert results.left_out == ()
    assert all(set(row) == set(RESULTS.column_names) - ADDED for row in results.rows)
    complete = [
        {**row, "result_id": "r", "measure_id": "m", "source_uri": "s", "commit_id": "c", "ingested_at": row["run_at"]}
        for row in results.rows
    ]
    table = pa.Table.from_pylist(complete, schema=arrow_schema("results"))
    assert table.num_rows == 5
    assert table["seq_len"].to_pylist() == [None, None, INT32_MAX, None, None]
    assert table["value_integer"].to_pylist() == [2**63 - 1, None, None, 1, 1]


# Sections


def test_model_info(tmp_path):
    info = {
        "total_params": 8030261248,
        "total_params_M": 8030.261248,
        "total_params_B": 8.030261248,
        "num_layers": 32,
        "model_size_mb": 15316.5,
        "model_size_gb": 14.9575,
        "hidden": 4096,
        "module_params": {"embedding": 525336576, "unaccounted": 0, "match": False},
    }
    columns = ("suite", "task", "subset", "metric", "value", "value_integer", "unit", "is_group")
    assert rows_of(tmp_path, {"model_info": info}, *columns) == [
        ("model_info", "model_info", None, "total_params", 8030261248.0, 8030261248, "parameters", False),
        ("model_info", "model_info", None, "total_params_M", 8030.261248, None, "parameters_M", False),
        ("model_info", "model_info", None, "total_params_B", 8.030261248, None, "parameters_B", False),
        ("model_info", "model_info", None, "num_layers", 32.0, 32, "layers", False),
        ("model_info", "model_info", None, "model_size_mb", 15316.5, None, "MiB", False),
        ("model_info", "model_info", None, "model_size_gb", 14.9575, None, "GiB", False),
        ("model_info", "model_info", None, "hidden", 4096.0, 4096, None, False),
        ("model_info", "model_info", "module_params", "embedding", 525336576.0, 525336576, "parameters", False),
        ("model_info", "model_info", "module_params", "unaccounted", 0.0, 0, "parameters", False),
    ]


@pytest.mark.parametrize(
    ("key", "seq_len", "stride"),
    [
        ("ppl_quick_128", 128, None),
        ("ppl_standard_2048_512", 2048, 512),
        ("ppl_2048", 2048, None),
        ("ppl_4096_1", 4096, 1),
        ("ppl_quick", None, None),
        ("ppl_v2", None, None),
        ("ppl_1_2_3", None, None),
        (f"ppl_{INT32_MAX}", INT32_MAX, None),
    ],
)
def test_a_key_says_its_context_whatever_the_file_is_called(tmp_path, key, seq_len, stride):
    results = parsed(tmp_path, {key: {"ptb": 5.5}}, name="ppl_64_32.json")
    assert [(row["seq_len"], row["stride"], row["value"]) for row in results.rows] == [(seq_len, stride, 5.5)]
    unknown = {"code": "context", "text": f"the file does not say the context length of {key}"}
    assert results.rows[0]["notes"] == ([] if seq_len else [unknown])


@pytest.mark.parametrize("key", ["ppl_0", "ppl_2048_0", "ppl_2147483648", "ppl_99999999999999999999", "ppl_x_1_2147483648"])
def test_a_context_that_cannot_be_is_left_out(tmp_path, key):
    results = parsed(tmp_path, {key: {"ptb": 5.5}})
    assert results.rows == ()
    assert results.left_out == (f"metrics.{key}: context length and stride must be from 1 to 2147483647 tokens",)


@pytest.mark.parametrize(
    ("name", "seq_len", "stride"),
    [
        ("ppl_2048_512.json", 2048, 512),
        ("ppl_2048.json", 2048, None),
        ("ppl-quick_128.json", 128, None),
        ("ppl.json", None, None),
        ("ppl_1_2_3.json", None, None),
        ("ppl_0.json", None, None),
        ("eval_2048_512.json", None, None),
    ],
)
def test_plain_ppl_takes_the_context_of_the_file_name(tmp_path, name, seq_len, stride):
    columns = ("seq_len", "stride", "dataset")
    assert rows_of(tmp_path, {"ppl": {"ptb": 5.5}}, *columns, name=name) == [(seq_len, stride, "ptb")]


def test_perplexity_rows(tmp_path):
    results = parsed(tmp_path, {"ppl_2048_512": {"wikitext2 (wikitext-2-raw-v1)": 16.5, "ptb": 20}}, model_path="m")
    common = {
        "harness": "native",
        "suite": "perplexity",
        "metric": "perplexity",
        "higher_is_better": False,
        "is_group": False,
        "unit": "per_token",
        "seq_len": 2048,
        "stride": 512,
        "declared_model": "m",
        "run_at": datetime(2025, 11, 19, 16, 23, 3, 931479, UTC),
        "status": "ok",
    }
    assert [measured(row) for row in results.rows] == [
        {**common, "task": "wikitext2", "dataset": "wikitext2", "subset": "wikitext-2-raw-v1", "value": 16.5},
        {**common, "task": "ptb", "dataset": "ptb", "value": 20.0, "value_integer": 20},
    ]


def test_plain_ppl_that_repeats_a_named_one_is_that_one(tmp_path):
    results = parsed(
        tmp_path,
        {
            "ppl": {"ptb": 5.5, "c4": 7.0, "wiki": 9.0, "nan": math.nan},
            "ppl_a_128": {"ptb": 5.0, "c4": 7.0, "wiki": 1.0, "nan": math.nan},
            "ppl_b_2048_512": {"ptb": 5.5, "c4": 7.0, "wiki": 2.0},
            "ppl_c_2048_512": {"ptb": 5.5, "other": 9.0},
        },
    )
    plain = {row["dataset"]: row for row in results.rows[:4]}
    assert {name: (row["seq_len"], row["stride"]) for name, row in plain.items()} == {
        "ptb": (2048, 512),
        "c4": (None, None),
        "wiki": (None, None),
        "nan": (None, None),
    }
    text = "ppl says no context length; its value is that of ppl_b_2048_512"
    assert plain["ptb"]["notes"] == [{"code": "context", "text": text}]
    assert plain["c4"]["notes"] == [{"code": "context", "text": "the file does not say the context length of ppl"}]


def test_the_file_name_yields_to_a_key_that_contradicts_it(tmp_path):
    metrics = {"ppl": {"ptb": 5.5, "c4": 7.0, "wiki": math.nan}, "ppl_2048": {"ptb": 5.6, "c4": 7.0, "wiki": math.nan}}
    results = parsed(tmp_path, metrics, name="ppl_2048.json")
    assert [row["seq_len"] for row in results.rows[:3]] == [None, 2048, 2048]
    text = "the file's name gives ppl the context of ppl_2048, but the values differ"
    assert results.rows[0]["notes"] == [{"code": "context", "text": text}]
    assert [row["notes"] for row in results.rows[1:3]] == [[], []]


def test_a_perplexity_without_a_dataset(tmp_path):
    results = parsed(tmp_path, {"ppl": 12.3, "ppl_quick_128": 12.3})
    assert [(row["task"], row["dataset"], row["seq_len"], row["value"]) for row in results.rows] == [
        (None, None, 128, 12.3)
    ] * 2
    assert notes_of(results) == [("context", "dataset"), ("dataset",)]
    assert results.rows[1]["notes"][0]["text"] == "ppl_quick_128 names no dataset"


def test_perplexities_that_are_no_number_keep_their_status(tmp_path):
    values = {"a": math.nan, "b": math.inf, "c": "nan", "d": 146760.7188, "e": None, "f": "-Infinity"}
    assert rows_of(tmp_path, {"ppl_128": values}, "dataset", "value", "status") == [
        ("a", None, "nan"),
        ("b", None, "inf"),
        ("c", None, "nan"),
        ("d", 146760.7188, "ok"),
        ("e", None, "missing"),
        ("f", None, "inf"),
    ]


def test_zeroshot_task(tmp_path):
    full = {
        "alias": "arc_local",
        "acc,none": 0.5,
        "acc_stderr,none": 0.01,
        "acc_norm,none": 0.6,
        "acc_norm_stderr,none": "N/A",
        "exact_match,strict-match": 0,
        "word_perplexity,none": 11.5,
        "mcc,none": -0.1,
        "sample_len": 100,
        "n_shot": 5,
    }
    columns = (
        "suite",
        "task",
        "metric",
        "filter",
        "value",
        "stderr",
        "unit",
        "higher_is_better",
        "n_samples",
        "n_shot",
    )
    common = ("zeroshot", "arc")
    assert rows_of(tmp_path, {"zeroshot": {"arc": {"accuracy": 0.6, "full_results": full}}}, *columns) == [
        (*common, "accuracy", None, 0.6, None, "fraction", True, 100, 5),
        (*common, "acc", "none", 0.5, 0.01, "fraction", True, 100, 5),
        (*common, "acc_norm", "none", 0.6, None, "fraction", True, 100, 5),
        (*common, "exact_match", "strict-match", 0.0, None, "fraction", True, 100, 5),
        (*common, "word_perplexity", "none", 11.5, None, "per_word", False, 100, 5),
        (*common, "mcc", "none", -0.1, None, None, None, 100, 5),
    ]
    results = parsed(tmp_path, {"zeroshot": {"arc": {"accuracy": 0.6, "full_results": full}}})
    alias = {"code": "alias", "text": "the file calls the task arc_local"}
    assert [row["notes"] for row in results.rows] == [[alias]] * 6
    assert {row["dataset"] for row in results.rows} == {None}


def test_an_alias_that_is_the_key_is_no_note(tmp_path):
    results = parsed(tmp_path, {"zeroshot": {"boolq": {"full_results": {"alias": " boolq", "acc,none": 0.5}}}})
    assert notes_of(results) == [()]


def test_older_keys_without_a_filter_and_bare_numbers(tmp_path):
    tasks = {
        "a": {"acc": 0.5, "acc_stderr": 0.01},
        "b": {"full_results": {"acc": 0.25, "acc_stderr": []}},
        "c": 0.75,
        "d": None,
    }
    assert rows_of(tmp_path, {"zeroshot": tasks}, "task", "metric", "filter", "value", "stderr", "status") == [
        ("a", "acc", None, 0.5, 0.01, "ok"),
        ("b", "acc", None, 0.25, None, "ok"),
        ("c", "accuracy", None, 0.75, None, "ok"),
        ("d", "accuracy", None, None, None, "missing"),
    ]


def test_a_score_in_percent_is_no_fraction(tmp_path):
    results = parsed(tmp_path, {"zeroshot": {"a": {"accuracy": 84.4}, "b": {"accuracy": 1}}, "avg_zeroshot_acc": -0.1})
    assert [(row["value"], row["unit"]) for row in results.rows] == [(84.4, None), (1.0, "fraction"), (-0.1, None)]
    assert notes_of(results) == [("scale",), (), ("scale",)]


def test_average_is_a_group(tmp_path):
    columns = ("suite", "task", "metric", "value", "is_group", "unit", "higher_is_better")
    assert rows_of(tmp_path, {"avg_zeroshot_acc": 0.697}, *columns) == [
        ("zeroshot", "zeroshot", "avg_zeroshot_acc", 0.697, True, "fraction", True)
    ]


def test_speed_and_memory(tmp_path):
    efficiency = {
        "gpu": "NVIDIA A100",
        "speed": {
            "batch_size_1": {
                "throughput_tokens_per_sec": 29.1,
                "latency_ms_per_token": 34.4,
                "total_time_sec": 220,
                "total_tokens": 6400,
            },
            "batch_size_4": {"p99": 1.5},
            "throughput_tokens_per_sec": 2,
        },
        "memory": {"model_memory_mb": 15324.6, "inference_peak_mb": 15446.9, "kv_mb": 3},
        "joules": 12,
    }
    columns = ("suite", "task", "metric", "batch_size", "value", "value_integer", "unit", "higher_is_better")
    assert rows_of(tmp_path, {"efficiency": efficiency}, *columns) == [
        ("speed", "speed", "throughput_tokens_per_sec", 1, 29.1, None, "tok/s", True),
        ("speed", "speed", "latency_ms_per_token", 1, 34.4, None, "ms/token", False),
        ("speed", "speed", "total_time_sec", 1, 220.0, 220, "s", None),
        ("speed", "speed", "total_tokens", 1, 6400.0, 6400, "tokens", None),
        ("speed", "speed", "p99", 4, 1.5, None, None, None),
        ("speed", "speed", "throughput_tokens_per_sec", None, 2.0, 2, "tok/s", True),
        ("memory", "memory", "model_memory_mb", None, 15324.6, None, "MiB", False),
        ("memory", "memory", "inference_peak_mb", None, 15446.9, None, "MiB", False),
        ("memory", "memory", "kv_mb", None, 3.0, 3, None, None),
        ("efficiency", "efficiency", "joules", None, 12.0, 12, None, None),
    ]
    assert set(rows_of(tmp_path, {"efficiency": efficiency}, "hardware")) == {("NVIDIA A100",)}


@pytest.mark.parametrize("value", [0, 0.0, -1, -0.5])
@pytest.mark.parametrize("metric", ["throughput_tokens_per_sec", "latency_ms_per_token", "total_time_sec"])
def test_a_run_that_took_no_time_is_missing(tmp_path, metric, value):
    results = parsed(tmp_path, {"efficiency": {"speed": {"batch_size_1": {metric: value, "total_tokens": 0}}}})
    zero, tokens = results.rows
    assert (zero["value"], zero["value_integer"], zero["status"]) == (None, None, "missing")
    assert zero["notes"] == [{"code": "zero_time", "text": f"the file says {value:g}, which no run can take"}]
    assert (tokens["value_integer"], tokens["status"], tokens["notes"]) == (0, "ok", [])


@pytest.mark.parametrize(
    ("top_level", "efficiency", "hardware", "left_out"),
    [
        ({"hardware": "H100"}, {}, "H100", ()),
        ({"device": "cuda:0", "gpu": "A100"}, {}, "A100", ("device: gpu is taken",)),
        ({"device": "H100"}, {"gpu_name": "H100"}, "H100", ()),
        ({"gpu": "A100"}, {"hardware": "H100"}, "H100", ("gpu: metrics.efficiency.hardware is taken",)),
        ({"gpu": 0}, {}, None, ("gpu: must be text, not 0",)),
        ({}, {}, None, ()),
    ],
)
def test_hardware(tmp_path, top_level, efficiency, hardware, left_out):
    metrics = {"efficiency": {**efficiency, "memory": {"model_memory_mb": 1.5}}, "avg_zeroshot_acc": 0.5}
    results = parsed(tmp_path, metrics, **top_level)
    assert [row["hardware"] for row in results.rows] == [hardware, None]
    assert results.left_out == left_out


@pytest.mark.parametrize(
    ("top_level", "declared_model", "left_out"),
    [
        ({"model_path": "p", "model_name": "n"}, "p", ()),
        ({"model_name": "n"}, "n", ()),
        ({"model_path": ["p"], "model_name": "n"}, "n", ("model_path: must be text, not a list",)),
        ({}, None, ()),
    ],
)
def test_declared_model(tmp_path, top_level, declared_model, left_out):
    results = parsed(tmp_path, {"avg_zeroshot_acc": 0.5}, **top_level)
    assert [row["declared_model"] for row in results.rows] == [declared_model]
    assert results.left_out == left_out


@pytest.mark.parametrize(
    ("metrics", "line"),
    [
        ({"foo": 1}, "metrics.foo: not known"),
        ({"model_info": None}, "metrics.model_info: must be an object, not null"),
        ({"model_info": {"dtype": "bfloat16"}}, "metrics.model_info.dtype: must be a number, not 'bfloat16'"),
        ({"model_info": {"ok": True}}, "metrics.model_info.ok: must be a number, not True"),
        (
            {"model_info": {"module_params": {"match": "no"}}},
            "metrics.model_info.module_params.match: must be a number, not 'no'",
        ),
        ({"model_info": {"module_params": [1]}}, "metrics.model_info.module_params: must be a number, not a list"),
        ({"ppl": None}, "metrics.ppl: must be an object or a number, not null"),
        ({"ppl": [1]}, "metrics.ppl: must be a number, not a list"),
        ({"ppl": {"ptb": {"mean": 1}}}, "metrics.ppl.ptb: must be a number, not an object"),
        ({"ppl": {"error": "CUDA out of\nmemory"}}, "metrics.ppl.error: the run failed: CUDA out of memory"),
        ({"zeroshot": [1]}, "metrics.zeroshot: must be an object, not a list"),
        ({"zeroshot": {"boolq": {"error": "no data"}}}, "metrics.zeroshot.boolq.error: the run failed: no data"),
        ({"zeroshot": {"boolq": "n/a"}}, "metrics.zeroshot.boolq: must be a number, not 'n/a'"),
        ({"zeroshot": {"boolq": {"full_results": 3}}}, "metrics.zeroshot.boolq.full_results: must be an object, not 3"),
        ({"zeroshot": {"boolq": {"alias": 3}}}, "metrics.zeroshot.boolq.alias: not a measure"),
        ({"zeroshot": {"boolq": {"name": "boolq"}}}, "metrics.zeroshot.boolq.name: not a measure"),
        (
            {"zeroshot": {"boolq": {"full_results": {"acc_stderr,none": 0.1}}}},
            "metrics.zeroshot.boolq.full_results.acc_stderr,none: the standard error of a measure that is not there",
        ),
        (
            {"zeroshot": {"boolq": {"full_results": {"n_samples": -1}}}},
            "metrics.zeroshot.boolq.full_results.n_samples: not a measure",
        ),
        (
            {"zeroshot": {"boolq": {"full_results": {"sample_count": {"a": 1}}}}},
            "metrics.zeroshot.boolq.full_results.sample_count: not a measure",
        ),
        ({"avg_zeroshot_acc": "high"}, "metrics.avg_zeroshot_acc: must be a number, not 'high'"),
        ({"efficiency": 3}, "metrics.efficiency: must be an object, not 3"),
        ({"efficiency": {"speed": []}}, "metrics.efficiency.speed: must be a number, not a list"),
        ({"efficiency": {"flops": {"a": 1}}}, "metrics.efficiency.flops: must be a number, not an object"),
        ({"efficiency": {"gpu": 3.5}}, "metrics.efficiency.gpu: must be text, not 3.5"),
        ({"efficiency": {"memory": {"x": {}}}}, "metrics.efficiency.memory.x: must be a number, not an object"),
        (
            {"efficiency": {"speed": {"batch_size_0": {"total_tokens": 1}}}},
            "metrics.efficiency.speed.batch_size_0: a batch size must be from 1 to 2147483647",
        ),
        (
            {"efficiency": {"speed": {"batch_size_1": {"total_tokens": "many"}}}},
            "metrics.efficiency.speed.batch_size_1.total_tokens: must be a number, not 'many'",
        ),
    ],
)
def test_what_no_row_took_has_a_line(tmp_path, metrics, line):
    results = parsed(tmp_path, metrics)
    assert (results.rows, results.left_out) == ((), (line,))


def test_what_is_left_out_does_not_hide_the_rest(tmp_path):
    full = {"acc,none": 0.5, "acc_stderr,none": "about 0.01", "accuracy": 0.25, "acc_norm,none": True}
    metrics = {"zeroshot": {"boolq": {"accuracy": 0.6, "full_results": full}, "piqa": {"error": "no data"}}, "x": 1}
    results = parsed(tmp_path, metrics, seed=7, model_path="m")
    assert [(row["metric"], row["value"], row["stderr"]) for row in results.rows] == [
        ("accuracy", 0.25, None),
        ("acc", 0.5, None),
    ]
    assert results.left_out == (
        "seed: not known",
        "metrics.zeroshot.boolq.accuracy: full_results holds it as well",
        "metrics.zeroshot.boolq.full_results.acc_stderr,none: must be a number, not 'about 0.01'",
        "metrics.zeroshot.boolq.full_results.acc_norm,none: must be a number, not True",
        "metrics.zeroshot.piqa.error: the run failed: no data",
        "metrics.x: not known",
    )


KEYS = st.sampled_from(
    [
        *(
            "model_info",
            "module_params",
            "match",
            "total_params",
            "ppl",
            "ppl_128",
            "ppl_2_1",
            "zeroshot",
            "avg_zeroshot_acc",
        ),
        *(
            "boolq",
            "accuracy",
            "full_results",
            "alias",
            "acc,none",
            "acc_stderr,none",
            "acc",
            "n_samples",
            "efficiency",
        ),
        *(
            "speed",
            "batch_size_1",
            "latency_ms_per_token",
            "memory",
            "gpu",
            "error",
            "wiki (raw)",
            "",
            ",",
            "_stderr",
            "é\n",
        ),
    ]
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["nan", "N/A", "x", "", "2025-01-01"])
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=25
)


@given(
    st.dictionaries(KEYS, VALUES, max_size=5),
    st.dictionaries(KEYS | st.sampled_from(["timestamp"]), VALUES, max_size=2),
)
def test_any_metrics_give_rows_that_fit_the_table(metrics, top_level):
    results = parse({**top_level, "metrics": metrics}, Path("ppl_2048.json"))
    complete = [
        {**row, "result_id": "r", "measure_id": "m", "source_uri": "s", "commit_id": "c", "ingested_at": WHEN_READ}
        for row in results.rows
    ]
    pa.Table.from_pylist(complete, schema=arrow_schema("results")).validate(full=True)
    for row in results.rows:
        assert (row["value"] is not None) == (row["status"] == "ok")
        assert row["value"] is None or math.isfinite(row["value"])
        assert row["stderr"] is None or math.isfinite(row["stderr"])
    assert all(0 < len(line) <= 200 and "\n" not in line for line in results.left_out)


# Files as they were written


def read_study(relative):
    path = STUDY / relative
    _, document = read_json(path, relative)
    result_format = recognise(document, path)
    assert result_format is not None
    assert result_format.name == "native"
    return document, result_format.parse(document, path)


def numbers_in(value):
    """How many leaf numbers a document holds, booleans aside."""
    if isinstance(value, dict):
        return sum(numbers_in(inner) for inner in value.values())
    return int(isinstance(value, int | float) and not isinstance(value, bool))


needs_study = pytest.mark.skipif(not STUDY.is_dir(), reason="the shared study is not here")


@needs_study
@pytest.mark.parametrize(
    ("relative", "count", "contexts"),
    [
        ("baselines/Llama-3-8B-Instruct/evaluation/evaluation_results.json", 41, [(None, None)] * 2),
        ("results/HGSP_2000/evaluation/evaluation_results.json", 41, [(None, None)] * 2),
        ("results/HGSP_2000_finetuned/evaluation/ppl_2048_512.json", 9, [(2048, 512)] * 2),
        (
            "baselines/SliceGPT_2000/evaluation/evaluation_results.json",
            52,
            [(128, None)] * 2 + [(2048, 512)] * 4,
        ),
    ],
)
def test_study_files_are_taken_whole(relative, count, contexts):
    document, results = read_study(relative)
    assert results.left_out == ()
    assert len(results.rows) == count
    stderrs = sum(row["stderr"] is not None for row in results.rows)
    assert count + stderrs == numbers_in(document["metrics"])
    assert {row["status"] for row in results.rows} == {"ok"}
    assert {row["declared_model"] for row in results.rows} == {document["model_path"]}
    assert {row["run_at"] for row in results.rows} == {datetime.fromisoformat(document["timestamp"]).replace(tzinfo=UTC)}
    assert [(row["seq_len"], row["stride"]) for row in results.rows if row["suite"] == "perplexity"] == contexts


@needs_study
def test_study_rows_have_the_files_numbers():
    _, results = read_study("baselines/SliceGPT_2000/evaluation/evaluation_results.json")
    by_identity = {
        (row["task"], row["subset"], row["metric"], row["filter"], row["batch_size"], row["seq_len"]): row
        for row in results.rows
    }
    unaccounted = by_identity["model_info", "module_params", "unaccounted", None, None, None]
    assert (unaccounted["value_integer"], unaccounted["unit"]) == (687879104, "parameters")
    assert by_identity["wikitext2", "wikitext-2-raw-v1", "perplexity", None, None, 128]["value"] == 35.97822570800781
    assert by_identity["ptb", None, "perplexity", None, None, 2048]["value"] == 63.66293716430664
    acc_norm = by_identity["arc_challenge", None, "acc_norm", "none", None, None]
    assert (acc_norm["value"], acc_norm["stderr"]) == (0.3122866894197952, 0.013542598541688065)
    assert by_identity["speed", None, "latency_ms_per_token", None, 4, None]["value"] == 9.31697548367083
    assert by_identity["memory", None, "inference_peak_mb", None, None, None]["value"] == 14319.96826171875
    average = by_identity["zeroshot", None, "avg_zeroshot_acc", None, None, None]
    assert (average["value"], average["is_group"]) == (0.48646789912944005, True)
    repeated = [row for row in results.rows if row["dataset"] == "ptb" and row["seq_len"] == 2048]
    assert [[note["text"] for note in row["notes"]] for row in repeated] == [
        [],
        ["ppl says no context length; its value is that of ppl_standard_2048_512"],
    ]


@needs_study
def test_study_aliases_are_noted():
    _, results = read_study("baselines/Llama-3-8B-Instruct/evaluation/evaluation_results.json")
    aliases = {row["task"]: note["text"] for row in results.rows for note in row["notes"] if note["code"] == "alias"}
    assert aliases == {
        "arc_easy": "the file calls the task arc_easy_local",
        "arc_challenge": "the file calls the task arc_challenge_local",
    }


@pytest.mark.skipif(not HARNESS.is_dir(), reason="the shared harness files are not here")
def test_files_of_other_harnesses_are_not_native():
    files = sorted(HARNESS.rglob("*.json"))
    assert files
    for path in files:
        document = read_json(path, path.name)[1]
        assert not native.recognises(document, path)
