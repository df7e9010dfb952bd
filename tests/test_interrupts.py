"""SIGINT at any moment of any command: no traceback, one line, exit code 130; and no handler in users of the library."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import layerhouse as lh
from layerhouse.tests import study_builder
from layerhouse.tests.running import CLEAN
from layerhouse.warehouse.admin.health import check_warehouse

PACKAGE = Path(lh.__file__).parent
COMMAND = [sys.executable, "-m", "layerhouse"]
TRIES = 20
LONGEST_DELAY = 1.5


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interrupts")
    study_builder.write_study(folder)
    lh.ingest([folder / "baselines", folder / "results"], warehouse=folder / "w")
    return folder


def interrupted(command: list[str], delay: float, number: signal.Signals, cwd: Path) -> tuple[int, str]:
    """The exit code and stderr of a command that gets the signal after so many seconds."""
    process = subprocess.Popen(command, cwd=cwd, env=CLEAN, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8")
    time.sleep(delay)
    process.send_signal(number)
    _, errors = process.communicate(timeout=600)
    return process.returncode, errors


def is_before_the_package(errors: str) -> bool:
    """True for a traceback of Python that starts: its last line in the package, if it has one, is the import of `starting`."""
    if "init_import_site" in errors:
        return True
    found = re.findall(rf'File "({re.escape(str(PACKAGE))}/[^"]*)"', errors)
    files = [file for file in found if not file.startswith(sys.prefix)]  # an environment may be in the package's folder
    return "Traceback" in errors and {Path(file).name for file in files} <= {"__init__.py", "starting.py"} and len(files) <= 2


@pytest.mark.skipif("LAYERHOUSE_STRESS" not in os.environ, reason="at random moments; set LAYERHOUSE_STRESS=1")
@pytest.mark.parametrize("arguments", [["--help"], ["summarize", "-w", "w"], ["ingest", "baselines", "results", "-w", "new"]])
def test_an_interrupt_at_any_moment_is_one_line(study, arguments):
    chance, seen = random.Random(arguments[0]), set()
    for attempt in range(TRIES):
        delay = chance.uniform(0, LONGEST_DELAY * (attempt + 1) / TRIES)
        code, errors = interrupted([*COMMAND, *arguments], delay, signal.SIGINT, study)
        if is_before_the_package(errors):
            continue
        seen.add(code)
        assert "Traceback" not in errors, (delay, errors)
        assert code in (0, 130, -signal.SIGINT), (delay, errors)
        if code == 130:
            assert errors.count("layerhouse: interrupted") == 1, (delay, errors)
            assert errors.splitlines()[-1].startswith("layerhouse: interrupted"), (delay, errors)
            assert arguments[0] == "ingest" or errors.count("\n") == 1, (delay, errors)
    assert 130 in seen
    if arguments[0] == "ingest":
        assert subprocess.run([*COMMAND, *arguments, "-q"], cwd=study, env=CLEAN, check=False).returncode == 0
        assert check_warehouse(study / "new") == []


SLOW = "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE hash(a.range, b.range) = 7"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("safe", [[], ["--safe"]])
def test_a_query_that_runs_is_interrupted_with_one_line(study, number, safe):
    code, errors = interrupted([*COMMAND, "sql", *safe, SLOW, "-w", "w"], 3, number, study)
    assert code == 130
    assert re.fullmatch(r"layerhouse: interrupted.*\n", errors)


CALLBACK = """
import os, signal, sys, time, weakref
from layerhouse.terminal.process import exit_without_teardown, run_to_exit

class Thing: pass

def command():
    thing = Thing()
    reference = weakref.ref(thing, lambda _: [os.kill(os.getpid(), signal.SIGINT), time.sleep(0.001)])
    del thing
    time.sleep(600)

exit_without_teardown(lambda: run_to_exit(command))
"""
TWICE = """
import os, signal, sys, time
from layerhouse.terminal.process import exit_without_teardown, run_to_exit

def command():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(600)
    finally:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(600)

exit_without_teardown(lambda: run_to_exit(command))
"""
LATE = """
import os, signal, sys, time
from layerhouse.errors import WarehouseError
from layerhouse.terminal.process import exit_without_teardown, run_to_exit

class Slow(WarehouseError):
    def __str__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(600)

def command():
    raise Slow("x")

exit_without_teardown(lambda: run_to_exit(command))
"""


@pytest.mark.parametrize("code", [CALLBACK, TWICE, LATE], ids=["in a callback", "twice", "while an error is shown"])
def test_an_interrupt_at_a_bad_moment_is_one_line(code):
    result = subprocess.run([sys.executable, "-c", code], env=CLEAN, capture_output=True, encoding="utf-8", check=False)
    assert result.returncode == 130
    assert re.fullmatch(r"layerhouse: interrupted.*\n", result.stderr)


def test_an_ignored_signal_stays_ignored(study):
    """As with nohup, and with & in a script."""
    shell = f"trap '' INT; exec {sys.executable} -m layerhouse summarize -w w -f csv"
    process = subprocess.Popen(["sh", "-c", shell], cwd=study, env=CLEAN, stdout=subprocess.PIPE, encoding="utf-8")
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=600)
    assert (process.returncode, output.count("\n")) == (0, 6)


def test_a_program_that_uses_the_library_keeps_its_handlers(study):
    code = (
        "import signal, sys, layerhouse as lh\nwith lh.open('w') as wh:\n    wh.models()\n"
        "print(*(signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)))"
    )
    program = [sys.executable, "-c", code]
    handlers = subprocess.run(program, cwd=study, env=CLEAN, capture_output=True, encoding="utf-8", check=True).stdout
    assert handlers == f"{signal.default_int_handler} {signal.SIG_DFL}\n"


def test_an_interrupted_export_leaves_nothing_behind(study, tmp_path):
    before = {path.name for path in tmp_path.iterdir()}
    for delay in (0.4, 0.6, 0.8, 1.0):
        code, _ = interrupted(
            [*COMMAND, "export", "-w", "w", "--duckdb", str(tmp_path / "x.duckdb")], delay, signal.SIGTERM, study
        )
        assert code in (0, 130, 1, -signal.SIGTERM)
        (tmp_path / "x.duckdb").unlink(missing_ok=True)
        assert {path.name for path in tmp_path.iterdir()} == before, os.listdir(tmp_path)


IMPORT = """
import os, signal, sys, time
from layerhouse.terminal.process import exit_without_teardown, run_to_exit

def hook(event, arguments):
    if event == "import" and arguments[0] == "_lsprof" and arguments[1]:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.001)
        print("goes on", flush=True)

def command():
    sys.addaudithook(hook)
    import _lsprof
    print("imported", flush=True)
    time.sleep(600)

exit_without_teardown(lambda: run_to_exit(command))
"""


def test_a_compiled_module_is_imported_to_its_end_before_the_command_is_interrupted():
    done = subprocess.run(
        [sys.executable, "-c", IMPORT], env=CLEAN, capture_output=True, text=True, check=False, timeout=60, cwd="/"
    )
    assert done.returncode == 130
    assert done.stdout.startswith("goes on\n")
    assert re.fullmatch(r"layerhouse: interrupted.*\n", done.stderr)
