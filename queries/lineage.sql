-- What each model was made from, as its tensors tell, with the evidence, and what it is compared with.
SELECT
    model_id,
    descent,
    parent_model,
    second_parent_model,
    root_model,
    generation,
    parent_rule,
    distance,
    same_share,
    rounded_share,
    masked_share,
    changed_share,
    second_parent_share,
    descent_confidence,
    runner_up_model,
    runner_up_distance,
    base_model,
    base_rule
FROM lineage
ORDER BY model_id;
