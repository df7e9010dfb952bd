"""Runs the tests against the installed package: python tests/run_installed.py [options of pytest].

The tests import each other as `layerhouse.tests`, so they are copied into the installed package first. Tests of the source tree
(docs, build, code style) are ignored.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parent
OF_THE_SOURCE_TREE = ("test_docs.py", "test_house.py", "test_notebook.py", "test_package.py", "test_site.py")


def main(arguments: list[str]) -> int:
    spec = importlib.util.find_spec("layerhouse")
    if spec is None or spec.origin is None:
        print("layerhouse is not installed", file=sys.stderr)
        return 1
    installed = Path(spec.origin).resolve().parent
    if installed == TESTS.parent:
        print(f"{installed} is the source tree; install the wheel and run again", file=sys.stderr)
        return 1
    copy = installed / "tests"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(TESTS, copy, ignore=shutil.ignore_patterns("__pycache__"))
    ignored = [f"--ignore={copy / name}" for name in OF_THE_SOURCE_TREE]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pytest", "-c", TESTS.parent / "pyproject.toml", "-p", "no:cacheprovider", *ignored]
        return subprocess.run([*command, *arguments, copy], cwd=folder, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
