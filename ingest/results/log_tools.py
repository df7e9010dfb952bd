"""What the readers of logs share: the form of a printed number, a program that writes logs, and the rows of its lines."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from layerhouse.ingest.checkpoint.notes import Note, note
from layerhouse.ingest.results.log_lines import Lines
from layerhouse.ingest.results.parsed import Item
from layerhouse.ingest.results.rows import measure

NUMBER = r"([+-]?(?:nan|inf|[0-9][0-9,]*(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?))"
DATASETS = {"wikitext": "wikitext2", "wikitext-2": "wikitext2", "ptb-new": "ptb", "c4-new": "c4"}
"""Names of the tools for datasets, and those of the warehouse."""


@dataclass(frozen=True)
class Tool:
    """A program that writes logs. A line with one of the patterns tells it, if another line has `needed`; lines with one of the
    words, in lower case, are all that `read` makes its items of, and those behind the header `table`.
    """

    name: str
    words: tuple[str, ...]
    patterns: tuple[re.Pattern[str], ...]
    read: Callable[[Lines], Iterator[Item]]
    table: str | None = None
    needed: re.Pattern[str] | None = None


def perplexity_item(where: str, dataset: str | None, value: Any, subset: str | None = None) -> Item:
    """A perplexity per token. The log states no context length."""
    name = None if dataset is None else DATASETS.get(dataset.lower(), dataset.lower())
    notes = [note("context", "the log does not say the context length")]
    if name is None:
        notes.append(unnamed_dataset())
    stated = dataset if name is not None and dataset != name else None
    columns = {"suite": "perplexity", "task": name, "stated_task": stated, "dataset": name, "subset": subset, "notes": notes}
    return measure(where, "perplexity", to_number(value), **columns, unit="per_token", higher_is_better=False)


def unnamed_dataset() -> Note:
    """The note of a perplexity whose dataset is null."""
    return note("dataset", "the log does not name the dataset")


def share_item(where: str, metric: str, value: Any, meaning: str) -> Item:
    """A share of a model's weights."""
    return info_item(where, metric, to_number(value), "fraction", [note("share", meaning)])


def info_item(where: str, metric: str, value: Any, unit: str, notes: Sequence[Note] = ()) -> Item:
    """A count or share of a model."""
    return measure(where, metric, value, suite="model_info", task="model_info", unit=unit, notes=[*notes])


def to_number(value: Any) -> Any:
    """Text as a float if it is one; anything else as it is, so that the line about it can show it."""
    if not isinstance(value, str):
        return value
    try:
        return float(value.replace(",", ""))
    except ValueError:
        return value
