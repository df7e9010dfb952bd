"""Result files as the tools write them: what becomes a row, what is reported as left out, and what never reaches a table."""

from __future__ import annotations

import csv
import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

import pyarrow as pa
import pytest

import layerhouse as lh
from layerhouse.errors import InputError
from layerhouse.ingest.results import documents, logs, table_lines
from layerhouse.ingest.results import parsed as parsed_results_of_a_file
from layerhouse.ingest.results.documents import may_be_result, read_document
from layerhouse.ingest.results.log_lines import find_lines, lower_case
from layerhouse.ingest.results.parsed import measure_id
from layerhouse.ingest.results.registry import recognise
from layerhouse.warehouse.storage.schema import arrow_schema

HARNESS = Path(__file__).parents[2] / "shared/data/harness"
needs_data = pytest.mark.skipif(not HARNESS.is_dir(), reason="the published result files are not here")


def parsed(path):
    document = read_document(path, path.name)[1]
    result_format = recognise(document, path)
    assert result_format is not None
    return result_format.parse(document, path)


def parse(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return parsed(path)


def values(rows):
    return {(row["task"], row["metric"]): row["value"] for row in rows}


# lm-evaluation-harness


def lm_eval(results, **more):
    return {"results": results, "versions": dict.fromkeys(results, 1), "config": {"model_args": "pretrained=/m/a"}, **more}


def test_standard_errors_of_every_kind(tmp_path):
    results = {
        f"t{place}": {"acc,none": 0.5, "acc_stderr,none": stderr, "alias": "t"}
        for place, stderr in enumerate([0.01, "N/A", [], None])
    }
    file_results = parse(tmp_path, "results.json", lm_eval(results))
    assert [(row["value"], row["stderr"], row["filter"]) for row in file_results.rows] == [
        (0.5, 0.01, None),
        (0.5, None, None),
        (0.5, None, None),
        (0.5, None, None),
    ]
    assert file_results.left_out == ()


def test_one_score_in_three_forms_is_one_row_but_for_the_harness(tmp_path):
    old = {
        "results": {
            "arc_challenge": {"acc_norm": 0.4, "acc_norm_stderr": 0.01},
            "hendrycksTest-law": {"acc": 0.3, "acc_stderr": 0.02},
        },
        "versions": {},
        "config": {"model_args": "pretrained=org/m", "num_fewshot": 5},
    }
    new = lm_eval(
        {
            "arc_challenge": {"acc_norm,none": 0.4, "acc_norm_stderr,none": 0.01},
            "mmlu_law": {"acc,none": 0.3, "acc_stderr,none": 0.02},
        },
        **{"n-shot": {"arc_challenge": 5, "mmlu_law": 5}, "model_name": "org/m"},
    )
    light = {
        "config_general": {"model_name": "org/m"},
        "results": {
            "leaderboard|arc:challenge|5": {"acc_norm": 0.4, "acc_norm_stderr": 0.01},
            "mmlu:law|5": {"acc": 0.3, "acc_stderr": 0.02},
        },
    }
    of_harness = {"harness", "harness_version", "run_at", "notes", "n_samples", "dataset", "subset", "split", "arguments"}
    of_harness.add("stated_task")
    forms = []
    for name, document in (("old.json", old), ("new.json", new), ("light.json", light)):
        rows = parse(tmp_path, name, document).rows
        forms.append([{key: value for key, value in row.items() if key not in of_harness} for row in rows])
    assert forms[0] == forms[1] == forms[2]
    assert [(row["task"], row["n_shot"], row["suite"]) for row in forms[0]] == [
        ("arc_challenge", 5, "fewshot"),
        ("mmlu_law", 5, "fewshot"),
    ]


MEMBERS = {"a": (4705, 0.2421), "b": (3077, 0.2382), "c": (3107, 0.2171), "d": (3153, 0.2131)}


def groups(tmp_path, group_row, **more):
    results = {name: {"acc,none": value, "acc_stderr,none": 0.001} for name, (_, value) in MEMBERS.items()}
    samples = {name: {"original": size, "effective": size} for name, (size, _) in MEMBERS.items()}
    subtasks = {"mmlu": ["part", "d"], "part": ["a", "b", "c"], **{name: [] for name in MEMBERS}}
    document = lm_eval(results | group_row, **{"group_subtasks": subtasks, "n-samples": samples}, **more)
    return {(row["task"], row["is_group"]): row for row in parse(tmp_path, "results.json", document).rows}


def test_a_reported_group_is_taken_as_it_is(tmp_path):
    rows = groups(tmp_path, {"mmlu": {"acc,none": 0.2292, "alias": "mmlu"}, "part": {"acc,none": 0.23}})
    assert (rows["mmlu", True]["value"], rows["mmlu", True]["notes"]) == (0.2292, rows["a", False]["notes"])
    only = groups(tmp_path, {}, groups={"mmlu": {"acc,none": 0.2292}})
    assert only["mmlu", True]["value"] == 0.2292


def test_a_group_without_a_score_is_computed_by_documents_and_says_so(tmp_path):
    rows = groups(tmp_path, {"mmlu": {" ": " ", "alias": "mmlu"}, "part": {"acc,none": 0.23}})
    total = sum(size for size, _ in MEMBERS.values())
    mean = sum(size * value for size, value in MEMBERS.values()) / total
    assert rows["mmlu", True]["value"] == pytest.approx(mean)
    assert round(rows["mmlu", True]["value"], 4) == 0.2292
    assert rows["mmlu", True]["n_samples"] == total
    assert rows["mmlu", True]["notes"][0]["code"] == "computed"


def test_a_group_has_the_shots_that_all_its_members_have(tmp_path):
    row = {"mmlu": {"acc,none": 0.2292}, "part": {"acc,none": 0.23}}
    rows = groups(tmp_path, row, **{"n-shot": dict.fromkeys(MEMBERS, 5)})
    assert {rows[name, True]["n_shot"] for name in ("mmlu", "part")} == {5}
    assert rows["mmlu", True]["suite"] == rows["a", False]["suite"] == "fewshot"
    rows = groups(tmp_path, row, **{"n-shot": dict.fromkeys(MEMBERS, 5) | {"d": 0}})
    assert (rows["mmlu", True]["n_shot"], rows["part", True]["n_shot"]) == (None, 5)


def test_limits_adapters_and_renames(tmp_path):
    document = lm_eval({"lambada": {"ppl": 3.5, "acc": 0.7}, "truthfulqa_mc": {"mc1": 0.3, "mc2": 0.4}})
    document["config"] = {"model_args": {"pretrained": "b", "peft": "ad"}, "limit": 10.0, "num_fewshot": 0}
    rows = parse(tmp_path, "x.json", document).rows
    assert values(rows) == {
        ("lambada_openai", "perplexity"): 3.5,
        ("lambada_openai", "acc"): 0.7,
        ("truthfulqa_mc1", "acc"): 0.3,
        ("truthfulqa_mc2", "acc"): 0.4,
    }
    assert {(row["declared_model"], row["adapter"], row["sample_limit"]) for row in rows} == {("b", "ad", 10.0)}


def test_values_that_are_no_numbers_are_a_status(tmp_path):
    text = (
        '{"results": {"a": {"acc,none": NaN}, "b": {"acc,none": Infinity}, "c": {"acc,none": "nan"}, "d": {"acc,none": null}, '
    )
    text += '"e": {"word_perplexity,none": 146760.7188}}, "versions": {}}'
    rows = parse(tmp_path, "results.json", text).rows
    assert [(row["status"], row["value"]) for row in rows] == [
        ("nan", None),
        ("inf", None),
        ("nan", None),
        ("missing", None),
        ("ok", 146760.7188),
    ]


@needs_data
def test_the_published_files_become_the_rows_that_a_reader_would_write(tmp_path):
    llama = parsed(HARNESS / "lm-eval-0.3/meta-llama-Llama-2-7b.json").rows
    assert len(llama) == 20
    assert {row["declared_model"] for row in llama} == {"meta-llama/Llama-2-7b-hf"}
    file_results = values(llama)
    assert file_results["arc_challenge", "acc_norm"] == 0.4616040955631399
    assert file_results["lambada_openai", "perplexity"] == 3.3970918836338027
    assert {path.stem: len(parsed(path).rows) for path in sorted((HARNESS / "lm-eval-0.3").glob("*.json"))} == {
        "EleutherAI-pythia-2.8b-deduped": 20,
        "bigscience-bloom-3b": 18,
        "facebook-opt-6.7b": 18,
        "meta-llama-Llama-2-7b": 20,
        "stablelm-3b-4e1t": 18,
    }
    (new,) = (HARNESS / "lm-eval-0.4").glob("results_*.json")
    rows = parsed(new).rows
    assert values(rows) == {("math_perturbed_full", "exact_match"): 0.0, ("math_rephrased_full", "exact_match"): 0.0004}
    assert {(row["n_samples"], row["n_shot"], row["harness_version"], row["hardware"]) for row in rows} == {
        (5000, 0, "0.4.9.2", "NVIDIA A100-SXM4-80GB")
    }
    assert rows[1]["stderr"] == 0.0002828144211304471
    gpt = parsed(HARNESS / "lighteval/openai/gpt-5.2/results_2025-12-12T15-11-59.471879.json").rows
    assert [(row["task"], row["metric"], row["higher_is_better"], row["is_group"]) for row in gpt][:4] == [
        ("lexam-en-idk", "trad_score", True, False),
        ("lexam-en-idk", "idk_score", True, False),
        ("lexam-en-idk", "idk_freq", False, False),
        ("lexam-en-idk", "extract_fail", False, False),
    ]
    assert str(gpt[0]["run_at"]) == "2025-12-12 15:11:59.471879+00:00"
    helm = parsed(HARNESS / "helm/mmlu-philosophy-gpt2/stats.json").rows
    assert [(row["split"], row["value"]) for row in helm if row["metric"] == "exact_match" and "pert" not in row["subset"]] == [
        ("test", 0.1111111111111111),
        ("valid", 0.0),
    ]
    assert {(row["declared_model"], row["n_shot"], row["sample_limit"]) for row in helm} == {("openai/gpt2", 5, 10.0)}


@needs_data
def test_secrets_environments_and_samples_never_reach_a_table(tmp_path):
    report = lh.ingest(HARNESS / "lighteval", warehouse=tmp_path / "w")
    report = lh.ingest(HARNESS / "lm-eval-0.4", warehouse=tmp_path / "w")
    assert report.count("failed") == 0
    with lh.open(tmp_path / "w") as wh:
        text = str(wh.sql("SELECT * FROM results").to_dicts())
        assert "api_key" not in text
        assert "base_url" not in text
        assert "nvidia-cublas" not in text
        assert wh.sql("SELECT count(*) FROM results WHERE source_uri LIKE '%samples_%'").item() == 0


# Logs


@pytest.mark.parametrize(
    ("name", "text", "harness", "expected"),
    [
        (
            "wanda.log",
            "layer 3 sparsity 0.500000\nsparsity sanity check 0.5000\nevaluating on wikitext\nwikitext perplexity 7.26\n",
            "wanda",
            {("model_info", "sparsity"): 0.5, ("wikitext2", "perplexity"): 7.26},
        ),
        (
            "log_wanda.txt",
            "method\tactual_sparsity\tppl_test\nwanda\t0.5000\t7.2600\n",
            "wanda",
            {("model_info", "sparsity"): 0.5, ("wikitext2", "perplexity"): 7.26},
        ),
        (
            "sparsegpt.log",
            "Dataset: wikitext2\nEvaluating ...\nPerplexity: 12.345678\nptb\nPerplexity: nan\n",
            "sparsegpt",
            {("wikitext2", "perplexity"): 12.345678, ("ptb", "perplexity"): None},
        ),
        (
            "slice.log",
            "Original ppl: 5.4700\nSliced model parameters: 5,292,000 (sliced fraction 0.2145)\n"
            "After rotating and slicing 6.8600\n",
            "slicegpt",
            {(None, "perplexity"): 6.86, ("model_info", "params"): 5292000.0, ("model_info", "sliced_fraction"): 0.2145},
        ),
        (
            "training.log",
            "2023-05-20 12:00:00 - INFO :       #Param before: 6738415616, #Param after: 5422977024, Ratio = 80.4785%\n"
            "2023-05-20 12:00:01 - INFO :       PPL after pruning: {'wikitext2': 12.6, 'ptb': 44.1}\n",
            "llm_pruner",
            {
                ("model_info", "params_before"): 6738415616.0,
                ("model_info", "params"): 5422977024.0,
                ("model_info", "kept_fraction"): 0.804785,
                ("wikitext2", "perplexity"): 12.6,
                ("ptb", "perplexity"): 44.1,
            },
        ),
        (
            "flap.txt",
            "sparsity sanity check 0.8000\nmodel parameter 5.07B\nppl on wikitext 17.0\n",
            "flap",
            {("model_info", "kept_fraction"): 0.8, ("model_info", "params"): 5.07e9, ("wikitext2", "perplexity"): 17.0},
        ),
    ],
)
def test_lines_of_logs(tmp_path, name, text, harness, expected):
    rows = parse(tmp_path, name, text).rows
    assert {row["harness"] for row in rows} == {harness}
    assert values(rows) == expected
    perplexities = [row for row in rows if row["metric"] == "perplexity"]
    assert all((row["seq_len"], row["unit"]) == (None, "per_token") for row in perplexities)


@pytest.mark.parametrize("name", ["merges.txt", "vocab.txt", "requirements.txt", "samples_a.jsonl", "x.pytorch.json", "a.py"])
def test_what_stands_beside_is_not_looked_at(name):
    assert not may_be_result(Path(name))


# Speed


def test_rates_are_named_by_what_they_count(tmp_path):
    serve = {"date": "20260131-120000", "model_id": "m", "duration": 10.0, "completed": 4, "request_throughput": 0.4}
    serve |= {
        "output_throughput": 100.0,
        "total_token_throughput": 300.0,
        "mean_ttft_ms": 12.5,
        "request_rate": "inf",
        "ttfts": [1],
    }
    rows = parse(tmp_path, "serve.json", serve).rows
    assert {row["metric"]: (row["value"], row["unit"]) for row in rows} == {
        "requests_per_sec": (0.4, "req/s"),
        "output_tokens_per_sec": (100.0, "tok/s"),
        "total_tokens_per_sec": (300.0, "tok/s"),
        "mean_ttft_ms": (12.5, "ms"),
    }
    assert {(row["declared_model"], row["subset"], str(row["run_at"])) for row in rows} == {
        ("m", "rate=inf", "2026-01-31 12:00:00+00:00")
    }
    plain = {"elapsed_time": 10.0, "num_requests": 2, "total_num_tokens": 1000, "tokens_per_second": 100.0}
    assert parse(tmp_path, "a.json", plain).rows[0]["metric"] == "total_tokens_per_sec"
    output = {"elapsed_time": 10.0, "total_num_tokens": 1000, "total_output_tokens": 400, "tokens_per_second": 40.0}
    assert parse(tmp_path, "b.json", output).rows[0]["metric"] == "output_tokens_per_sec"
    custom = {"elapsed_time": 10.0, "tokens_per_second": 55.0, "latency_ms": 18.0, "batch_size": 4}
    rows = parse(tmp_path, "c.json", custom).rows
    assert [(row["metric"], row["value"], row["batch_size"]) for row in rows] == [
        ("tokens_per_sec", 55.0, 4),
        ("latency_ms", 18.0, 4),
    ]
    assert "does not say which tokens" in rows[0]["notes"][0]["text"]
    (row,) = parse(tmp_path, "d.json", plain | {"elapsed_time": 0}).rows
    assert (row["status"], row["value"], row["notes"][0]["code"]) == ("missing", None, "zero_time")


def test_runs_that_were_appended_to_one_file_are_all_taken(tmp_path):
    serve = {"model_id": "m", "duration": 10.0, "request_throughput": 0.5}
    lines = "\n".join(json.dumps(serve | {"output_throughput": 100.0 * n, "max_concurrency": n}) for n in (1, 8))
    rows = [row for row in parse(tmp_path, "serve.json", lines).rows if row["metric"] == "output_tokens_per_sec"]
    assert [(row["subset"], row["value"]) for row in rows] == [("concurrency=1", 100.0), ("concurrency=8", 800.0)]
    with pytest.raises(InputError, match="line 2 is no JSON"):
        parse(tmp_path, "cut.json", '{"a": 1}\n{"a": }\n')
    with pytest.raises(InputError, match="cut off"):
        parse(tmp_path, "cut.json", '{\n"a": {"b": 1}\n')


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "results.json")
    with pytest.raises(InputError, match="not a regular file"):
        read_document(tmp_path / "results.json", "results.json")


def test_lines_of_objects_have_the_limits_of_a_document(tmp_path):
    (tmp_path / "results.json").write_text('{"a": 1}\n{"a": [' + "[]," * 100 + "[]]}\n")
    assert len(read_document(tmp_path / "results.json", "results.json")[1]) == 2
    with mock.patch.object(documents, "MAX_CONTAINERS", 100), pytest.raises(InputError, match="lists and objects"):
        read_document(tmp_path / "results.json", "results.json")


def test_genai_perf_reports(tmp_path):
    report = {
        "request_throughput": {"unit": "requests/sec", "avg": 0.8},
        "output_token_throughput": {"unit": "tokens/sec", "avg": 52.5},
        "time_to_first_token": {"unit": "ms", "avg": 195.0, "p50": 175.0, "p99": 253.0, "std": 46.0},
        "request_latency": {"unit": "s", "avg": 2.5},
        "inter_token_latency": {"unit": "ticks", "avg": 9.0},
        "output_sequence_length": {"unit": "tokens", "avg": 64.0},
        "start_time": "2026-06-13T05:11:41",
        "input_config": {
            "model_names": ["org/m"],
            "endpoint": {"api_key": "secret", "urls": ["http://host"]},
            "perf_analyzer": {"stimulus": {"concurrency": 4}},
        },
    }
    file_results = parse(tmp_path, "profile_export_genai_perf.json", report)
    assert {row["metric"]: (row["value"], row["unit"]) for row in file_results.rows} == {
        "requests_per_sec": (0.8, "req/s"),
        "output_tokens_per_sec": (52.5, "tok/s"),
        "mean_ttft_ms": (195.0, "ms"),
        "median_ttft_ms": (175.0, "ms"),
        "p99_ttft_ms": (253.0, "ms"),
        "mean_e2el_ms": (2500.0, "ms"),
    }
    assert {(row["declared_model"], row["subset"], row["harness"], str(row["run_at"])) for row in file_results.rows} == {
        ("org/m", "concurrency=4,output=~64", "genai_perf", "2026-06-13 05:11:41+00:00")
    }
    assert file_results.left_out == (
        "inter_token_latency.avg: no number with a unit of time",
        "std: statistics of rates and times that are passed over",
        "output_sequence_length: lengths, counts and other measures are passed over",
    )
    assert "secret" not in repr(file_results)
    del report["input_config"]
    folder = tmp_path / "m-concurrency16"
    folder.mkdir()
    assert parse(folder, "profile_export_aiperf.json", report).rows[0]["subset"] == "concurrency=16,output=~64"


@pytest.mark.parametrize(
    ("unit", "milliseconds"), [("ns", 0.0025), ("us", 2.5), ("ms", 2500.0), ("s", 2_500_000.0), ("sec", 2_500_000.0)]
)
def test_genai_perf_times_are_converted_to_milliseconds(tmp_path, unit, milliseconds):
    times = {key: {"unit": unit, "avg": 2500, "p99": 2500.0} for key in ("time_to_first_token", "inter_token_latency")}
    rows = parse(tmp_path, "profile.json", {"request_throughput": {"avg": 1.0}} | times).rows
    assert {row["metric"]: (row["value"], row["unit"], row["higher_is_better"]) for row in rows if "_ms" in row["metric"]} == {
        name: (pytest.approx(milliseconds, rel=1e-12), "ms", False)
        for name in ("mean_ttft_ms", "p99_ttft_ms", "mean_itl_ms", "p99_itl_ms")
    }


def test_llama_bench_and_optimum_benchmark(tmp_path):
    runs = [
        {
            "avg_ts": 900.0,
            "avg_ns": 5,
            "n_prompt": 512,
            "n_gen": 0,
            "model_filename": "m.gguf",
            "gpu_info": "H100",
            "build_commit": "ab",
        },
        {
            "avg_ts": 80.0,
            "avg_ns": 5,
            "n_prompt": 0,
            "n_gen": 128,
            "model_filename": "m.gguf",
            "gpu_info": "",
            "cpu_info": "EPYC",
        },
    ]
    rows = parse(tmp_path, "bench.json", runs).rows
    assert [(row["metric"], row["value"], row["hardware"], row["subset"]) for row in rows] == [
        ("prefill_tokens_per_sec", 900.0, "H100", "prompt=512,generated=0"),
        ("decode_tokens_per_sec", 80.0, "EPYC", "prompt=0,generated=128"),
    ]
    lines = "\n".join(json.dumps(run) for run in runs)
    assert [row["value"] for row in parse(tmp_path, "bench.jsonl", lines).rows] == [900.0, 80.0]
    report = {
        "decode": {
            "throughput": {"unit": "tokens/s", "value": 50.0},
            "latency": {"unit": "s", "mean": 0.02, "p99": 0.03, "values": [1, 2]},
            "memory": {"unit": "MB", "max_allocated": 1000.0, "max_ram": None},
        },
        "load_model": {"latency": None, "memory": None},
    }
    (tmp_path / "benchmark_config.json").write_text(
        '{"backend": {"model": "org/m"}, "scenario": {"input_shapes": {"batch_size": 2}}}'
    )
    rows = parse(tmp_path, "benchmark_report.json", report).rows
    assert {row["metric"]: (row["value"], row["unit"], row["suite"]) for row in rows} == {
        "decode_throughput": (50.0, "tokens/s", "speed"),
        "decode_latency_mean": (0.02, "s", "speed"),
        "decode_latency_p99": (0.03, "s", "speed"),
        "decode_max_allocated": (1000.0, "MB", "memory"),
    }
    assert {(row["declared_model"], row["batch_size"]) for row in rows} == {("org/m", 2)}


# Tables


def test_plain_tables_long_and_wide(tmp_path):
    long = "model,task,metric,value,stderr,n_shot\na,piqa,acc,0.75,0.01,0\nb,piqa,acc,nan,,\nb,,acc,1,,\n"
    file_results = parse(tmp_path, "long.csv", long)
    assert [
        (row["declared_model"], row["value"], row["status"], row["stderr"], row["n_shot"]) for row in file_results.rows
    ] == [
        ("a", 0.75, "ok", 0.01, 0),
        ("b", None, "nan", None, None),
    ]
    assert file_results.left_out == ("line 4: model, task and metric must be text",)
    wide = [{"model": "a", "piqa/acc": 0.75, "perplexity:wikitext2@2048": 5.5}, {"model": "b", "perplexity:wikitext2@2048": 7}]
    rows = parse(tmp_path, "wide.json", wide).rows
    assert [(row["declared_model"], row["metric"], row["value"], row["seq_len"], row["unit"]) for row in rows] == [
        ("a", "acc", 0.75, None, "fraction"),
        ("a", "perplexity", 5.5, 2048, "per_token"),
        ("b", "perplexity", 7.0, 2048, "per_token"),
    ]


def test_opencompass_summaries_are_unpivoted_and_made_fractions(tmp_path):
    text = "dataset,version,metric,mode,model-a,model-b\npiqa,1194eb,accuracy,ppl,75.50,-\n"
    text += "bleu_set,ab12cd,bleu,gen,-,31.20\n-,-,-,-,-,-\n"
    rows = parse(tmp_path, "summary_20240131_120000.csv", text).rows
    assert [(row["declared_model"], row["task"], row["value"], row["unit"], row["subset"]) for row in rows] == [
        ("model-a", "piqa", 0.755, "fraction", "ppl,version=1194eb"),
        ("model-b", "bleu_set", 31.2, None, "gen,version=ab12cd"),
    ]
    assert str(rows[0]["run_at"]) == "2024-01-31 12:00:00+00:00"


@pytest.mark.parametrize("content", [{"a": 1}, [], [1], {"results": {"a": {"acc": 1}}}, "", "a,b\n1,2\n", "model,other\nx,1\n"])
def test_what_is_no_result_is_none(tmp_path, content):
    path = tmp_path / ("a.csv" if isinstance(content, str) else "a.json")
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    assert recognise(read_document(path, "a")[1], path) is None


# Nothing is dropped


def counted(file_results, entries):
    assert len(file_results.rows) + len(file_results.left_out) == entries


def entries_of_lm_eval(document):
    keys = [key for result in document["results"].values() for key in result]
    errors = [key for result in document["results"].values() for key in result if "_stderr" in key]
    return len(keys) - len(errors) - sum(key in ("alias", "name", "sample_len", "sample_count", " ") for key in keys)


@needs_data
@pytest.mark.parametrize("folder", ["lm-eval-0.3", "lm-eval-0.4", "lighteval"])
def test_of_the_published_files_every_number_is_a_row_or_named(folder):
    files = [path for path in sorted((HARNESS / folder).rglob("*.json")) if may_be_result(path)]
    assert files
    for path in files:
        document = json.loads(path.read_text())
        counted(parsed(path), entries_of_lm_eval(document))


@needs_data
def test_of_the_published_statistics_every_one_is_a_row_or_counted():
    path = HARNESS / "helm/mmlu-philosophy-gpt2/stats.json"
    file_results = parsed(path)
    passed = [int(line.split(": ")[1].split()[0]) for line in file_results.left_out if "passed over" in line]
    others = [line for line in file_results.left_out if "passed over" not in line]
    assert len(file_results.rows) + sum(passed) + len(others) == len(json.loads(path.read_text()))


AWKWARD = [
    0.5,
    0,
    1,
    "0.5",
    "nan",
    "N/A",
    "",
    None,
    True,
    [],
    [1],
    {},
    {"mean": 1},
    float("nan"),
    float("inf"),
    10**400,
    -1e308,
]


def test_of_awkward_values_every_one_is_a_row_or_named(tmp_path):
    results = {f"task{place}": {"acc,none": value, "f1,strict": value} for place, value in enumerate(AWKWARD)}
    counted(parse(tmp_path, "results.json", lm_eval(results)), 2 * len(AWKWARD))
    light = {f"suite|task{place}|0": {"acc": value} for place, value in enumerate(AWKWARD)} | {"no form": {"acc": 1.0}}
    counted(parse(tmp_path, "light.json", {"config_general": {"model_name": "m"}, "results": light}), len(AWKWARD) + 1)
    zeroshot = {f"task{place}": {"accuracy": value} for place, value in enumerate(AWKWARD)}
    counted(parse(tmp_path, "native.json", {"metrics": {"zeroshot": zeroshot}}), len(AWKWARD))
    lines = [{"model": "m", "task": f"t{place}", "metric": "acc", "value": value} for place, value in enumerate(AWKWARD)]
    counted(parse(tmp_path, "table.json", lines), len(AWKWARD))
    serve = {"duration": 1.0, "request_throughput": 1.0} | {f"p{place}_ttft_ms": v for place, v in enumerate(AWKWARD)}
    counted(parse(tmp_path, "serve.json", serve), len(AWKWARD) + 1)


def test_what_a_table_or_a_log_has_too_much_of_is_named(tmp_path):
    file_results = parse(tmp_path, "a.csv", "model,task,metric,value\nm,t,acc,0.5,0.25\n")
    assert [row["value"] for row in file_results.rows] == [0.5]
    assert file_results.left_out == ("line 2: more cells than the header names",)
    file_results = parse(tmp_path, "wanda.log", "wikitext perplexity 9.5\nwikitext perplexity 7.5\n")
    assert [row["value"] for row in file_results.rows] == [7.5]
    assert file_results.left_out == ("wikitext2 perplexity: stated 2 times, the last counts",)
    serve = {"duration": 1.0, "request_throughput": 1.0, "max_output_tokens_per_s": 9.0, "note": "text"}
    assert parse(tmp_path, "serve.json", serve).left_out == ("max_output_tokens_per_s: not known",)


# Files that no tool writes


MALFORMED = {
    "group_of_a_number.json": lm_eval({"a": {"acc,none": 0.5}, "g": {}}, group_subtasks={"g": 3, "h": ["g", 7]}),
    "limit.json": lm_eval({"a": {"acc,none": 0.5}}) | {"config": {"limit": 10**400}},
    "light.json": {
        "config_general": {"max_samples": 10**400},
        "config_tasks": {"t|0": {"metrics": [{"metric_name": [{"a": 1}, ["b"]], "higher_is_better": {"a": True}}]}},
        "results": {"t|0": {"acc": 0.5}},
    },
    "throughput.json": {"elapsed_time": 10**400, "tokens_per_second": 2.5, "total_num_tokens": 10**400},
    "serve.json": {"date": "20269999-120000", "duration": 1.0, "request_throughput": 2.5},
    "genai.json": {
        "request_throughput": {"avg": 2.5},
        "request_latency": {"unit": "s", "avg": 10**400},
        "input_config": {"request_rate": 10**400},
    },
    "optimum.json": {"decode": {"throughput": {"value": 2.5, "unit": ["tok/s"]}, "latency": {"mean": 1.0, "unit": {"a": 1}}}},
    "table.json": [{"model": "m", "task": "t", "metric": "acc", "value": 0.5, "n_shot": float("nan"), "seq_len": float("inf")}],
    "flap.txt": "model parameter 5.0.7B\nppl on wikitext 2.5\n",
    "pruner.log": "#Param before: 7, #Param after: 5, Ratio = 8.0.4%\nPPL after pruning: {1, 2}\nPPL after pruning: {[]: 2}\n",
    "slice.log": f"Sliced model parameters: {'9' * 1000} (sliced fraction 0.2)\nThroughput: 1.2.3 token/s\n",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_number_or_name_costs_no_more_than_itself(tmp_path, name):
    file_results = parse(tmp_path, name, MALFORMED[name])
    table_of(file_results.rows)
    values_and_lines = [row["value"] for row in file_results.rows], file_results.left_out
    assert (
        values_and_lines
        == {
            "group_of_a_number.json": ([0.5], ("results.g: a group without a score, some of whose members are not there",)),
            "limit.json": ([0.5], ()),
            "light.json": ([0.5], ()),
            "throughput.json": ([2.5], ()),
            "serve.json": ([2.5], ()),
            "genai.json": ([2.5, None], ()),
            "optimum.json": ([2.5, 1.0], ()),
            "table.json": ([], ("line 1: n_shot must be a whole number, not nan",)),
            "flap.txt": ([2.5], ("line 1: must be a number, not '5.0.7'",)),
            "pruner.log": (
                [7.0, 5.0],
                (
                    "line 1: must be a number, not '8.0.4'",
                    "line 2: no dictionary of numbers",
                    "line 3: no dictionary of numbers",
                ),
            ),
            "slice.log": (
                [0.2],
                (f"line 1: must be a number, not '{'9' * 79}", "line 2: must be a number, not '1.2.3'"),
            ),
        }[name]
    )


def table_of(rows):
    """The rows as an Arrow table: each fits the types of its columns, and each has a measure_id."""
    added = {"result_id": "r", "source_uri": "s", "commit_id": "c", "ingested_at": datetime(2026, 1, 1, tzinfo=UTC)}
    complete = [{**row, **added, "measure_id": measure_id(row)} for row in rows]
    table = pa.Table.from_pylist(complete, schema=arrow_schema("results"))
    table.validate(full=True)
    return table


def test_groups_that_hold_each_other_have_their_tasks_once(tmp_path):
    depth = 2000
    chain = {f"g{level}": [f"g{level + 1}", f"g{level + 1}", f"g{level - 1}"] for level in range(1, depth)}
    subtasks = {"g0": ["g1", "a"], **chain, f"g{depth}": ["b", "a", "g0"]}
    samples = {name: {"effective": 10} for name in ("a", "b")}
    document = lm_eval({"g0": {}, "a": {"acc": 0.5}, "b": {"acc": 0.25}}, **{"group_subtasks": subtasks, "n-samples": samples})
    rows = {row["task"]: row for row in parse(tmp_path, "results.json", document).rows}
    assert (rows["g0"]["value"], rows["g0"]["n_samples"]) == (0.375, 20)


def test_a_text_with_a_line_too_long_for_a_table_is_none_and_costs_the_ingest_nothing(tmp_path):
    long = "x" * (csv.field_size_limit() + 1)
    (tmp_path / "notes.txt").write_text(f"{long}\n")
    assert recognise(read_document(tmp_path / "notes.txt", "notes.txt")[1], tmp_path / "notes.txt") is None
    file_results = parse(tmp_path, "a.csv", f"model,task,metric,value\na,t,acc,0.5\nb,{long},acc,0.5\nc,t,acc,0.5\n")
    assert [row["declared_model"] for row in file_results.rows] == ["a"]
    (line,) = file_results.left_out
    assert line.startswith("line 3: it and those after it cannot be read: field larger than field limit")


def test_a_time_that_is_none_leaves_a_line_of_a_table_the_time_of_the_file(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    os.utime(tmp_path / "elsewhere", (1e9, 1e9))
    monkeypatch.chdir(tmp_path / "elsewhere")
    path = tmp_path / "a.csv"
    path.write_text("model,task,metric,value,run_at\na,t,acc,0.5,2025-01-31T12:00:00\nb,t,acc,0.5,yesterday\n")
    os.utime(path, (1.7e9, 1.7e9))
    times = [str(row["run_at"]) for row in parsed(path).rows]
    assert times == ["2025-01-31 12:00:00+00:00", "2023-11-14 22:13:20+00:00"]


@pytest.mark.parametrize("extra", [0, 1])
def test_a_table_is_read_to_its_limit_and_says_where_it_goes_on(tmp_path, monkeypatch, extra):
    monkeypatch.setattr(table_lines, "MAX_ROWS", 3)
    lines = [{"model": "m", "task": f"t{number}", "metric": "acc", "value": 0.5} for number in range(3 + extra)]
    text = "model,task,metric,value\n" + "\n".join(f"m,t{number},acc,0.5" for number in range(3 + extra))
    for name, content in (("a.json", lines), ("a.csv", text)):
        file_results = parse(tmp_path, name, content)
        assert [row["task"] for row in file_results.rows] == ["t0", "t1", "t2"]
        assert file_results.left_out == ("lines: those after the first 3 are not read",) * extra


def test_of_a_long_log_only_lines_with_words_of_a_tool_are_looked_at(tmp_path):
    text = "".join(f"step {number}\r\n" for number in range(1000)) + "wikitext perplexity 7.5\nPerplexity\n"
    lines = find_lines(text, lower_case(text), (" perplexity ", "\nstep 99", "\nstep 0"), most=5)
    numbers = [
        (1, "step 0"),
        (100, "step 99"),
        *((991 + at, f"step 99{at}") for at in range(4)),
        (1001, "wikitext perplexity 7.5"),
    ]
    assert lines == [(f"line {number}", line) for number, line in numbers]
    assert [row["value"] for row in parse(tmp_path, "wanda.log", text).rows] == [7.5]


def test_capital_letters_that_grow_when_made_small_do_not_shift_lines(tmp_path):
    text = "\u0130" * 100 + "\nİwikitext PERPLEXITY 7.5\n"
    (row,) = parse(tmp_path, "wanda.log", text).rows
    assert (row["value"], row["dataset"]) == (7.5, "i\u0307wikitext")


def test_of_a_line_too_long_the_part_around_a_result_is_read_and_named(tmp_path):
    file_results = parse(tmp_path, "wanda.log", "x" * 9000 + " wikitext perplexity 7.5\n")
    assert [row["value"] for row in file_results.rows] == [7.5]
    (line,) = file_results.left_out
    assert line == "line 1, in part: only 4,096 characters around a result's words are read"
    cut = f"Original ppl: 5.5\nSliced model parameters: {'9' * 5000} (sliced fraction 0.2)\n"
    file_results = parse(tmp_path, "slice.log", cut)
    assert [row["value"] for row in file_results.rows] == [5.5]
    assert file_results.left_out == ("line 2, in part: only 4,096 characters around a result's words are read",)


def test_a_log_with_more_results_than_the_limit_is_refused_since_its_last_would_not_count(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "MAX_LINES", 3)
    lines = "".join(f"wikitext perplexity {number}\n" for number in range(4))
    assert [row["value"] for row in parse(tmp_path, "wanda.log", lines[: lines.rindex("wiki")]).rows] == [2.0]
    with pytest.raises(InputError, match="limit exceeded: lines of results, over 3; --limit-factor raises it"):
        parse(tmp_path, "wanda.log", lines)


@pytest.mark.parametrize(
    ("name", "first", "more"),
    [
        ("a.log", "loss 1.5\n", "wikitext perplexity 7.5\n"),
        ("a.csv", "model,task,metric,value\n", "a,piqa,acc,0.5\n"),
        ("a.jsonl", '{"model": "a", "task": "piqa", "metric": "acc", "value": 0.5}\n', "{}\n"),
    ],
)
def test_a_text_over_the_limit_is_named_if_it_looks_like_results(tmp_path, monkeypatch, name, first, more):
    monkeypatch.setattr(documents, "MAX_TEXT_BYTES", 1000)
    monkeypatch.setattr(documents, "END_BYTES", 500)
    with pytest.raises(InputError, match="limit exceeded: bytes of a text file, over 1000; --limit-factor raises it"):
        parse(tmp_path, name, first * 40 + more * 100)
    (tmp_path / name).write_text("{}\n" * 1000)
    assert recognise(read_document(tmp_path / name, name)[1], tmp_path / name) is None


@pytest.mark.parametrize("end", ["\r", "\r\n", "\n"])
def test_tables_with_the_line_ends_of_any_system_are_read(tmp_path, end):
    path = tmp_path / "a.csv"
    text = f'model,task,metric,value{end}a,piqa,acc,0.5{end}"b{end}c",piqa,acc,0.25{end}'
    path.write_bytes(text.encode())
    assert [(row["declared_model"], row["value"]) for row in parsed(path).rows] == [("a", 0.5), (f"b{end}c", 0.25)]


@pytest.mark.parametrize("text", [",a/b" * 20_000, "model" + ",a/b" * 300_000, "\t" * 2_000_000])
def test_a_line_of_very_many_cells_is_no_header(text):
    assert table_lines.read_header(text) is None


@pytest.mark.parametrize("text", ["x" * 200_000, "ppl on " * 20_000, "PPL before " * 20_000, "1," * 100_000])
def test_a_long_line_of_text_is_searched_in_linear_time(text):
    start = time.process_time()
    assert not logs.recognises(text, Path("notes.txt"))
    assert time.process_time() - start < 5  # 0.05 s; quadratic time is minutes


def test_half_of_a_surrogate_pair_in_a_line_is_no_json(tmp_path):
    text = json.dumps({"model": "a\ud800", "task": "t", "metric": "acc", "value": 0.5})
    with pytest.raises(InputError, match="line 2 is no JSON"):
        parse(tmp_path, "a.jsonl", '{"model": "b"}\n' + text)


@pytest.mark.parametrize("name", ["a.csv", "results.json", "wide.csv"])
def test_a_file_of_more_numbers_than_the_limit_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setattr(parsed_results_of_a_file, "MAX_ROWS", 10)
    contents = {
        "a.csv": lambda count: "model,task,metric,value\n" + "".join(f"m,t{place},acc,0.5\n" for place in range(count)),
        "results.json": lambda count: lm_eval({f"t{place}": {"acc": 0.5} for place in range(count)}),
        "wide.csv": lambda count: "model," + ",".join(f"t{place}/acc" for place in range(count)) + "\nm" + ",0.5" * count,
    }
    assert len(parse(tmp_path, name, contents[name](10)).rows) == 10
    with pytest.raises(InputError, match="limit exceeded: 11 numbers in one file, over 10; --limit-factor raises it"):
        parse(tmp_path, name, contents[name](11))


def test_very_many_places_that_are_left_out_are_counted(tmp_path):
    lines = parse(tmp_path, "a.csv", "model,task,metric,value\n" + "m,,acc,0.5\n" * 1500 + "m,t,acc,0.5\n").left_out
    assert (len(lines), lines[999], lines[-1]) == (
        1001,
        "line 1001: model, task and metric must be text",
        "and 500 more places: left out as well",
    )
