"""Models read ahead of their turn: the same rows and lines for any number of workers, and nothing held back for ever."""

from __future__ import annotations

import threading

import pytest
import torch
from safetensors.torch import save_file

import layerhouse as lh
from layerhouse.errors import UsageError
from layerhouse.ingest import read_ahead
from layerhouse.ingest.read_ahead import AHEAD, ReadAhead
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


def test_items_whose_turn_is_left_out_are_not_taken():
    with ReadAhead([(n, 1) for n in range(9)], lambda item, *_: item * 10, workers=2, threads=1, devices=("cpu",)) as ahead:
        assert [ahead.take(number) for number in (0, 3, 4, 8)] == [0, 30, 40, 80]


def test_where_no_more_threads_are_allowed_items_are_read_at_their_turn(monkeypatch):
    def refuse(self, *args, **kwargs):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(read_ahead.ThreadPoolExecutor, "submit", refuse)
    with ReadAhead([(n, 1) for n in range(5)], lambda item, *_: item * 10, workers=2, threads=1, devices=("cpu",)) as ahead:
        assert [ahead.take(number) for number in range(5)] == [0, 10, 20, 30, 40]


def test_the_command_takes_workers(tmp_path):
    put_models(tmp_path / "zoo", 7)
    done = layerhouse("ingest", "zoo", "-w", "w", "--workers", "3", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("taken ") == 6
    with pytest.raises(UsageError, match="workers 0: at least one"):
        lh.ingest(tmp_path / "zoo", warehouse=tmp_path / "w", workers=0)
