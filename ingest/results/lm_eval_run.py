"""What a file of lm-evaluation-harness says of its run and of each task, beside the scores."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from layerhouse.ingest.checkpoint.limits import check_limit
from layerhouse.ingest.checkpoint.notes import Note, note
from layerhouse.ingest.results.parsed import EMPTY_ROW, Row
from layerhouse.ingest.results.rows import is_text, object_at, text_or_none
from layerhouse.ingest.results.run_times import read_run_at, time_in_name
from layerhouse.ingest.results.runs import argument_text, run_columns, short_hash, split_arguments
from layerhouse.ingest.results.scores import INT32_MAX, finite, is_number, whole_number
from layerhouse.ingest.results.settings import setting_text, settings_text
from layerhouse.ingest.results.tasks import suite_of_shots
from layerhouse.vocabulary import ResultStatus

HARNESS = "lm_eval"
NO_MEASURES = ("alias", "name", "sample_len", "sample_count", "samples")
"""Keys of a task that are no scores."""
MODEL_ARGUMENTS = ("pretrained", "model", "path", "engine")
OVER_MODEL = ("peft", "delta", "adapter", "lora_local_path")
"""Arguments that name what is laid over the model."""
GPU = re.compile(r"^GPU 0: (.{1,120})$", re.MULTILINE)
LENGTH = re.compile(r"[1-9]\d{1,8}")
"""A metric that is a length of context, in tokens."""
NOT_RUN = -1
GENERATED = ("generate_until", None)
"""Output types of tasks that generate text; None where the file does not say."""
MAX_STEPS = 1_000_000
LATEST_DATE = 1e11
"""Seconds since 1970; larger numbers are no dates."""


@dataclass(frozen=True)
class Run:
    """The columns that all rows of a file share, and the objects of the document that describe each task."""

    common: Row
    shots: Mapping[str, Any]
    samples: Mapping[str, Any]
    configs: Mapping[str, Any]
    directions: Mapping[str, Any]
    members: Mapping[str, Any]
    default_shots: int | None
    generation: str | None
    """Settings of generation that were given to the run, over those of its tasks, as text."""
    steps: list[int] = field(default_factory=lambda: [0])

    def spend(self, steps: int) -> None:
        """Count steps through groups. Raises InputError beyond the limit: groups of groups multiply them."""
        self.steps[0] += steps
        check_limit("result file", "members of groups", self.steps[0], MAX_STEPS)


def read_run(document: Row, path: Path) -> Run:
    """The run of a document with `results`."""
    config = object_at(document, "config")
    gpu = GPU.search(str(document.get("pretty_env_info") or ""))
    run_at, notes = _run_at(document, path)
    common = {
        **EMPTY_ROW,
        "harness": HARNESS,
        "harness_version": text_or_none(document.get("lm_eval_version")) or _generation(document),
        "harness_commit": text_or_none(document.get("git_hash")),
        **model_columns(config, document.get("model_name") or _model_path(config), document.get("model_source")),
        "chat_template": _chat_template(document),
        "hardware": gpu[1].strip() if gpu else None,
        "sample_limit": finite(config.get("limit")),
        "run_at": run_at,
        "notes": notes,
    }
    return Run(
        common,
        shots=object_at(document, "n-shot"),
        samples=object_at(document, "n-samples"),
        configs=object_at(document, "configs"),
        directions=object_at(document, "higher_is_better"),
        members=object_at(document, "group_subtasks"),
        default_shots=whole_number(config.get("num_fewshot"), INT32_MAX),
        generation=generation_text(config.get("gen_kwargs")),
    )


def model_columns(config: Mapping[str, Any], model_name: Any = None, source: Any = None) -> Row:
    """The model that a run's `config` names, and how it was loaded. With an adapter or delta weights, `model_name` is their
    name; the row names the model under them. `source` is the backend (`model_source`) where the config has none."""
    stated = config.get("model_args")
    arguments: dict[str, Any] = (
        split_arguments(stated) if isinstance(stated, str) else dict(stated) if isinstance(stated, dict) else {}
    )
    arguments = {name: value for name, value in arguments.items() if isinstance(name, str)}
    names = [model_name, *(arguments.get(key) for key in MODEL_ARGUMENTS)]
    is_over_model = any(arguments.get(key) for key in OVER_MODEL)
    declared = arguments.get("pretrained") if is_over_model else next((name for name in names if is_text(name)), None)
    # Up to 0.3 the model could stand in place of the backend, and 0.4 puts the whole config of a loaded model there.
    stated_model = config.get("model") if arguments or is_text(model_name) else None
    is_backend = is_text(stated_model) and "/" not in stated_model
    backend = stated_model if is_backend else text_or_none(source)
    resolved = {"sha": config.get("model_sha"), "dtype": config.get("model_dtype"), **_resolved_over(config)}
    columns = run_columns(arguments, resolved, backend=backend, revision=config.get("model_revision"))
    return {"declared_model": text_or_none(declared), **columns}


def generation_text(stated: Any) -> str | None:
    """`gen_kwargs`, an object or `temperature=0.6,do_sample=True`, as one text whatever the order; None if there are none."""
    if not isinstance(stated, str):
        return argument_text(stated)
    return argument_text(split_arguments(stated)) or (None if stated.strip() in ("", "None", "{}") else argument_text(stated))


def _resolved_over(config: Mapping[str, Any]) -> Row:
    """The commits of an adapter or of delta weights that were loaded."""
    return {"adapter_sha": config.get("peft_sha"), "delta_sha": config.get("delta_sha")}


def task_columns(task: str, run: Run, *, is_group: bool) -> Row:
    """The columns that all metrics of a task share.

    The number of shots is the task's own; for a group, that of its tasks if they have the same; else the run's.
    """
    config = object_at(run.configs, task)
    shots = whole_number(run.shots.get(task), INT32_MAX)
    if shots is None:
        shots = whole_number(config.get("num_fewshot"), INT32_MAX)
    if shots is None and is_group:
        member_shots = {whole_number(run.shots.get(leaf), INT32_MAX) for leaf in leaf_tasks(task, run)}
        shots = member_shots.pop() if len(member_shots) == 1 else None
    elif shots is None:
        shots = run.default_shots
    generation = run.generation if run.generation and _is_generated(task, run, is_group=is_group) else None
    return {
        "suite": suite_of_shots(shots),
        "n_shot": shots,
        "n_samples": whole_number(object_at(run.samples, task).get("effective")),
        "dataset": text_or_none(config.get("dataset_path")),
        "subset": settings_text({"gen_kwargs": generation}, setting_text(text_or_none(config.get("dataset_name")))),
        "split": text_or_none(config.get("test_split") or config.get("validation_split")),
        "language": text_or_none(config.get("language") or object_at(config, "metadata").get("language")),
        "sample_limit": _limit(object_at(run.samples, task), run.common["sample_limit"]),
        "is_group": is_group,
    }


def _is_generated(task: str, run: Run, *, is_group: bool) -> bool:
    """Whether a task, or one of a group's, generates text."""
    tasks = leaf_tasks(task, run) if is_group else [task]
    return any(object_at(run.configs, name).get("output_type") in GENERATED for name in tasks)


def _limit(samples: Row, limit: float | None) -> float | None:
    """The cap on the documents of a task. One that left none out is none; where documents were chosen, as by `--samples`, it is
    their number."""
    all_documents, scored = (whole_number(samples.get(key)) for key in ("original", "effective"))
    if all_documents is None or scored is None:
        return limit
    return (limit if limit is not None else float(scored)) if scored < all_documents else None


def at_length(row: Row, metric: str) -> Row:
    """A score of RULER (tasks/ruler/common_utils.py), whose metric is the length of the context in tokens: a share of strings
    that were found, or -1 where no document of that length was run. Any other row as it is."""
    if LENGTH.fullmatch(metric) is None:
        return row
    row["seq_len"] = int(metric)
    if row["value"] == NOT_RUN:
        text = f"the file says {row['value']:g}: nothing of {metric} tokens was run"
        missing = {"value": None, "value_integer": None, "status": ResultStatus.MISSING}
        return row | missing | {"notes": [note("not_run", text), *row["notes"]]}
    is_share = row["value"] is not None and 0 <= row["value"] <= 1
    return row | {"unit": "fraction", "higher_is_better": True} if is_share else row


def leaf_tasks(group: str, run: Run) -> list[str]:
    """The tasks of a group and of the groups in it, each once, in the order of the file. Groups may contain each other. Raises
    InputError beyond the limit on the steps of a file.
    """
    members = run.members
    leaves: dict[str, None] = {}
    seen: set[str] = set()
    waiting = _members_of(group, members)[::-1]
    while waiting:
        member = waiting.pop()
        if not isinstance(member, str) or member in seen:
            continue
        seen.add(member)
        run.spend(1)
        if below := _members_of(member, members):
            waiting += below[::-1]
        else:
            leaves[member] = None
    return [*leaves]


def _members_of(group: str, members: Mapping[str, Any]) -> list[Any]:
    """The members of a group; none of a task."""
    listed = members.get(group)
    return listed if isinstance(listed, list) else []


def _model_path(config: Row) -> str | None:
    """`model` of the config where the harness was given a loaded model, as LitGPT gives it: a path, of which `/evaluate` is
    LitGPT's folder for a checkpoint's converted weights. With `model_args`, and without a slash, `model` names a backend.
    """
    model = config.get("model")
    if config.get("model_args") or not is_text(model) or "/" not in model:
        return None
    return model.rstrip("/").removesuffix("/evaluate")


def _chat_template(document: Row) -> str | None:
    """How prompts were set as a chat, of keys that lm-eval writes since 0.4.3: the template's hash, turns, system prompt."""
    parts = []
    if template := _hashed(document, "chat_template"):
        parts = [f"template {template}", *(["multiturn"] if document.get("fewshot_as_multiturn") is True else [])]
    elif document.get("chat_template") is True:
        parts = ["template"]
    if system := _hashed(document, "system_instruction"):
        parts.append(f"system {system}")
    return ", ".join(parts) or None


def _hashed(document: Row, key: str) -> str | None:
    """The begin of the hash of a text, as the file states it, else of the text; None if there is no text."""
    stated = document.get(f"{key}_sha")
    if is_text(stated):
        return stated[:12]
    return short_hash(document[key]) if isinstance(document.get(key), str) and document[key] else None


def _generation(document: Row) -> str | None:
    """The generation of a file without a version: the keys of a task are `acc` up to 0.3 and `acc,FILTER` from 0.4 on."""
    if not document.keys() & {"versions", "configs", "git_hash"}:
        return None
    keys = {key for metrics in document["results"].values() if isinstance(metrics, dict) for key in metrics}
    measures = [key for key in keys if key not in NO_MEASURES]
    if not measures:
        return None
    return "0.4 or later" if any("," in key for key in measures) else "0.3 or earlier"


def _run_at(document: Row, path: Path) -> tuple[datetime | None, list[Note]]:
    """`date` in seconds since 1970, else the time in the file's name, else the file's modification time, with a note."""
    date = document.get("date")
    if is_number(date) and 0 < date < LATEST_DATE:
        return datetime.fromtimestamp(date, UTC), []
    return read_run_at(time_in_name(path), path)
