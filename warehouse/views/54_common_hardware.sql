-- The hardware of the columns of speed and memory, where these have any values: the one on which most models ran, or null for
-- what no file states. One row, or none.
CREATE OR REPLACE VIEW common_hardware AS
SELECT hardware
FROM run_values
WHERE has_speed_column(speed_setting(kind, measure, hardware))
GROUP BY hardware
ORDER BY count(DISTINCT model_id) DESC, hardware NULLS FIRST
LIMIT 1;
