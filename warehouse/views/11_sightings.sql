-- Every sighting of a model, under its present name; sightings of dropped models are absent.
CREATE OR REPLACE VIEW sightings AS
SELECT checkpoints.* REPLACE (coalesce(name_changes.new_model_id, checkpoints.model_id) AS model_id)
FROM checkpoints
LEFT JOIN name_changes
    ON name_changes.model_id = checkpoints.model_id
    AND name_changes.commit_id = checkpoints.commit_id
WHERE
    checkpoints.model_id IS NOT NULL
    AND name_changes.is_dropped IS DISTINCT FROM TRUE;
