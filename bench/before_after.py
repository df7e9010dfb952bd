"""Two checkouts of layerhouse side by side: `python bench/before_after.py BEFORE_ROOT AFTER_ROOT`.

Times whole processes of both in turns: `ingest` of a bf16 checkpoint in the page cache; `ingest --stats none` of many tiny
models, whose headers alone are read; `summarize` over a warehouse of 100 models, which each checkout builds itself; and
`layerhouse --help`. Prints the ratio of each time, after over before: the median of the turns' ratios, the least and the most.

The input is made here, the same every time. Each checkout runs with PYTHONPATH set to a folder whose `layerhouse` is a link to
its root, by the Python that runs this; compiled modules are kept beside the input, so nothing is written into a checkout. C
extensions are used as they lie in a checkout: build them in both, or in neither.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from turns import Cost, Turns, cpu_ratio, median_seconds, ratios, run_process

HIDDEN, INTERMEDIATE, VOCABULARY = 1536, 6144, 4096
TINY_HIDDEN, TINY_INTERMEDIATE, TINY_LAYERS = 64, 160, 4
SUMMARIZED_MODELS = 100
MEASURES = ("ingest", "headers", "summarize", "help")


@dataclass(frozen=True)
class Input:
    """The folders of the input; `tiny` are two, of which the first has SUMMARIZED_MODELS models."""

    large: Path
    tiny: tuple[Path, Path]


@dataclass(frozen=True)
class Checkout:
    """One side: a root of layerhouse, and a folder of its own for what its runs write."""

    root: Path
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """What makes a Python import this checkout, and keep its compiled modules out of it."""
        return {
            "PYTHONPATH": str(self.folder / "path"),
            "PYTHONPYCACHEPREFIX": str(self.folder / "compiled"),
            "PYTHONSAFEPATH": "1",
        }

    @property
    def warehouse(self) -> Path:
        return self.folder / "warehouse"

    @property
    def summarized(self) -> Path:
        return self.folder / "summarized"

    def run(self, *arguments: str | Path) -> Cost:
        """Run the command with these arguments."""
        return run_process([sys.executable, "-m", "layerhouse", *map(str, arguments)], self.environment)

    def ingest(self, warehouse: Path, *arguments: str | Path) -> Cost:
        """Ingest into a new warehouse."""
        shutil.rmtree(warehouse, ignore_errors=True)
        return self.run("ingest", *arguments, "-w", warehouse, "-q")


def make_input(folder: Path, gigabytes: float, tiny_models: int) -> None:
    """Write the large checkpoint and the tiny models below a folder."""
    import numpy as np
    import torch
    from safetensors.torch import save_file

    generator = np.random.default_rng(0)
    layer_bytes = 2 * (4 * HIDDEN * HIDDEN + 3 * HIDDEN * INTERMEDIATE)
    layers = max(1, round(gigabytes * 1e9 / layer_bytes))

    def write(model: Path, shapes: dict[str, tuple[int, ...]], config: dict[str, int]) -> None:
        weights = {
            name: torch.from_numpy(np.float32(0.02) * generator.standard_normal(shape, dtype=np.float32)).bfloat16()
            for name, shape in shapes.items()
        }
        model.mkdir(parents=True)
        save_file(weights, model / "model.safetensors", {"format": "pt"})
        common = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "dtype": "bfloat16"}
        (model / "config.json").write_text(json.dumps(common | config))

    write(folder / "large", *llama(HIDDEN, INTERMEDIATE, layers, VOCABULARY))
    for number in range(tiny_models):
        part = "first" if number < SUMMARIZED_MODELS else "others"
        write(folder / part / f"m{number:03d}", *llama(TINY_HIDDEN, TINY_INTERMEDIATE, TINY_LAYERS, 96 + number))


def llama(hidden: int, intermediate: int, layers: int, vocabulary: int) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Shapes by name, and the sizes of the config, of a Llama with heads of 16 values."""
    square, wide = (hidden, hidden), (intermediate, hidden)
    of_layer: dict[str, tuple[int, ...]] = {f"self_attn.{part}_proj": square for part in "qkvo"}
    of_layer |= {"mlp.gate_proj": wide, "mlp.up_proj": wide, "mlp.down_proj": (hidden, intermediate)}
    of_layer |= {"input_layernorm": (hidden,), "post_attention_layernorm": (hidden,)}
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    shapes |= {"lm_head.weight": (vocabulary, hidden)}
    shapes |= {f"model.layers.{index}.{name}.weight": shape for index in range(layers) for name, shape in of_layer.items()}
    heads = hidden // 16
    config = {"hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers, "vocab_size": vocabulary}
    return shapes, config | {"num_attention_heads": heads, "num_key_value_heads": heads, "head_dim": 16}


def prepare(root: Path, folder: Path) -> Checkout:
    """A checkout that can run. Raises SystemExit if Python imports another one in its place."""
    checkout = Checkout(root.resolve(), folder)
    (folder / "path").mkdir(parents=True)
    (folder / "path/layerhouse").symlink_to(checkout.root)
    code = "import layerhouse; print(layerhouse.__file__)"
    environment = {**os.environ, **checkout.environment}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    if Path(done.stdout.strip() or ".").resolve().parent != checkout.root:
        raise SystemExit(f"{root}: not a root of layerhouse: {done.stderr.strip() or done.stdout.strip()}")
    extensions = sorted(path.name for path in (checkout.root / "ingest").rglob("*.so"))
    print(f"{folder.name:8} {checkout.root}   C extensions: {', '.join(extensions) or 'none'}")
    return checkout


def ways_of(checkout: Checkout, files: Input) -> dict[str, Callable[[], Cost]]:
    """What is timed, by the words of MEASURES."""
    return {
        "ingest": lambda: checkout.ingest(checkout.warehouse, files.large),
        "headers": lambda: checkout.ingest(checkout.warehouse, *files.tiny, "--stats", "none"),
        "summarize": lambda: checkout.run("summarize", "-w", checkout.summarized),
        "help": lambda: checkout.run("--help"),
    }


def compare(before: Checkout, after: Checkout, files: Input, measures: list[str], turns: int) -> None:
    """Run everything in turns and print the table."""
    sides = {"before": ways_of(before, files), "after": ways_of(after, files)}
    for checkout in (before, after):
        checkout.ingest(checkout.summarized, files.tiny[0], "--stats", "none")
    costs: dict[tuple[str, str], list[Cost]] = {(measure, side): [] for measure in measures for side in sides}
    generator = random.Random(0)
    for turn in range(turns + 1):
        for measure in generator.sample(measures, len(measures)):
            for side in generator.sample([*sides], 2):
                cost = sides[side][measure]()
                if turn:  # the first fills the page cache and compiles the modules
                    costs[measure, side].append(cost)
    print(f"\n{turns} turns; ratios are after / before")
    headings = (
        f"{'ratio':>8}{'least':>8}{'most':>8}{'CPU':>8}{'before s':>10}{'after s':>10}{'before MiB':>12}{'after MiB':>11}"
    )
    print(f"{'':44}{headings}")
    for measure in measures:
        print_row(label_of(measure, files), costs[measure, "before"], costs[measure, "after"])


def print_row(label: str, before: Turns, after: Turns) -> None:
    """One line of the table."""
    turn_ratios = ratios(after, before)
    numbers = f"{median(turn_ratios):8.3f}{min(turn_ratios):8.3f}{max(turn_ratios):8.3f}{cpu_ratio(after, before):8.3f}"
    numbers += f"{median_seconds(before):10.3f}{median_seconds(after):10.3f}"
    numbers += f"{median(cost.peak_mib for cost in before):12.0f}{median(cost.peak_mib for cost in after):11.0f}"
    print(f"{label:44}{numbers}")


def label_of(measure: str, files: Input) -> str:
    """A measure with the size of its input."""
    models = [len([*folder.iterdir()]) for folder in files.tiny]
    size = sum(path.stat().st_size for path in files.large.glob("*.safetensors"))
    return {
        "ingest": f"ingest, {size / 1e9:.2f} GB of bf16, warm",
        "headers": f"ingest --stats none, {sum(models)} tiny models",
        "summarize": f"summarize, {models[0]} models",
        "help": "layerhouse --help",
    }[measure]


def main() -> None:
    """Parse, make the input, run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, help="root of the checkout before the change")
    parser.add_argument("after", type=Path, help="root of the checkout after it")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--gb", type=float, default=0.25, help="size of the large checkpoint")
    parser.add_argument("--models", type=int, default=200, help="tiny models")
    parser.add_argument("--measures", default=",".join(MEASURES), help="what to time, by commas; default: all")
    parser.add_argument("--folder", type=Path, help="where to write; default: the system's temporary folder")
    options = parser.parse_args()
    measures = options.measures.split(",")
    if not set(measures) <= set(MEASURES):
        parser.error(f"--measures: of {', '.join(MEASURES)}")
    with tempfile.TemporaryDirectory(prefix="layerhouse-bench-", dir=options.folder) as name:
        folder = Path(name)
        before, after = prepare(options.before, folder / "before"), prepare(options.after, folder / "after")
        call = f"make_input(Path({str(folder / 'input')!r}), {options.gb}, {max(options.models, SUMMARIZED_MODELS + 1)})"
        code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from pathlib import Path\n"
        code += f"from before_after import make_input; {call}"
        subprocess.run([sys.executable, "-c", code], check=True)
        made = folder / "input"
        compare(before, after, Input(made / "large", (made / "first", made / "others")), measures, options.turns)


if __name__ == "__main__":
    main()
