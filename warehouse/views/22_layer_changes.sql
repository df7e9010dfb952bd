-- One row for each layer of a model that was compared with a base: what happened to its block besides cuts, as words. A layer
-- is duplicated if another one is the same block, reordered if a block that is there once stands on the other side of it than
-- in the base, and quantised if a tensor has fewer bits than 16 and than the base's. The other words are relations of its
-- tensors; removed says that it lacks tensors which the block has.
CREATE OR REPLACE VIEW layer_changes AS
WITH matched_layers AS (
    SELECT
        current_checkpoints.model_id,
        current_checkpoints.checkpoint_id,
        current_checkpoints.base_checkpoint_id,
        layer_matches.stack,
        layer_matches.layer_index,
        layer_matches.base_layer_index,
        CASE
            WHEN layer_matches.base_layer_index IS NOT NULL
                THEN count(*) OVER (
                        PARTITION BY current_checkpoints.model_id, layer_matches.stack, layer_matches.base_layer_index
                    )
        END AS num_copies
    FROM current_checkpoints
    JOIN layer_matches
        ON layer_matches.checkpoint_id = current_checkpoints.checkpoint_id
        AND layer_matches.base_checkpoint_id = current_checkpoints.base_checkpoint_id
    WHERE
        current_checkpoints.base_checkpoint_id <> current_checkpoints.checkpoint_id
        AND layer_matches.layer_index IS NOT NULL
),
ordered_layers AS (
    SELECT
        matched_layers.*,
        max(CASE WHEN num_copies = 1 THEN base_layer_index END) OVER (
            PARTITION BY model_id, stack
            ORDER BY layer_index
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS greatest_before,
        min(CASE WHEN num_copies = 1 THEN base_layer_index END) OVER (
            PARTITION BY model_id, stack
            ORDER BY layer_index
            ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING
        ) AS least_after
    FROM matched_layers
),
own_tensors AS (
    SELECT
        tensor_matches.checkpoint_id,
        tensor_matches.base_checkpoint_id,
        tensor_matches.base_name,
        tensor_matches.relation,
        tensors.stack,
        tensors.layer_index,
        8 * tensors.logical_bytes / nullif(tensors.params, 0) AS bits
    FROM tensor_matches
    JOIN tensors
        ON tensors.checkpoint_id = tensor_matches.checkpoint_id
        AND tensors.name = tensor_matches.name
    WHERE tensors.layer_index IS NOT NULL
),
relations AS (
    SELECT
        own_tensors.checkpoint_id,
        own_tensors.base_checkpoint_id,
        own_tensors.stack,
        own_tensors.layer_index,
        count(*) AS n_tensors,
        count(own_tensors.relation) AS n_known,
        list(DISTINCT own_tensors.relation) FILTER (WHERE own_tensors.relation IS NOT NULL) AS words,
        coalesce(
            bool_or(own_tensors.bits < 16 AND own_tensors.bits < 8 * bases.logical_bytes / nullif(bases.params, 0)), FALSE
        ) AS is_quantised
    FROM own_tensors
    LEFT JOIN tensors AS bases
        ON bases.checkpoint_id = own_tensors.base_checkpoint_id
        AND bases.name = own_tensors.base_name
    GROUP BY
        own_tensors.checkpoint_id,
        own_tensors.base_checkpoint_id,
        own_tensors.stack,
        own_tensors.layer_index
),
lost_tensors AS (
    SELECT
        tensor_matches.checkpoint_id,
        tensor_matches.base_checkpoint_id,
        tensors.stack,
        tensors.layer_index AS base_layer_index,
        count(*) AS n_lost
    FROM tensor_matches
    JOIN tensors
        ON tensors.checkpoint_id = tensor_matches.base_checkpoint_id
        AND tensors.name = tensor_matches.base_name
    WHERE tensor_matches.name IS NULL AND tensors.layer_index IS NOT NULL
    GROUP BY
        tensor_matches.checkpoint_id,
        tensor_matches.base_checkpoint_id,
        tensors.stack,
        tensors.layer_index
)
SELECT
    ordered_layers.model_id,
    ordered_layers.stack,
    ordered_layers.base_layer_index,
    ordered_layers.layer_index,
    [
        change
        FOR change IN [
            CASE WHEN ordered_layers.num_copies > 1 THEN 'duplicated' END,
            CASE
                WHEN
                    ordered_layers.num_copies = 1
                    AND (
                        ordered_layers.base_layer_index < ordered_layers.greatest_before
                        OR ordered_layers.base_layer_index > ordered_layers.least_after
                    )
                    THEN 'reordered'
            END,
            CASE WHEN relations.is_quantised THEN 'quantised' END,
            CASE WHEN list_contains(relations.words, 'factorised') THEN 'factorised' END,
            CASE WHEN list_contains(relations.words, 'grown') THEN 'grown' END,
            CASE WHEN list_contains(relations.words, 'sliced') THEN 'sliced' END,
            CASE WHEN list_contains(relations.words, 'masked') THEN 'masked' END,
            CASE WHEN list_contains(relations.words, 'refilled') THEN 'refilled' END,
            CASE WHEN list_contains(relations.words, 'changed') THEN 'changed' END,
            CASE WHEN list_contains(relations.words, 'cast') THEN 'cast' END,
            CASE WHEN list_contains(relations.words, 'added') THEN 'added' END,
            CASE WHEN lost_tensors.n_lost > 0 THEN 'removed' END
        ]
        IF change IS NOT NULL
    ] AS changes,
    coalesce(relations.n_tensors - relations.n_known, 0) AS n_unknown,
    relations.n_tensors > 0 AND relations.n_known = relations.n_tensors AND len(changes) = 0 AS is_unchanged
FROM ordered_layers
LEFT JOIN relations
    ON relations.checkpoint_id = ordered_layers.checkpoint_id
    AND relations.base_checkpoint_id = ordered_layers.base_checkpoint_id
    AND relations.stack = ordered_layers.stack
    AND relations.layer_index = ordered_layers.layer_index
LEFT JOIN lost_tensors
    ON lost_tensors.checkpoint_id = ordered_layers.checkpoint_id
    AND lost_tensors.base_checkpoint_id = ordered_layers.base_checkpoint_id
    AND lost_tensors.stack = ordered_layers.stack
    AND lost_tensors.base_layer_index = ordered_layers.base_layer_index;
