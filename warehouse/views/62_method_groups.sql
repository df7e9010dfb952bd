-- By method and declared ratio: the number of models, and the mean and best of what they reach in their plain runs. A mean is
-- over the models that have the number; the columns n_... count them. Models whose name declares no method, such as bases, are
-- left out, since a mean over different bases says nothing. Means are taken in the order of names, so that they are always the
-- same.
CREATE OR REPLACE VIEW method_groups AS
SELECT
    models.method,
    models.declared_ratio,
    models.declared_removed_layers,
    count(*) AS n_models,
    count(models.reduction_ratio) AS n_reduction,
    avg(models.reduction_ratio ORDER BY models.model_id, performance.variant) AS reduction_ratio_mean,
    max(models.reduction_ratio) AS reduction_ratio_best,
    avg(models.params_retention ORDER BY models.model_id, performance.variant) AS params_retention_mean,
    count(models.nonzero_retention) AS n_nonzero,
    avg(models.nonzero_retention ORDER BY models.model_id, performance.variant) AS nonzero_retention_mean,
    count(models.bytes_retention) AS n_bytes,
    avg(models.bytes_retention ORDER BY models.model_id, performance.variant) AS bytes_retention_mean,
    count(models.macs_retention) AS n_macs,
    avg(models.macs_retention ORDER BY models.model_id, performance.variant) AS macs_retention_mean,
    count(models.sparsity) AS n_sparsity,
    avg(models.sparsity ORDER BY models.model_id, performance.variant) AS sparsity_mean,
    count(performance.ppl_wikitext2) AS n_ppl,
    avg(performance.ppl_wikitext2 ORDER BY models.model_id, performance.variant) AS ppl_wikitext2_mean,
    min(performance.ppl_wikitext2) AS ppl_wikitext2_best,
    max(performance.ppl_wikitext2) AS ppl_wikitext2_worst,
    count(performance.mean_accuracy) AS n_accuracy,
    avg(performance.mean_accuracy ORDER BY models.model_id, performance.variant) AS mean_accuracy_mean,
    max(performance.mean_accuracy) AS mean_accuracy_best,
    min(performance.mean_accuracy) AS mean_accuracy_worst,
    count(models.retention_std) AS n_deviation,
    avg(models.retention_std ORDER BY models.model_id, performance.variant) AS retention_std_mean,
    min(models.retention_std) AS retention_std_min,
    max(models.retention_std) AS retention_std_max
FROM models
LEFT JOIN performance
    ON performance.model_id = models.model_id
    AND performance.is_plain
WHERE models.method IS NOT NULL
GROUP BY models.method, models.declared_ratio, models.declared_removed_layers;
