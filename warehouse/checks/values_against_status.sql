-- A result has a value exactly if its status is ok.
SELECT
    result_id,
    task,
    metric,
    status,
    value
FROM results
WHERE (status = 'ok') <> (value IS NOT NULL)
ORDER BY ALL;
