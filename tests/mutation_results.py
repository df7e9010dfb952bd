"""A small result file of every format, to be mutated."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layerhouse.errors import InputError
from layerhouse.ingest.declarations.declare import declare
from layerhouse.ingest.results.documents import read_document
from layerhouse.ingest.results.model_lookup import Models, name_alone
from layerhouse.ingest.results.parsed import measure_id
from layerhouse.ingest.results.registry import recognise
from layerhouse.ingest.results.row_check import complete_results
from layerhouse.tests.mutations import Answer, Target, changed_bytes, changed_json, changed_lines, changed_number
from layerhouse.warehouse.storage.rows import rows_to_arrow

JSON_CHANGES = (changed_json, changed_json, changed_json, changed_bytes)
TEXT_CHANGES = (changed_lines, changed_lines, changed_bytes)
MODELS = Models([("models/a", "/models/a"), ("models/b", "/models/b")])


def results_of(path: Path) -> Answer:
    """The rows of a result file and the lines on what was left out; as Arrow takes them, with ids and links made."""
    document = read_document(path, path.name)[1]
    result_format = recognise(document, path)
    if result_format is None:
        raise InputError(path.name, "no result")
    parsed = complete_results(result_format.parse(document, path))
    for row in parsed.rows:
        measure_id(row)
        declared = row["declared_model"]
        MODELS.find(declared, path)
        declare(name_alone(declared or "m"))
    rows_to_arrow("results", parsed.rows)
    assert not any("\n" in line or len(line) > 200 for line in parsed.left_out)
    return parsed


NATIVE = {
    "model_path": "models/a",
    "model_name": "a",
    "timestamp": "2026-01-15T12:00:00",
    "gpu": "H100",
    "metrics": {
        "model_info": {"total_params": 100, "num_layers": 2, "model_size_gb": 1.5, "module_params": {"mlp": 60, "match": True}},
        "ppl": {"wikitext2 (wikitext-2-raw-v1)": 10.0},
        "ppl_2048_512": {"wikitext2 (wikitext-2-raw-v1)": 10.0, "ptb": 20.0},
        "avg_zeroshot_acc": 0.6,
        "zeroshot": {
            "piqa": {
                "accuracy": 0.75,
                "full_results": {"alias": "piqa", "acc,none": 0.75, "acc_stderr,none": 0.01, "sample_len": 100},
            },
            "boolq": 0.5,
        },
        "efficiency": {
            "gpu": "H100",
            "speed": {"batch_size_8": {"throughput_tokens_per_sec": 99.5, "latency_ms_per_token": 1.0}},
            "memory": {"model_memory_mb": 1000},
        },
    },
}
LM_EVAL = {
    "results": {
        "arc_easy": {"alias": "arc", "acc,none": 0.5, "acc_stderr,none": 0.01},
        "b": {"f1,strict": 0.25, "word_perplexity,none": 9.5},
        "group": {" ": " ", "alias": "g"},
    },
    "groups": {"mmlu": {"acc,none": 0.25}},
    "group_subtasks": {"group": ["arc_easy", "b"], "mmlu": ["group"], "arc_easy": []},
    "versions": {"arc_easy": 1},
    "configs": {"arc_easy": {"num_fewshot": 5, "dataset_path": "ai2", "dataset_name": "easy", "test_split": "test"}},
    "n-shot": {"arc_easy": 5, "b": 0},
    "n-samples": {"arc_easy": {"original": 100, "effective": 100}, "b": {"original": 50, "effective": 50}},
    "higher_is_better": {"arc_easy": {"acc": True}},
    "config": {"model_args": "pretrained=models/a,dtype=float16", "limit": 10.0, "num_fewshot": 0, "model_revision": "main"},
    "pretty_env_info": "GPU 0: NVIDIA H100\n",
    "lm_eval_version": "0.4.9",
    "date": 1768478400.5,
    "model_name": "models/a",
}
LIGHTEVAL = {
    "config_general": {"model_name": "models/b", "model_sha": "abc", "max_samples": 10, "model_config": {"model_name": "b"}},
    "config_tasks": {
        "leaderboard|arc:challenge|25": {"metrics": [{"metric_name": ["acc"], "higher_is_better": {"acc": True}}]}
    },
    "results": {
        "leaderboard|arc:challenge|25": {"acc": 0.5, "acc_stderr": 0.01},
        "mmlu:_average|5": {"acc": 0.3},
        "all": {"acc": 0.4},
    },
}
HELM = [
    {"name": {"name": "exact_match", "split": "test"}, "count": 3, "sum": 1.5, "mean": 0.5},
    {"name": {"name": "num_prompt_tokens", "split": "test"}, "count": 3, "mean": 100.0},
    {"name": {"name": "f1_score", "split": "valid"}, "count": 3, "mean": 0.5},
    {"name": {"name": "rouge", "split": "test", "perturbation": {"name": "x"}}, "count": 1, "mean": 0.5},
]
RUN_SPEC = {
    "name": "mmlu:subject=philosophy,model=openai_gpt2",
    "adapter_spec": {"model": "openai/gpt2", "max_train_instances": 5, "max_eval_instances": 10},
}
SERVE = {
    "date": "20260131-120000",
    "model_id": "models/a",
    "duration": 10.0,
    "completed": 4,
    "request_throughput": 0.4,
    "output_throughput": 100.0,
    "total_token_throughput": 300.0,
    "mean_ttft_ms": 12.5,
    "p99_itl_ms": 3.0,
    "request_rate": "inf",
    "max_concurrency": 8,
    "ttfts": [1, 2],
}
THROUGHPUT = {
    "elapsed_time": 10.0,
    "num_requests": 2,
    "total_num_tokens": 1000,
    "tokens_per_second": 100.0,
    "requests_per_second": 0.2,
    "latency_ms": 18.0,
    "batch_size": 4,
    "gpu": "H100",
}
LATENCY = {"avg_latency": 1.5, "percentiles": {"10": 1.0, "99": 2.5}, "latencies": [1.0, 2.0]}
GENAI = {
    "request_throughput": {"unit": "requests/sec", "avg": 0.8},
    "output_token_throughput": {"unit": "tokens/sec", "avg": 52.5},
    "time_to_first_token": {"unit": "ms", "avg": 195.0, "p50": 175.0, "p99": 253.0, "std": 46.0},
    "request_latency": {"unit": "s", "avg": 2.5},
    "output_sequence_length": {"unit": "tokens", "avg": 64.0},
    "start_time": "2026-06-13T05:11:41",
    "input_config": {
        "model_names": ["models/a"],
        "models": {"items": [{"name": "a"}]},
        "endpoint": {"model_names": ["a"]},
        "loadgen": {"request_rate": 4},
        "perf_analyzer": {"stimulus": {"concurrency": 4}},
    },
}
LLAMA_BENCH = [
    {
        "avg_ts": 900.0,
        "avg_ns": 5,
        "n_prompt": 512,
        "n_gen": 0,
        "model_filename": "m.gguf",
        "gpu_info": "H100",
        "build_commit": "ab",
        "test_time": "2026-01-01T00:00:00Z",
    },
    {"avg_ts": 80.0, "avg_ns": 5, "n_prompt": 0, "n_gen": 128, "model_type": "m", "gpu_info": "", "cpu_info": "EPYC"},
]
OPTIMUM = {
    "config": {
        "backend": {"model": "models/a"},
        "scenario": {"input_shapes": {"batch_size": 2}},
        "environment": {"gpu": ["H100"]},
    },
    "report": {
        "decode": {
            "throughput": {"unit": "tokens/s", "value": 50.0},
            "latency": {"unit": "s", "mean": 0.02, "p99": 0.03, "values": [1, 2]},
            "memory": {"unit": "MB", "max_allocated": 1000.0, "max_ram": None},
            "energy": {"unit": "kWh"},
        },
        "load_model": {"latency": None, "memory": None},
    },
}
TABLE = [
    {"model": "a", "task": "piqa", "metric": "acc", "value": 0.75, "stderr": 0.01, "n_shot": 0, "run_at": "2026-01-01"},
    {
        "model": "b",
        "task": "wikitext2",
        "metric": "perplexity",
        "value": 5.5,
        "seq_len": 2048,
        "stride": 512,
        "unit": "per_token",
    },
]
WIDE = [{"model": "a", "piqa/acc": 0.75, "perplexity:wikitext2@2048": 5.5}, {"model": "b", "perplexity:c4": 7}]
JSON_RESULTS: dict[str, Any] = {
    "evaluation_results.json": NATIVE,
    "ppl_2048.json": {"metrics": {"ppl": 9.5, "ppl_1024": 9.5}},
    "results_2026-01-21T03-44-18.458309.json": LM_EVAL,
    "full_results_0_shot.json": {"piqa": {"acc": 0.5, "acc_stderr": 0.01}, "wikitext": {"word_perplexity": 7.5}},
    "lighteval.json": LIGHTEVAL,
    "stats.json": HELM,
    "serve.json": SERVE,
    "serves.json": [SERVE, SERVE],
    "throughput.json": THROUGHPUT,
    "latency.json": LATENCY,
    "profile_export_genai_perf.json": GENAI,
    "llama_bench.json": LLAMA_BENCH,
    "benchmark.json": OPTIMUM,
    "table.json": TABLE,
    "wide.json": WIDE,
}
TEXT_RESULTS = {
    "bench.jsonl": "\n".join(json.dumps(run) for run in LLAMA_BENCH) + "\n",
    "appended.json": "\n".join(json.dumps(run) for run in (SERVE, SERVE)) + "\n",
    "long.csv": "model,task,metric,value,stderr,n_shot,run_at\na,piqa,acc,0.75,0.01,0,2026-01-01\nb,boolq,acc,nan,,,\n",
    "quoted.csv": '\ufeff"model","task","metric","value"\r\n"a, the first","piqa","acc","0.75"\r\n"b ""two""","x","f1","1"\r\n',
    "wide.tsv": "model\tpiqa/acc\tperplexity:wikitext2@2048\na\t0.75\t5.5\nb\t0.5\t-\n",
    "summary_20240131_120000.csv": "dataset,version,metric,mode,model-a,model-b\npiqa,1194eb,accuracy,ppl,75.50,-\n"
    "bleu_set,ab12cd,bleu,gen,-,31.20\n-,-,-,-,-,-\nmean,-,naive_average,gen,70.0,60\n",
    "wanda.log": "layer 3 sparsity 0.5\nsparsity sanity check 0.5000\nevaluating on wikitext\nwikitext perplexity 7.26\n",
    "log_wanda.txt": "method\tactual_sparsity\tppl_test\nwanda\t0.5000\t7.2600\n",
    "sparsegpt.log": "Dataset: wikitext2\nEvaluating ...\nPerplexity: 12.345678\nptb\nPerplexity: nan\n",
    "slice.log": "Original ppl: 5.4700\nSliced model parameters: 5,292,000 (sliced fraction 0.2145)\n"
    "After rotating and slicing 6.8600\nThroughput: 100.5 token/s\nLatency: 0.01 s/token\n",
    "training.log": "2023-05-20 12:00:00 - INFO :       #Param before: 6738415616, #Param after: 5422977024, Ratio = 80.4785%\n"
    "2023-05-20 12:00:01 - INFO :       PPL after pruning: {'wikitext2': 12.6, 'ptb': nan}\n",
    "flap.txt": "sparsity sanity check 0.8000\nmodel parameter 5.07B\nppl on wikitext 17.0\n",
}
BESIDE = {"stats.json": ("run_spec.json", RUN_SPEC), "benchmark.json": ("benchmark_config.json", OPTIMUM["config"])}


def _writer(name: str, content: Any, beside: Mapping[str, tuple[str, Any]] = BESIDE) -> Any:
    def write(folder: Path) -> Path:
        if name in beside:
            other, document = beside[name]
            (folder / other).write_text(json.dumps(document))
        path = folder / name
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8", newline="")
        return path

    return write


def beside_target(name: str, other: str, document: Any) -> Target:
    """The file beside a result is mutated, and the result is read."""

    def write(folder: Path) -> Path:
        (folder / name).write_text(json.dumps(JSON_RESULTS[name]))
        (folder / other).write_text(json.dumps(document))
        return folder / other

    return Target(other, write, lambda path: results_of(path.parent / name), JSON_CHANGES)


def nothing_lost(before: Answer, after: Answer, whole: bytes, mutation: bytes) -> str | None:
    """Where one number became something else, there are as many rows and lines on what was left out as before."""
    counts = [len(answer.rows) + len(answer.left_out) for answer in (before, after)]
    return None if counts[1] >= counts[0] else f"{counts[0]} rows and lines became {counts[1]}: {mutation[:500]!r}"


RESULTS = (
    *(
        Target(f"numbers of {name}", _writer(name, content), results_of, (changed_number,), nothing_lost)
        for name, content in JSON_RESULTS.items()
    ),
    *(Target(name, _writer(name, content), results_of, JSON_CHANGES) for name, content in JSON_RESULTS.items()),
    *(Target(name, _writer(name, content), results_of, TEXT_CHANGES) for name, content in TEXT_RESULTS.items()),
    beside_target("stats.json", "run_spec.json", RUN_SPEC),
)
