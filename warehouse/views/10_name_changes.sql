-- The present name of rows whose model was renamed or dropped. A tombstone covers the rows that earlier commits wrote under
-- its name, back to the previous tombstone of that name; a renamed row may be covered again under its new name. Rows that no
-- tombstone covers are absent.
CREATE OR REPLACE VIEW name_changes AS
WITH RECURSIVE tombstones AS (
    SELECT
        action,
        model_id,
        new_model_id,
        commit_id,
        lag(commit_id, 1, '') OVER (PARTITION BY model_id ORDER BY commit_id) AS earlier_commit_id
    FROM removals
),
written_names AS (
    SELECT
        model_id,
        commit_id
    FROM checkpoints
    WHERE model_id IN (SELECT model_id FROM tombstones)
    UNION
    SELECT
        model_id,
        commit_id
    FROM links
    WHERE model_id IN (SELECT model_id FROM tombstones)
),
steps AS (
    SELECT
        model_id,
        commit_id,
        model_id AS name,
        commit_id AS since,
        FALSE AS is_dropped
    FROM written_names
    UNION ALL
    SELECT
        steps.model_id,
        steps.commit_id,
        coalesce(tombstones.new_model_id, steps.name) AS name,
        tombstones.commit_id AS since,
        tombstones.action = 'drop' AS is_dropped
    FROM steps
    JOIN tombstones
        ON tombstones.model_id = steps.name
        AND steps.since >= tombstones.earlier_commit_id
        AND steps.since < tombstones.commit_id
    WHERE NOT steps.is_dropped
)
SELECT
    model_id,
    commit_id,
    arg_max(name, since) AS new_model_id,
    bool_or(is_dropped) AS is_dropped
FROM steps
GROUP BY model_id, commit_id
HAVING count(*) > 1;
