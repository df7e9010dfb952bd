-- Perplexities per token by identity: dataset, context length, stride.
CREATE OR REPLACE VIEW perplexities AS
SELECT
    model_id,
    dataset,
    subset,
    seq_len,
    stride,
    perplexity_key(dataset, subset, seq_len, stride) AS perplexity_key,
    arg_max(value, (run_at, commit_id)) AS perplexity
FROM model_results
WHERE metric = 'perplexity' AND unit = 'per_token' AND status = 'ok'
GROUP BY ALL;
