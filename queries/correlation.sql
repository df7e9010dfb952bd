-- Structure against quality over the models of one base: Spearman's rank correlation, equal values sharing their mean rank. One
-- row for each base, structural number and measure (a perplexity by dataset@context, ? if not stated, or mean_accuracy), over
-- the n_models that have both; null for fewer than three models, or where either number does not vary. Ranks are counted in
-- halves, so that they stay integers. kept_share, of the model, and kept_layer_std, the deviation of its layers' shares, are
-- counted in parameters that are not zero where these are known of every model that has a base, else in parameters; kept_by
-- says which, and is null for the other numbers.
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
            reduction_ratio,
            sparsity,
            kept_measure(count(nonzero_retention) OVER (), count(params_retention) OVER ()) AS kept_by,
            by_measure(kept_by, params_retention, nonzero_retention, bytes_retention, macs_retention) AS kept_share,
            by_measure(
                kept_by,
                retention_std,
                nonzero_retention_std,
                bytes_retention_std,
                macs_retention_std
            ) AS kept_layer_std
        FROM models
        WHERE base_checkpoint_id IS NOT NULL
    )
    ON retention_std, num_removed_layers, zero_layers, reduction_ratio, sparsity, kept_share, kept_layer_std
    INTO NAME structure VALUE amount
),
pairs AS (
    SELECT
        structures.base_checkpoint_id,
        structures.structure,
        CASE WHEN structures.structure IN ('kept_share', 'kept_layer_std') THEN structures.kept_by END AS kept_by,
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
        kept_by,
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
        kept_by,
        measure,
        count(*) AS n_models,
        count(*) * sum(amount_rank * value_rank) - sum(amount_rank) * sum(value_rank) AS covariance,
        count(*) * sum(amount_rank * amount_rank) - sum(amount_rank) * sum(amount_rank) AS amount_variance,
        count(*) * sum(value_rank * value_rank) - sum(value_rank) * sum(value_rank) AS value_variance
    FROM ranks
    GROUP BY
        base_checkpoint_id,
        structure,
        kept_by,
        measure
)
SELECT
    base_checkpoint_id,
    structure,
    kept_by,
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
