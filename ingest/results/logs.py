"""Numbers in the logs of Wanda, SparseGPT, SliceGPT, LLM-Pruner and FLAP: text files, a number a line.

The lines are those that the published scripts print: perplexities (per token), sparsities and shares (fractions), parameter
counts, and SliceGPT's speed. A log does not state the context length, so seq_len is null with a note, and so is a dataset that
the tool does not name. What FLAP calls sparsity is the share of weights that are kept, and so is LLM-Pruner's Ratio: the metric
of both is kept_fraction.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerhouse.errors import InputError
from layerhouse.ingest.checkpoint.limits import allowed, exceeded
from layerhouse.ingest.checkpoint.notes import Note, note
from layerhouse.ingest.results.log_lines import MAX_LINE, PART, Lines, find_lines, lines_behind, lower_case
from layerhouse.ingest.results.parsed import EMPTY_ROW, Item, ParsedResults, ResultFormat, Row, parsed_results
from layerhouse.ingest.results.rows import left_out_line, measure
from layerhouse.ingest.results.run_times import read_run_at

MAX_LINES = 100_000
"""Lines of a log that may hold results."""
NUMBER = r"([+-]?(?:nan|inf|[0-9][0-9,]*(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?))"
DATASETS = {"wikitext": "wikitext2", "ptb-new": "ptb", "c4-new": "c4"}
"""Names of the tools for datasets, and those of the warehouse."""

LLM_PRUNER_PPL = re.compile(r"PPL (before|after) (pruning|finetuning|[a-z ]+): *(\{[^{}]{1,500}\})")
LLM_PRUNER_PARAMS = re.compile(r"#Param before: ([0-9]+), #Param after: ([0-9]+), Ratio = ([0-9.]+)%")
FLAP_PPL = re.compile(rf"ppl on (\S+) {NUMBER}", re.IGNORECASE)
FLAP_PARAMS = re.compile(r"model parameter ([0-9.]+) ?B")
SPARSITY = re.compile(rf"sparsity sanity check {NUMBER}", re.IGNORECASE)
# Tried at starts of words alone: trying every character would take quadratic time in the length of a word.
WANDA_PPL = re.compile(rf"(?<!\S)(\S+) perplexity {NUMBER}$", re.IGNORECASE)
WANDA_TABLE = "method\tactual_sparsity\tppl_test"
SPARSEGPT_DATASET = re.compile(r"Dataset: (\S+)")
SPARSEGPT_DATASETS = ("wikitext2", "ptb", "c4", "ptb-new", "c4-new")
NAMES_ALONE = tuple(f"\n{name}" for name in SPARSEGPT_DATASETS)
SPARSEGPT_PPL = re.compile(rf"Perplexity: {NUMBER}", re.IGNORECASE)
SLICEGPT_PPL = re.compile(
    rf"(Original ppl|After rotating and slicing|Loaded model perplexity|PPL (?:before|after) finetuning):? {NUMBER}",
    re.IGNORECASE,
)
SLICEGPT_PARAMS = re.compile(r"Sliced model parameters: ([0-9,]+) \(sliced fraction ([0-9.-]+)\)")
SLICEGPT_SPEED = re.compile(r"(?:Throughput|Latency|Median time per batch): ([0-9.]+) (token/s|s/token|s/batch)")
SLICEGPT_SPEEDS = {
    "token/s": ("tokens_per_sec", "tok/s", True),
    "s/token": ("latency_s_per_token", "s/token", False),
    "s/batch": ("latency_s_per_batch", "s/batch", False),
}
"""Metric, unit and higher_is_better by the printed unit."""

ENTRY = re.compile(rf"""\s*(?:'([^']*)'|"([^"]*)"): *(?:np\.float\d\d\()?{NUMBER}\)?\s*(?:,|$)""", re.IGNORECASE)
"""An entry of a printed dictionary of numbers."""


def _llm_pruner(lines: Lines) -> Iterator[Item]:
    for where, line in lines:
        if counts := LLM_PRUNER_PARAMS.search(line):
            kept = _number(counts[3])
            yield _info(where, "params_before", _integer(counts[1]), "parameters")
            yield _info(where, "params", _integer(counts[2]), "parameters")
            yield _share(where, "kept_fraction", kept / 100 if isinstance(kept, float) else kept, "after over before")
        if match := LLM_PRUNER_PPL.search(line):
            values = _dictionary(match[3])
            if values is None:
                yield left_out_line(where, "no dictionary of numbers")
                continue
            for dataset, value in values.items():
                yield _perplexity(where, str(dataset), value, f"{match[1]} {match[2]}")


def _flap(lines: Lines) -> Iterator[Item]:
    for where, line in lines:
        if match := FLAP_PPL.search(line):
            yield _perplexity(where, match[1], match[2])
        elif match := SPARSITY.search(line):
            yield _share(where, "kept_fraction", match[1], "FLAP prints the share of weights kept as sparsity")
        elif match := FLAP_PARAMS.search(line):
            billions = _number(match[1])
            params = billions * 1e9 if isinstance(billions, float) else billions
            yield _info(where, "params", params, "parameters", note("rounded", f"printed as {match[1]}B"))


def _slicegpt(lines: Lines) -> Iterator[Item]:
    for where, line in lines:
        if match := SLICEGPT_PPL.search(line):
            yield _perplexity(where, None, match[2], match[1].lower())
        if match := SLICEGPT_PARAMS.search(line):
            yield _info(where, "params", _integer(match[1].replace(",", "")), "parameters")
            yield _share(where, "sliced_fraction", match[2], "1 - sliced over original parameters, rotations included")
        if match := SLICEGPT_SPEED.search(line):
            metric, unit, direction = SLICEGPT_SPEEDS[match[2]]
            columns: Row = {"suite": "speed", "task": "speed", "unit": unit, "higher_is_better": direction}
            yield measure(where, metric, _number(match[1]), **columns)


def _sparsegpt(lines: Lines) -> Iterator[Item]:
    """A perplexity belongs to the dataset that was named last before it."""
    dataset: str | None = None
    for where, line in lines:
        if match := SPARSEGPT_DATASET.search(line):
            dataset = match[1]
        elif line.strip() in SPARSEGPT_DATASETS:
            dataset = line.strip()
        elif match := SPARSEGPT_PPL.search(line):
            yield _perplexity(where, dataset, match[1])


def _wanda(lines: Lines) -> Iterator[Item]:
    """The lines of main.py, or the table that it writes to log_*.txt: method, sparsity, perplexity on WikiText-2."""
    has_table = False
    for where, line in lines:
        has_table |= WANDA_TABLE in line
        if match := SPARSITY.search(line):
            yield _share(where, "sparsity", match[1], "zeros over the weights of decoder linears")
        elif match := WANDA_PPL.search(line):
            yield _perplexity(where, match[1], match[2])
        elif has_table and len(cells := line.split("\t")) == 3 and cells[1] != "actual_sparsity":
            yield _share(where, "sparsity", cells[1], "zeros over the weights of decoder linears")
            yield _perplexity(where, "wikitext", cells[2])


@dataclass(frozen=True)
class Tool:
    """A program that writes logs. A line with one of the patterns tells it; lines with one of the words, in lower case, are all
    that `read` makes its items of, and those behind the header `table`.
    """

    name: str
    words: tuple[str, ...]
    patterns: tuple[re.Pattern[str], ...]
    read: Callable[[Lines], Iterator[Item]]
    table: str | None = None


TOOLS = (
    Tool("llm_pruner", ("ppl before ", "ppl after ", "#param before: "), (LLM_PRUNER_PPL, LLM_PRUNER_PARAMS), _llm_pruner),
    Tool("flap", ("ppl on ", "sparsity sanity check ", "model parameter "), (FLAP_PPL, FLAP_PARAMS), _flap),
    Tool(
        "slicegpt",
        (
            *("original ppl", "after rotating and slicing", "loaded model perplexity", "ppl before finetuning"),
            *("ppl after finetuning", "sliced model parameters: ", "throughput: ", "latency: ", "median time per batch: "),
        ),
        (SLICEGPT_PPL, SLICEGPT_PARAMS),
        _slicegpt,
    ),
    Tool("sparsegpt", ("perplexity: ", "dataset: ", *NAMES_ALONE), (SPARSEGPT_PPL,), _sparsegpt),
    Tool("wanda", (" perplexity ", "sparsity sanity check ", WANDA_TABLE), (WANDA_PPL,), _wanda, WANDA_TABLE),
)
"""In the order in which they are tried, as FLAP also prints what Wanda does."""


def recognises(document: Any, path: Path) -> bool:
    """Text with a line that one of the tools prints."""
    return isinstance(document, str) and _tool_of(document) is not None


def parse(document: str, path: Path) -> ParsedResults:
    """A row for every number in a known line; of a measure that is printed several times, the last value. Raises InputError for
    more lines than the limit, of which none would be the last."""
    found = _tool_of(document)
    assert found is not None
    tool, lines = found
    if len(lines) > allowed(MAX_LINES):
        raise InputError(str(path), exceeded("lines of results", allowed(MAX_LINES)))
    run_at, notes = read_run_at(None, path)
    common = {**EMPTY_ROW, "harness": tool.name, "run_at": run_at, "is_group": False}
    parsed = parsed_results(tool.read(lines), common, notes)
    last_rows: dict[tuple[Any, ...], Row] = {}
    counts: dict[tuple[Any, ...], int] = {}
    for row in parsed.rows:
        key = row["suite"], row["dataset"], row["subset"], row["metric"]
        counts[key] = counts.get(key, 0) + 1
        last_rows[key] = row
    left_out = [*parsed.left_out]
    if parts := [where for where, _ in lines if where.endswith(PART)]:
        more = f" and {len(parts) - 1} more lines" if len(parts) > 1 else ""
        left_out.append(left_out_line(f"{parts[0]}{more}", f"only {MAX_LINE:,} characters around a result's words are read"))
    for key, count in counts.items():
        if count > 1:
            name = " ".join(str(part) for part in key[1:] if part is not None)
            left_out.append(left_out_line(name, f"stated {count} times, the last counts"))
    return ParsedResults(tuple(last_rows.values()), tuple(left_out))


FORMAT: ResultFormat = ResultFormat("logs", recognises, parse)


def _tool_of(text: str) -> tuple[Tool, Lines] | None:
    """The program that printed a log, and the lines that it may have printed results in."""
    lowered = lower_case(text)
    for tool in TOOLS:
        lines = find_lines(text, lowered, tool.words, most=allowed(MAX_LINES) + 1)
        has_table = tool.table is not None and any(tool.table in line for _, line in lines)
        if has_table or any(pattern.search(line) for _, line in lines for pattern in tool.patterns):
            return tool, [*lines, *(lines_behind(text, tool.table) if has_table and tool.table else ())]
    return None


def _perplexity(where: str, dataset: str | None, value: Any, subset: str | None = None) -> Item:
    name = None if dataset is None else DATASETS.get(dataset.lower(), dataset.lower())
    notes = [note("context", "the log does not say the context length")]
    if name is None:
        notes.append(note("dataset", "the log does not name the dataset"))
    columns: Row = {"suite": "perplexity", "task": name, "dataset": name, "subset": subset, "notes": notes}
    return measure(where, "perplexity", _number(value), **columns, unit="per_token", higher_is_better=False)


def _share(where: str, metric: str, value: Any, meaning: str) -> Item:
    return _info(where, metric, _number(value), "fraction", note("share", meaning))


def _info(where: str, metric: str, value: Any, unit: str, *notes: Note) -> Item:
    return measure(where, metric, value, suite="model_info", task="model_info", unit=unit, notes=[*notes])


def _number(value: Any) -> Any:
    """Text as a float if it is one; anything else as it is, so that the line about it can show it."""
    if not isinstance(value, str):
        return value
    try:
        return float(value.replace(",", ""))
    except ValueError:
        return value


def _integer(digits: str) -> int | str:
    """Digits as an exact integer; too many of them as they are."""
    return int(digits) if 0 < len(digits) <= 18 else digits


def _dictionary(text: str) -> dict[str, str] | None:
    """A printed Python dictionary of numbers by name, in which nan and inf may stand; None if the text is none."""
    inner, values, at = text[1:-1], {}, 0
    while at < len(inner):
        entry = ENTRY.match(inner, at)
        if entry is None:
            return None
        values[entry[1] or entry[2] or ""] = entry[3]
        at = entry.end()
    return values
