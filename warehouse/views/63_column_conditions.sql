-- What all values of a column of the performance table share where its name does not say it, such as the only context length of
-- ppl_wikitext2: one row for each column and condition, with the number of models.
CREATE OR REPLACE VIEW column_conditions AS
SELECT
    column_name,
    condition,
    count(DISTINCT model_id) AS num_models
FROM run_measures
WHERE column_name IS NOT NULL AND value IS NOT NULL AND condition IS NOT NULL
GROUP BY column_name, condition;
