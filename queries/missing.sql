-- What is still to be measured: one row for each model and each measure that other models have and it lacks. A value that is
-- not a number (NaN or infinite) counts as missing. n_models is how many models have the measure.
WITH measured AS (
    SELECT
        kind,
        measure,
        model_id
    FROM measures
    WHERE value IS NOT NULL
    GROUP BY kind, measure, model_id
),
measures_of_any AS (
    SELECT
        kind,
        measure,
        count(*) AS n_models
    FROM measured
    GROUP BY kind, measure
)
SELECT
    models.model_id,
    measures_of_any.kind,
    measures_of_any.measure,
    measures_of_any.n_models
FROM models
CROSS JOIN measures_of_any
ANTI JOIN measured
    ON measured.model_id = models.model_id
    AND measured.kind = measures_of_any.kind
    AND measured.measure = measures_of_any.measure
ORDER BY
    models.model_id,
    measures_of_any.kind,
    measures_of_any.measure;
