-- The model that each result file belongs to now: that of the newest link, under its present name. Of a file that changed,
-- the newest contents count, with all of their rows: several names in one file may be one model.
CREATE OR REPLACE VIEW result_links AS
WITH newest_links AS (
    SELECT *
    FROM links
    QUALIFY row_number() OVER (PARTITION BY result_id ORDER BY commit_id DESC, model_id, rule, source_uri) = 1
),
named_links AS (
    SELECT newest_links.* REPLACE (coalesce(name_changes.new_model_id, newest_links.model_id) AS model_id)
    FROM newest_links
    LEFT JOIN name_changes
        ON name_changes.model_id = newest_links.model_id
        AND name_changes.commit_id = newest_links.commit_id
    WHERE name_changes.is_dropped IS DISTINCT FROM TRUE
)
SELECT *
FROM named_links
QUALIFY
    coalesce(file_id, result_id) = first_value(coalesce(file_id, result_id)) OVER (
        PARTITION BY model_id, source_uri
        ORDER BY commit_id DESC, result_id
    );
