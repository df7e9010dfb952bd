"""Models read ahead of their turn: the same rows and lines for any number of workers, and nothing held back for ever."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import layerhouse as lh
from layerhouse.errors import InputError, UsageError
from layerhouse.ingest import header_process, read_ahead, run
from layerhouse.ingest.batch import arrow_rows
from layerhouse.ingest.checkpoint import limits
from layerhouse.ingest.header_process import ASKED, HeadersAhead
from layerhouse.ingest.read_ahead import AHEAD, ReadAhead
from layerhouse.ingest.take_weights import read_headers
from layerhouse.tests.running import layerhouse


def put_models(root, count):
    for number in range(count):
        folder = root / f"m{number:02}"
        folder.mkdir(parents=True)
        weight = torch.randn(64, 32, generator=torch.Generator().manual_seed(number))
        weight[: number % 7] = 0
        save_file(
            {f"model.layers.{layer}.mlp.up_proj.weight": weight + layer for layer in range(3)}, folder / "model.safetensors"
        )
    (root / "m05/model.safetensors").write_bytes(b"x" * 100)


def tables(path):
    volatile = {"commit_id", "ingested_at", "source_uri"}
    with lh.open(path) as wh:
        return {
            name: sorted(map(repr, wh.scan(name).collect().drop(volatile, strict=False).to_dicts()))
            for name in ("checkpoints", "tensors", "layers", "layer_matches", "units")
        }


def test_rows_and_lines_are_the_same_for_any_number_of_workers(tmp_path, monkeypatch):
    put_models(tmp_path / "zoo", 12)
    reports, stored = [], []
    for workers, large in ((1, 256 << 20), (3, 256 << 20), (3, 1), (20, 256 << 20)):
        monkeypatch.setattr(read_ahead, "LARGE_BYTES", large)
        warehouse = tmp_path / f"w{workers}-{large}"
        report = lh.ingest(tmp_path / "zoo", warehouse=warehouse, base=tmp_path / "zoo/m00", units=True, workers=workers)
        reports.append([(event.kind, event.where, event.what) for event in report.events])
        stored.append(tables(warehouse))
    assert reports[0] == reports[1] == reports[2] == reports[3]
    assert [kind for kind, *_ in reports[0]].count("failed") == 1
    assert stored[0] == stored[1] == stored[2] == stored[3]
    assert len(stored[0]["checkpoints"]) == 11


def test_no_more_is_read_ahead_than_the_workers_need():
    started, lock, release = [], threading.Lock(), threading.Event()

    def read(item, device, threads):
        with lock:
            started.append(item)
        release.wait(10)
        return item * 10, device, threads

    items = [(number, 1) for number in range(20)]
    with ReadAhead(items, read, workers=2, threads=4, devices=("a", "b")) as ahead:
        timer = threading.Timer(0.2, release.set)
        timer.start()
        assert ahead.take(0) == (0, "a", 1)
        with lock:
            assert max(started) < 2 * AHEAD
        assert [ahead.take(number) for number in range(1, 20)] == [
            (number * 10, "ab"[number % 2], 1) for number in range(1, 20)
        ]


def test_a_large_model_is_read_at_its_turn_by_all_threads():
    def read(item, device, threads):
        return device, threads, threading.current_thread() is threading.main_thread()

    items = [(0, 1), (1, read_ahead.LARGE_BYTES)]
    with ReadAhead(items, read, workers=2, threads=4, devices=("cpu",)) as ahead:
        assert (ahead.take(0), ahead.take(1)) == (("cpu", 1, False), ("cpu", 4, True))
    with ReadAhead(items, read, workers=2, threads=4, devices=("cuda:0", "cuda:1")) as ahead:
        assert (ahead.take(0), ahead.take(1)) == (("cuda:0", 1, False), ("cuda:1", 2, False))


def test_what_a_read_raises_comes_at_its_turn():
    def read(item, device, threads):
        if item == 1:
            raise ValueError("one")
        return item

    with ReadAhead([(number, 1) for number in range(3)], read, workers=2, threads=1, devices=("cpu",)) as ahead:
        assert ahead.take(0) == 0
        with pytest.raises(ValueError, match="one"):
            ahead.take(1)
        assert ahead.take(2) == 2


def test_the_command_takes_workers(tmp_path):
    put_models(tmp_path / "zoo", 7)
    done = layerhouse("ingest", "zoo", "-w", "w", "--workers", "3", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("taken ") == 6
    with pytest.raises(UsageError, match="workers 0: at least one"):
        lh.ingest(tmp_path / "zoo", warehouse=tmp_path / "w", workers=0)


class Headers:
    """Sixteen models whose headers are to be read, and which of them were read in this process. The sixth is damaged."""

    def __init__(self, root):
        put_models(root, 16)
        self.root, self.read_here = root, []
        self.items = [(number, self.request(number)) for number in range(16)]

    def request(self, number):
        folder = self.root / f"m{number:02}"
        return str(folder), [str(folder / "model.safetensors")], folder.name, "fingerprint"

    def read(self, number):
        self.read_here.append(number)
        folder, files, name, fingerprint = self.request(number)
        return read_headers(Path(folder), [*map(Path, files)], name, fingerprint)

    def facts(self):
        """What there is to each model, in order: its text and rows, or why it is refused; by a process where one helps."""
        self.read_here.clear()
        facts = []
        with HeadersAhead(self.items, self.read) as ahead:
            self.process = ahead._process
            for number in range(16):
                try:
                    weights = ahead.take(number)
                    facts.append((weights.files_text, weights.checkpoint, stored(weights)))
                except InputError as error:
                    facts.append(str(error))
        return facts


def stored(weights):
    """The rows of tensors and layers as a warehouse would have them."""
    return [arrow_rows(table, [rows]).to_pylist() for table, rows in (("tensors", weights.tensors), ("layers", weights.layers))]


@pytest.fixture
def headers(tmp_path):
    return Headers(tmp_path)


def test_a_second_process_reads_headers_and_everything_is_the_same(headers, monkeypatch):
    facts = headers.facts()
    assert not {*range(ASKED)} - {5} & {*headers.read_here}  # the first that the process is asked for
    assert 5 in headers.read_here  # refused there, and reported here
    assert "m05" in facts[5]
    assert headers.process.returncode is not None
    monkeypatch.setattr(header_process, "SERVE", "raise SystemExit")
    assert headers.facts() == facts
    assert sorted(headers.read_here) == [*range(16)]


ENDS_EARLY = """
import os
from layerhouse.ingest import header_process
real, left = header_process.read_headers, [3]
def read(*request):
    left[0] -= 1
    return real(*request) if left[0] >= 0 else os._exit(1)
header_process.read_headers = read
"""
JUNK = "import os, sys; os.write(int(sys.argv[2]), (4).to_bytes(4, 'big') + b'junk'); sys.stdin.read()"
CHANGES = {
    "there is no Python": (sys, "executable", "/no/such/python"),
    "Python is not known": (sys, "executable", None),
    "it ends early": (header_process, "SERVE", ENDS_EARLY + header_process.SERVE),
    "it answers with junk": (header_process, "SERVE", JUNK),
    "no request is short enough": (header_process, "MAX_REQUEST_BYTES", 10),
    "little is read ahead": (header_process, "AHEAD", 2),
    "one is asked for": (header_process, "ASKED", 1),
    "models are too large to read ahead": (header_process, "TENSORS_AHEAD", 0),
}


@pytest.mark.parametrize("change", CHANGES)
def test_headers_are_read_here_where_the_process_does_not_help(headers, monkeypatch, change):
    facts = headers.facts()
    monkeypatch.setattr(*CHANGES[change])
    assert headers.facts() == facts
    is_helped = change in ("it ends early", "little is read ahead", "one is asked for", "models are too large to read ahead")
    assert (len({*headers.read_here}) < 16) == is_helped


def test_the_process_ends_with_an_interrupt(headers):
    def interrupted(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), HeadersAhead(headers.items, interrupted) as ahead:
        process = ahead._process
        for number in range(16):
            ahead.take(number)
    assert process.returncode is not None


def test_the_process_keeps_to_the_limits_of_this_one(headers):
    with limits.scaled_limits(1e-9):
        facts = headers.facts()
    assert all("limit exceeded" in fact for fact in facts)
    assert {*headers.read_here} == {*range(16)}


def test_an_ingest_of_headers_alone_is_the_same_with_the_process(tmp_path, monkeypatch):
    put_models(tmp_path / "zoo", 12)
    answers = []
    monkeypatch.setattr(run, "LEAST_MODELS", 10)
    monkeypatch.setattr(
        header_process, "_unpack", lambda answer, unpack=header_process._unpack: answers.append(1) or unpack(answer)
    )
    outcomes = []
    for how in ({"threads": 2}, {"threads": 2, "workers": 1}, {"threads": 1}):
        warehouse = tmp_path / f"w{len(outcomes)}"
        report = lh.ingest(tmp_path / "zoo", warehouse=warehouse, base=tmp_path / "zoo/m03", stats="none", **how)
        events = [(event.kind, event.where, event.what) for event in report.events]
        outcomes.append((events, tables(warehouse), bool(answers)))
        answers.clear()
    assert outcomes[0][:2] == outcomes[1][:2] == outcomes[2][:2]
    assert [is_helped for *_, is_helped in outcomes] == [True, False, False]
    assert len(outcomes[0][1]["checkpoints"]) == 11
    assert outcomes[0][1]["layer_matches"]


SCRIPT = """
from importlib import import_module
from pathlib import Path

with Path("ran").open("a") as file:
    file.write("once ")
import layerhouse as lh

run, header_process = (import_module(f"layerhouse.ingest.{name}") for name in ("run", "header_process"))
run.LEAST_MODELS, unpack, answers = 10, header_process._unpack, []
header_process._unpack = lambda answer: answers.append(1) or unpack(answer)
report = lh.ingest("zoo", warehouse="w", stats="none", threads=2)
print(report.count("taken"), bool(answers))
"""


def test_a_script_without_a_guard_runs_once(tmp_path):
    put_models(tmp_path / "zoo", 12)
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-W", "error", "script.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert (done.stdout, done.stderr) == ("11 True\n", "")
    assert (tmp_path / "ran").read_text() == "once "
