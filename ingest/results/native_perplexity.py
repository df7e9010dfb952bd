"""Perplexities of the study's own form: which dataset, and over which context length and stride."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerhouse.ingest.checkpoint.notes import Note, note
from layerhouse.ingest.results.parsed import Item, Row
from layerhouse.ingest.results.rows import left_out_line, measure, nothing_in, unusable
from layerhouse.ingest.results.scores import INT32_MAX, score
from layerhouse.vocabulary import ResultStatus

LONGEST_NAME = 1000
"""Characters of a name in which numbers are looked for at its end, which takes quadratic time at worst."""
MAX_SECTIONS = 20
"""Sections of perplexities up to which each dataset of one is compared with those of the others."""
TRAILING_NUMBERS = re.compile(r"(?:_[0-9]+)+\Z")

Score = tuple[ResultStatus, float | None]


@dataclass(frozen=True)
class Context:
    """Context length and stride of a perplexity, in tokens; None if unknown."""

    seq_len: int | None = None
    stride: int | None = None


def is_perplexity(key: str) -> bool:
    """Whether a key of `metrics` is a section of perplexities."""
    return key == "ppl" or key.startswith("ppl_")


def perplexity_items(key: str, value: Any, metrics: Row, path: Path) -> Iterator[Item]:
    """The perplexities of one section: an object by dataset, as `wikitext2 (wikitext-2-raw-v1)`, or one number."""
    where = f"metrics.{key}"
    metrics = {name: section for name, section in metrics.items() if is_perplexity(name)}
    key_context = _context_in_name(key)
    if key_context is None:
        yield left_out_line(where, f"context length and stride must be from 1 to {INT32_MAX} tokens")
        return
    if value is None:
        yield unusable(where, value, "an object or a number")
        return
    if value == {}:
        yield nothing_in(where)
    for name, number in value.items() if isinstance(value, dict) else [(None, value)]:
        context: Context = key_context
        notes: list[Note] = []
        if not key_context.seq_len:
            context, notes = _context_from_elsewhere(key, name, number, metrics, path)
        if name is None:
            notes.append(note("dataset", f"{key} names no dataset"))
        dataset, subset = _split_subset(name) if name else (name, None)
        columns: Row = {"suite": "perplexity", "task": dataset, "dataset": dataset, "subset": subset, "notes": notes}
        columns |= {"seq_len": context.seq_len, "stride": context.stride}
        value_path = where if name is None else f"{where}.{name}"
        yield measure(value_path, "perplexity", number, **columns, unit="per_token", higher_is_better=False)


def _split_subset(name: str) -> tuple[str, str | None]:
    """`wikitext2 (wikitext-2-raw-v1)` as a dataset and its subset; a name of another form as it is."""
    at = name.find("(", 1)
    dataset, subset = name[:at].rstrip(), name[at + 1 : -1]
    is_pair = at > 0 and name.endswith(")") and dataset and subset and not name[0].isspace()
    return (dataset, subset) if is_pair else (name, None)


def _context_in_name(name: str) -> Context | None:
    """What one or two trailing numbers of a key or file stem state, as in `ppl_2048_512`; None if they cannot be a context."""
    match = TRAILING_NUMBERS.search(name[-LONGEST_NAME:])
    numbers = match[0].split("_")[1:] if match else []
    if len(numbers) > 2:
        return Context()
    if not all(len(text) <= 10 and 1 <= int(text) <= INT32_MAX for text in numbers):
        return None
    return Context(*(int(text) for text in numbers))


def _context_from_elsewhere(key: str, dataset: str | None, number: Any, metrics: Row, path: Path) -> tuple[Context, list[Note]]:
    """The context of a key that states none, and notes on it.

    Plain `ppl` has the context in the file's name, unless another key has that context and a different value; else that of
    the keys with the same value for the same dataset, if they agree, as the study's scripts repeat one of them there.
    """
    unknown = [note("context", f"the file does not say the context length of {key}")]
    if key != "ppl" or len(metrics) > MAX_SECTIONS:
        return Context(), unknown
    own_score = _status_and_value(number)
    scores = _scores_with_context(metrics, dataset)
    equal_keys = [other for other, (_, other_score) in scores.items() if own_score == other_score]
    file_context = _context_in_name(path.stem) if path.stem.startswith("ppl") else None
    if file_context and file_context.seq_len:
        rivals = (other for other, (context, _) in scores.items() if context == file_context and other not in equal_keys)
        rival = next(rivals, None)
        if rival is None:
            return file_context, []
        return Context(), [note("context", f"the file's name gives ppl the context of {rival}, but the values differ")]
    if own_score and own_score[0] == ResultStatus.OK and len({scores[other][0] for other in equal_keys}) == 1:
        context, _ = scores[equal_keys[0]]
        return context, [note("context", f"{key} says no context length; its value is that of {equal_keys[0]}")]
    return Context(), unknown


def _scores_with_context(metrics: Row, dataset: str | None) -> dict[str, tuple[Context, Score]]:
    """Context and score of a dataset under each key that states a context and has a score of it."""
    scores = {}
    for key in metrics:
        context, key_score = _context_in_name(key), _status_and_value(_value_for(metrics[key], dataset))
        if context and context.seq_len and key_score and key_score[0] != ResultStatus.MISSING:
            scores[key] = context, key_score
    return scores


def _status_and_value(value: Any) -> Score | None:
    number = score(value)
    return (number["status"], number["value"]) if number else None


def _value_for(section: Any, dataset: str | None) -> Any:
    """A section's value for a dataset; the section itself if both are without a dataset."""
    if isinstance(section, dict):
        return None if dataset is None else section.get(dataset)
    return section if dataset is None else None
