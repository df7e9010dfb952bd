-- One row a checkpoint, whichever models have it: of those made by the newest rules its first measurement, or the first with
-- spectra, and the base that it was last compared with, unless a user said since then that it has none. A checkpoint that
-- others are compared with, and that has no base itself, is its own base.
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
choices AS MATERIALIZED (
    SELECT
        checkpoint_id,
        base_checkpoint_id,
        base_rule,
        commit_id
    FROM base_choices
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
        compared_pairs.checkpoint_id,
        arg_max(
            compared_pairs.base_checkpoint_id,
            (compared_pairs.commit_id, compared_pairs.base_checkpoint_id)
        ) AS base_checkpoint_id
    FROM compared_pairs
    LEFT JOIN choices
        ON choices.checkpoint_id = compared_pairs.checkpoint_id
        AND choices.base_rule = 'none'
        AND choices.commit_id > compared_pairs.commit_id
    WHERE choices.checkpoint_id IS NULL
    GROUP BY compared_pairs.checkpoint_id
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
    END AS base_checkpoint_id,
    CASE
        WHEN newest_bases.base_checkpoint_id IS NULL AND choices.base_rule <> 'none' THEN NULL
        WHEN newest_bases.base_checkpoint_id IS NULL OR choices.base_checkpoint_id = newest_bases.base_checkpoint_id
            THEN choices.base_rule
        WHEN newest_bases.base_checkpoint_id = first_sightings.checkpoint_id THEN NULL
        WHEN first_sightings.source_kind = 'analysis' THEN 'declared'
        ELSE 'named'
    END AS base_rule
FROM first_sightings
LEFT JOIN newest_bases ON newest_bases.checkpoint_id = first_sightings.checkpoint_id
LEFT JOIN choices ON choices.checkpoint_id = first_sightings.checkpoint_id
LEFT JOIN bases ON bases.base_checkpoint_id = first_sightings.checkpoint_id;
