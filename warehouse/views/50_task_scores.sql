-- One row a model and task: the score by the task's metric. A file that gives one unnamed accuracy for a task means its own
-- choice, which stands where the file gives nothing else for that task.
CREATE OR REPLACE VIEW task_scores AS
WITH scores AS (
    SELECT
        *,
        count(*) FILTER (WHERE metric <> 'accuracy') OVER (PARTITION BY model_id, task, result_id) AS named_metrics
    FROM model_results
    WHERE suite = 'zeroshot' AND NOT is_group AND status = 'ok'
)
SELECT
    model_id,
    task,
    arg_max(value, (run_at, commit_id)) AS accuracy
FROM scores
WHERE
    (metric = task_metric(task) AND coalesce(filter, 'none') = 'none')
    OR (metric = 'accuracy' AND named_metrics = 0 AND task_metric(task) IS NOT NULL)
GROUP BY model_id, task;
