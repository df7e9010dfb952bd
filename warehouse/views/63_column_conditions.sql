-- What all values of a column of the performance table share where its name does not say it, such as the only context length of
-- ppl_wikitext2: one row for each column and condition, with the number of models.
CREATE OR REPLACE VIEW column_conditions AS
SELECT
    run_measures.column_name,
    measure_keys.condition,
    count(DISTINCT run_measures.model_id) AS num_models
FROM run_measures
JOIN measure_keys ON measure_keys.measure_key = run_measures.measure_key
WHERE
    run_measures.column_name IS NOT NULL
    AND run_measures.value IS NOT NULL
    AND measure_keys.condition IS NOT NULL
GROUP BY run_measures.column_name, measure_keys.condition;
