"""Perplexities, sparsities and counts in the logs of Wanda, SparseGPT, SliceGPT, LLM-Pruner and FLAP: text, a line a number.

A log says no context length, so it stays unknown; a dataset that the tool does not name stays unknown too. What FLAP calls
sparsity is the share kept, and so is LLM-Pruner's Ratio: both are named so.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layerhouse.ingest.results.parsed import (
    EMPTY_ROW,
    Item,
    ParsedResults,
    ResultFormat,
    Row,
    left_out_line,
    measure,
    note,
    read_run_at,
)

NUMBER = r"([+-]?(?:nan|inf|[0-9][0-9,]*(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?))"
DATASETS = {"wikitext": "wikitext2", "ptb-new": "ptb", "c4-new": "c4"}
LLM_PRUNER = re.compile(r"PPL (before|after) (pruning|finetuning|[a-z ]+): *(\{[^{}]{1,500}\})")
PARAMS = re.compile(r"#Param before: ([0-9]+), #Param after: ([0-9]+), Ratio = ([0-9.]+)%")
FLAP = re.compile(rf"ppl on (\S+) {NUMBER}", re.IGNORECASE)
FLAP_PARAMS = re.compile(r"model parameter ([0-9.]+) ?B")
SANITY = re.compile(rf"sparsity sanity check {NUMBER}", re.IGNORECASE)
WANDA = re.compile(rf"(\S+) perplexity {NUMBER}$", re.IGNORECASE)
WANDA_TABLE = re.compile(r"method\tactual_sparsity\tppl_test")
SPARSE_DATASET = re.compile(r"Dataset: (\S+)")
SPARSE_VALUE = re.compile(rf"Perplexity: {NUMBER}", re.IGNORECASE)
SLICE = re.compile(
    rf"(Original ppl|After rotating and slicing|Loaded model perplexity|PPL (?:before|after) finetuning):? {NUMBER}",
    re.IGNORECASE,
)
SLICED = re.compile(r"Sliced model parameters: ([0-9,]+) \(sliced fraction ([0-9.-]+)\)")
SLICE_RATE = re.compile(r"(Throughput|Latency|Median time per batch): ([0-9.]+) (token/s|s/token|s/batch)")
TOOLS = (
    ("llm_pruner", (LLM_PRUNER, PARAMS)),
    ("flap", (FLAP, FLAP_PARAMS)),
    ("slicegpt", (SLICE, SLICED)),
    ("sparsegpt", (SPARSE_VALUE,)),
    ("wanda", (WANDA, WANDA_TABLE)),
)
MAX_LINES = 1_000_000


def recognises(document: Any, path: Path) -> bool:
    """Text with a line that one of the tools writes."""
    return isinstance(document, str) and _tool(document) is not None


def parse(document: str, path: Path) -> ParsedResults:
    """A row for every number that a known line gives; of a measure that stands several times, the last."""
    tool = _tool(document)
    assert tool is not None
    run_at, notes = read_run_at(None, path)
    common = {**EMPTY_ROW, "harness": tool, "run_at": run_at, "is_group": False}
    found: dict[tuple[Any, ...], Row] = {}
    repeats: dict[tuple[Any, ...], int] = {}
    left_out = []
    for item in _items(tool, document):
        if isinstance(item, str):
            left_out.append(item)
            continue
        row = {**common, **item, "notes": [*item.get("notes", ()), *notes]}
        measured = row["suite"], row["dataset"], row["subset"], row["metric"]
        repeats[measured] = repeats.get(measured, -1) + 1
        found[measured] = row
    for measured, count in repeats.items():
        if count:
            named = " ".join(str(part) for part in measured[1:] if part is not None)
            left_out.append(left_out_line(named, f"stated {count + 1} times, the last counts"))
    if document.count("\n") > MAX_LINES:
        left_out.append(left_out_line("lines", f"those after the first {MAX_LINES:,} are not read"))
    return ParsedResults(tuple(found.values()), tuple(left_out))


FORMAT: ResultFormat = ResultFormat("logs", recognises, parse)


def _tool(text: str) -> str | None:
    lines = text.splitlines()[:MAX_LINES]
    return next((tool for tool, patterns in TOOLS if any(pattern.search(line) for line in lines for pattern in patterns)), None)


def _items(tool: str, text: str) -> Iterator[Item]:
    dataset: str | None = None
    for number, line in enumerate(text.splitlines()[:MAX_LINES], 1):
        where = f"line {number}"
        if tool == "llm_pruner":
            yield from _llm_pruner(where, line)
        elif tool == "slicegpt":
            yield from _slicegpt(where, line)
        elif tool == "sparsegpt":
            if named := SPARSE_DATASET.search(line):
                dataset = named[1]
            elif line.strip() in ("wikitext2", "ptb", "c4", "ptb-new", "c4-new"):
                dataset = line.strip()
            elif value := SPARSE_VALUE.search(line):
                yield _perplexity(where, dataset, value[1])
        elif tool == "flap":
            if value := FLAP.search(line):
                yield _perplexity(where, value[1], value[2])
            elif value := SANITY.search(line):
                yield _share(where, "kept_fraction", value[1], "FLAP prints the share of weights kept as sparsity")
            elif value := FLAP_PARAMS.search(line):
                yield _info(where, "params", float(value[1]) * 1e9, "parameters", note("rounded", f"printed as {value[1]}B"))
        else:
            yield from _wanda(where, line, text)


def _wanda(where: str, line: str, text: str) -> Iterator[Item]:
    if value := SANITY.search(line):
        yield _share(where, "sparsity", value[1], "zeros over the weights of decoder linears")
    elif value := WANDA.search(line):
        yield _perplexity(where, value[1], value[2])
    elif WANDA_TABLE.search(text) and (cells := line.split("\t")) and len(cells) == 3 and cells[1] != "actual_sparsity":
        yield _share(where, "sparsity", cells[1], "zeros over the weights of decoder linears")
        yield _perplexity(where, "wikitext", cells[2])


def _llm_pruner(where: str, line: str) -> Iterator[Item]:
    if counts := PARAMS.search(line):
        yield _info(where, "params_before", int(counts[1]), "parameters")
        yield _info(where, "params", int(counts[2]), "parameters")
        yield _share(where, "kept_fraction", repr(float(counts[3]) / 100), "after over before")
    if found := LLM_PRUNER.search(line):
        try:
            values = ast.literal_eval(re.sub(r"\b(nan|inf)\b", r"'\1'", found[3]))
        except (ValueError, SyntaxError):
            yield left_out_line(where, "no dictionary of numbers")
            return
        for dataset, value in values.items():
            yield _perplexity(where, str(dataset), value, f"{found[1]} {found[2]}")


def _slicegpt(where: str, line: str) -> Iterator[Item]:
    if value := SLICE.search(line):
        yield _perplexity(where, None, value[2], value[1].lower())
    if counts := SLICED.search(line):
        yield _info(where, "params", int(counts[1].replace(",", "")), "parameters")
        yield _share(where, "sliced_fraction", counts[2], "1 - sliced over original parameters, rotations included")
    if rate := SLICE_RATE.search(line):
        metric = {"token/s": "tokens_per_sec", "s/token": "latency_s_per_token", "s/batch": "latency_s_per_batch"}[rate[3]]
        unit = "tok/s" if rate[3] == "token/s" else rate[3]
        yield measure(where, metric, float(rate[2]), suite="speed", task="speed", unit=unit, higher_is_better=metric[0] == "t")


def _perplexity(where: str, dataset: str | None, value: Any, subset: str | None = None) -> Item:
    name = None if dataset is None else DATASETS.get(dataset.lower(), dataset.lower())
    notes = [note("context", "the log does not say the context length")]
    if name is None:
        notes.append(note("dataset", "the log does not name the dataset"))
    number = _number(value)
    common: Row = {"suite": "perplexity", "task": name, "dataset": name, "subset": subset, "notes": notes}
    return measure(where, "perplexity", number, **common, unit="per_token", higher_is_better=False)


def _share(where: str, metric: str, value: str, said: str) -> Item:
    return measure(
        where, metric, _number(value), suite="model_info", task="model_info", unit="fraction", notes=[note("share", said)]
    )


def _info(where: str, metric: str, value: float, unit: str, *notes: Row) -> Item:
    return measure(where, metric, value, suite="model_info", task="model_info", unit=unit, notes=[*notes])


def _number(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return float(value.replace(",", ""))
    except ValueError:
        return value
