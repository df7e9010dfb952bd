-- The layers of each model and stack that stand out: removed, zero, heavy (over 80 % gone) and light (under 20 % gone), and of
-- other levels those whose attention or MLP alone is gone. kept_by says what level and kept shares are counted in: parameters
-- that are not zero where these are known of every layer whose block of the base is, else parameters; of layers without a level
-- it is not known. base_layers are blocks of the base; null where no file says which they are, or without a base.
WITH measured_layers AS (
    SELECT
        model_id,
        stack,
        base_layer_index,
        reduction_ratio,
        retention,
        coalesce(gone IN ('attention', 'attention_mlp'), FALSE) AS is_attention_gone,
        coalesce(gone IN ('mlp', 'attention_mlp'), FALSE) AS is_mlp_gone,
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
)
SELECT
    model_id,
    stack,
    kept_level AS level,
    count(*) AS n_layers,
    CASE
        WHEN count(base_layer_index) = count(*)
            THEN CAST(list(base_layer_index ORDER BY base_layer_index) AS INTEGER[])
    END AS base_layers,
    min(reduction_ratio) AS reduction_ratio_min,
    max(reduction_ratio) AS reduction_ratio_max,
    kept_by,
    min(kept_share) AS kept_share_min,
    max(kept_share) AS kept_share_max,
    CASE
        WHEN bool_and(base_layer_index IS NOT NULL OR NOT is_attention_gone)
            THEN CAST(
                    coalesce(list(base_layer_index ORDER BY base_layer_index) FILTER (WHERE is_attention_gone), []) AS INTEGER[]
                )
    END AS attention_gone_layers,
    CASE
        WHEN bool_and(base_layer_index IS NOT NULL OR NOT is_mlp_gone)
            THEN CAST(
                    coalesce(list(base_layer_index ORDER BY base_layer_index) FILTER (WHERE is_mlp_gone), []) AS INTEGER[]
                )
    END AS mlp_gone_layers
FROM measured_layers
WHERE
    kept_level IN ('removed', 'zero', 'heavy', 'light')
    OR is_attention_gone
    OR is_mlp_gone
    OR (kept_level IS NULL AND retention IS NOT NULL)
GROUP BY
    model_id,
    stack,
    kept_level,
    kept_by
ORDER BY
    model_id,
    stack_rank(stack),
    stack,
    list_position(['removed', 'zero', 'heavy', 'medium', 'light', 'untouched', 'grown'], kept_level) NULLS LAST;
