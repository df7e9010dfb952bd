"""What an import loads, what the wheel holds, and that an installed copy runs without the packages that only tests need."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("ingest", "queries", "terminal", "warehouse")
PAGE_ROOM = "warehouse/render/report"
HEAVY = ("torch", "transformers", "safetensors", "duckdb", "polars", "pyarrow", "rich", "numpy", "vl_convert", "altair")


def loaded_after(code: str) -> set[str]:
    """The heavy packages that a fresh interpreter has loaded after running the code."""
    report = f"{code}\nimport sys\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    return set(subprocess.run([sys.executable, "-c", report], capture_output=True, encoding="utf-8", check=True).stdout.split())


def run_silently(*arguments: str) -> str:
    """Code that runs the command with its output discarded."""
    return (
        "import contextlib, layerhouse.cli as c\nwith contextlib.redirect_stdout(None), contextlib.suppress(SystemExit):\n"
        f"    c.cli.main({list(arguments)})"
    )


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("import layerhouse", set()),
        ("import layerhouse.cli", set()),
        (run_silently("--help"), set()),
        (run_silently("ingest", "--help"), set()),
        (run_silently("plot", "--help"), set()),
        (run_silently("--version"), {"numpy"}),
        ("import layerhouse.ingest.run", set()),
        ("import layerhouse.warehouse.storage.store", set()),
        ("import layerhouse.warehouse.render", {"rich"}),
        ("import layerhouse.warehouse.render.report.page", {"rich"}),
        (run_silently("report", "--help"), set()),
        ("import layerhouse.warehouse.answers.handle", {"duckdb"}),
    ],
)
def test_an_import_loads_no_more_than_it_needs(code, allowed):
    assert loaded_after(code) <= allowed


def build(folder, **environment):
    """The wheel as pip builds it, from a copy of the tree so that nothing is left in it."""
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=False,
    ).stdout.splitlines()
    if not tracked:
        pytest.skip("not a git checkout: the files of the package are not known")
    for name in tracked:
        source, target = ROOT / name, folder / "tree" / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, folder / "tree"],
        env={**os.environ, **environment},
        check=True,
        capture_output=True,
    )
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build(tmp_path_factory.mktemp("wheel"))


def names_in(wheel):
    return {name for name in zipfile.ZipFile(wheel).namelist() if not name.split("/")[0].endswith(".dist-info")}


def expected_names():
    expected = {
        path.relative_to(ROOT).as_posix()
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.suffix in (".py", ".pyi", ".sql", ".toml")
    }
    expected |= {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / PAGE_ROOM).iterdir()
        if path.suffix in (".html", ".css", ".js", ".json", ".txt")
    }
    expected |= {path.name for path in ROOT.glob("*.py")} | {"py.typed"}
    return {f"layerhouse/{name}" for name in expected}


def test_the_wheel_holds_every_module_sql_and_toml_and_one_top_level_name(wheel):
    differing = sorted(name.split(".")[0] for name in names_in(wheel) ^ expected_names())
    extensions = ["layerhouse/ingest/measure/io/_file_window"] * (sys.platform == "linux") + [
        "layerhouse/ingest/measure/kernels/_loops"
    ]
    assert differing == (extensions if shutil.which("cc") else [])
    if differing:
        assert "-cp311-abi3-" in wheel.name


def test_without_a_compiler_the_wheel_lacks_the_extensions_alone(tmp_path):
    wheel = build(tmp_path, CC=str(tmp_path / "no-compiler"))
    assert names_in(wheel) == expected_names()


def test_every_sub_package_is_listed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["packages"]
    rooms = {
        ".".join(("layerhouse", *path.parent.relative_to(ROOT).parts))
        for room in ROOMS
        for path in (ROOT / room).rglob("__init__.py")
    }
    assert set(listed) == rooms | {"layerhouse"}


def test_an_installed_copy_runs_from_the_wheel(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n" + (
        "sys.meta_path[:] = [f for f in sys.meta_path if 'layerhouse' not in getattr(f, '__module__', '') + str(f)]\n"
        "import layerhouse, layerhouse.cli\n"
        "assert layerhouse.__file__.startswith(sys.path[0]), layerhouse.__file__\n"
        "sys.argv = ['layerhouse', 'demo']\n"
        "layerhouse.cli.main()"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, encoding="utf-8", check=False)
    assert result.returncode == 0, result.stderr
    assert "results/HeadPrune_2000" in result.stdout
    assert not any(name in result.stderr for name in ("pytest", "hypothesis"))
