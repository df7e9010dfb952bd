-- One row for every layer of a model and every removed block of its base, in the order of the base. kept_by says what
-- kept_share and kept_level are counted in: parameters that are not zero where these are known of every layer whose block of
-- the base is, else parameters. level and the ratios count parameters. gone marks layers whose attention or MLP alone is gone.
SELECT
    model_id,
    stack,
    base_layer_index,
    layer_index,
    match,
    params,
    base_params,
    reduction_ratio,
    attention_params,
    base_attention_params,
    attention_reduction_ratio,
    mlp_params,
    base_mlp_params,
    mlp_reduction_ratio,
    num_heads,
    num_kv_heads,
    intermediate_size,
    sparsity,
    is_zero_layer,
    level,
    gone,
    kept_measure(count(nonzero_retention) OVER (), count(retention) OVER ()) AS kept_by,
    by_measure(kept_by, retention, nonzero_retention, bytes_retention, macs_retention) AS kept_share,
    layer_level(
        is_removed,
        is_zero_layer,
        by_measure(
            kept_by,
            reduction_ratio,
            reduction(base_nonzero_params, nonzero_params),
            reduction(base_logical_bytes, logical_bytes),
            reduction(base_macs_per_token, macs_per_token)
        )
    ) AS kept_level
FROM layer_pruning
ORDER BY
    model_id,
    stack,
    coalesce(base_layer_index, layer_index) NULLS LAST,
    layer_index NULLS LAST;
