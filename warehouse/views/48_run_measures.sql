-- Every measure of every run in long form: one row a model, variant and measure, from the newest run by the files' own times.
-- Where that leaves several values, is_conflict is true and value null; a newest run without a number has a null value, too.
-- is_doubtful marks values whose scale is not sure: a share outside of 0 to 1, or a value far from the others of its measure.
-- The CTE measure_scales is the view of that name: where the rows of that view are kept, it is left out.
CREATE OR REPLACE VIEW run_measures AS
WITH all_values AS (
    SELECT * FROM run_values
),
measure_scales AS (
    SELECT
        measure_key,
        shares_prevail(value) AS are_shares
    FROM all_values
    WHERE kind IN ('task', 'score', 'group') AND NOT has_doubt AND higher_is_better IS DISTINCT FROM FALSE
    GROUP BY measure_key
)
SELECT
    all_values.* EXCLUDE (has_doubt, run_at),
    all_values.has_doubt
    OR coalesce(
        CASE
            WHEN all_values.value > 1 THEN measure_scales.are_shares
            WHEN all_values.value > 0 AND all_values.value < 1 THEN NOT measure_scales.are_shares
        END,
        FALSE
    ) AS is_doubtful,
    all_values.run_at
FROM all_values
LEFT JOIN measure_scales
    ON measure_scales.measure_key = all_values.measure_key
    AND all_values.higher_is_better IS DISTINCT FROM FALSE;
