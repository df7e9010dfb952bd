"""What a file of lighteval says of its run and of each task, beside the scores.

`config_general` (logging/info_loggers.py) has the model, and since 2025 its whole configuration, `model_config`
(models/abstract_model.py and the classes after it), which may hold keys. `config_tasks` has the dataset, splits and metrics of
each task (tasks/lighteval_task.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerhouse.ingest.results.parsed import EMPTY_ROW, Row
from layerhouse.ingest.results.rows import is_text, object_at, text_or_none
from layerhouse.ingest.results.run_times import read_run_at, time_in_name
from layerhouse.ingest.results.runs import run_columns, short_hash
from layerhouse.ingest.results.scores import INT32_MAX, finite, whole_number
from layerhouse.ingest.results.settings import setting_text, settings_text
from layerhouse.ingest.results.tasks import suite_of_shots

HARNESS = "lighteval"
KEY = re.compile(r"(?:(?P<suite>[^|]+)\|)?(?P<task>[^|]+)\|(?P<shots>\d{1,9})(?:\|\d+)?")
MEAN_OF_ALL, MEAN_SUFFIX = "all", ":_average"
OF_PROMPTS = frozenset({"generation_parameters", "system_prompt", "override_chat_template", "use_chat_template"})
"""Keys of `model_config` that are no arguments of the model."""
USUAL_ARGUMENTS = {"add_special_tokens": True, "skip_special_tokens": True, "is_async": False}
"""Arguments that every file of a backend has, with their defaults."""
ENGINES = {"gpu_memory_utilization": "vllm", "mem_fraction_static": "sglang"}
"""Backends by an argument that only they have."""
WITHOUT_SAMPLING = re.compile(r"MULTICHOICE\w*|LOGPROBS?|(?:TARGET_)?PERPLEXITY|GENERATIVE_LOGPROB")
"""Categories of metrics that generate no text."""


Group = tuple[str | None, str, str]
"""Suite, task without its subset, and shots of the tasks that a mean is over."""


@dataclass(frozen=True)
class Run:
    """The columns that all rows of a file share, the configurations of tasks, the tasks that each mean is over as text, and
    the settings by which text was generated."""

    common: Row
    configs: Row
    members: Mapping[Group | None, str]
    generation: Row


def read_run(document: Row, path: Path) -> Run:
    """The run of a document with `config_general`."""
    general: Row = document["config_general"]
    config = object_at(general, "model_config")
    names = (general.get("model_name"), config.get("model_name"), config.get("pretrained"))
    run_at, _ = read_run_at(time_in_name(path), path)
    sha = text_or_none(general.get("lighteval_sha"))
    common = {
        **EMPTY_ROW,
        "harness": HARNESS,
        "harness_commit": None if sha == "?" else sha,
        "declared_model": next((name for name in names if is_text(name)), None),
        **_model_columns(general, config),
        "chat_template": _chat_template(general, config),
        "sample_limit": finite(general.get("max_samples")),
        "run_at": run_at,
    }
    stated = object_at(general, "generation_parameters") | object_at(config, "generation_parameters")
    generation = {name: value for name, value in stated.items() if value is not None and value != {}}
    return Run(common, object_at(document, "config_tasks"), _members(document["results"]), generation)


def task_columns(key: str, parts: re.Match[str] | None, run: Run) -> Row:
    """The columns that all metrics of a key of `results` share. A mean over tasks has their number and a hash of their keys in
    its subset, as one over other tasks is another measure."""
    shots = int(parts["shots"]) if parts and int(parts["shots"]) <= INT32_MAX else None
    task = parts["task"] if parts else MEAN_OF_ALL
    columns: Row = {"suite": suite_of_shots(shots), "n_shot": shots, "is_group": parts is None or task.endswith(MEAN_SUFFIX)}
    settings: Row = {"suite": parts["suite"] if parts else None}
    if columns["is_group"]:
        settings["tasks"] = run.members.get(_group_of(parts) if parts else None)
        return columns | {"subset": settings_text(settings | run.generation)}
    config = config_of(key, run.configs)
    splits = config.get("evaluation_splits")
    if shots:
        settings |= {"fewshot_split": config.get("few_shots_split"), "fewshot_select": config.get("few_shots_select")}
    settings["dataset_revision"] = config.get("hf_revision")
    if _is_generative(config):
        settings |= run.generation
    columns |= {
        "subset": settings_text(settings, setting_text(text_or_none(config.get("hf_subset")))),
        "dataset": text_or_none(config.get("hf_repo")),
        "split": "+".join(split for split in splits if is_text(split)) or None if isinstance(splits, list) else None,
    }
    return columns | _documents(config, run)


def config_of(key: str, configs: Mapping[str, Any]) -> Row:
    """The configuration of a task. Its key has the suite and the shots, or lacks one of them, by the version of the file."""
    parts = KEY.fullmatch(key)
    if parts is None:
        return {}
    suite, task, shots = parts["suite"], parts["task"], parts["shots"]
    keys = [key, f"{suite}|{task}|{shots}", f"{suite}|{task}", f"{task}|{shots}", task]
    return next((configs[name] for name in keys if isinstance(configs.get(name), dict)), {})


def _model_columns(general: Row, config: Row) -> Row:
    stated = {
        name: value
        for name, value in config.items()
        if name not in OF_PROMPTS and USUAL_ARGUMENTS.get(name, ...) != value and isinstance(name, str)
    }
    backend = next((engine for name, engine in ENGINES.items() if name in config), None)
    resolved = {"sha": general.get("model_sha") or config.get("model_sha"), "dtype": general.get("model_dtype")}
    return run_columns(stated, resolved, backend=backend, revision=general.get("model_revision"))


def _chat_template(general: Row, config: Row) -> str | None:
    """How prompts were set as a chat, as far as it is stated: without a word lighteval takes the template that the tokenizer
    has, if it has one."""
    stated = [place.get(key) for place in (general, config) for key in ("use_chat_template", "override_chat_template")]
    choice = next((value for value in stated if isinstance(value, bool)), None)
    parts = [] if choice is None else ["template" if choice else "no template"]
    prompts = [place.get("system_prompt") for place in (config, general)]
    parts += [f"system {short_hash(prompt)}" for prompt in prompts if isinstance(prompt, str) and prompt][:1]
    return ", ".join(parts) or None


def _group_of(parts: re.Match[str]) -> Group:
    return parts["suite"], parts["task"].partition(":")[0], parts["shots"]


def _members(keys: Iterable[str]) -> dict[Group | None, str]:
    """The number of the tasks that each mean is over and a hash of their keys; under None those of all tasks."""
    members: dict[Group | None, list[str]] = {}
    for key in keys:
        parts = KEY.fullmatch(key)
        if parts is not None and not parts["task"].endswith(MEAN_SUFFIX):
            members.setdefault(_group_of(parts), []).append(key)
            members.setdefault(None, []).append(key)
    return {group: f"{len(tasks)} {short_hash(sorted(tasks))}" for group, tasks in members.items()}


def _is_generative(config: Row) -> bool:
    """Whether a task may generate text; only metrics that say they do not rule it out."""
    metrics = config.get("metrics", config.get("metric"))
    categories = [metric.get("category") for metric in metrics if isinstance(metric, dict)] if isinstance(metrics, list) else []
    return not categories or not all(
        isinstance(category, str) and WITHOUT_SAMPLING.fullmatch(category.rpartition(".")[2].upper()) for category in categories
    )


def _documents(config: Row, run: Run) -> Row:
    """How many documents were scored. A cap that left none out is none."""
    all_documents, scored = (whole_number(config.get(key)) for key in ("original_num_docs", "effective_num_docs"))
    columns: Row = {"n_samples": scored or None}
    if all_documents and scored and scored >= all_documents:
        columns["sample_limit"] = None
    return columns
