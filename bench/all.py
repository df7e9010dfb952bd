"""Every figure of speed and memory in one run: `python bench/all.py`, twenty minutes; `--sizes 0.25` is a short one.

Generated checkpoints of bf16 and f32 are read in processes of their own: plainly; as `ingest` measures them; loaded with
transformers, with safetensors into torch and with `torch.load(mmap=True)`, zeros counted. The ways take `--repeat` turns, in an
order drawn anew for each, and the median of the turns' ratios counts (turns.py). Warm runs have the file in the page cache. For
cold ones it is dropped from there before each turn (POSIX_FADV_DONTNEED; a disk with a cache of its own still answers from
that). Then whole processes, threads, sizes, memory, many small models and start-up.

Prints tables of ratios, each with its limit if it has one. Only ratios of one run mean anything.
"""

from __future__ import annotations

import argparse
import compileall
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import measure
from ingest import COUNT_WITH_TRANSFORMERS, run_afresh
from turns import Cost, Turns, cpu_ratio, median_seconds, ratios, run_in_turns

PYTHON = sys.executable
MIB_LIMIT = 400
ALPHA_LIMIT = 0.05

STATE_DICT = """
import sys, torch
from safetensors.torch import load_file
torch.save(load_file(sys.argv[1]), sys.argv[2])
"""

WEIGHTWATCHER = """
import sys, weightwatcher
from transformers import AutoModelForCausalLM
details = weightwatcher.WeightWatcher(model=AutoModelForCausalLM.from_pretrained(sys.argv[1])).analyze()
details.set_index("longname")["alpha"].to_json(sys.argv[2])
"""


def median_ratio(turns: Turns, reference: Turns) -> float:
    """The median of the turns' ratios of seconds."""
    return median(ratios(turns, reference))


def call_in_child(call: str) -> None:
    """Call a function of measure or ingest in another process: a child's peak of memory starts with what its parent holds."""
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import ingest, measure; from pathlib import Path\n"
    subprocess.run([PYTHON, "-c", code + call], check=True, stderr=subprocess.DEVNULL)


def write_model(path: Path, gigabytes: float, dtype: str, kind: str = "dense") -> None:
    """Write a generated file of about so many GB."""
    call_in_child(f"measure.write_model(Path({str(path)!r}), {gigabytes}, {kind!r}, {dtype!r})")


def measure_turn(way: str, path: Path, threads: int, *, is_cold: bool = False) -> Cost:
    """One turn of a way of measure.py, in another process."""
    command = [PYTHON, measure.__file__, "--threads", str(threads), "--once", way, str(path)]
    if is_cold:
        command.append("--cold")
    return Cost(*json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def compile_package() -> None:
    """Compile layerhouse's modules, as pip does when it installs them; a checkout may not have them compiled."""
    for folder in importlib.util.find_spec("layerhouse").submodule_search_locations:
        compileall.compile_dir(folder, quiet=1)


def print_table(
    title: str, costs: Mapping[str, Turns], reference: str, limits: Mapping[str, tuple[str, float]] | None = None
) -> None:
    """Print ways with their ratio to the reference; `limits` gives `at most` or `at least` and a ratio by way."""
    print(f"\n{title}\n{'':44}{'seconds':>9}{'ratio':>8}{'least':>8}{'most':>8}{'CPU':>8}{'peak MiB':>10}")
    base = costs[reference]
    for name, turns in costs.items():
        turn_ratios = ratios(turns, base)
        ratio, mib = median(turn_ratios), min(turn.peak_mib for turn in turns)
        numbers = f"{median_seconds(turns):9.3f}{ratio:8.2f}{min(turn_ratios):8.2f}{max(turn_ratios):8.2f}"
        print(f"{name:44}{numbers}{cpu_ratio(turns, base):8.2f}{mib:10.0f}{_verdict(name, ratio, limits)}")


def _verdict(name: str, ratio: float, limits: Mapping[str, tuple[str, float]] | None) -> str:
    if not limits or name not in limits:
        return ""
    bound, limit = limits[name]
    is_kept = ratio <= limit if bound == "at most" else ratio >= limit
    return f"   {bound} {limit:g}: {'holds' if is_kept else 'does not hold'}"


def bench_measuring(folder: Path, gigabytes: float, dtype: str, repeat: int, threads: int) -> None:
    """Measuring within a process, warm and cold, beside a plain read of the same bytes by as many threads in equal chunks."""
    files = {}
    for kind in ("dense", "half", "nm") if gigabytes <= 1 else ("dense",):
        files[kind] = folder / kind / "model.safetensors"
        write_model(files[kind], gigabytes, dtype, kind)
    pickled = folder / "dense.bin"
    subprocess.run([PYTHON, "-c", STATE_DICT, str(files["dense"]), str(pickled)], check=True)
    names = {"dense": "ours, dense", "half": "ours, half zero, an eighth of the rows", "nm": "ours, 2:4"}
    ways = {"plain read": lambda: measure_turn("read", files["dense"], threads)}
    ways |= {names[kind]: lambda path=path: measure_turn("ours", path, threads) for kind, path in files.items()}
    transformers = "transformers, count zeros"
    ways[transformers] = lambda: measure_turn("transformers", files["dense"], threads)
    ways["safetensors into torch, count zeros"] = lambda: measure_turn("torch", files["dense"], threads)
    ways["torch.load(mmap=True), count zeros"] = lambda: measure_turn("mmap", pickled, threads)
    costs = run_in_turns(ways, repeat)
    label = f"{files['dense'].stat().st_size / 1e9:.2f} GB of {dtype}, {threads} threads"
    limits = {names["dense"]: ("at most", 3.5), names["half"]: ("at most", 7.0), names["nm"]: ("at most", 7.0)}
    print_table(f"Inside the process, warm: {label}", costs, "plain read", limits)
    for kind, limit in (("dense", 15), ("half", 8)):
        if kind in files:
            times = {way: median_ratio(costs[way], costs[names[kind]]) for way in costs if "count zeros" in way}
            print(f"over ours, {kind}: " + ", ".join(f"{way} {ratio:.1f}" for way, ratio in times.items()))
            if dtype == "bf16":  # float32 has half as many values a byte: its limit is that of the plain read alone
                print(f"{transformers}: at least {limit}: {'holds' if times[transformers] >= limit else 'does not hold'}")
    cold = {
        "plain read": lambda: measure_turn("read", files["dense"], threads, is_cold=True),
        "ours, dense": lambda: measure_turn("ours", files["dense"], threads, is_cold=True),
    }
    costs = run_in_turns(cold, max(repeat, round(repeat / gigabytes)))  # times of a disk vary more than those of memory
    print_table(f"Inside the process, cold: {label}", costs, "plain read", {"ours, dense": ("at most", 1.15)})
    for path in (*files.values(), pickled):
        path.unlink()


def bench_scaling(folder: Path, sizes: Sequence[float], repeat: int, threads: int) -> None:
    """One thread beside all, at the largest size, where the last block, which one thread reads alone, matters least; and
    seconds a GB over the sizes."""
    path = folder / "dense/model.safetensors"
    write_model(path, max(sizes), "bf16")
    ways = {
        f"{threads} threads": lambda: measure_turn("ours", path, threads),
        "1 thread": lambda: measure_turn("ours", path, 1),
    }
    print_table("Threads", run_in_turns(ways, repeat), f"{threads} threads", {"1 thread": ("at least", 1.8)})
    path.unlink()
    print("\nSizes: seconds for each GB, over those of the smallest")
    files = {gigabytes: folder / f"{gigabytes:g}/model.safetensors" for gigabytes in sizes}
    for gigabytes, path in files.items():
        write_model(path, gigabytes, "bf16")
    costs = run_in_turns({f"{path}": lambda path=path: measure_turn("ours", path, threads) for path in files.values()}, repeat)
    smallest = files[sizes[0]]
    for gigabytes, path in files.items():
        times_larger = path.stat().st_size / smallest.stat().st_size
        ratio = median_ratio(costs[f"{path}"], costs[f"{smallest}"]) / times_larger
        print(f"{gigabytes:g} GB: {ratio:.2f}   at most 1.1: {'holds' if ratio <= 1.1 else 'does not hold'}")
    for path in files.values():
        path.unlink()


@contextmanager
def checkpoint(folder: Path, gigabytes: float) -> Iterator[Path]:
    """A Llama-shaped checkpoint."""
    model = folder / "models/model"
    call_in_child(f"ingest.make_checkpoint(Path({str(model)!r}), {gigabytes}, False)")
    yield model
    shutil.rmtree(model.parent)


def bench_processes(folder: Path, gigabytes: float, repeat: int) -> None:
    """Whole processes on one checkpoint."""
    scratch = folder / "warehouse"
    with checkpoint(folder, gigabytes) as model:
        ours = [PYTHON, "-m", "layerhouse", "ingest", str(model), "-w", str(scratch), "-q"]
        ways = {
            "layerhouse ingest": lambda: run_afresh(ours, scratch),
            "layerhouse ingest --stats none": lambda: run_afresh([*ours, "--stats", "none"], scratch),
            "transformers, count zeros": lambda: run_afresh([PYTHON, "-c", COUNT_WITH_TRANSFORMERS, str(model)], scratch),
        }
        for turn in ways.values():
            turn()
        title = f"Whole processes, warm: {gigabytes:g} GB of bf16"
        print_table(title, run_in_turns(ways, repeat), "layerhouse ingest", {"transformers, count zeros": ("at least", 5)})


def bench_spectra(folder: Path) -> None:
    """Spectra of a small model beside those of WeightWatcher, if it is installed."""
    scratch = folder / "warehouse"
    with checkpoint(folder, 0.05) as model:
        ours = [PYTHON, "-m", "layerhouse", "ingest", str(model), "-w", str(scratch), "-q", "--spectral"]
        ways = {"layerhouse ingest --spectral": lambda: run_afresh(ours, scratch)}
        other = folder / "alphas.json"
        if importlib.util.find_spec("weightwatcher"):
            command = [PYTHON, "-c", WEIGHTWATCHER, str(model), str(other)]
            ways = {"WeightWatcher, details": lambda: run_afresh(command, folder / "unused"), **ways}
        print_table("Spectra, 0.05 GB", run_in_turns(ways, 1), "layerhouse ingest --spectral")
        if other.exists():
            compare_alphas(scratch, json.loads(other.read_text()))
        else:
            print("WeightWatcher is not installed: pip install weightwatcher to compare with it")


def compare_alphas(warehouse: Path, others: Mapping[str, float]) -> None:
    """How far our power-law exponents are from those of WeightWatcher, matrix by matrix."""
    import layerhouse

    with layerhouse.open(warehouse) as wh:
        ours = dict(wh.sql("SELECT name, alpha FROM tensors WHERE alpha IS NOT NULL").rows())
    pairs = [(ours[f"{name}.weight"], alpha) for name, alpha in others.items() if f"{name}.weight" in ours]
    distances = sorted(abs(own - alpha) / alpha for own, alpha in pairs)
    middle, largest = distances[len(distances) // 2], distances[-1]
    verdict = "holds" if largest <= ALPHA_LIMIT else "does not hold"
    print(f"alpha of {len(pairs)} matrices: half within {middle:.2%} of WeightWatcher's, all within {largest:.2%}")
    print(f"all within {ALPHA_LIMIT:.0%}: {verdict}")


def bench_memory(folder: Path) -> None:
    """Peak memory of an ingest at 1 and at 8 GB; the files are sparse: a header and a hole."""
    print(f"\nPeak memory of a whole ingest   at most {MIB_LIMIT} MiB")
    for gigabytes in (1, 8):
        path = folder / f"models/m{gigabytes}/model.safetensors"
        path.parent.mkdir(parents=True)
        measure.write_hole(path, measure.num_tensors(gigabytes))
        command = [PYTHON, "-m", "layerhouse", "ingest", str(path.parent), "-w", str(folder / "warehouse"), "-q"]
        cost = run_afresh(command, folder / "warehouse")
        print(f"{gigabytes} GB: {cost.peak_mib:.0f} MiB   {'holds' if cost.peak_mib <= MIB_LIMIT else 'does not hold'}")
    shutil.rmtree(folder / "models")


def bench_small_models(folder: Path, models: int) -> None:
    """Headers of many small models, beside reading those headers with safetensors; and start-up."""
    root = folder / "many"
    for number in range(models):
        measure.write_llama_header(root / f"m{number:04d}", 96 + number)
    scratch = folder / "warehouse"
    headers = (
        "import sys; from pathlib import Path; from safetensors import safe_open\n"
        "for path in Path(sys.argv[1]).rglob('*.safetensors'):\n"
        "    with safe_open(path, 'np') as file:\n"
        "        [file.get_slice(name).get_shape() for name in file.keys()]\n"
    )
    ours = [PYTHON, "-m", "layerhouse", "ingest", str(root), "-w", str(scratch), "-q", "--stats", "none"]
    ways = {
        "layerhouse ingest --stats none": lambda: run_afresh(ours, scratch),
        "safetensors, shapes alone": lambda: run_afresh([PYTHON, "-c", headers, str(root)], scratch),
    }
    costs = run_in_turns(ways, 3)
    print_table(f"{models} folders of 300 tensors", costs, "safetensors, shapes alone")
    if models == 1000:
        seconds = median_seconds(costs["layerhouse ingest --stats none"])
        print(f"under 10 s in all: {'holds' if seconds < 10 else 'does not hold'}")
    few = folder / "few"
    for number in range(100):
        measure.write_llama_header(few / f"m{number:03d}", 96 + number)
    kept = folder / "kept"
    command = [PYTHON, "-m", "layerhouse", "ingest", str(few), "-w", str(kept), "-q", "--stats", "none"]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    ways = {
        "python -c pass": lambda: run_afresh([PYTHON, "-c", "pass"], scratch),
        "layerhouse --help": lambda: run_afresh([PYTHON, "-m", "layerhouse", "--help"], scratch),
        "layerhouse summarize, 100 models": lambda: run_afresh(
            [PYTHON, "-m", "layerhouse", "summarize", "-w", str(kept)], scratch
        ),
    }
    print_table("Start-up, whole processes; limits of 0.25 and 1 s", run_in_turns(ways, 5), "python -c pass")


def main() -> None:
    """Parse and run the sections."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="0.25,1,4", help="GB of the generated files")
    parser.add_argument("--dtypes", default="bf16,f32")
    parser.add_argument("--repeat", type=int, default=5, help="turns of each way")
    parser.add_argument("--models", type=int, default=1000, help="small models whose headers are read")
    parser.add_argument("--folder", type=Path, help="where to write; default: the system's temporary folder")
    options = parser.parse_args()
    sizes = sorted(float(size) for size in options.sizes.split(","))
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    compile_package()
    print(f"{threads} cores, python {sys.version.split()[0]}, {options.repeat} turns each")
    with tempfile.TemporaryDirectory(prefix="layerhouse-bench-", dir=options.folder) as name:
        folder = Path(name)
        for dtype in options.dtypes.split(","):
            for gigabytes in sizes:
                bench_measuring(folder, gigabytes, dtype, options.repeat, threads)
        bench_scaling(folder, sizes, options.repeat, threads)
        bench_processes(folder, min(1.0, max(sizes)), options.repeat)
        bench_memory(folder)
        bench_small_models(folder, options.models)
        bench_spectra(folder)


if __name__ == "__main__":
    main()
