"""How often layers are matched wrongly, by the change to the model and by the way of comparing: `python bench/matching.py`.

Makes models whose true map is known, and prints for each change the share of layers that were matched wrongly and of those that
were not matched, over `--repeat` models of 12 blocks. There are two kinds of base: `random` (normal weights of one scale, norms
of ones, as initialised) and `scaled` (residual channels, blocks and norms have scales of their own, most of which all blocks
share, as in trained models). Ways of comparing are `raw` (cosine of the stored signatures), `centred` (what layerhouse does)
and `whole` (centred profiles over all rows, without projection), which shows what sampling and projection cost.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from layerhouse.ingest.checkpoint.tensor_ref import TensorRef
from layerhouse.ingest.compare import alignment
from layerhouse.ingest.compare.alignment import LayerFingerprint, place_by_score, score_layers
from layerhouse.ingest.measure.io.tensor_reader import TensorReader
from layerhouse.ingest.measure.signatures import read_profile

BLOCKS, HIDDEN, HEADS, HEAD_DIM, WIDTH = 12, 256, 8, 32, 704
RESIDUAL_AXIS = {"q": 1, "k": 1, "v": 1, "o": 0, "gate": 1, "up": 1, "down": 0, "attention_norm": None, "mlp_norm": None}
Block = dict[str, np.ndarray]
Model = list[Block]


def make_base(kind: str, generator: np.random.Generator) -> Model:
    """The blocks of a Llama; `kind` is random or scaled."""
    outputs = {"q": HEADS * HEAD_DIM, "k": HEADS * HEAD_DIM, "v": HEADS * HEAD_DIM, "gate": WIDTH, "up": WIDTH}
    common = {name: np.exp(0.4 * generator.standard_normal(HIDDEN)) for name in RESIDUAL_AXIS}
    for scales in common.values():
        scales[generator.choice(HIDDEN, 3, replace=False)] *= 8  # Trained models have a few channels of large scale.

    def channels(name: str) -> np.ndarray:
        return common[name] * np.exp(0.1 * generator.standard_normal(HIDDEN)) if kind == "scaled" else np.ones(HIDDEN)

    def block() -> Block:
        weights: Block = {}
        for name, axis in RESIDUAL_AXIS.items():
            scale = channels(name)
            if axis is None:
                weights[name] = scale
                continue
            shape = (outputs.get(name, 0), HIDDEN) if axis else (HIDDEN, HEADS * HEAD_DIM if name == "o" else WIDTH)
            gain = np.exp(0.3 * generator.standard_normal()) if kind == "scaled" else 1.0
            weights[name] = 0.02 * gain * generator.standard_normal(shape) * (scale if axis else scale[:, None])
        return weights

    return [block() for _ in range(BLOCKS)]


def pruned(model: Model, share: float, generator: np.random.Generator) -> Model:
    """Remove heads and neurons at random, others in each block."""
    blocks = []
    for block in model:
        heads = np.sort(generator.choice(HEADS, round(HEADS * (1 - share)), replace=False))
        rows = (heads[:, None] * HEAD_DIM + np.arange(HEAD_DIM)).ravel()
        neurons = np.sort(generator.choice(WIDTH, round(WIDTH * (1 - share)), replace=False))
        kept = {**dict.fromkeys(("q", "k", "v", "o"), rows), **dict.fromkeys(("gate", "up", "down"), neurons)}
        blocks.append(
            {
                name: weight.take(kept[name], axis=1 - RESIDUAL_AXIS[name]) if name in kept else weight
                for name, weight in block.items()
            }
        )
    return blocks


def tuned(model: Model, amount: float, generator: np.random.Generator) -> Model:
    """Add normal noise to every value, of this share of its tensor's standard deviation; to norms a tenth of it."""
    return [
        {
            name: weight
            + amount * (weight.std() if weight.ndim == 2 else 0.1 * weight.std()) * generator.standard_normal(weight.shape)
            for name, weight in block.items()
        }
        for block in model
    ]


def adapted(model: Model, amount: float, generator: np.random.Generator) -> Model:
    """Add an update of rank 8 to every matrix, of this share of its Euclidean norm."""

    def update(weight: np.ndarray) -> np.ndarray:
        if weight.ndim == 1:
            return weight
        low = generator.standard_normal((weight.shape[0], 8)) @ generator.standard_normal((8, weight.shape[1]))
        return weight + amount * low * np.linalg.norm(weight) / np.linalg.norm(low)

    return [{name: update(weight) for name, weight in block.items()} for block in model]


def masked(model: Model, share: float) -> Model:
    """Set the smallest values of each matrix to zero."""
    return [
        {
            name: weight * (np.abs(weight) > np.quantile(np.abs(weight), share)) if weight.ndim == 2 else weight
            for name, weight in block.items()
        }
        for block in model
    ]


CHANGES: dict[str, Callable[[Model, np.random.Generator], Model]] = {
    "cast to 16 bits": lambda model, _: model,
    "full tuning 5 %": lambda model, generator: tuned(model, 0.05, generator),
    "full tuning 20 %": lambda model, generator: tuned(model, 0.2, generator),
    "full tuning 50 %": lambda model, generator: tuned(model, 0.5, generator),
    "full tuning 100 %": lambda model, generator: tuned(model, 1.0, generator),
    "LoRA of rank 8, 10 %": lambda model, generator: adapted(model, 0.1, generator),
    "LoRA of rank 8, 50 %": lambda model, generator: adapted(model, 0.5, generator),
    "half of the values zero": lambda model, _: masked(model, 0.5),
    "a quarter of heads and neurons gone": lambda model, generator: pruned(model, 0.25, generator),
    "half of heads and neurons gone": lambda model, generator: pruned(model, 0.5, generator),
    "half gone, then full tuning 5 %": lambda model, generator: tuned(pruned(model, 0.5, generator), 0.05, generator),
    "half gone, then full tuning 50 %": lambda model, generator: tuned(pruned(model, 0.5, generator), 0.5, generator),
}

MAPS: dict[str, Callable[[np.random.Generator], list[int]]] = {
    "blocks removed": lambda generator: sorted(generator.choice(BLOCKS, generator.integers(2, BLOCKS), replace=False)),
    "stacked twice": lambda generator: [*range(8), *range(4, BLOCKS)],
    "reordered": lambda generator: [int(block) for block in generator.permutation(BLOCKS)],
}


def prints(model: Model, path: Path, dtype: str, *, is_whole: bool) -> list[LayerFingerprint]:
    """The stored signatures of each block; with `is_whole` profiles over all rows, centred and scaled, without projection."""
    return [LayerFingerprint(index, *_print(block, path, dtype, is_whole)) for index, block in enumerate(model)]


def _print(block: Block, path: Path, dtype: str, is_whole: bool) -> tuple[dict, dict]:
    hashes, signatures = {}, {}
    with TensorReader() as reader:
        for name, weight in block.items():
            values = weight.astype(np.float16 if dtype == "F16" else np.float32)
            key = ("mlp", name, "weight", None, "")
            hashes[key] = f"{dtype} {hash(values.tobytes())}"
            axis = RESIDUAL_AXIS[name]
            if is_whole:
                profile = values.astype(float) if axis is None else np.linalg.norm(values.astype(float), axis=1 - axis)
                centred = profile - profile.mean()
                vector = None if np.abs(centred).max() < 1e-9 else centred / np.linalg.norm(centred)
            else:
                path.write_bytes(values.tobytes())
                vector = read_profile(reader, TensorRef(name, dtype, weight.shape, path, 0, values.nbytes), axis).signature
                reader.close()
            if vector is not None:
                signatures[key] = np.asarray(vector)
    return hashes, signatures


def count_errors(layers: list[LayerFingerprint], base: list[LayerFingerprint], true_map: list[int]) -> tuple[int, int]:
    """The numbers of layers that are matched wrongly and that are not matched."""
    likeness = score_layers(layers, base)
    places = place_by_score(likeness, np.ones_like(likeness.scores, bool))
    return sum(true_map[row] != column for row, (column, _) in places.items()), len(layers) - len(places)


def ways(kind: str, path: Path, generator: np.random.Generator) -> Iterator[tuple[str, str, str, int, int, int]]:
    """For one base of a kind: map, change, way, numbers of layers, of wrong ones and of unmatched ones."""
    base = make_base(kind, generator)
    other = make_base(kind, generator)
    known = {is_whole: prints(base, path, "F32", is_whole=is_whole) for is_whole in (False, True)}
    for map_name, make_map in MAPS.items():
        for change_name, change in CHANGES.items():
            true_map = make_map(generator)
            child = change([base[block] for block in true_map], generator)
            for way, is_whole, least in (("raw", False, BLOCKS + 1), ("centred", False, 3), ("whole", True, 3)):
                alignment.MIN_CENTRED_BLOCKS = least
                dtype = "F16" if change_name.startswith("cast") else "F32"
                wrong, unplaced = count_errors(prints(child, path, dtype, is_whole=is_whole), known[is_whole], true_map)
                yield map_name, change_name, way, len(true_map), wrong, unplaced
    for way, is_whole, least in (("raw", False, BLOCKS + 1), ("centred", False, 3), ("whole", True, 3)):
        alignment.MIN_CENTRED_BLOCKS = least
        foreign = prints(other, path, "F32", is_whole=is_whole)
        yield "none", "another model", way, BLOCKS, *count_errors(foreign, known[is_whole], [-1] * BLOCKS)


def main() -> None:
    """Parse, run, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5, help="bases of each kind")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("random", "scaled"):
            table: dict[tuple[str, str], dict[str, np.ndarray]] = {}
            for seed in range(options.repeat):
                for map_name, change, way, *counts in ways(kind, Path(folder) / "w", np.random.default_rng(seed)):
                    cells = table.setdefault((map_name, change), {})
                    cells[way] = cells.get(way, np.zeros(3, int)) + counts
            print(f"\nbase: {kind}; layers matched wrongly / not matched, in % of {options.repeat} models\n")
            print(f"| {'map':15} | {'change':36} | {'raw':>11} | {'centred':>11} | {'whole':>11} |")
            print("| --- | --- | --- | --- | --- |")
            for (map_name, change), cells in table.items():
                texts = [
                    f"{100 * cells[way][1] / cells[way][0]:.1f} / {100 * cells[way][2] / cells[way][0]:.1f}" for way in cells
                ]
                print(f"| {map_name:15} | {change:36} | " + " | ".join(f"{text:>11}" for text in texts) + " |")


if __name__ == "__main__":
    main()
