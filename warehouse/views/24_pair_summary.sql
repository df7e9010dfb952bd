-- How a cut is spread over the layers of a checkpoint: one row for each that has layers, over the stack that stands for it. A
-- count, list or mean is null unless all numbers that it is taken from are known; a list without members is []. n_retention and
-- n_nonzero count the layers of all stacks. Means are taken in the order of the layers, so that they are always the same.
CREATE OR REPLACE VIEW pair_summary AS
WITH main_layers AS (
    SELECT
        *,
        row_number() OVER (PARTITION BY checkpoint_id, stack, base_layer_index ORDER BY layer_index) AS block_use,
        max(base_layer_index) OVER (
            PARTITION BY checkpoint_id, stack
            ORDER BY layer_index
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS last_block,
        count(retention) OVER (PARTITION BY checkpoint_id) AS n_retention,
        count(nonzero_retention) OVER (PARTITION BY checkpoint_id) AS n_nonzero
    FROM pair_layers
    QUALIFY stack_rank(stack) = min(stack_rank(stack)) OVER (PARTITION BY checkpoint_id)
),
summed AS (
    SELECT
        checkpoint_id,
        any_value(base_checkpoint_id) AS base_checkpoint_id,
        min(stack) AS stack,
        any_value(n_retention) AS n_retention,
        any_value(n_nonzero) AS n_nonzero,
        bool_or(match = 'none') AS is_map_unknown,
        bool_or(block_use > 1) FILTER (
            WHERE layer_index IS NOT NULL AND base_layer_index IS NOT NULL
        ) AS are_blocks_repeated,
        bool_or(block_use = 1 AND base_layer_index < last_block) FILTER (
            WHERE layer_index IS NOT NULL AND base_layer_index IS NOT NULL
        ) AS are_blocks_moved,
        count(is_zero_layer) = count(layer_index) AS are_zero_layers_known,
        count(level) = count(*) AS are_levels_known,
        count(reduction_ratio) = count(*) AS are_reductions_known,
        count(retention) = count(*) AS are_retentions_known,
        count(*) FILTER (WHERE level = 'zero') AS zero_layers,
        count(*) FILTER (WHERE level = 'removed') AS num_removed_layers,
        count(*) FILTER (WHERE level = 'heavy') AS heavy_layers,
        count(*) FILTER (WHERE level = 'medium') AS medium_layers,
        count(*) FILTER (WHERE level = 'light') AS light_layers,
        count(*) FILTER (WHERE level = 'untouched') AS untouched_layers,
        list_sort(list(base_layer_index) FILTER (WHERE is_removed)) AS removed_layers,
        sum(coalesce(params, 0)) FILTER (WHERE reduction_ratio > 0)
        / sum(base_params) FILTER (WHERE reduction_ratio > 0) AS cut_layer_retention,
        avg(retention ORDER BY base_layer_index, layer_index) AS retention_mean,
        stddev_samp(retention ORDER BY base_layer_index, layer_index) AS retention_std,
        var_samp(retention ORDER BY base_layer_index, layer_index) AS retention_var,
        count(nonzero_retention) = count(*) AS is_nonzero_known,
        avg(nonzero_retention ORDER BY base_layer_index, layer_index) AS nonzero_retention_mean,
        stddev_samp(nonzero_retention ORDER BY base_layer_index, layer_index) AS nonzero_retention_std,
        count(bytes_retention) = count(*) AS are_bytes_known,
        avg(bytes_retention ORDER BY base_layer_index, layer_index) AS bytes_retention_mean,
        stddev_samp(bytes_retention ORDER BY base_layer_index, layer_index) AS bytes_retention_std,
        count(macs_retention) = count(*) AS are_macs_known,
        avg(macs_retention ORDER BY base_layer_index, layer_index) AS macs_retention_mean,
        stddev_samp(macs_retention ORDER BY base_layer_index, layer_index) AS macs_retention_std,
        min(retention) FILTER (WHERE NOT is_removed) AS least_survivor_retention,
        list_sort(list(base_layer_index) FILTER (WHERE retention < 0.05)) AS layers_below_5pct,
        list_sort(list(base_layer_index) FILTER (WHERE retention < 0.10)) AS layers_below_10pct,
        list_sort(list(base_layer_index) FILTER (WHERE retention < 0.15)) AS layers_below_15pct,
        list_sort(list(base_layer_index) FILTER (WHERE retention < 0.20)) AS layers_below_20pct,
        bool_or(hidden_size <> base_hidden_size) AS is_hidden_size_changed,
        bool_and(
            reduction_ratio = 0
            AND coalesce(num_heads = base_num_heads, TRUE)
            AND coalesce(intermediate_size = base_intermediate_size, TRUE)
        ) AS are_shapes_kept
    FROM main_layers
    GROUP BY checkpoint_id
)
SELECT
    checkpoint_id,
    base_checkpoint_id,
    stack,
    is_map_unknown,
    are_blocks_repeated,
    are_blocks_moved,
    CASE WHEN are_zero_layers_known THEN zero_layers END AS zero_layers,
    CASE WHEN NOT is_map_unknown THEN CAST(coalesce(removed_layers, []) AS INTEGER[]) END AS removed_layers,
    CASE WHEN NOT is_map_unknown THEN num_removed_layers END AS num_removed_layers,
    CASE WHEN are_levels_known THEN heavy_layers END AS heavy_layers,
    CASE WHEN are_levels_known THEN medium_layers END AS medium_layers,
    CASE WHEN are_levels_known THEN light_layers END AS light_layers,
    CASE WHEN are_levels_known THEN untouched_layers END AS untouched_layers,
    CASE WHEN are_retentions_known THEN cut_layer_retention END AS cut_layer_retention,
    CASE WHEN are_retentions_known THEN retention_mean END AS retention_mean,
    CASE WHEN are_retentions_known THEN retention_std END AS retention_std,
    CASE WHEN are_retentions_known THEN retention_var END AS retention_var,
    CASE WHEN is_nonzero_known THEN nonzero_retention_mean END AS nonzero_retention_mean,
    CASE WHEN is_nonzero_known THEN nonzero_retention_std END AS nonzero_retention_std,
    CASE WHEN are_bytes_known THEN bytes_retention_mean END AS bytes_retention_mean,
    CASE WHEN are_bytes_known THEN bytes_retention_std END AS bytes_retention_std,
    CASE WHEN are_macs_known THEN macs_retention_mean END AS macs_retention_mean,
    CASE WHEN are_macs_known THEN macs_retention_std END AS macs_retention_std,
    CASE WHEN are_retentions_known THEN least_survivor_retention END AS least_survivor_retention,
    CASE
        WHEN are_retentions_known AND NOT is_map_unknown THEN CAST(coalesce(layers_below_5pct, []) AS INTEGER[])
    END AS layers_below_5pct,
    CASE
        WHEN are_retentions_known AND NOT is_map_unknown THEN CAST(coalesce(layers_below_10pct, []) AS INTEGER[])
    END AS layers_below_10pct,
    CASE
        WHEN are_retentions_known AND NOT is_map_unknown THEN CAST(coalesce(layers_below_15pct, []) AS INTEGER[])
    END AS layers_below_15pct,
    CASE
        WHEN are_retentions_known AND NOT is_map_unknown THEN CAST(coalesce(layers_below_20pct, []) AS INTEGER[])
    END AS layers_below_20pct,
    is_hidden_size_changed,
    CASE WHEN are_reductions_known THEN are_shapes_kept END AS are_shapes_kept,
    n_retention,
    n_nonzero
FROM summed;
