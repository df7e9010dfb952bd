-- One row a model: a note on what is missing, unusual or contradictory about it. Null where there is nothing to say.
CREATE OR REPLACE VIEW status_notes AS
WITH shown AS MATERIALIZED (
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
        notes
    FROM current_checkpoints
),
known_models AS (
    SELECT model_id FROM shown
    UNION
    SELECT model_id FROM result_links
),
unpruned AS (
    SELECT
        checkpoint_id,
        base_checkpoint_id,
        verdict
    FROM checkpoint_changes
    WHERE n_identical + n_cast = n_tensors
),
twins AS (
    SELECT
        checkpoint_id,
        list(model_id ORDER BY model_id) AS model_ids
    FROM shown
    WHERE source_kind = 'weights'
    GROUP BY checkpoint_id
)
SELECT
    known_models.model_id,
    nullif(
        concat_ws(
            '; ',
            CASE
                WHEN shown.checkpoint_id IS NULL
                    THEN 'results alone, no structure: size and parameters as they report them'
            END,
            CASE
                WHEN layer_summary.is_map_unknown AND bases.num_layers > shown.num_layers
                    THEN concat(
                        bases.num_layers - shown.num_layers, ' of ', bases.num_layers,
                        ' blocks removed, no file says which'
                    )
                WHEN layer_summary.is_map_unknown THEN 'no file says which block of the base each layer is'
            END,
            CASE
                WHEN shown.checkpoint_id IS NOT NULL AND shown.base_checkpoint_id IS NULL THEN 'no base to compare with'
            END,
            CASE WHEN shown.status = 'partial' THEN 'not all of it could be read' END,
            CASE
                WHEN
                    shown.zeros = 0
                    AND claims_zeros(
                        shown.model_id, shown.method, shown.declared_ratio, reduction(bases.params, shown.params)
                    )
                    THEN 'the name declares a cut; no zeros stored, no mask found'
            END,
            unpruned.verdict,
            CASE
                WHEN len(twins.model_ids) > 1
                    THEN concat(
                        'identical to ',
                        array_to_string(list_filter(twins.model_ids, LAMBDA twin: twin <> shown.model_id)[:3], ', ')
                    )
            END,
            nullif(array_to_string(list_transform(shown.notes, LAMBDA note: note.text), '; '), '')
        ),
        ''
    ) AS status_note
FROM known_models
LEFT JOIN shown ON shown.model_id = known_models.model_id
LEFT JOIN checkpoint_facts AS bases ON bases.checkpoint_id = shown.base_checkpoint_id
LEFT JOIN layer_summary ON layer_summary.model_id = shown.model_id
LEFT JOIN unpruned
    ON unpruned.checkpoint_id = shown.checkpoint_id
    AND unpruned.base_checkpoint_id = shown.base_checkpoint_id
LEFT JOIN twins ON twins.checkpoint_id = shown.checkpoint_id;
