-- Two models of one base, layer by layer: how many of the same heads, KV groups, neurons and experts they kept, and the Jaccard
-- overlap of the two sets. Every pair appears twice, once from each side. Null where the kept units of a model are not all
-- known.
WITH kept_by_model AS (
    SELECT
        model_id,
        base_checkpoint_id,
        stack,
        base_layer_index,
        kind,
        CASE WHEN count(units_kept) = count(*) THEN list_distinct(flatten(list(units_kept))) END AS units_kept
    FROM kept_units
    GROUP BY
        model_id,
        base_checkpoint_id,
        stack,
        base_layer_index,
        kind
),
pairs AS (
    SELECT
        own.model_id,
        others.model_id AS other_model_id,
        own.stack,
        own.base_layer_index,
        own.kind,
        len(own.units_kept) AS num_kept,
        len(others.units_kept) AS other_num_kept,
        CASE
            WHEN own.units_kept IS NOT NULL AND others.units_kept IS NOT NULL
                THEN len(list_intersect(own.units_kept, others.units_kept))
        END AS num_kept_by_both
    FROM kept_by_model AS own
    JOIN kept_by_model AS others
        ON others.base_checkpoint_id = own.base_checkpoint_id
        AND others.stack = own.stack
        AND others.base_layer_index = own.base_layer_index
        AND others.kind = own.kind
        AND others.model_id <> own.model_id
)
SELECT
    model_id,
    other_model_id,
    stack,
    base_layer_index,
    kind,
    num_kept,
    other_num_kept,
    num_kept_by_both,
    num_kept_by_both / nullif(num_kept + other_num_kept - num_kept_by_both, 0) AS jaccard
FROM pairs
ORDER BY
    model_id,
    other_model_id,
    stack,
    base_layer_index,
    kind;
