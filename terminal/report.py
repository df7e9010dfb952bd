"""The options of the command that writes a report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from layerhouse.terminal.options import LocalPath, collected, language_option


@dataclass(frozen=True)
class ReportOptions:
    """The file of a report, its heading, and the language of the headings of columns."""

    output: Path
    title: str | None = None
    language: str = "en"


report_options = collected(
    "page",
    ReportOptions,
    click.option("-o", "--output", type=LocalPath(), required=True, metavar="FILE.html", help="Write the page to this file."),
    click.option("--title", metavar="TEXT", help="Heading of the page; by default it names the folder of the warehouse."),
    language_option("Language of the headings of columns."),
)
