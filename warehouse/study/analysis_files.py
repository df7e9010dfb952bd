"""Writes the structure of a model as the files of the study scripts, so that programs that read them keep working.

`ingest` reads the same form. A number that the warehouse does not know is left out. The comparison pairs layers by index, as
the study scripts do, under both names that they read it by; `layers_to_remove.json` has the removed blocks of the base, if they
are known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from layerhouse.errors import UsageError
from layerhouse.vocabulary import Module, Role, SourceKind, Stack
from layerhouse.warehouse.answers.query import model_names, own_sql, run_sql, the_model
from layerhouse.warehouse.answers.sql_text import quote_literal
from layerhouse.warehouse.study.comparison_form import comparison, comparison_text, layer_summary
from layerhouse.warehouse.study.json_form import known_values, study_json
from layerhouse.warehouse.study.summary_form import models_summary
from layerhouse.warehouse.study.written_files import write_files

Row = Mapping[str, Any]

STRUCTURE, PRUNED, ORIGINAL = "model_structure.json", "pruned_model_analysis.json", "original_model_analysis.json"
COMPARISON, CHART_COMPARISON, REMOVED = "model_comparison.json", "pruning_comparison.json", "layers_to_remove.json"
COMPARISON_TEXT, LAYER_SUMMARY = "pruning_comparison.txt", "pruning_summary_by_layer.txt"
BATCH, MODELS = "batch_analysis_results.json", "models_summary.json"
ATTENTION_ROLES = (Role.Q_PROJ, Role.K_PROJ, Role.V_PROJ, Role.O_PROJ, Role.QKV_PROJ)
MLP_ROLES = (Role.GATE_PROJ, Role.UP_PROJ, Role.DOWN_PROJ, Role.GATE_UP_PROJ)
ATTENTION, MLP = Module.ATTENTION, Module.MLP
MODULES_OF_MLP = (Module.MLP, Module.EXPERT, Module.ROUTER)

TENSOR_ROLES = """
SELECT layer_index, module, role, CAST(sum(params) AS BIGINT) AS params
FROM tensors
WHERE checkpoint_id = {checkpoint_id} AND stack = {stack} AND layer_index IS NOT NULL AND role IS NOT NULL
GROUP BY layer_index, module, role
ORDER BY layer_index, module, role
"""
MAIN_LAYERS = """
SELECT *
FROM layers
WHERE checkpoint_id = {checkpoint_id}
QUALIFY stack_rank(stack) = min(stack_rank(stack)) OVER ()
ORDER BY layer_index
"""

ASKED = "model_names models layer_pruning checkpoint_facts layers tensors"
"""The tables and views that writing the files reads."""


def analysis_files(connection: duckdb.DuckDBPyConnection, name: str) -> dict[str, str]:
    """File name -> text; only the files of the model itself if it has no base.

    `name` is that of the model, or the ending of its name alone. Raises NotFoundError and UsageError.
    """
    model_id = the_model(model_names(connection), name)
    (model,) = _rows(connection, f"SELECT * FROM models WHERE model_id = {quote_literal(model_id)}")
    if model["checkpoint_id"] is None:
        raise UsageError(f"{model_id}: the warehouse has only results of this model, no structure to write")
    if model["source_kind"] == SourceKind.WEIGHTS and model["params_source"] != SourceKind.WEIGHTS:
        raise UsageError(f"{model_id}: its parameters are not known, {model['status_note']}; no structure to write")
    pruned = _structure(connection, model["checkpoint_id"], model_id.rpartition("/")[2])
    if not pruned["layers"]:
        raise UsageError(f"{model_id}: the warehouse has no layers of this model")
    files = {STRUCTURE: study_json(pruned), PRUNED: study_json(pruned)}
    base_id = model["base_checkpoint_id"]
    if base_id is None or base_id == model["checkpoint_id"]:
        return files
    original = _structure(connection, base_id, _base_name(connection, base_id))
    where = f"WHERE model_id = {quote_literal(model_id)}"
    order = "ORDER BY stack_rank(stack), coalesce(base_layer_index, layer_index), layer_index"
    layers = _rows(connection, f"SELECT * FROM layer_pruning {where} {order}")
    compared = comparison(original, pruned)
    files |= {
        ORIGINAL: study_json(original),
        COMPARISON: study_json(compared),
        CHART_COMPARISON: study_json(compared),
        COMPARISON_TEXT: comparison_text(compared),
        LAYER_SUMMARY: layer_summary(layers),
    }
    if model["removed_layers"]:
        removal = {
            "layers_to_remove": model["removed_layers"],
            "n_remove": len(model["removed_layers"]),
            "original_num_layers": model["base_num_layers"],
        }
        files[REMOVED] = study_json(removal)
    return files


def write_analyses(
    connection: duckdb.DuckDBPyConnection, models: Sequence[str], folder: Path, *, force: bool
) -> dict[str, str]:
    """Write the files of each model into `analysis/` next to its weights, and those on all of them into a folder.

    These are batch_analysis_results.json and models_summary.json. Models without weights have no files written: their rows were
    read from such files. Returns model ID -> error for each failure.
    """
    results: dict[str, dict[str, Any]] = {}
    failures = {}
    analysed: list[Row] = []
    for row in _rows(connection, "SELECT * FROM models WHERE checkpoint_id IS NOT NULL ORDER BY model_id"):
        model_id, model_folder = row["model_id"], Path(row["source_uri"])
        if model_id not in models:
            continue
        if row["source_kind"] != SourceKind.WEIGHTS:
            analysed.append(row)
            continue
        try:
            if not model_folder.is_dir():
                raise UsageError(f"{model_folder}: the folder of the model does not exist")
            files = analysis_files(connection, model_id)
            write_files(model_folder / "analysis", files, force=force)
            results[model_id] = {
                "status": "success",
                "files": [str(model_folder / "analysis" / name) for name in sorted(files)],
            }
            analysed.append(row)
        except UsageError as error:
            failures[model_id] = str(error)
            results[model_id] = {"status": "failed", "error": str(error)}
    write_files(folder, {BATCH: study_json(results), MODELS: study_json(models_summary(analysed))}, force=force)
    return failures


def _structure(connection: duckdb.DuckDBPyConnection, checkpoint_id: str, name: str) -> dict[str, Any]:
    key = quote_literal(checkpoint_id)
    (checkpoint,) = _rows(connection, f"SELECT * FROM checkpoint_facts WHERE checkpoint_id = {key}")
    layers = _rows(connection, MAIN_LAYERS.format(checkpoint_id=key))
    stack = quote_literal(layers[0]["stack"] if layers else Stack.TEXT)
    roles: dict[int, dict[str, dict[str, int]]] = {}
    for row in _rows(connection, TENSOR_ROLES.format(checkpoint_id=key, stack=stack)):
        part = ATTENTION if row["module"] == ATTENTION else MLP if row["module"] in MODULES_OF_MLP else None
        if part is not None:
            params_by_role = roles.setdefault(row["layer_index"], {}).setdefault(part, {})
            params_by_role[row["role"]] = params_by_role.get(row["role"], 0) + row["params"]
    declared_name = checkpoint["declared_name"] if checkpoint["source_kind"] == SourceKind.ANALYSIS else None
    return known_values(
        model_name=declared_name or name,
        total_params=checkpoint["params"],
        embedding_params=checkpoint["embedding_params"],
        lm_head_params=checkpoint["lm_head_params"],
        layers=[_layer_entry(row, roles.get(row["layer_index"]) or _declared_roles(row)) for row in layers],
        layer_summary=known_values(num_layers=len(layers), total_layer_params=checkpoint["layer_params"]),
    )


def _base_name(connection: duckdb.DuckDBPyConnection, checkpoint_id: str) -> str:
    key = quote_literal(checkpoint_id)
    models = _rows(connection, f"SELECT model_id FROM models WHERE checkpoint_id = {key} ORDER BY model_id")
    if models:
        return str(models[0]["model_id"]).rpartition("/")[2]
    (checkpoint,) = _rows(connection, f"SELECT declared_name FROM checkpoint_facts WHERE checkpoint_id = {key}")
    return str(checkpoint["declared_name"] or "base").rpartition("/")[2]


def _declared_roles(row: Row) -> dict[str, dict[str, int]]:
    """Parameters by role as an ingested analysis declares them: roles of attention by name, all others as the MLP."""
    declared = dict(row["role_params"] or {})
    attention = {role: count for role, count in declared.items() if role in ATTENTION_ROLES}
    return {ATTENTION: attention, MLP: {role: count for role, count in declared.items() if role not in attention}}


def _layer_entry(row: Row, roles: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    attention = known_values(
        type=row["attention_type"] or ("ZeroAttention" if row["attention_params"] == 0 else None),
        **_in_order(roles.get(ATTENTION, {}), ATTENTION_ROLES),
        total=row["attention_params"],
        num_heads=row["num_heads"],
        num_kv_heads=row["num_kv_heads"],
        head_dim=row["head_dim"],
    )
    mlp = known_values(
        type=row["mlp_type"] or ("ZeroMLP" if row["mlp_params"] == 0 else None),
        **_in_order(roles.get(MLP, {}), MLP_ROLES),
        total=row["mlp_params"],
        intermediate_size=row["intermediate_size"],
    )
    return known_values(
        layer_idx=row["layer_index"],
        total=row["params"],
        attention=attention if row["attention_params"] is not None else None,
        mlp=mlp if row["mlp_params"] is not None else None,
        norm=row["norm_params"],
        is_zero_layer=row["is_zero_layer"],
    )


def _in_order(roles: Mapping[str, int], first: Sequence[str]) -> dict[str, int]:
    """The roles in the order of `first`, followed by those that are not in it."""
    return {role: roles[role] for role in (*first, *(role for role in roles if role not in first)) if role in roles}


def _rows(connection: duckdb.DuckDBPyConnection, sql: str) -> list[dict[str, Any]]:
    with own_sql(connection):
        rows: list[dict[str, Any]] = run_sql(connection, sql).to_pylist(maps_as_pydicts="strict")
    return rows
