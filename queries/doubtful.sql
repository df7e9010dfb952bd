-- Values whose scale is not sure, such as 78.9 where a share is expected: one row for each, with its file and the reason. They
-- are in no column of fractions and in no mean.
SELECT
    run_measures.model_id,
    run_measures.variant,
    run_measures.kind,
    run_measures.measure,
    results.value,
    coalesce(
        results.doubt,
        CASE
            WHEN results.value > 1 THEN 'over 1, as most values of this measure are not; it may be percent'
            ELSE 'under 1, as most values of this measure are not; it may be a share among percent'
        END
    ) AS reason,
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
WHERE run_measures.is_doubtful
ORDER BY
    run_measures.model_id,
    run_measures.variant NULLS FIRST,
    run_measures.kind,
    run_measures.measure,
    results.source_uri;
