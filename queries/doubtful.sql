-- Values whose scale is not sure, such as 78.9 where a share is expected: one row for each, with its file and the reason. They
-- are in no column of fractions and in no mean.
SELECT
    model_id,
    variant,
    kind,
    measure,
    value,
    coalesce(
        doubt,
        CASE
            WHEN value > 1 THEN 'over 1, as most values of this measure are not; it may be percent'
            ELSE 'under 1, as most values of this measure are not; it may be a share among percent'
        END
    ) AS reason,
    harness,
    source_uri
FROM measure_sources
WHERE is_doubtful
ORDER BY
    model_id,
    variant NULLS FIRST,
    kind,
    measure,
    source_uri;
