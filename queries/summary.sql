-- One row a model: what it kept of its base, and how the cut is spread over the layers. kept_by says what kept_share and the
-- mean and deviation of the layers' shares are counted in: parameters that are not zero where these are known of every model
-- that has a base, else parameters. All other columns count parameters.
SELECT
    model_id,
    method,
    declared_ratio,
    params,
    base_params,
    reduction_ratio,
    layer_reduction_ratio,
    kept_measure(count(nonzero_retention) OVER (), count(params_retention) OVER ()) AS kept_by,
    by_measure(kept_by, params_retention, nonzero_retention, bytes_retention, macs_retention) AS kept_share,
    stack,
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
    by_measure(kept_by, retention_mean, nonzero_retention_mean, bytes_retention_mean, macs_retention_mean) AS kept_layer_mean,
    by_measure(kept_by, retention_std, nonzero_retention_std, bytes_retention_std, macs_retention_std) AS kept_layer_std,
    strategy,
    sparsity,
    prunable_sparsity,
    nonzero_params,
    size_gb,
    compact_size_gb,
    base_model,
    base_rule,
    status_note
FROM models
ORDER BY model_id;
