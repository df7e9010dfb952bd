-- One row for each model with layers: its family, its sizes and what a token costs. A size that differs between layers is null,
-- with the least and greatest beside it; all three are null if any layer's size is not known. Text tables show
-- `varies 803-14336`. Sizes of experts are those of layers that have some; dense_layers are the others of a model with experts.
WITH main_layers AS (
    SELECT
        current_checkpoints.model_id,
        layers.stack,
        layers.layer_index,
        layers.hidden_size,
        layers.num_heads,
        layers.num_kv_heads,
        layers.head_dim,
        layers.intermediate_size,
        layers.num_experts,
        layers.has_experts
    FROM current_checkpoints
    JOIN layers ON layers.checkpoint_id = current_checkpoints.checkpoint_id
    QUALIFY stack_rank(layers.stack) = min(stack_rank(layers.stack)) OVER (PARTITION BY current_checkpoints.model_id)
),
sizes AS (
    SELECT
        model_id,
        min(stack) AS stack,
        CASE WHEN count(hidden_size) = count(*) THEN [min(hidden_size), max(hidden_size)] END AS hidden_size,
        CASE WHEN count(num_heads) = count(*) THEN [min(num_heads), max(num_heads)] END AS num_heads,
        CASE WHEN count(num_kv_heads) = count(*) THEN [min(num_kv_heads), max(num_kv_heads)] END AS num_kv_heads,
        CASE WHEN count(head_dim) = count(*) THEN [min(head_dim), max(head_dim)] END AS head_dim,
        CASE
            WHEN count(intermediate_size) = count(*) THEN [min(intermediate_size), max(intermediate_size)]
        END AS intermediate_size,
        CASE
            WHEN count(*) FILTER (WHERE num_experts IS NOT NULL OR NOT has_experts) = count(*) AND count(num_experts) > 0
                THEN [min(num_experts), max(num_experts)]
        END AS num_experts,
        CASE
            WHEN count(has_experts) = count(*) AND bool_or(has_experts)
                THEN CAST(
                        coalesce(list(layer_index ORDER BY layer_index) FILTER (WHERE NOT has_experts), []) AS INTEGER[]
                    )
        END AS dense_layers
    FROM main_layers
    GROUP BY model_id
)
SELECT
    sizes.model_id,
    models.family,
    sizes.stack,
    models.num_layers,
    uniform(sizes.hidden_size) AS hidden_size,
    sizes.hidden_size[1] AS hidden_size_min,
    sizes.hidden_size[2] AS hidden_size_max,
    uniform(sizes.num_heads) AS num_heads,
    sizes.num_heads[1] AS num_heads_min,
    sizes.num_heads[2] AS num_heads_max,
    uniform(sizes.num_kv_heads) AS num_kv_heads,
    sizes.num_kv_heads[1] AS num_kv_heads_min,
    sizes.num_kv_heads[2] AS num_kv_heads_max,
    uniform(sizes.head_dim) AS head_dim,
    sizes.head_dim[1] AS head_dim_min,
    sizes.head_dim[2] AS head_dim_max,
    uniform(sizes.intermediate_size) AS intermediate_size,
    sizes.intermediate_size[1] AS intermediate_size_min,
    sizes.intermediate_size[2] AS intermediate_size_max,
    uniform(sizes.num_experts) AS num_experts,
    sizes.num_experts[1] AS num_experts_min,
    sizes.num_experts[2] AS num_experts_max,
    sizes.dense_layers,
    models.params,
    models.macs_per_token,
    models.kv_cache_bytes_per_token
FROM sizes
JOIN models ON models.model_id = sizes.model_id
ORDER BY sizes.model_id;
