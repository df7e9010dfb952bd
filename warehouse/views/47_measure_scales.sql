-- The scale of a measure of tasks: one row a measure. Where some values are shares (0 to 1) and others are not (up to 100),
-- are_shares says whether shares are at least as many; the others are of doubtful scale. It is null where all are alike.
CREATE OR REPLACE VIEW measure_scales AS
SELECT
    measure_key,
    shares_prevail(value) AS are_shares
FROM run_values
WHERE kind IN ('task', 'score', 'group') AND NOT has_doubt AND higher_is_better IS DISTINCT FROM FALSE
GROUP BY measure_key;
