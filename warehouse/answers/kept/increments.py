"""How a kept view is written from an earlier answer: which rows changed since, and from what these are computed.

Rows of a checkpoint follow from its own rows and those of its base alone, and rows of a model from its results and checkpoint.
So only the rows of checkpoints and models are computed that files name which came later, or that have another base now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from layerhouse.warehouse.answers.sql_text import quote_literal

CHANGED_FACTS = """
WITH earlier AS (
    SELECT
        checkpoint_id,
        base_checkpoint_id
    FROM ({earlier})
),
bases AS (
    {later_bases}
)
SELECT
    id,
    CAST(NULL AS VARCHAR) AS related_id
FROM (
    {later}
    UNION
    SELECT bases.id
    FROM bases
    LEFT JOIN earlier ON earlier.checkpoint_id = bases.id
    WHERE earlier.base_checkpoint_id IS NULL
)
WHERE id IS NOT NULL
"""
"""Checkpoints of which something was written later, and those with which others are compared since, and were not before."""
CHANGED_PAIRS = """
WITH earlier AS (
    SELECT
        checkpoint_id,
        base_checkpoint_id
    FROM ({earlier})
),
later AS (
    {later}
)
SELECT
    checkpoint_facts.checkpoint_id AS id,
    checkpoint_facts.base_checkpoint_id AS related_id
FROM checkpoint_facts
LEFT JOIN earlier
    ON earlier.checkpoint_id = checkpoint_facts.checkpoint_id
    AND earlier.base_checkpoint_id IS NOT DISTINCT FROM checkpoint_facts.base_checkpoint_id
WHERE
    earlier.checkpoint_id IS NULL
    OR checkpoint_facts.checkpoint_id IN (SELECT id FROM later)
    OR checkpoint_facts.base_checkpoint_id IN (SELECT id FROM later)
"""
"""Checkpoints with another base, and those of which, or of whose base, layers or their places were written later."""
COMPARED_CHECKPOINTS = """
SELECT DISTINCT
    id,
    CAST(NULL AS VARCHAR) AS related_id
FROM (
    {later}
)
"""
"""Checkpoints of whose tensors something was written later."""
CHANGED_MODELS = """
WITH later AS (
    {later}
),
found AS (
    SELECT coalesce(name_changes.new_model_id, links.model_id) AS id
    FROM links
    LEFT JOIN name_changes
        ON name_changes.model_id = links.model_id
        AND name_changes.commit_id = links.commit_id
    WHERE links.result_id IN (SELECT id FROM later)
    UNION
    {renamed}
)
SELECT
    found.id,
    result_links.result_id AS related_id
FROM found
LEFT JOIN result_links ON result_links.model_id = found.id
WHERE found.id IS NOT NULL
"""
"""Models that some result written later, or linked later, belongs to or belonged to, and those dropped or renamed later; with
all results that are theirs now."""


class Whose(StrEnum):
    """Which ids rows have: those of what changed, those that are related to them, or either."""

    OWN = "own"
    RELATED = "related"
    BOTH = "both"


@dataclass(frozen=True)
class Some:
    """The rows of a stored table or view that have such an id in one of some columns."""

    columns: Sequence[str]
    whose: Whose = Whose.OWN


@dataclass(frozen=True)
class Increment:
    """How the rows of a view that changed are found and computed.

    `changed` is the SQL of the ids that the view's key has of what changed, over the views `asked`, each with ids of other rows
    that are related to it. It reads the column `id_column` of the later files of `tables`, and the rows that the view `earlier`
    had when the earlier answer was written. `only` has, for what the view stands on, the rows from which it is computed for the
    ids. Of the views `unchanged` no row that was there then may be gone. Views that are written `together` are computed in one
    session.
    """

    together: str
    changed: str
    asked: str
    id_column: str
    tables: Sequence[str]
    only: Mapping[str, Some]
    earlier: str | None = None
    unchanged: Sequence[str] = ()

    @property
    def stands_on(self) -> set[str]:
        """The views whose answers an answer has to name."""
        return {*self.unchanged, *([self.earlier] if self.earlier else ())}


_OWN = Some(["checkpoint_id"])
_OWN_OR_BASE = Some(["checkpoint_id"], Whose.BOTH)
_OWN_OR_OF_BASE = Some(["checkpoint_id", "base_checkpoint_id"])
_OF_MODEL = Some(["model_id"])
_FACTS = ("facts", CHANGED_FACTS, "", "checkpoint_id", ("checkpoints", "base_choices", "layer_matches"))
_COMPARED = ("pairs", COMPARED_CHECKPOINTS, "", "checkpoint_id", ("tensor_matches", "layer_matches", "tensors"))
_PAIRS = ("pairs", CHANGED_PAIRS, "checkpoint_facts", "checkpoint_id", ("layers", "layer_matches"))
_RESULTS = (CHANGED_MODELS, "links name_changes result_links", "result_id", ("results", "links"))
_OF_RESULTS = {"result_links": _OF_MODEL, "results": Some(["result_id"], Whose.RELATED)}
INCREMENTS = {
    "checkpoint_facts": Increment(
        *_FACTS, {"checkpoints": _OWN, "base_choices": _OWN, "layer_matches": _OWN_OR_OF_BASE}, earlier="checkpoint_facts"
    ),
    "checkpoint_changes": Increment(*_COMPARED, {"tensor_matches": _OWN, "layer_matches": _OWN, "tensors": _OWN}),
    "pair_layers": Increment(
        *_PAIRS, {"layers": _OWN_OR_BASE, "layer_matches": _OWN, "checkpoint_facts": _OWN}, earlier="checkpoint_facts"
    ),
    "pair_summary": Increment(*_PAIRS, {"pair_layers": _OWN}, earlier="checkpoint_facts"),
    "model_runs": Increment("results", *_RESULTS, _OF_RESULTS),
    "model_results": Increment("results", *_RESULTS, _OF_RESULTS),
    "run_values": Increment("results", *_RESULTS, _OF_RESULTS, unchanged=["measure_keys"]),
    "model_measures": Increment(
        "measures", *_RESULTS, {"run_values": _OF_MODEL}, unchanged=["measure_keys", "measure_scales", "common_hardware"]
    ),
}


def select_ids(column: str, files: Sequence[str]) -> str:
    """A SELECT of the ids that some files have in a column."""
    paths = ", ".join(map(quote_literal, files))
    source = f"FROM read_parquet([{paths}], hive_partitioning = false)" if files else "WHERE FALSE"
    return f"SELECT {column if files else 'CAST(NULL AS VARCHAR)'} AS id {source}"
