"""How long measuring takes beside a plain read of the same bytes: `python bench/measure.py --gb 1`.

Writes Llama-shaped models of bf16, then runs each way in a process of its own, the file in the page cache, and prints seconds,
GB/s, the ratio to the plain read, the same of CPU time, and the peak of resident memory. Each way runs `--repeat` times, in
turns with the others, and the least counts. Other work on the machine distorts wall times; the ratio of CPU time (user and
system, all threads) stays near that of an idle machine.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

HIDDEN, INTERMEDIATE = 2048, 8192
ROWS, COLUMNS = 4096, 8192
"""The shape of each matrix of a sparse file."""
CHUNK = 2 << 20
LIMIT = 3.5
"""Hashing and counting dense weights should take at most so many times the plain read."""
BYTES = {"bf16": 2, "f32": 4}


def num_tensors(gigabytes: float) -> int:
    """The number of bf16 matrices in a sparse file of so many GB."""
    return round(gigabytes * 1e9 / (ROWS * COLUMNS * 2))


def write_model(path: Path, gigabytes: float, kind: str, dtype: str = "bf16") -> None:
    """Write a Llama of hidden size 2048 with as many layers as come near the size, at least one: weights and config.

    `kind`: dense (normal, std 0.02); half (half of the values zero at random, every eighth row zero); nm (2:4 along a row).
    """
    weights = np.random.default_rng(0).standard_normal((INTERMEDIATE, HIDDEN), dtype=np.float32) * np.float32(0.02)
    if kind == "half":
        weights[np.random.default_rng(1).random(weights.shape) < 0.5] = 0
        weights.reshape(-1, INTERMEDIATE)[::8] = 0  # one row of down_proj is four rows of the others
    if kind == "nm":
        weights.reshape(-1, 4)[:, ::2] = 0
    raw = (weights.view(np.uint32) >> 16).astype(np.uint16).tobytes() if dtype == "bf16" else weights.tobytes()
    square, wide, tall = (HIDDEN, HIDDEN), (INTERMEDIATE, HIDDEN), (HIDDEN, INTERMEDIATE)
    of_layer: dict[str, tuple[int, ...]] = {f"self_attn.{part}_proj": square for part in "qkvo"}
    of_layer |= {"mlp.gate_proj": wide, "mlp.up_proj": wide, "mlp.down_proj": tall}
    of_layer |= {"input_layernorm": (HIDDEN,), "post_attention_layernorm": (HIDDEN,)}
    bytes_of_layer = BYTES[dtype] * sum(math.prod(shape) for shape in of_layer.values())
    layers = max(1, round(gigabytes * 1e9 / bytes_of_layer))
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (1024, HIDDEN), "lm_head.weight": (1024, HIDDEN)}
    shapes |= {f"model.layers.{i}.{name}.weight": shape for i in range(layers) for name, shape in of_layer.items()}
    shapes |= {"model.norm.weight": (HIDDEN,)}
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": layers, "vocab_size": 1024}
    config |= {"hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "tie_word_embeddings": False}
    config |= {"num_attention_heads": 16, "num_key_value_heads": 16, "dtype": {"bf16": "bfloat16", "f32": "float32"}[dtype]}
    path.parent.mkdir(parents=True, exist_ok=True)
    (path.parent / "config.json").write_text(json.dumps(config))
    with path.open("wb") as file:
        file.write(safetensors_header(shapes, dtype)[0])
        for shape in shapes.values():
            file.write(raw[: math.prod(shape) * BYTES[dtype]])


def write_hole(path: Path, tensors: int) -> None:
    """Write a sparse file of matrices: a header, and a hole that reads as zeros."""
    header, size = safetensors_header({f"w{i}": (ROWS, COLUMNS) for i in range(tensors)}, "bf16")
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + size)


def write_llama_header(folder: Path, vocabulary: int) -> None:
    """Write a Llama of 33 layers and 300 tensors: a config, and a sparse file."""
    folder.mkdir(parents=True)
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 33}
    config["vocab_size"] = vocabulary
    config |= {"hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {"self_attn.q_proj": (64, 64), "self_attn.k_proj": (32, 64), "self_attn.v_proj": (32, 64)}
    shapes |= {"self_attn.o_proj": (64, 64), "mlp.gate_proj": (160, 64), "mlp.up_proj": (160, 64), "mlp.down_proj": (64, 160)}
    shapes |= {"input_layernorm": (64,), "post_attention_layernorm": (64,)}
    named = {"model.embed_tokens.weight": (vocabulary, 64), "model.norm.weight": (64,), "lm_head.weight": (vocabulary, 64)}
    named |= {f"model.layers.{i}.{name}.weight": shape for i in range(33) for name, shape in shapes.items()}
    header, size = safetensors_header(named, "bf16")
    with (folder / "model.safetensors").open("wb") as file:
        file.write(header)
        file.truncate(len(header) + size)


def safetensors_header(shapes: dict[str, tuple[int, ...]], dtype: str) -> tuple[bytes, int]:
    """The header of tensors that are stored one after the other, and the size of their values in bytes."""
    entries, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape) * BYTES[dtype]
        entries[name] = {"dtype": dtype.upper(), "shape": list(shape), "data_offsets": [start, end]}
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header, end


def read_file(path: Path, threads: int) -> None:
    """Read every byte with preadv into one buffer a thread."""
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


def measure_file(path: Path, threads: int, *, has_signatures: bool) -> None:
    """Measure every tensor, as `ingest` does."""
    from layerhouse.ingest.checkpoint.containers.safetensors import read_safetensors
    from layerhouse.ingest.measure.io.file_window import use_mappings
    from layerhouse.ingest.measure.measurement import Job
    from layerhouse.ingest.measure.scheduler import measure

    use_mappings()

    refs = read_safetensors(path, path.name).tensors
    for _, result in measure([Job(ref, 1, 1 if has_signatures else None) for ref in refs], threads=threads, chunk_bytes=CHUNK):
        if isinstance(result, Exception):
            raise result


def count_zeros_in_transformers(folder: Path) -> None:
    """Load the model, count its zeros."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    sum(int((parameter == 0).sum()) for parameter in model.parameters())


def import_transformers() -> None:
    """Import what loading a model needs, so that the time of imports is not measured."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 32}
    with tempfile.TemporaryDirectory() as folder:
        LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(folder)
        count_zeros_in_transformers(Path(folder))


def count_zeros_in_torch(path: Path) -> None:
    """Load every tensor of the file, count its zeros."""
    from safetensors.torch import load_file

    sum(int((weight == 0).sum()) for weight in load_file(path).values())


def count_zeros_mapped(path: Path) -> None:
    """Map a pickled state dict into memory, count its zeros."""
    import torch

    sum(int((weight == 0).sum()) for weight in torch.load(path, mmap=True, weights_only=True).values())


def drop_from_cache(path: Path) -> None:
    """Drop the file from the page cache (posix_fadvise), once its bytes are on disk: those that are not would stay."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run_once(way: str, path: Path, threads: int, *, is_cold: bool) -> None:
    """In a child process: warm up, time one run, print wall and CPU seconds and peak MiB as JSON."""
    ways = {
        "read": lambda: read_file(path, threads),
        "ours": lambda: measure_file(path, threads, has_signatures=False),
        "signed": lambda: measure_file(path, threads, has_signatures=True),
        "transformers": lambda: count_zeros_in_transformers(path.parent),
        "torch": lambda: count_zeros_in_torch(path),
        "mmap": lambda: count_zeros_mapped(path),
    }
    if way == "transformers":
        os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        import_transformers()
    elif way in ("torch", "mmap"):
        importlib.import_module("safetensors.torch")  # and torch, so that the time of imports is not measured
    else:
        ways[way]()
    if is_cold:
        drop_from_cache(path)
    start, cpu_start = time.perf_counter(), time.process_time()
    ways[way]()
    print(json.dumps([time.perf_counter() - start, time.process_time() - cpu_start, peak_mib()]))


def peak_mib() -> float:
    """The peak of this process's resident memory. VmHWM, as ru_maxrss includes the peak of the process that started it."""
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
    parser.add_argument("--cold", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        run_once(options.once[0], Path(options.once[1]), options.threads, is_cold=options.cold)
        return
    with tempfile.TemporaryDirectory() as folder:
        files = {kind: Path(folder) / kind / "model.safetensors" for kind in ("dense", "half", "nm")}
        for kind, path in files.items():
            write_model(path, options.gb, kind)
        rows = [
            ("plain preadv", "read", "dense"),
            ("measure, dense", "ours", "dense"),
            ("measure, dense, with signatures", "signed", "dense"),
            ("measure, half of the values and an eighth of the rows zero", "ours", "half"),
            ("measure, 2:4", "ours", "nm"),
            ("transformers: from_pretrained, (p == 0).sum()", "transformers", "dense"),
            ("safetensors.torch: load_file, (w == 0).sum()", "torch", "dense"),
        ]
        best = {row: (float("inf"),) * 3 for row in rows}
        for _ in range(options.repeat):
            for row in rows:
                command = [sys.executable, __file__, "--threads", str(options.threads), "--once", row[1], str(files[row[2]])]
                cost = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                best[row] = tuple(map(min, best[row], cost))
        size = files["dense"].stat().st_size
    print(f"{size / 1e9:.2f} GB of bf16, {options.threads} threads, chunks of {CHUNK >> 20} MiB, least of {options.repeat}")
    print(f"{'':60}{'s':>8}{'GB/s':>8}{'ratio':>8}{'CPU s':>8}{'ratio':>8}{'peak MiB':>10}")
    plain = best[rows[0]]
    for row, (seconds, cpu, peak) in best.items():
        ratios = seconds / plain[0], cpu / plain[1]
        print(f"{row[0]:60}{seconds:8.3f}{size / seconds / 1e9:8.2f}{ratios[0]:8.2f}{cpu:8.3f}{ratios[1]:8.2f}{peak:10.0f}")
    ratio = best[rows[1]][0] / plain[0]
    print(f"dense: {ratio:.2f} times the plain read, {'within' if ratio <= LIMIT else 'over'} the limit of {LIMIT}")


if __name__ == "__main__":
    main()
