-- The results that count for each model: of its plain run, or of each run of a model without a plain one, the newest value of
-- each measure by the files' own times. Where that leaves several values, the status is conflict and the value null; of rows
-- that state one value, the one without notes stands.
CREATE OR REPLACE VIEW model_results AS
WITH linked AS (
    SELECT
        model_runs.model_id,
        model_runs.variant AS run_variant,
        model_runs.rule,
        results.*,
        min(coalesce(results.value, 'nan')) OVER alike <> max(coalesce(results.value, 'nan')) OVER alike AS is_conflict
    FROM results
    JOIN model_runs
        ON model_runs.result_id = results.result_id
        AND model_runs.run_key = run_key(results.run_id, results.revision, results.adapter)
        AND model_runs.is_shown
    WINDOW alike AS (PARTITION BY model_runs.model_id, model_runs.variant, results.suite, results.measure_id, results.run_at)
)
SELECT
    * EXCLUDE (run_variant, is_conflict) REPLACE (
        run_variant AS variant,
        CASE WHEN NOT is_conflict THEN value END AS value,
        CASE WHEN NOT is_conflict THEN value_integer END AS value_integer,
        CASE WHEN NOT is_conflict THEN stderr END AS stderr,
        CASE WHEN is_conflict THEN 'conflict' ELSE status END AS status
    )
FROM linked
QUALIFY
    row_number() OVER (
        PARTITION BY model_id, run_variant, suite, measure_id
        ORDER BY
            run_at DESC NULLS LAST,
            commit_id DESC,
            source_uri,
            value,
            len(notes) NULLS FIRST,
            CAST(notes AS VARCHAR),
            result_id,
            run_id,
            status,
            stated_task,
            stated_metric,
            value_integer,
            stderr,
            n_samples,
            doubt,
            harness_version,
            harness_commit,
            declared_model
    ) = 1;
