-- The values that stand for each model: of one file its newest contents, of one measure its newest run.
CREATE OR REPLACE VIEW model_results AS
WITH present_results AS (
    SELECT
        result_links.model_id,
        result_links.rule,
        results.*
    FROM results
    JOIN result_links ON result_links.result_id = results.result_id
    QUALIFY
        dense_rank() OVER (PARTITION BY result_links.model_id, results.source_uri ORDER BY results.commit_id DESC) = 1
)
SELECT *
FROM present_results
QUALIFY
    row_number() OVER (
        PARTITION BY
            model_id, harness, suite, task, subset, metric, filter, unit, n_shot, dataset, split, seq_len, stride,
            batch_size, hardware, sample_limit, revision, adapter
        ORDER BY run_at DESC NULLS LAST, commit_id DESC, source_uri, value
    ) = 1;
