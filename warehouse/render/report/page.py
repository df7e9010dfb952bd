"""The page of a report: its parts put together, and a policy under which a browser runs and loads nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerhouse.errors import UsageError
from layerhouse.escapes import HIDDEN, visible
from layerhouse.version import __version__
from layerhouse.vocabulary import ZERO_SHOT_TASKS, KeptBy, Level
from layerhouse.warehouse.render.columns import COLUMNS
from layerhouse.warehouse.render.report.columnar import CODE_LETTERS, Formulas, script_json, table_document
from layerhouse.warehouse.render.short_names import shortest_endings

if TYPE_CHECKING:
    import pyarrow as pa

SCRIPTS = ("vega.js", "numbers.js", "data.js", "filter.js", "charts.js", "figures.js", "table.js", "model.js", "page.js")
"""The scripts of the page in the order in which they run."""

FORMULAS: Mapping[str, Formulas] = {
    "layers": {
        "params": ("sum", "attention_params", "mlp_params"),
        "kept_share": ("quotient", "params", "base_params"),
        "reduction_ratio": ("reduction", "base_params", "params"),
        "attention_reduction_ratio": ("reduction", "base_attention_params", "attention_params"),
        "mlp_reduction_ratio": ("reduction", "base_mlp_params", "mlp_params"),
    }
}
"""Columns that are written as formulas: numbers of every layer of every model are most of the data of a page."""

KEPT_TITLES = {
    KeptBy.PARAMS: "parameters",
    KeptBy.NONZERO: "nonzero parameters",
    KeptBy.BYTES: "bytes",
    KeptBy.MACS: "MACs per token",
}


@dataclass(frozen=True)
class ReportContent:
    """What a report shows.

    `tables` has the tables `models`, `layers`, `trade_off`, `changes`, `units` and `results`, each with the column model_id.
    `names` are all models of the warehouse, among which short names are unique; `queries` the SQL of each query that is shown.
    """

    tables: Mapping[str, pa.Table]
    names: Sequence[str]
    queries: Mapping[str, str]


def require_page_name(output: Path) -> None:
    """Raise UsageError for the name of a file that is not one of a page."""
    if output.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{output}: a report is a page; give it a name that ends in .html")


def report_page(content: ReportContent, title: str, language: str = "en") -> str:
    """The HTML of a report. It needs no other file and no network; headings of columns are in the language."""
    template = _asset("page.html")
    css = _asset("page.css")
    scripts = [_asset(name) for name in SCRIPTS]
    parts = {
        "policy": escape(_policy(css, scripts), quote=False),
        "title": escape(" ".join(visible(title).split())),
        "css": css,
        "data": script_json(_document(content, title, language)),
        "charts": script_json(json.loads(_asset("charts.json"))),
        "scripts": "\n".join(f"<script>{script}</script>" for script in scripts),
        "version": escape(__version__),
    }
    page = []
    for number, part in enumerate(template.split("@@")):  # text and the names of parts in turn
        page.append(parts[part] if number % 2 else part)
    return "".join(page)


def _document(content: ReportContent, title: str, language: str) -> dict[str, Any]:
    names = list(dict.fromkeys(content.tables["models"]["model_id"].to_pylist()))
    endings = shortest_endings(names, content.names)
    return {
        "title": title,
        "names": names,
        "shortLengths": [len(endings[name]) for name in names],
        "codeLetters": CODE_LETTERS,
        "tables": {name: table_document(table, names, language, FORMULAS.get(name)) for name, table in content.tables.items()},
        "levels": [level.value for level in Level],
        "tasks": {task: COLUMNS[task].title for task in (*ZERO_SHOT_TASKS, "mean_accuracy")},
        "keptTitles": KEPT_TITLES,
        "queries": content.queries,
        "hidden": HIDDEN.pattern,
    }


def _policy(css: str, scripts: Sequence[str]) -> str:
    """The content security policy: this style sheet and these scripts; nothing is fetched, sent or framed."""
    allowed = " ".join(_hash(script) for script in scripts)
    rules = (
        "default-src 'none'",
        f"script-src {allowed}",
        f"style-src {_hash(css)}",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    )
    return "; ".join(rules)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8")
