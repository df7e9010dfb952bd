-- What happened to the tensors of the base, in words and counted by relation. A model of the base's content under another name
-- is identical to it, and its tensors are not counted.
-- changed_values counts the values that differ, over tensors that kept their shape; null where values were not compared.
WITH current_pairs AS (
    SELECT
        model_id,
        checkpoint_id,
        base_checkpoint_id
    FROM current_checkpoints
),
base_names AS (
    SELECT
        checkpoint_id,
        min(model_id) AS base_model_id
    FROM current_pairs
    GROUP BY checkpoint_id
)
SELECT
    current_pairs.model_id,
    base_names.base_model_id,
    CASE
        WHEN current_pairs.checkpoint_id = current_pairs.base_checkpoint_id THEN 'identical to the base'
        ELSE checkpoint_changes.verdict
    END AS verdict,
    checkpoint_changes.n_tensors,
    checkpoint_changes.n_identical,
    checkpoint_changes.n_cast,
    checkpoint_changes.n_masked,
    checkpoint_changes.n_refilled,
    checkpoint_changes.n_changed,
    checkpoint_changes.n_sliced,
    checkpoint_changes.n_grown,
    checkpoint_changes.n_factorised,
    checkpoint_changes.n_quantised,
    checkpoint_changes.n_added,
    checkpoint_changes.added_params,
    checkpoint_changes.n_removed,
    checkpoint_changes.n_unknown,
    checkpoint_changes.changed_values,
    checkpoint_changes.zeroed_values,
    checkpoint_changes.filled_values,
    checkpoint_changes.relative_difference_max,
    checkpoint_changes.cosine_min
FROM current_pairs
LEFT JOIN checkpoint_changes
    ON checkpoint_changes.checkpoint_id = current_pairs.checkpoint_id
    AND checkpoint_changes.base_checkpoint_id = current_pairs.base_checkpoint_id
LEFT JOIN base_names ON base_names.checkpoint_id = current_pairs.base_checkpoint_id
WHERE
    checkpoint_changes.checkpoint_id IS NOT NULL
    OR (
        current_pairs.checkpoint_id = current_pairs.base_checkpoint_id
        AND current_pairs.model_id <> base_names.base_model_id
    )
ORDER BY current_pairs.model_id;
