-- The scale of a measure of tasks: one row a measure. Where some values are shares (0 to 1) and others are not (up to 100),
-- are_shares says whether shares are the more frequent; the others are of doubtful scale. It is null where all are alike.
CREATE OR REPLACE VIEW measure_scales AS
SELECT
    measure_key,
    CASE
        WHEN
            count(*) FILTER (WHERE value > 0 AND value < 1) > 0
            AND count(*) FILTER (WHERE value > 1 AND value <= 100) > 0
            THEN
                count(*) FILTER (WHERE value > 0 AND value < 1)
                >= count(*) FILTER (WHERE value > 1 AND value <= 100)
    END AS are_shares
FROM run_values
WHERE kind IN ('task', 'score', 'group') AND NOT has_doubt AND higher_is_better IS DISTINCT FROM FALSE
GROUP BY measure_key;
