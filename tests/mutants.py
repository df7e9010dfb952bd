"""Mutation testing: change one operator of a module at a time, and see whether the tests of its room fail.

`python -m layerhouse.tests.mutants [--minutes N] ROOM_OR_FILE...` prints killed/run for each module and every mutant that
survived. Rooms, modules and tests are listed in mutants.toml. The mutants are made by cosmic-ray (the extra `mutants`), in a
copy of the tree, in random order, so that a run that the time limit ends is a random sample.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTEST = ("-m", "pytest", "-p", "no:cacheprovider", "-n", "0", "-x", "-q")
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
    """One module to mutate and the tests that should notice, relative to the root. `first` are those named after the module:
    they run alone first, as pytest imports every test file that it is given."""

    module: str
    first: tuple[str, ...]
    others: tuple[str, ...]

    @property
    def commands(self) -> list[list[str]]:
        """The commands to run for each mutant until one fails."""
        return [[sys.executable, *PYTEST, *tests] for tests in (self.first, self.others) if tests]


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
            first = tuple(f"tests/{test}" for test in tests if test == f"test_{path.stem}.py")
            others = tuple(f"tests/{test}" for test in tests if test != f"test_{path.stem}.py")
            yield Target(path.relative_to(ROOT).as_posix(), first, others)


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


def mutate(target: Target, folder: Path, minutes: float) -> Score:
    """Run the mutants of one module until all are run or the time is over. Raises SystemExit if the tests fail unchanged."""
    from cosmic_ray.commands import init
    from cosmic_ray.mutating import mutate_and_test
    from cosmic_ray.work_db import use_db
    from cosmic_ray.work_item import TestOutcome

    started = time.monotonic()
    for command in target.commands:
        unchanged = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
        if unchanged.returncode:
            raise SystemExit(f"{target.module}: the tests fail without a mutant\n{unchanged.stdout}{unchanged.stderr}")
    timeout = max(60.0, 10 * (time.monotonic() - started))
    spans = annotation_spans(Path(target.module).read_text("utf-8"))
    with use_db(folder / "mutants.sqlite") as database:
        init([Path(target.module)], database, {})
        mutants = [
            mutation
            for item in database.pending_work_items
            for mutation in item.mutations
            if not any(start <= tuple(mutation.start_pos) < end for start, end in spans)
            if is_kept(mutation.operator_name)
        ]
    run, survivors = 0, []
    for mutation in mutants:
        if time.monotonic() - started > 60 * minutes:
            break
        run += 1
        outcomes = (mutate_and_test([mutation], shlex.join(command), timeout).test_outcome for command in target.commands)
        if all(outcome == TestOutcome.SURVIVED for outcome in outcomes):
            line = Path(target.module).read_text("utf-8").splitlines()[mutation.start_pos[0] - 1].strip()
            operator = mutation.operator_name.removeprefix("core/")
            survivors.append(f"{target.module}:{mutation.start_pos[0]}:{mutation.start_pos[1] + 1} {operator}: {line}")
    return Score(target.module, len(mutants), run, tuple(sorted(survivors)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Mutation testing of the rooms in tests/mutants.toml.")
    parser.add_argument("names", nargs="*", metavar="ROOM_OR_FILE", help="all rooms without one")
    parser.add_argument("--minutes", type=float, default=10, help="time limit of each module")
    options = parser.parse_args()
    targets = select(options.names or list(rooms()))
    scores = []
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(copy_tree(Path(folder)))
        os.environ["PYTHONPATH"] = folder
        for target in targets:
            scores.append(mutate(target, Path(folder), options.minutes))
            print(scores[-1], *scores[-1].survivors, sep="\n    ", flush=True)
    run, survived = sum(score.run for score in scores), sum(len(score.survivors) for score in scores)
    print(f"{run - survived}/{run} killed in {len(scores)} modules")


if __name__ == "__main__":
    main()
