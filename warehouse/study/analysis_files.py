"""Writes the structure of a model as the files of the study scripts, so that programs that read them keep working.

`ingest` reads the same form. A number that the warehouse does not know is left out. The comparison pairs layers by index, as
the study scripts do; `layers_to_remove.json` has the removed blocks of the base, if they are known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from layerhouse.errors import NotFoundError, UsageError
from layerhouse.vocabulary import Module, Role, SourceKind, Stack
from layerhouse.warehouse.answers.query import model_names, own_sql, run_sql
from layerhouse.warehouse.answers.sql_text import quote_literal
from layerhouse.warehouse.study.json_form import known_values, study_json
from layerhouse.warehouse.study.written_files import write_files

Row = Mapping[str, Any]

STRUCTURE, PRUNED, ORIGINAL = "model_structure.json", "pruned_model_analysis.json", "original_model_analysis.json"
COMPARISON, LAYER_SUMMARY, REMOVED = "model_comparison.json", "pruning_summary_by_layer.txt", "layers_to_remove.json"
BATCH = "batch_analysis_results.json"
TOTAL_LABEL = "\u603b\u8ba1"
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


def analysis_files(connection: duckdb.DuckDBPyConnection, model_id: str) -> dict[str, str]:
    """File name -> text; only the files of the model itself if it has no base. Raises NotFoundError and UsageError."""
    names = model_names(connection)
    if model_id not in names:
        raise NotFoundError("model", model_id, names)
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
    files |= {
        ORIGINAL: study_json(original),
        COMPARISON: study_json(_comparison(original, pruned)),
        LAYER_SUMMARY: _layer_summary(layers),
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
    """Write the files of each model into `analysis/` next to its weights, and batch_analysis_results.json into a folder.

    Models without weights are skipped: their rows were read from such files. Returns model ID -> error for each failure.
    """
    weight_models = _rows(
        connection, f"SELECT model_id, source_uri FROM models WHERE source_kind = '{SourceKind.WEIGHTS}' ORDER BY model_id"
    )
    results: dict[str, dict[str, Any]] = {}
    failures = {}
    for row in weight_models:
        model_id, model_folder = row["model_id"], Path(row["source_uri"])
        if model_id not in models:
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
        except UsageError as error:
            failures[model_id] = str(error)
            results[model_id] = {"status": "failed", "error": str(error)}
    write_files(folder, {BATCH: study_json(results)}, force=force)
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


def _comparison(original: Mapping[str, Any], pruned: Mapping[str, Any]) -> dict[str, Any]:
    """Both structures side by side; layers are paired by index, up to the shorter of the two."""
    pairs = zip(original["layers"], pruned["layers"], strict=False)
    return known_values(
        original_name=original["model_name"],
        pruned_name=pruned["model_name"],
        total_params=_count_comparison(original["total_params"], pruned["total_params"]),
        layer_params=_count_comparison(
            original["layer_summary"].get("total_layer_params"), pruned["layer_summary"].get("total_layer_params")
        ),
        layers=[_layer_comparison(*pair) for pair in pairs],
    )


def _layer_comparison(original: Mapping[str, Any], pruned: Mapping[str, Any]) -> dict[str, Any]:
    modules = {}
    for part, sizes in ((ATTENTION, ("num_heads", "num_kv_heads")), (MLP, ("intermediate_size",))):
        before, after = original.get(part, {}), pruned.get(part, {})
        totals = _count_comparison(before.get("total"), after.get("total"))
        if totals is not None:
            known = [size for size in sizes if size in before and size in after]
            modules[part] = totals | {size: {"original": before[size], "pruned": after[size]} for size in known}
    return known_values(
        layer_idx=pruned["layer_idx"],
        total=_count_comparison(original.get("total"), pruned.get("total")),
        **modules,
        is_zero_layer=pruned.get("is_zero_layer"),
    )


def _count_comparison(original: int | None, pruned: int | None) -> dict[str, Any] | None:
    if original is None or pruned is None:
        return None
    reduced = original - pruned
    return {
        "original": original,
        "pruned": pruned,
        "reduced": reduced,
        "reduction_ratio": reduced / original if original else 0.0,
    }


def _layer_summary(layers: Sequence[Row]) -> str:
    """A line per block of the base: removed KV groups, MLP channels and parameters, `?` if unknown; then a line of totals."""
    sums: list[int | None] = [0] * 5
    lines = []
    for layer in layers:
        counts = [*_removed_counts(layer)]
        sums = [None if total is None or count is None else total + count for total, count in zip(sums, counts, strict=True)]
        index = layer["base_layer_index"] if layer["base_layer_index"] is not None else layer["layer_index"]
        lines.append(_layer_summary_line("?" if index is None else str(index), counts))
    return "\n".join([*lines, _layer_summary_line(TOTAL_LABEL, sums)]) + "\n"


def _removed_counts(layer: Row) -> Iterator[int | None]:
    """KV groups and attention parameters, MLP channels and parameters, and all parameters that the block lost.

    A module that lost no parameter lost no group and no channel, even if their number is unknown.
    """
    for name, module_params in (
        ("num_kv_heads", "attention_params"),
        ("attention_params", None),
        ("intermediate_size", "mlp_params"),
        ("mlp_params", None),
        ("params", None),
    ):
        count = _removed_count(layer, name)
        is_module_whole = module_params is not None and _removed_count(layer, module_params) == 0
        yield 0 if count is None and is_module_whole else count


def _removed_count(layer: Row, name: str) -> int | None:
    before, after = layer[f"base_{name}"], 0 if layer["is_removed"] else layer[name]
    return None if before is None or after is None else before - after


def _layer_summary_line(label: str, counts: Sequence[int | None]) -> str:
    groups, attention, channels, mlp, params = ("?" if count is None else str(count) for count in counts)
    return f"{label}  {groups} groups ({attention} params)  {channels} channels ({mlp} params)  {params} params"


def _in_order(roles: Mapping[str, int], first: Sequence[str]) -> dict[str, int]:
    """The roles in the order of `first`, followed by those that are not in it."""
    return {role: roles[role] for role in (*first, *(role for role in roles if role not in first)) if role in roles}


def _rows(connection: duckdb.DuckDBPyConnection, sql: str) -> list[dict[str, Any]]:
    with own_sql(connection):
        rows: list[dict[str, Any]] = run_sql(connection, sql).to_pylist(maps_as_pydicts="strict")
    return rows
