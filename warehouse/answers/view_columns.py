"""What the columns mean that views and queries add to those of the stored tables: one sentence and a unit each.

A name stands for every view and query that has it; VIEW.NAME, which comes first, for that view alone. Columns that a view takes
over from a stored table are described there.
"""

from __future__ import annotations

from layerhouse.warehouse.storage.schema import Column

_GONE = "(base - own) / base: 0 nothing is gone, 1 all, negative where it grew."
_BELOW = "Blocks of the base that keep less than {} % of their parameters, removed ones included."
_LAYER_SIZES = {
    "hidden_size": "width of the residual stream",
    "num_heads": "number of query heads",
    "num_kv_heads": "number of KV heads",
    "head_dim": "width of a head",
    "intermediate_size": "MLP width",
    "num_experts": "number of experts",
}

_DESCRIBED: dict[str, tuple[str, str | None]] = {
    # a model or layer against its base
    "is_dropped": ("Whether the newest tombstone over the row drops its model.", None),
    "params_source": ("Where params is from: weights, analysis or results.", None),
    "base_params": ("Parameters of the base.", "parameters"),
    "reduction_ratio": (f"Share of the base's parameters that is gone, {_GONE}", "fraction"),
    "base_layer_params": ("Parameters of the base in its layers.", "parameters"),
    "layer_reduction_ratio": (f"The same over the layers alone: {_GONE}", "fraction"),
    "base_num_layers": ("Blocks of the base.", "layers"),
    "layer_pruning.params": ("Parameters of the layer; 0 for a removed block.", "parameters"),
    "layer_pruning.base_params": ("Parameters of the block of the base that the layer was.", "parameters"),
    "layer_pruning.layer_index": ("The model's own layer number; null for a removed block.", None),
    "layer_pruning.base_layer_index": ("Block of the base that the layer was, counted from 0; null where not known.", None),
    "retention": ("Share of its base block's parameters that the layer keeps; 0 for a removed block.", "fraction"),
    "base_attention_params": ("Parameters of attention in the block of the base.", "parameters"),
    "attention_reduction_ratio": (f"Attention's part: {_GONE}", "fraction"),
    "base_mlp_params": ("Parameters of the MLP in the block of the base.", "parameters"),
    "mlp_reduction_ratio": (f"The MLP's part: {_GONE}", "fraction"),
    "base_num_heads": ("Query heads of the block of the base.", "heads"),
    "base_num_kv_heads": ("Key and value heads of the block of the base.", "heads"),
    "base_intermediate_size": ("Width of the MLP in the block of the base.", "neurons"),
    "base_hidden_size": ("Width of the base's residual stream.", None),
    "is_removed": ("Whether the block of the base is not there any more.", None),
    "level": ("removed, zero, heavy (over 80 % gone), medium (20 to 80 %), light, untouched or grown.", None),
    # what became of the base's tensors
    "verdict": ("What the relations of all tensors make of the checkpoint, in words; null where one is not known.", None),
    "base_model_id": ("Model that shows the base.", None),
    "n_tensors": ("Tensors of either side that are parameters.", "tensors"),
    "n_identical": ("Tensors with the bytes of the base's.", "tensors"),
    "n_cast": ("Tensors with the base's values rounded to another type.", "tensors"),
    "n_masked": ("Tensors some of whose values were set to zero, the others kept.", "tensors"),
    "n_refilled": ("Tensors some of whose zeros were filled, the others kept.", "tensors"),
    "n_changed": ("Tensors of one shape and other values.", "tensors"),
    "n_sliced": ("Tensors with fewer rows or columns than the base's.", "tensors"),
    "n_added": ("Tensors that the base has not.", "tensors"),
    "added_params": ("Parameters of the tensors known to be added, such as SliceGPT's rotations.", "parameters"),
    "n_removed": ("Tensors of the base that are gone.", "tensors"),
    "n_unknown": ("Tensors of which is not known what became of them.", "tensors"),
    "changed_values": ("Values that differ, over the tensors that were read side by side.", "elements"),
    "relative_difference_max": ("Greatest norm of a tensor's difference over the norm of the base's.", "fraction"),
    "cosine_min": ("Least cosine of a tensor and the base's.", None),
    # results without a model
    "declared_model": ("Model as the file names it.", None),
    "n_results": ("Rows of the file.", "rows"),
    "candidates": ("Models whose names end alike; null where there is none.", None),
    # what is declared
    "config_sparsity": ("Sparsity that the config states, as a fraction.", "fraction"),
    "noted_ratio": ("Share to remove by the pruner's own notes.", "fraction"),
    "finding": ("Whether a measured share agrees with the stated one.", None),
    # sizes of a model's layers
    **{
        f"{size}_{bound}": (f"{which} {text} of a layer; null where one is not known.", None)
        for size, text in _LAYER_SIZES.items()
        for bound, which in (("min", "Least"), ("max", "Greatest"))
    },
    # heads, neurons and experts
    "num_base_units": ("Units of that kind in the block of the base.", "units"),
    "num_units": ("Units of that kind in the layer; null where they were not read.", "units"),
    "num_exact": ("Those that are a unit of the base to the bit.", "units"),
    "num_similar": ("Those that are like one, by signature.", "units"),
    "num_unknown": ("Those whose origin is not known.", "units"),
    "num_dead": ("Those whose weights and biases are all zero.", "units"),
    "least_confidence": ("Least confidence among them.", "fraction"),
    "units_kept": ("Units of the block that the layer kept; [] none, null not known.", None),
    "units_removed": ("Units of the block that are gone; [] none, null not known.", None),
    "other_model_id": ("The model that it is compared with.", None),
    "num_kept": ("Units that the model kept.", "units"),
    "other_num_kept": ("Units that the other model kept.", "units"),
    "num_kept_by_both": ("Units that both kept.", "units"),
    "jaccard": ("Units that both kept over units that either kept; null where neither kept any.", "fraction"),
    # how a cut is spread over the layers
    "zero_layers": ("Layers that are there without attention and MLP parameters, or with zeros alone.", "layers"),
    "removed_layers": ("Blocks of the base that are gone; [] none, null not known.", None),
    "num_removed_layers": ("Number of blocks of the base that are gone.", "layers"),
    "heavy_layers": ("Layers with over 80 % of the parameters gone.", "layers"),
    "medium_layers": ("Layers with 20 to 80 % of the parameters gone.", "layers"),
    "light_layers": ("Layers with under 20 % of the parameters gone, and some.", "layers"),
    "untouched_layers": ("Layers with none of the parameters gone.", "layers"),
    "cut_layer_retention": ("Share kept of the blocks that lost parameters, taken together; null where none did.", "fraction"),
    "retention_mean": ("Mean retention over all blocks of the base; a removed one is 0.", "fraction"),
    "retention_std": ("Sample standard deviation of retention over all blocks: 0 is an even cut.", None),
    "retention_var": ("Sample variance of retention over all blocks.", None),
    **{f"layers_below_{share}pct": (_BELOW.format(share), None) for share in (5, 10, 15, 20)},
    "is_map_unknown": ("True if nothing says which block of the base some layer was; null without a base.", None),
    "least_survivor_retention": ("Least retention of the layers that are still there.", "fraction"),
    "is_hidden_size_changed": ("True if a layer's residual stream is not as wide as its base block's.", None),
    "are_shapes_kept": ("True if no layer lost parameters, query heads or MLP neurons.", None),
    "strategy": ("layer_removal, mixed, sliced, masked, dense, uniform or non_uniform: the first that holds.", None),
    "status_note": ("What is missing, unusual or disagrees, in words.", None),
    # values and sizes
    "sparsity": ("Share of the parameters that is zero; null where values were not read.", "fraction"),
    "prunable_sparsity": ("Share of the weights of attention and MLP that is zero.", "fraction"),
    "size_gb": ("Bytes of the weights; without weights as the results report them.", "GiB"),
    "compact_size_gb": ("Bytes of the weights without their zeros.", "GiB"),
    "params_b": ("Parameters, in billions.", "1e9 parameters"),
    # results
    "measure": (
        "What was measured: task, task/metric, dataset@context/stride, or metric@batch size (setting) on hardware.",
        None,
    ),
    "kind": ("task, score, group, perplexity, speed or memory.", None),
    "measures.hardware": ("Hardware of a speed or of memory, where stated.", None),
    "ppl_wikitext2": ("Perplexity per token on wikitext-2, its context not stated.", None),
    "ppl_ptb": ("Perplexity per token on PTB, its context not stated.", None),
    "perplexities": ("Every other perplexity, by dataset@context/stride.", None),
    "boolq": ("Accuracy (acc) on BoolQ.", "fraction"),
    "piqa": ("Accuracy (acc_norm) on PIQA.", "fraction"),
    "hellaswag": ("Accuracy (acc_norm) on HellaSwag.", "fraction"),
    "winogrande": ("Accuracy (acc) on WinoGrande.", "fraction"),
    "arc_easy": ("Accuracy (acc_norm) on ARC Easy.", "fraction"),
    "arc_challenge": ("Accuracy (acc_norm) on ARC Challenge.", "fraction"),
    "openbookqa": ("Accuracy (acc_norm) on OpenBookQA.", "fraction"),
    "mean_accuracy": ("Mean of the seven accuracies; null if one is missing.", "fraction"),
    "n_tasks": ("How many of the seven tasks have an accuracy.", "tasks"),
    "other_scores": ("Scores of other tasks, by task/metric.", None),
    "group_scores": ("Scores over several tasks, such as MMLU's, by group/metric.", None),
    **{f"throughput_bs{size}": (f"Tokens generated a second at batch size {size}.", "tok/s") for size in (1, 4)},
    **{f"latency_ms_bs{size}": (f"Time of a token at batch size {size}.", "ms/token") for size in (1, 4)},
    "memory_mb": ("Memory of the model as measured when it ran.", "MiB"),
    "speed_hardware": ("Hardware of the speeds and memory in the columns; null where no file states it.", None),
    "speeds": ("Every other speed and memory, by metric@batch size (setting) on hardware.", None),
    # models beside each other
    "ppl_wikitext2_change": ("ppl_wikitext2 minus the base's.", None),
    "ppl_wikitext2_factor": ("ppl_wikitext2 over the base's.", None),
    "ppl_ptb_change": ("ppl_ptb minus the base's.", None),
    "ppl_ptb_factor": ("ppl_ptb over the base's.", None),
    "mean_accuracy_change": ("mean_accuracy minus the base's.", "fraction"),
    "kept_accuracy_share": ("mean_accuracy over the base's.", "fraction"),
    "speedup_bs1": ("Tokens a second over the base's at batch size 1; null unless both name the same hardware.", None),
    "speedup_bs4": ("Tokens a second over the base's at batch size 4; null unless both name the same hardware.", None),
    "speedup_hardware": ("Hardware on which both ran that are compared in speed.", None),
    "speed_note": ("Why a speed is not compared.", None),
    "is_on_front": ("Whether no other model of the base is cut as much and as good, and better in one.", None),
    "dominated_by": ("The models that are; [] none.", None),
    "structure": ("retention_std, num_removed_layers, zero_layers or reduction_ratio.", None),
    "rank_correlation": ("Spearman's rank correlation, -1 to 1; null under three models or without variation.", None),
    # groups
    "n_models": ("Models that the row is over.", "models"),
    "n_reduction": ("Those whose reduction_ratio is known.", "models"),
    "reduction_ratio_mean": ("Mean reduction_ratio.", "fraction"),
    "reduction_ratio_best": ("Greatest reduction_ratio.", "fraction"),
    "n_ppl": ("Those that have ppl_wikitext2.", "models"),
    "ppl_wikitext2_mean": ("Mean ppl_wikitext2.", None),
    "ppl_wikitext2_best": ("Least ppl_wikitext2.", None),
    "n_accuracy": ("Those that have mean_accuracy.", "models"),
    "mean_accuracy_mean": ("Mean of mean_accuracy.", "fraction"),
    "mean_accuracy_best": ("Greatest mean_accuracy.", "fraction"),
    "n_layers": ("Layers and removed blocks of that level.", "layers"),
    "base_layers": ("Their blocks of the base; null where one is not known.", None),
    "reduction_ratio_min": ("Least reduction_ratio of them.", "fraction"),
    "reduction_ratio_max": ("Greatest reduction_ratio of them.", "fraction"),
}

VIEW_COLUMNS = {name: Column(name.rpartition(".")[2], "", text, unit) for name, (text, unit) in _DESCRIBED.items()}
"""By name or VIEW.NAME; the type is that of the view itself, and left empty."""
