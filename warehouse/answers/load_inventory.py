"""What an ingest has to know about the warehouse, read by SQL."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb

from layerhouse.version import RESULT_RULES_VERSION, RULES_VERSION
from layerhouse.vocabulary import BaseRule, LinkRule, SourceKind, Unrelated
from layerhouse.warehouse.answers.query import own_sql
from layerhouse.warehouse.answers.session import connect
from layerhouse.warehouse.storage.inventory import Inventory, Sighting, StoredBase, StoredResult

COMPLETE = f"""
CREATE TEMP TABLE complete AS
SELECT checkpoint_id
FROM checkpoint_facts
WHERE
    (coalesce(num_layers, 0) = 0 OR checkpoint_id IN (SELECT checkpoint_id FROM {{layers}}))
    AND (source_kind <> '{SourceKind.WEIGHTS}' OR checkpoint_id IN (SELECT checkpoint_id FROM {{tensors}}))
"""
"""Checkpoints whose rows are all there: a damaged commit may have held a checkpoint's layers or tensors alone."""
NEWEST_SIGHTINGS = """
SELECT model_id, source_kind, fingerprint, stats_level, checkpoint_id, params, device, coalesce(rules_version, 1)
FROM sightings
WHERE checkpoint_id IN (SELECT checkpoint_id FROM complete)
QUALIFY row_number() OVER (PARTITION BY model_id, source_kind ORDER BY commit_id DESC, checkpoint_id) = 1
"""
STALE = f"SELECT checkpoint_id FROM checkpoint_facts WHERE coalesce(rules_version, 1) < {RULES_VERSION}"
RESULTS = f"""
SELECT
    result_id,
    bool_or(coalesce(rules_version, 1) < {RESULT_RULES_VERSION}),
    bool_or(coalesce(rules_version, 1) >= {RESULT_RULES_VERSION})
FROM results
GROUP BY result_id
"""
"""Result files, and whether they have rows of earlier rules, and of the present ones."""
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
LINKED_RESULTS = "SELECT result_id, model_id FROM result_links"
UNLINKED_RESULTS = f"SELECT result_id FROM result_links WHERE rule = '{LinkRule.DECLARED}'"
STORED_RESULTS = f"""
CREATE TEMP TABLE stored_results AS
WITH present AS (
    SELECT
        result_links.result_id,
        result_links.file_id,
        result_links.source_uri,
        result_links.model_id,
        result_links.rule,
        result_links.is_adapter,
        min(links.model_id) AS written_name
    FROM result_links
    JOIN links
        ON links.result_id = result_links.result_id
        AND links.commit_id = result_links.commit_id
    GROUP BY ALL
),
names AS (
    SELECT
        result_id,
        min(declared_model) AS declared_model,
        min(adapter) AS adapter,
        CASE WHEN count(DISTINCT coalesce(revision, '')) = 1 THEN min(revision) END AS revision,
        list_sort(list(DISTINCT measure_id) FILTER (
            WHERE declared_model IS NULL AND result_id IN (SELECT result_id FROM present WHERE rule = '{LinkRule.DECLARED}')
        )) AS measures
    FROM results
    WHERE
        adapter IS NOT NULL
        OR result_id IN (SELECT result_id FROM present WHERE rule IN ('{LinkRule.DECLARED}', '{LinkRule.BY_HAND}'))
    GROUP BY result_id
)
SELECT
    present.result_id,
    present.file_id,
    present.source_uri,
    present.model_id,
    present.written_name,
    present.rule,
    names.declared_model,
    names.adapter,
    names.revision,
    names.measures
FROM present
JOIN names ON names.result_id = present.result_id
WHERE
    present.rule IN ('{LinkRule.DECLARED}', '{LinkRule.BY_HAND}')
    OR present.is_adapter IS FALSE
    OR (present.is_adapter IS NULL AND present.rule <> '{LinkRule.FOLDER}')
"""
"""Results that a later ingest may link to another model, and those that a user linked."""
DROPPED_RESULTS = """
WITH newest_links AS (
    SELECT *
    FROM links
    QUALIFY row_number() OVER (PARTITION BY result_id ORDER BY commit_id DESC, model_id) = 1
),
dropped_links AS (
    SELECT
        newest_links.* REPLACE (coalesce(newest_links.file_id, newest_links.result_id) AS file_id),
        coalesce(name_changes.new_model_id, newest_links.model_id) AS last_name
    FROM newest_links
    JOIN name_changes
        ON name_changes.model_id = newest_links.model_id
        AND name_changes.commit_id = newest_links.commit_id
    WHERE name_changes.is_dropped
),
names AS (
    SELECT
        result_id,
        min(declared_model) AS declared_model,
        min(adapter) AS adapter,
        CASE WHEN count(DISTINCT coalesce(revision, '')) = 1 THEN min(revision) END AS revision
    FROM results
    WHERE result_id IN (SELECT result_id FROM dropped_links)
    GROUP BY result_id
)
SELECT
    dropped_links.result_id,
    nullif(file_id, dropped_links.result_id),
    source_uri,
    last_name,
    model_id,
    rule,
    declared_model,
    adapter,
    revision,
    {
        'model_uri': model_uri,
        'is_adapter': is_adapter,
        'method': method,
        'declared_ratio': declared_ratio,
        'declared_removed_layers': declared_removed_layers,
        'tags': tags
    }
FROM dropped_links
JOIN names ON names.result_id = dropped_links.result_id
WHERE
    NOT EXISTS (
        SELECT 1
        FROM result_links
        WHERE
            result_links.source_uri = dropped_links.source_uri
            AND coalesce(result_links.file_id, result_links.result_id) <> dropped_links.file_id
            AND result_links.commit_id > dropped_links.commit_id
    )
QUALIFY
    file_id = first_value(file_id) OVER (
        PARTITION BY last_name, source_uri
        ORDER BY commit_id DESC, dropped_links.result_id
    )
"""
"""The results that went with a dropped model, of each file its newest contents, unless there are newer ones of the file now."""
DROPPED_FOLDERS = """
SELECT DISTINCT
    coalesce(name_changes.new_model_id, checkpoints.model_id),
    checkpoints.source_uri
FROM checkpoints
JOIN name_changes
    ON name_changes.model_id = checkpoints.model_id
    AND name_changes.commit_id = checkpoints.commit_id
WHERE name_changes.is_dropped
"""
FORMER_NAMES = """
SELECT model_id, arg_max(new_model_id, commit_id)
FROM name_changes
WHERE NOT is_dropped
GROUP BY model_id
"""
LAST_BASES = f"""
WITH matches AS (
    SELECT checkpoint_id, base_checkpoint_id, max(commit_id) AS commit_id
    FROM {{layer_matches}}
    GROUP BY checkpoint_id, base_checkpoint_id
)
SELECT matches.checkpoint_id, arg_max(matches.base_checkpoint_id, (matches.commit_id, matches.base_checkpoint_id))
FROM matches
LEFT JOIN base_choices AS choices ON choices.checkpoint_id = matches.checkpoint_id AND choices.base_rule = '{BaseRule.NONE}'
WHERE choices.commit_id IS NULL OR choices.commit_id < matches.commit_id
GROUP BY matches.checkpoint_id
"""
"""Not those of checkpoints that are to have no base since."""
TENSOR_PAIRS = f"""
SELECT
    checkpoint_id,
    base_checkpoint_id,
    bool_and(
        relation IS NOT NULL
        OR name IS NULL
        OR base_name IS NULL
        OR coalesce(reason, '{Unrelated.UNREAD_VALUES}') <> '{Unrelated.UNREAD_VALUES}'
    ) AS is_explained,
    coalesce(min(rules_version), 2) < {RULES_VERSION} AS is_stale
FROM tensor_matches
GROUP BY checkpoint_id, base_checkpoint_id
"""
STORED_BASES = """
SELECT DISTINCT
    checkpoint_id,
    declared_name,
    params,
    layer_params,
    num_layers,
    embedding_params,
    lm_head_params,
    status,
    source_kind,
    model_id
FROM checkpoints
WHERE model_id IS NULL AND params IS NOT NULL
UNION ALL
SELECT
    checkpoint_id,
    declared_name,
    params,
    layer_params,
    num_layers,
    embedding_params,
    lm_head_params,
    status,
    source_kind,
    model_id
FROM current_checkpoints
WHERE params IS NOT NULL AND coalesce(base_checkpoint_id = checkpoint_id, TRUE)
ORDER BY checkpoint_id, declared_name, model_id
"""
STATED_REMOVALS = f"""
SELECT DISTINCT checkpoint_id, declared
FROM checkpoints
WHERE source_kind = '{SourceKind.ANALYSIS}' AND contains(declared, 'layers_to_remove')
"""


def load_inventory(root: Path) -> Inventory:
    """What the warehouse contains, for an ingest that does only what is new. Raises WarehouseError."""
    connection, snapshot = connect(root, asked="checkpoint_facts sightings current_checkpoints result_links")
    known = Inventory()
    with connection, own_sql(connection):
        connection.execute(COMPLETE.format(layers=_all_rows("layers"), tensors=_all_rows("tensors")))
        _load_models(connection, known)
        _load_results(connection, known)
        if snapshot.rows("removals"):
            _load_dropped(connection, known)
        _load_comparisons(connection, known)
    return known


def _load_models(connection: duckdb.DuckDBPyConnection, known: Inventory) -> None:
    known.checkpoints = _column(connection, "SELECT checkpoint_id FROM complete")
    known.stale_checkpoints = _column(connection, STALE)
    known.checkpoints_with_units = _column(connection, f"SELECT DISTINCT checkpoint_id FROM {_all_rows('units')}")
    for model_id, kind, *sighting in _rows(connection, NEWEST_SIGHTINGS):
        known.sightings[model_id, kind] = Sighting(*sighting)
    for model_id, folder in _rows(connection, NEWEST_FOLDERS):
        known.folders_by_model[model_id] = folder
        known.models_by_folder[folder] = model_id
    known.bases = [StoredBase(*columns) for columns in _rows(connection, STORED_BASES)]
    for checkpoint_id, text in _rows(connection, STATED_REMOVALS):
        declared = json.loads(text)
        known.removals[checkpoint_id] = declared["layers_to_remove"], declared.get("original_num_layers")


def _load_results(connection: duckdb.DuckDBPyConnection, known: Inventory) -> None:
    stored = _rows(connection, RESULTS)
    known.results = {result_id for result_id, _, is_present in stored if is_present}
    known.stale_results = {result_id for result_id, is_stale, _ in stored if is_stale}
    with_rows = known.results | known.stale_results
    known.models_by_result = {
        result_id: model_id for result_id, model_id in _rows(connection, LINKED_RESULTS) if result_id in with_rows
    }
    known.unlinked_results = _column(connection, UNLINKED_RESULTS)
    connection.execute(STORED_RESULTS)
    shared: dict[tuple[str, ...], frozenset[str]] = {}
    for *columns, measures in _rows(connection, "SELECT * FROM stored_results"):
        key = tuple(measures or ())
        result = replace(StoredResult(*columns), measures=shared.setdefault(key, frozenset(key)))
        if result.rule == LinkRule.BY_HAND:
            place = (result.source_uri, result.declared_model, result.adapter, result.revision)
            known.results_by_hand[place] = result.model_id
        else:
            known.waiting_results[result.result_id] = result


def _load_dropped(connection: duckdb.DuckDBPyConnection, known: Inventory) -> None:
    """What is known of models that were dropped or renamed."""
    known.former_names = dict(_rows(connection, FORMER_NAMES))
    for model_id, folder in _rows(connection, DROPPED_FOLDERS):
        known.dropped_folders.setdefault(model_id, set()).add(folder)
    for *columns, link in _rows(connection, DROPPED_RESULTS):
        dropped = replace(StoredResult(*columns), link=link)
        known.dropped_results.setdefault(dropped.model_id, []).append(dropped)


def _load_comparisons(connection: duckdb.DuckDBPyConnection, known: Inventory) -> None:
    known.comparisons = dict(_rows(connection, LAST_BASES.format(layer_matches=_all_rows("layer_matches"))))
    for checkpoint_id, base_id, is_explained, is_stale in _rows(connection, TENSOR_PAIRS):
        known.related.add((checkpoint_id, base_id))
        if is_stale:
            known.stale_related.add((checkpoint_id, base_id))
        if not is_explained:
            known.unexplained.add((checkpoint_id, base_id))
    for checkpoint_id, rule, base_id in _rows(
        connection, "SELECT checkpoint_id, base_rule, base_checkpoint_id FROM base_choices"
    ):
        known.base_choices[checkpoint_id] = rule, base_id
    pairs = f"SELECT DISTINCT checkpoint_id, base_checkpoint_id FROM {_all_rows('unit_matches')}"
    known.unit_pairs = set(_rows(connection, pairs))


def _all_rows(table: str) -> str:
    """The rows of all commits of a table: cheaper than those that readers see, and of the same ids."""
    return f"read_parquet(getvariable('files').{table}, hive_partitioning = false)"


def _column(connection: duckdb.DuckDBPyConnection, sql: str) -> set[str]:
    return {row[0] for row in _rows(connection, sql)}


def _rows(connection: duckdb.DuckDBPyConnection, sql: str) -> list[tuple[Any, ...]]:
    return connection.execute(sql).fetchall()
