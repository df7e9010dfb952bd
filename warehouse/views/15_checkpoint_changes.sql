-- One row a checkpoint and its base: the number of tensors by relation, and what they amount to. verdicts is a list of words,
-- in this order: identical, blocks_removed, blocks_repeated, blocks_reordered, sliced, grown, factorised, quantised, masked,
-- refilled, tuned, reshaped, left_out, added, relaid, cast, unknown. verdict is the same as text, with numbers. Of a tensor
-- with other values, at least 1 % of the values that differ have to be new zeros, or filled ones, to count as masked or
-- refilled.
CREATE OR REPLACE VIEW checkpoint_changes AS
WITH stack_changes AS MATERIALIZED (
    SELECT
        *,
        count(*) OVER (PARTITION BY checkpoint_id, base_checkpoint_id) AS n_stacks
    FROM block_changes
),
pair_changes AS (
    SELECT
        checkpoint_id,
        base_checkpoint_id,
        bool_or(len(removed_blocks) > 0) AS has_removed_blocks,
        string_agg(
            concat(
                CASE WHEN n_stacks > 1 THEN concat(stack, ' ') END,
                CASE WHEN len(removed_blocks) = 1 THEN 'block removed: ' ELSE 'blocks removed: ' END,
                block_list(removed_blocks)
            ),
            '; '
            ORDER BY stack_rank(stack), stack
        ) FILTER (WHERE len(removed_blocks) > 0) AS removal_texts,
        string_agg(
            concat(CASE WHEN n_stacks > 1 THEN concat(stack, ' ') END, repeats),
            '; '
            ORDER BY stack_rank(stack), stack
        ) FILTER (WHERE repeats IS NOT NULL) AS repeats,
        string_agg(
            concat(
                CASE WHEN n_stacks > 1 THEN concat(stack, ' ') END,
                'blocks reordered: ',
                block_list(moved_blocks),
                ' for ',
                block_list(block_order)
            ),
            '; '
            ORDER BY stack_rank(stack), stack
        ) FILTER (WHERE len(moved_blocks) > 0) AS moves
    FROM stack_changes
    GROUP BY checkpoint_id, base_checkpoint_id
),
left_outs AS (
    SELECT
        tensor_matches.checkpoint_id,
        tensor_matches.base_checkpoint_id,
        count(*) AS n_left_out,
        list(tensor_matches.base_name ORDER BY tensor_matches.base_name)[:3] AS left_out_names
    FROM tensor_matches
    LEFT JOIN stack_changes
        ON stack_changes.checkpoint_id = tensor_matches.checkpoint_id
        AND stack_changes.base_checkpoint_id = tensor_matches.base_checkpoint_id
        AND stack_changes.stack = tensor_matches.stack
    LEFT JOIN pair_changes
        ON pair_changes.checkpoint_id = tensor_matches.checkpoint_id
        AND pair_changes.base_checkpoint_id = tensor_matches.base_checkpoint_id
    WHERE
        tensor_matches.relation = 'removed'
        AND NOT coalesce(
            list_contains(stack_changes.removed_blocks, tensor_matches.base_layer_index),
            tensor_matches.rules_version IS NULL AND pair_changes.has_removed_blocks,
            FALSE
        )
    GROUP BY tensor_matches.checkpoint_id, tensor_matches.base_checkpoint_id
),
unknowns AS (
    SELECT
        checkpoint_id,
        base_checkpoint_id,
        string_agg(DISTINCT reason, '; ' ORDER BY reason) AS reasons
    FROM tensor_matches
    WHERE relation IS NULL
    GROUP BY checkpoint_id, base_checkpoint_id
),
related AS (
    SELECT
        *,
        relation = 'masked'
        OR (relation IN ('changed', 'grown') AND zeroed >= 0.01 * changed AND zeroed > 0) AS is_masked,
        relation = 'refilled'
        OR (relation IN ('changed', 'grown') AND filled >= 0.01 * changed AND filled > 0) AS is_refilled,
        CASE
            WHEN relation = 'changed' THEN changed IS NOT NULL
            WHEN relation = 'grown' THEN altered > 0
            ELSE FALSE
        END AS is_tuned
    FROM tensor_matches
),
earlier_additions AS (
    SELECT
        tensor_matches.checkpoint_id,
        tensor_matches.base_checkpoint_id,
        CAST(sum(tensors.params) AS BIGINT) AS added_params
    FROM tensor_matches
    JOIN tensors
        ON tensors.checkpoint_id = tensor_matches.checkpoint_id
        AND tensors.name = tensor_matches.name
    WHERE tensor_matches.relation = 'added' AND tensor_matches.rules_version IS NULL
    GROUP BY tensor_matches.checkpoint_id, tensor_matches.base_checkpoint_id
),
relation_counts AS (
    SELECT
        checkpoint_id,
        base_checkpoint_id,
        count(*) AS n_tensors,
        count(*) FILTER (WHERE relation = 'identical') AS n_identical,
        count(*) FILTER (WHERE relation = 'cast') AS n_cast,
        count(*) FILTER (WHERE relation = 'masked') AS n_masked,
        count(*) FILTER (WHERE relation = 'refilled') AS n_refilled,
        count(*) FILTER (WHERE relation = 'changed') AS n_changed,
        count(*) FILTER (WHERE relation = 'sliced') AS n_sliced,
        count(*) FILTER (WHERE relation = 'grown') AS n_grown,
        count(*) FILTER (WHERE relation = 'factorised') AS n_factorised,
        count(*) FILTER (WHERE relation = 'quantised') AS n_quantised,
        count(*) FILTER (WHERE relation = 'added') AS n_added,
        count(*) FILTER (WHERE relation = 'removed') AS n_removed,
        count(*) FILTER (WHERE relation IS NULL) AS n_unknown,
        CAST(sum(changed) AS BIGINT) AS changed_values,
        CAST(sum(zeroed) AS BIGINT) AS zeroed_values,
        CAST(sum(filled) AS BIGINT) AS filled_values,
        CAST(sum(added_params) FILTER (WHERE relation = 'added') AS BIGINT) AS known_added_params,
        count(added_params) FILTER (WHERE relation = 'added') AS n_counted_added,
        max(relative_difference) AS relative_difference_max,
        min(cosine) AS cosine_min,
        count(*) FILTER (WHERE is_masked) AS n_with_new_zeros,
        CAST(sum(coalesce(zeroed, changed)) FILTER (WHERE is_masked) AS BIGINT) AS new_zeros,
        CASE
            WHEN min(nm_pattern) = max(nm_pattern) AND count(nm_pattern) = count(*) FILTER (WHERE relation = 'masked')
                THEN min(nm_pattern)
        END AS nm_pattern,
        count(*) FILTER (WHERE is_refilled) AS n_with_filled_zeros,
        CAST(sum(coalesce(filled, changed)) FILTER (WHERE is_refilled) AS BIGINT) AS filled_zeros,
        count(*) FILTER (WHERE is_tuned) AS n_tuned,
        count(*) FILTER (WHERE relation = 'changed' AND changed IS NULL) AS n_reshaped,
        CAST(sum(added_params) FILTER (WHERE relation = 'grown') AS BIGINT) AS grown_params,
        count(added_params) FILTER (WHERE relation = 'grown') = count(*) FILTER (WHERE relation = 'grown') AS is_growth_known,
        min(rank) AS rank_min,
        max(rank) AS rank_max,
        count(*) FILTER (WHERE is_relaid AND relation IS NOT NULL) AS n_relaid
    FROM related
    GROUP BY checkpoint_id, base_checkpoint_id
),
parts AS (
    SELECT
        relation_counts.*,
        CASE
            WHEN n_added = 0 THEN 0
            WHEN n_counted_added = n_added THEN known_added_params
            ELSE earlier_additions.added_params
        END AS added_params,
        CASE
            WHEN n_tensors = n_identical AND coalesce(removal_texts, repeats, moves) IS NULL
                THEN [{
                        'word': 'identical',
                        'text': concat('identical to the base', CASE WHEN n_relaid > 0 THEN ', in another layout' END)
                    }]
            ELSE
                [
                    part FOR part IN [
                        { 'word': 'blocks_removed', 'text': removal_texts },
                        { 'word': 'blocks_repeated', 'text': repeats },
                        { 'word': 'blocks_reordered', 'text': moves },
                        {
                            'word': 'sliced',
                            'text': CASE WHEN n_sliced > 0 THEN concat('sliced: ', counted(n_sliced, 'tensor')) END
                        },
                        {
                            'word': 'grown',
                            'text': CASE
                                WHEN n_grown > 0
                                    THEN concat(
                                            'grown: ',
                                            counted(n_grown, 'tensor'),
                                            CASE
                                                WHEN is_growth_known THEN concat(' by ', counted(grown_params, 'parameter'))
                                            END
                                        )
                            END
                        },
                        {
                            'word': 'factorised',
                            'text': CASE
                                WHEN n_factorised > 0
                                    THEN concat(
                                            'factorised: ',
                                            counted(n_factorised, 'factor'),
                                            ' of rank ',
                                            rank_min,
                                            CASE WHEN rank_max > rank_min THEN concat(' to ', rank_max) END
                                        )
                            END
                        },
                        {
                            'word': 'quantised',
                            'text': CASE
                                WHEN n_quantised > 0 THEN concat('quantised: ', counted(n_quantised, 'tensor'))
                            END
                        },
                        {
                            'word': 'masked',
                            'text': CASE
                                WHEN n_with_new_zeros > 0
                                    THEN concat(
                                            'masked: ',
                                            counted(new_zeros, 'value'),
                                            ' set to zero in ',
                                            counted(n_with_new_zeros, 'tensor'),
                                            CASE WHEN contains(nm_pattern, ':') THEN concat(', ', nm_pattern) END
                                        )
                            END
                        },
                        {
                            'word': 'refilled',
                            'text': CASE
                                WHEN n_with_filled_zeros > 0
                                    THEN concat(
                                            'refilled: ',
                                            counted(filled_zeros, 'zero'),
                                            ' of the base filled in ',
                                            counted(n_with_filled_zeros, 'tensor')
                                        )
                            END
                        },
                        {
                            'word': 'tuned',
                            'text': CASE
                                WHEN n_tuned > 0 THEN concat('tuned: other values in ', counted(n_tuned, 'tensor'))
                            END
                        },
                        {
                            'word': 'reshaped',
                            'text': CASE
                                WHEN n_reshaped > 0 THEN concat('reshaped: ', counted(n_reshaped, 'tensor'))
                            END
                        },
                        {
                            'word': 'left_out',
                            'text': CASE
                                WHEN n_left_out > 0
                                    THEN concat(
                                            'left out: ',
                                            array_to_string(left_out_names, ', '),
                                            CASE WHEN n_left_out > 3 THEN concat(' and ', n_left_out - 3, ' more') END
                                        )
                            END
                        },
                        {
                            'word': 'added',
                            'text': CASE
                                WHEN n_added > 0
                                    THEN concat(
                                            'added: ',
                                            counted(n_added, 'tensor'),
                                            CASE
                                                WHEN n_counted_added = n_added
                                                    THEN concat(', ', counted(known_added_params, 'parameter'))
                                            END
                                        )
                            END
                        },
                        {
                            'word': 'relaid',
                            'text': CASE
                                WHEN n_relaid > 0 THEN concat('in another layout: ', counted(n_relaid, 'tensor'))
                            END
                        },
                        {
                            'word': 'cast',
                            'text': CASE
                                WHEN n_cast > 0
                                    THEN concat(
                                            'cast to another type, values within rounding',
                                            CASE
                                                WHEN n_identical + n_cast < n_tensors
                                                    THEN concat(': ', counted(n_cast, 'tensor'))
                                            END
                                        )
                            END
                        },
                        {
                            'word': 'unknown',
                            'text': CASE
                                WHEN n_unknown > 0
                                    THEN concat(
                                            'unknown: ',
                                            counted(n_unknown, 'tensor'),
                                            concat(' (' || reasons, CASE WHEN reasons IS NOT NULL THEN ')' END)
                                        )
                            END
                        }
                    ] IF part.text IS NOT NULL
                ]
        END AS verdict_parts
    FROM relation_counts
    LEFT JOIN pair_changes USING (checkpoint_id, base_checkpoint_id)
    LEFT JOIN earlier_additions USING (checkpoint_id, base_checkpoint_id)
    LEFT JOIN left_outs USING (checkpoint_id, base_checkpoint_id)
    LEFT JOIN unknowns USING (checkpoint_id, base_checkpoint_id)
)
SELECT
    checkpoint_id,
    base_checkpoint_id,
    n_tensors,
    n_identical,
    n_cast,
    n_masked,
    n_refilled,
    n_changed,
    n_sliced,
    n_grown,
    n_factorised,
    n_quantised,
    n_added,
    n_removed,
    n_unknown,
    changed_values,
    zeroed_values,
    filled_values,
    added_params,
    relative_difference_max,
    cosine_min,
    [part.word FOR part IN verdict_parts] AS verdicts,
    array_to_string([part.text FOR part IN verdict_parts], '; ') AS verdict
FROM parts;
