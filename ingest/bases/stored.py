"""What the warehouse has of the descent of its checkpoints, and what has to be read of those that it has nothing of."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from layerhouse.ingest.context import IngestContext
from layerhouse.ingest.lineage.outline import LANES, OUTLINE_COLUMNS, Codes, Facts, Outline, outline_of
from layerhouse.ingest.lineage.probes import PROBE_COLUMNS, Probe, probe_of
from layerhouse.vocabulary import SourceKind
from layerhouse.warehouse.storage.reading import read_newest, stream_rows

Row = dict[str, Any]

DESCENT_COLUMNS = (
    "descent",
    "parent_checkpoint_id",
    "second_parent_checkpoint_id",
    "parent_rule",
    "distance",
    "same_share",
    "rounded_share",
    "masked_share",
    "changed_share",
    "second_parent_share",
    "runner_up_checkpoint_id",
    "runner_up_distance",
    "descent_confidence",
)
PROBE_NAMES = ("probe_width", "probe_roles", "probe_values")
FACT_COLUMNS = ("params", "num_layers", "prunable_params", "prunable_zeros", "container", "declared_base", "declared_name")


@dataclass
class StoredDescents:
    """The checkpoints that models have now, each with its models' names, its probe and, where it is stored, its descent."""

    names: dict[str, tuple[str, ...]]
    probes: dict[str, Probe] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)

    @staticmethod
    def read(context: IngestContext) -> StoredDescents:
        """Read what is stored. Checkpoints whose weights could not be read are left out."""
        names: dict[str, list[str]] = {}
        for (model_id, kind), sighting in context.known.sightings.items():
            if kind == SourceKind.WEIGHTS and sighting.params is not None:
                names.setdefault(sighting.checkpoint_id, []).append(model_id)
        stored = StoredDescents({checkpoint_id: tuple(sorted(own)) for checkpoint_id, own in sorted(names.items())})
        for row in read_newest(context.store_root, "descents", (*DESCENT_COLUMNS, *PROBE_NAMES)):
            checkpoint_id = row["checkpoint_id"]
            if checkpoint_id in stored.names:
                values = np.array(row["probe_values"] or (), np.float32).reshape(-1, LANES)
                stored.probes[checkpoint_id] = Probe(row["probe_width"], tuple(row["probe_roles"] or ()), values)
                stored.rows[checkpoint_id] = {name: row[name] for name in DESCENT_COLUMNS}
        return stored

    def is_settled(self, checkpoint_id: str) -> bool:
        """Whether the descent of a checkpoint was looked for."""
        return self.rows.get(checkpoint_id, {}).get("descent") is not None

    def add_missing_probes(self, context: IngestContext) -> list[str]:
        """Make the probes of checkpoints that have none; their ids."""
        missing = [checkpoint_id for checkpoint_id in self.names if checkpoint_id not in self.probes]
        for checkpoint_id, tensors in stream_rows(context.store_root, "tensors", missing, PROBE_COLUMNS) if missing else ():
            self.probes[checkpoint_id] = probe_of(tensors)
        return [checkpoint_id for checkpoint_id in missing if checkpoint_id in self.probes]

    def row(self, checkpoint_id: str, descent: Row) -> Row:
        """The row of the table `descents` of a checkpoint."""
        probe = self.probes[checkpoint_id]
        return {
            "checkpoint_id": checkpoint_id,
            **descent,
            "probe_width": probe.width,
            "probe_roles": list(probe.roles),
            "probe_values": probe.vectors.ravel().tolist(),
        }


def read_facts(context: IngestContext, names: dict[str, tuple[str, ...]]) -> dict[str, Facts]:
    """What is known of some checkpoints as wholes, by id."""
    rows = read_newest(context.store_root, "checkpoints", FACT_COLUMNS)
    return {
        row["checkpoint_id"]: Facts(row["checkpoint_id"], names[row["checkpoint_id"]], *(row[name] for name in FACT_COLUMNS))
        for row in rows
        if row["checkpoint_id"] in names
    }


def read_outlines(context: IngestContext, facts: Iterable[Facts], codes: Codes) -> Iterator[tuple[str, Outline]]:
    """The outlines of some checkpoints, each with its id."""
    by_id = {one.checkpoint_id: one for one in facts}
    for checkpoint_id, tensors in stream_rows(context.store_root, "tensors", by_id, OUTLINE_COLUMNS):
        yield checkpoint_id, outline_of(by_id[checkpoint_id], tensors, codes)


def declared_parent(facts: Facts, names: dict[str, tuple[str, ...]]) -> str | None:
    """The one checkpoint that an adapter's files name as their base: by a model's name, or by the end of one."""
    declared = (facts.declared_base or "").rstrip("/")
    if not declared:
        return None
    found = named_among(declared, names, facts.checkpoint_id)
    return found[0] if len(found) == 1 else None


def named_among(name: str, names: dict[str, tuple[str, ...]], own: str) -> Sequence[str]:
    """The checkpoints of the models of this name, or else of those whose names end as it does."""
    exact = [checkpoint_id for checkpoint_id, models in names.items() if name in models and checkpoint_id != own]
    end = name.rpartition("/")[2]
    return exact or [
        one for one, models in names.items() if one != own and end in {model.rpartition("/")[2] for model in models}
    ]


def with_parents(stored: StoredDescents, checkpoint_ids: Collection[str]) -> set[str]:
    """Some checkpoints and their stored ancestors, as far as models still have them."""
    found = set(checkpoint_ids)
    waiting = list(checkpoint_ids)
    while waiting:
        row = stored.rows.get(waiting.pop(), {})
        for column in ("parent_checkpoint_id", "second_parent_checkpoint_id"):
            parent = row.get(column)
            if parent is not None and parent in stored.names and parent not in found:
                found.add(parent)
                waiting.append(parent)
    return found
