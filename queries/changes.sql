-- What was done to the tensors of the base: how many are identical, cast, masked, refilled, changed, sliced, added or removed.
-- changed_values counts the values of tensors of one shape that differ; null where nothing was read side by side.
WITH shown AS (
    SELECT model_id, checkpoint_id, base_checkpoint_id FROM current_checkpoints
),
base_names AS (
    SELECT checkpoint_id, min(model_id) AS base_model_id FROM shown GROUP BY checkpoint_id
)
SELECT
    shown.model_id,
    base_names.base_model_id,
    checkpoint_changes.verdict,
    checkpoint_changes.n_tensors,
    checkpoint_changes.n_identical,
    checkpoint_changes.n_cast,
    checkpoint_changes.n_masked,
    checkpoint_changes.n_refilled,
    checkpoint_changes.n_changed,
    checkpoint_changes.n_sliced,
    checkpoint_changes.n_added,
    checkpoint_changes.added_params,
    checkpoint_changes.n_removed,
    checkpoint_changes.n_unknown,
    checkpoint_changes.changed_values,
    checkpoint_changes.relative_difference_max,
    checkpoint_changes.cosine_min
FROM shown
JOIN checkpoint_changes
    ON checkpoint_changes.checkpoint_id = shown.checkpoint_id
    AND checkpoint_changes.base_checkpoint_id = shown.base_checkpoint_id
LEFT JOIN base_names ON base_names.checkpoint_id = shown.base_checkpoint_id
ORDER BY shown.model_id;
