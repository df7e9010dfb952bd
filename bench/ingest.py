"""Whole processes on one checkpoint: layerhouse beside other ways of counting zeros, and beside reading the file.

`python bench/ingest.py --gb 1` makes a Llama-shaped bf16 checkpoint of random weights. Then it runs in turns, the file in the
page cache: `layerhouse ingest` (counts, statistics, hashes, rows committed); loading it with transformers and counting the
zeros of every parameter; loading each tensor with safetensors into torch and counting; reading the bytes. It prints seconds,
the ratio to `layerhouse ingest`, and the peak of resident memory of each. The least of `--repeat` turns counts. Only ratios of
one run mean anything.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
from pathlib import Path

from turns import Cost, run_process

LAYER_BYTES = 2 * (4 * 1536 * 1536 + 3 * 1536 * 6144)

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

READ = """
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
    """Write a Llama of hidden size 1536 with as many layers as the size needs."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=1536,
        intermediate_size=6144,
        num_hidden_layers=max(1, round(gigabytes * 1e9 / LAYER_BYTES)),
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


def run_afresh(command: list[str], scratch: Path) -> Cost:
    """Run one process after removing the warehouse that an earlier one wrote."""
    shutil.rmtree(scratch, ignore_errors=True)
    return run_process(command)


def main() -> None:
    """Parse, make the checkpoint, run every way in turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gb", type=float, default=1.0)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--half-zero", action="store_true", help="half of the block weights zero")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="layerhouse-bench-") as name:
        folder, scratch = Path(name) / "models/model", Path(name) / "warehouse"
        # In another process: a child's peak of memory starts with what this process holds.
        maker = multiprocessing.get_context("spawn").Process(
            target=make_checkpoint, args=(folder, arguments.gb, arguments.half_zero)
        )
        maker.start()
        maker.join()
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        ingest = [sys.executable, "-m", "layerhouse", "ingest", str(folder), "-w", str(scratch), "-q"]
        ways = {
            "read": [sys.executable, "-c", READ, str(folder)],
            "layerhouse ingest": ingest,
            "layerhouse ingest --stats none": [*ingest, "--stats", "none"],
            "safetensors + torch count": [sys.executable, "-c", COUNT_WITH_SAFETENSORS, str(folder)],
            "transformers load + count": [sys.executable, "-c", COUNT_WITH_TRANSFORMERS, str(folder)],
        }
        for command in ways.values():
            run_afresh(command, scratch)
        turns = [{way: run_afresh(command, scratch) for way, command in ways.items()} for _ in range(arguments.repeat)]
        least = {way: min(turn[way].seconds for turn in turns) for way in ways}
        print(f"{size / 1e9:.2f} GB of bf16, {'half zero' if arguments.half_zero else 'dense'}, {os.cpu_count()} cores")
        print(f"{'':32}{'seconds':>9}{'ratio':>9}{'peak MiB':>10}")
        for way, seconds in least.items():
            peak = max(turn[way].peak_mib for turn in turns)
            print(f"{way:32}{seconds:9.2f}{seconds / least['layerhouse ingest']:9.2f}{peak:10.0f}")


if __name__ == "__main__":
    main()
