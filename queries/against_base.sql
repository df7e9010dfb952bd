-- One row for each model that has a base: what it reaches compared with its base, both in their plain runs; variant is that of
-- the runs compared. The base is the one model that has the checkpoint which the model was made from; where no model has it,
-- the one model with results alone whose name and parameters are those of the checkpoint. A speed is compared at the same batch
-- size where both ran on the same named hardware; speedup_hardware is that of the performance table if there are several, else
-- the first by name. Factors under 1 are slower.
WITH structures AS MATERIALIZED (
    SELECT
        model_id,
        checkpoint_id,
        base_checkpoint_id,
        source_kind,
        params
    FROM models
),
plain_runs AS MATERIALIZED (
    SELECT
        model_id,
        variant,
        ppl_wikitext2,
        ppl_ptb,
        mean_accuracy,
        speed_hardware
    FROM performance
    WHERE is_plain
),
base_models AS (
    SELECT
        checkpoint_id,
        min(model_id) AS base_model_id
    FROM structures
    WHERE checkpoint_id IS NOT NULL
    GROUP BY checkpoint_id
    HAVING count(*) = 1
),
base_results AS (
    SELECT
        checkpoints.checkpoint_id,
        min(structures.model_id) AS base_model_id
    FROM checkpoints
    JOIN structures
        ON structures.source_kind = 'results'
        AND structures.params = checkpoints.params
        AND regexp_extract(structures.model_id, '[^/]*$') = checkpoints.declared_name
    GROUP BY checkpoints.checkpoint_id
    HAVING count(DISTINCT structures.model_id) = 1
),
pairs AS (
    SELECT
        structures.model_id,
        coalesce(base_models.base_model_id, base_results.base_model_id) AS base_model_id
    FROM structures
    LEFT JOIN base_models ON base_models.checkpoint_id = structures.base_checkpoint_id
    LEFT JOIN base_results
        ON base_results.checkpoint_id = structures.base_checkpoint_id
        AND structures.base_checkpoint_id NOT IN (
            SELECT checkpoint_id
            FROM structures
            WHERE checkpoint_id IS NOT NULL
        )
),
speeds AS (
    SELECT
        model_id,
        variant,
        hardware,
        max(value) FILTER (WHERE measure = speed_key('throughput_tokens_per_sec', NULL, 1, hardware)) AS throughput_bs1,
        max(value) FILTER (WHERE measure = speed_key('throughput_tokens_per_sec', NULL, 4, hardware)) AS throughput_bs4
    FROM measures
    WHERE kind = 'speed' AND is_plain
    GROUP BY model_id, variant, hardware
),
measured_speeds AS (
    SELECT
        model_id,
        count(throughput_bs1) + count(throughput_bs4) > 0 AS is_measured
    FROM speeds
    GROUP BY model_id
),
speedups AS (
    SELECT
        pairs.model_id,
        own.hardware,
        own.throughput_bs1 / nullif(base.throughput_bs1, 0) AS speedup_bs1,
        own.throughput_bs4 / nullif(base.throughput_bs4, 0) AS speedup_bs4
    FROM pairs
    JOIN speeds AS own ON own.model_id = pairs.model_id
    JOIN speeds AS base
        ON base.model_id = pairs.base_model_id
        AND base.variant IS NOT DISTINCT FROM own.variant
        AND base.hardware = own.hardware
    JOIN plain_runs ON plain_runs.model_id = pairs.model_id
    WHERE coalesce(own.throughput_bs1 / base.throughput_bs1, own.throughput_bs4 / base.throughput_bs4) IS NOT NULL
    QUALIFY
        row_number() OVER (
            PARTITION BY pairs.model_id
            ORDER BY own.hardware IS NOT DISTINCT FROM plain_runs.speed_hardware DESC, own.hardware
        ) = 1
)
SELECT
    pairs.model_id,
    pairs.base_model_id,
    own.ppl_wikitext2 - base.ppl_wikitext2 AS ppl_wikitext2_change,
    own.ppl_wikitext2 / nullif(base.ppl_wikitext2, 0) AS ppl_wikitext2_factor,
    own.ppl_ptb - base.ppl_ptb AS ppl_ptb_change,
    own.ppl_ptb / nullif(base.ppl_ptb, 0) AS ppl_ptb_factor,
    own.mean_accuracy - base.mean_accuracy AS mean_accuracy_change,
    own.mean_accuracy / nullif(base.mean_accuracy, 0) AS kept_accuracy_share,
    speedups.speedup_bs1,
    speedups.speedup_bs4,
    speedups.hardware AS speedup_hardware,
    CASE
        WHEN own_speed.is_measured IS NOT TRUE THEN 'speed not measured'
        WHEN base_speed.is_measured IS NOT TRUE THEN 'speed of the base not measured'
        WHEN speedups.model_id IS NULL THEN 'no batch size at which both name the same hardware'
    END AS speed_note,
    own.variant
FROM pairs
LEFT JOIN plain_runs AS own ON own.model_id = pairs.model_id
LEFT JOIN plain_runs AS base
    ON base.model_id = pairs.base_model_id
    AND base.variant IS NOT DISTINCT FROM own.variant
LEFT JOIN measured_speeds AS own_speed ON own_speed.model_id = pairs.model_id
LEFT JOIN measured_speeds AS base_speed ON base_speed.model_id = pairs.base_model_id
LEFT JOIN speedups ON speedups.model_id = pairs.model_id
WHERE pairs.base_model_id IS NOT NULL
ORDER BY pairs.model_id;
