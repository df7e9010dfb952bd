-- One row a model with weights: what it was made from, as its tensors tell, and what it is compared with.
CREATE OR REPLACE VIEW lineage AS
WITH RECURSIVE own AS MATERIALIZED (
    SELECT
        model_id,
        checkpoint_id,
        base_checkpoint_id,
        base_rule
    FROM current_checkpoints
    WHERE source_kind = 'weights'
),
present AS MATERIALIZED (
    SELECT
        checkpoint_id,
        min(model_id) AS model_id
    FROM own
    GROUP BY checkpoint_id
),
known AS MATERIALIZED (
    SELECT
        descents.* EXCLUDE (probe_width, probe_roles, probe_values, parent_checkpoint_id),
        parents.checkpoint_id AS parent_checkpoint_id,
        parents.model_id AS parent_model
    FROM descents
    JOIN present AS children ON children.checkpoint_id = descents.checkpoint_id
    LEFT JOIN present AS parents ON parents.checkpoint_id = descents.parent_checkpoint_id
),
steps AS (
    SELECT
        checkpoint_id,
        parent_checkpoint_id AS ancestor_id,
        1 AS generation
    FROM known
    WHERE parent_checkpoint_id IS NOT NULL
    UNION ALL
    SELECT
        steps.checkpoint_id,
        known.parent_checkpoint_id AS ancestor_id,
        steps.generation + 1 AS generation
    FROM steps
    JOIN known ON known.checkpoint_id = steps.ancestor_id
    WHERE
        known.parent_checkpoint_id IS NOT NULL
        AND steps.generation < 1000
),
tops AS (
    SELECT
        checkpoint_id,
        arg_max(ancestor_id, generation) AS root_checkpoint_id,
        CAST(max(generation) AS INTEGER) AS generation
    FROM steps
    GROUP BY checkpoint_id
)
SELECT
    own.model_id,
    known.descent,
    known.parent_model,
    second_parents.model_id AS second_parent_model,
    roots.model_id AS root_model,
    tops.generation,
    known.parent_rule,
    known.distance,
    known.same_share,
    known.rounded_share,
    known.masked_share,
    known.changed_share,
    known.second_parent_share,
    known.descent_confidence,
    rivals.model_id AS runner_up_model,
    known.runner_up_distance,
    base_names.base_model,
    own.base_rule,
    own.checkpoint_id
FROM own
LEFT JOIN known ON known.checkpoint_id = own.checkpoint_id
LEFT JOIN tops ON tops.checkpoint_id = own.checkpoint_id
LEFT JOIN present AS roots ON roots.checkpoint_id = tops.root_checkpoint_id
LEFT JOIN present AS second_parents ON second_parents.checkpoint_id = known.second_parent_checkpoint_id
LEFT JOIN present AS rivals ON rivals.checkpoint_id = known.runner_up_checkpoint_id
LEFT JOIN base_names ON base_names.checkpoint_id = own.base_checkpoint_id;
