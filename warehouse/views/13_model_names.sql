-- The names of all models: of those with a structure, and of those with results alone.
CREATE OR REPLACE VIEW model_names AS
SELECT model_id FROM sightings
UNION
SELECT model_id FROM result_links
WHERE model_id IS NOT NULL;
