-- Quality, speed and memory in long form: one row a model, kind and measure, from its newest run; a newest run without a
-- number gives no row. Kinds: task (a zero-shot task by its usual metric), score (everything else about tasks: other tasks,
-- shots and caps, and all scores of a task whose usual metric is missing), group (a score over several tasks), perplexity
-- (per token, by dataset and context), speed, memory. An accuracy without a named metric is the evaluator's own choice of
-- metric; it counts as the task's score where nothing else is given.
CREATE OR REPLACE VIEW measures AS
WITH runs AS (
    SELECT
        result_links.model_id,
        results.suite,
        results.task,
        results.subset,
        results.metric,
        results.filter,
        results.n_shot,
        results.sample_limit,
        results.unit,
        results.dataset,
        results.split,
        results.seq_len,
        results.stride,
        results.batch_size,
        results.hardware,
        coalesce(results.is_group, FALSE) AS is_group,
        CASE WHEN results.status = 'ok' THEN results.value END AS value,
        (coalesce(results.run_at, CAST('-infinity' AS TIMESTAMPTZ)), results.commit_id, results.value) AS recency
    FROM results
    JOIN result_links ON result_links.result_id = results.result_id
),
task_values AS (
    SELECT
        model_id,
        task,
        coalesce(
            arg_max_null(value, recency) FILTER (WHERE metric = task_metric(task) AND coalesce(filter, 'none') = 'none'),
            CASE
                WHEN bool_and(metric = 'accuracy') THEN arg_max_null(value, recency) FILTER (WHERE metric = 'accuracy')
            END
        ) AS value
    FROM runs
    WHERE
        suite = 'zeroshot'
        AND NOT is_group
        AND task_metric(task) IS NOT NULL
        AND coalesce(n_shot, 0) = 0
        AND sample_limit IS NULL
    GROUP BY model_id, task
)
SELECT
    model_id,
    'task' AS kind,
    task AS measure,
    CAST(NULL AS VARCHAR) AS hardware,
    value
FROM task_values
WHERE value IS NOT NULL
UNION ALL
SELECT
    runs.model_id,
    CASE WHEN runs.is_group THEN 'group' ELSE 'score' END AS kind,
    score_key(runs.task, runs.metric, runs.filter, runs.n_shot, runs.sample_limit) AS measure,
    CAST(NULL AS VARCHAR) AS hardware,
    arg_max_null(runs.value, runs.recency) AS value
FROM runs
LEFT JOIN task_values
    ON task_values.model_id = runs.model_id
    AND task_values.task = runs.task
    AND task_values.value IS NOT NULL
WHERE
    runs.suite IN ('zeroshot', 'fewshot')
    AND (
        runs.is_group
        OR runs.suite = 'fewshot'
        OR runs.n_shot > 0
        OR runs.sample_limit IS NOT NULL
        OR task_values.task IS NULL
    )
GROUP BY ALL
HAVING arg_max_null(runs.value, runs.recency) IS NOT NULL
UNION ALL
SELECT
    model_id,
    'perplexity' AS kind,
    perplexity_key(dataset, subset, split, seq_len, stride) AS measure,
    CAST(NULL AS VARCHAR) AS hardware,
    arg_max_null(value, recency) AS value
FROM runs
WHERE metric = 'perplexity' AND unit = 'per_token' AND NOT is_group
GROUP BY ALL
HAVING arg_max_null(value, recency) IS NOT NULL
UNION ALL
SELECT
    model_id,
    suite AS kind,
    speed_key(metric, subset, batch_size, hardware) AS measure,
    hardware,
    arg_max_null(value, recency) AS value
FROM runs
WHERE suite IN ('speed', 'memory')
GROUP BY ALL
HAVING arg_max_null(value, recency) IS NOT NULL;
