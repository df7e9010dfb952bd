"""The pages are run: the outputs in README.md and docs/guide.md are those of the commands and the Python API.

A section (a heading of level 2 or 3 and its text) runs from top to bottom in a folder of its own. The folder has the
ingested demo study or, if the section has the comment `study of analyses`, the study of tests/study_builder.py. In
`console` blocks, lines after `$ ` are commands, lines after `> ` continue them, and other lines are the expected stdout
and stderr. The output of `python` and `sql` blocks is compared with the `text` block that follows. A comment that
starts with `run` has commands that readers do not see. `...` matches anything within its line or, alone on a line, any
number of lines. The folder appears as /home/me/study.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from click.testing import CliRunner

import layerhouse
from layerhouse import demo
from layerhouse.cli import cli, main
from layerhouse.tests import study_builder
from layerhouse.tests.running import CLEAN
from layerhouse.warehouse.answers.query import query_names, query_text
from layerhouse.warehouse.answers.session import connect
from layerhouse.warehouse.answers.sql_text import quote_identifier, sql_files
from layerhouse.warehouse.answers.tables import documented_columns, list_tables
from layerhouse.warehouse.answers.view_columns import VIEW_COLUMNS
from layerhouse.warehouse.storage.schema import TABLES
from layerhouse.warehouse.storage.store import create_store

ROOT = Path(__file__).parents[1]
RUN_PAGES = ("README.md", "docs/guide.md", "docs/families.md")
PAGES = (
    *RUN_PAGES,
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "bench/RESULTS.md",
    "docs/cli.md",
    "docs/matching.md",
    "docs/formats.md",
    "docs/tables.md",
)
DISPLAY_FOLDER = "/home/me/study"
END = "-- end of command --"
BLOCK = re.compile(r"^```(?P<kind>\w*)\n(?P<text>.*?)^```$|^<!-- run\n(?P<hidden>.*?)^-->$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
SECTION = re.compile(r"^(?=#{2,3} )", re.MULTILINE)
JQ = re.compile(r"\bjq\b")
MAP_PAGES = ("CONTRIBUTING.md", "SECURITY.md")
"""Pages that name files of the repository and targets of make."""
CODE_SPAN = re.compile(r"`([^`\n]+)`")
REPOSITORY_PATH = re.compile(r"\.?[\w.]+/[\w./*-]*|\w+\.(?:py|toml|md|txt)|Makefile")
PLACEHOLDER = re.compile(r"\b(?:NN|NAME|CASE)(?=[_./]|$)|(?<=_)NAME\b")
TARGET = re.compile(r"^([a-z][\w-]*):", re.MULTILINE)
OF_ANALYSES = "<!-- study of analyses -->"


@dataclass(frozen=True)
class Block:
    """One block of a page: kind, text, place in the page, and expected output (None if the block itself contains it).

    `study` is the study in whose folder it runs.
    """

    kind: str
    text: str
    where: str
    expected: str | None = None
    study: str = "demo"


def sections() -> Iterator[tuple[str, list[Block]]]:
    """Title and blocks of every section that has something to run."""
    for page in RUN_PAGES:
        text, line = (ROOT / page).read_text("utf-8"), 1
        for part in SECTION.split(text):
            title = part.partition("\n")[0].strip("# ")
            study = "analyses" if OF_ANALYSES in part else "demo"
            blocks = [replace(block, study=study) for block in blocks_of(part, page, line)]
            if any(block.kind not in ("sh", "hidden") for block in blocks):
                yield f"{page}: {title}", blocks
            line += part.count("\n")


def blocks_of(text: str, page: str, first_line: int) -> Iterator[Block]:
    matches = list(BLOCK.finditer(text))
    for match, following in zip(matches, [*matches[1:], None], strict=False):
        where = f"{page}:{first_line + text[: match.start()].count(chr(10))}"
        kind = match["kind"] if match["kind"] is not None else "hidden"
        if kind in ("python", "sql"):
            yield Block(kind, match["text"], where, following["text"] if following and following["kind"] == "text" else "")
        elif kind != "text":
            yield Block(kind, match["text"] if match["hidden"] is None else match["hidden"], where)


SECTIONS = list(sections())
JQ_BLOCKS = [block for _, blocks in SECTIONS for block in blocks if block.kind == "console" and JQ.search(block.text)]


@pytest.fixture(scope="session")
def studies(tmp_path_factory):
    """Make a study with its warehouse once, and put a fresh copy at the path where it was made for every use: a warehouse knows
    its models by their folders."""
    home = tmp_path_factory.mktemp("docs")
    place = home / "study"

    def put(name: str) -> Path:
        if place.exists():
            shutil.rmtree(place)
        if not (home / name).exists():
            {"demo": demo, "analyses": study_builder}[name].write_study(place)
            base = place / demo.BASE if name == "demo" else None
            layerhouse.ingest([place / "baselines", place / "results"], warehouse=place / "layerhouse-data", base=base)
            place.rename(home / name)
        shutil.copytree(home / name, place)
        return place

    return put


@pytest.fixture
def put_study(studies, monkeypatch):
    """Put a study into the folder of a section and change to it."""

    def put(name: str) -> Path:
        folder = studies(name)
        monkeypatch.chdir(folder)
        return folder

    monkeypatch.delenv("LAYERHOUSE_WAREHOUSE", raising=False)
    return put


@pytest.mark.parametrize(("title", "blocks"), SECTIONS, ids=[title for title, _ in SECTIONS])
def test_a_section_has_the_outputs_of_its_commands(title, blocks, put_study, command):
    study = put_study(blocks[0].study)
    names: dict[str, object] = {"__name__": "guide"}
    for block in blocks:
        if block.kind == "hidden":
            done = bash(f"set -e\n{block.text}", study, command)
            assert done.returncode == 0, f"{block.where}: {done.stdout}"
        elif block.kind == "console" and block not in JQ_BLOCKS:
            run_console(block, study, command)
        elif block.kind == "python":
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                exec(compile(block.text, block.where, "exec"), names)
            compare(block.where, block.expected, output.getvalue(), study)
        elif block.kind == "sql":
            done = CliRunner().invoke(cli, ["sql", "-"], input=block.text, catch_exceptions=False)
            compare(block.where, block.expected, done.output, study)


@pytest.mark.parametrize("block", JQ_BLOCKS, ids=lambda block: block.where)
@pytest.mark.skipif(shutil.which("jq") is None, reason="the program jq is not on PATH")
def test_a_block_with_jq_has_the_outputs_of_its_commands(block, put_study, command):
    run_console(block, put_study(block.study), command)


def test_every_block_is_of_a_known_kind():
    for _, blocks in SECTIONS:
        for block in blocks:
            assert block.kind in ("console", "python", "sql", "sh", "hidden"), f"{block.where}: {block.kind!r}"
            assert block.kind != "sh" or block.where.startswith("README.md:"), (
                f"{block.where}: sh is for the two lines of README.md"
            )


@pytest.mark.parametrize(
    ("expected", "output", "is_same"),
    [
        ("a\n", "a\n", True),
        ("a\n", "a", True),
        ("a\n", "b\n", False),
        ("a\n", "a\nb\n", False),
        ("", "a\n", False),
        ("a ... c\n", "a b c\n", True),
        ("a ... c\n", "a b\n c\n", False),
        ("a\n...\nd\n", "a\nb\nc\nd\n", True),
        ("a\n...\nd\n", "a\nb\nc\n", False),
        ("a.c\n", "abc\n", False),
    ],
)
def test_output_is_compared_exactly_except_at_dots(expected, output, is_same):
    assert bool(re.fullmatch(pattern(expected), as_lines(output))) == is_same


def test_the_generated_pages_are_those_of_the_code():
    pages = runpy.run_path(str(ROOT / "docs/generate.py"))["pages"]()
    for name, text in pages.items():
        is_same = (ROOT / "docs" / name).read_text("utf-8") == text
        assert is_same, f"docs/{name} is out of date; write it with: python docs/generate.py"


def test_a_generated_page_that_is_out_of_date_or_missing_fails_the_check(tmp_path):
    generate = shutil.copy(ROOT / "docs/generate.py", tmp_path)
    (tmp_path / "cli.md").write_text("something else", "utf-8")
    checked = subprocess.run([sys.executable, generate, "--check"], capture_output=True, encoding="utf-8", check=False)
    assert checked.returncode == 1
    assert checked.stderr.splitlines() == [
        f"{tmp_path / page}: out of date; write it with: python docs/generate.py"
        for page in ("cli.md", "formats.md", "tables.md")
    ]
    assert (tmp_path / "cli.md").read_text("utf-8") == "something else"


def test_every_command_table_view_and_query_has_a_heading():
    headings = {page: set(HEADING.findall((ROOT / page).read_text("utf-8"))) for page in PAGES}
    assert {f"layerhouse {name}" for name in cli.commands} <= headings["docs/cli.md"]
    views = {stem.partition("_")[2] for stem in sql_files("warehouse.views") if not stem.startswith("00_")}
    assert {*TABLES, *views, *(f"query {name}" for name in query_names())} <= headings["docs/tables.md"]


def test_every_column_of_a_table_view_and_query_is_described(tmp_path):
    root = create_store(tmp_path / "warehouse")
    sources = {name: quote_identifier(name) for name in list_tables(root)["name"].to_pylist()}
    sources |= {name: query_text(name) for name in query_names()}
    connection, _ = connect(root)
    seen = set()
    with connection:
        for name, source in sources.items():
            columns = [column for column, *_ in connection.execute(f"DESCRIBE {source}").fetchall()]
            documented = documented_columns(name)
            assert [column for column in columns if column not in documented or not documented[column].text] == [], name
            seen |= {*columns, *(f"{name}.{column}" for column in columns)}
    assert set(VIEW_COLUMNS) <= seen


def test_ci_runs_the_test_line_of_the_readme():
    install, test = re.findall(r"^```sh\n(.+)\n```$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    assert install.endswith("layerhouse demo")
    assert test.endswith("pytest")
    assert test in (line.strip() for line in (ROOT / ".ci/run").read_text("utf-8").splitlines())
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_the_constraints_pin_every_direct_dependency():
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = [line.partition("==") for line in lines if not line.startswith("#")]
    assert all(version for _, _, version in pins)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = {
        re.split("[^A-Za-z0-9-]", line)[0].lower() for line in (*project["dependencies"], *extras["dev"], *extras["test"])
    }
    assert wanted - {"layerhouse"} <= {name.lower() for name, _, _ in pins}


@pytest.mark.parametrize("page", PAGES)
def test_links_resolve(page):
    text = BLOCK.sub("", (ROOT / page).read_text("utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        assert "://" not in target, f"{page}: {target}: link to files of the repository"
        linked = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        assert linked.exists(), f"{page}: {target}"
        if anchor:
            assert anchor in anchors(linked.read_text("utf-8")), f"{page}: {target}"


@pytest.mark.parametrize("page", MAP_PAGES)
def test_every_path_that_a_map_names_exists(page):
    paths = [span for span in CODE_SPAN.findall((ROOT / page).read_text("utf-8")) if REPOSITORY_PATH.fullmatch(span)]
    assert len(paths) > 10
    assert [path for path in paths if not any(ROOT.glob(PLACEHOLDER.sub("*", path).rstrip("/")))] == []


@pytest.mark.parametrize("page", MAP_PAGES)
def test_every_command_that_a_map_names_exists(page):
    targets = set(TARGET.findall((ROOT / "Makefile").read_text("utf-8")))
    assert {"check", "docs", "release"} <= targets
    for span in CODE_SPAN.findall((ROOT / page).read_text("utf-8")):
        tool, *words = span.split()
        if tool == "make":
            assert words[0] in targets, f"{page}: {span}"
        elif tool == "layerhouse" and words:
            assert words[0] in cli.commands, f"{page}: {span}"
        elif tool == "python":
            files = [word for word in words if word.endswith(".py")]
            assert files, f"{page}: {span}"
            assert all((ROOT / file).is_file() for file in files), f"{page}: {span}"


def test_every_hook_before_a_commit_is_a_target_of_make_and_fetches_nothing():
    text = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
    targets = set(TARGET.findall((ROOT / "Makefile").read_text("utf-8")))
    static = re.search(r"^static: (.+)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    hooks = re.findall(r"entry: make ([\w-]+), language: system", text)
    assert static is not None
    assert hooks == static[1].split()
    assert {*hooks} <= targets
    assert re.findall(r"repo: (\S+)", text) == ["local"]


def anchors(text: str) -> set[str]:
    """Anchors of the headings of a page, formed as GitHub does."""
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in HEADING.findall(BLOCK.sub("", text))}


def commands(block: Block) -> list[tuple[str, str]]:
    """The commands of a console block, each with its expected output."""
    parsed: list[tuple[str, str]] = []
    for line in block.text.splitlines(keepends=True):
        if line.startswith("$ "):
            parsed.append((line[2:], ""))
        elif line.startswith("> ") and parsed and not parsed[-1][1]:
            parsed[-1] = (parsed[-1][0] + line[2:], "")
        else:
            assert parsed, f"{block.where}: a console block starts with a command"
            parsed[-1] = (parsed[-1][0], parsed[-1][1] + line)
    return parsed


def run_console(block: Block, study: Path, command: Path) -> None:
    for (line, expected), output in zip(commands(block), console_output(block, study, command), strict=True):
        compare(f"{block.where}: {line.strip()}", expected, output, study)


def console_output(block: Block, study: Path, command: Path) -> list[str]:
    """The output of each command, in one shell, so that `$?` is that of the previous command."""
    script = "".join(f"{line}status=$?; echo '{END}'; (exit $status)\n" for line, _ in commands(block))
    return bash(script, study, command).stdout.split(f"{END}\n")[:-1]


COMMAND = """#!{python} -IS
import json, os, socket, sys

with socket.socket(socket.AF_UNIX) as connection:
    connection.connect({address!r})
    request = {{"arguments": sys.argv, "folder": os.getcwd(), "environment": dict(os.environ)}}
    socket.send_fds(connection, [json.dumps(request).encode()], [0, 1, 2])
    sys.exit(int(connection.recv(9)))
"""


@pytest.fixture(scope="session")
def command():
    """A folder with a `layerhouse` that runs the command in a fork of a process with all modules imported: importing takes
    longer than most commands."""
    with tempfile.TemporaryDirectory() as folder:
        path, address = Path(folder) / "layerhouse", f"{folder}/socket"
        path.write_text(COMMAND.format(python=sys.executable, address=address), "utf-8")
        path.chmod(0o755)
        serve = f"from layerhouse.tests.test_docs import serve; serve({address!r})"
        with subprocess.Popen([sys.executable, "-c", serve], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as server:
            try:
                assert server.stdout is not None
                assert server.stdout.readline() == b"ready\n"
                yield Path(folder)
            finally:
                server.kill()


def serve(address: str) -> None:
    """Run each command requested on a socket in a fork, with the streams, folder and environment of the client."""
    for name in (
        "layerhouse.ingest.measure.kernels.cpu",
        "layerhouse.warehouse.answers.handle",
        "polars",
        "pyarrow.parquet",
        "rich.text",
    ):
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        os.write(1, b"ready\n")
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                run_command(connection)
            connection.close()


def run_command(connection: socket.socket) -> None:
    message, streams, *_ = socket.recv_fds(connection, 1 << 20, 3)
    request = json.loads(message)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = request["arguments"]
    code = 1
    try:
        main()
    except SystemExit as exit_request:
        code = int(exit_request.code or 0)
    finally:
        sys.stdout.flush()
        connection.send(str(code).encode())
        os._exit(code)


def bash(script: str, folder: Path, command: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join((str(command), str(Path(sys.executable).parent), os.environ["PATH"]))
    return subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env={**CLEAN, "PATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=600,
        check=False,
    )


def compare(where: str, expected: str | None, output: str, study: Path) -> None:
    lines = as_lines(output.replace(str(study), DISPLAY_FOLDER))
    assert re.fullmatch(pattern(expected or ""), lines), f"{where}\n--- the page has\n{expected}\n--- the output is\n{lines}"


def as_lines(text: str) -> str:
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def pattern(expected: str) -> str:
    return "".join(r"(?:.*\n)*" if line == "..." else f"{line_pattern(line)}\n" for line in as_lines(expected).splitlines())


def line_pattern(line: str) -> str:
    return ".*".join(map(re.escape, line.split("...")))
