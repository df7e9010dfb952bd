-- Two models of one base, layer by layer: how many of the same heads, KV groups, neurons and experts they kept, and the Jaccard
-- overlap of the two sets. Each pair is there from either side. Null where a model's kept units are not all known.
WITH kept AS (
    SELECT
        model_id,
        base_checkpoint_id,
        stack,
        base_layer_index,
        kind,
        CASE
            WHEN count(units_kept) = count(*)
                THEN list_distinct(flatten(list(units_kept)))
        END AS units_kept
    FROM kept_units
    GROUP BY
        model_id,
        base_checkpoint_id,
        stack,
        base_layer_index,
        kind
)
SELECT
    ours.model_id,
    others.model_id AS other_model_id,
    ours.stack,
    ours.base_layer_index,
    ours.kind,
    len(ours.units_kept) AS num_kept,
    len(others.units_kept) AS other_num_kept,
    len(list_intersect(ours.units_kept, others.units_kept)) AS num_kept_by_both,
    len(list_intersect(ours.units_kept, others.units_kept)) / nullif(
        len(ours.units_kept) + len(others.units_kept) - len(list_intersect(ours.units_kept, others.units_kept)),
        0
    ) AS jaccard
FROM kept AS ours
JOIN kept AS others
    ON others.base_checkpoint_id = ours.base_checkpoint_id
    AND others.stack = ours.stack
    AND others.base_layer_index = ours.base_layer_index
    AND others.kind = ours.kind
    AND others.model_id <> ours.model_id
ORDER BY
    ours.model_id,
    others.model_id,
    ours.stack,
    ours.base_layer_index,
    ours.kind;
