-- One row for every layer of a checkpoint and every removed block of the base that it is compared with, whichever models have
-- it. Where nothing says which blocks were removed, layers have no base block and removed blocks no index. Their sizes are
-- still known if all blocks of the base are alike and the layers to place are not more than the blocks.
CREATE OR REPLACE VIEW pair_layers AS
WITH pairs AS MATERIALIZED (
    SELECT
        checkpoint_id,
        base_checkpoint_id
    FROM checkpoint_facts
),
layer_sizes AS MATERIALIZED (
    SELECT * EXCLUDE (norm_params, other_params, role_params, attention_type, mlp_type, commit_id, ingested_at) FROM layers
),
compared_layers AS MATERIALIZED (
    SELECT
        layer_matches.checkpoint_id,
        layer_matches.base_checkpoint_id,
        layer_matches.stack,
        layer_matches.base_layer_index,
        layer_matches.layer_index,
        layer_matches.match,
        layer_matches.match_confidence
    FROM pairs
    JOIN layer_matches
        ON layer_matches.checkpoint_id = pairs.checkpoint_id
        AND layer_matches.base_checkpoint_id = pairs.base_checkpoint_id
    WHERE pairs.base_checkpoint_id <> pairs.checkpoint_id
),
unknown_maps AS MATERIALIZED (
    SELECT
        checkpoint_id,
        base_checkpoint_id,
        stack,
        count(base_layer_index) - count(layer_index) AS num_removed
    FROM compared_layers
    WHERE match = 'none'
    GROUP BY ALL
    HAVING count(base_layer_index) >= count(layer_index)
),
uniform_bases AS (
    SELECT
        checkpoint_id,
        stack,
        min(params) AS params,
        min(attention_params) AS attention_params,
        min(mlp_params) AS mlp_params
    FROM layer_sizes
    GROUP BY checkpoint_id, stack
    HAVING
        count(params) = count(*)
        AND min(params) = max(params)
        AND count(attention_params) = count(*)
        AND min(attention_params) = max(attention_params)
        AND count(mlp_params) = count(*)
        AND min(mlp_params) = max(mlp_params)
),
uniform_blocks AS (
    SELECT
        unknown_maps.checkpoint_id,
        unknown_maps.stack,
        uniform_bases.params,
        uniform_bases.attention_params,
        uniform_bases.mlp_params
    FROM unknown_maps
    JOIN uniform_bases
        ON uniform_bases.checkpoint_id = unknown_maps.base_checkpoint_id
        AND uniform_bases.stack = unknown_maps.stack
),
placed_layers AS (
    SELECT *
    FROM compared_layers
    WHERE layer_index IS NOT NULL OR match <> 'none'
    UNION ALL BY NAME
    SELECT
        pairs.checkpoint_id,
        pairs.base_checkpoint_id,
        layer_sizes.stack,
        CASE WHEN pairs.base_checkpoint_id IS NOT NULL THEN layer_sizes.layer_index END AS base_layer_index,
        layer_sizes.layer_index,
        CASE WHEN pairs.base_checkpoint_id IS NOT NULL THEN 'exact' END AS match
    FROM pairs
    JOIN layer_sizes ON layer_sizes.checkpoint_id = pairs.checkpoint_id
    WHERE coalesce(pairs.base_checkpoint_id = pairs.checkpoint_id, TRUE)
    UNION ALL BY NAME
    SELECT
        unknown_maps.checkpoint_id,
        unknown_maps.base_checkpoint_id,
        unknown_maps.stack,
        'none' AS match
    FROM unknown_maps
    CROSS JOIN unnest(range(unknown_maps.num_removed)) AS removed_blocks
),
sized_layers AS (
    SELECT
        placed_layers.*,
        placed_layers.layer_index IS NULL AS is_removed,
        CASE WHEN placed_layers.layer_index IS NULL THEN 0 ELSE layers.params END AS params,
        CASE WHEN placed_layers.layer_index IS NULL THEN 0 ELSE layers.attention_params END AS attention_params,
        CASE WHEN placed_layers.layer_index IS NULL THEN 0 ELSE layers.mlp_params END AS mlp_params,
        layers.zeros,
        CASE WHEN placed_layers.layer_index IS NULL THEN 0 ELSE layers.params - layers.zeros END AS nonzero_params,
        CASE
            WHEN placed_layers.layer_index IS NULL THEN 0
            WHEN layers.zeros = 0 THEN layers.attention_params
            ELSE layers.attention_params - layers.attention_zeros
        END AS attention_nonzero_params,
        CASE
            WHEN placed_layers.layer_index IS NULL THEN 0
            WHEN layers.zeros = 0 THEN layers.mlp_params
            ELSE layers.mlp_params - layers.mlp_zeros
        END AS mlp_nonzero_params,
        CASE WHEN placed_layers.layer_index IS NULL THEN 0 ELSE layers.logical_bytes END AS logical_bytes,
        CASE WHEN placed_layers.layer_index IS NULL THEN 0 ELSE layers.macs_per_token END AS macs_per_token,
        layers.num_heads,
        layers.num_kv_heads,
        layers.head_dim,
        layers.intermediate_size,
        layers.num_experts,
        layers.hidden_size,
        layers.is_zero_layer,
        layers.inactive_part,
        CASE WHEN placed_layers.base_layer_index IS NULL THEN uniform_blocks.params ELSE base_layers.params END AS base_params,
        CASE
            WHEN placed_layers.base_layer_index IS NULL THEN uniform_blocks.attention_params
            ELSE base_layers.attention_params
        END AS base_attention_params,
        CASE
            WHEN placed_layers.base_layer_index IS NULL THEN uniform_blocks.mlp_params
            ELSE base_layers.mlp_params
        END AS base_mlp_params,
        base_layers.params - base_layers.zeros AS base_nonzero_params,
        CASE
            WHEN base_layers.zeros = 0 THEN base_layers.attention_params
            ELSE base_layers.attention_params - base_layers.attention_zeros
        END AS base_attention_nonzero_params,
        CASE
            WHEN base_layers.zeros = 0 THEN base_layers.mlp_params
            ELSE base_layers.mlp_params - base_layers.mlp_zeros
        END AS base_mlp_nonzero_params,
        base_layers.is_zero_layer AS is_zero_block,
        base_layers.inactive_part AS base_inactive_part,
        base_layers.logical_bytes AS base_logical_bytes,
        base_layers.macs_per_token AS base_macs_per_token,
        base_layers.num_heads AS base_num_heads,
        base_layers.num_kv_heads AS base_num_kv_heads,
        base_layers.intermediate_size AS base_intermediate_size,
        base_layers.hidden_size AS base_hidden_size
    FROM placed_layers
    LEFT JOIN layer_sizes AS layers
        ON layers.checkpoint_id = placed_layers.checkpoint_id
        AND layers.stack = placed_layers.stack
        AND layers.layer_index = placed_layers.layer_index
    LEFT JOIN layer_sizes AS base_layers
        ON base_layers.checkpoint_id = placed_layers.base_checkpoint_id
        AND base_layers.stack = placed_layers.stack
        AND base_layers.layer_index = placed_layers.base_layer_index
    LEFT JOIN uniform_blocks
        ON uniform_blocks.checkpoint_id = placed_layers.checkpoint_id
        AND uniform_blocks.stack = placed_layers.stack
        AND placed_layers.match = 'none'
)
SELECT
    checkpoint_id,
    base_checkpoint_id,
    stack,
    base_layer_index,
    layer_index,
    match,
    match_confidence,
    params,
    base_params,
    CASE WHEN is_removed THEN 1 ELSE reduction(base_params, params) END AS reduction_ratio,
    CASE WHEN is_removed THEN 0 ELSE params / nullif(base_params, 0) END AS retention,
    attention_params,
    base_attention_params,
    reduction(base_attention_params, attention_params) AS attention_reduction_ratio,
    mlp_params,
    base_mlp_params,
    reduction(base_mlp_params, mlp_params) AS mlp_reduction_ratio,
    num_heads,
    base_num_heads,
    num_kv_heads,
    base_num_kv_heads,
    head_dim,
    intermediate_size,
    base_intermediate_size,
    num_experts,
    hidden_size,
    base_hidden_size,
    zeros,
    zeros / nullif(params, 0) AS sparsity,
    is_zero_layer,
    is_removed,
    layer_level(is_removed, is_zero_layer, reduction(base_params, params)) AS level,
    nonzero_params,
    base_nonzero_params,
    CASE WHEN is_removed THEN 0 ELSE nonzero_params / nullif(base_nonzero_params, 0) END AS nonzero_retention,
    layer_level(is_removed, is_zero_layer, reduction(base_nonzero_params, nonzero_params)) AS nonzero_level,
    macs_per_token,
    base_macs_per_token,
    CASE WHEN is_removed THEN 0 ELSE macs_per_token / nullif(base_macs_per_token, 0) END AS macs_retention,
    logical_bytes,
    base_logical_bytes,
    CASE WHEN is_removed THEN 0 ELSE logical_bytes / nullif(base_logical_bytes, 0) END AS bytes_retention,
    attention_nonzero_params,
    base_attention_nonzero_params,
    mlp_nonzero_params,
    base_mlp_nonzero_params,
    gone_part(
        is_removed,
        is_dead_block(is_zero_layer, inactive_part),
        is_dead_block(is_zero_block, base_inactive_part),
        is_dead_part(attention_params, attention_nonzero_params, inactive_part, 'attention')
        AND NOT is_dead_part(base_attention_params, base_attention_nonzero_params, base_inactive_part, 'attention'),
        is_dead_part(mlp_params, mlp_nonzero_params, inactive_part, 'mlp')
        AND NOT is_dead_part(base_mlp_params, base_mlp_nonzero_params, base_inactive_part, 'mlp')
    ) AS gone
FROM sized_layers;
