-- The checkpoint that each model has now: weights take precedence over analyses, then the newest counts.
CREATE OR REPLACE VIEW current_checkpoints AS
WITH newest_sightings AS (
    SELECT *
    FROM sightings
    QUALIFY
        row_number() OVER (
            PARTITION BY model_id
            ORDER BY source_kind = 'weights' DESC, commit_id DESC, checkpoint_id, source_uri, fingerprint, status
        ) = 1
)
SELECT
    newest_sightings.*,
    checkpoint_facts.base_checkpoint_id,
    checkpoint_facts.base_rule
FROM newest_sightings
JOIN checkpoint_facts ON checkpoint_facts.checkpoint_id = newest_sightings.checkpoint_id;
