"""How well descent is found, and how fast: `python bench/lineage.py --seed 2030 --models 10000`.

Builds a zoo of tiny models of known descent, ingests it without a base, and compares what was found with what is known: parents
and roots, of all models and of what is left without some bases. Then it settles synthetic checkpoints.
"""

from __future__ import annotations

import argparse
import logging
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pyarrow as pa

import layerhouse as lh
from layerhouse.ingest.lineage.clan import CENTRAL, NEAREST, Clan
from layerhouse.ingest.lineage.outline import LANES, Codes, Facts, Outline, outline_of
from layerhouse.ingest.lineage.probes import Kinship, probe_of
from layerhouse.ingest.lineage.settle import settle
from layerhouse.tests.descent_models import Zoo, build_zoo
from layerhouse.warehouse.storage.schema import arrow_schema

ROLES = (("attention", "q_proj"), ("attention", "o_proj"), ("mlp", "up_proj"), ("mlp", "down_proj"), ("norm", "mlp_norm"))
LAYERS = 4
EITHER_WAY = ("tuned", "tuned in part", "lora merged", "trained on")
"""Kinds of models of which tensors do not tell whether they were made from their parent or it from them."""
ABSENT = (("L", "L-f16", "L-f32"), ("K",), ("M", "M-bf16"), ("O",), ("G",))
"""Bases that are left out, each with its copies."""
Parents = dict[str, tuple[str | None, str | None]]


def ingested(zoo: Zoo, root: Path, without: Collection[str]) -> tuple[Parents, dict[str, str], float]:
    """The parents and the relation of each model as they were found, by names in the zoo, and how long the ingest took."""
    names = zoo.model_names()
    left = [zoo.folder / model.partition("/")[2] for model, name in names.items() if name not in without]
    started = time.perf_counter()
    lh.ingest(left, warehouse=root, threads=2)
    seconds = time.perf_counter() - started
    with lh.open(root) as wh:
        rows = wh.sql("SELECT model_id, descent, parent_model, second_parent_model FROM lineage").rows()
    parents: Parents = {names[model]: (names.get(first), names.get(second)) for model, _, first, second in rows}
    return parents, {names[model]: relation for model, relation, *_ in rows}, seconds


def known_parents(zoo: Zoo, name: str, without: Collection[str]) -> set[str]:
    """The parents of a model, or the nearest ancestors that are there."""
    found: set[str] = set()
    for parent in zoo.origins[name].parents:
        found |= {parent} if parent not in without else known_parents(zoo, parent, without)
    return found


def unordered(zoo: Zoo) -> set[str]:
    """Roots and the only models tuned from them, of which either may be the parent as far as tensors tell."""
    ties: dict[str, set[str]] = {}
    for name, origin in zoo.origins.items():
        if origin.kind in EITHER_WAY:
            ties.setdefault(name, set()).update(origin.parents)
            for parent in origin.parents:
                ties.setdefault(parent, set()).add(name)
    pairs = {
        name: next(iter(others)) for name, others in ties.items() if len(others) == 1 and ties[next(iter(others))] == {name}
    }
    return {name for name, other in pairs.items() if not zoo.origins[name].parents or not zoo.origins[other].parents}


def root_of(parents: dict[str, str | None], name: str) -> str:
    seen: set[str] = set()
    while parents.get(name) is not None and name not in seen:
        seen.add(name)
        name = str(parents[name])
    return name


def judge(zoo: Zoo, root: Path, without: Collection[str] = ()) -> None:
    """Print how many parents and roots are right."""
    parents, relations, seconds = ingested(zoo, root, without)
    right = wrong = missed = 0
    lines = []
    for name, found in sorted(parents.items()):
        got, known = {one for one in found if one is not None}, known_parents(zoo, name, without)
        right, wrong, missed = right + len(got & known), wrong + len(got - known), missed + len(known - got)
        if got != known:
            lines.append(f"    {name}: {relations[name]} of {sorted(got) or '-'}, made from {sorted(known) or '-'}")
    title = f"without {', '.join(without)}" if without else f"{len(parents)} models ingested in {seconds:.1f} s"
    print(f"{title}: parents {right} right, {wrong} wrong, {missed} missed", end="")
    print(f": precision {right / max(right + wrong, 1):.3f}, recall {right / max(right + missed, 1):.3f}")
    if not without:
        either = unordered(zoo)
        first = {name: next(iter(origin.parents), None) for name, origin in zoo.origins.items()}
        asked = [name for name in parents if first[name] is not None]
        hidden = [name for name in asked if any(name == one or one in _line(first, name) for one in either)]
        good = [name for name in asked if root_of({one: two[0] for one, two in parents.items()}, name) == root_of(first, name)]
        told = [name for name in asked if name not in hidden]
        print(f"  roots: {len(good)} of {len(asked)}, of those that can be known {len(set(good) & set(told))} of {len(told)}")
        print(f"  nothing orders: {', '.join(sorted(hidden))}")
        alone = {name for name in ("random1", "random2", "K-twin", "R-b", "R-c") if parents[name] != (None, None)}
        print(f"  unrelated models with a parent: {len(alone)}; relations: {dict(Counter(relations.values()))}")
    print("\n".join(lines))


def _line(parents: dict[str, str | None], name: str) -> set[str]:
    line: set[str] = set()
    current: str | None = name
    while current is not None and current not in line:
        line.add(current)
        current = parents.get(current)
    return line


def synthetic(count: int) -> list[tuple[Outline, pa.Table]]:
    """Checkpoints of clans whose sizes follow a power law, each a base with children that share some tensors with it."""
    generator, codes = np.random.default_rng(0), Codes()
    found: list[tuple[Outline, pa.Table]] = []
    while len(found) < count:
        size = int(min(count * 0.15, max(1, generator.pareto(0.7)), count - len(found)))
        base = [generator.standard_normal((LANES, 2)).astype(np.float32) for _ in range(LAYERS * len(ROLES))]
        for child in range(size):
            table = _table(base, 0.0 if not child else float(10 ** generator.uniform(-3, -0.5)), len(found), generator)
            facts = Facts(f"{len(found):032x}", (f"m{len(found)}",), 10**6, LAYERS, 10**6, 0, "safetensors")
            found.append((outline_of(facts, table, codes), table))
    return found


def _table(base: list[np.ndarray], noise: float, number: int, generator: np.random.Generator) -> pa.Table:
    rows = []
    for index, both in enumerate(base):
        layer, (module, role) = index // len(ROLES), ROLES[index % len(ROLES)]
        is_kept = not noise or generator.random() < 0.2
        values = both if is_kept else both + np.float32(noise) * generator.standard_normal(both.shape).astype(np.float32)
        signature = values[:, 0] / np.linalg.norm(values[:, 0])
        rows.append(
            {
                "name": f"{layer}.{role}",
                "stack": "text",
                "module": module,
                "role": role,
                "part": "weight",
                "layer_index": layer,
                "dtype": "BF16",
                "shape": [512, 512],
                "params": 512 * 512,
                "is_parameter": True,
                "content_hash": f"{hash((both[0, 0].item(), 0 if is_kept else number)) % 2**63:016x}{0:016x}",
                "signature": signature.tolist(),
                "sketch": values[:, 1].tolist(),
                "l2_norm": 8.0,
                "min": -1.0,
                "max": 1.0,
                "std": 0.1,
                "zeros": 0,
            }
        )
    schema = arrow_schema("tensors")
    return pa.Table.from_pylist(rows, schema=pa.schema([pa.field(one.name, one.type) for one in schema]))


def time_synthetic(count: int) -> None:
    """Print how long settling takes, and which share of all pairs is looked at."""
    tables = synthetic(count)
    started, cpu = time.perf_counter(), time.process_time()
    probes = [probe_of(table) for _, table in tables]
    codes = Codes()
    outlines = [outline_of(outline.facts, table, codes) for outline, table in tables]
    read = time.perf_counter() - started
    kinship = Kinship(probes)
    clans = kinship.clans()
    pairs = 0
    for clan in clans:
        near, central = kinship.nearest(clan, NEAREST), kinship.centre(clan, CENTRAL)
        compared = Clan.compared([outlines[place] for place in clan], codes, near, central)
        pairs += len(compared.pairs) // 2
        settle(compared)
    seconds, used, total = time.perf_counter() - started, time.process_time() - cpu, count * (count - 1) / 2
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"{count:,} checkpoints of {LAYERS * len(ROLES)} tensors in {len(clans)} clans, the largest of {len(clans[0])}:")
    print(f"  {seconds:.1f} s ({used:.1f} s CPU), of it rows to arrays {read:.1f} s; peak {peak} MiB; looked at, of all pairs:")
    print(f"  {kinship.comparisons / total:.2%} by probe, {pairs / total:.2%} in detail")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=2030, help="seeds 1 to 3 were used while the rules were made")
    parser.add_argument("--models", type=int, default=10_000, help="synthetic checkpoints")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        zoo = build_zoo(Path(folder) / "zoo", arguments.seed)
        judge(zoo, Path(folder) / "w")
        for number, without in enumerate(ABSENT):
            judge(zoo, Path(folder) / f"w{number}", without)
    time_synthetic(arguments.models)


if __name__ == "__main__":
    main()
