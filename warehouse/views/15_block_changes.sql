-- One row for each stack of a checkpoint and its base: which blocks of the base were removed, repeated or moved, by what is
-- known of its layers. moved_blocks are those whose first layers stand in another order than the blocks, in that order;
-- block_order are the same blocks in the base's order.
CREATE OR REPLACE VIEW block_changes AS
WITH block_uses AS MATERIALIZED (
    SELECT
        checkpoint_id,
        base_checkpoint_id,
        stack,
        base_layer_index,
        count(layer_index) AS n_uses,
        min(layer_index) AS first_layer
    FROM layer_matches
    WHERE checkpoint_id <> base_checkpoint_id AND match <> 'none' AND base_layer_index IS NOT NULL
    GROUP BY checkpoint_id, base_checkpoint_id, stack, base_layer_index
),
ranked_blocks AS (
    SELECT
        *,
        row_number() OVER (
            PARTITION BY checkpoint_id, base_checkpoint_id, stack, n_uses > 0
            ORDER BY first_layer
        ) AS place,
        row_number() OVER (
            PARTITION BY checkpoint_id, base_checkpoint_id, stack, n_uses > 0
            ORDER BY base_layer_index
        ) AS base_place
    FROM block_uses
),
repeats AS (
    SELECT
        checkpoint_id,
        base_checkpoint_id,
        stack,
        n_uses,
        list(base_layer_index ORDER BY base_layer_index) AS blocks
    FROM block_uses
    WHERE n_uses > 1
    GROUP BY checkpoint_id, base_checkpoint_id, stack, n_uses
),
repeat_texts AS (
    SELECT
        checkpoint_id,
        base_checkpoint_id,
        stack,
        string_agg(
            concat(
                CASE WHEN len(blocks) = 1 THEN 'block ' ELSE 'blocks ' END,
                block_list(blocks),
                CASE WHEN n_uses = 2 THEN ' twice' ELSE concat(' ', n_uses, ' times') END
            ),
            ', '
            ORDER BY n_uses
        ) AS repeats
    FROM repeats
    GROUP BY checkpoint_id, base_checkpoint_id, stack
)
SELECT
    ranked_blocks.checkpoint_id,
    ranked_blocks.base_checkpoint_id,
    ranked_blocks.stack,
    CAST(
        coalesce(
            list(ranked_blocks.base_layer_index ORDER BY ranked_blocks.base_layer_index)
            FILTER (WHERE ranked_blocks.n_uses = 0),
            []
        ) AS INTEGER[]
    ) AS removed_blocks,
    CAST(
        coalesce(
            list(ranked_blocks.base_layer_index ORDER BY ranked_blocks.base_layer_index)
            FILTER (WHERE ranked_blocks.n_uses > 1),
            []
        ) AS INTEGER[]
    ) AS repeated_blocks,
    CAST(
        coalesce(
            list(ranked_blocks.base_layer_index ORDER BY ranked_blocks.place)
            FILTER (WHERE ranked_blocks.n_uses > 0 AND ranked_blocks.place <> ranked_blocks.base_place),
            []
        ) AS INTEGER[]
    ) AS moved_blocks,
    CAST(
        coalesce(
            list(ranked_blocks.base_layer_index ORDER BY ranked_blocks.base_layer_index)
            FILTER (WHERE ranked_blocks.n_uses > 0 AND ranked_blocks.place <> ranked_blocks.base_place),
            []
        ) AS INTEGER[]
    ) AS block_order,
    any_value(repeat_texts.repeats) AS repeats
FROM ranked_blocks
LEFT JOIN repeat_texts
    ON repeat_texts.checkpoint_id = ranked_blocks.checkpoint_id
    AND repeat_texts.base_checkpoint_id = ranked_blocks.base_checkpoint_id
    AND repeat_texts.stack = ranked_blocks.stack
GROUP BY ranked_blocks.checkpoint_id, ranked_blocks.base_checkpoint_id, ranked_blocks.stack;
