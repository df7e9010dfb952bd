-- Every measure of every run in long form: one row a model, variant and measure, from the newest run by the files' own times.
-- Where that leaves several values, is_conflict is true and value null; a newest run without a number has a null value, too.
-- is_doubtful marks values whose scale is not sure: a share outside of 0 to 1, or a value far from the others of its measure.
CREATE OR REPLACE VIEW run_measures AS
SELECT
    run_values.* EXCLUDE (has_doubt, run_at),
    run_values.has_doubt
    OR coalesce(
        CASE
            WHEN run_values.value > 1 THEN measure_scales.are_shares
            WHEN run_values.value > 0 AND run_values.value < 1 THEN NOT measure_scales.are_shares
        END,
        FALSE
    ) AS is_doubtful,
    run_values.run_at
FROM run_values
LEFT JOIN measure_scales
    ON measure_scales.measure_key = run_values.measure_key
    AND run_values.higher_is_better IS DISTINCT FROM FALSE;
