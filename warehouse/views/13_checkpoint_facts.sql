-- One row a checkpoint, whichever models have it: of those made by the newest rules its first measurement, or the first with
-- spectra, and the base that it was last compared with. A checkpoint that others are compared with, and that has no base
-- itself, is its own base.
CREATE OR REPLACE VIEW checkpoint_facts AS
WITH first_sightings AS (
    SELECT *
    FROM checkpoints
    QUALIFY
        row_number() OVER (
            PARTITION BY checkpoint_id
            ORDER BY
                coalesce(rules_version, 1) DESC,
                stats_level IS NOT DISTINCT FROM 'spectral' DESC,
                commit_id,
                model_id NULLS FIRST,
                status,
                declared_name
        ) = 1
),
compared_pairs AS MATERIALIZED (
    SELECT
        checkpoint_id,
        base_checkpoint_id,
        max(commit_id) AS commit_id
    FROM layer_matches
    GROUP BY checkpoint_id, base_checkpoint_id
),
newest_bases AS (
    SELECT
        checkpoint_id,
        arg_max(base_checkpoint_id, (commit_id, base_checkpoint_id)) AS base_checkpoint_id
    FROM compared_pairs
    GROUP BY checkpoint_id
),
bases AS (
    SELECT DISTINCT base_checkpoint_id
    FROM compared_pairs
)
SELECT
    first_sightings.* EXCLUDE (model_id, source_uri, fingerprint, commit_id, ingested_at),
    CASE
        WHEN bases.base_checkpoint_id IS NOT NULL AND newest_bases.base_checkpoint_id IS NULL THEN first_sightings.checkpoint_id
        ELSE newest_bases.base_checkpoint_id
    END AS base_checkpoint_id
FROM first_sightings
LEFT JOIN newest_bases ON newest_bases.checkpoint_id = first_sightings.checkpoint_id
LEFT JOIN bases ON bases.base_checkpoint_id = first_sightings.checkpoint_id;
