"""How long `ingest --base` takes to compare many models from stored rows alone: `python bench/comparing.py --children 1000`.

Writes a warehouse with the rows of one base (32 layers of 9 tensors) and of children that lack some of its layers, a third of
them fine-tuned, and compares all of them with the base. There are no weight files.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from layerhouse.ingest.batch import Batch
from layerhouse.ingest.compare_with_base import Comparer
from layerhouse.ingest.context import IngestContext, Options
from layerhouse.ingest.events import ProgressCounter
from layerhouse.warehouse.storage.inventory import Inventory, Sighting
from layerhouse.warehouse.storage.store import create_store

LAYERS = 32
ROLES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "attention_norm", "mlp_norm")
Row = dict[str, Any]


def tensor_row(checkpoint_id: str, layer: int, role: str, content_hash: str, signature: np.ndarray) -> Row:
    """The columns of one tensor that comparing needs."""
    module = "norm" if role.endswith("norm") else "mlp" if role in ("gate_proj", "up_proj", "down_proj") else "attention"
    name = f"text.{layer}.{module}.{role}.weight"
    placement = {"name": name, "canonical_name": name, "stack": "text", "module": module, "role": role, "part": "weight"}
    stored = {"layer_index": layer, "dtype": "BF16", "shape": [4096, 4096], "weight_shape": None, "is_parameter": True}
    stored["expert_index"] = None
    return {
        "checkpoint_id": checkpoint_id,
        **placement,
        **stored,
        "content_hash": content_hash,
        "signature": signature.tolist(),
    }


def write_rows(root: Path, children: int) -> Inventory:
    """Write the rows of a base and its children, in commits of 256 models; what the warehouse then holds."""
    generator = np.random.default_rng(0)
    base = generator.standard_normal((LAYERS, len(ROLES), 64)).astype(np.float32)
    batch, known = Batch(root), Inventory()
    for child in range(children + 1):
        checkpoint_id = f"{child:032x}"
        kept = range(LAYERS) if child == 0 else np.sort(generator.choice(LAYERS, generator.integers(16, LAYERS), replace=False))
        noise = 0.1 if child % 3 == 2 else 0.0
        rows = []
        for layer, block in enumerate(kept):
            for index, role in enumerate(ROLES):
                signature = base[block, index] + np.float32(noise) * generator.standard_normal(64).astype(np.float32)
                content_hash = f"{child if noise else 0:016x}{block:08x}{index:08x}"
                rows.append(tensor_row(checkpoint_id, layer, role, content_hash, signature))
        batch.add({"tensors": rows})
        known.sightings[f"models/{child}", "weights"] = Sighting("", "full", checkpoint_id, 0)
        if batch.items >= 256:
            batch.flush()
    batch.flush()
    return known


def main() -> None:
    """Parse, run, print seconds and peak memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--children", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = create_store(Path(folder) / "w")
        known = write_rows(root, options.children)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        context = IngestContext(root, known, Options(), print, ProgressCounter())
        comparer = Comparer(context)
        comparer.set_base("models/0", is_among_models=True)
        comparer.compare_stored([f"models/{child}" for child in range(1, options.children + 1)])
        context.batch.flush()
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{len(known.comparisons) - 1} models compared with one base: {seconds:.1f} s, peak {peak / 1024:.0f} MiB")
    print(f"(writing the rows before it: peak {before / 1024:.0f} MiB)")


if __name__ == "__main__":
    main()
