-- The layers of each model and stack that stand out: removed, zero, heavy (over 80 % gone) and light (under 20 % gone).
-- base_layers are blocks of the base; null where no file says which they are, or without a base.
SELECT
    model_id,
    stack,
    level,
    count(*) AS n_layers,
    CASE
        WHEN count(base_layer_index) = count(*)
            THEN CAST(list(base_layer_index ORDER BY base_layer_index) AS INTEGER[])
    END AS base_layers,
    min(reduction_ratio) AS reduction_ratio_min,
    max(reduction_ratio) AS reduction_ratio_max
FROM layer_pruning
WHERE level IN ('removed', 'zero', 'heavy', 'light')
GROUP BY model_id, stack, level
ORDER BY
    model_id,
    stack_rank(stack),
    stack,
    list_position(['removed', 'zero', 'heavy', 'light'], level);
