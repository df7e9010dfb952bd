-- Every content that a model has had, oldest first.
SELECT
    model_id,
    ingested_at,
    checkpoint_id,
    source_kind,
    params,
    base_params,
    reduction_ratio,
    num_layers,
    base_num_layers,
    source_uri
FROM history
ORDER BY
    model_id,
    commit_id,
    checkpoint_id,
    source_kind;
