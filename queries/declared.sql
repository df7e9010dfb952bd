-- The shares that a model's name, its config (sparsity_config) and the pruner's own notes (description.txt of LLM-Pruner)
-- state, beside the measured ones. A share agrees if it is within 0.02 of any measured one: of the whole model, of its layers,
-- of the layers that were cut, of zeros among all or among prunable weights.
WITH stated_texts AS (
    SELECT
        models.model_id,
        coalesce(
            json_extract_string(current_checkpoints.declared, '/config/quantization_config/sparsity_config/global_sparsity'),
            json_extract_string(
                current_checkpoints.declared,
                '/config/text_config/quantization_config/sparsity_config/global_sparsity'
            )
        ) AS config_text,
        json_extract_string(current_checkpoints.declared, '/metadata/description/pruning_ratio') AS noted_text
    FROM models
    JOIN current_checkpoints ON current_checkpoints.model_id = models.model_id
),
shares_side_by_side AS (
    SELECT
        models.model_id,
        models.method,
        models.declared_ratio,
        stated_share(stated_texts.config_text) AS config_sparsity,
        stated_share(stated_texts.noted_text) AS noted_ratio,
        models.declared_removed_layers,
        models.reduction_ratio,
        models.layer_reduction_ratio,
        models.cut_layer_retention,
        models.sparsity,
        models.prunable_sparsity,
        models.num_removed_layers,
        coalesce(models.declared_ratio, config_sparsity, noted_ratio) AS stated_ratio,
        [
            share
            FOR share IN [
                models.reduction_ratio,
                models.layer_reduction_ratio,
                1 - models.cut_layer_retention,
                models.sparsity,
                models.prunable_sparsity
            ]
            IF share IS NOT NULL
        ] AS shares
    FROM stated_texts
    JOIN models ON models.model_id = stated_texts.model_id
)
SELECT
    model_id,
    method,
    declared_ratio,
    config_sparsity,
    noted_ratio,
    declared_removed_layers,
    reduction_ratio,
    layer_reduction_ratio,
    cut_layer_retention,
    sparsity,
    prunable_sparsity,
    num_removed_layers,
    CASE
        WHEN declared_removed_layers <> num_removed_layers THEN 'other number of layers'
        WHEN declared_removed_layers IS NOT NULL AND num_removed_layers IS NULL THEN 'not known: no base'
        WHEN stated_ratio IS NULL AND declared_removed_layers = num_removed_layers THEN 'agrees'
        WHEN stated_ratio IS NULL THEN NULL
        WHEN len(shares) = 0 THEN 'not known: nothing was measured'
        WHEN len([share FOR share IN shares IF abs(share - stated_ratio) <= 0.02]) > 0 THEN 'agrees'
        WHEN reduction_ratio IS NULL THEN 'not known: no base'
        WHEN stated_ratio > 0 AND list_max(shares) <= 0 THEN 'nothing is gone'
        WHEN list_max(shares) < stated_ratio THEN 'less is gone'
        ELSE 'other shares'
    END AS finding
FROM shares_side_by_side
WHERE stated_ratio IS NOT NULL OR declared_removed_layers IS NOT NULL
ORDER BY model_id;
