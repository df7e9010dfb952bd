-- Measures that have several values of one time, so that none of them is shown: one row for each value, with its file. To
-- decide, take the wrong file away and ingest again, or give the files the times of their runs.
SELECT
    run_measures.model_id,
    run_measures.variant,
    run_measures.kind,
    run_measures.measure,
    results.value,
    results.status,
    results.stderr,
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
    AND results.run_at IS NOT DISTINCT FROM run_measures.run_at
WHERE run_measures.is_conflict
ORDER BY
    run_measures.model_id,
    run_measures.variant NULLS FIRST,
    run_measures.kind,
    run_measures.measure,
    results.value,
    results.source_uri;
