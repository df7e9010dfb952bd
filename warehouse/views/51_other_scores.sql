-- Scores that no column of the performance table shows, by key task/metric (and filter): tasks outside of the seven, and of
-- the seven what there is where the metric of the task is missing.
CREATE OR REPLACE VIEW other_scores AS
SELECT
    model_results.model_id,
    concat(
        model_results.task, '/', model_results.metric,
        CASE WHEN coalesce(model_results.filter, 'none') <> 'none' THEN concat(',', model_results.filter) END
    ) AS score_key,
    arg_max(model_results.value, (model_results.run_at, model_results.commit_id)) AS value
FROM model_results
LEFT JOIN task_scores
    ON task_scores.model_id = model_results.model_id
    AND task_scores.task = model_results.task
WHERE
    model_results.suite = 'zeroshot'
    AND NOT model_results.is_group
    AND model_results.status = 'ok'
    AND task_scores.task IS NULL
GROUP BY ALL;
