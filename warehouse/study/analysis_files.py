"""A model's structure in the files of the study scripts, so that what reads them goes on working: rows -> JSON and text.

The form is that which `ingest` reads. A number that the warehouse does not know is left out, never a plausible one. The
comparison pairs layers by their number, as the form does; `layers_to_remove.json` says which blocks went, where that is known.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from layerhouse.errors import NotFoundError, UsageError
from layerhouse.warehouse.answers.query import model_names, own_sql, run_sql
from layerhouse.warehouse.answers.sql_text import quote_literal
from layerhouse.warehouse.study.written_files import write_files

Row = Mapping[str, Any]

STRUCTURE, PRUNED, ORIGINAL = "model_structure.json", "pruned_model_analysis.json", "original_model_analysis.json"
COMPARISON, BY_LAYER, REMOVED = "model_comparison.json", "pruning_summary_by_layer.txt", "layers_to_remove.json"
BATCH = "batch_analysis_results.json"
TOTAL_WORD = "\u603b\u8ba1"
ATTENTION_ROLES = ("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj")
MLP_ROLES = ("gate_proj", "up_proj", "down_proj", "gate_up_proj")
ATTENTION, MLP = "attention", "mlp"
MODULES_OF_MLP = ("mlp", "expert", "router")

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
    """The files' texts by name; where the model has no base, those of the model alone. Raises NotFoundError and UsageError."""
    names = model_names(connection)
    if model_id not in names:
        raise NotFoundError("model", model_id, names)
    (model,) = _rows(connection, f"SELECT * FROM models WHERE model_id = {quote_literal(model_id)}")
    if model["checkpoint_id"] is None:
        raise UsageError(f"{model_id}: results alone, no structure to write")
    pruned = _structure(connection, model["checkpoint_id"], model_id.rpartition("/")[2])
    if not pruned["layers"]:
        raise UsageError(f"{model_id}: the warehouse has no layers of it")
    files = {STRUCTURE: _json(pruned), PRUNED: _json(pruned)}
    base_id = model["base_checkpoint_id"]
    if base_id is None or base_id == model["checkpoint_id"]:
        return files
    original = _structure(connection, base_id, _base_name(connection, base_id))
    where = f"WHERE model_id = {quote_literal(model_id)}"
    order = "ORDER BY stack_rank(stack), coalesce(base_layer_index, layer_index), layer_index"
    layers = _rows(connection, f"SELECT * FROM layer_pruning {where} {order}")
    files |= {ORIGINAL: _json(original), COMPARISON: _json(_comparison(original, pruned)), BY_LAYER: _by_layer(layers)}
    if model["removed_layers"]:
        removal = {
            "layers_to_remove": model["removed_layers"],
            "n_remove": len(model["removed_layers"]),
            "original_num_layers": model["base_num_layers"],
        }
        files[REMOVED] = _json(removal)
    return files


def write_analyses(
    connection: duckdb.DuckDBPyConnection, models: Sequence[str], folder: Path, *, force: bool
) -> dict[str, str]:
    """Write the files of each model into `analysis/` beside its weights, and batch_analysis_results.json into a folder.

    Models without weights are passed over: what they are was read from such files. What could not be written, by model.
    """
    found = _rows(connection, "SELECT model_id, source_uri FROM models WHERE source_kind = 'weights' ORDER BY model_id")
    results: dict[str, dict[str, Any]] = {}
    failures = {}
    for row in found:
        model_id, home = row["model_id"], Path(row["source_uri"])
        if model_id not in models:
            continue
        try:
            if not home.is_dir():
                raise UsageError(f"{home}: no folder to put them into")
            files = analysis_files(connection, model_id)
            write_files(home / "analysis", files, force=force)
            results[model_id] = {"status": "success", "files": [str(home / "analysis" / name) for name in sorted(files)]}
        except UsageError as error:
            failures[model_id] = str(error)
            results[model_id] = {"status": "failed", "error": str(error)}
    write_files(folder, {BATCH: _json(results)}, force=force)
    return failures


def _structure(connection: duckdb.DuckDBPyConnection, checkpoint_id: str, name: str) -> dict[str, Any]:
    key = quote_literal(checkpoint_id)
    (checkpoint,) = _rows(connection, f"SELECT * FROM checkpoint_facts WHERE checkpoint_id = {key}")
    layers = _rows(connection, MAIN_LAYERS.format(checkpoint_id=key))
    stack = quote_literal(layers[0]["stack"] if layers else "text")
    roles: dict[int, dict[str, dict[str, int]]] = {}
    for row in _rows(connection, TENSOR_ROLES.format(checkpoint_id=key, stack=stack)):
        part = ATTENTION if row["module"] == ATTENTION else MLP if row["module"] in MODULES_OF_MLP else None
        if part is not None:
            own = roles.setdefault(row["layer_index"], {}).setdefault(part, {})
            own[row["role"]] = own.get(row["role"], 0) + row["params"]
    declared_name = checkpoint["declared_name"] if checkpoint["source_kind"] == "analysis" else None
    return _present(
        model_name=declared_name or name,
        total_params=checkpoint["params"],
        embedding_params=checkpoint["embedding_params"],
        lm_head_params=checkpoint["lm_head_params"],
        layers=[_layer(row, roles.get(row["layer_index"]) or _stated_roles(row)) for row in layers],
        layer_summary=_present(num_layers=len(layers), total_layer_params=checkpoint["layer_params"]),
    )


def _base_name(connection: duckdb.DuckDBPyConnection, checkpoint_id: str) -> str:
    key = quote_literal(checkpoint_id)
    found = _rows(connection, f"SELECT model_id FROM models WHERE checkpoint_id = {key} ORDER BY model_id")
    if found:
        return str(found[0]["model_id"]).rpartition("/")[2]
    (checkpoint,) = _rows(connection, f"SELECT declared_name FROM checkpoint_facts WHERE checkpoint_id = {key}")
    return str(checkpoint["declared_name"] or "base").rpartition("/")[2]


def _stated_roles(row: Row) -> dict[str, dict[str, int]]:
    """Roles as an analysis stated them: those of attention by name, the others of the MLP."""
    stated = dict(row["role_params"] or {})
    attention = {role: count for role, count in stated.items() if role in ATTENTION_ROLES}
    return {ATTENTION: attention, MLP: {role: count for role, count in stated.items() if role not in attention}}


def _layer(row: Row, roles: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    attention = _present(
        type=row["attention_type"] or ("ZeroAttention" if row["attention_params"] == 0 else None),
        **_in_order(roles.get(ATTENTION, {}), ATTENTION_ROLES),
        total=row["attention_params"],
        num_heads=row["num_heads"],
        num_kv_heads=row["num_kv_heads"],
        head_dim=row["head_dim"],
    )
    mlp = _present(
        type=row["mlp_type"] or ("ZeroMLP" if row["mlp_params"] == 0 else None),
        **_in_order(roles.get(MLP, {}), MLP_ROLES),
        total=row["mlp_params"],
        intermediate_size=row["intermediate_size"],
    )
    return _present(
        layer_idx=row["layer_index"],
        total=row["params"],
        attention=attention if row["attention_params"] is not None else None,
        mlp=mlp if row["mlp_params"] is not None else None,
        norm=row["norm_params"],
        is_zero_layer=row["is_zero_layer"],
    )


def _comparison(original: Mapping[str, Any], pruned: Mapping[str, Any]) -> dict[str, Any]:
    """Both sides by layer number, as many as the shorter one has."""
    pairs = zip(original["layers"], pruned["layers"], strict=False)
    return _present(
        original_name=original["model_name"],
        pruned_name=pruned["model_name"],
        total_params=_pair(original["total_params"], pruned["total_params"]),
        layer_params=_pair(
            original["layer_summary"].get("total_layer_params"), pruned["layer_summary"].get("total_layer_params")
        ),
        layers=[_layer_pair(one, other) for one, other in pairs],
    )


def _layer_pair(original: Mapping[str, Any], pruned: Mapping[str, Any]) -> dict[str, Any]:
    modules = {}
    for part, sizes in ((ATTENTION, ("num_heads", "num_kv_heads")), (MLP, ("intermediate_size",))):
        one, other = original.get(part, {}), pruned.get(part, {})
        pair = _pair(one.get("total"), other.get("total"))
        if pair is not None:
            stated = {size: {"original": one[size], "pruned": other[size]} for size in sizes if size in one and size in other}
            modules[part] = pair | stated
    return _present(
        layer_idx=pruned["layer_idx"],
        total=_pair(original.get("total"), pruned.get("total")),
        **modules,
        is_zero_layer=pruned.get("is_zero_layer"),
    )


def _pair(original: int | None, pruned: int | None) -> dict[str, Any] | None:
    if original is None or pruned is None:
        return None
    reduced = original - pruned
    return {
        "original": original,
        "pruned": pruned,
        "reduced": reduced,
        "reduction_ratio": reduced / original if original else 0.0,
    }


def _by_layer(layers: Sequence[Row]) -> str:
    """What was removed of each block of the base: KV groups, MLP channels, parameters; `?` where it is not known."""
    sums: list[int | None] = [0] * 5
    lines = []
    for layer in layers:
        numbers = [*_removed(layer)]
        sums = [None if one is None or number is None else one + number for one, number in zip(sums, numbers, strict=True)]
        index = layer["base_layer_index"] if layer["base_layer_index"] is not None else layer["layer_index"]
        lines.append(_removed_line("?" if index is None else str(index), numbers))
    return "\n".join([*lines, _removed_line(TOTAL_WORD, sums)]) + "\n"


def _removed(layer: Row) -> Iterator[int | None]:
    """Groups, their parameters, channels, theirs, all parameters of the block that are gone. Of a module that has lost no
    parameter no group and no channel is gone, however many there are."""
    for name, of_module in (
        ("num_kv_heads", "attention_params"),
        ("attention_params", None),
        ("intermediate_size", "mlp_params"),
        ("mlp_params", None),
        ("params", None),
    ):
        gone = _gone(layer, name)
        yield 0 if gone is None and of_module is not None and _gone(layer, of_module) == 0 else gone


def _gone(layer: Row, name: str) -> int | None:
    before, after = layer[f"base_{name}"], 0 if layer["is_removed"] else layer[name]
    return None if before is None or after is None else before - after


def _removed_line(head: str, numbers: Sequence[int | None]) -> str:
    groups, attention, channels, mlp, params = ("?" if number is None else str(number) for number in numbers)
    return f"{head}  {groups} groups ({attention} params)  {channels} channels ({mlp} params)  {params} params"


def _in_order(roles: Mapping[str, int], first: Sequence[str]) -> dict[str, int]:
    return {role: roles[role] for role in (*first, *(role for role in roles if role not in first)) if role in roles}


def _present(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _json(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _rows(connection: duckdb.DuckDBPyConnection, sql: str) -> list[dict[str, Any]]:
    with own_sql():
        rows: list[dict[str, Any]] = run_sql(connection, sql).to_pylist(maps_as_pydicts="strict")
    return rows
