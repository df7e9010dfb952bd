-- One row a checkpoint: the name by which it is called as a base. It is the first name of the models that have it now, else the
-- last of those that had it, else what files call it.
CREATE OR REPLACE VIEW base_names AS
WITH present AS (
    SELECT
        checkpoint_id,
        min(model_id) AS model_id
    FROM current_checkpoints
    GROUP BY checkpoint_id
),
former AS (
    SELECT
        checkpoint_id,
        arg_max(model_id, (commit_id, model_id)) AS model_id
    FROM sightings
    GROUP BY checkpoint_id
),
described AS (
    SELECT
        checkpoint_id,
        coalesce(
            arg_max(declared_name, (commit_id, declared_name)),
            arg_max(source_uri, (commit_id, source_uri))
        ) AS base_name
    FROM checkpoints
    WHERE model_id IS NULL
    GROUP BY checkpoint_id
)
SELECT
    checkpoint_facts.checkpoint_id,
    coalesce(present.model_id, former.model_id, described.base_name) AS base_model
FROM checkpoint_facts
LEFT JOIN present ON present.checkpoint_id = checkpoint_facts.checkpoint_id
LEFT JOIN former ON former.checkpoint_id = checkpoint_facts.checkpoint_id
LEFT JOIN described ON described.checkpoint_id = checkpoint_facts.checkpoint_id;
