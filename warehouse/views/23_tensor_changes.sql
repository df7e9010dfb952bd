-- One row for each tensor of a model that was compared with a base, and each tensor of the base that it lacks: what became of
-- it, and what is left of it in all four measures.
CREATE OR REPLACE VIEW tensor_changes AS
WITH matched_tensors AS (
    SELECT
        current_checkpoints.model_id,
        coalesce(own.stack, bases.stack) AS stack,
        bases.layer_index AS base_layer_index,
        own.layer_index,
        tensor_matches.name,
        tensor_matches.base_name,
        tensor_matches.relation,
        own.dtype,
        bases.dtype AS base_dtype,
        CASE WHEN tensor_matches.relation = 'removed' THEN 0 ELSE own.params END AS params,
        bases.params AS base_params,
        CASE WHEN tensor_matches.relation = 'removed' THEN 0 ELSE nonzero_of(own.params, own.zeros) END AS nonzero_params,
        nonzero_of(bases.params, bases.zeros) AS base_nonzero_params,
        CASE WHEN tensor_matches.relation = 'removed' THEN 0 ELSE own.logical_bytes END AS logical_bytes,
        bases.logical_bytes AS base_logical_bytes,
        CASE
            WHEN tensor_matches.relation = 'removed' THEN 0
            ELSE tensor_macs(own.module, own.role, own.part, own.params, own.is_active)
        END AS macs_per_token,
        tensor_macs(bases.module, bases.role, bases.part, bases.params, bases.is_active) AS base_macs_per_token
    FROM current_checkpoints
    JOIN tensor_matches
        ON tensor_matches.checkpoint_id = current_checkpoints.checkpoint_id
        AND tensor_matches.base_checkpoint_id = current_checkpoints.base_checkpoint_id
    LEFT JOIN tensors AS own
        ON own.checkpoint_id = tensor_matches.checkpoint_id
        AND own.name = tensor_matches.name
    LEFT JOIN tensors AS bases
        ON bases.checkpoint_id = tensor_matches.base_checkpoint_id
        AND bases.name = tensor_matches.base_name
    WHERE current_checkpoints.base_checkpoint_id <> current_checkpoints.checkpoint_id
)
SELECT
    matched_tensors.*,
    params / nullif(base_params, 0) AS params_retention,
    nonzero_params / nullif(base_nonzero_params, 0) AS nonzero_retention,
    logical_bytes / nullif(base_logical_bytes, 0) AS bytes_retention,
    macs_per_token / nullif(base_macs_per_token, 0) AS macs_retention
FROM matched_tensors;
