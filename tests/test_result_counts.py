"""Every number of a result file is a row, a line on what was left out, or counted in one, by a parse by hand of each form; and
the published files give the values that they gave before their runs and measures were told apart."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from layerhouse.ingest.results.documents import may_be_result, read_document
from layerhouse.ingest.results.registry import FORMATS, recognise
from layerhouse.tests.test_result_formats import parsed

HARNESS = Path(__file__).parents[2] / "shared/data/harness"
needs_data = pytest.mark.skipif(not HARNESS.is_dir(), reason="the published result files are not here")

Leaves = list[tuple[str, float]]
"""Places and values of the numbers of a document."""


def leaves_of(document: Any, place: str = "") -> Leaves:
    """Every number of a document, booleans apart, with its place."""
    if isinstance(document, dict):
        return [leaf for key, value in document.items() for leaf in leaves_of(value, f"{place}/{key}")]
    if isinstance(document, list):
        return [leaf for number, value in enumerate(document) for leaf in leaves_of(value, f"{place}/{number}")]
    is_number = isinstance(document, int | float) and not isinstance(document, bool)
    return [(place, float(document))] if is_number else []


def refused(lines: tuple[str, ...]) -> int:
    """How many numbers the lines on what was left out stand for: a count at the begin, names apart by commas, or one."""
    total = 0
    for line in lines:
        place, _, reason = line.partition(": ")
        count = re.match(r"(\d+) of ", reason)
        total += int(count[1]) if count else place.count(", ") + 1
    return total


# What a reader would not count among the results: settings, counts, errors and times, by form.
NO_RESULTS = {
    "native": r"/metrics/zeroshot/\w+/(full_results/)?\w+_stderr,\w+|.*/(n_samples|n_shot)",
    "lm_eval": r"/(config|configs|n-shot|n-samples|versions|date).*|/results/\w+/(\w+_stderr(,[\w-]+)?|sample_len)",
    "lighteval": r"/(config_general|config_tasks|summary_tasks|summary_general|versions).*|/results/.*_stderr",
    "helm": r"/\d+/(count|sum|sum_squared|min|max|variance|stddev)|/\d+/name/.*",
    "vllm": r"/(duration|completed|failed|num_prompts|request_rate|burstiness|max_concurrency|total_\w+_tokens)|/ttfts.*",
    "sglang": r"/(duration|completed|max_concurrency|random_\w+|request_rate|total_\w+|concurrency|server_info.*)",
    "genai_perf": r"/input_config/.*|/output_sequence_length/(p50|std)",
    "llama_bench": r"/\d+/(n_\w+|avg_ns|stddev_ns|stddev_ts|samples_ts/\d+|build_number|model_size|main_gpu)",
    "optimum_benchmark": r"/config/.*|/report/\w+/latency/(count|total|values/\d+)|/report/\w+/energy/ram",
    "llmperf": r"/(num_concurrent_requests|mean_input_tokens|stddev_input_tokens|mean_output_tokens|timestamp)",
    "inspect": r"/eval/.*|/results/(total_samples|completed_samples)|.*/metrics/stderr/value|/version",
    "bigcode": r"/config/.*",
    "evalplus": r"^$",
    "simple_evals": r"^$",
    "longbench": r"^$",
    "tables": r"/\d+/(n_shot|n_samples|stderr|seq_len|limit)",
}
DOCUMENTS: dict[str, tuple[str, Any]] = {
    "native": (
        "evaluation_results.json",
        {
            "metrics": {
                "model_info": {"total_params": 100, "module_params": {"mlp": 61, "match": True}},
                "ppl": {"wikitext2 (raw)": 10.5},
                "ppl_2048_512": {"wikitext2 (raw)": 10.5, "ptb": 20.25},
                "avg_zeroshot_acc": 0.61,
                "zeroshot": {
                    "piqa": {"accuracy": 0.75, "full_results": {"acc,none": 0.74, "acc_stderr,none": 0.01, "n_samples": 9}},
                    "boolq": 0.52,
                },
                "efficiency": {
                    "model_info": {"total_params": 101, "num_layers": 3},
                    "speed": {"batch_size_8": {"throughput_tokens_per_sec": 99.5, "total_time_sec": 0}},
                    "memory": {"model_memory_mb": 1000},
                },
                "other": 5,
            }
        },
    ),
    "lm_eval": (
        "results.json",
        {
            "results": {
                "arc_easy": {"acc,none": 0.5, "acc_stderr,none": 0.01, "f1,strict": 0.25, "sample_len": 7},
                "ruler": {"4096,none": 0.75, "8192,none": -1},
                "broken": 3,
            },
            "groups": {"mmlu": {"acc,none": 0.26}},
            "versions": {"arc_easy": 1},
            "configs": {"arc_easy": {"num_fewshot": 5}},
            "n-shot": {"arc_easy": 5},
            "n-samples": {"arc_easy": {"original": 100, "effective": 90}},
            "config": {"limit": 90, "num_fewshot": 0},
            "date": 1768478400.5,
        },
    ),
    "lighteval": (
        "results.json",
        {
            "config_general": {"max_samples": 10, "model_config": {"batch_size": 4}},
            "results": {
                "leaderboard|arc:challenge|25": {"acc": 0.5, "acc_stderr": 0.01},
                "mmlu:_average|5": {"acc": 0.3},
                "all": {"acc": 0.4},
                "no form": {"acc": 0.6},
            },
        },
    ),
    "helm": (
        "stats.json",
        [
            {"name": {"name": "exact_match", "split": "test"}, "count": 3, "sum": 1.5, "mean": 0.5, "stddev": 0.1},
            {"name": {"name": "num_prompt_tokens", "split": "test"}, "count": 3, "mean": 100.0},
            {"name": {"name": "num_output_tokens", "split": "test"}, "count": 3, "mean": 10.0},
            {"name": {"name": "f1_score", "split": "valid"}, "count": 3, "mean": 0.25},
            {
                "name": {"name": "f1_score", "split": "test", "perturbation": {"name": "x", "prob": 0.5}},
                "count": 1,
                "mean": 0.125,
            },
            {"name": {}, "mean": 0.75},
        ],
    ),
    "vllm": (
        "serve.json",
        {
            "num_prompts": 100,
            "request_rate": 4.5,
            "burstiness": 1.0,
            "max_concurrency": 8,
            "duration": 10.0,
            "completed": 99,
            "failed": 1,
            "total_input_tokens": 1000,
            "total_output_tokens": 500,
            "request_throughput": 9.9,
            "output_throughput": 50.5,
            "mean_ttft_ms": 12.5,
            "std_itl_ms": 3.5,
            "p99_e2el_ms": 8.25,
            "max_output_tokens_per_s": 77.5,
            "ttfts": [0.5, 0.25],
        },
    ),
    "sglang": (
        "sglang.json",
        {
            "max_concurrency": 8,
            "random_input_len": 1024,
            "random_range_ratio": 0.5,
            "request_rate": 2.5,
            "completed": 9,
            "duration": 20.0,
            "total_input_tokens": 9,
            "concurrency": 4.5,
            "server_info": {"tp_size": 4, "port": 30000},
            "request_throughput": 5.5,
            "mean_e2e_latency_ms": 900.5,
            "p95_itl_ms": 12.25,
            "accept_length": 2.75,
            "peak": 3,
        },
    ),
    "genai_perf": (
        "profile.json",
        {
            "request_throughput": {"unit": "requests/sec", "avg": 0.8},
            "time_to_first_token": {"unit": "ms", "avg": 195.5, "p50": 175.5, "p99": 253.5, "std": 46.0, "min": 9.0},
            "output_sequence_length": {"unit": "tokens", "avg": 64.0, "p50": 63.0, "std": 1.0},
            "input_config": {"concurrency": 4},
        },
    ),
    "llama_bench": (
        "bench.json",
        [
            {"avg_ts": 900.5, "stddev_ts": 1.5, "avg_ns": 5, "n_prompt": 512, "n_gen": 0, "samples_ts": [1.5], "n_threads": 8},
            {"avg_ts": 80.25, "n_prompt": 0, "n_gen": 128, "main_gpu": 1, "build_number": 7, "model_size": 9},
        ],
    ),
    "optimum_benchmark": (
        "benchmark.json",
        {
            "config": {"scenario": {"input_shapes": {"batch_size": 2}}},
            "report": {
                "decode": {
                    "throughput": {"unit": "tokens/s", "value": 50.5},
                    "latency": {"unit": "s", "mean": 0.02, "p99": 0.03, "stdev": 0.5, "count": 2, "total": 1, "values": [1, 2]},
                    "memory": {"unit": "MB", "max_allocated": 1000.5, "max_ram": None},
                    "energy": {"unit": "kWh", "total": 0.75, "ram": 0.25},
                },
            },
        },
    ),
    "llmperf": (
        "a_summary.json",
        {
            "num_concurrent_requests": 5,
            "mean_input_tokens": 550,
            "stddev_input_tokens": 10,
            "mean_output_tokens": 150,
            "timestamp": 1700000000,
            "results_mean_output_throughput_token_per_s": 55.5,
            "extra": 4.5,
            "results_inter_token_latency_s_mean": 0.5,
            "results_ttft_s_quantiles_p99": 0.25,
            "results_ttft_s_max": 0.75,
            "results_num_completed_requests": 9,
            "results_number_errors": 1,
            "results_num_completed_requests_per_min": 42.5,
        },
    ),
    "inspect": (
        "log.json",
        {
            "version": 2,
            "status": "success",
            "eval": {"task": "arc", "model": "hf/m", "config": {"limit": 100}},
            "results": {
                "total_samples": 100,
                "completed_samples": 99,
                "scores": [
                    {"name": "a", "metrics": {"accuracy": {"value": 0.5}, "stderr": {"value": 0.05}}},
                    {"name": "b", "metrics": {"mean": {"value": 0.25}, "std": {"value": 0.125}}},
                ],
            },
        },
    ),
    "bigcode": (
        "evaluation_results.json",
        {
            "humaneval": {"pass@1": 0.335, "pass@10": 0.5},
            "conala": {"bleu": 31.25},
            "config": {"model": "m", "temperature": 0.25, "n_samples": 20},
        },
    ),
    "evalplus": (
        "eval_results.json",
        {
            "date": "2026-01-31 12:00",
            "hash": "ab",
            "eval": {"Mbpp/1": []},
            "pass_at_k": {"base": {"pass@1": 0.5, "pass@10": 0.75}, "plus": {"pass@1": 0.25}, "third": 0.125},
        },
    ),
    "simple_evals": ("mmlu_m.json", {"chars": 1523.5, "chars:std": 700.25, "score:std": 0.4, "score": 0.82}),
    "longbench": ("result.json", {"hotpotqa": 31.25, "lcc": {"0-4k": 50.5, "8k+": 40.5}}),
    "tables": (
        "table.json",
        [
            {"model": "a", "task": "piqa", "metric": "acc", "value": 0.75, "stderr": 0.01, "n_shot": 0, "limit": 50},
            {"model": "a", "task": "c4", "metric": "perplexity", "value": 5.5, "seq_len": 2048, "n_samples": 9},
            {"model": "", "task": "piqa", "metric": "acc", "value": 0.25},
        ],
    ),
}
CONVERTED = {"genai_perf": 1.0, "llmperf": 1000.0}
"""Factor of times that a form converts to milliseconds."""


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_number_of_a_document_is_a_row_or_named(tmp_path, name):
    file, document = DOCUMENTS[name]
    (tmp_path / file).write_text(json.dumps(document))
    file_results = parsed(tmp_path / file)
    results = [(place, value) for place, value in leaves_of(document) if not re.fullmatch(NO_RESULTS[name], place)]
    assert len(file_results.rows) + refused(file_results.left_out) == len(results)
    numbers = {value for _, value in results}
    numbers |= {value * CONVERTED.get(name, 1.0) for value in numbers}
    assert {row["value"] for row in file_results.rows if row["value"] is not None} <= numbers


TEXTS: dict[str, tuple[str, str, Callable[[str], int]]] = {
    "opencompass": (
        "summary.csv",
        "dataset,version,metric,mode,a,b\npiqa,1194eb,accuracy,ppl,75.50,-\nx,ab,bleu,gen,many,31.20\n-,-,-,-,-,-\n",
        lambda text: len(re.findall(r"\b\d\d\.\d\d\b|many", text)),
    ),
    "alpaca_eval": (
        "leaderboard.csv",
        ",win_rate,standard_error,n_wins,avg_length\na,10.5,0.5,7,1500\nb,11.5,0.5,,1400\n",
        lambda text: len(re.findall(r"1[01]\.5|1[54]00|n_wins", text)),
    ),
    "logs": (
        "wanda.log",
        "sparsity sanity check 0.5000\nwikitext perplexity 7.26\nwikitext perplexity 7.25\nc4 perplexity 9.5\n",
        lambda text: len(re.findall(r"perplexity|check", text)) - 1,
    ),
    "llama_bench": (
        "bench.csv",
        "avg_ts,n_prompt,n_gen,stddev_ts\n900.5,512,0,1.5\n80.5,many,128,0.5\n",
        lambda text: len(re.findall(r"^\d+\.5,", text, re.MULTILINE)),
    ),
}


@pytest.mark.parametrize("name", TEXTS)
def test_every_number_of_a_text_is_a_row_or_named(tmp_path, name):
    file, text, count = TEXTS[name]
    (tmp_path / file).write_text(text)
    file_results = parsed(tmp_path / file)
    repeats = sum("the last counts" in line for line in file_results.left_out)
    assert len(file_results.rows) + refused(file_results.left_out) - repeats == count(text)


def test_the_documents_are_of_every_format():
    assert {*DOCUMENTS, *TEXTS} == {result_format.name for result_format in FORMATS}


# The published files: rows, and the sum of their values, before runs and measures were told apart. HELM's are those of the
# split `test` without perturbation, which were all that was read.
PUBLISHED = {
    "helm/mmlu-philosophy-gpt2/stats.json": (12, 1.888888888888889),
    "lighteval/anthropic/claude-sonnet-4.5/results_2025-10-09T19-11-04.471542.json": (8, 2.1421647819063003),
    "lighteval/anthropic/claude-sonnet-4.5/results_2025-12-12T20-36-10.749437.json": (8, 2.9111470113085622),
    "lighteval/openai/gpt-5.2/results_2025-12-12T15-11-59.471879.json": (8, 3.350565428109855),
    "lm-eval-0.3/EleutherAI-pythia-2.8b-deduped.json": (20, 14.985322400392945),
    "lm-eval-0.3/bigscience-bloom-3b.json": (18, 17.976401808296444),
    "lm-eval-0.3/facebook-opt-6.7b.json": (18, 14.150487247804794),
    "lm-eval-0.3/meta-llama-Llama-2-7b.json": (20, 15.046465426402627),
    "lm-eval-0.3/stablelm-3b-4e1t.json": (18, 14.453725960625162),
    "lm-eval-0.4/results_2026-01-21T03-44-18.458309.json": (2, 0.0004),
}


def published_rows(path: Path) -> list[dict[str, Any]]:
    rows = [*parsed(path).rows]
    if path.name == "stats.json":
        rows = [row for row in rows if row["split"] == "test" and "perturbation" not in row["subset"]]
    return rows


@needs_data
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_file_gives_the_same_values_as_before(name):
    rows = published_rows(HARNESS / name)
    count, total = PUBLISHED[name]
    assert len(rows) == count
    assert math.fsum(row["value"] for row in rows) == pytest.approx(total, rel=1e-12)
    assert len({(row["task"], row["metric"], row["filter"]) for row in rows}) == count


@needs_data
def test_the_published_files_are_all_looked_at():
    paths = [path for path in sorted(HARNESS.rglob("*")) if path.is_file() and may_be_result(path)]
    read = {str(path.relative_to(HARNESS)) for path in paths if recognise(read_document(path, path.name)[1], path)}
    assert read == PUBLISHED.keys()
    assert len([path for path in HARNESS.rglob("*") if path.is_file()]) == 15


@needs_data
def test_every_number_of_a_published_file_is_a_row_or_counted():
    for name in PUBLISHED:
        path = HARNESS / name
        document = json.loads(path.read_text())
        file_results = parsed(path)
        if path.name == "stats.json":
            results = [statistic.get("mean") for statistic in document]
        else:
            metrics = [(key, value) for task in document["results"].values() for key, value in task.items()]
            results = [value for key, value in metrics if "_stderr" not in key and isinstance(value, int | float)]
        assert len(file_results.rows) + refused(file_results.left_out) == len(results), name
        assert {row["value"] for row in file_results.rows} <= {None if value is None else float(value) for value in results}, (
            name
        )
