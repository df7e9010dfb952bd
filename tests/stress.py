"""Trials that are too long for every run of the tests: flipped bytes, killed runs, many writers, a full disk, early interrupts.

Run all with `make stress`, or one with `python -m layerhouse.tests.stress NAME [COUNT]`. Each prints what it saw, and ends with
an AssertionError if something was lost, or was answered wrongly without an error.
"""

from __future__ import annotations

import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import layerhouse as lh
from layerhouse.errors import WarehouseError
from layerhouse.tests.running import CLEAN
from layerhouse.tests.test_kept_answers import link, results
from layerhouse.tests.test_kill import COMMAND, assert_all_is_there_once, assert_no_model_is_half_there, write_models
from layerhouse.warehouse.admin.health import check_warehouse
from layerhouse.warehouse.admin.keeping import keep_answers
from layerhouse.warehouse.answers.kept import states
from layerhouse.warehouse.storage.own_files import HEADS
from layerhouse.warehouse.storage.store import write_commit

QUESTIONS = (
    "SELECT * FROM models ORDER BY ALL",
    "SELECT * FROM layer_pruning ORDER BY ALL",
    "SELECT * FROM performance ORDER BY ALL",
    "SELECT * FROM results ORDER BY ALL",
    "SELECT * FROM measures ORDER BY ALL",
)


def answers(root: Path, **options: bool) -> list[Any]:
    """What a warehouse answers: its rows, or DamagedWarehouseError and the like."""
    with lh.open(root, **options) as wh:
        return [wh.sql(question).rows() for question in QUESTIONS]


def make_warehouse(folder: Path) -> Path:
    """A warehouse of some commits with structure and results, its answers cached."""
    models = write_models(folder, 6)
    root = folder / "warehouse"
    for model in sorted(models.iterdir()):
        lh.ingest([model], warehouse=root)
    write_commit(root, {"results": results("model", 0.5, 40), "links": [link("model", 0.5)]}, "ingest")
    keep_answers(root)
    return root


def files_of(root: Path) -> list[Path]:
    """Every file of a warehouse but its lock, which is empty."""
    return sorted(path for path in root.rglob("*") if path.is_file() and path.stat().st_size)


def flips(folder: Path, count: int = 570, seed: int = 1) -> None:
    """Flip a bit of a byte, of all kinds of files by turns; nothing else may change."""
    chance, states.LEAST_RESULTS, seen = random.Random(seed), 10, Counter[str]()
    root = make_warehouse(folder)
    before = answers(root)
    assert before == answers(root, verify=True)
    kinds: dict[str, list[Path]] = {}
    for path in files_of(root):
        kinds.setdefault(path.parent.name if path.parent != root else path.name, []).append(path)
    assert {"commits", HEADS, "kept", "layerhouse.json", "layers", "results"} <= kinds.keys()
    for number in range(count):
        path = chance.choice(kinds[[*kinds][number % len(kinds)]])
        data = path.read_bytes()
        position = chance.randrange(len(data))
        changed = bytes([data[position] ^ (1 << chance.randrange(8))])
        path.write_bytes(data[:position] + changed + data[position + 1 :])
        where = f"{path.relative_to(root)}, byte {position} of {len(data)}"
        found = _findings(root)
        assert str(path.relative_to(root)) in found, f"check did not notice {where}: {found}"
        assert _outcome(root, before, verify=True) != "another answer", f"another answer though verified: {where}"
        seen[_outcome(root, before)] += 1
        path.write_bytes(data)
    assert answers(root) == before
    print(f"flips: {count}, all noticed by check, none changed an answer with verify; without it: {dict(seen)}")


def _findings(root: Path) -> list[str]:
    try:
        return [finding.where for finding in check_warehouse(root)]
    except WarehouseError as error:
        return ["layerhouse.json" if "warehouse format" in str(error) else str(error)]


def _outcome(root: Path, before: list[Any], **options: bool) -> str:
    try:
        return "the same answer" if answers(root, **options) == before else "another answer"
    except WarehouseError:
        return "an error"


def kills(folder: Path, count: int = 200, seed: int = 1) -> None:
    """Kill an ingest at a random moment, again and again: nothing that was there goes, and no model is there in part."""
    chance, models, root, there, rounds = random.Random(seed), write_models(folder, 400), folder / "warehouse", 0, 0
    for _ in range(count):
        process = subprocess.Popen([*COMMAND, models, "--warehouse", root, "--quiet"], env=CLEAN, stderr=subprocess.DEVNULL)
        time.sleep(chance.uniform(0.05, 2.5))
        process.kill()
        process.wait()
        if not (root / "layerhouse.json").exists():
            continue
        now = assert_no_model_is_half_there(root)
        assert now >= there, (now, there)
        assert {finding.kind for finding in check_warehouse(root)} <= {"orphan"}
        there = now
        if there == 400:
            assert_all_is_there_once(root, 400)
            shutil.rmtree(root)
            there, rounds = 0, rounds + 1
    lh.ingest([models], warehouse=root)
    assert_all_is_there_once(root, 400)
    print(f"kills: {count}, {rounds} ingests came to their end meanwhile; nothing was lost")


def packs(folder: Path, count: int = 40, seed: int = 1) -> None:
    """Kill packing and pruning at a random moment, again and again: every answer stays, and a further pack comes to its end."""
    chance, source, ended = random.Random(seed), make_warehouse(folder), 0
    for number in range(60):
        write_commit(source, {"results": results(f"m{number}", 0.5, 40), "links": [link(f"m{number}", 0.5)]}, "ingest")
    before = answers(source)
    for number in range(count):
        root = Path(shutil.copytree(source, folder / f"copy{number}"))
        command = [sys.executable, "-m", "layerhouse", "pack", "--prune", "0d", "--warehouse", str(root)]
        process = subprocess.Popen(command, env=CLEAN, stderr=subprocess.DEVNULL)
        time.sleep(chance.uniform(0.3, 1.5))
        process.kill()
        ended += process.wait() == 0
        assert answers(root) == before
        assert {finding.kind for finding in check_warehouse(root)} <= {"orphan"}
        assert subprocess.run(command, env=CLEAN, stderr=subprocess.DEVNULL, check=False).returncode == 0
        assert answers(root) == before
        shutil.rmtree(root)
    print(f"packs: {count}, {ended} came to their end before they were killed; nothing was lost")


WRITER = """
import sys, time
from pathlib import Path
from layerhouse.tests.test_store import checkpoint, layer
from layerhouse.warehouse.storage.store import create_store, write_commit
root, name, end = create_store(Path(sys.argv[1])), sys.argv[2], time.time() + float(sys.argv[3])
number = 0
while time.time() < end:
    model = f"{name}-{number}"
    write_commit(root, {"checkpoints": [checkpoint(model, num_layers=1)], "layers": [layer(model, 0)]}, "ingest")
    number += 1
print(number)
"""
READER = """
import sys, time
from pathlib import Path
import layerhouse as lh
from layerhouse.warehouse.storage.commits import list_commits
root, end, seen, reads = Path(sys.argv[1]), time.time() + float(sys.argv[2]), 0, 0
while time.time() < end:
    try:
        snapshot = list_commits(root).require_whole()
        with lh.open(root) as wh:
            rows = wh.sql(
                "SELECT count(*) AS n, count(DISTINCT checkpoint_id) AS m FROM checkpoints JOIN layers USING (checkpoint_id) "
                "WHERE model_id LIKE 'w%'"
            )
    except lh.MissingWarehouseError:
        assert not seen
        continue
    total, distinct = rows.row(0)
    assert total == distinct >= seen, (total, distinct, seen)
    seen, reads = total, reads + 1
print(reads)
"""


def writers(folder: Path, seconds: int = 60) -> None:
    """8 writers and 4 readers at the same time: readers see only whole commits and never fewer, and all is there at the end."""
    root = folder / "warehouse"
    lh.ingest([write_models(folder, 1)], warehouse=root)
    commands = [[WRITER, root, f"w{number}", seconds] for number in range(8)] + [[READER, root, seconds] for _ in range(4)]
    processes = [
        subprocess.Popen([sys.executable, "-c", *map(str, command)], env=CLEAN, stdout=subprocess.PIPE, text=True)
        for command in commands
    ]
    counts = [int(process.communicate()[0] or -1) for process in processes]
    assert all(process.returncode == 0 for process in processes)
    with lh.open(root) as wh:
        names = wh.sql("SELECT model_id FROM models WHERE model_id LIKE 'w%'")["model_id"].to_list()
    assert sorted(names) == sorted(f"w{writer}-{number}" for writer in range(8) for number in range(counts[writer]))
    assert check_warehouse(root) == []
    print(f"writers: {sum(counts[:8])} commits by 8 writers, {sum(counts[8:])} reads by 4 in {seconds} s; nothing was lost")


def full_disk(folder: Path, count: int = 12) -> None:
    """Ingest onto disks of a few MiB: one line, a code of its own, and all that was committed is there."""
    models = write_models(folder, 100)
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        print("full disk: not tried, as this system lets nobody mount a small disk (unshare -rm)")
        return
    outcomes = Counter[str]()
    for number in range(count):
        script = f"""
mount -t tmpfs -o size={40 + 24 * number}k tmpfs {folder}/disk || exit 99
{sys.executable} -m layerhouse ingest {models} --warehouse {folder}/disk/w --quiet 2> {folder}/errors
echo $? > {folder}/code
[ -f {folder}/disk/w/layerhouse.json ] || exit 0
{sys.executable} -m layerhouse check --warehouse {folder}/disk/w > {folder}/check 2>&1
echo $? >> {folder}/code
"""
        (folder / "disk").mkdir(exist_ok=True)
        subprocess.run(["unshare", "-rm", "sh", "-c", script], env=CLEAN, check=True)
        code, *checked = (folder / "code").read_text().split()
        errors = (folder / "errors").read_text()
        assert code in ("0", "3"), (code, errors)
        assert code == "0" or re.search("cannot (write|make a warehouse here): No space left on device", errors), errors
        assert "Traceback" not in errors
        assert checked in ([], ["0"]), (folder / "check").read_text()
        outcomes["all fitted" if code == "0" else "one line"] += 1
    print(f"full disk: {count} sizes, {dict(outcomes)}; nothing that was committed was damaged")


def interrupts(folder: Path, count: int = 60, seed: int = 1) -> None:
    """Interrupt commands at any moment of their first second, while they are imported too: no traceback."""
    chance, models, codes = random.Random(seed), write_models(folder, 40), Counter[int]()
    commands: tuple[tuple[Any, ...], ...] = (
        ("--help",),
        ("ingest", models, "-w", folder / "w"),
        ("summarize", "-w", folder / "w"),
    )
    lh.ingest([models], warehouse=folder / "w")
    for number in range(count):
        process = subprocess.Popen(
            [sys.executable, "-m", "layerhouse", *map(str, commands[number % len(commands)])],
            env=CLEAN,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        time.sleep(chance.uniform(0.1, 1.0))  # before that Python itself starts, which no program can make quiet
        process.send_signal(signal.SIGINT)
        errors = process.communicate()[1]
        assert "Traceback" not in errors, errors
        codes[process.returncode] += 1
    assert codes.keys() <= {0, 130, -signal.SIGINT}, codes
    assert check_warehouse(folder / "w") == []
    print(f"interrupts: {count}, exit codes {dict(codes)}")


TRIALS: dict[str, Callable[..., None]] = {
    trial.__name__: trial for trial in (flips, kills, packs, writers, full_disk, interrupts)
}


def main(names: list[str]) -> None:
    """Run one trial with a count, or all."""
    chosen = names[:1] or [*TRIALS]
    for name in chosen:
        with tempfile.TemporaryDirectory() as folder:
            TRIALS[name](Path(folder), *map(int, names[1:2]))
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(f"peak memory of a process: {peak // 1024} MiB")


if __name__ == "__main__":
    main(sys.argv[1:])
