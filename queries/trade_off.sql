-- What is kept against quality: one row for each model and measure (a perplexity by dataset@context, ? if not stated, or
-- mean_accuracy). kept_share is of the base's parameters that are not zero where that is known of every row (kept_by is
-- nonzero), so that masked models count by what they zeroed; else of all its parameters (kept_by is params). Quantised models
-- trade bytes: ask for those. A model is dominated by another of the same base that keeps at most as much and is at least as
-- good, and better in one of the two; is_on_front marks those that no model dominates, null where kept_share is not known, and
-- dominated_by names those on the front that dominate. Models without a known reduction are left out, as they have nothing to
-- trade, and so are runs of other weights than those that are stored.
WITH quality AS (
    SELECT
        model_id,
        measure,
        value,
        -value AS goodness
    FROM measures
    WHERE kind = 'perplexity' AND is_plain
    UNION ALL
    SELECT
        model_id,
        'mean_accuracy' AS measure,
        mean_accuracy AS value,
        mean_accuracy AS goodness
    FROM performance
    WHERE mean_accuracy IS NOT NULL AND is_plain
),
candidates AS (
    SELECT
        quality.measure,
        models.base_checkpoint_id,
        models.model_id,
        models.method,
        models.reduction_ratio,
        models.params_retention,
        models.nonzero_retention,
        models.bytes_retention,
        models.macs_retention,
        kept_measure(count(models.nonzero_retention) OVER (), count(*) OVER ()) AS kept_by,
        quality.value,
        quality.goodness
    FROM quality
    JOIN models ON models.model_id = quality.model_id
    WHERE models.reduction_ratio IS NOT NULL
),
points AS (
    SELECT
        measure,
        base_checkpoint_id,
        model_id,
        method,
        reduction_ratio,
        value,
        goodness,
        kept_by,
        by_measure(kept_by, params_retention, nonzero_retention, bytes_retention, macs_retention) AS kept_share
    FROM candidates
),
ranked AS (
    SELECT
        measure,
        base_checkpoint_id,
        model_id,
        kept_share,
        goodness,
        max(goodness) OVER keeping_at_most AS best,
        max(goodness) OVER keeping_less AS best_of_less
    FROM points
    WHERE kept_share IS NOT NULL
    WINDOW
        keeping_at_most AS (
            PARTITION BY measure, base_checkpoint_id
            ORDER BY kept_share
            RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ),
        keeping_less AS (
            PARTITION BY measure, base_checkpoint_id
            ORDER BY kept_share
            GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        )
),
marked AS (
    SELECT
        measure,
        base_checkpoint_id,
        model_id,
        kept_share,
        goodness,
        goodness >= best AND (best_of_less IS NULL OR goodness > best_of_less) AS is_on_front
    FROM ranked
),
dominations AS (
    SELECT
        marked.measure,
        marked.model_id,
        list(better.model_id ORDER BY better.model_id) AS dominated_by
    FROM marked
    JOIN marked AS better
        ON better.measure = marked.measure
        AND better.base_checkpoint_id = marked.base_checkpoint_id
        AND better.kept_share <= marked.kept_share
        AND better.goodness >= marked.goodness
        AND (better.kept_share < marked.kept_share OR better.goodness > marked.goodness)
    WHERE better.is_on_front AND NOT marked.is_on_front
    GROUP BY marked.measure, marked.model_id
)
SELECT
    points.measure,
    points.model_id,
    points.method,
    points.reduction_ratio,
    points.kept_by,
    points.kept_share,
    points.value,
    marked.is_on_front,
    CASE WHEN points.kept_share IS NOT NULL THEN coalesce(dominations.dominated_by, []) END AS dominated_by
FROM points
LEFT JOIN marked
    ON marked.measure = points.measure
    AND marked.model_id = points.model_id
LEFT JOIN dominations
    ON dominations.measure = points.measure
    AND dominations.model_id = points.model_id
ORDER BY
    points.measure,
    points.base_checkpoint_id,
    points.kept_share DESC NULLS LAST,
    points.model_id;
