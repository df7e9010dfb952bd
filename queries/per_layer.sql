-- One row for every layer of a model and every removed block of its base, in the order of the base.
SELECT
    model_id,
    base_layer_index,
    layer_index,
    match,
    params,
    base_params,
    reduction_ratio,
    attention_params,
    base_attention_params,
    attention_reduction_ratio,
    mlp_params,
    base_mlp_params,
    mlp_reduction_ratio,
    num_heads,
    num_kv_heads,
    intermediate_size,
    sparsity,
    is_zero_layer,
    level
FROM layer_pruning
ORDER BY
    model_id,
    stack,
    coalesce(base_layer_index, layer_index) NULLS LAST,
    layer_index NULLS LAST;
