-- Thresholds and formulas that several views and queries use, each defined once.

-- Version of the rules by which an ingest of today makes rows; rows of an older one are stale.
CREATE OR REPLACE MACRO current_rules() AS (
    3
);

-- The same for results.
CREATE OR REPLACE MACRO current_result_rules() AS (
    2
);

-- Share of the base's parameters that is gone: 0 none, 1 all, negative where the layer or model grew.
CREATE OR REPLACE MACRO reduction(base_count, kept_count) AS (
    (base_count - kept_count) / nullif(base_count, 0)
);

-- What kept shares are counted in, one measure for a table: what the session asks for with SET VARIABLE kept_by, else
-- parameters that are not zero where these are known of every row whose parameters are, else parameters.
CREATE OR REPLACE MACRO kept_measure(num_nonzero, num_params) AS (
    coalesce(
        getvariable('kept_by'),
        CASE WHEN num_nonzero > 0 AND num_nonzero >= num_params THEN 'nonzero' ELSE 'params' END
    )
);

-- The one of four numbers that is counted in a measure.
CREATE OR REPLACE MACRO by_measure(kept_by, by_params, by_nonzero, by_bytes, by_macs) AS (
    CASE
        WHEN kept_by = 'params' THEN by_params
        WHEN kept_by = 'nonzero' THEN by_nonzero
        WHEN kept_by = 'bytes' THEN by_bytes
        WHEN kept_by = 'macs' THEN by_macs
    END
);

-- Bytes as GiB.
CREATE OR REPLACE MACRO gib(bytes) AS (
    bytes / 1073741824
);

-- Rank of a stack. The stack of the lowest rank among those with layers stands for the model.
CREATE OR REPLACE MACRO stack_rank(stack) AS (
    list_position(['text', 'decoder', 'encoder', 'vision', 'audio', 'projector', 'mtp'], stack)
);

-- The value of a pair [least, greatest] where both are equal, else null.
CREATE OR REPLACE MACRO uniform(bounds) AS (
    CASE WHEN bounds[1] = bounds[2] THEN bounds[1] END
);

-- True if a model's name claims that values were set to zero: it contains an N:M pattern, names a method that keeps all shapes,
-- or declares a ratio although no parameter is gone.
CREATE OR REPLACE MACRO claims_zeros(model_id, method, declared_ratio, reduction_ratio) AS (
    coalesce(reduction_ratio, 0) = 0
    AND (
        regexp_matches(regexp_extract(model_id, '[^/]*$'), '(^|[^0-9])[0-9]{1,2}(:|of)[0-9]{1,2}($|[^0-9])')
        OR coalesce(method IN ('Wanda', 'Wanda++', 'SparseGPT', 'Magnitude', 'DSnoT', 'OWL', 'RIA'), FALSE)
        OR coalesce(declared_ratio > 0 AND reduction_ratio = 0, FALSE)
    )
);

-- A share that a config states, as a fraction. Files write both 0.48 and 48.05; anything else is null.
CREATE OR REPLACE MACRO stated_share(text) AS (
    CASE
        WHEN TRY_CAST(text AS double) BETWEEN 0 AND 1 THEN TRY_CAST(text AS double)
        WHEN TRY_CAST(text AS double) BETWEEN 1 AND 100 THEN TRY_CAST(text AS double) / 100
    END
);

-- Level of a layer: exactly one, or null where the base is not known and the layer is not empty.
CREATE OR REPLACE MACRO layer_level(is_removed, is_zero, reduction_ratio) AS (
    CASE
        WHEN is_removed THEN 'removed'
        WHEN is_zero THEN 'zero'
        WHEN reduction_ratio > 0.8 THEN 'heavy'
        WHEN reduction_ratio >= 0.2 THEN 'medium'
        WHEN reduction_ratio > 0 THEN 'light'
        WHEN reduction_ratio = 0 THEN 'untouched'
        WHEN reduction_ratio < 0 THEN 'grown'
    END
);

-- Parameters of a tensor that are not zero. A tensor that adds none, such as a head that repeats the embedding, has none.
CREATE OR REPLACE MACRO nonzero_of(own_params, zeros) AS (
    CASE WHEN own_params = 0 THEN 0 ELSE own_params - zeros END
);

-- Multiply-accumulates of a token in a tensor: the elements of a linear weight, none of a bias, a norm or a table of
-- embeddings, and none where the config drops the sub-layer. Null for other tensors, for experts, of which each token takes
-- some, and for a head that repeats the embedding.
CREATE OR REPLACE MACRO tensor_macs(module, role, part, own_params, is_active) AS (
    CASE
        WHEN module IN ('norm', 'embedding') THEN 0
        WHEN
            module NOT IN ('attention', 'mlp', 'lm_head')
            OR role NOT IN (
                'q_proj',
                'k_proj',
                'v_proj',
                'o_proj',
                'qkv_proj',
                'gate_proj',
                'up_proj',
                'gate_up_proj',
                'down_proj',
                'lm_head'
            )
            THEN NULL
        WHEN part = 'bias' OR NOT is_active THEN 0
        WHEN own_params > 0 THEN own_params
    END
);

-- True if a part of a block (attention or mlp) does nothing: it has no parameters, they are all zero, or the config drops it.
-- Null where its parameters are not known.
CREATE OR REPLACE MACRO is_dead_part(part_params, part_nonzero, inactive_part, part) AS (
    part_params = 0
    OR coalesce(part_nonzero = 0, FALSE)
    OR coalesce(inactive_part IN (part, 'attention_mlp', 'block'), FALSE)
);

-- The same of a whole block.
CREATE OR REPLACE MACRO is_dead_block(is_zero, inactive_part) AS (
    coalesce(inactive_part = 'block', FALSE) OR is_zero
);

-- Which part of a block of the base does nothing any more, null where none is known to: a removed block, a dead one, or one
-- whose attention or MLP is dead.
CREATE OR REPLACE MACRO gone_part(is_removed, is_dead, was_dead, is_attention_gone, is_mlp_gone) AS (
    CASE
        WHEN is_removed OR (is_dead AND NOT was_dead) THEN 'block'
        WHEN is_attention_gone AND is_mlp_gone THEN 'attention_mlp'
        WHEN is_attention_gone THEN 'attention'
        WHEN is_mlp_gone THEN 'mlp'
    END
);

-- By how much a model is sparser than its base. Null where quantisation may have done it, whose rounding makes zeros too.
CREATE OR REPLACE MACRO added_sparsity(sparsity, base_sparsity, note_codes) AS (
    CASE
        WHEN sparsity - base_sparsity > 0.01 AND list_contains(note_codes, 'quantised') THEN NULL
        ELSE sparsity - base_sparsity
    END
);

-- How a model was cut: the first rule that applies. Null where a number that decides is not known.
CREATE OR REPLACE MACRO pruning_strategy(
    num_removed,
    least_survivor_retention,
    are_blocks_repeated,
    are_blocks_moved,
    is_hidden_size_changed,
    are_shapes_kept,
    added_sparsity,
    retention_deviation
) AS (
    CASE
        WHEN are_blocks_repeated THEN 'stacked'
        WHEN num_removed > 0 AND least_survivor_retention >= 0.999 THEN 'layer_removal'
        WHEN num_removed > 0 AND least_survivor_retention < 0.999 THEN 'mixed'
        WHEN num_removed > 0 THEN NULL
        WHEN are_blocks_moved THEN 'reordered'
        WHEN is_hidden_size_changed THEN 'sliced'
        WHEN are_shapes_kept AND added_sparsity > 0.01 THEN 'masked'
        WHEN are_shapes_kept AND added_sparsity IS NOT NULL THEN 'dense'
        WHEN are_shapes_kept THEN NULL
        WHEN least_survivor_retention > 1 THEN 'grown'
        WHEN retention_deviation < 0.05 THEN 'uniform'
        WHEN retention_deviation >= 0.05 THEN 'non_uniform'
    END
);

-- The numbers of blocks as text; those beyond the first 16 are counted.
CREATE OR REPLACE MACRO block_list(blocks) AS (
    array_to_string(blocks[:16], ' ') || CASE WHEN len(blocks) > 16 THEN concat(' and ', len(blocks) - 16, ' more') ELSE '' END
);

-- A count with its noun: 1 tensor, 1,234 tensors; the noun alone where the count is not known.
CREATE OR REPLACE MACRO counted(number, noun) AS (
    concat(format('{:,}', number) || ' ', noun, CASE WHEN number IS DISTINCT FROM 1 THEN 's' END)
);

-- What a perplexity was measured on, as text: dataset, subset and split unless they are the usual ones, context length, stride.
-- A ? stands for what the file does not state.
CREATE OR REPLACE MACRO perplexity_key(dataset, subset, split, seq_len, stride) AS (
    concat(
        coalesce(dataset, '?'),
        CASE WHEN subset <> 'wikitext-2-raw-v1' THEN concat(' (', subset, ')') END,
        CASE WHEN split <> 'test' THEN concat(' ', split) END,
        '@', coalesce(CAST(seq_len AS varchar), '?'),
        CASE WHEN stride IS NOT NULL THEN concat('/', stride) END
    )
);

-- What a score is, as text: task, metric, answer filter, number of examples in the prompt and cap on the documents, if any.
CREATE OR REPLACE MACRO score_key(task, metric, answer_filter, n_shot, sample_limit) AS (
    concat(
        task, '/', metric,
        CASE WHEN coalesce(answer_filter, 'none') <> 'none' THEN concat(',', answer_filter) END,
        CASE WHEN n_shot > 0 THEN concat('@', n_shot, 'shot') END,
        CASE
            WHEN sample_limit >= 1 THEN concat('@limit', CAST(sample_limit AS bigint))
            WHEN sample_limit IS NOT NULL THEN concat('@limit', sample_limit)
        END
    )
);

-- What a speed or a memory size is, as text: metric, batch size, setting (such as request rate or lengths) and hardware.
CREATE OR REPLACE MACRO speed_key(metric, setting, batch_size, hardware) AS (
    concat(
        metric,
        CASE WHEN batch_size IS NOT NULL THEN concat('@bs', batch_size) END,
        CASE WHEN setting IS NOT NULL THEN concat(' (', setting, ')') END,
        CASE WHEN hardware IS NOT NULL THEN concat(' on ', hardware) END
    )
);

-- Whether shares (0 to 1) are at least as many of the values of a measure as those over 1, up to 100; null if all are alike.
CREATE OR REPLACE MACRO shares_prevail(value) AS (
    CASE
        WHEN min(value) FILTER (WHERE value > 0) < 1 AND max(value) FILTER (WHERE value <= 100) > 1
            THEN count(*) FILTER (WHERE value > 0 AND value < 1) >= count(*) FILTER (WHERE value > 1 AND value <= 100)
    END
);

-- The measure of a speed or memory size without its hardware; null for other kinds.
CREATE OR REPLACE MACRO speed_setting(kind, measure, hardware) AS (
    CASE WHEN kind IN ('speed', 'memory') THEN substr(measure, 1, length(measure) - coalesce(length(' on ' || hardware), 0)) END
);

-- True for the speeds and memory sizes that have columns of their own.
CREATE OR REPLACE MACRO has_speed_column(setting) AS (
    setting IN (
        'throughput_tokens_per_sec@bs1',
        'latency_ms_per_token@bs1',
        'throughput_tokens_per_sec@bs4',
        'latency_ms_per_token@bs4',
        'model_memory_mb'
    )
);

-- What tells the runs of one result file apart. Rows of before runs were stored have the revision and adapter alone.
CREATE OR REPLACE MACRO run_key(run_id, revision, adapter) AS (
    coalesce(run_id, concat_ws(' ', revision, adapter))
);

-- What makes a run another one than the plain run, as text; null for the plain run. A commit's hash alone makes none.
CREATE OR REPLACE MACRO stated_variant(run_id, variant, revision, adapter) AS (
    CASE
        WHEN run_id IS NOT NULL THEN variant
        ELSE
            nullif(
                concat_ws(
                    ', ',
                    CASE
                        WHEN revision <> 'main' AND NOT regexp_full_match(revision, '[0-9a-f]{40}')
                            THEN concat('revision=', revision)
                    END,
                    'adapter=' || adapter
                ),
                ''
            )
    END
);

-- One of the facts in a text such as sha=2ab25ed, dtype=float16; null if it is not there.
CREATE OR REPLACE MACRO loaded_fact(facts, name) AS (
    nullif(regexp_extract(facts, concat('(?:^|, )', name, '=([^,]*)'), 1), '')
);

-- True if a run loaded the weights as they are stored: its variant names a precision, an engine, its kernels, a tokenizer or
-- caps on lengths alone.
CREATE OR REPLACE MACRO keeps_weights(variant) AS (
    regexp_full_match(
        variant,
        '((dtype|backend|attn_implementation|kv_cache_dtype|tokenizer|add_bos_token|prefix_token_id|truncation'
        || '|max_length|max_model_len|max_gen_toks)(=[^,]*)?(, |$))+'
    )
);

-- Rank of a time among the times of runs, as an integer; no time comes first.
CREATE OR REPLACE MACRO run_order(run_at) AS (
    coalesce(epoch_us(run_at), -9000000000000000000)
);

-- The metric by which a zero-shot task is reported: acc_norm where an answer's score is divided by its length, else acc.
CREATE OR REPLACE MACRO task_metric(task) AS (
    CASE
        WHEN task IN ('piqa', 'hellaswag', 'arc_easy', 'arc_challenge', 'openbookqa') THEN 'acc_norm'
        WHEN task IN ('boolq', 'winogrande') THEN 'acc'
    END
);

-- A text as one word of a POSIX shell, quoted where it has to be.
CREATE OR REPLACE MACRO shell_word(text) AS (
    CASE
        WHEN regexp_full_match(text, '[A-Za-z0-9_@%+=:,./-]+') THEN text
        ELSE concat('''', regexp_replace(text, '''', '''"''"''', 'g'), '''')
    END
);
