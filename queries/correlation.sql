-- Structure against quality over the models of one base: Spearman's rank correlation, equal values sharing their mean rank. One
-- row for each base, structural number and measure (a perplexity by dataset@context, ? if not stated, or mean_accuracy), over
-- the n_models that have both; null for fewer than three models, or where either number does not vary. Ranks are counted in
-- halves, so that they stay integers.
WITH quality AS (
    SELECT
        model_id,
        measure,
        value
    FROM measures
    WHERE kind = 'perplexity' AND is_plain
    UNION ALL
    SELECT
        model_id,
        'mean_accuracy' AS measure,
        mean_accuracy AS value
    FROM performance
    WHERE mean_accuracy IS NOT NULL AND is_plain
),
structures AS (
    UNPIVOT (
        SELECT
            model_id,
            base_checkpoint_id,
            retention_std,
            CAST(num_removed_layers AS DOUBLE) AS num_removed_layers,
            CAST(zero_layers AS DOUBLE) AS zero_layers,
            reduction_ratio
        FROM models
        WHERE base_checkpoint_id IS NOT NULL
    )
    ON retention_std, num_removed_layers, zero_layers, reduction_ratio
    INTO NAME structure VALUE amount
),
pairs AS (
    SELECT
        structures.base_checkpoint_id,
        structures.structure,
        quality.measure,
        structures.amount,
        quality.value
    FROM structures
    JOIN quality ON quality.model_id = structures.model_id
),
ranks AS (
    SELECT
        base_checkpoint_id,
        structure,
        measure,
        2 * rank() OVER (PARTITION BY base_checkpoint_id, structure, measure ORDER BY amount)
        + count(*) OVER (PARTITION BY base_checkpoint_id, structure, measure, amount) - 1 AS amount_rank,
        2 * rank() OVER (PARTITION BY base_checkpoint_id, structure, measure ORDER BY value)
        + count(*) OVER (PARTITION BY base_checkpoint_id, structure, measure, value) - 1 AS value_rank
    FROM pairs
),
sums AS (
    SELECT
        base_checkpoint_id,
        structure,
        measure,
        count(*) AS n_models,
        count(*) * sum(amount_rank * value_rank) - sum(amount_rank) * sum(value_rank) AS covariance,
        count(*) * sum(amount_rank * amount_rank) - sum(amount_rank) * sum(amount_rank) AS amount_variance,
        count(*) * sum(value_rank * value_rank) - sum(value_rank) * sum(value_rank) AS value_variance
    FROM ranks
    GROUP BY base_checkpoint_id, structure, measure
)
SELECT
    base_checkpoint_id,
    structure,
    measure,
    n_models,
    CASE
        WHEN n_models >= 3 AND amount_variance > 0 AND value_variance > 0
            THEN covariance / sqrt(CAST(amount_variance AS DOUBLE) * CAST(value_variance AS DOUBLE))
    END AS rank_correlation
FROM sums
ORDER BY
    base_checkpoint_id,
    measure,
    structure;
