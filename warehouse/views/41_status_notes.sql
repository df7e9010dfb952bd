-- One row a model: a note on what is missing, unusual or contradictory, null if there is nothing of that kind.
CREATE OR REPLACE VIEW status_notes AS
WITH own_checkpoints AS MATERIALIZED (
    SELECT
        model_id,
        checkpoint_id,
        base_checkpoint_id,
        source_kind,
        status,
        method,
        declared_ratio,
        params,
        num_layers,
        zeros,
        rules_version,
        notes
    FROM current_checkpoints
),
unpruned AS (
    SELECT
        checkpoint_id,
        base_checkpoint_id,
        verdict
    FROM checkpoint_changes
    WHERE list_has_all(['identical', 'cast', 'relaid', 'blocks_repeated', 'blocks_reordered'], verdicts)
),
stale_results AS (
    SELECT DISTINCT model_id
    FROM model_runs
    WHERE is_stale
),
twins AS (
    SELECT
        checkpoint_id,
        list(model_id ORDER BY model_id) AS names
    FROM own_checkpoints
    WHERE source_kind = 'weights'
    GROUP BY checkpoint_id
)
SELECT
    model_names.model_id,
    nullif(
        concat_ws(
            '; ',
            CASE
                WHEN own.checkpoint_id IS NULL
                    THEN 'results alone, no structure: size and parameters as they report them'
            END,
            CASE
                WHEN layer_summary.is_map_unknown AND bases.num_layers > own.num_layers
                    THEN (bases.num_layers - own.num_layers)
                        || ' of '
                        || bases.num_layers
                        || ' blocks removed, no file says which'
                WHEN layer_summary.is_map_unknown THEN 'no file says which block of the base each layer is'
            END,
            CASE
                WHEN list_contains([note.code FOR note IN own.notes], 'unread') THEN 'not comparable with a base'
                WHEN own.checkpoint_id IS NOT NULL AND own.base_checkpoint_id IS NULL THEN 'no base to compare with'
            END,
            CASE
                WHEN own.source_kind = 'weights' AND coalesce(own.rules_version, 1) < current_rules()
                    THEN 'stale: read by rules of an earlier version, ingest it again'
            END,
            CASE
                WHEN stale_results.model_id IS NOT NULL
                    THEN 'stale results: read by rules of an earlier version, ingest their files again'
            END,
            CASE WHEN own.status = 'partial' THEN 'not all of it could be read' END,
            CASE
                WHEN
                    own.zeros = 0
                    AND claims_zeros(own.model_id, own.method, own.declared_ratio, reduction(bases.params, own.params))
                    THEN 'the name declares a cut; no zeros stored, no mask found'
            END,
            unpruned.verdict,
            CASE
                WHEN len(twins.names) > 1
                    THEN CASE WHEN own.status = 'partial' THEN 'as far as it could be read, ' ELSE '' END
                        || 'identical to '
                        || array_to_string([name FOR name IN twins.names IF name <> own.model_id][:3], ', ')
            END,
            nullif(array_to_string([note.text FOR note IN own.notes], '; '), '')
        ),
        ''
    ) AS status_note
FROM model_names
LEFT JOIN own_checkpoints AS own ON own.model_id = model_names.model_id
LEFT JOIN checkpoint_facts AS bases ON bases.checkpoint_id = own.base_checkpoint_id
LEFT JOIN layer_summary ON layer_summary.model_id = own.model_id
LEFT JOIN unpruned
    ON unpruned.checkpoint_id = own.checkpoint_id
    AND unpruned.base_checkpoint_id = own.base_checkpoint_id
LEFT JOIN stale_results ON stale_results.model_id = model_names.model_id
LEFT JOIN twins ON twins.checkpoint_id = own.checkpoint_id;
