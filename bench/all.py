"""Every figure of speed and memory in one run: `python bench/all.py`, twenty minutes; `--sizes 0.25` is a short one.

Generated checkpoints of bf16 and f32 are read in processes of their own: plainly; as `ingest` measures them; loaded with
transformers, with safetensors into torch and with `torch.load(mmap=True)`, zeros counted. The ways take `--repeat` turns, one
after the other, so that a ratio is between neighbours in time, and the middle of the turns' ratios counts: other work comes and
goes. Their order is drawn anew for each turn, as each finds the system's free memory as the one before has left it.
Warm runs have the file in the system's cache. For cold ones it is dropped from there before each turn (POSIX_FADV_DONTNEED; a
disk that keeps a cache of its own still answers from that). Then whole processes, threads, sizes, memory, many small models
and start-up.

Prints tables of ratios, each with the limit that it is held to where there is one. Only ratios of one run mean anything.
"""

from __future__ import annotations

import argparse
import compileall
import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import measure
from ingest import COUNT_WITH_TRANSFORMERS, run

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
found = weightwatcher.WeightWatcher(model=AutoModelForCausalLM.from_pretrained(sys.argv[1])).analyze()
found.set_index("longname")["alpha"].to_json(sys.argv[2])
"""


@dataclass(frozen=True)
class Cost:
    """Seconds, processor seconds and peak MiB of one turn of a way."""

    seconds: float
    processor: float
    mib: float


Turns = Sequence[Cost]
"""What the turns of one way cost, in their order."""


def seconds_of(turns: Turns) -> float:
    """The middle of the times."""
    return median(turn.seconds for turn in turns)


def ratio_of(turns: Turns, others: Turns) -> float:
    """The middle of the ratios of time, turn by turn."""
    return median(turn.seconds / other.seconds for turn, other in zip(turns, others, strict=True))


def elsewhere(call: str) -> None:
    """A call of measure or ingest in a process of its own: what a child is said to have held at its peak starts with what its
    parent holds."""
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import ingest, measure; from pathlib import Path\n"
    subprocess.run([PYTHON, "-c", code + call], check=True, stderr=subprocess.DEVNULL)


def write(path: Path, gigabytes: float, dtype: str, kind: str = "dense") -> None:
    """A generated file of about so many GB."""
    elsewhere(f"measure.write_model(Path({str(path)!r}), {gigabytes}, {kind!r}, {dtype!r})")


def once(way: str, path: Path, threads: int, *, is_cold: bool = False) -> Cost:
    """One turn of a way of measure.py in a process of its own."""
    command = [PYTHON, measure.__file__, "--threads", str(threads), "--once", way, str(path)]
    if is_cold:
        command.append("--cold")
    return Cost(*json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def process(command: Sequence[str], scratch: Path) -> Cost:
    """One turn of a whole process."""
    seconds, mib = run([*command], scratch)
    return Cost(seconds, seconds, mib)


def compile_package() -> None:
    """Compile layerhouse's modules, as pip does when it installs them; a checkout may lack that."""
    for found in importlib.util.find_spec("layerhouse").submodule_search_locations:
        compileall.compile_dir(found, quiet=1)


def in_turns(ways: Mapping[str, Callable[[], Cost]], repeat: int) -> dict[str, Turns]:
    """Every way `repeat` times, one after the other, the order drawn anew each time."""
    found: dict[str, list[Cost]] = {name: [] for name in ways}
    generator = random.Random(0)
    for _ in range(repeat):
        for name in generator.sample(list(ways), len(ways)):
            found[name].append(ways[name]())
    return {**found}


def table(
    title: str, costs: Mapping[str, Turns], reference: str, limits: Mapping[str, tuple[str, float]] | None = None
) -> None:
    """Print ways with their ratio to the reference; `limits` gives `at most` or `at least` and a ratio."""
    print(f"\n{title}\n{'':44}{'seconds':>9}{'ratio':>8}{'least':>8}{'most':>8}{'CPU':>8}{'peak MiB':>10}")
    base = costs[reference]
    for name, turns in costs.items():
        ratios = [turn.seconds / other.seconds for turn, other in zip(turns, base, strict=True)]
        processor = median(turn.processor / other.processor for turn, other in zip(turns, base, strict=True))
        ratio, mib = median(ratios), min(turn.mib for turn in turns)
        shown = f"{seconds_of(turns):9.3f}{ratio:8.2f}{min(ratios):8.2f}{max(ratios):8.2f}{processor:8.2f}{mib:10.0f}"
        print(f"{name:44}{shown}{_verdict(name, ratio, limits)}")


def _verdict(name: str, ratio: float, limits: Mapping[str, tuple[str, float]] | None) -> str:
    if not limits or name not in limits:
        return ""
    word, limit = limits[name]
    holds = ratio <= limit if word == "at most" else ratio >= limit
    return f"   {word} {limit:g}: {'holds' if holds else 'does not hold'}"


def inside(folder: Path, gigabytes: float, dtype: str, repeat: int, threads: int) -> None:
    """Warm and cold, inside the process, against a plain read of the same bytes with the same threads and chunk."""
    files = {}
    for kind in ("dense", "half", "nm") if gigabytes <= 1 else ("dense",):
        files[kind] = folder / kind / "model.safetensors"
        write(files[kind], gigabytes, dtype, kind)
    pickled = folder / "dense.bin"
    subprocess.run([PYTHON, "-c", STATE_DICT, str(files["dense"]), str(pickled)], check=True)
    names = {"dense": "ours, dense", "half": "ours, half zero, an eighth of the rows", "nm": "ours, 2:4"}
    ways = {"plain read": lambda: once("read", files["dense"], threads)}
    ways |= {names[kind]: lambda path=path: once("ours", path, threads) for kind, path in files.items()}
    usual = "transformers, count zeros"
    ways[usual] = lambda: once("transformers", files["dense"], threads)
    ways["safetensors into torch, count zeros"] = lambda: once("torch", files["dense"], threads)
    ways["torch.load(mmap=True), count zeros"] = lambda: once("mmap", pickled, threads)
    costs = in_turns(ways, repeat)
    shown = f"{files['dense'].stat().st_size / 1e9:.2f} GB of {dtype}, {threads} threads"
    limits = {names["dense"]: ("at most", 3.5), names["half"]: ("at most", 7.0), names["nm"]: ("at most", 7.0)}
    table(f"Inside the process, warm: {shown}", costs, "plain read", limits)
    for kind, limit in (("dense", 15), ("half", 8)):
        if kind in files:
            times = {way: ratio_of(costs[way], costs[names[kind]]) for way in costs if "count zeros" in way}
            print(f"over ours, {kind}: " + ", ".join(f"{way} {ratio:.1f}" for way, ratio in times.items()))
            if dtype == "bf16":  # float32, of half as many values a byte, is held to the plain read alone
                print(f"{usual}: at least {limit}: {'holds' if times[usual] >= limit else 'does not hold'}")
    cold = {
        "plain read": lambda: once("read", files["dense"], threads, is_cold=True),
        "ours, dense": lambda: once("ours", files["dense"], threads, is_cold=True),
    }
    costs = in_turns(cold, max(repeat, round(repeat / gigabytes)))  # a disk's times differ more than the memory's
    table(f"Inside the process, cold: {shown}", costs, "plain read", {"ours, dense": ("at most", 1.15)})
    for path in (*files.values(), pickled):
        path.unlink()


def scaling(folder: Path, sizes: Sequence[float], repeat: int, threads: int) -> None:
    """One thread against all, at the largest size, where the last block that one thread is left with weighs least; and seconds
    a GB over the sizes."""
    path = folder / "dense/model.safetensors"
    write(path, max(sizes), "bf16")
    ways = {f"{threads} threads": lambda: once("ours", path, threads), "1 thread": lambda: once("ours", path, 1)}
    table("Threads", in_turns(ways, repeat), f"{threads} threads", {"1 thread": ("at least", 1.8)})
    path.unlink()
    print("\nSizes: seconds for each GB, over those of the smallest")
    files = {gigabytes: folder / f"{gigabytes:g}/model.safetensors" for gigabytes in sizes}
    for gigabytes, path in files.items():
        write(path, gigabytes, "bf16")
    costs = in_turns({f"{path}": lambda path=path: once("ours", path, threads) for path in files.values()}, repeat)
    smallest = files[sizes[0]]
    for gigabytes, path in files.items():
        times_larger = path.stat().st_size / smallest.stat().st_size
        ratio = ratio_of(costs[f"{path}"], costs[f"{smallest}"]) / times_larger
        print(f"{gigabytes:g} GB: {ratio:.2f}   at most 1.1: {'holds' if ratio <= 1.1 else 'does not hold'}")
    for path in files.values():
        path.unlink()


@contextmanager
def checkpoint(folder: Path, gigabytes: float) -> Iterator[Path]:
    """A Llama-shaped checkpoint."""
    model = folder / "models/model"
    elsewhere(f"ingest.make_checkpoint(Path({str(model)!r}), {gigabytes}, False)")
    yield model
    shutil.rmtree(model.parent)


def whole(folder: Path, gigabytes: float, repeat: int) -> None:
    """Whole processes on one checkpoint."""
    scratch = folder / "warehouse"
    with checkpoint(folder, gigabytes) as model:
        ours = [PYTHON, "-m", "layerhouse", "ingest", str(model), "-w", str(scratch), "-q"]
        ways = {
            "layerhouse ingest": lambda: process(ours, scratch),
            "layerhouse ingest --stats none": lambda: process([*ours, "--stats", "none"], scratch),
            "transformers, count zeros": lambda: process([PYTHON, "-c", COUNT_WITH_TRANSFORMERS, str(model)], scratch),
        }
        for turn in ways.values():
            turn()
        title = f"Whole processes, warm: {gigabytes:g} GB of bf16"
        table(title, in_turns(ways, repeat), "layerhouse ingest", {"transformers, count zeros": ("at least", 5)})


def spectra(folder: Path) -> None:
    """Spectra of a small model beside WeightWatcher's, where that is installed."""
    scratch = folder / "warehouse"
    with checkpoint(folder, 0.05) as model:
        ours = [PYTHON, "-m", "layerhouse", "ingest", str(model), "-w", str(scratch), "-q", "--spectral"]
        ways = {"layerhouse ingest --spectral": lambda: process(ours, scratch)}
        other = folder / "alphas.json"
        if importlib.util.find_spec("weightwatcher"):
            command = [PYTHON, "-c", WEIGHTWATCHER, str(model), str(other)]
            ways = {"WeightWatcher, details": lambda: process(command, folder / "nothing"), **ways}
        table("Spectra, 0.05 GB", in_turns(ways, 1), "layerhouse ingest --spectral")
        if other.exists():
            compare_alphas(scratch, json.loads(other.read_text()))
        else:
            print("WeightWatcher is not installed: pip install weightwatcher to have it beside")


def compare_alphas(warehouse: Path, others: Mapping[str, float]) -> None:
    """How far our power-law exponents are from WeightWatcher's, matrix by matrix."""
    import layerhouse

    with layerhouse.open(warehouse) as wh:
        ours = dict(wh.sql("SELECT name, alpha FROM tensors WHERE alpha IS NOT NULL").rows())
    pairs = [(ours[f"{name}.weight"], alpha) for name, alpha in others.items() if f"{name}.weight" in ours]
    apart = sorted(abs(own - alpha) / alpha for own, alpha in pairs)
    middle, most = apart[len(apart) // 2], apart[-1]
    held = "holds" if most <= ALPHA_LIMIT else "does not hold"
    print(f"alpha of {len(pairs)} matrices: half within {middle:.2%} of WeightWatcher's, all within {most:.2%}")
    print(f"all within {ALPHA_LIMIT:.0%}: {held}")


def memory(folder: Path) -> None:
    """Peak memory of an ingest at 1 and at 8 GB; the files are holes behind a real header."""
    print(f"\nPeak memory of a whole ingest   at most {MIB_LIMIT} MiB")
    for gigabytes in (1, 8):
        path = folder / f"models/m{gigabytes}/model.safetensors"
        path.parent.mkdir(parents=True)
        measure.write_hole(path, measure.num_tensors(gigabytes))
        command = [PYTHON, "-m", "layerhouse", "ingest", str(path.parent), "-w", str(folder / "warehouse"), "-q"]
        cost = process(command, folder / "warehouse")
        print(f"{gigabytes} GB: {cost.mib:.0f} MiB   {'holds' if cost.mib <= MIB_LIMIT else 'does not hold'}")
    shutil.rmtree(folder / "models")


def many(folder: Path, models: int) -> None:
    """Headers alone of many small models, against reading those headers with safetensors; and start-up."""
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
        "layerhouse ingest --stats none": lambda: process(ours, scratch),
        "safetensors, shapes alone": lambda: process([PYTHON, "-c", headers, str(root)], scratch),
    }
    costs = in_turns(ways, 3)
    table(f"{models} folders of 300 tensors", costs, "safetensors, shapes alone")
    if models == 1000:
        seconds = seconds_of(costs["layerhouse ingest --stats none"])
        print(f"under 10 s in all: {'holds' if seconds < 10 else 'does not hold'}")
    few = folder / "few"
    for number in range(100):
        measure.write_llama_header(few / f"m{number:03d}", 96 + number)
    kept = folder / "kept"
    command = [PYTHON, "-m", "layerhouse", "ingest", str(few), "-w", str(kept), "-q", "--stats", "none"]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    ways = {
        "python -c pass": lambda: process([PYTHON, "-c", "pass"], scratch),
        "layerhouse --help": lambda: process([PYTHON, "-m", "layerhouse", "--help"], scratch),
        "layerhouse summarize, 100 models": lambda: process(
            [PYTHON, "-m", "layerhouse", "summarize", "-w", str(kept)], scratch
        ),
    }
    table("Start-up, whole processes; limits of 0.25 and 1 s", in_turns(ways, 5), "python -c pass")


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
                inside(folder, gigabytes, dtype, options.repeat, threads)
        scaling(folder, sizes, options.repeat, threads)
        whole(folder, min(1.0, max(sizes)), options.repeat)
        memory(folder)
        many(folder, options.models)
        spectra(folder)


if __name__ == "__main__":
    main()
