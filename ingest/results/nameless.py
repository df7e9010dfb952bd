"""Files that name no model, several in one folder: they are of one model, unless two of them measured the same."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = re.compile(r"(\.(json|jsonl|csv|tsv|log|txt|md|sql))+", re.IGNORECASE)
TIME = re.compile(
    r"(?<![A-Za-z0-9])(?:(?:19|20)\d\d-\d\d-\d\d(?:[T_ -]\d\d[-:_h]?\d\d(?:[-:_m]?\d\d)?(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?"
    r"|(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:[-_T]?\d{4,6})?|1[5-9]\d{8}(?:\.\d+)?)(?![A-Za-z0-9])"
)
"""A date, a date and a time, or seconds since 1970."""
RUN = re.compile(
    r"(?<![A-Za-z0-9])(?:(?:run|seed|trial|repeat|rep|try)[-_ ]?\d+|\d+[-_ ]?shots?)(?![A-Za-z0-9])", re.IGNORECASE
)
SEPARATORS = "-_. +"
NO_NAMES = re.compile(
    r"(?:results?|eval|evals|evaluations?|evaluated|scores?|metrics?|outputs?|out|logs?|lm|harness|lmeval|full|all|final|summary"
    r"|report|run|ppl|perplexity|zeroshot|fewshot|bench|benchmarks?)",
    re.IGNORECASE,
)
"""Words at the begin and end of a file's name that are no part of a model's name."""


@dataclass(frozen=True)
class NamelessFile:
    """A file whose rows name no model: its path, the hashes of what it measured, and the name that it has in the warehouse.

    With `is_name_kept` it keeps that name, which its user gave.
    """

    path: Path
    measures: frozenset[str]
    model_id: str | None = None
    is_name_kept: bool = False


def model_in_file_name(path: Path) -> str | None:
    """What a file's name says of a model: `pythia-1.4b` of `pythia-1.4b_results.json`. None of `results_2024-05-01.json`, of
    which times, runs and words for results leave nothing but numbers.
    """
    suffix = SUFFIXES.search(path.name)
    while suffix is not None and suffix.end() != len(path.name):
        suffix = SUFFIXES.search(path.name, suffix.end())
    stem = path.name[: suffix.start()] if suffix else path.name
    stem = RUN.sub("", TIME.sub("", stem)).strip(SEPARATORS)
    parts = re.split(rf"([{re.escape(SEPARATORS)}]+)", stem)
    while parts and (not parts[0] or parts[0].strip(SEPARATORS) == "" or NO_NAMES.fullmatch(parts[0])):
        parts.pop(0)
    while parts and (not parts[-1] or parts[-1].strip(SEPARATORS) == "" or NO_NAMES.fullmatch(parts[-1])):
        parts.pop()
    name = "".join(parts)
    return name if re.search(r"[^\W\d_]", name) else None


def are_of_several_models(files: Iterable[NamelessFile]) -> bool:
    """Whether two files measured the same and have names that say different models."""
    names: dict[str, str] = {}
    for file in files:
        name = model_in_file_name(file.path)
        if name is not None and any(names.setdefault(measure, name) != name for measure in file.measures):
            return True
    return False


def model_names(files: Sequence[NamelessFile], folder_name: str) -> list[str]:
    """The name of each file's model: that of the folder; if files of it are of several models, and for a file that was named
    so before, `FOLDER/NAME` with what the file's own name says.
    """
    are_several = are_of_several_models(files)
    names = []
    for file in files:
        own = model_in_file_name(file.path)
        if file.model_id is not None and (file.is_name_kept or (own is not None and file.model_id.endswith(f"/{own}"))):
            names.append(file.model_id)
        else:
            names.append(f"{folder_name}/{own}" if own is not None and are_several else folder_name)
    return names
