-- One row a model: what it kept of its base, and how the cut is spread over the layers.
SELECT
    model_id,
    method,
    declared_ratio,
    params,
    base_params,
    reduction_ratio,
    layer_reduction_ratio,
    num_layers,
    base_num_layers,
    zero_layers,
    removed_layers,
    num_removed_layers,
    heavy_layers,
    light_layers,
    retention_mean,
    retention_std,
    retention_var,
    strategy,
    sparsity,
    prunable_sparsity,
    nonzero_params,
    size_gb,
    compact_size_gb,
    status_note
FROM models
ORDER BY model_id;
