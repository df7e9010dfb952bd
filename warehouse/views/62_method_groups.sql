-- By method and declared ratio: the number of models, and the mean and best of what they reach. A mean is over the models
-- that have the number; the columns n_... count them. Models whose name declares no method, such as bases, are left out,
-- since a mean over different bases says nothing.
CREATE OR REPLACE VIEW method_groups AS
SELECT
    method,
    declared_ratio,
    declared_removed_layers,
    count(*) AS n_models,
    count(reduction_ratio) AS n_reduction,
    avg(reduction_ratio) AS reduction_ratio_mean,
    max(reduction_ratio) AS reduction_ratio_best,
    count(ppl_wikitext2) AS n_ppl,
    avg(ppl_wikitext2) AS ppl_wikitext2_mean,
    min(ppl_wikitext2) AS ppl_wikitext2_best,
    count(mean_accuracy) AS n_accuracy,
    avg(mean_accuracy) AS mean_accuracy_mean,
    max(mean_accuracy) AS mean_accuracy_best
FROM performance
WHERE method IS NOT NULL
GROUP BY method, declared_ratio, declared_removed_layers;
