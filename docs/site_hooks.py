"""Hooks of mkdocs: pages at the root of the repository and the notebook are pages of the site, and links lead to them there."""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pygments.formatters import HtmlFormatter

ROOT = Path(__file__).parents[1]
ELSEWHERE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "bench/RESULTS.md": "benchmarks.md",
}
"""Pages that are not in docs/, and their places in the site."""
NOTEBOOK, NOTEBOOK_PAGE = "docs/notebook.ipynb", "notebook.md"
STYLE = "site.css"
STYLES = """\
.wy-nav-content { max-width: 1100px; }
.rst-content div.codehilite { padding: 0; border: 0; background: none; }
.codehilite pre { padding: .8em; overflow-x: auto; font-size: 12px; line-height: 1.4; border: 1px solid #e1e4e5; }
.rst-content table.docutils td, .wy-table td { white-space: normal; vertical-align: top; }
"""
"""What the theme lacks: room for wide tables, texts that wrap in their cells, and code that scrolls."""
COMMENT = re.compile(r"<!--.*?-->\n?", re.DOTALL)
"""What readers of a page do not see, such as the commands that prepare its examples."""
FENCED = re.compile(r"^(```.*?^```$)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[([^\]\n]+)\]\(([^)\s]+)\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Name the headings as GitHub does, so that a link to one leads to it in both places."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = anchor
    return config


def anchor(heading: str, separator: str) -> str:
    """The anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", separator)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    for source, place in ELSEWHERE.items():
        files.append(File.generated(config, place, content=(ROOT / source).read_text("utf-8")))
    files.append(File.generated(config, NOTEBOOK_PAGE, content=notebook_text((ROOT / NOTEBOOK).read_text("utf-8"))))
    code_styles = HtmlFormatter(style="default").get_style_defs(".codehilite")
    files.append(File.generated(config, STYLE, content=f"{code_styles}\n{STYLES}"))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """A page without comments, with links to the places of pages in the site; a link to any other file is its text alone."""
    place = page.file.src_uri
    parts = FENCED.split(COMMENT.sub("", markdown))
    return "".join(part if part.startswith("```") else LINK.sub(lambda link: _link(link, place), part) for part in parts)


def notebook_text(notebook: str) -> str:
    """A notebook as Markdown: its texts, and its code in blocks."""
    blocks = []
    for cell in json.loads(notebook)["cells"]:
        source = "".join(cell["source"])
        blocks.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    return "\n\n".join(blocks) + "\n"


def _link(link: re.Match[str], place: str) -> str:
    """A link of the page at a place of the site."""
    text, target = link[1], link[2]
    path, mark, anchor = target.partition("#")
    if not path or "://" in target:
        return link[0]
    source = next((source for source, other in ELSEWHERE.items() if other == place), f"docs/{place}")
    named = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    if named.startswith("docs/") and named.endswith(".md"):
        linked = named.removeprefix("docs/")
    elif named == NOTEBOOK:
        linked = NOTEBOOK_PAGE
    elif named in ELSEWHERE:
        linked = ELSEWHERE[named]
    else:
        return text
    return f"[{text}]({posixpath.relpath(linked, posixpath.dirname(place) or '.')}{mark}{anchor})"
