"""What an ingest has to know about the warehouse, read by SQL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb

from layerhouse.version import RESULT_RULES_VERSION, RULES_VERSION
from layerhouse.vocabulary import CheckpointStatus, LinkRule, SourceKind
from layerhouse.warehouse.answers.query import own_sql
from layerhouse.warehouse.answers.session import connect
from layerhouse.warehouse.storage.inventory import DescribedBase, Inventory, Sighting

COMPLETE = f"""
CREATE TEMP TABLE complete AS
SELECT checkpoint_id
FROM checkpoint_facts
WHERE
    (coalesce(num_layers, 0) = 0 OR checkpoint_id IN (SELECT checkpoint_id FROM layers))
    AND (source_kind <> '{SourceKind.WEIGHTS}' OR checkpoint_id IN (SELECT checkpoint_id FROM tensors))
"""
"""Checkpoints whose rows are all there: a damaged commit may have held a checkpoint's layers or tensors alone."""
NEWEST_SIGHTINGS = """
SELECT model_id, source_kind, fingerprint, stats_level, checkpoint_id, params, device, coalesce(rules_version, 1)
FROM sightings
WHERE checkpoint_id IN (SELECT checkpoint_id FROM complete)
QUALIFY row_number() OVER (PARTITION BY model_id, source_kind ORDER BY commit_id DESC, checkpoint_id) = 1
"""
STALE = f"SELECT checkpoint_id FROM checkpoint_facts WHERE coalesce(rules_version, 1) < {RULES_VERSION}"
IS_STALE_RESULT = f"coalesce(rules_version, 1) < {RESULT_RULES_VERSION}"
NEWEST_FOLDERS = """
WITH places AS (
    SELECT model_id, source_uri AS folder, commit_id FROM sightings
    UNION ALL
    SELECT model_id, model_uri AS folder, commit_id FROM result_links WHERE model_uri IS NOT NULL
)
SELECT model_id, arg_max(folder, commit_id)
FROM places
GROUP BY ALL
"""
LINKED_RESULTS = "SELECT result_id, model_id FROM result_links WHERE result_id IN (SELECT result_id FROM results)"
UNLINKED_RESULTS = f"SELECT result_id FROM result_links WHERE rule = '{LinkRule.DECLARED}'"
LAST_BASES = """
SELECT checkpoint_id, arg_max(base_checkpoint_id, (commit_id, base_checkpoint_id))
FROM layer_matches
GROUP BY checkpoint_id
"""
TENSOR_PAIRS = """
SELECT
    checkpoint_id,
    base_checkpoint_id,
    bool_and(relation IS NOT NULL OR name IS NULL OR base_name IS NULL) AS is_explained
FROM tensor_matches
GROUP BY checkpoint_id, base_checkpoint_id
"""
DESCRIBED_BASES = f"""
SELECT DISTINCT declared_name, params, checkpoint_id, num_layers
FROM checkpoints
WHERE model_id IS NULL AND params IS NOT NULL AND status = '{CheckpointStatus.OK}'
ORDER BY checkpoint_id
"""


def load_inventory(root: Path) -> Inventory:
    """What the warehouse contains, for an ingest that does only what is new. Raises WarehouseError."""
    connection, _ = connect(root, asked="checkpoint_facts sightings result_links")
    known = Inventory()
    with connection, own_sql(connection):
        connection.execute(COMPLETE)
        _load_models(connection, known)
        _load_results(connection, known)
        _load_comparisons(connection, known)
    return known


def _load_models(connection: duckdb.DuckDBPyConnection, known: Inventory) -> None:
    known.checkpoints = _column(connection, "SELECT checkpoint_id FROM complete")
    known.stale_checkpoints = _column(connection, STALE)
    known.checkpoints_with_units = _column(connection, "SELECT DISTINCT checkpoint_id FROM units")
    for model_id, kind, *sighting in _rows(connection, NEWEST_SIGHTINGS):
        known.sightings[model_id, kind] = Sighting(*sighting)
    for model_id, folder in _rows(connection, NEWEST_FOLDERS):
        known.folders_by_model[model_id] = folder
        known.models_by_folder[folder] = model_id
    for name, params, checkpoint_id, num_layers in _rows(connection, DESCRIBED_BASES):
        known.bases.setdefault((name, params), []).append(DescribedBase(checkpoint_id, num_layers))


def _load_results(connection: duckdb.DuckDBPyConnection, known: Inventory) -> None:
    known.results = _column(connection, f"SELECT DISTINCT result_id FROM results WHERE NOT {IS_STALE_RESULT}")
    known.stale_results = _column(connection, f"SELECT DISTINCT result_id FROM results WHERE {IS_STALE_RESULT}")
    known.models_by_result = dict(_rows(connection, LINKED_RESULTS))
    known.unlinked_results = _column(connection, UNLINKED_RESULTS)


def _load_comparisons(connection: duckdb.DuckDBPyConnection, known: Inventory) -> None:
    known.comparisons = dict(_rows(connection, LAST_BASES))
    for checkpoint_id, base_id, is_explained in _rows(connection, TENSOR_PAIRS):
        known.related.add((checkpoint_id, base_id))
        if not is_explained:
            known.unexplained.add((checkpoint_id, base_id))
    known.unit_pairs = set(_rows(connection, "SELECT DISTINCT checkpoint_id, base_checkpoint_id FROM unit_matches"))


def _column(connection: duckdb.DuckDBPyConnection, sql: str) -> set[str]:
    return {row[0] for row in _rows(connection, sql)}


def _rows(connection: duckdb.DuckDBPyConnection, sql: str) -> list[tuple[Any, ...]]:
    return connection.execute(sql).fetchall()
