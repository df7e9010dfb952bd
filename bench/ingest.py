"""Whole processes on one checkpoint: ours against what people do today, and against plainly reading the file.

`python bench/ingest.py --gb 1` makes a Llama-shaped bf16 checkpoint of random weights, then runs, in turns and warm:
`layerhouse ingest` (counts, statistics, hashes, rows committed); loading it with transformers and counting the zeros of every
parameter; loading each tensor with safetensors into torch and counting; reading the bytes. Prints seconds, the ratio to ours
and the peak resident memory of each. The least of `--repeat` turns counts; only ratios of one run mean anything.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

BYTES_OF_A_LAYER = 2 * (4 * 1536 * 1536 + 3 * 1536 * 6144)

COUNT_WITH_TRANSFORMERS = """
import sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
print(sum(p.numel() for p in model.parameters()), sum(int((p == 0).sum()) for p in model.parameters()))
"""

COUNT_WITH_SAFETENSORS = """
import sys
from pathlib import Path
from safetensors import safe_open
elements = zeros = 0
for path in sorted(Path(sys.argv[1]).glob("*.safetensors")):
    with safe_open(path, "pt") as file:
        for name in file.keys():
            tensor = file.get_tensor(name)
            elements, zeros = elements + tensor.numel(), zeros + int((tensor == 0).sum())
print(elements, zeros)
"""

READ_PLAINLY = """
import os, sys, threading
from pathlib import Path
def read(path, part, parts):
    buffer = bytearray(1 << 20)
    size, file = os.path.getsize(path), os.open(path, os.O_RDONLY)
    for offset in range(part << 26, size, parts << 26):
        for chunk in range(offset, min(offset + (1 << 26), size), 1 << 20):
            os.preadv(file, [buffer], chunk)
for path in sorted(Path(sys.argv[1]).glob("*.safetensors")):
    threads = [threading.Thread(target=read, args=(path, part, 2)) for part in range(2)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
"""


def make_checkpoint(folder: Path, gigabytes: float, half_zero: bool) -> None:
    """A Llama of hidden size 1536 with as many layers as the size asks for."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=1536,
        intermediate_size=6144,
        num_hidden_layers=max(1, round(gigabytes * 1e9 / BYTES_OF_A_LAYER)),
        num_attention_heads=12,
        num_key_value_heads=12,
        vocab_size=4096,
        tie_word_embeddings=False,
        dtype="bfloat16",
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    if half_zero:
        for layer in model.model.layers:
            for parameter in layer.parameters():
                if parameter.ndim == 2:
                    parameter.data[torch.rand_like(parameter, dtype=torch.float32) < 0.5] = 0
    model.save_pretrained(folder, max_shard_size="64GB")


def run(command: list[str], scratch: Path) -> tuple[float, float]:
    """Seconds and peak MiB of one process; its output is dropped."""
    shutil.rmtree(scratch, ignore_errors=True)
    started = time.perf_counter()
    process = os.posix_spawn(
        command[0],
        command,
        {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"},
        file_actions=[(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)],
    )
    _, status, usage = os.wait4(process, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"failed: {' '.join(command[:4])}")
    return seconds, usage.ru_maxrss / 1024


def main() -> None:
    """Parse, make the checkpoint, run every way in turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gb", type=float, default=1.0)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--half-zero", action="store_true", help="half of the block weights zero")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="layerhouse-bench-") as name:
        folder, scratch = Path(name) / "models/model", Path(name) / "warehouse"
        # In a process of its own: what a child is said to have held at its peak starts with what its parent holds.
        maker = multiprocessing.get_context("spawn").Process(
            target=make_checkpoint, args=(folder, arguments.gb, arguments.half_zero)
        )
        maker.start()
        maker.join()
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        python = sys.executable
        ours = [python, "-m", "layerhouse", "ingest", str(folder), "-w", str(scratch), "-q"]
        ways = {
            "plain read": [python, "-c", READ_PLAINLY, str(folder)],
            "layerhouse ingest": ours,
            "layerhouse ingest --stats none": [
                python,
                "-m",
                "layerhouse",
                "ingest",
                str(folder),
                "-w",
                str(scratch),
                "--stats",
                "none",
            ],
            "safetensors + torch count": [python, "-c", COUNT_WITH_SAFETENSORS, str(folder)],
            "transformers load + count": [python, "-c", COUNT_WITH_TRANSFORMERS, str(folder)],
        }
        for command in ways.values():
            run(command, scratch)
        best = {way: (float("inf"), 0.0) for way in ways}
        for _ in range(arguments.repeat):
            for way, command in ways.items():
                seconds, memory = run(command, scratch)
                best[way] = (min(seconds, best[way][0]), max(memory, best[way][1]))
        base = best["layerhouse ingest"][0]
        print(f"{size / 1e9:.2f} GB of bf16, {'half zero' if arguments.half_zero else 'dense'}, {os.cpu_count()} cores")
        print(f"{'':32}{'seconds':>9}{'x ours':>9}{'peak MiB':>10}")
        for way, (seconds, memory) in best.items():
            print(f"{way:32}{seconds:9.2f}{seconds / base:9.2f}{memory:10.0f}")


if __name__ == "__main__":
    main()
