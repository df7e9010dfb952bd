"""The documentation as a site: every page is in it, every link leads somewhere, and nothing is loaded from elsewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="mkdocs is not installed; it is in the extra dev")

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index",
    "CHANGELOG.md": "changelog",
    "CONTRIBUTING.md": "contributing",
    "SECURITY.md": "security",
    "bench/RESULTS.md": "benchmarks",
    "docs/notebook.ipynb": "notebook",
    **{f"docs/{path.name}": path.stem for path in (ROOT / "docs").glob("*.md")},
}
LOADED = re.compile(r"""(?:src=|<link[^>]*href=|url\()["']?((?:https?:)?//[^"')>\s]+)""")
CONDITIONAL = re.compile(r"<!--\[if .*?<!\[endif\]-->", re.DOTALL)
"""What browsers have ignored since Internet Explorer 9."""


def build(root: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """The site of the pages below a folder."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(target)],
        cwd=root,
        capture_output=True,
        encoding="utf-8",
        timeout=600,
        check=False,
    )


def copied(target: Path) -> Path:
    """A copy of the pages and of what makes a site of them."""
    for name in ("mkdocs.yml", *PAGES, "docs/site_hooks.py"):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target / name)
    return target


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("site")
    done = build(ROOT, target)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    return target


def test_every_page_is_in_the_site_and_in_its_navigation(site):
    made = {path.stem for path in site.glob("*.html")} - {"404", "search"}
    assert made == {*PAGES.values()}
    home = (site / "index.html").read_text("utf-8")
    assert {*re.findall(r'href="([a-z]+)\.html"', home)} >= made


def test_no_page_loads_anything_from_elsewhere(site):
    for path in [*site.rglob("*.html"), *site.rglob("*.css")]:
        assert LOADED.findall(CONDITIONAL.sub("", path.read_text("utf-8"))) == [], path


def test_pages_at_the_root_and_the_notebook_are_shown_with_links_to_their_places(site):
    home = (site / "index.html").read_text("utf-8")
    assert re.search(r'<a href="guide\.html#[\w-]+">', home) or '<a href="guide.html">' in home
    assert "LICENSE" not in re.findall(r'href="([^"]*)"', home)
    contributing = (site / "contributing.html").read_text("utf-8")
    assert '<a href="families.html#keys-of-a-file">' in contributing
    assert '<a href="index.html#install">' in contributing
    notebook = (site / "notebook.html").read_text("utf-8")
    assert "<h1" in notebook and "find_model" in notebook
    assert '<a href="tables.html">tables and views</a>' in notebook


def test_comments_for_the_tests_are_not_in_a_page(site):
    guide = (site / "guide.html").read_text("utf-8")
    assert "<!-- run" not in guide
    assert "<!-- study of analyses -->" not in guide


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\n[x](nowhere.md)\n", "nowhere.md"),
        ("\n[x](tables.md#no-such-table)\n", "no-such-table"),
        ("\n[x](#no-such-heading)\n", "no-such-heading"),
    ],
)
def test_a_link_that_leads_nowhere_fails_the_build(tmp_path, text, said):
    root = copied(tmp_path / "root")
    with (root / "docs/guide.md").open("a", encoding="utf-8") as page:
        page.write(text)
    done = build(root, tmp_path / "site")
    assert done.returncode == 1
    assert said in done.stderr


def test_a_page_that_the_navigation_leaves_out_fails_the_build(tmp_path):
    root = copied(tmp_path / "root")
    (root / "docs/lost.md").write_text("# Lost\n", "utf-8")
    done = build(root, tmp_path / "site")
    assert done.returncode == 1
    assert "lost.md" in done.stderr
