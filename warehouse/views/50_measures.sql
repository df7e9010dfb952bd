-- Quality, speed and memory in long form: one row a model and measure that has a number, of the plain run, or of each run of a
-- model without a plain one. Conflicts (the query conflicts) and values of doubtful scale (the query doubtful) are left out.
-- Kinds are those of measure_keys. An accuracy without a named metric is the evaluator's own choice of metric; it counts as the
-- task's score where the run has nothing else of the task.
CREATE OR REPLACE VIEW measures AS
SELECT
    model_id,
    variant,
    is_plain,
    kind,
    measure,
    task,
    metric,
    hardware,
    value,
    stderr,
    unit,
    higher_is_better,
    n_shot,
    sample_limit
FROM run_measures
WHERE is_shown AND value IS NOT NULL AND NOT is_doubtful;
