"""The columns that views and queries add to those of the stored tables: a sentence and a unit each.

A plain name describes the column in every view and query that has it. VIEW.NAME describes it in that view alone, and takes
precedence. Columns that a view takes over from a stored table are described by that table.
"""

from __future__ import annotations

from enum import StrEnum

from layerhouse.vocabulary import BaseRule, Gone, KeptBy, LayerChange, Level, MeasureKind, Strategy, Verdict
from layerhouse.warehouse.storage.columns import Column

_GONE = "(base - own) / base: 0 is nothing, 1 all, negative is growth."
_BELOW = "Blocks of the base that keep less than {} % of their parameters, removed ones included."
_PERPLEXITY = "Perplexity per token on {}, of one measure: context not stated, or the only one that any file states."
_LAYER_SIZES = {
    "hidden_size": "width of the residual stream",
    "num_heads": "number of query heads",
    "num_kv_heads": "number of KV heads",
    "head_dim": "width of a head",
    "intermediate_size": "MLP width",
    "num_experts": "number of experts",
}

_DESCRIPTIONS: dict[str, tuple[str, str | None]] = {
    # a model or layer against its base
    "is_dropped": ("True if the newest tombstone that covers the row drops its model.", None),
    "params_source": ("Where params is from: weights, analysis or results.", None),
    "base_params": ("Parameters of the base.", "parameters"),
    "reduction_ratio": (f"Share of the base's parameters that is gone, {_GONE}", "fraction"),
    "base_layer_params": ("Parameters in the layers of the base.", "parameters"),
    "layer_reduction_ratio": (f"Share of the parameters in layers that is gone, {_GONE}", "fraction"),
    "base_num_layers": ("Blocks of the base.", "layers"),
    "layer_pruning.params": ("Parameters of the layer; 0 for a removed block.", "parameters"),
    "layer_pruning.base_params": ("Parameters of the block of the base that the layer was.", "parameters"),
    "layer_pruning.layer_index": ("The model's own layer number; null for a removed block.", None),
    "layer_pruning.base_layer_index": ("Block of the base that the layer was, counted from 0; null where not known.", None),
    "retention": ("Share of its base block's parameters that the layer keeps; 0 for a removed block.", "fraction"),
    "nonzero_params": ("Parameters that are not zero; 0 for a removed block.", "parameters"),
    "base_nonzero_params": ("Parameters of the base, or of the block of the base, that are not zero.", "parameters"),
    "nonzero_retention": (
        "Share of the base's parameters that are not zero which is left, of the model or layer; 0 for a removed block. Null "
        "where the zeros of either are not known.",
        "fraction",
    ),
    "kept_by": (
        "What kept shares are counted in, one for a table: `params`, `nonzero` (those that are not zero), `bytes` or `macs`.",
        None,
    ),
    "kept_share": ("Share of what the base has of it, as kept_by says, that is left; null where it is not known.", "fraction"),
    "kept_level": ("The level, counted as kept_by says.", None),
    "special_layers.level": (
        "`removed`, `zero`, `heavy` (over 80 % gone), `medium` (20 to 80 %), `light` (under 20 %), `untouched` or `grown`; "
        "counted in kept_by, and null where that is not known.",
        None,
    ),
    "correlation.kept_by": ("What kept_share and kept_layer_std are counted in; null for other numbers.", None),
    "kept_layer_mean": ("Mean of the layers' kept shares over all blocks of the base, counted as kept_by says.", "fraction"),
    "kept_layer_std": ("Sample standard deviation of the layers' kept shares, counted as kept_by says.", None),
    "kept_share_min": ("Least kept share of them; null if none is known.", "fraction"),
    "kept_share_max": ("Greatest kept share of them.", "fraction"),
    "n_kept": ("Those whose kept share is known.", "models"),
    "kept_share_mean": ("Mean of their kept shares.", "fraction"),
    "n_sparsity": ("Those whose zeros are known.", "models"),
    "sparsity_mean": ("Mean sparsity.", "fraction"),
    "params_retention_mean": ("Mean params_retention.", "fraction"),
    **{
        text: (sentence, unit)
        for measure in ("nonzero", "bytes", "macs")
        for text, sentence, unit in (
            (f"n_{measure}", f"Those whose {measure}_retention is known.", "models"),
            (f"method_groups.{measure}_retention_mean", f"Mean {measure}_retention.", "fraction"),
        )
    },
    "nonzero_level": ("The level, by parameters that are not zero.", None),
    "base_macs_per_token": ("Multiply-accumulates of one token in the base, or in the block of the base.", "MACs"),
    "macs_retention": ("Share of the base's multiply-accumulates that is left, of the model or layer.", "fraction"),
    "bytes_retention": ("Share of the base's bytes, by shapes and types as they are stored, that is left.", "fraction"),
    "params_retention": ("Share of the base's parameters that is left, zeros included.", "fraction"),
    **{
        f"{view}.{name}": (f"{text}; 0 for a removed block.", unit)
        for view in ("layer_pruning", "pair_layers")
        for name, text, unit in (
            ("logical_bytes", "Bytes of the layer's tensors as they are stored", "bytes"),
            ("macs_per_token", "Multiply-accumulates of one token in the layer's linear weights", "MACs"),
        )
    },
    **{
        f"{view}.n_{name}": (f"Layers and removed blocks, of all stacks, whose {column} is known.", "layers")
        for view in ("layer_summary", "pair_summary")
        for name, column in (("retention", "retention"), ("nonzero", "nonzero_retention"))
    },
    "models.logical_bytes": ("Bytes of the model's tensors as they are stored.", "bytes"),
    "base_logical_bytes": ("The same of the base, or of the block of the base.", "bytes"),
    **{
        f"{base}{part}_nonzero_params": (f"Parameters of {text} that are not zero{where}.", "parameters")
        for part, text in (("attention", "attention"), ("mlp", "the MLP"))
        for base, where in (("", "; 0 for a removed block"), ("base_", ", in the block of the base"))
    },
    **{
        f"{measure}_retention_{number}": (
            f"{text} of {measure}_retention over all blocks of the base; null if any is not known.",
            unit,
        )
        for measure in ("nonzero", "bytes", "macs")
        for number, text, unit in (("mean", "Mean", "fraction"), ("std", "Sample standard deviation", None))
    },
    **{
        f"{view}.stack": ("The stack that stands for the model, and that the columns about layers are of.", None)
        for view in ("models", "layer_summary", "pair_summary", "summary", "performance", "performance_variants")
    },
    "gone": (
        "Which part of the block of the base does nothing any more: `block` (removed, or empty), `attention`, `mlp`, or "
        "`attention_mlp` (both, beside a state-space mixer). A part is gone without parameters, if all of them are zero, or if "
        "the config drops it. Null where none is known to be gone.",
        None,
    ),
    "base_attention_params": ("Parameters of attention in the block of the base.", "parameters"),
    "attention_reduction_ratio": (f"Share of the parameters of attention that is gone, {_GONE}", "fraction"),
    "base_mlp_params": ("Parameters of the MLP in the block of the base.", "parameters"),
    "mlp_reduction_ratio": (f"Share of the parameters of the MLP that is gone, {_GONE}", "fraction"),
    "base_num_heads": ("Query heads of the block of the base.", "heads"),
    "base_num_kv_heads": ("Key and value heads of the block of the base.", "heads"),
    "base_intermediate_size": ("Width of the MLP in the block of the base.", "neurons"),
    "base_hidden_size": ("Width of the base's residual stream.", None),
    "is_removed": ("True for a block of the base that the model no longer has.", None),
    "level": (
        "`removed`, `zero`, `heavy` (over 80 % gone), `medium` (20 to 80 %), `light` (under 20 %), `untouched` or `grown`.",
        None,
    ),
    "tensor_changes.base_layer_index": ("Block of the base that its tensor is in; null outside of the layers.", None),
    "tensor_changes.layer_index": ("The checkpoint's own layer number; null for a tensor that was removed.", None),
    "base_dtype": ("Element type of the base's tensor.", None),
    "tensor_changes.params": ("Parameters that the tensor adds to the model; 0 if it was removed.", "parameters"),
    "tensor_changes.base_params": ("Parameters of the base's tensor.", "parameters"),
    "tensor_changes.nonzero_params": ("Those that are not zero; 0 if it was removed.", "parameters"),
    "tensor_changes.base_nonzero_params": ("Parameters of the base's tensor that are not zero.", "parameters"),
    "tensor_changes.logical_bytes": ("Bytes of the tensor, without the scales of a packed one; 0 if it was removed.", "bytes"),
    "tensor_changes.base_logical_bytes": ("Bytes of the base's tensor.", "bytes"),
    "tensor_changes.macs_per_token": ("Multiply-accumulates of a token; null where not known, as of experts.", "MACs"),
    "tensor_changes.base_macs_per_token": ("Multiply-accumulates of a token in the base's tensor.", "MACs"),
    **{
        f"tensor_changes.{measure}_retention": (f"Share of the base's tensor that is left, by {text}.", "fraction")
        for measure, text in (
            ("params", "parameters"),
            ("nonzero", "parameters that are not zero"),
            ("bytes", "bytes"),
            ("macs", "multiply-accumulates"),
        )
    },
    "changes": (
        "What happened to the block besides cuts, as far as it is known; [] nothing: `duplicated`, `reordered`, `quantised`, "
        "`factorised`, `grown`, `sliced`, `masked`, `refilled`, `changed`, `cast`, `added` or `removed` (tensors of it).",
        None,
    ),
    "layer_changes.n_unknown": ("Tensors of the layer whose relation to the base is not known.", "tensors"),
    "is_unchanged": ("True if every tensor of the layer and of its block is known to be identical, in its place.", None),
    # what happened to the base's tensors
    "verdict": ("What the relations of all tensors and layers amount to, as text with numbers.", None),
    "verdicts": (
        "The same as words: `identical`, `blocks_removed`, `blocks_repeated`, `blocks_reordered`, `sliced`, `grown`, "
        "`factorised`, `quantised`, `masked`, `refilled`, `tuned`, `reshaped`, `left_out`, `added`, `relaid` (fused or split "
        "otherwise), `cast`, `unknown`.",
        None,
    ),
    "base_model": ("Name of the base that it is compared with: of a model that has it, or as files call it.", None),
    "base_rule": (
        "Why that is its base: `found` (by tensors), `declared` (by its files) or `named` (by a user); `none` where a user "
        "said that it has none. Null for a base itself, and where none was looked for or found.",
        None,
    ),
    "parent_model": ("Model that it was made from; null if there is none or it is not known.", None),
    "second_parent_model": ("The other parent of a merge.", None),
    "root_model": ("The first of its known ancestors; null if it has no known parent.", None),
    "generation": ("Steps from the root; null if it has no known parent.", None),
    "runner_up_model": ("The next best parent.", None),
    "base_model_id": ("Model that has the base's checkpoint.", None),
    "n_tensors": ("Tensors with parameters, of the checkpoint and of the base.", "tensors"),
    "n_identical": ("Tensors whose bytes are those of the base.", "tensors"),
    "n_cast": ("Tensors with the base's values rounded to another type.", "tensors"),
    "n_masked": ("Tensors in which some values were set to zero and the others kept.", "tensors"),
    "n_refilled": ("Tensors in which some zeros were filled and the other values kept.", "tensors"),
    "n_changed": ("Tensors of the same shape with other values.", "tensors"),
    "n_sliced": ("Tensors with fewer rows or columns than the base's.", "tensors"),
    "n_grown": ("Tensors with more rows or columns than the base's.", "tensors"),
    "n_factorised": ("Factors of tensors of the base.", "tensors"),
    "n_quantised": ("Tensors that are packed, or codes of fewer bits, and plain in the base.", "tensors"),
    "n_added": ("Tensors that the base does not have.", "tensors"),
    "added_params": ("Parameters of the tensors known to be added, such as SliceGPT's rotations.", "parameters"),
    "n_removed": ("Tensors of the base that the checkpoint does not have.", "tensors"),
    "n_unknown": ("Tensors whose relation is not known.", "tensors"),
    "changed_values": ("Values that differ, over the tensors whose values were compared.", "elements"),
    "zeroed_values": ("Of these, values that became zero.", "elements"),
    "filled_values": ("Of these, values that were zero in the base.", "elements"),
    "relative_difference_max": ("Greatest norm of a tensor's difference over the norm of the base's.", "fraction"),
    "cosine_min": ("Least cosine of a tensor and the base's.", None),
    "removed_blocks": ("Blocks of the base that no layer is.", None),
    "repeated_blocks": ("Blocks of the base that several layers are.", None),
    "moved_blocks": ("Blocks that stand in another order than the base's, in the checkpoint's order.", None),
    "block_order": ("The same blocks in the base's order.", None),
    "repeats": ("The repeated blocks as text, with how often each is there.", None),
    "are_blocks_repeated": ("True if several layers are one block of the base.", None),
    "are_blocks_moved": ("True if blocks of the base stand in another order.", None),
    "dense_layers": ("Layers without experts, of a model whose other layers have some.", None),
    # results without a model
    "declared_model": ("Model as the file names it.", None),
    "n_results": ("Rows of the file.", "rows"),
    "candidates": ("Models whose names have the same last part, without a commit; null if there are none.", None),
    "reason": ("Why there is no model: the rows name none, none has that name, or there are several candidates.", None),
    "command": ("What to type in a shell; put the model's name for MODEL.", None),
    # what is declared
    "config_sparsity": ("Sparsity that the config states, as a fraction.", "fraction"),
    "noted_ratio": ("Share to remove, from the pruner's own notes.", "fraction"),
    "finding": ("How the stated share compares with the measured ones, as text.", None),
    # sizes of a model's layers
    **{
        f"{size}_{bound}": (f"{which} {text} of a layer; null if any layer's is not known.", None)
        for size, text in _LAYER_SIZES.items()
        for bound, which in (("min", "Least"), ("max", "Greatest"))
    },
    # heads, neurons and experts
    "num_base_units": ("Units of that kind in the block of the base.", "units"),
    "num_units": ("Units of that kind in the layer; null where they were not read.", "units"),
    "num_exact": ("Those that equal a unit of the base to the bit.", "units"),
    "num_similar": ("Those that resemble a unit of the base, by signature.", "units"),
    "num_unknown": ("Those whose origin is not known.", "units"),
    "num_dead": ("Those whose weights and biases are all zero.", "units"),
    "least_confidence": ("Least confidence among them.", "fraction"),
    "units_kept": ("Units of the block that the layer kept; [] none, null not known.", None),
    "units_removed": ("Units of the block that are gone; [] none, null not known.", None),
    "other_model_id": ("The model that it is compared with.", None),
    "num_kept": ("Units that the model kept.", "units"),
    "other_num_kept": ("Units that the other model kept.", "units"),
    "num_kept_by_both": ("Units that both kept.", "units"),
    "jaccard": ("Units that both kept over units that either kept; null if neither kept any.", "fraction"),
    # how a cut is spread over the layers
    "zero_layers": ("Layers whose attention and MLP have no parameters, or zeros alone.", "layers"),
    "removed_layers": ("Blocks of the base that are gone; [] none, null not known.", None),
    "num_removed_layers": ("Number of blocks of the base that are gone.", "layers"),
    "heavy_layers": ("Layers with over 80 % of the parameters gone.", "layers"),
    "medium_layers": ("Layers with 20 to 80 % of the parameters gone.", "layers"),
    "light_layers": ("Layers with under 20 % of the parameters gone, but some.", "layers"),
    "untouched_layers": ("Layers with none of the parameters gone.", "layers"),
    "cut_layer_retention": ("Share kept of the blocks that lost parameters, taken together; null if none did.", "fraction"),
    "retention_mean": ("Mean retention over all blocks of the base; that of a removed one is 0.", "fraction"),
    "retention_std": ("Sample standard deviation of retention over all blocks: 0 is an even cut.", None),
    "retention_var": ("Sample variance of retention over all blocks.", None),
    "least_survivor_retention": ("Least retention of the layers that were not removed.", "fraction"),
    **{f"layers_below_{share}pct": (_BELOW.format(share), None) for share in (5, 10, 15, 20)},
    "is_map_unknown": ("True if no file says which block of the base some layer is; null without a base.", None),
    "is_hidden_size_changed": ("True if the residual stream is not as wide as the base's in some layer.", None),
    "are_shapes_kept": ("True if no layer lost parameters, query heads or MLP neurons.", None),
    "strategy": (
        "The first that applies of `stacked`, `layer_removal`, `mixed`, `reordered`, `sliced`, `masked`, `dense`, `grown`, "
        "`uniform` and `non_uniform`.",
        None,
    ),
    "status_note": ("What is missing, unusual or contradictory, as text.", None),
    # values and sizes
    "sparsity": ("Share of the parameters that is zero; null if values were not read.", "fraction"),
    "prunable_sparsity": ("Share of the prunable parameters that is zero.", "fraction"),
    "size_gb": ("Size of the weights; without weights as the results report it.", "GiB"),
    "compact_size_gb": ("Size of the weights without their zeros.", "GiB"),
    "params_b": ("Parameters, in billions.", "1e9 parameters"),
    # results
    "measure": (
        "What was measured: task, task/metric, dataset@context/stride, or metric@batch size (setting) on hardware. Values "
        "of one kind and measure are comparable.",
        None,
    ),
    "measure_key": ("What names a measure within this state of the warehouse: the least measure_id of those that it is.", None),
    "variant": ("How the run loaded the model where that is not the plain one, as text; null for the plain model.", None),
    "against_base.variant": ("Variant of the runs that are compared; null for plain models.", None),
    "run_key": ("What tells the runs of one result file apart.", None),
    "is_shown": ("True for the plain run, and for all runs of a model that has no plain one.", None),
    "is_plain": (
        "True for the run that stands for the stored weights: the plain one, or the only one if it differs in precision and "
        "engine alone.",
        None,
    ),
    "is_conflict": ("True where the newest values are several, so that value is null.", None),
    "is_doubtful": ("True where it is not sure whether the value is a share or percent.", None),
    "has_doubt": ("True where the value's own file gives a reason to doubt it.", None),
    "are_shares": (
        "True if shares are at least as many as other values, false if they are fewer; null if all are alike.",
        None,
    ),
    "is_stale": ("True where some row was read by rules of an earlier version.", None),
    "common_hardware.hardware": ("The hardware; null for what no file states.", None),
    "column_name": ("Column of performance that shows the measure; null for one that is in a map.", None),
    "condition": ("What the values of that column share and its name does not say, as text; null if nothing.", None),
    "plain_task": ("The zero-shot task that it is, with 0 shots and no cap or filter, by any metric; null for others.", None),
    "num_models": ("Models that have a value.", "models"),
    "num_conflicts": ("Measures of the run that have several values of one time; see the query conflicts.", "measures"),
    "num_doubtful": ("Values of the run whose scale is not sure; see the query doubtful.", "values"),
    "run_note": ("How the run loaded the model, and whether the structure beside it is of other weights, as text.", None),
    "doubtful.reason": ("Why the scale is not sure, as text.", None),
    **{
        f"{view}.kind": ("`task`, `score`, `group`, `perplexity`, `speed` or `memory`.", None)
        for view in ("measures", "missing", "run_values", "run_measures", "measure_keys", "conflicts", "doubtful")
    },
    **{
        f"{view}.hardware": ("Hardware of a speed or memory size, if stated.", None)
        for view in ("measures", "run_values", "run_measures", "measure_keys")
    },
    "ppl_wikitext2": (_PERPLEXITY.format("wikitext-2"), None),
    "ppl_ptb": (_PERPLEXITY.format("PTB"), None),
    "perplexities": ("All other perplexities, by dataset@context/stride.", None),
    **{
        task: (f"Accuracy ({metric}) on {name}, with 0 shots; column_conditions says if shots are not stated.", "fraction")
        for task, metric, name in (
            ("boolq", "acc", "BoolQ"),
            ("piqa", "acc_norm", "PIQA"),
            ("hellaswag", "acc_norm", "HellaSwag"),
            ("winogrande", "acc", "WinoGrande"),
            ("arc_easy", "acc_norm", "ARC Easy"),
            ("arc_challenge", "acc_norm", "ARC Challenge"),
            ("openbookqa", "acc_norm", "OpenBookQA"),
        )
    },
    "mean_accuracy": ("Mean of the seven accuracies; null if one is missing.", "fraction"),
    "n_tasks": ("Number of the seven tasks that have an accuracy.", "tasks"),
    "other_scores": ("All other scores of tasks, by measure.", None),
    "group_scores": ("Scores over several tasks, such as MMLU's, by measure.", None),
    **{f"throughput_bs{size}": (f"Tokens generated per second at batch size {size}.", "tok/s") for size in (1, 4)},
    **{f"latency_ms_bs{size}": (f"Time per token at batch size {size}.", "ms/token") for size in (1, 4)},
    "memory_mb": ("Memory of the model, measured while it ran.", "MiB"),
    "speed_hardware": ("Hardware of the speeds and memory in the columns; null if no file states it.", None),
    "speeds": ("All other speeds and memory sizes, by metric@batch size (setting) on hardware.", None),
    # models beside each other
    "ppl_wikitext2_change": ("ppl_wikitext2 minus the base's.", None),
    "ppl_wikitext2_factor": ("ppl_wikitext2 over the base's.", None),
    "ppl_ptb_change": ("ppl_ptb minus the base's.", None),
    "ppl_ptb_factor": ("ppl_ptb over the base's.", None),
    "mean_accuracy_change": ("mean_accuracy minus the base's.", "fraction"),
    "kept_accuracy_share": ("mean_accuracy over the base's.", "fraction"),
    "speedup_bs1": ("Tokens per second over the base's at batch size 1; null unless both name the same hardware.", None),
    "speedup_bs4": ("Tokens per second over the base's at batch size 4; null unless both name the same hardware.", None),
    "speedup_hardware": ("Hardware on which both of the compared speeds were measured.", None),
    "speed_note": ("Why a speed is not compared, as text.", None),
    "is_on_front": ("True if no other model of the base is at least as good in both numbers and better in one.", None),
    "dominated_by": ("The models on the front that are; [] none.", None),
    "structure": (
        "retention_std, num_removed_layers, zero_layers, reduction_ratio, sparsity, kept_share or kept_layer_std.",
        None,
    ),
    "rank_correlation": ("Spearman's rank correlation, -1 to 1; null for under three models or without variation.", None),
    # groups
    "n_models": ("Models that the row is about.", "models"),
    "n_reduction": ("Those whose reduction_ratio is known.", "models"),
    "reduction_ratio_mean": ("Mean reduction_ratio.", "fraction"),
    "reduction_ratio_best": ("Greatest reduction_ratio.", "fraction"),
    "n_ppl": ("Those that have ppl_wikitext2.", "models"),
    "ppl_wikitext2_mean": ("Mean ppl_wikitext2.", None),
    "ppl_wikitext2_best": ("Least ppl_wikitext2.", None),
    "ppl_wikitext2_worst": ("Greatest ppl_wikitext2.", None),
    "n_accuracy": ("Those that have mean_accuracy.", "models"),
    "mean_accuracy_mean": ("Mean of mean_accuracy.", "fraction"),
    "mean_accuracy_best": ("Greatest mean_accuracy.", "fraction"),
    "mean_accuracy_worst": ("Least mean_accuracy.", "fraction"),
    "n_deviation": ("Those that have retention_std.", "models"),
    "retention_std_mean": ("Mean of retention_std.", "fraction"),
    "retention_std_min": ("Least retention_std.", "fraction"),
    "retention_std_max": ("Greatest retention_std.", "fraction"),
    "n_layers": ("Layers and removed blocks of that level.", "layers"),
    "base_layers": ("Blocks of the base that they are; null if any is not known.", None),
    "attention_gone_layers": ("Those whose attention does nothing any more, but not all of the block; [] none.", None),
    "mlp_gone_layers": ("Those whose MLP does nothing any more, but not all of the block; [] none.", None),
    "reduction_ratio_min": ("Least reduction_ratio of them.", "fraction"),
    "reduction_ratio_max": ("Greatest reduction_ratio of them.", "fraction"),
}

_WORDS: dict[str, type[StrEnum]] = {
    "base_rule": BaseRule,
    "level": Level,
    "special_layers.level": Level,
    "changes": LayerChange,
    "gone": Gone,
    "kept_by": KeptBy,
    "strategy": Strategy,
    "verdicts": Verdict,
    **{
        f"{view}.kind": MeasureKind
        for view in ("measures", "missing", "run_values", "run_measures", "measure_keys", "conflicts", "doubtful")
    },
}
"""The enum whose members a column holds."""

VIEW_COLUMNS = {
    name: Column(name.rpartition(".")[2], "", text, unit, words=_WORDS.get(name))
    for name, (text, unit) in _DESCRIPTIONS.items()
}
"""By name or VIEW.NAME. The type is left empty, as it is that of the view itself."""
