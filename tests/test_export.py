"""Output formats: golden files of one table of difficult values, and properties that hold for every table.

`LAYERHOUSE_UPDATE_GOLDEN=1 pytest tests/test_export.py` rewrites the golden files; review the diff.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import subprocess
import sys
import unicodedata
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.cells import cell_len

from layerhouse.errors import UsageError
from layerhouse.escapes import visible
from layerhouse.warehouse.render import (
    FORMATS,
    Format,
    format_of,
    register,
    resolve_format,
    write_table,
)
from layerhouse.warehouse.render.columns import COLUMNS, describe
from layerhouse.warehouse.render.kinds import (
    COUNT,
    GIB,
    MS,
    NUMBER,
    PPL,
    RATIO,
)
from layerhouse.warehouse.render.numbers import number_text

GOLDEN = Path(__file__).parent / "golden" / "export"
NOTES = pa.list_(pa.struct([("code", pa.string()), ("text", pa.string())]))
TRAPS = (
    *(
        "a|b",
        "two\nlines",
        "=x",
        "Größe/é",
        "数据/模型",
        "123",
        "007",
        "1e5",
        "null",
        'say "hi"',
        "it's, so",
        "tab\tbed",
    ),
    *(
        "esc\x1b[31m",
        "nul\x00",
        "c1\x9b",
        "cr\r\nlf",
        "cr\ralone",
        "rtl\u202e",
        "ls\u2028",
        "back\\slash|",
        "`tick`",
        "<b>&amp;",
    ),
    *("*a* _b_ __c__ ~d~ a_b", "[x](y)", "$e$", " edges ", "\u00a0nbsp", "-", "none", "", "NaN", "👩‍💻", "\\"),
)


def nasty() -> pa.Table:
    """A table with one row per trap. The other columns have traps of their own and are null after the last one."""

    def column(kind, *values):
        return pa.array([*values, *[None] * (len(TRAPS) - len(values))], kind)

    big = 2**53 + 1
    return pa.table(
        {
            "model_id": column(pa.string(), *TRAPS),
            "params": column(pa.int64(), 8030261248, big, 0, -1234, 2**63 - 1),
            "reduction_ratio": column(pa.float64(), 0.123456789, math.nan, 0.0, -0.0, 1.0, 0.99999, 1.2e-5, 1e-9, -0.25),
            "size_gb": column(pa.float64(), 14.9575, math.inf, -math.inf, 0.0004, 1.0001, 1e15, 1e300),
            "ppl_wikitext2": column(pa.float64(), 146760.7188, 5.125, 1e20),
            "removed_layers": column(pa.list_(pa.int32()), [9, 11, 12], [], None, [3, None]),
            "perplexities": column(pa.map_(pa.string(), pa.float64()), {"ptb": 44.104, "c4": None}, {}, {"x": math.nan}),
            "is_zero_layer": column(pa.bool_(), True, False),
            "compact_size_gb": column(pa.float64()),
            "notes": column(NOTES, [{"code": "a", "text": "x|y\nz"}, {"code": "b", "text": None}], []),
            "run_at": column(
                pa.timestamp("us", "Asia/Shanghai"),
                datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC),
                1,
                -62_135_596_800_000_001,
            ),
            "total": column(pa.decimal128(38, 0), Decimal(big)),
        }
    )


def written(table: pa.Table, name: str, **options) -> bytes:
    stream = io.BytesIO()
    write_table(table, name, stream, **options)
    return stream.getvalue()


def text_of(table: pa.Table, name: str = "text", **options) -> str:
    return written(table, name, **options).decode()


def read_text_table(text: str) -> list[list[str]]:
    """Heading and rows of one text table, split at the widths of its dashed line, in terminal cells."""
    lines = text.splitlines()
    widths = [len(dashes) for dashes in lines[1].split("  ")]
    rows = []
    for line in (lines[0], *lines[2:]):
        cells, rest = [], line
        for width in widths:
            cut = next(n for n in range(len(rest) + 1) if n == len(rest) or cell_len(rest[:n]) == width)
            while cut < len(rest) and cell_len(rest[: cut + 1]) == width:  # a combining mark belongs to the letter before it
                cut += 1
            cells.append(rest[:cut].strip(" "))
            rest = rest[cut + 2 :]
        assert not rest
        rows.append(cells)
    return rows


def read_markdown(text: str) -> list[list[str]]:
    """The rows of a Markdown table as a Markdown renderer shows them."""
    rows: list[list[str]] = []
    for token in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text):
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline" and rows:
            children = token.children or []
            assert {child.type for child in children} <= {"text", "text_special", "html_inline"}, token.content
            assert {child.content for child in children if child.type == "html_inline"} <= {"<br>"}
            rows[-1].append("".join("\n" if child.type == "html_inline" else child.content for child in children))
    return rows


@pytest.mark.parametrize(("name", "suffix"), [(f.name, f.suffixes[0]) for f in FORMATS.values() if not f.is_binary])
def test_golden(name, suffix):
    path = GOLDEN / f"nasty{suffix}"
    data = written(nasty(), name, caption="All traps")
    if os.environ.get("LAYERHOUSE_UPDATE_GOLDEN"):
        path.write_bytes(data)
    assert data == path.read_bytes()


def test_golden_parquet_holds_the_same_table():
    """Parquet bytes contain the version of the library that wrote them, so the golden file is compared as a table."""
    path = GOLDEN / "nasty.parquet"
    data = written(nasty(), "parquet")
    if os.environ.get("LAYERHOUSE_UPDATE_GOLDEN"):
        path.write_bytes(data)
    table, golden = pq.read_table(io.BytesIO(data)), pq.read_table(path)
    assert table.schema == golden.schema == nasty().schema
    assert written(table, "json") == written(golden, "json") == written(nasty(), "json")
    assert written(table, "csv") == written(golden, "csv")
    group = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0)
    assert {group.column(index).compression for index in range(group.num_columns)} == {"ZSTD"}


def test_no_golden_without_a_format():
    suffixes = {known.suffixes[0] for known in FORMATS.values()}
    assert {path.name for path in GOLDEN.iterdir()} == {f"nasty{suffix}" for suffix in suffixes}


def test_text_and_csv_agree_on_cells_nulls_and_names():
    table = nasty().drop_columns(["compact_size_gb"])
    rendered = read_text_table(text_of(table))
    raw = list(csv.reader(io.StringIO(text_of(table, "csv", raw=True), newline="")))
    assert len(rendered) == len(raw) == table.num_rows + 1
    assert {len(row) for row in rendered} == {len(row) for row in raw} == {table.num_columns}
    for index, name in enumerate(table.column_names):
        nulls = table[name].is_null().to_pylist()
        assert [row[index] == "-" for row in rendered[1:]] == nulls
        if name != "model_id":  # an empty field of this column may be the empty string, which the csv module cannot distinguish
            assert [row[index] == "" for row in raw[1:]] == nulls
    assert [row[0] for row in raw[1:]] == list(TRAPS)
    printable = [name for name in TRAPS if name.isprintable() and name.strip() == name and name not in {"", "-"}]
    assert [row[0] for row in rendered[1:] if row[0] in printable] == printable


def test_text_escapes_all_control_characters():
    lines = text_of(nasty()).splitlines()
    assert len(lines) == 2 + len(TRAPS) + 1
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]", "\n".join(lines))
    assert any(line.startswith(r"esc\x1b[31m ") for line in lines)
    assert any(line.startswith(r"two\nlines ") for line in lines)


def test_headings_and_captions_are_escaped_like_cells():
    table = pa.table({"a|b\n\x1b": [1]})
    assert text_of(table, caption="x\x1b\nsecond").splitlines()[:3] == [r"x\x1b", "second", r"a|b\n\x1b"]
    assert read_markdown(text_of(table, "markdown", caption="| x |\n# y")) == [["a|b\n\\x1b"], ["1"]]
    assert json.loads(text_of(table, "json")) == [{"a|b\n\x1b": 1}]


def test_a_lone_surrogate_in_a_caption_is_escaped():
    assert text_of(pa.table({"a": [1]}), caption="caf\udce9").startswith("caf\\udce9\n")


def test_text_lists_columns_without_values_below_the_table():
    table = pa.table({"model_id": ["a"], "sparsity": pa.array([None], pa.float64()), "compact_size_gb": pa.nulls(1)})
    assert text_of(table) == "model\n-----\na\nnot known for any row: sparsity, compact size GiB\n"


def test_text_keeps_the_first_column_if_all_values_are_null():
    assert text_of(pa.table({"a": pa.nulls(2), "b": pa.nulls(2)})) == "a\n-\n-\n-\nnot known for any row: b\n"


def test_zero_rows():
    table = pa.table({"model_id": pa.array([], pa.string()), "sparsity": pa.array([], pa.float64())})
    assert text_of(table) == "model  sparsity %\n-----  ----------\n(no rows)\n"
    assert text_of(table, "csv") == "model_id,sparsity\n"
    assert text_of(table, "json") == "[]\n"
    assert text_of(table, "ndjson") == ""
    assert text_of(table, "markdown") == "| model | sparsity % |\n| :--- | ---: |\n"
    assert pq.read_table(io.BytesIO(written(table, "parquet"))).schema == table.schema


@pytest.mark.parametrize("name", [known.name for known in FORMATS.values()])
def test_a_table_without_columns_is_written(name):
    written(pa.table({}), name)


def test_width_splits_into_parts_that_repeat_the_first_column():
    table = pa.table({"model_id": ["m" * 10], "a": ["a" * 10], "b": ["b" * 10], "c": ["数" * 30]})
    assert text_of(table, width=34) == (
        f"model       a           b\n{'-' * 10}  {'-' * 10}  {'-' * 10}\n{'m' * 10}  {'a' * 10}  {'b' * 10}\n"
        f"\nmodel       c\n{'-' * 10}  {'-' * 60}\n{'m' * 10}  {'数' * 30}\n"
    )
    assert text_of(table, width=33).count("model") == 3
    assert text_of(table, width=1).count("model") == 3
    assert text_of(table, width=200) == text_of(table)
    assert text_of(table.select(["c"]), width=10).splitlines()[2] == "数" * 30


@given(st.integers(1, 200))
def test_splitting_to_a_width_keeps_all_columns_and_rows(width):
    table = nasty().slice(0, 5).drop_columns(["compact_size_gb"])
    whole = read_text_table(text_of(table))
    texts = text_of(table, width=width).split("\n\n")
    joined = [[row[0]] for row in whole]
    for text in texts:
        part = read_text_table(text)
        assert [row[0] for row in part] == [row[0] for row in whole]
        assert len(part[0]) == 2 or max(map(cell_len, text.splitlines())) <= width
        for row, cells in zip(joined, part, strict=True):
            row.extend(cells[1:])
    assert joined == whole


names = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(TRAPS)


@given(st.lists(st.tuples(st.none() | names, st.none() | st.floats(), st.none() | st.integers(-(2**63), 2**63 - 1))))
@example([("", None, None), (None, None, None)])
def test_csv_round_trip(rows):
    table = _table(rows)
    raw = text_of(table, "csv", raw=True)
    back = list(csv.reader(io.StringIO(raw, newline="")))
    assert back[0] == table.column_names
    assert [row[0] for row in back[1:]] == [name or "" for name, _, _ in rows]
    assert [None if row[1] == "" else repr(float(row[1])) for row in back[1:]] == [
        None if value is None else repr(value) for _, value, _ in rows
    ]
    assert [None if row[2] == "" else int(row[2]) for row in back[1:]] == [count for _, _, count in rows]


FORMULAS = ("=1+1", "+cmd", "-x", "@SUM(A1)", "\tx", "\r=1", "=", "-", '=HYPERLINK("http://x","y")', "-0.5 and more")
NO_FORMULAS = ("", " =1", "'=1", "a=1", "0.5", "\n=1", "x", "=".join("ab"), "－1")


def test_csv_marks_texts_that_a_spreadsheet_would_take_for_formulas():
    texts, numbers = [*FORMULAS, *NO_FORMULAS], [-0.5] * len(FORMULAS) + [0.5] * len(NO_FORMULAS)
    columns = {
        "=head": pa.array(texts),
        "number": numbers,
        "count": pa.array([-1] * len(texts), pa.int32()),
        "money": pa.array([Decimal("-1.50")] * len(texts)),
        "numbers": pa.array([[-1, 2]] * len(texts)),
        "list": pa.array([[text] for text in texts]),
        "coded": pa.array(texts).dictionary_encode(),
        "notes": pa.array([[{"code": text, "text": None}] for text in texts], NOTES),
    }
    table = pa.table(columns)
    heading, *rows = csv.reader(io.StringIO(text_of(table, "csv"), newline=""))
    assert heading == ["'=head", *[*columns][1:]]
    for text, number, row in zip(texts, numbers, rows, strict=True):
        shown = f"'{text}" if text in FORMULAS else text
        assert row[:-1] == [shown, str(number), "-1", "-1.50", "-1 2", shown, shown]
        assert row[-1] == shown or not text
    heading, *rows = csv.reader(io.StringIO(text_of(table, "csv", raw=True), newline=""))
    assert (heading, [row[0] for row in rows]) == ([*columns], texts)
    assert [row["=head"] for row in json.loads(text_of(table, "json"))] == texts
    assert pq.read_table(io.BytesIO(written(table, "parquet")))["=head"].to_pylist() == texts


def test_all_that_is_hidden_is_escaped_and_nothing_else():
    """Some format characters of Arabic are seen: they stand before numbers."""
    seen = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD, *range(0x13430, 0x13440)}
    for code in (*range(0x3000), *range(0xD7F0, 0xE010), *range(0xF000, 0x1D200), *range(0xE0000, 0xE1001)):
        category = unicodedata.category(chr(code))
        if category in ("Cc", "Cs", "Zl", "Zp") or (category == "Cf" and code not in seen) or 0xE0000 <= code <= 0xE0FFF:
            assert visible(f"a{chr(code)}b") == f"a{chr(code).encode('unicode_escape').decode()}b", hex(code)
        elif category in ("Lu", "Ll", "Nd", "Sm", "Po"):
            assert visible(chr(code)) == chr(code), hex(code)


@given(st.lists(st.tuples(st.none() | names, st.just(0.5), st.just(1)), min_size=1))
def test_csv_distinguishes_null_from_the_empty_string(rows):
    table = pa_csv.read_csv(
        io.BytesIO(written(_table(rows), "csv", raw=True)),
        parse_options=pa_csv.ParseOptions(newlines_in_values=True),
        convert_options=pa_csv.ConvertOptions(
            column_types={"model_id": pa.string()},
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    assert table["model_id"].to_pylist() == [name for name, _, _ in rows]


@given(st.lists(st.tuples(st.none() | names, st.none() | st.floats(), st.none() | st.integers(-(2**63), 2**63 - 1))))
def test_json_round_trip(rows):
    table = _table(rows)
    finite = [(name, value if value is not None and math.isfinite(value) else None, count) for name, value, count in rows]
    back = json.loads(text_of(table, "json"), parse_constant=pytest.fail)
    assert [list(row) for row in back] == [table.column_names] * len(rows)
    assert [tuple(row.values()) for row in back] == finite
    lines = text_of(table, "ndjson").splitlines()
    assert [json.loads(line) for line in lines] == back
    assert len(text_of(table, "json").splitlines()) == (len(rows) + 2 if rows else 1)


@given(st.lists(st.tuples(names, names)))
def test_markdown_renders_the_raw_names(rows):
    table = pa.table({"a": pa.array([a for a, _ in rows], pa.string()), "b": pa.array([b for _, b in rows], pa.string())})
    rendered = read_markdown(text_of(table, "markdown"))
    assert {len(row) for row in rendered} == {2}
    assert len(rendered) == len(rows) + 1
    for row, raw in zip(rendered[1:], rows, strict=True):
        for cell, name in zip(row, raw, strict=True):
            if all(visible(part) == part for part in name.split("\n")):
                assert cell == name


@given(st.lists(st.tuples(names, names), min_size=1))
def test_text_rows_are_lines_of_two_cells(rows):
    table = pa.table({"a": [a for a, _ in rows], "b": [b for _, b in rows]})
    lines = text_of(table).split("\n")[:-1]
    assert len(lines) == len(rows) + 2
    assert lines == [line for text in lines for line in text.splitlines()]


def _table(rows):
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    types = {"model_id": pa.string(), "sparsity": pa.float64(), "params": pa.int64()}
    return pa.table({name: pa.array(list(values), kind) for (name, kind), values in zip(types.items(), columns, strict=True)})


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (0.123456, RATIO, "12.35"),
        (0.0, RATIO, "0.00"),
        (-0.0, RATIO, "0.00"),
        (0.000012, RATIO, "0.0012"),
        (0.000049, RATIO, "0.0049"),
        (1e-7, RATIO, "0.00001"),
        (1e-9, RATIO, "1.0e-7"),
        (1.0, RATIO, "100.00"),
        (1, RATIO, "100.00"),
        (0.999999, RATIO, "99.9999"),
        (1.000001, RATIO, "100.0001"),
        (0.01, RATIO, "1.00"),
        (0.29, RATIO, "29.00"),
        (math.nextafter(1, 0), RATIO, "99.99999999999999"),
        (-0.00001, RATIO, "-0.001"),
        (0.99999, NUMBER, "0.99999"),
        (32, NUMBER, "32"),
        (3.2e-12, NUMBER, "3.2e-12"),
        (146760.7188, PPL, "146760.72"),
        (1e20, PPL, "100000000000000000000.00"),
        (1e300, PPL, "1e+300"),
        (math.nan, PPL, "nan"),
        (-math.inf, PPL, "-inf"),
        (0.0004, MS, "0.0004"),
        (14.9575, GIB, "14.958"),
        (8030261248, COUNT, "8,030,261,248"),
        (8030261248.0, COUNT, "8,030,261,248"),
        (1234.5, COUNT, "1,234.50"),
        (Decimal("0.10"), NUMBER, "0.1000"),
        (Decimal(1) - Decimal(10) ** -25, NUMBER, "0." + "9" * 25),
    ],
)
def test_number(value, kind, expected):
    assert number_text(value, kind) == expected


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([RATIO, NUMBER, PPL, GIB, MS, COUNT]))
@example(math.nextafter(1, 2), RATIO)
@example(5e-324, RATIO)
def test_only_zero_and_one_are_rendered_as_zero_and_one(value, kind):
    rendered = float(number_text(value, kind).replace(",", ""))
    whole = 100 if kind is RATIO else 1
    assert (rendered == 0) == (value == 0) or abs(value) < 1e-321
    assert (abs(rendered) == whole) == (abs(value) == 1)


@pytest.mark.parametrize(
    ("name", "kind", "heading"),
    [
        ("reduction_ratio", pa.float64(), "reduction %"),
        ("hellaswag", pa.float64(), "hellaswag %"),
        ("declared_ratio", pa.float64(), "declared %"),
        ("size_gb", pa.float64(), "size GiB"),
        ("params_b", pa.float64(), "params B"),
        ("memory_mb", pa.float64(), "memory MiB"),
        ("throughput_bs1", pa.float64(), "tok/s bs1"),
        ("latency_ms_bs1", pa.float64(), "ms/tok bs1"),
        ("other_scores", pa.map_(pa.string(), pa.float64()), "other scores"),
        ("mlp_sparsity_mean", pa.float64(), "mlp sparsity mean %"),
        ("mean_accuracy_best", pa.float64(), "mean accuracy best %"),
        ("kept_share", pa.float64(), "kept share %"),
        ("match_confidence", pa.float64(), "match confidence %"),
        ("zeros_ratio", pa.int64(), "zeros ratio"),
        ("max(sparsity)", pa.float64(), "max(sparsity)"),
        ("sparsity_var", pa.float64(), "sparsity var"),
        ("sparsity", pa.string(), "sparsity"),
        ("sparsity", pa.null(), "sparsity %"),
        ("l2_norm", pa.float64(), "l2 norm"),
    ],
)
def test_heading(name, kind, heading):
    assert describe(name, kind).heading == heading


def test_headings_of_known_columns_are_unique_within_a_table():
    """Only names that never occur in one table may share a heading."""
    headings = [column.heading for name, column in COLUMNS.items() if name not in ("params_b", "base_model_id")]
    assert len(headings) == len(set(headings))


def test_digits():
    digits = {
        name: COLUMNS[name].value_kind.digits
        for name in ("params", "reduction_ratio", "size_gb", "perplexities", "layer_index")
    }
    assert digits == {"params": 0, "reduction_ratio": 2, "size_gb": 3, "perplexities": 2, "layer_index": 0}


def test_text_in_a_number_column_is_shown_as_text():
    table = pa.table({"sparsity": ["n/a"], "params": [[1, 2]], "removed_layers": [7], "layer_index": pa.array([1234])})
    assert read_text_table(text_of(table)) == [
        ["sparsity", "params", "removed layers", "layer"],
        ["n/a", "1 2", "7", "1234"],
    ]


def test_text_markdown_and_csv_render_values_alike():
    table = pa.table(
        {
            "tags": pa.array([{"b": "2", "a": None}], pa.map_(pa.string(), pa.string())),
            "role_params": pa.array([{"q_proj": 16777216}], pa.map_(pa.string(), pa.int64())),
            "other_scores": pa.array([{"mmlu": 0.254321}], pa.map_(pa.string(), pa.float64())),
            "shape": [[4096, 11008]],
            "point": [{"x": 1, "y": 0.5}],
            "day": [datetime(2025, 1, 2, tzinfo=UTC).date()],
            "at_ns": pa.array([1], pa.timestamp("ns")),
            "far": pa.array([2**62], pa.timestamp("us")),
            "blob": [b"\x00\xff"],
            "kind": pa.array(["head"]).dictionary_encode(),
            "exact": [Decimal("0.10")],
        }
    )
    expected = ["a=- b=2", "q_proj=16,777,216", "mmlu=0.2543", "4096 11008", "x=1 y=0.5000", "2025-01-02"]
    expected += ["1970-01-01T00:00:00.000000001Z", f"{2**62} us since 1970", "00ff", "head", "0.1000"]
    assert read_text_table(text_of(table))[1] == read_markdown(text_of(table, "markdown"))[1] == expected
    raw = ["a=null b=2", "q_proj=16777216", "mmlu=0.254321", "4096 11008", "x=1 y=0.5", *expected[5:10], "0.10"]
    assert text_of(table, "csv").splitlines()[1] == ",".join(raw)
    point = json.loads(text_of(table, "json"), parse_float=Decimal)[0]
    assert (point["tags"], point["point"], point["exact"]) == (
        {"a": None, "b": "2"},
        {"x": 1, "y": Decimal("0.5")},
        Decimal("0.10"),
    )


def test_columns_with_the_same_name():
    table = pa.table([pa.array([1]), pa.array([2])], names=["a", "a"])
    assert text_of(table, "csv") == "a,a\n1,2\n"
    assert read_text_table(text_of(table)) == [["a", "a"], ["1", "2"]]
    for name in ("json", "ndjson"):
        with pytest.raises(UsageError, match="two columns are named 'a'"):
            text_of(table, name)


@pytest.mark.parametrize("rows", [8191, 8192, 20_000])
def test_all_rows_of_all_batches_are_written(rows):
    table = pa.table({"a": range(rows)})
    assert text_of(table, "csv").split() == ["a", *map(str, range(rows))]
    assert [row["a"] for row in json.loads(text_of(table, "json"))] == list(range(rows))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a.txt", "text"),
        ("a.csv", "csv"),
        ("dir.csv/a.JSON", "json"),
        ("a.ndjson", "ndjson"),
        ("a.jsonl", "ndjson"),
        (Path("a.md"), "markdown"),
        ("a.b.parquet", "parquet"),
        ("a.xlsx", "xlsx"),
        ("a.HTM", "html"),
        ("a.tex", "latex"),
        ("a.docx", None),
        ("a", None),
        ("csv", None),
    ],
)
def test_format_of(path, name):
    assert format_of(path) == name


def test_resolve_format():
    assert [resolve_format(name) for name in ("md", "CSV", "jsonl", "text")] == ["markdown", "csv", "ndjson", "text"]
    with pytest.raises(
        UsageError, match=r"no format 'docx'; there is text, csv, json, ndjson, markdown, parquet, xlsx, html, latex$"
    ):
        resolve_format("docx")


def test_an_unknown_format_writes_nothing():
    stream = io.BytesIO()
    with pytest.raises(UsageError):
        write_table(nasty(), "docx", stream)
    assert stream.getvalue() == b""


@pytest.mark.parametrize(
    ("name", "suffixes"),
    [
        ("csv", (".new",)),
        ("new", (".csv",)),
        ("new", (".new", ".jsonl")),
        ("md", (".new",)),
        ("new", (".text",)),
        ("new", (".new", ".new")),
        ("new", ("new",)),
        ("New", (".new",)),
        ("", ()),
    ],
)
def test_register_refuses(name, suffixes):
    before = dict(FORMATS)
    with pytest.raises(ValueError, match="format"):
        register(Format(name, suffixes, is_binary=False, write=FORMATS["csv"].write))
    assert dict(FORMATS) == before
    assert format_of("a.new") is None


def test_formats_is_read_only():
    with pytest.raises(TypeError):
        FORMATS["x"] = FORMATS["csv"]


def test_import_is_light():
    code = "import sys, layerhouse.warehouse.render; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "layerhouse.warehouse.render.as_parquet" in loaded
    assert not {"pyarrow", "duckdb", "polars", "torch", "click", "rich.table"} & set(loaded)


def test_only_people_see_a_null_with_bounds_as_a_range():
    bounds = {"num_heads": pa.array([8, None, None], pa.int32()), "num_heads_min": [8, 4, None], "num_heads_max": [8, 6, None]}
    table = pa.table({"model_id": ["a", "b", "c"], **bounds})
    assert text_of(table) == ("model       heads\n-----  ----------\na               8\nb      varies 4-6\nc               -\n")
    assert text_of(table.select(["model_id", "num_heads_min", "num_heads_max"])).startswith("model  num heads min")


@pytest.mark.parametrize(
    "kind", [pa.month_day_nano_interval(), pa.list_(pa.month_day_nano_interval()), pa.sparse_union([pa.field("k", pa.int32())])]
)
def test_a_column_of_a_type_that_parquet_lacks_is_refused_by_its_name(kind):
    table = pa.table({"a": pa.array([], pa.int64()), "d": pa.chunked_array([], kind)})
    with pytest.raises(UsageError, match=r"parquet: column 'd' has a type that it lacks, .*; cast it to text in the query"):
        written(table, "parquet")
