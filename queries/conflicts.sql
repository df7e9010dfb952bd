-- Measures that have several values of one time, so that none of them is shown: one row for each value, with its file. To
-- decide, take the wrong file away and ingest again, or give the files the times of their runs.
SELECT
    model_id,
    variant,
    kind,
    measure,
    value,
    status,
    stderr,
    run_at,
    harness,
    source_uri
FROM measure_sources
WHERE is_conflict
ORDER BY
    model_id,
    variant NULLS FIRST,
    kind,
    measure,
    value,
    source_uri;
