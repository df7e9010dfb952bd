"""How long measuring takes beside plainly reading the same bytes: `python bench/measure.py --gb 1`.

Writes safetensors files of bf16 weights, then runs each way in a process of its own, all warm (file in the cache of the system,
compiled code kept), and prints seconds, GB/s, the ratio to the plain read, the same of processor time, and the peak resident
memory. Each way runs `--repeat` times, in turns with the others, and the least counts. Other work on the machine spoils wall
times; the ratio of processor time (user and system, all threads) stays near what an idle machine shows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

ROWS, COLUMNS = 4096, 8192
CHUNK = 1 << 20
LIMIT = 3.5
"""Hashing and counting dense weights should take at most so many times the plain read."""


def write_file(path: Path, tensors: int, kind: str) -> None:
    """A safetensors file of `tensors` bf16 matrices (4096, 8192), 64 MiB each.

    `kind`: dense (normal, std 0.02); half (half of the values zero at random, every eighth row zero); nm (2:4 along a row).
    """
    weights = np.random.default_rng(0).standard_normal((ROWS, COLUMNS), dtype=np.float32) * np.float32(0.02)
    if kind == "half":
        weights[np.random.default_rng(1).random((ROWS, COLUMNS)) < 0.5] = 0
        weights[::8] = 0
    if kind == "nm":
        weights.reshape(-1, 4)[:, ::2] = 0
    raw = (weights.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    header = json.dumps(
        {
            f"w{i}": {"dtype": "BF16", "shape": [ROWS, COLUMNS], "data_offsets": [i * len(raw), (i + 1) * len(raw)]}
            for i in range(tensors)
        }
    ).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for _ in range(tensors):
            file.write(raw)


def read_plainly(path: Path, threads: int) -> None:
    """preadv of every byte into one buffer a thread."""
    size = path.stat().st_size
    offsets = iter(range(0, size, 1 << 26))
    lock = threading.Lock()

    def work() -> None:
        buffer = np.empty(CHUNK, np.uint8)
        file = os.open(path, os.O_RDONLY)
        while True:
            with lock:
                start = next(offsets, None)
            if start is None:
                break
            for offset in range(start, min(start + (1 << 26), size), CHUNK):
                os.preadv(file, [buffer], offset)
        os.close(file)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def measure_file(path: Path, threads: int, *, signed: bool) -> None:
    """Ours, as `ingest` calls it."""
    from layerhouse.ingest.measure import Job, measure
    from layerhouse.ingest.tensors import TensorRef

    size = ROWS * COLUMNS * 2
    start = path.stat().st_size % size
    count = path.stat().st_size // size
    refs = [TensorRef(f"w{i}", "BF16", (ROWS, COLUMNS), path, start + i * size, size) for i in range(count)]
    for _, found in measure([Job(ref, 1, 1 if signed else None) for ref in refs], threads=threads, chunk_bytes=CHUNK):
        if isinstance(found, Exception):
            raise found


def count_zeros_in_torch(path: Path) -> None:
    """The usual way: load the model, count its zeros."""
    import torch
    from safetensors.torch import load_file

    sum(int((weight == 0).sum()) for weight in load_file(path).values() if weight.dtype == torch.bfloat16)


def run_once(way: str, path: Path, threads: int) -> None:
    """Child process: warm up, time one run, print wall and processor seconds and peak MiB as JSON."""
    ways = {
        "read": lambda: read_plainly(path, threads),
        "ours": lambda: measure_file(path, threads, signed=False),
        "signed": lambda: measure_file(path, threads, signed=True),
        "torch": lambda: count_zeros_in_torch(path),
    }
    if way != "torch":
        ways[way]()
    start, used = time.perf_counter(), time.process_time()
    ways[way]()
    print(json.dumps([time.perf_counter() - start, time.process_time() - used, peak_mib()]))


def peak_mib() -> float:
    """Peak resident memory of this program. VmHWM, as ru_maxrss keeps the peak of the process that started it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return float("nan")


def main() -> None:
    """Parse, run, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gb", type=float, default=1.0, help="size of each file in GB")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--once", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        run_once(options.once[0], Path(options.once[1]), options.threads)
        return
    with tempfile.TemporaryDirectory() as folder:
        files = {kind: Path(folder) / f"{kind}.safetensors" for kind in ("dense", "half", "nm")}
        for kind, path in files.items():
            write_file(path, max(1, round(options.gb * 1e9 / (ROWS * COLUMNS * 2))), kind)
        rows = [
            ("plain preadv", "read", "dense"),
            ("measure, dense", "ours", "dense"),
            ("measure, dense, with signatures", "signed", "dense"),
            ("measure, half of the values and an eighth of the rows zero", "ours", "half"),
            ("measure, 2:4", "ours", "nm"),
            ("torch: load_file, (w == 0).sum()", "torch", "dense"),
        ]
        best = {row: (float("inf"),) * 3 for row in rows}
        for _ in range(options.repeat):
            for row in rows:
                command = [sys.executable, __file__, "--threads", str(options.threads), "--once", row[1], str(files[row[2]])]
                found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                best[row] = tuple(map(min, best[row], found))
        size = files["dense"].stat().st_size
    print(f"{size / 1e9:.2f} GB of bf16, {options.threads} threads, chunks of {CHUNK >> 20} MiB, least of {options.repeat}")
    print(f"{'':60}{'s':>8}{'GB/s':>8}{'ratio':>8}{'CPU s':>8}{'ratio':>8}{'peak MiB':>10}")
    plain = best[rows[0]]
    for row, (seconds, used, peak) in best.items():
        ratios = seconds / plain[0], used / plain[1]
        print(f"{row[0]:60}{seconds:8.3f}{size / seconds / 1e9:8.2f}{ratios[0]:8.2f}{used:8.3f}{ratios[1]:8.2f}{peak:10.0f}")
    ratio = best[rows[1]][0] / plain[0]
    print(f"dense: {ratio:.2f} times the plain read, {'within' if ratio <= LIMIT else 'over'} the limit of {LIMIT}")


if __name__ == "__main__":
    main()
