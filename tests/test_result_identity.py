"""Two runs that differ in one argument never share a row: over every format, its arguments and random pairs of values.

A case is a format, an argument, a strategy of values and a writer of a file with a value. The rows of the two files, taken in
order, must differ in their measure, or in how the model was loaded.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layerhouse.ingest.results.documents import read_document
from layerhouse.ingest.results.parsed import measure_id, run_id
from layerhouse.ingest.results.registry import FORMATS, recognise

WORDS = st.text("abcxyz019_-./+ ", min_size=1, max_size=20).map(lambda text: f"v{text.strip()}")
SENTENCES = st.text("abcxyz019_-.,=/{}'\" ", min_size=1, max_size=400).map(lambda text: f"v{text.strip()}v")
COUNTS = st.integers(1, 10**6)
RATES = st.floats(0.001, 1e6)
FLAGS = st.booleans()
OBJECTS = st.dictionaries(st.sampled_from(["bits", "group_size", "method"]), COUNTS, min_size=1)


@dataclass(frozen=True)
class Case:
    """An argument of a format: how its values are made, and how a file with one is written into a folder."""

    format: str
    argument: str
    values: st.SearchStrategy[Any]
    write: Callable[[Path, Any], Path]

    def __str__(self) -> str:
        return f"{self.format} {self.argument}"


def placed(document: Any, place: str, value: Any) -> Any:
    """A copy of a document with a value at a path of keys, whose objects are made where they are missing."""
    document = copy.deepcopy(document)
    holder = document
    *folders, last = place.split("/")
    for folder in folders:
        holder = holder[int(folder)] if isinstance(holder, list) else holder.setdefault(folder, {})
    holder[int(last) if isinstance(holder, list) else last] = value
    return document


def json_cases(format_name: str, file: str, document: Any, arguments: dict[str, st.SearchStrategy[Any]]) -> list[Case]:
    """Cases of a JSON document by the path of the argument in it."""

    def writer(place: str) -> Callable[[Path, Any], Path]:
        def write(folder: Path, value: Any) -> Path:
            (folder / file).write_text(json.dumps(placed(document, place, value)))
            return folder / file

        return write

    return [Case(format_name, place, values, writer(place)) for place, values in arguments.items()]


def text_cases(format_name: str, file: str, texts: dict[str, tuple[str, st.SearchStrategy[Any]]]) -> list[Case]:
    """Cases of a text in which `<value>` stands for the value; a file's name may have it too."""

    def writer(text: str) -> Callable[[Path, Any], Path]:
        def write(folder: Path, value: Any) -> Path:
            path = folder / file.replace("<value>", str(value))
            path.parent.mkdir(exist_ok=True)
            path.write_text(text.replace("<value>", str(value)))
            return path

        return write

    return [Case(format_name, argument, values, writer(text)) for argument, (text, values) in texts.items()]


# lm-evaluation-harness: the arguments as an object, as text, and as the command line has them.
LM_EVAL = {
    "results": {"gsm8k": {"exact_match,strict-match": 0.5, "exact_match_stderr,strict-match": 0.01}},
    "configs": {"gsm8k": {"output_type": "generate_until", "dataset_path": "gsm8k"}},
    "versions": {"gsm8k": 3},
    "n-shot": {"gsm8k": 5},
    "config": {"model": "hf", "model_args": {"pretrained": "org/m"}},
}
MODEL_ARGUMENTS = ("revision", "peft", "delta", "dtype", "subfolder", "gguf_file", "tokenizer", "quantization", "load_format")
LM_EVAL_CASES = [
    *json_cases(
        "lm_eval",
        "results.json",
        LM_EVAL,
        {f"config/model_args/{name}": SENTENCES for name in MODEL_ARGUMENTS}
        | {f"config/model_args/{name}": FLAGS for name in ("load_in_4bit", "load_in_8bit", "add_bos_token", "enable_thinking")}
        | {
            "config/model_args/max_length": COUNTS,
            "config/model_args/quantization_config": OBJECTS,
            "config/model": st.sampled_from(["hf", "vllm", "sglang", "gguf", "local-completions", "mamba_ssm", "openvino"]),
            "config/model_revision": WORDS,
            "config/model_sha": WORDS,
            "config/peft_sha": WORDS,
            "config/model_dtype": WORDS,
            "config/limit": COUNTS,
            "config/gen_kwargs": SENTENCES,
            "config/gen_kwargs/temperature": RATES,
            "n-shot/gsm8k": COUNTS,
            "configs/gsm8k/dataset_path": WORDS,
            "configs/gsm8k/dataset_name": WORDS,
            "configs/gsm8k/test_split": WORDS,
            "configs/gsm8k/language": WORDS,
            "chat_template_sha": COUNTS.map(lambda number: hashlib.sha256(str(number).encode()).hexdigest()),
            "chat_template": SENTENCES,
            "system_instruction": SENTENCES,
        },
    ),
    *json_cases("lm_eval", "b.json", placed(LM_EVAL, "chat_template", "{{ m }}"), {"fewshot_as_multiturn": FLAGS}),
    *json_cases("lm_eval", "c.json", placed(LM_EVAL, "config/model", None), {"model_source": WORDS}),
]

NATIVE = {
    "model_path": "org/m",
    "metrics": {
        "zeroshot": {"piqa": {"acc,none": 0.5}},
        "ppl_2048": {"wikitext2 (raw)": 6.5},
        "efficiency": {"speed": {"batch_size_1": {"total_tokens": 1}}, "memory": {"model_memory_mb": 1}},
    },
}
NATIVE_CASES = [
    *json_cases(
        "native",
        "evaluation_results.json",
        NATIVE,
        dict.fromkeys(("revision", "dtype", "quantization", "adapter", "peft", "backend", "chat_template", "language"), WORDS)
        | dict.fromkeys(("load_in_4bit", "load_in_8bit"), FLAGS),
    ),
    *json_cases(
        "native",
        "a.json",
        {"metrics": {"efficiency": NATIVE["metrics"]["efficiency"]}},
        {"gpu": WORDS, "metrics/efficiency/dtype": WORDS, "metrics/efficiency/seq_len": COUNTS},
    ),
    *json_cases(
        "native",
        "c.json",
        {"metrics": {"efficiency": {"speed": {"batch_size_1": {"total_tokens": 1}}}}},
        {"metrics/efficiency/speed/prompt_length": COUNTS, "metrics/efficiency/speed/batch_size_1/max_new_tokens": COUNTS},
    ),
    *text_cases(
        "native",
        "b.json",
        {
            "context": ('{"metrics": {"ppl_<value>": {"ptb": 6.5}}}', COUNTS),
            "stride": ('{"metrics": {"ppl_2048_<value>": {"ptb": 6.5}}}', COUNTS),
            "subset": ('{"metrics": {"ppl_2048": {"wikitext2 (<value>)": 6.5}}}', WORDS),
            "batch size": ('{"metrics": {"efficiency": {"speed": {"batch_size_<value>": {"total_tokens": 1}}}}}', COUNTS),
            "shots": ('{"metrics": {"zeroshot": {"piqa": {"acc,none": 0.5, "n_shot": <value>}}}}', COUNTS),
        },
    ),
]

LIGHTEVAL = {
    "config_general": {"model_name": "org/m", "model_config": {"model_name": "org/m"}},
    "config_tasks": {"lighteval|gsm8k|5": {"metrics": [{"metric_name": "em", "category": "GENERATIVE"}]}},
    "results": {"lighteval|gsm8k|5": {"em": 0.5}},
}
LIGHTEVAL_CASES = [
    *json_cases(
        "lighteval",
        "results.json",
        LIGHTEVAL,
        {
            f"config_general/model_config/{name}": WORDS
            for name in ("revision", "dtype", "subfolder", "quantization", "provider")
        }
        | {
            f"config_tasks/lighteval|gsm8k|5/{name}": WORDS
            for name in ("hf_repo", "hf_subset", "hf_revision", "few_shots_select")
        }
        | {
            "config_general/model_config/adapter_weights": FLAGS,
            "config_general/model_config/max_length": COUNTS,
            "config_general/model_config/generation_parameters/temperature": RATES,
            "config_general/model_config/system_prompt": SENTENCES,
            "config_general/model_config/override_chat_template": FLAGS,
            "config_general/use_chat_template": FLAGS,
            "config_general/model_sha": WORDS,
            "config_general/model_dtype": WORDS,
            "config_general/max_samples": COUNTS,
            "config_tasks/lighteval|gsm8k|5/evaluation_splits": st.lists(st.sampled_from("abc"), min_size=1, unique=True),
        },
    ),
    *text_cases(
        "lighteval",
        "a.json",
        {
            "suite": ('{"config_general": {}, "results": {"<value>|gsm8k|5": {"em": 0.5}}}', WORDS),
            "shots": ('{"config_general": {}, "results": {"gsm8k|<value>": {"em": 0.5}}}', COUNTS),
            "task's subset": ('{"config_general": {}, "results": {"mmlu:<value>|5": {"em": 0.5}}}', WORDS),
            "tasks of a mean": ('{"config_general": {}, "results": {"<value>|5": {}, "all": {"em": 0.5}}}', WORDS),
        },
    ),
]


def write_helm(name: str, place: str) -> Callable[[Path, Any], Path]:
    """A run of HELM with a value in its name, or at a path of its adapter or of the name of its statistic."""

    def write(folder: Path, value: Any) -> Path:
        spec = {"name": name.replace("<value>", str(value)), "adapter_spec": {"model": "org/m", "max_train_instances": 5}}
        statistics = [{"name": {"name": "exact_match", "split": "test"}, "count": 1, "mean": 0.5}]
        if place.startswith("adapter_spec"):
            spec = placed(spec, place, value)
        elif place:
            statistics = placed(statistics, f"0/name/{place}", value)
        (folder / "run_spec.json").write_text(json.dumps(spec))
        (folder / "stats.json").write_text(json.dumps(statistics))
        return folder / "stats.json"

    return write


NAME_VALUES = st.text("abcxyz019_-.", min_size=1, max_size=20)
HELM_CASES = [
    *(
        Case("helm", name, NAME_VALUES, write_helm(f"math:a=1,{name}=<value>,model=org_m", ""))
        for name in ("dataset", "subject", "level", "k", "method", "data_augmentation", "stop", "eval_split", "language")
    ),
    Case("helm", "scenario", NAME_VALUES, write_helm("<value>:subject=law,model=org_m", "")),
    *(
        Case("helm", place, values, write_helm("gsm:model=org_m", place))
        for place, values in {
            "split": WORDS,
            "sub_split": WORDS,
            "perturbation/name": WORDS,
            "perturbation/prob": RATES,
            "perturbation/computed_on": WORDS,
            "adapter_spec/model_deployment": WORDS,
            "adapter_spec/max_train_instances": COUNTS,
            "adapter_spec/max_eval_instances": COUNTS,
            "adapter_spec/temperature": RATES,
            "adapter_spec/max_tokens": COUNTS,
            "adapter_spec/num_outputs": COUNTS,
            "adapter_spec/method": WORDS,
        }.items()
    ),
]

LLAMA_BENCH = {
    "avg_ts": 900.5,
    "n_prompt": 512,
    "n_gen": 128,
    "model_filename": "m.gguf",
    "gpu_info": "H100",
    "cpu_info": "EPYC",
}
LLAMA_BENCH_VALUES: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("n_prompt", "n_gen", "n_depth", "n_batch", "n_ubatch", "n_threads", "n_gpu_layers", "main_gpu"), COUNTS),
    **dict.fromkeys(("n_cpu_moe", "poll"), COUNTS),
    **dict.fromkeys(("type_k", "type_v", "backends", "split_mode", "tensor_split", "tensor_buft_overrides", "devices"), WORDS),
    **dict.fromkeys(("cpu_mask", "load_mode", "gpu_info"), WORDS),
    **dict.fromkeys(
        ("flash_attn", "no_kv_offload", "use_mmap", "embeddings", "no_op_offload", "no_host", "cuda", "metal"), FLAGS
    ),
}
PRINTED = {
    "threads": COUNTS,
    "n_batch": COUNTS,
    "n_ubatch": COUNTS,
    "ngl": COUNTS,
    "type_k": WORDS,
    "fa": st.sampled_from("01"),
}
LLAMA_BENCH_CASES = [
    *json_cases("llama_bench", "b.json", [LLAMA_BENCH], {f"0/{name}": values for name, values in LLAMA_BENCH_VALUES.items()}),
    *text_cases(
        "llama_bench",
        "b.jsonl",
        {name: (json.dumps(LLAMA_BENCH)[:-1] + f', "{name}": <value>}}\n', COUNTS) for name in ("n_depth", "n_threads")},
    ),
    *text_cases(
        "llama_bench",
        "b.csv",
        {
            name: (f"avg_ts,n_prompt,n_gen,{name}\n900.5,512,0,<value>\n", values)
            for name, values in LLAMA_BENCH_VALUES.items()
            if values in (COUNTS, WORDS) and name not in ("n_prompt", "n_gen")
        },
    ),
    *text_cases(
        "logs",
        "b.md",
        {
            name: (f"| model | {name} | test | t/s |\n| --- | --- | --- | --- |\n| a | <value> | pp512 | 9.5 ± 1 |\n", values)
            for name, values in PRINTED.items()
        }
        | {
            "depth": (
                "| model | backend | test | t/s |\n| --- | --- | --- | --- |\n| a | CPU | pp512 @ d<value> | 9.5 ± 1 |\n",
                COUNTS,
            )
        },
    ),
]

SERVE = {"model_id": "org/m", "duration": 1.0, "completed": 10, "request_throughput": 1.0, "mean_ttft_ms": 1.0}
LOADS = {
    **dict.fromkeys(("num_prompts", "max_concurrency", "random_input_len", "random_output_len", "ramp_up_start_rps"), COUNTS),
    **dict.fromkeys(("tensor_parallel_size", "pipeline_parallel_size", "max_num_seqs", "total_input_tokens"), COUNTS),
    **dict.fromkeys(("request_rate", "burstiness", "gpu_memory_utilization"), RATES),
    **dict.fromkeys(("backend", "dataset_name", "kv_cache_dtype", "attention_backend", "label"), WORDS),
    **dict.fromkeys(("quantization", "dtype", "revision", "load_format", "tokenizer_id"), WORDS),
    **dict.fromkeys(("enforce_eager", "enable_prefix_caching"), FLAGS),
}
LOADS["total_input_tokens"] = st.sampled_from([10, 100, 1280, 10240, 20480, 99991])
VLLM_CASES = [
    *json_cases("vllm", "serve.json", SERVE, LOADS),
    *json_cases(
        "vllm",
        "latency.json",
        {"avg_latency": 1.5, "percentiles": {"99": 2.0}},
        dict.fromkeys(("input_len", "output_len", "batch_size", "tensor_parallel_size"), COUNTS) | {"dtype": WORDS},
    ),
    *json_cases(
        "vllm",
        "throughput.json",
        {"elapsed_time": 1.0, "tokens_per_second": 5.0},
        dict.fromkeys(("num_requests", "batch_size", "input_len", "output_len"), COUNTS) | {"backend": WORDS, "gpu": WORDS},
    ),
]
SGLANG = {"dataset_name": "random", "duration": 1.0, "mean_e2e_latency_ms": 1.0}
SGLANG_CASES = json_cases(
    "sglang",
    "a.json",
    SGLANG,
    dict.fromkeys(("max_concurrency", "random_input_len", "random_output_len", "sharegpt_output_len"), COUNTS)
    | dict.fromkeys(("request_rate", "random_range_ratio"), RATES)
    | dict.fromkeys(("backend", "tag", "server_info/quantization", "server_info/dtype", "server_info/kv_cache_dtype"), WORDS)
    | dict.fromkeys(("server_info/tp_size", "server_info/dp_size"), COUNTS)
    | {"dataset_name": st.sampled_from(["random", "sharegpt", "mmmu"])},
)
GENAI_CASES = json_cases(
    "genai_perf",
    "profile.json",
    {"request_throughput": {"avg": 1.0}, "input_config": {"model_names": ["org/m"]}},
    dict.fromkeys(("input_config/concurrency", "input_config/loadgen/concurrency", "input_config/output_tokens_mean"), COUNTS)
    | dict.fromkeys(("input_config/input/synthetic_tokens/mean", "input_config/input/prompt/input_tokens/mean"), COUNTS)
    | dict.fromkeys(("input_config/endpoint/type", "input_config/backend"), WORDS)
    | {"input_config/loadgen/request_rate": RATES, "input_config/endpoint/streaming": FLAGS},
)
LLMPERF_CASES = json_cases(
    "llmperf",
    "a_summary.json",
    {"model": "org/m", "results_inter_token_latency_s_mean": 0.5, "results_mean_output_throughput_token_per_s": 5.0},
    dict.fromkeys(("num_concurrent_requests", "mean_input_tokens", "mean_output_tokens", "stddev_input_tokens"), COUNTS),
)
OPTIMUM_CASES = json_cases(
    "optimum_benchmark",
    "benchmark.json",
    {"config": {"backend": {"model": "org/m"}}, "report": {"decode": {"throughput": {"value": 5.0, "unit": "tokens/s"}}}},
    dict.fromkeys(("config/scenario/input_shapes/batch_size", "config/scenario/input_shapes/sequence_length"), COUNTS)
    | dict.fromkeys(("config/scenario/generate_kwargs/max_new_tokens", "config/backend/quantization_config/bits"), COUNTS)
    | dict.fromkeys(("config/backend/name", "config/backend/torch_dtype", "config/backend/attn_implementation"), WORDS)
    | dict.fromkeys(("config/backend/quantization_scheme", "config/backend/model_kwargs/revision"), WORDS)
    | {"config/backend/torch_compile": FLAGS, "config/environment/gpu": st.lists(WORDS, min_size=1, max_size=1)},
)

INSPECT = {
    "status": "success",
    "eval": {"task": "arc", "model": "hf/org/m"},
    "results": {"scores": [{"name": "choice", "metrics": {"accuracy": {"value": 0.5}}}]},
}
BIGCODE = {"humaneval": {"pass@1": 0.5}, "config": {"model": "org/m"}}
TOOL_CASES = [
    *json_cases(
        "inspect",
        "log.json",
        INSPECT,
        dict.fromkeys(
            ("eval/dataset/name", "eval/model_args/dtype", "eval/model_args/revision", "eval/task_args/subject"), WORDS
        )
        | dict.fromkeys(("eval/config/limit", "eval/config/epochs", "eval/task_args/fewshot", "eval/task_version"), COUNTS)
        | dict.fromkeys(("results/scores/0/name", "results/scores/0/reducer", "results/scores/0/params/prompt"), WORDS)
        | {"eval/model": st.sampled_from(["hf/org/m", "vllm/org/m", "openai/org/m"])}
        | {"plan/config/temperature": RATES, "plan/steps": st.lists(st.fixed_dictionaries({"solver": WORDS}), min_size=1)},
    ),
    *json_cases(
        "bigcode",
        "evaluation_results.json",
        BIGCODE,
        dict.fromkeys(("config/revision", "config/peft_model", "config/precision", "config/prefix", "config/prompt"), WORDS)
        | {"config/instruction_tokens": WORDS, "config/top_p": RATES, "config/max_length_generation": COUNTS}
        | {"config/temperature": RATES, "config/n_samples": COUNTS, "config/limit": COUNTS, "config/load_in_4bit": FLAGS},
    ),
    *text_cases(
        "evalplus",
        "m_vllm_temp_<value>_eval_results.json",
        {
            "temperature": (
                '{"date": "2026-01-31", "hash": "a", "eval": {"Mbpp/1": []}, "pass_at_k": {"base": {"pass@1": 0.5}}}',
                st.integers(0, 9),
            )
        },
    ),
    *text_cases(
        "simple_evals", "<value>_m.json", {"task": ('{"score": 0.5}', st.sampled_from(["mmlu", "drop", "gpqa", "mgsm"]))}
    ),
    *text_cases("simple_evals", "mmlu_m<value>.json", {"debugging": ('{"score": 0.5}', st.sampled_from(["", "_DEBUG"]))}),
    *text_cases(
        "longbench",
        "result.json",
        {
            "data set": ('{"<value>": 31.5}', st.sampled_from(["lcc", "trec", "qasper"])),
            "length": ('{"lcc": {"<value>": 31.5}}', st.sampled_from(["0-4k", "4-8k", "8k+"])),
        },
    ),
    *text_cases(
        "alpaca_eval",
        "alpaca_eval_<value>/leaderboard.csv",
        {"annotators": (",win_rate,standard_error\norg-m,10.5,0.5\n", st.text("abc_4", min_size=1))},
    ),
    *text_cases(
        "opencompass",
        "summary.csv",
        {
            "version": ("dataset,version,metric,mode,a\npiqa,<value>,accuracy,ppl,75\n", WORDS),
            "mode": ("dataset,version,metric,mode,a\npiqa,ab,accuracy,<value>,75\n", WORDS),
            "metric": ("dataset,version,metric,mode,a\npiqa,ab,<value>,ppl,75\n", WORDS),
        },
    ),
    *text_cases(
        "tables",
        "long.csv",
        {
            name: (f"model,task,metric,value,{name}\norg/m,mgsm,exact_match,0.5,<value>\n", values)
            for name, values in {
                **dict.fromkeys(("filter", "subset", "dataset", "split", "language", "chat_template"), WORDS),
                **dict.fromkeys(("unit", "harness", "revision", "adapter", "dtype", "quantization", "subfolder"), WORDS),
                **dict.fromkeys(("suite", "gguf_file", "backend"), WORDS),
                **dict.fromkeys(("n_shot", "limit", "seq_len", "stride", "batch_size"), COUNTS),
                **dict.fromkeys(("load_in_4bit", "load_in_8bit"), FLAGS),
            }.items()
        }
        | {"hardware of a speed": ("model,task,metric,value,suite,hardware\norg/m,a,b,1,speed,<value>\n", WORDS)},
    ),
    *text_cases(
        "tables",
        "wide.csv",
        {
            name: (f"model,piqa/acc,perplexity:c4,{name}\norg/m,0.5,7.5,<value>\n", values)
            for name, values in {
                **dict.fromkeys(("language", "chat_template", "harness", "revision", "adapter"), WORDS),
                **dict.fromkeys(("n_shot", "limit"), COUNTS),
            }.items()
        },
    ),
]
PERPLEXITY = (
    "llama_model_loader: loaded meta data with 9 key-value pairs and 9 tensors from m.gguf (version GGUF V3)\n"
    "{line}perplexity: calculating perplexity over {chunks} chunks, n_ctx={n_ctx}, batch_size=2048, n_seq=4\n"
    "Final estimate: PPL = 6.5 +/- 0.1\n"
)
LM_EVAL_TABLE = (
    "hf (pretrained=org/m{arguments}), gen_kwargs: ({gen}), limit: {limit}, num_fewshot: None, batch_size: 1\n"
    "|Tasks|Version|Filter|n-shot|Metric|   |Value |   |Stderr|\n|--|--|--|--|--|--|--|--|--|\n"
    "|gsm8k|3|{filter}|{shots}|exact_match|↑|0.5000|±|0.0100|\n"
)


def table_text(**given: str) -> str:
    text = LM_EVAL_TABLE
    for name, value in {"arguments": "", "gen": "None", "limit": "None", "filter": "none", "shots": "5", **given}.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def perplexity_text(line: str = "", chunks: str = "200", n_ctx: str = "512") -> str:
    return PERPLEXITY.replace("{line}", line).replace("{chunks}", chunks).replace("{n_ctx}", n_ctx)


LOG_CASES = text_cases(
    "logs",
    "a.log",
    {
        "adapter": (perplexity_text("llama_adapter_lora_init_impl: loading lora adapter from '<value>' ...\n"), WORDS),
        "type_k": (
            perplexity_text("llama_kv_cache: size = 1 MiB, K (<value>): 1.0 MiB, V (f16): 1.0 MiB\n"),
            st.sampled_from(["f16", "q8_0"]),
        ),
        "type_v": (
            perplexity_text("llama_kv_cache: size = 1 MiB, K (f16): 1.0 MiB, V (<value>): 1.0 MiB\n"),
            st.sampled_from(["f16", "q4_0"]),
        ),
        "chunks": (perplexity_text(chunks="<value>"), COUNTS),
        "context": (perplexity_text(n_ctx="<value>"), COUNTS),
        "arguments of a table": (table_text(arguments=",revision=<value>"), NAME_VALUES.map(lambda text: f"v{text}")),
        "generation of a table": (table_text(gen="temperature=<value>"), RATES),
        "limit of a table": (table_text(limit="<value>"), COUNTS),
        "filter of a table": (table_text(filter="<value>"), NAME_VALUES.map(lambda text: f"v{text}")),
        "shots of a table": (table_text(shots="<value>"), COUNTS),
        "dataset of a perplexity": ("<value> perplexity 7.5\n", st.sampled_from(["wikitext2", "c4", "ptb"])),
    },
)
CASES = [
    *LM_EVAL_CASES,
    *NATIVE_CASES,
    *LIGHTEVAL_CASES,
    *HELM_CASES,
    *LLAMA_BENCH_CASES,
    *VLLM_CASES,
    *SGLANG_CASES,
    *GENAI_CASES,
    *LLMPERF_CASES,
    *OPTIMUM_CASES,
    *TOOL_CASES,
    *LOG_CASES,
]


def rows_of(case: Case, folder: Path, value: Any) -> list[tuple[str, str]]:
    """Measure and run of each row of a file with a value."""
    path = case.write(folder, value)
    document = read_document(path, path.name)[1]
    result_format = recognise(document, path)
    assert result_format is not None
    assert result_format.name == case.format
    return [(measure_id(row), run_id(row)) for row in result_format.parse(document, path).rows]


def test_the_cases_are_of_every_format():
    assert {case.format for case in CASES} == {result_format.name for result_format in FORMATS}


@pytest.mark.parametrize("case", CASES, ids=str)
@settings(max_examples=3, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_two_runs_that_differ_in_one_argument_never_share_a_row(tmp_path, case, data):
    first, second = data.draw(st.lists(case.values, min_size=2, max_size=2, unique_by=repr))
    rows = [rows_of(case, tmp_path, value) for value in (first, second)]
    assert rows[0]
    assert not set(rows[0]) & set(rows[1]), (first, second)
    assert rows_of(case, tmp_path, first) == rows[0]
