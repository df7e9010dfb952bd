-- The newest value of every measure of every run: one row a model, variant and measure, from the newest run by the files' own
-- times. Where that leaves several values, is_conflict is true and value null; a newest run without a number has a null value,
-- too. has_doubt marks values that their own file gives reason to doubt; run_measures also compares them with those of others.
CREATE OR REPLACE VIEW run_values AS
WITH newest AS (
    SELECT
        model_runs.model_id,
        model_runs.variant,
        measure_keys.measure_key,
        min(measure_keys.kind) AS kind,
        min(measure_keys.measure) AS measure,
        min(measure_keys.hardware) AS hardware,
        min(model_runs.is_shown) AS is_shown,
        min(model_runs.is_plain) AS is_plain,
        min(measure_keys.column_name) AS column_name,
        min(measure_keys.condition) AS condition,
        min(measure_keys.plain_task) AS plain_task,
        min(measure_keys.task) AS task,
        min(measure_keys.metric) AS metric,
        min(measure_keys.unit) AS unit,
        min(measure_keys.higher_is_better) AS higher_is_better,
        min(measure_keys.n_shot) AS n_shot,
        min(measure_keys.sample_limit) AS sample_limit,
        arg_max(coalesce(results.value, 'nan'), (run_order(results.run_at), coalesce(results.value, 'nan'))) AS greatest_value,
        arg_min(coalesce(results.value, 'nan'), (-run_order(results.run_at), coalesce(results.value, 'nan'))) AS least_value,
        arg_max_null(results.stderr, (run_order(results.run_at), results.stderr)) AS stderr,
        arg_max(results.doubt IS NOT NULL, (run_order(results.run_at), results.doubt IS NOT NULL)) AS has_doubt,
        max(results.run_at) AS run_at
    FROM results
    JOIN model_runs
        ON model_runs.result_id = results.result_id
        AND model_runs.run_key = run_key(results.run_id, results.revision, results.adapter)
    JOIN measure_keys
        ON measure_keys.measure_id = results.measure_id
        AND measure_keys.is_group = coalesce(results.is_group, FALSE)
    GROUP BY model_runs.model_id, model_runs.variant, measure_keys.measure_key
),
resolved AS MATERIALIZED (
    SELECT
        *,
        greatest_value <> least_value AS is_conflict,
        CASE WHEN greatest_value = least_value AND NOT isnan(greatest_value) THEN greatest_value END AS value
    FROM newest
),
accuracies AS (
    SELECT
        model_id,
        variant,
        plain_task
    FROM resolved
    WHERE plain_task IS NOT NULL
    GROUP BY model_id, variant, plain_task
    HAVING bool_and(metric = 'accuracy')
)
SELECT
    resolved.model_id,
    resolved.variant,
    resolved.is_shown,
    resolved.is_plain,
    resolved.measure_key,
    CASE WHEN accuracies.plain_task IS NOT NULL THEN 'task' ELSE resolved.kind END AS kind,
    CASE WHEN accuracies.plain_task IS NOT NULL THEN accuracies.plain_task ELSE resolved.measure END AS measure,
    CASE WHEN resolved.kind <> 'score' OR accuracies.plain_task IS NOT NULL THEN resolved.column_name END AS column_name,
    resolved.condition,
    resolved.task,
    resolved.metric,
    resolved.hardware,
    resolved.value,
    resolved.stderr,
    resolved.unit,
    resolved.higher_is_better,
    resolved.n_shot,
    resolved.sample_limit,
    resolved.is_conflict,
    resolved.has_doubt,
    resolved.run_at
FROM resolved
LEFT JOIN accuracies
    ON accuracies.model_id = resolved.model_id
    AND accuracies.variant IS NOT DISTINCT FROM resolved.variant
    AND accuracies.plain_task = resolved.plain_task
    AND resolved.column_name = resolved.plain_task
    AND resolved.metric = 'accuracy';
