"""The formats xlsx, html and latex; and best values, digits, groups and languages in all formats for people."""

from __future__ import annotations

import io
import math
import os
import re
from html.parser import HTMLParser

import openpyxl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerhouse.errors import UsageError
from layerhouse.escapes import visible
from layerhouse.tests.test_export import (
    GOLDEN,
    TRAPS,
    nasty,
    read_markdown,
    read_text_table,
    text_of,
    written,
)
from layerhouse.warehouse.render import as_xlsx, write_table
from layerhouse.warehouse.render.columns import COLUMNS, annotate_field, describe_field
from layerhouse.warehouse.render.headings import HEADINGS
from layerhouse.warehouse.render.kinds import NUMBER, RATIO
from layerhouse.warehouse.render.registry import Layout

VOID = {"br", "meta", "link", "img", "input", "hr"}


class Document(HTMLParser):
    """The rows of every table as a browser shows them, and the bold cells. Fails if tags are not nested correctly."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tables, self.bold, self.tags = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in {"td", "th"}:
            self.tables[-1][-1].append("")
        elif tag == "br" and {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += "\n"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data
            if "strong" in self.open:
                self.bold.append(data)


def written_with_layout(table, name, layout):
    stream = io.BytesIO()
    write_table(table, name, stream, layout)
    return stream.getvalue()


def sheet_of(data):
    book = openpyxl.load_workbook(io.BytesIO(data))
    assert len(book.sheetnames) == 1
    return book[book.sheetnames[0]]


def cells_of(data):
    """Value, type and number format of each cell."""
    return [[(cell.value, cell.data_type, cell.number_format) for cell in row] for row in sheet_of(data).iter_rows()]


def test_golden_xlsx_holds_the_same_typed_cells():
    path = GOLDEN / "nasty.xlsx"
    data = written(nasty(), "xlsx")
    if os.environ.get("LAYERHOUSE_UPDATE_GOLDEN"):
        path.write_bytes(data)
    assert cells_of(data) == cells_of(path.read_bytes())
    assert data == written(nasty(), "xlsx")


def test_xlsx_keeps_types():
    cells = cells_of(written(nasty(), "xlsx"))
    names = nasty().column_names
    by_name = {name: [row[index] for row in cells[1:]] for index, name in enumerate(names)}
    assert {kind for _, kind, _ in by_name["model_id"] if kind != "n"} == {"s"}
    assert by_name["model_id"][TRAPS.index("=x")] == ("=x", "s", "General")
    assert by_name["model_id"][TRAPS.index("007")][:2] == ("007", "s")
    assert [cell[:2] for cell in by_name["params"][:6]] == [
        (8030261248, "n"),
        ("9007199254740993", "s"),
        (0, "n"),
        (-1234, "n"),
        ("9223372036854775807", "s"),
        (None, "n"),
    ]
    assert by_name["reduction_ratio"][0] == (0.123456789, "n", "0.00%")
    assert by_name["reduction_ratio"][1][:2] == ("nan", "s")
    assert [cell[:2] for cell in by_name["size_gb"][:3]] == [(14.9575, "n"), ("inf", "s"), ("-inf", "s")]
    assert [cell[:2] for cell in by_name["is_zero_layer"][:3]] == [(True, "b"), (False, "b"), (None, "n")]
    assert by_name["removed_layers"][0][:2] == ("9 11 12", "s")
    assert [cell[0] for cell in cells[0]][:4] == ["model", "params", "reduction", "size GiB"]


def test_xlsx_freezes_the_heading_and_fits_column_widths():
    sheet = sheet_of(written(pa.table({"model_id": ["a" * 30], "params": [8030261248]}), "xlsx"))
    assert sheet.freeze_panes == "B2"
    assert [sheet.column_dimensions[letter].width for letter in "AB"] == pytest.approx([32.7, 15.7], abs=0.1)
    assert sheet.auto_filter.ref == "A1:B2"


def test_xlsx_refuses_tables_over_the_limits_of_a_sheet(monkeypatch):
    with pytest.raises(UsageError, match=r"xlsx: row 2, column 'notes': text too long for a cell; use csv"):
        written(pa.table({"notes": ["x" * 32_768]}), "xlsx")
    assert sheet_of(written(pa.table({"notes": ["x" * 32_767]}), "xlsx"))["A2"].value == "x" * 32_767
    monkeypatch.setattr(as_xlsx, "MAX_ROWS", 2)
    with pytest.raises(UsageError, match="3 rows of 1 columns are too many for a sheet"):
        written(pa.table({"a": [1, 2, 3]}), "xlsx")


def test_html_is_a_complete_document_that_shows_the_raw_names():
    page = Document(text_of(nasty(), "html", caption="All <traps>"))
    assert [tag for tag, _ in page.tags[:2]] == ["html", "head"]
    assert {(tag, name) for tag, attrs in page.tags for name in attrs} <= {
        ("html", "lang"),
        ("meta", "charset"),
        ("meta", "name"),
        ("meta", "content"),
        ("th", "scope"),
        ("th", "class"),
        ("td", "class"),
    }
    (rows,) = page.tables
    assert {len(row) for row in rows} == {nasty().num_columns}
    assert len(rows) == 1 + len(TRAPS)
    rendered = [row[0] for row in rows[1:]]
    for trap, cell in zip(TRAPS, rendered, strict=True):
        if all(part.isprintable() for part in trap.split("\n")):
            assert cell == trap
    assert rendered[TRAPS.index("esc\x1b[31m")] == r"esc\x1b[31m"


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=5))
def test_html_shows_any_text(names):
    table = pa.table({"a": names, "b": ["x"] * len(names)})
    (rows,) = Document(text_of(table, "html")).tables
    assert rows[0] == ["a", "b"]
    assert rows[1:] == [["\n".join(map(visible, name.split("\n"))), "x"] for name in names]


def test_latex_escapes_every_special_character():
    table = pa.table({"model_id": ['a_b & 50% #1 $x$ {y} ~z ^w \\n <|> [k] *s* --flag `q\' "r"', "two\nlines"]})
    lines = text_of(table, "latex").splitlines()
    assert lines[1:4] == [r"\begin{tabular}{l}", r"\toprule", r"model \\"]
    assert lines[5] == (
        r"a\_b \& 50\% \#1 \$x\$ \{y\} \textasciitilde{}z \textasciicircum{}w \textbackslash{}n "
        r"\textless{}\textbar{}\textgreater{} {[}k] {*}s{*} -{}-flag \textasciigrave{}q\textquotesingle{} "
        r"{\textquotedbl}r{\textquotedbl} \\"
    )
    assert lines[6] == r"\shortstack[l]{two \\ lines} \\"
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]


def test_differences_have_a_sign_and_their_errors_none():
    fields = [
        annotate_field(pa.field("x_delta", pa.float64()), kind=RATIO, is_signed=True),
        pa.field("x_delta_stderr", pa.float64()),
    ]
    values = [[0.25, -0.25, 0.0, None, 1e-9], [0.5, 0.5, None, None, None]]
    table = pa.Table.from_arrays([pa.array(column, pa.float64()) for column in values], schema=pa.schema(fields))
    cells = [line.split(maxsplit=0)[0] for line in text_of(table).splitlines()]
    assert cells == ["x delta %", "-" * 14, "+25.00 ± 50.00", "-25.00 ± 50.00", "0.00", "-", "+1.0e-7"]
    assert r"$-$25.00 $\pm$ 50.00" in text_of(table, "latex")


def test_notes_stand_above_the_table_escaped_like_cells():
    table, layout = pa.table({"a": [1]}), Layout(notes=("a_b: 50%", "<c>|\x1b"), caption="T")
    assert text_of(table, layout=layout).splitlines()[:3] == ["T", r"a_b: 50%; <c>|\x1b", "a"]
    assert text_of(table, "markdown", layout=layout).startswith("T\n\na_b: 50%; &lt;c&gt;\\|\\\\x1b\n\n| a |\n")
    assert r"<caption>T<br>a_b: 50%<br>&lt;c&gt;|\x1b</caption>" in text_of(table, "html", layout=layout)
    assert text_of(table, "latex", layout=layout).splitlines()[4:8] == [
        r"\begin{tabular}{r}",
        r"\multicolumn{1}{l}{\footnotesize a\_b: 50\%} \\",
        r"\multicolumn{1}{l}{\footnotesize \textless{}c\textgreater{}\textbar{}\textbackslash{}x1b} \\",
        r"\toprule",
    ]
    for name in ("csv", "json", "ndjson"):
        assert text_of(table, name, layout=layout) == text_of(table, name)


def test_latex_numbers_nulls_units_and_caption():
    table = pa.table({"model_id": ["a", "b"], "reduction_ratio": [-0.25, None], "size_gb": [1.5, 2.0]})
    assert text_of(table, "latex", caption="Cut by 50%").splitlines()[1:] == [
        r"\begin{table}",
        r"\centering",
        r"\caption{Cut by 50\%}",
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"model & reduction \% & size GiB \\",
        r"\midrule",
        r"a & $-$25.00 & 1.500 \\",
        r"b & -- & 2.000 \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]


@given(st.lists(st.tuples(*[st.text(st.characters(exclude_categories=["Cs"]))] * 2), min_size=1, max_size=4))
def test_latex_rows_keep_their_cells(rows):
    table = pa.table({"a": [a for a, _ in rows], "b": [b for _, b in rows]})
    lines = text_of(table, "latex").split("\n")[3:-3]
    body = [line for line in lines if line != r"\midrule"]
    assert len(body) == 1 + len(rows)
    for line in body:
        assert line.endswith(r" \\")
        assert len(re.findall(r"(?<!\\)&", line)) == 1
        depth = 0
        for part in re.findall(r"\\[{}\\]|[{}]", line.replace(r"\\ ", "")):
            depth += {"{": 1, "}": -1}.get(part, 0)
            assert depth >= 0
        assert depth == 0


def scores():
    return pa.table(
        {
            "model_id": ["base", "a", "b", "c"],
            "method": [None, "x", "x", "y"],
            "ppl_wikitext2": [10.0, 30.0, 20.0, 40.0],
            "boolq": [0.9, 0.7, 0.7, math.nan],
            "size_gb": [4.0, 3.0, 2.0, 1.0],
        }
    )


@pytest.mark.parametrize(
    ("name", "bold"), [("markdown", r"\*\*(.*?)\*\*"), ("html", r"<strong>(.*?)</strong>"), ("latex", r"\\textbf{(.*?)}")]
)
def test_the_best_value_of_a_column_is_bold_if_one_direction_is_better(name, bold):
    rendered = written_with_layout(scores(), name, Layout(marks_best=True)).decode()
    assert re.findall(bold, rendered) == ["10.00", "90.00"]
    assert re.findall(bold, written_with_layout(scores(), name, Layout()).decode()) == []


@pytest.mark.parametrize(
    ("name", "bold", "rule"),
    [("html", r"<strong>(.*?)</strong>", "</tbody>\n<tbody>"), ("latex", r"\\textbf{(.*?)}", "\\midrule\n")],
)
def test_the_best_values_of_each_group_are_bold_with_ties_and_a_rule_separates_groups(name, bold, rule):
    rendered = written_with_layout(scores(), name, Layout(marks_best=True, group=("method",))).decode()
    assert re.findall(bold, rendered) == ["70.00", "20.00", "70.00"]
    assert rendered.count(rule) == (2 if name == "html" else 3)


def test_digits_are_those_of_the_layout_unless_the_number_would_read_as_zero():
    table = pa.table({"params": [1234567], "reduction_ratio": [0.123456], "size_gb": [14.9575], "boolq": [0.00001]})
    assert read_text_table(written_with_layout(table, "text", Layout(digits=0)).decode())[1] == [
        "1,234,567",
        "12",
        "15",
        "0.001",
    ]
    assert read_text_table(written_with_layout(table, "text", Layout(digits=4)).decode())[1][1:3] == ["12.3456", "14.9575"]
    assert [cell[2] for cell in cells_of(written_with_layout(table, "xlsx", Layout(digits=1)))[1]] == [
        "#,##0",
        "0.0%",
        "0.0",
        "0.0%",
    ]
    assert written_with_layout(table, "csv", Layout(digits=0)) == written(table, "csv")


def test_a_standard_error_follows_its_value_and_sets_the_number_of_digits():
    table = pa.table({"boolq": [0.50001, 0.50004, 0.6], "boolq_stderr": [0.00001, None, 0.01], "n": [1, 2, 3]})
    rendered = read_text_table(text_of(table))
    assert rendered == [["boolq %", "n"], ["50.001 ± 0.001", "1"], ["50.004", "2"], ["60.000 ± 1.000", "3"]]
    assert r"50.001 $\pm$ 0.001 & 1 \\" in text_of(table, "latex")
    assert text_of(table, "csv").splitlines()[0] == "boolq,boolq_stderr,n"


def test_a_count_of_a_known_total_shows_it():
    table = pa.table({"n_tasks": [7, 3, None]})
    assert read_markdown(text_of(table, "markdown")) == [["tasks"], ["7/7"], ["3/7"], ["-"]]
    assert text_of(table, "csv") == "n_tasks\n7\n3\n\n"


def test_field_metadata_overrides_the_presentation_of_a_column():
    field = annotate_field(pa.field("mmlu/acc", pa.float64()), kind=RATIO, better="higher")
    assert (describe_field(field).heading, describe_field(field).better) == ("mmlu/acc %", "higher")
    assert describe_field(pa.field("mmlu/acc", pa.float64())).kind is NUMBER
    total = annotate_field(pa.field("n_of", pa.int64()), total=3)
    assert describe_field(total).total == 3


def test_every_known_column_has_a_unique_heading_in_every_language():
    for language, headings in HEADINGS.items():
        assert set(headings) == set(COLUMNS), language
        rendered = [describe_field(pa.field(name, pa.null()), language).heading for name in COLUMNS]
        assert len(set(rendered)) == len(rendered), language


@pytest.mark.parametrize("name", ["text", "markdown", "html", "latex", "xlsx"])
def test_headings_follow_the_language_but_names_for_programs_do_not(name):
    table = pa.table({"model_id": ["a"], "reduction_ratio": [0.5]})
    data = written_with_layout(table, name, Layout(language="zh"))
    rendered = [cell[0] for cell in cells_of(data)[0]] if name == "xlsx" else data.decode()
    assert "模型" in rendered
    assert any("参数减少率" in part for part in rendered) if name == "xlsx" else "参数减少率" in rendered
    for other in ("csv", "json", "ndjson"):
        assert written_with_layout(table, other, Layout(language="zh")) == written(table, other)
