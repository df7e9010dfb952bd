"""Mutations of every kind of file: each is read or refused in one line, quickly and within bounded memory.

A file is a target of `mutation_targets`: of every container and layout, a config, an index, an adapter's and a slicing
config, an analysis, a result of every format. Of each mutation it is asserted that

- no error but a LayerhouseError of one line leaves the reader, which is called without any guard around it;
- whatever is read fits the columns of the warehouse, and every byte of a tensor that is read is there;
- it takes no more than MAX_SECONDS of CPU, and all of them no more than MAX_MIB of memory;
- an answer changes only as the format allows (the targets' `check`): of a torch zip only bytes of tensors; of safetensors,
  whose header has no checksum, as the format's own library reads it; of a config no name, type, stored shape or count of zeros;
  where one number of a result becomes something else, there are as many rows and lines on what is left out as before. GGUF and
  torch's old format have no checksum of names and shapes either: of them every tensor that is read lies in the file.

`python -m layerhouse.tests.test_mutations ROUNDS [SEED [NAME]]` makes so many mutations of each target, of those whose name
contains NAME; prints the slowest and the peak of memory, and keeps the files with a fault in build/mutations.
"""

from __future__ import annotations

import random
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import pytest

from layerhouse.errors import InputError
from layerhouse.tests.mutation_targets import TARGETS
from layerhouse.tests.mutations import (
    RAW,
    Outcome,
    Target,
    changed_bytes,
    changed_header,
    changed_json,
    changed_lines,
    changed_number,
    run,
)
from layerhouse.tests.running import CLEAN

ROUNDS, SEED = 130, 24
"""Of the normal run: over 10,000 mutations."""
MAX_MIB = 500
BY_NAME = {target.name: target for target in TARGETS}
SMALL_PARENT = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)"
"""A process begins with the peak of the one that starts it, which is this one's unless another one stands between."""


@pytest.mark.parametrize("name", BY_NAME)
@pytest.mark.filterwarnings("ignore:Sparse", "ignore:Couldn't retrieve source code", "ignore:.*quant", "ignore:TypedStorage")
def test_every_mutation_is_read_or_refused(tmp_path, name):
    outcome = run(BY_NAME[name], tmp_path, ROUNDS, SEED)
    assert outcome.faults == []
    assert outcome.read + outcome.refused == ROUNDS
    assert outcome.read > 0


def test_they_are_ten_thousand_of_every_kind():
    assert len(BY_NAME) == len(TARGETS)
    assert ROUNDS * len(TARGETS) > 10_000


def test_the_memory_of_mutations_is_bounded():
    command = [sys.executable, "-c", SMALL_PARENT, sys.executable, "-m", "layerhouse.tests.test_mutations", "5", str(SEED)]
    done = subprocess.run(command, env=CLEAN, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split("peak of memory: ")[1].split()[0]) < MAX_MIB


def test_a_reader_that_raises_is_slow_or_answers_otherwise_is_found(tmp_path):
    def write(folder: Path) -> Path:
        (folder / "a.json").write_text('{"a": 1}')
        return folder / "a.json"

    def read(path: Path) -> int:
        size = path.stat().st_size
        if size < 4:
            raise InputError("a.json", "two\nlines")
        if size > 8:
            raise KeyError("a")
        return size

    def check(before: int, after: int, whole: bytes, mutation: bytes) -> str | None:
        return None if before == after else "another size"

    outcome = run(Target("sizes", write, read, (changed_bytes, changed_json), check), tmp_path, 200, 1, keep=tmp_path)
    found = "\n".join(outcome.faults)
    assert "KeyError: 'a' at " in found
    assert "an error of several lines" in found
    assert "another size" in found
    assert len(list(tmp_path.glob("sizes-*"))) == len(outcome.faults)


@pytest.mark.parametrize("change", [changed_bytes, changed_json, changed_lines, changed_number, changed_header])
def test_changes_follow_from_the_seed_and_nearly_all_of_them_change_something(change):
    header = b'{"w": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}'
    whole = len(header).to_bytes(8, "little") + header + b"xy" if change is changed_header else header
    first, again = ([change(random.Random(seed), whole) for seed in range(200)] for _ in range(2))
    assert first == again
    assert sum(mutation != whole for mutation in first) > 150


def test_marks_in_a_document_become_what_json_cannot_write():
    texts = {changed_json(random.Random(seed), b'{"a": 1}') for seed in range(3000)}
    assert all(any(raw.encode() in text for text in texts) for raw in RAW.values())


def fuzz(rounds: int, seed: int, part: str) -> list[tuple[Target, Outcome]]:
    """So many mutations of each target whose name has a part; prints a line for each."""
    keep = Path("build/mutations")
    outcomes = []
    for target in TARGETS:
        if part not in target.name:
            continue
        keep.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            outcome = run(target, Path(folder), rounds, seed, keep)
        outcomes.append((target, outcome))
        print(f"{target.name}: {outcome.read} of {rounds} read, the slowest took {outcome.slowest:.3f} s", flush=True)
        for fault in outcome.faults:
            print(f"  FAULT {fault}", flush=True)
    return outcomes


def main() -> None:
    rounds = int(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 and sys.argv[2] else time.time_ns()
    warnings.simplefilter("ignore")
    outcomes = fuzz(rounds, seed, sys.argv[3] if len(sys.argv) > 3 else "")
    slowest, outcome = max(outcomes, key=lambda pair: pair[1].slowest)
    faults = sum(len(outcome.faults) for _, outcome in outcomes)
    print(f"seed {seed}: {rounds * len(outcomes)} mutations, {faults} faults")
    print(f"the slowest: {outcome.slowest:.3f} s of CPU, of {slowest.name}")
    print(f"peak of memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
