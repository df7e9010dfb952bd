"""The notebook of the documentation runs from top to bottom, and what it shows are tables. A warehouse shows itself."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import layerhouse as lh
from layerhouse import demo
from layerhouse.tests import study_builder
from layerhouse.tests.running import CLEAN

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebook.ipynb"
EVIL = "results/<img src=x onerror=alert(1)>"


def cells() -> list[dict]:
    return json.loads(NOTEBOOK.read_text("utf-8"))["cells"]


def test_the_notebook_is_of_format_4_and_holds_no_outputs():
    document = json.loads(NOTEBOOK.read_text("utf-8"))
    assert (document["nbformat"], document["nbformat_minor"]) == (4, 5)
    assert document["metadata"]["kernelspec"] == {"display_name": "Python 3", "language": "python", "name": "python3"}
    ids = [cell["id"] for cell in document["cells"]]
    assert len({*ids}) == len(ids)
    for cell in document["cells"]:
        assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", cell["id"])
        assert {*cell} == {"cell_type", "id", "metadata", "source"} | (
            {"execution_count", "outputs"} if cell["cell_type"] == "code" else set()
        )
        assert cell.get("outputs", []) == [] and cell.get("execution_count") is None
        assert all(line.endswith("\n") for line in cell["source"][:-1]) and not cell["source"][-1].endswith("\n")


def run_notebook() -> None:
    """Run the code cells in order, as a kernel does, and print for each the HTML of its last expression, or its repr."""
    names: dict[str, object] = {"__name__": "__main__"}
    shown = []
    for number, cell in enumerate(cells()):
        if cell["cell_type"] != "code":
            continue
        tree = ast.parse("".join(cell["source"]))
        if isinstance(last := tree.body[-1], ast.Expr):
            tree.body[-1] = ast.Assign([ast.Name("_", ast.Store())], last.value)
        names["_"] = None
        exec(compile(ast.fix_missing_locations(tree), f"cell {number}", "exec"), names)
        value = names["_"]
        if value is not None:
            shown.append(value._repr_html_() if hasattr(value, "_repr_html_") else repr(value))
    print(json.dumps(shown))


def test_the_notebook_runs_and_shows_tables(tmp_path):
    code = "from layerhouse.tests.test_notebook import run_notebook; run_notebook()"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        env={**CLEAN, "TMPDIR": str(tmp_path)},
        capture_output=True,
        encoding="utf-8",
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    tables = [text for text in shown if "<table" in text]
    assert len(tables) == 6
    assert "'results/HeadPrune_2000'" in shown
    assert shown[0].count("results/") == 2
    assert "6 models, 6 structures" in tables[0]
    for text in tables:
        assert text.count("<tr>") > 2


class _Tags(HTMLParser):
    """The elements of a fragment, which has to close what it opens."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shown")
    study_builder.write_study(folder)
    for name in (EVIL, *(f"results/only_scores_{number}" for number in range(7))):
        demo.write_json(folder / name / "evaluation/evaluation_results.json", {"metrics": {"zeroshot": {"boolq": 0.5}}})
    lh.ingest([folder / "baselines", folder / "results"], warehouse=folder / "w")
    return folder


def test_a_warehouse_shows_where_it_is_what_it_holds_and_its_first_models(study):
    with lh.open(study / "w") as wh:
        text = wh._repr_html_()
        assert repr(wh) == f"OpenedWarehouse('{study}/w')"
        counts = wh.sql("SELECT (SELECT count(*) FROM models), (SELECT count(*) FROM model_results)").row(0)
    assert f"<strong>layerhouse</strong> {study}/w<br>" in text
    assert f"<br>13 models, 5 structures, {counts[1]:,} measured values</p>" in text
    assert counts[0] == 13
    assert "<p>and 3 more; all: <code>wh.models()</code></p>" in text
    assert "baselines/Tiny-Base</td>" in text
    assert {*_Tags(text).tags} == {"div", "p", "strong", "br", "table", "thead", "tr", "th", "tbody", "td", "code"}
    assert "&lt;img src=x onerror=alert(1)&gt;" in text


def test_a_warehouse_of_an_earlier_time_says_so(study):
    with lh.open(study / "w", as_of="2020-01-01") as wh:
        text = wh._repr_html_()
    assert ", as of 2020-01-01T23:59:59" in text
    assert "<br>0 models, 0 structures, 0 measured values</p>" in text
    assert "more; all" not in text
