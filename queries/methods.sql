-- By method and declared ratio: the number of models, and mean, best and worst of reduction, perplexity and accuracy, and of
-- the deviation of the layers' retention. kept_by says what kept_share_mean is counted in, of n_kept models: parameters that
-- are not zero where these are known of every model that has a base, else parameters. Models without a method, such as bases,
-- are left out, since a mean over different bases says nothing.
SELECT
    method,
    declared_ratio,
    declared_removed_layers,
    n_models,
    n_reduction,
    reduction_ratio_mean,
    reduction_ratio_best,
    kept_measure(sum(n_nonzero) OVER (), sum(n_reduction) OVER ()) AS kept_by,
    by_measure(kept_by, n_reduction, n_nonzero, n_bytes, n_macs) AS n_kept,
    by_measure(
        kept_by,
        params_retention_mean,
        nonzero_retention_mean,
        bytes_retention_mean,
        macs_retention_mean
    ) AS kept_share_mean,
    n_sparsity,
    sparsity_mean,
    n_ppl,
    ppl_wikitext2_mean,
    ppl_wikitext2_best,
    ppl_wikitext2_worst,
    n_accuracy,
    mean_accuracy_mean,
    mean_accuracy_best,
    mean_accuracy_worst,
    n_deviation,
    retention_std_mean,
    retention_std_min,
    retention_std_max
FROM method_groups
ORDER BY
    method,
    declared_ratio NULLS LAST,
    declared_removed_layers NULLS LAST;
