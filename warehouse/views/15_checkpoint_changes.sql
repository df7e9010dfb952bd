-- One row a checkpoint and its base: the number of tensors by relation, and what they amount to as text.
CREATE OR REPLACE VIEW checkpoint_changes AS
WITH relation_counts AS (
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
        count(*) FILTER (WHERE relation = 'added') AS n_added,
        count(*) FILTER (WHERE relation = 'removed') AS n_removed,
        count(*) FILTER (WHERE relation IS NULL) AS n_unknown,
        CAST(sum(changed) AS BIGINT) AS changed_values,
        max(relative_difference) AS relative_difference_max,
        min(cosine) AS cosine_min
    FROM tensor_matches
    GROUP BY checkpoint_id, base_checkpoint_id
),
added_tensors AS (
    SELECT
        tensor_matches.checkpoint_id,
        tensor_matches.base_checkpoint_id,
        CAST(sum(tensors.params) AS BIGINT) AS added_params
    FROM tensor_matches
    JOIN tensors
        ON tensors.checkpoint_id = tensor_matches.checkpoint_id
        AND tensors.name = tensor_matches.name
    WHERE tensor_matches.relation = 'added'
    GROUP BY tensor_matches.checkpoint_id, tensor_matches.base_checkpoint_id
)
SELECT
    relation_counts.*,
    CASE WHEN relation_counts.n_added = 0 THEN 0 ELSE added_tensors.added_params END AS added_params,
    CASE
        WHEN n_unknown > 0 THEN NULL
        WHEN n_identical = n_tensors THEN 'identical to the base'
        WHEN n_identical + n_cast = n_tensors THEN 'the base in another type, values within rounding'
        WHEN n_masked > 0 AND n_identical + n_cast + n_masked = n_tensors THEN 'the base with values set to zero'
        WHEN n_refilled > 0 AND n_identical + n_cast + n_refilled = n_tensors THEN 'the base with zeros filled'
        WHEN n_sliced + n_added + n_removed = 0 THEN 'shapes of the base, other values'
        WHEN n_identical + n_removed = n_tensors THEN 'the base with tensors left out'
        WHEN n_identical + n_removed + n_sliced + n_added = n_tensors THEN 'the base cut, what is left of one shape unchanged'
        ELSE 'the base cut, and values changed'
    END AS verdict
FROM relation_counts
LEFT JOIN added_tensors
    ON added_tensors.checkpoint_id = relation_counts.checkpoint_id
    AND added_tensors.base_checkpoint_id = relation_counts.base_checkpoint_id;
