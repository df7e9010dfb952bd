-- The results that count for each model: the newest contents of a file, and the newest run of a measure.
CREATE OR REPLACE VIEW model_results AS
SELECT
    result_links.model_id,
    result_links.rule,
    results.*
FROM results
JOIN result_links ON result_links.result_id = results.result_id
QUALIFY
    row_number() OVER (
        PARTITION BY result_links.model_id, results.suite, results.measure_id
        ORDER BY results.run_at DESC NULLS LAST, results.commit_id DESC, results.source_uri, results.value
    ) = 1;
