-- The thresholds and formulas of layerhouse, each in one place.

-- Share of the base's parameters that is gone: 0 nothing, 1 all, negative where the layer or model grew.
CREATE OR REPLACE MACRO reduction(base_count, kept_count) AS
    (base_count - kept_count) / nullif(base_count, 0);

-- Bytes as GiB.
CREATE OR REPLACE MACRO gib(bytes) AS
    bytes / 1073741824;

-- The stack whose layers stand for a model is the one of least rank: text, else the decoder, and so on.
CREATE OR REPLACE MACRO stack_rank(stack) AS
    list_position(['text', 'decoder', 'encoder', 'vision', 'audio', 'projector', 'mtp'], stack);

-- The one value of a list of the least and greatest; null where they differ.
CREATE OR REPLACE MACRO uniform(bounds) AS
    CASE WHEN bounds[1] = bounds[2] THEN bounds[1] END;

-- Whether a name says that values were set to zero: N:M in it, a method that leaves shapes as they are, or a share while no
-- parameter is gone.
CREATE OR REPLACE MACRO claims_zeros(model_id, method, declared_ratio, reduction_ratio) AS
    coalesce(reduction_ratio, 0) = 0
    AND (
        regexp_matches(regexp_extract(model_id, '[^/]*$'), '(^|[^0-9])[0-9]{1,2}(:|of)[0-9]{1,2}($|[^0-9])')
        OR coalesce(method IN ('Wanda', 'Wanda++', 'SparseGPT', 'Magnitude', 'DSnoT', 'OWL', 'RIA'), FALSE)
        OR coalesce(declared_ratio > 0 AND reduction_ratio = 0, FALSE)
    );

-- A share that a config states, seen both as 0.48 and as 48.05, as a fraction; null for what is no share.
CREATE OR REPLACE MACRO stated_share(text) AS
    CASE
        WHEN TRY_CAST(text AS DOUBLE) BETWEEN 0 AND 1 THEN TRY_CAST(text AS DOUBLE)
        WHEN TRY_CAST(text AS DOUBLE) BETWEEN 1 AND 100 THEN TRY_CAST(text AS DOUBLE) / 100
    END;

-- Level of a layer, disjoint; a layer whose base is not known has none, unless it is empty.
CREATE OR REPLACE MACRO layer_level(is_removed, is_zero, reduction_ratio) AS
    CASE
        WHEN is_removed THEN 'removed'
        WHEN is_zero THEN 'zero'
        WHEN reduction_ratio > 0.8 THEN 'heavy'
        WHEN reduction_ratio >= 0.2 THEN 'medium'
        WHEN reduction_ratio > 0 THEN 'light'
        WHEN reduction_ratio = 0 THEN 'untouched'
        WHEN reduction_ratio < 0 THEN 'grown'
    END;

-- How a model was cut: the first that holds. Null where a deciding number is not known.
CREATE OR REPLACE MACRO pruning_strategy(
    num_removed, least_survivor_retention, is_hidden_size_changed, are_shapes_kept, added_sparsity, retention_deviation
) AS
    CASE
        WHEN num_removed > 0 AND least_survivor_retention >= 0.999 THEN 'layer_removal'
        WHEN num_removed > 0 AND least_survivor_retention < 0.999 THEN 'mixed'
        WHEN num_removed > 0 THEN NULL
        WHEN is_hidden_size_changed THEN 'sliced'
        WHEN are_shapes_kept AND added_sparsity > 0.01 THEN 'masked'
        WHEN are_shapes_kept AND added_sparsity IS NOT NULL THEN 'dense'
        WHEN are_shapes_kept THEN NULL
        WHEN retention_deviation < 0.05 THEN 'uniform'
        WHEN retention_deviation >= 0.05 THEN 'non_uniform'
    END;

-- Identity of a perplexity as text: dataset, subset where it is not the usual one, split where it is not the test one, context
-- length, stride; ? is not stated.
CREATE OR REPLACE MACRO perplexity_key(dataset, subset, split, seq_len, stride) AS
    concat(
        coalesce(dataset, '?'),
        CASE WHEN subset <> 'wikitext-2-raw-v1' THEN concat(' (', subset, ')') END,
        CASE WHEN split <> 'test' THEN concat(' ', split) END,
        '@', coalesce(CAST(seq_len AS VARCHAR), '?'),
        CASE WHEN stride IS NOT NULL THEN concat('/', stride) END
    );

-- Identity of a score as text: task, metric, filter, examples in the prompt and cap on the documents where there are any.
CREATE OR REPLACE MACRO score_key(task, metric, answer_filter, n_shot, sample_limit) AS
    concat(
        task, '/', metric,
        CASE WHEN coalesce(answer_filter, 'none') <> 'none' THEN concat(',', answer_filter) END,
        CASE WHEN n_shot > 0 THEN concat('@', n_shot, 'shot') END,
        CASE
            WHEN sample_limit >= 1 THEN concat('@limit', CAST(sample_limit AS BIGINT))
            WHEN sample_limit IS NOT NULL THEN concat('@limit', sample_limit)
        END
    );

-- Identity of a speed or of memory as text: kind of rate, batch size, setting (request rate, lengths), hardware.
CREATE OR REPLACE MACRO speed_key(metric, setting, batch_size, hardware) AS
    concat(
        metric,
        CASE WHEN batch_size IS NOT NULL THEN concat('@bs', batch_size) END,
        CASE WHEN setting IS NOT NULL THEN concat(' (', setting, ')') END,
        CASE WHEN hardware IS NOT NULL THEN concat(' on ', hardware) END
    );

-- The metric by which a zero-shot task is reported: acc_norm where answers are ranked by length, acc elsewhere.
CREATE OR REPLACE MACRO task_metric(task) AS
    CASE
        WHEN task IN ('piqa', 'hellaswag', 'arc_easy', 'arc_challenge', 'openbookqa') THEN 'acc_norm'
        WHEN task IN ('boolq', 'winogrande') THEN 'acc'
    END;
