-- Quality, speed and memory in long form: one row a model, kind and measure, of its newest run; a newest run without a number
-- gives none. Kinds: task (a zero-shot task by its metric), score (what else a task has: other tasks, shots and caps, and of a
-- task whose metric is missing what there is), group (a score over tasks), perplexity (per token, by dataset and context),
-- speed, memory. An accuracy without a name for its metric means the evaluator's own choice of metric; it stands where nothing
-- else is given for that task.
CREATE OR REPLACE VIEW measures AS
WITH found AS (
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
tasks AS (
    SELECT
        model_id,
        task,
        coalesce(
            arg_max_null(value, recency) FILTER (WHERE metric = task_metric(task) AND coalesce(filter, 'none') = 'none'),
            CASE
                WHEN bool_and(metric = 'accuracy') THEN arg_max_null(value, recency) FILTER (WHERE metric = 'accuracy')
            END
        ) AS value
    FROM found
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
FROM tasks
WHERE value IS NOT NULL
UNION ALL
SELECT
    found.model_id,
    CASE WHEN found.is_group THEN 'group' ELSE 'score' END AS kind,
    score_key(found.task, found.metric, found.filter, found.n_shot, found.sample_limit) AS measure,
    CAST(NULL AS VARCHAR) AS hardware,
    arg_max_null(found.value, found.recency) AS value
FROM found
LEFT JOIN tasks
    ON tasks.model_id = found.model_id
    AND tasks.task = found.task
    AND tasks.value IS NOT NULL
WHERE
    found.suite IN ('zeroshot', 'fewshot')
    AND (
        found.is_group
        OR found.suite = 'fewshot'
        OR found.n_shot > 0
        OR found.sample_limit IS NOT NULL
        OR tasks.task IS NULL
    )
GROUP BY ALL
HAVING arg_max_null(found.value, found.recency) IS NOT NULL
UNION ALL
SELECT
    model_id,
    'perplexity' AS kind,
    perplexity_key(dataset, subset, split, seq_len, stride) AS measure,
    CAST(NULL AS VARCHAR) AS hardware,
    arg_max_null(value, recency) AS value
FROM found
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
FROM found
WHERE suite IN ('speed', 'memory')
GROUP BY ALL
HAVING arg_max_null(value, recency) IS NOT NULL;
