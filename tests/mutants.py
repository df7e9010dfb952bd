"""Mutation testing: change one operator of a module at a time, and see whether the tests of its room fail.

`python -m layerhouse.tests.mutants [--minutes N] ROOM_OR_FILE...` prints killed/run for each module and every mutant that
survived. Rooms, modules and tests are listed in mutants.toml. The mutants are made by cosmic-ray (the extra `mutants`), in a
copy of the tree, in random order, so that a run that the time limit ends is a random sample. Tests run in forks of a process
that has imported the large packages, as importing them takes longer than most tests.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTEST = ("-p", "no:cacheprovider", "-n", "0", "-x", "-q", "-W", "ignore::pytest.PytestAssertRewriteWarning")
IMPORTED_ONCE = (
    "pytest",
    "hypothesis",
    "numpy",
    "pyarrow.parquet",
    "duckdb",
    "polars",
    "torch",
    "transformers",
    "safetensors.torch",
)
REPLACEMENT = re.compile(r"core/Replace(?:Binary|Comparison|Unary)Operator_(?P<names>\w+)")
REPLACEMENTS = frozenset(
    (
        *("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_Mul", "Pow_Mul", "LShift_RShift", "RShift_LShift"),
        *("BitOr_BitAnd", "BitAnd_BitOr", "BitXor_BitAnd", "USub_UAdd", "Delete_Not"),
        *("Eq_NotEq", "NotEq_Eq", "Lt_LtE", "Lt_GtE", "LtE_Lt", "LtE_Gt", "Gt_GtE", "Gt_LtE", "GtE_Gt", "GtE_Lt"),
        *("Is_IsNot", "IsNot_Is", "In_NotIn", "NotIn_In"),
    )
)
"""One or two replacements of each operator. cosmic-ray has up to eleven, most of which fail alike or change nothing (such as
`is` for == between small integers)."""


@dataclass(frozen=True)
class Target:
    """One module to mutate and the tests that should notice, relative to the root. The groups of tests run one after the other
    until one fails; those named after the module come first, as pytest imports every test file that it is given."""

    module: str
    tests: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Score:
    """The result of one module: mutants made, mutants run before the time limit, and a line for each survivor."""

    module: str
    mutants: int
    run: int
    survivors: tuple[str, ...]

    def __str__(self) -> str:
        rest = "" if self.run == self.mutants else f" (of {self.mutants}, the time limit ended the run)"
        return f"{self.module}: {self.run - len(self.survivors)}/{self.run} killed{rest}"


def rooms() -> dict[str, list[Target]]:
    """The targets of each room in mutants.toml."""
    listed = tomllib.loads((ROOT / "tests/mutants.toml").read_text("utf-8"))
    return {name: list(_targets(room["modules"], room["tests"])) for name, room in listed.items()}


def _targets(patterns: Sequence[str], tests: Sequence[str]) -> Iterator[Target]:
    for path in sorted({path for pattern in patterns for path in ROOT.glob(pattern)}):
        if path.name != "__init__.py":
            named = tuple(f"tests/{test}" for test in tests if test == f"test_{path.stem}.py")
            others = tuple(f"tests/{test}" for test in tests if test != f"test_{path.stem}.py")
            yield Target(path.relative_to(ROOT).as_posix(), tuple(group for group in (named, others) if group))


def select(names: Sequence[str]) -> list[Target]:
    """The targets that rooms or paths of modules name. Raises SystemExit for an unknown name."""
    by_room = rooms()
    by_module = {target.module: [target] for targets in by_room.values() for target in targets}
    unknown = [name for name in names if name not in by_room and name not in by_module]
    if unknown:
        raise SystemExit(f"no room or module {', '.join(unknown)}; the rooms are {', '.join(by_room)}")
    return [target for name in names for target in (by_room.get(name) or by_module[name])]


def is_kept(operator: str) -> bool:
    """Whether mutants by this operator of cosmic-ray are run."""
    match = REPLACEMENT.fullmatch(operator)
    return match is None or match["names"] in REPLACEMENTS


def annotation_spans(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Start and end (line, column) of every annotation. They are never evaluated, so a mutant of one is no mutant."""
    spans = []
    for node in ast.walk(ast.parse(source)):
        for annotation in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if isinstance(annotation, ast.expr):
                end = (annotation.end_lineno or 0, annotation.end_col_offset or 0)
                spans.append(((annotation.lineno, annotation.col_offset), end))
    return spans


def copy_tree(folder: Path) -> Path:
    """Copy the files that git knows, and the built extensions, to a package `layerhouse` in the folder."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, encoding="utf-8", check=True).stdout.split("\0")
    names += [path.relative_to(ROOT).as_posix() for path in ROOT.glob("ingest/**/*.so")]
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / "layerhouse" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / "layerhouse" / name)
    return folder / "layerhouse"


def passes(tests: Sequence[str], package: Path, timeout: float, log: Path) -> bool:
    """Whether the tests pass on the copy of the package within a time limit, in a fork of this process."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = _run_pytest(tests, package, log)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    deadline = time.monotonic() + timeout
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) == 0
        if time.monotonic() > deadline:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return False
        time.sleep(0.02)


def _run_pytest(tests: Sequence[str], package: Path, log: Path) -> int:
    import pytest

    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for name in [name for name in sys.modules if name.partition(".")[0] == "layerhouse"]:
        del sys.modules[name]
    sys.path.insert(0, str(package.parent))
    sys.dont_write_bytecode = True
    return int(pytest.main([*PYTEST, *tests]))


def mutate(target: Target, package: Path, minutes: float) -> Score:
    """Run the mutants of one module until all are run or the time is over. Raises SystemExit if the tests fail unchanged."""
    from cosmic_ray.commands import init
    from cosmic_ray.mutating import use_mutation
    from cosmic_ray.plugins import get_operator
    from cosmic_ray.work_db import use_db

    started, log = time.monotonic(), package.parent / "output"
    for tests in target.tests:
        if not passes(tests, package, 60 * 60, log):
            raise SystemExit(f"{target.module}: the tests fail without a mutant\n{log.read_text('utf-8', 'replace')}")
    timeout = max(60.0, 10 * (time.monotonic() - started))
    source = Path(target.module).read_text("utf-8")
    with use_db(package.parent / "mutants.sqlite") as database:
        init([Path(target.module)], database, {})
        mutants = [mutation for item in database.pending_work_items for mutation in item.mutations]
    spans = annotation_spans(source)
    mutants = [
        mutant
        for mutant in mutants
        if is_kept(mutant.operator_name) and not any(start <= tuple(mutant.start_pos) < end for start, end in spans)
    ]
    run, survivors = 0, []
    for mutant in mutants:
        if time.monotonic() - started > 60 * minutes:
            break
        run += 1
        operator = get_operator(mutant.operator_name)(**mutant.operator_args)
        with use_mutation(mutant.module_path, operator, mutant.occurrence):
            survives = all(passes(tests, package, timeout, log) for tests in target.tests)
        if survives:
            line, column = mutant.start_pos
            name, text = mutant.operator_name.removeprefix("core/"), source.splitlines()[line - 1].strip()
            survivors.append(f"{target.module}:{line}:{column + 1} {name}: {text}")
    return Score(target.module, len(mutants), run, tuple(sorted(survivors)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Mutation testing of the rooms in tests/mutants.toml.")
    parser.add_argument("names", nargs="*", metavar="ROOM_OR_FILE", help="all rooms without one")
    parser.add_argument("--minutes", type=float, default=10, help="time limit of each module")
    options = parser.parse_args()
    targets = select(options.names or list(rooms()))
    for name in IMPORTED_ONCE:
        importlib.import_module(name)
    scores = []
    with tempfile.TemporaryDirectory() as folder:
        package = copy_tree(Path(folder))
        os.chdir(package)
        os.environ |= {"PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}
        for target in targets:
            scores.append(mutate(target, package, options.minutes))
            print(scores[-1], *scores[-1].survivors, sep="\n    ", flush=True)
    run, survived = sum(score.run for score in scores), sum(len(score.survivors) for score in scores)
    print(f"{run - survived}/{run} killed in {len(scores)} modules")


if __name__ == "__main__":
    main()
