-- One row for every layer of a model and every removed block of its base, in the order of the base. kept_by says what
-- kept_share and kept_level are counted in: parameters that are not zero where these are known of every layer whose block of
-- the base is, else parameters. level and the ratios count parameters. gone marks layers whose attention or MLP alone is gone.
WITH measured AS (
    SELECT kept_measure(sum(n_nonzero), sum(n_retention)) AS kept_by
    FROM layer_summary
)
SELECT
    layer_pruning.model_id,
    layer_pruning.stack,
    layer_pruning.base_layer_index,
    layer_pruning.layer_index,
    layer_pruning.match,
    layer_pruning.params,
    layer_pruning.base_params,
    layer_pruning.reduction_ratio,
    layer_pruning.attention_params,
    layer_pruning.base_attention_params,
    layer_pruning.attention_reduction_ratio,
    layer_pruning.mlp_params,
    layer_pruning.base_mlp_params,
    layer_pruning.mlp_reduction_ratio,
    layer_pruning.num_heads,
    layer_pruning.num_kv_heads,
    layer_pruning.intermediate_size,
    layer_pruning.sparsity,
    layer_pruning.is_zero_layer,
    layer_pruning.level,
    layer_pruning.gone,
    measured.kept_by,
    by_measure(
        measured.kept_by,
        layer_pruning.retention,
        layer_pruning.nonzero_retention,
        layer_pruning.bytes_retention,
        layer_pruning.macs_retention
    ) AS kept_share,
    layer_level(
        layer_pruning.is_removed,
        layer_pruning.is_zero_layer,
        by_measure(
            measured.kept_by,
            layer_pruning.reduction_ratio,
            reduction(layer_pruning.base_nonzero_params, layer_pruning.nonzero_params),
            reduction(layer_pruning.base_logical_bytes, layer_pruning.logical_bytes),
            reduction(layer_pruning.base_macs_per_token, layer_pruning.macs_per_token)
        )
    ) AS kept_level
FROM layer_pruning
CROSS JOIN measured
ORDER BY
    layer_pruning.model_id,
    layer_pruning.stack,
    coalesce(layer_pruning.base_layer_index, layer_pruning.layer_index) NULLS LAST,
    layer_pruning.layer_index NULLS LAST;
