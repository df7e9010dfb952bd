"""What llama.cpp's llama-bench prints as markdown, its usual form, and as SQL (tools/llama-bench): a test a line.

A line of the table has the model's type, the settings that are not usual, `test` (pp512, tg128, pp512+tg128, and `@ d4096` for
the depth) and `t/s`, the mean rate and its deviation over repetitions, which is no standard error. `build: COMMIT (NUMBER)`
is the last line.
"""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from layerhouse.ingest.results.llama_bench import HARNESS, SETTINGS, bench_item, bench_metric, bench_subset, cells_as_test
from layerhouse.ingest.results.parsed import MAX_ROWS, Item, Row
from layerhouse.ingest.results.printed_tables import MAX_TABLES, find_tables
from layerhouse.ingest.results.rows import is_text, left_out_line
from layerhouse.ingest.results.speed import rate, speed_columns
from layerhouse.ingest.results.table_lines import cell_number

HEADER = re.compile(r"^[ \t>#]*\|[ \t]*model[ \t]*\|[^\n]{0,600}\|[ \t]*test[ \t]*\|[ \t]*t/s[ \t]*\|[ \t\r]*$", re.MULTILINE)
BUILD = re.compile(r"^[ \t>#]*build: ([0-9a-zA-Z]{1,40}) \(\d{1,9}\)", re.MULTILINE)
TEST = re.compile(r"(?:pp ?(\d{1,9}))?\+?(?:tg ?(\d{1,9}))?(?: @ d(\d{1,9}))?")
RATE = re.compile(r"(\S+)(?: ± \S+)?")
INSERT = re.compile(
    r"^INSERT INTO (?:test|llama_bench) \((build_commit, [^()\n]{1,4000})\) VALUES \('([^\n]{0,8000}?)'\);?[ \t\r]*$",
    re.MULTILINE,
)
NO_SETTINGS = frozenset({"model", "size", "params", "test", "t/s"})


def has_table(text: str) -> bool:
    """Whether a text has such a table, or such statements."""
    return HEADER.search(text) is not None or INSERT.search(text) is not None


def table_items(text: str, path: Path) -> Iterator[Item]:
    """The rate of every test."""
    yield from _printed(text)
    yield from _statements(text, path)


def _printed(text: str) -> Iterator[Item]:
    builds = [(match.start(), match[1]) for match in islice(BUILD.finditer(text), MAX_TABLES)]
    tables = list(find_tables(text, HEADER))
    for position, table in enumerate(tables):
        end = tables[position + 1].start if position + 1 < len(tables) else len(text)
        at = bisect(builds, (table.start, ""))
        is_own = at < len(builds) and builds[at][0] < end
        common = speed_columns(HARNESS) | {"harness_version": builds[at][1] if is_own else None}
        del common["run_at"]
        for where, cells in table.lines:
            if len(cells) != len(table.header):
                yield left_out_line(where, "another number of cells than the header has")
                continue
            yield _item(where, dict(zip(table.header, cells, strict=True)), common)


def _item(where: str, cells: dict[str, str], common: Row) -> Item:
    test, value = TEST.fullmatch(cells["test"]), RATE.fullmatch(cells["t/s"])
    if test is None or not (test[1] or test[2]) or value is None:
        return left_out_line(where, f"no test and rate, but {cells['test']} and {cells['t/s']}")
    prompt, generated = int(test[1] or 0), int(test[2] or 0)
    printed = {SETTINGS.get(name, name): cell for name, cell in cells.items() if name not in NO_SETTINGS}
    settings = {"depth": int(test[3] or 0), **printed}
    columns = common | {
        "declared_model": cells["model"] if is_text(cells["model"]) else None,
        "subset": bench_subset(prompt, generated, settings),
    }
    return rate(where, bench_metric(prompt, generated), cell_number(value[1]), **_without_defaults(columns))


def _without_defaults(columns: Row) -> Row:
    """The columns that are known: `rate` gives the others."""
    return {name: value for name, value in columns.items() if value is not None}


def _statements(text: str, path: Path) -> Iterator[Item]:
    counted, number = 0, 1
    for match in islice(INSERT.finditer(text), MAX_ROWS):
        number += text.count("\n", counted, match.start())
        counted = match.start()
        where = f"line {number}"
        names, values = match[1].split(", "), match[2].split("', '")
        if len(names) != len(values):
            yield left_out_line(where, "another number of values than of columns")
            continue
        test = bench_item(where, cells_as_test(dict(zip(names, values, strict=True))), path)
        yield speed_columns(HARNESS) | test if isinstance(test, dict) else test
