-- Every content that a model has had, oldest first; the same content seen twice in a row is one row.
CREATE OR REPLACE VIEW history AS
WITH changes AS (
    SELECT *
    FROM sightings
    QUALIFY
        checkpoint_id IS DISTINCT FROM
        lag(checkpoint_id) OVER (PARTITION BY model_id, source_kind ORDER BY commit_id, checkpoint_id)
)
SELECT
    changes.model_id,
    changes.ingested_at,
    changes.checkpoint_id,
    changes.source_kind,
    changes.params,
    bases.params AS base_params,
    reduction(bases.params, changes.params) AS reduction_ratio,
    changes.zeros / nullif(changes.params, 0) AS sparsity,
    changes.params / nullif(bases.params, 0) AS params_retention,
    changes.nonzero_params / nullif(bases.nonzero_params, 0) AS nonzero_retention,
    changes.logical_bytes / nullif(bases.logical_bytes, 0) AS bytes_retention,
    changes.macs_per_token / nullif(bases.macs_per_token, 0) AS macs_retention,
    changes.num_layers,
    bases.num_layers AS base_num_layers,
    changes.source_uri,
    changes.commit_id
FROM changes
JOIN checkpoint_facts AS facts ON facts.checkpoint_id = changes.checkpoint_id
LEFT JOIN checkpoint_facts AS bases ON bases.checkpoint_id = facts.base_checkpoint_id;
