-- Which heads, KV groups, neurons and experts of the base each model kept and lost, layer by layer.
SELECT
    model_id,
    stack,
    base_layer_index,
    layer_index,
    kind,
    num_base_units,
    num_units,
    num_exact,
    num_similar,
    num_unknown,
    num_dead,
    least_confidence,
    units_kept,
    units_removed
FROM kept_units
ORDER BY
    model_id,
    stack,
    base_layer_index,
    layer_index NULLS LAST,
    kind;
