-- Quality, speed and memory in long form: one row a model, kind and measure. Kinds: task (a zero-shot task by its metric),
-- score (what else a task has: other tasks, shots and caps, and of a task whose metric is missing what there is), perplexity
-- (per token, by dataset and context), speed, memory. An accuracy without a name for its metric means the evaluator's own
-- choice of metric; it stands where nothing else is given for that task.
CREATE OR REPLACE VIEW measures AS
WITH model_values AS MATERIALIZED (
    SELECT
        model_id,
        suite,
        task,
        subset,
        metric,
        filter,
        n_shot,
        sample_limit,
        unit,
        dataset,
        seq_len,
        stride,
        batch_size,
        CASE WHEN status = 'ok' THEN value END AS value,
        (coalesce(run_at, CAST('-infinity' AS TIMESTAMPTZ)), commit_id, value) AS recency
    FROM model_results
    WHERE is_group IS DISTINCT FROM TRUE
),
tasks AS MATERIALIZED (
    SELECT
        model_id,
        task,
        coalesce(
            arg_max(value, recency) FILTER (WHERE metric = task_metric(task) AND coalesce(filter, 'none') = 'none'),
            CASE
                WHEN bool_and(metric = 'accuracy') THEN arg_max(value, recency) FILTER (WHERE metric = 'accuracy')
            END
        ) AS value
    FROM model_values
    WHERE suite = 'zeroshot' AND task_metric(task) IS NOT NULL AND coalesce(n_shot, 0) = 0 AND sample_limit IS NULL
    GROUP BY model_id, task
)
SELECT model_id, 'task' AS kind, task AS measure, value
FROM tasks
WHERE value IS NOT NULL
UNION ALL
SELECT
    model_id,
    'score' AS kind,
    concat(
        task, '/', metric,
        CASE WHEN coalesce(filter, 'none') <> 'none' THEN concat(',', filter) END,
        CASE WHEN n_shot > 0 THEN concat('@', n_shot, 'shot') END,
        CASE WHEN sample_limit IS NOT NULL THEN concat('@limit', sample_limit) END
    ) AS measure,
    arg_max(value, recency) AS value
FROM model_values
WHERE
    suite IN ('zeroshot', 'fewshot')
    AND value IS NOT NULL
    AND (
        suite = 'fewshot'
        OR n_shot > 0
        OR sample_limit IS NOT NULL
        OR (model_id, task) NOT IN (SELECT (model_id, task) FROM tasks WHERE value IS NOT NULL)
    )
GROUP BY ALL
UNION ALL
SELECT
    model_id,
    'perplexity' AS kind,
    perplexity_key(dataset, subset, seq_len, stride) AS measure,
    arg_max(value, recency) AS value
FROM model_values
WHERE metric = 'perplexity' AND unit = 'per_token' AND value IS NOT NULL
GROUP BY ALL
UNION ALL
SELECT
    model_id,
    suite AS kind,
    concat(metric, CASE WHEN batch_size IS NOT NULL THEN concat('@bs', batch_size) END) AS measure,
    arg_max(value, recency) AS value
FROM model_values
WHERE suite IN ('speed', 'memory') AND value IS NOT NULL
GROUP BY ALL;
