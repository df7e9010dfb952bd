-- Every content that a model has had, oldest first. kept_by says what kept_share is counted in: parameters that are not zero
-- where these are known of every content that has a base, else parameters.
SELECT
    model_id,
    ingested_at,
    checkpoint_id,
    source_kind,
    params,
    base_params,
    reduction_ratio,
    kept_measure(count(nonzero_retention) OVER (), count(params_retention) OVER ()) AS kept_by,
    by_measure(kept_by, params_retention, nonzero_retention, bytes_retention, macs_retention) AS kept_share,
    sparsity,
    num_layers,
    base_num_layers,
    source_uri
FROM history
ORDER BY
    model_id,
    commit_id,
    checkpoint_id,
    source_kind;
