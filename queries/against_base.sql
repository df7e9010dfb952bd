-- One row a model that has a base: what it reaches beside its base. The base is the one model that shows the checkpoint which
-- the model was made from; where none does, the one model of results alone with that checkpoint's name and parameters.
-- A speed is compared where both were run on the same named hardware at the same batch size; factors under 1 are slower.
WITH shown_bases AS (
    SELECT
        checkpoint_id,
        min(model_id) AS base_model_id
    FROM models
    WHERE checkpoint_id IS NOT NULL
    GROUP BY checkpoint_id
    HAVING count(*) = 1
),
described_bases AS (
    SELECT
        checkpoints.checkpoint_id,
        min(models.model_id) AS base_model_id
    FROM checkpoints
    JOIN models
        ON models.source_kind = 'results'
        AND models.params = checkpoints.params
        AND regexp_extract(models.model_id, '[^/]*$') = checkpoints.declared_name
    GROUP BY checkpoints.checkpoint_id
    HAVING count(DISTINCT models.model_id) = 1
),
pairs AS (
    SELECT
        models.model_id,
        coalesce(shown_bases.base_model_id, described_bases.base_model_id) AS base_model_id
    FROM models
    LEFT JOIN shown_bases ON shown_bases.checkpoint_id = models.base_checkpoint_id
    LEFT JOIN described_bases
        ON described_bases.checkpoint_id = models.base_checkpoint_id
        AND models.base_checkpoint_id NOT IN (SELECT checkpoint_id FROM models WHERE checkpoint_id IS NOT NULL)
),
hardware AS (
    SELECT
        model_id,
        batch_size,
        CASE WHEN count(hardware) = count(*) AND count(DISTINCT hardware) = 1 THEN min(hardware) END AS hardware
    FROM model_results
    WHERE suite = 'speed' AND metric IN ('throughput_tokens_per_sec', 'latency_ms_per_token')
    GROUP BY model_id, batch_size
),
same_hardware AS (
    SELECT
        pairs.model_id,
        own.batch_size
    FROM pairs
    JOIN hardware AS own ON own.model_id = pairs.model_id
    JOIN hardware AS base
        ON base.model_id = pairs.base_model_id
        AND base.batch_size = own.batch_size
        AND base.hardware = own.hardware
)
SELECT
    own.model_id,
    base.model_id AS base_model_id,
    own.ppl_wikitext2 - base.ppl_wikitext2 AS ppl_wikitext2_change,
    own.ppl_wikitext2 / nullif(base.ppl_wikitext2, 0) AS ppl_wikitext2_factor,
    own.ppl_ptb - base.ppl_ptb AS ppl_ptb_change,
    own.ppl_ptb / nullif(base.ppl_ptb, 0) AS ppl_ptb_factor,
    own.mean_accuracy - base.mean_accuracy AS mean_accuracy_change,
    own.mean_accuracy / nullif(base.mean_accuracy, 0) AS kept_accuracy_share,
    CASE
        WHEN (own.model_id, 1) IN (SELECT (model_id, batch_size) FROM same_hardware)
            THEN own.throughput_bs1 / nullif(base.throughput_bs1, 0)
    END AS speedup_bs1,
    CASE
        WHEN (own.model_id, 4) IN (SELECT (model_id, batch_size) FROM same_hardware)
            THEN own.throughput_bs4 / nullif(base.throughput_bs4, 0)
    END AS speedup_bs4,
    CASE
        WHEN coalesce(own.throughput_bs1, own.throughput_bs4) IS NULL THEN 'speed not measured'
        WHEN coalesce(base.throughput_bs1, base.throughput_bs4) IS NULL THEN 'speed of the base not measured'
        WHEN own.model_id NOT IN (SELECT model_id FROM same_hardware)
            THEN 'no batch size at which both name the same hardware'
    END AS speed_note
FROM pairs
JOIN performance AS own ON own.model_id = pairs.model_id
JOIN performance AS base ON base.model_id = pairs.base_model_id
ORDER BY own.model_id;
