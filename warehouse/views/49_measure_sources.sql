-- The stored values behind each measure of a run: one row for each value of the newest time, with its file and its doubt.
CREATE OR REPLACE VIEW measure_sources AS
SELECT
    run_measures.model_id,
    run_measures.variant,
    run_measures.kind,
    run_measures.measure,
    run_measures.is_conflict,
    run_measures.is_doubtful,
    results.value,
    results.status,
    results.stderr,
    results.doubt,
    results.run_at,
    results.harness,
    results.source_uri
FROM run_measures
JOIN model_runs
    ON model_runs.model_id = run_measures.model_id
    AND model_runs.variant IS NOT DISTINCT FROM run_measures.variant
JOIN measure_keys ON measure_keys.measure_key = run_measures.measure_key
JOIN results
    ON results.result_id = model_runs.result_id
    AND run_key(results.run_id, results.revision, results.adapter) = model_runs.run_key
    AND results.measure_id = measure_keys.measure_id
    AND coalesce(results.is_group, FALSE) = measure_keys.is_group
    AND results.run_at IS NOT DISTINCT FROM run_measures.run_at;
