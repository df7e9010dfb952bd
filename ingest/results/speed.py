"""What the formats of speed benchmarks share: the names of rates, the columns of their rows, a rate over a time of zero.

A rate is named by what it counts, as "tokens a second" may mean any of these: output tokens over the whole time, input and
output tokens over the whole time, tokens while decoding, tokens of the prompt. Settings of the load and of the engine are part
of the measure; what is about the model's weights is its run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from layerhouse.ingest.checkpoint.notes import Note, note
from layerhouse.ingest.results.parsed import EMPTY_ROW, Item, Row
from layerhouse.ingest.results.rows import left_out_line, measure
from layerhouse.ingest.results.runs import run_columns
from layerhouse.ingest.results.scores import is_number, whole_number
from layerhouse.ingest.results.settings import setting_text
from layerhouse.vocabulary import ResultStatus

OUTPUT_RATE = "output_tokens_per_sec"
TOTAL_RATE = "total_tokens_per_sec"
DECODE_RATE = "decode_tokens_per_sec"
PREFILL_RATE = "prefill_tokens_per_sec"
REQUEST_RATE = "requests_per_sec"
UNSPECIFIED_RATE = "tokens_per_sec"
SETTINGS = {
    "backend": "backend",
    "endpoint_type": "backend",
    "dataset_name": "dataset",
    "dataset_path": "dataset_path",
    "hf_subset": "dataset_subset",
    "hf_split": "dataset_split",
    "num_prompts": "prompts",
    "request_rate": "rate",
    "burstiness": "burstiness",
    "max_concurrency": "concurrency",
    "ramp_up_strategy": "ramp_up",
    "ramp_up_start_rps": "ramp_up_start",
    "ramp_up_end_rps": "ramp_up_end",
    "input_len": "input",
    "output_len": "output",
    "random_input_len": "input",
    "random_output_len": "output",
    "random_range_ratio": "range",
    "random_prefix_len": "prefix",
    "sonnet_input_len": "input",
    "sonnet_output_len": "output",
    "sharegpt_output_len": "sharegpt_output",
    "n": "n",
    "use_beam_search": "beam_search",
    "tensor_parallel_size": "tp",
    "tp_size": "tp",
    "tp": "tp",
    "pipeline_parallel_size": "pp",
    "pp_size": "pp",
    "pp": "pp",
    "data_parallel_size": "dp",
    "dp_size": "dp",
    "dp": "dp",
    "ep_size": "ep",
    "enable_expert_parallel": "expert_parallel",
    "max_num_seqs": "max_num_seqs",
    "max_running_requests": "max_num_seqs",
    "max_num_batched_tokens": "max_num_batched_tokens",
    "chunked_prefill_size": "chunked_prefill_size",
    "gpu_memory_utilization": "gpu_memory",
    "mem_fraction_static": "gpu_memory",
    "block_size": "block_size",
    "page_size": "block_size",
    "kv_cache_dtype": "kv",
    "enable_prefix_caching": "prefix_caching",
    "disable_radix_cache": "no_radix_cache",
    "enable_chunked_prefill": "chunked_prefill",
    "enforce_eager": "eager",
    "attention_backend": "attention",
    "speculative_algorithm": "speculative",
    "speculative_model": "speculative_model",
    "num_speculative_tokens": "speculative_tokens",
}
"""Settings of the load and of the engine by vLLM's and SGLang's names for them, and their names in a subset."""
USUAL_SETTINGS = {"burstiness": "1", "n": "1", "beam_search": "0"}
"""Defaults of the load generators, which are left out."""
MODEL_ARGUMENTS = (
    *("quantization", "quant", "dtype", "torch_dtype", "revision", "model_revision", "load_format", "max_model_len"),
    *("context_length", "adapter", "lora", "lora_name", "lora_path", "lora_modules", "torchao_config", "rope_scaling"),
)
"""Keys that say how the model was loaded."""


def speed_columns(harness: str) -> Row:
    """The columns that all rows of a speed benchmark share."""
    return {**EMPTY_ROW, "harness": harness, "suite": "speed", "task": "speed", "is_group": False}


def rate(where: str, metric: str, value: Any, *, is_timeless: bool = False, unit: Any = "tok/s", **columns: Any) -> Item:
    """A rate. One that was measured over no time, as the file says or as the rate itself is not positive, is missing, with a
    note."""
    row = measure(where, metric, value, unit=unit, higher_is_better=True, **columns)
    if isinstance(row, dict) and (is_timeless or (row["value"] is not None and row["value"] <= 0)):
        text = "the time it was measured over is zero" if is_timeless else f"the file says {row['value']:g}"
        row |= {"value": None, "value_integer": None, "status": ResultStatus.MISSING, "notes": [note("zero_time", text)]}
    return row


def with_notes(item: Item, notes: list[Note]) -> Item:
    """A row with further notes; a line as it is."""
    return {**item, "notes": [*item.get("notes", ()), *notes]} if isinstance(item, dict) else item


def unknown_numbers(numbers: Mapping[str, Any], known: Collection[str]) -> Iterator[str]:
    """A line for each number of an object under another key than the known ones and those of settings."""
    for key, value in numbers.items():
        if is_number(value) and key not in known and key not in SETTINGS and key not in MODEL_ARGUMENTS:
            yield left_out_line(key, "not known")


def stated_settings(*places: Mapping[str, Any]) -> dict[str, str]:
    """The settings that objects of a file state, as text by their names in a subset; of one that stands twice the first."""
    texts: dict[str, str] = {}
    for place in places:
        for key, name in SETTINGS.items():
            text = setting_text(place.get(key))
            if text is not None and text != USUAL_SETTINGS.get(name):
                texts.setdefault(name, text)
    return texts


def subset_of(settings: Mapping[str, str]) -> str | None:
    """Settings that are text already as a subset; None if there are none."""
    return ",".join(f"{name}={text}" for name, text in settings.items()) or None


def add_mean_lengths(settings: dict[str, str], requests: Any, **totals: Any) -> None:
    """Add the mean lengths of prompts and outputs, in tokens, where a file states none but the totals.

    A total that the number of requests divides is of a fixed length, which is exact. Another is rounded to two digits, as
    answers of a model to the same prompts vary a little.
    """
    count = whole_number(requests)
    for name, total in totals.items():
        tokens = whole_number(total)
        if count and tokens and name not in settings and f"sharegpt_{name}" not in settings:
            settings[name] = str(tokens // count) if tokens % count == 0 else rounded_length(tokens / count)


def rounded_length(mean: float) -> str:
    """A mean length in tokens as text of two digits, `~1500`."""
    return f"~{float(f'{mean:.1e}'):g}"


def loaded_run(*places: Mapping[str, Any], resolved: Mapping[str, Any] | None = None) -> Row:
    """How the model was loaded, of the keys of MODEL_ARGUMENTS in objects of a file."""
    stated: Row = {}
    for place in places:
        for key in MODEL_ARGUMENTS:
            if place.get(key) is not None:
                stated.setdefault(key, place[key])
    return run_columns(stated, resolved)


def failed_notes(failed: Any, completed: Any, requests: Any) -> list[Note]:
    """The note on requests that failed, or that did not complete of those that were to be sent."""
    count, done, sent = (whole_number(number) for number in (failed, completed, requests))
    if not count and done is not None and sent is not None and done < sent:
        count = sent - done
    total = sent or ((done or 0) + (count or 0))
    return [note("failed", f"{count} of {total} requests failed; the numbers are of the others")] if count else []
