-- What is still to be measured: one row a model and measure that another model has and it has not. A value that is no number
-- (NaN, infinite) counts as missing. n_models have the measure.
WITH known AS (
    SELECT
        kind,
        measure,
        model_id
    FROM measures
    WHERE value IS NOT NULL
    GROUP BY kind, measure, model_id
),
wanted AS (
    SELECT
        kind,
        measure,
        count(*) AS n_models
    FROM known
    GROUP BY kind, measure
)
SELECT
    models.model_id,
    wanted.kind,
    wanted.measure,
    wanted.n_models
FROM models
CROSS JOIN wanted
ANTI JOIN known
    ON known.model_id = models.model_id
    AND known.kind = wanted.kind
    AND known.measure = wanted.measure
ORDER BY
    models.model_id,
    wanted.kind,
    wanted.measure;
