"""Results of lm-evaluation-harness, 0.2 to 0.4: `results` by task, with whatever the version writes beside them.

Key layouts (EleutherAI/lm-evaluation-harness, evaluator.py, loggers/evaluation_tracker.py): to 0.3 `acc`, `acc_stderr` and one
`config.num_fewshot`; from 0.4.0 `acc,FILTER`, `acc_stderr,FILTER` (a number, "N/A", [] or null), `n-shot`, `groups`,
`group_subtasks`, `n-samples`, `higher_is_better`, `configs`. SliceGPT writes the inner object alone
(`full_results_0_shot.json`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from layerhouse.ingest.results.parsed import (
    EMPTY_ROW,
    INT32_MAX,
    INT64_MAX,
    Item,
    ParsedResults,
    ResultFormat,
    Row,
    fill_task,
    is_text,
    left_out_line,
    note,
    read_run_at,
    score,
    stderr_of,
    unusable,
)
from layerhouse.ingest.results.task_names import canonical_task, suite_of_shots

HARNESS = "lm_eval"
NO_MEASURES = ("alias", "name", "sample_len", "sample_count", "samples")
MODEL_ARGUMENTS = ("pretrained", "model", "path", "engine")
FILE_TIME = re.compile(r"_(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d{1,6})?)$")
BARE_NAME = re.compile(r"full_results_(\d{1,4})_shot")
GPU = re.compile(r"^GPU 0: (.{1,120})$", re.MULTILINE)


@dataclass(frozen=True)
class Run:
    """What holds for every row of a file, and the parts of the document that say more of a task."""

    common: Row
    shots: Mapping[str, Any]
    samples: Mapping[str, Any]
    configs: Mapping[str, Any]
    directions: Mapping[str, Any]
    members: Mapping[str, Any]
    default_shots: int | None


def recognises(document: Any, path: Path) -> bool:
    """`results` of objects with `versions` or `configs` beside it and no `config_general`; or SliceGPT's bare tasks by name."""
    if not isinstance(document, dict):
        return False
    if BARE_NAME.fullmatch(path.stem):
        return bool(document) and all(isinstance(value, dict) for value in document.values())
    results = document.get("results")
    is_ours = any(isinstance(document.get(key), dict) for key in ("versions", "configs", "n-shot"))
    return isinstance(results, dict) and is_ours and "config_general" not in document


def parse(document: Any, path: Path) -> ParsedResults:
    """Every number of every task as a row; groups as groups, computed from their members where the file has no score."""
    bare = BARE_NAME.fullmatch(path.stem)
    if bare:
        document = {"results": document, "config": {"num_fewshot": int(bare[1])}}
    run = _run(document, path)
    items: list[Item] = []
    results: dict[str, Any] = document["results"]
    groups = {name for name, members in run.members.items() if members}
    own_groups = document.get("groups")
    if isinstance(own_groups, dict):
        groups |= own_groups.keys()
        results = results | {name: value for name, value in own_groups.items() if name not in results}
    for task, found in results.items():
        if not isinstance(found, dict):
            items.append(unusable(f"results.{task}", found, "an object"))
            continue
        rows = [*_task(task, found, run, is_group=task in groups)]
        items += rows
        if task in groups and not any(isinstance(item, dict) for item in rows):
            items += _computed(task, results, run)
    taken = [item for item in items if isinstance(item, dict)]
    return ParsedResults(tuple(taken), tuple(item for item in items if isinstance(item, str)))


FORMAT: ResultFormat = ResultFormat(HARNESS, recognises, parse)


def _run(document: Row, path: Path) -> Run:
    config = _object(document, "config")
    arguments = _arguments(config.get("model_args"))
    named = [document.get("model_name"), *(arguments.get(key) for key in MODEL_ARGUMENTS)]
    # For an adapter the harness names the adapter: what it was put on comes first.
    declared = arguments.get("pretrained") if arguments.get("peft") else next((name for name in named if is_text(name)), None)
    gpu = GPU.search(str(document.get("pretty_env_info") or ""))
    run_at, notes = _run_at(document, path)
    limit = config.get("limit")
    version = document.get("lm_eval_version")
    revision = config.get("model_revision") or arguments.get("revision")
    common = {
        **EMPTY_ROW,
        "harness": HARNESS,
        "harness_version": version if is_text(version) else None,
        "declared_model": declared if is_text(declared) else None,
        "adapter": arguments.get("peft") or None,
        "revision": revision if is_text(revision) else None,
        "hardware": gpu[1].strip() if gpu else None,
        "sample_limit": float(limit) if isinstance(limit, int | float) and not isinstance(limit, bool) else None,
        "run_at": run_at,
        "notes": notes,
    }
    shots = _count(config.get("num_fewshot"), INT32_MAX)
    return Run(
        common,
        shots=_object(document, "n-shot"),
        samples=_object(document, "n-samples"),
        configs=_object(document, "configs"),
        directions=_object(document, "higher_is_better"),
        members=_object(document, "group_subtasks"),
        default_shots=shots,
    )


def _task(task: str, found: Row, run: Run, *, is_group: bool) -> Iterator[Item]:
    where = f"results.{task}"
    columns = run.common | _columns(task, run, is_group=is_group)
    directions = _object(run.directions, task)
    for key, value in found.items():
        metric, comma, answer_filter = key.partition(",")
        if key in NO_MEASURES:
            continue
        if metric.endswith("_stderr"):
            if f"{metric.removesuffix('_stderr')}{comma}{answer_filter}" not in found:
                yield left_out_line(f"{where}.{key}", "the standard error of a measure that is not there")
            continue
        if is_group and isinstance(value, str) and not value.strip():
            continue
        name, own_metric = canonical_task(task, metric)
        stderr = found.get(f"{metric}_stderr{comma}{answer_filter}")
        direction = directions.get(metric)
        columns["task"], columns["stderr"] = name, stderr_of(stderr)
        columns["filter"] = None if answer_filter in ("", "none") else answer_filter
        row = fill_task(columns, f"{where}.{key}", own_metric, value, run.common["notes"])
        if isinstance(row, dict) and isinstance(direction, bool):
            row["higher_is_better"] = direction
        yield row


def _columns(task: str, run: Run, *, is_group: bool) -> Row:
    config = _object(run.configs, task)
    shots = _count(run.shots.get(task), INT32_MAX)
    if shots is None:
        shots = _count(config.get("num_fewshot"), INT32_MAX)
    if shots is None and is_group:
        of_leaves = {_count(run.shots.get(leaf), INT32_MAX) for leaf in _leaves(task, run.members)}
        shots = of_leaves.pop() if len(of_leaves) == 1 else None
    elif shots is None:
        shots = run.default_shots
    samples = _object(run.samples, task)
    dataset, subset = config.get("dataset_path"), config.get("dataset_name")
    split = config.get("test_split") or config.get("validation_split")
    return {
        "suite": suite_of_shots(shots),
        "n_shot": shots,
        "n_samples": _count(samples.get("effective"), INT64_MAX),
        "dataset": dataset if is_text(dataset) else None,
        "subset": subset if is_text(subset) else None,
        "split": split if is_text(split) else None,
        "is_group": is_group,
    }


def _computed(group: str, results: Mapping[str, Any], run: Run) -> list[Item]:
    """A group without a score: the mean of its leaves, weighted by their documents, metric by metric; none where a leaf lacks
    the metric or its number of documents."""
    leaves = _leaves(group, run.members)
    found = [_object(results, leaf) for leaf in leaves]
    if not leaves or not all(found):
        return [left_out_line(f"results.{group}", "a group without a score, some of whose members are not there")]
    sizes = [_count(_object(run.samples, leaf).get("effective"), INT64_MAX) for leaf in leaves]
    items: list[Item] = []
    for key in [key for key in found[0] if key not in NO_MEASURES and "_stderr" not in key]:
        values = [number["value"] for one in found if (number := score(one.get(key))) and number["value"] is not None]
        known = [size for size in sizes if size is not None]
        if len(values) < len(leaves) or len(known) < len(leaves) or not sum(known):
            items.append(left_out_line(f"results.{group}.{key}", "no score, and not every member has one and its size"))
            continue
        mean = sum(value * size for value, size in zip(values, known, strict=True)) / sum(known)
        metric, _, answer = key.partition(",")
        name, own_metric = canonical_task(group, metric)
        said = f"computed: the mean of {len(leaves)} members weighted by their documents; the file has no score of the group"
        columns = run.common | _columns(group, run, is_group=True) | {"task": name, "n_samples": sum(known)}
        columns["filter"] = None if answer in ("", "none") else answer
        notes = [note("computed", said), *run.common["notes"]]
        items.append(fill_task(columns, f"results.{group}.{key}", own_metric, mean, notes))
    return items


def _leaves(group: str, members: Mapping[str, Any], seen: frozenset[str] = frozenset()) -> list[str]:
    """The tasks under a group, groups within it opened; each once."""
    leaves: dict[str, None] = {}
    for member in members.get(group) or ():
        if not isinstance(member, str) or member in seen:
            continue
        below = _leaves(member, members, seen | {group}) if members.get(member) else [member]
        leaves |= dict.fromkeys(below)
    return [*leaves]


def _arguments(said: Any) -> dict[str, str]:
    """model_args: `pretrained=/m,dtype=float16`, or an object. Keys that hold secrets are never looked at."""
    if isinstance(said, dict):
        return {
            key: value
            for key, value in said.items()
            if key in (*MODEL_ARGUMENTS, "peft", "revision") and isinstance(value, str)
        }
    if not isinstance(said, str):
        return {}
    pairs = (part.partition("=") for part in said.split(","))
    return {key.strip(): value.strip() for key, equals, value in pairs if equals}


def _run_at(document: Row, path: Path) -> tuple[datetime | None, list[Row]]:
    """`date` in seconds since 1970, else the time in the file's name, else when the file was changed."""
    date = document.get("date")
    if isinstance(date, int | float) and not isinstance(date, bool) and 0 < date < 1e11:
        return datetime.fromtimestamp(date, UTC), []
    named = FILE_TIME.search(path.stem)
    if named:
        day, _, time = named[1].partition("T")
        return read_run_at(f"{day}T{time.replace('-', ':')}", path)
    return read_run_at(None, path)


def _object(holder: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = holder.get(key)
    return value if isinstance(value, dict) else {}


def _count(value: Any, most: int) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most else None
