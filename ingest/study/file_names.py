"""The names of analysis files, by which they are told apart."""

from __future__ import annotations

STRUCTURE_NAMES = ("pruned_model_analysis.json", "model_structure.json")
"""One model's layers and parameters. Of several files the first is taken."""
COMPARISON_NAMES = ("model_comparison.json", "pruning_comparison.json")
"""The original model and the pruned one side by side. Of several files the first is taken."""
ORIGINAL_NAME = "original_model_analysis.json"
"""The base's layers and parameters."""
REMOVAL_NAME = "layers_to_remove.json"
"""The blocks of the base that were removed."""
ANALYSIS_NAMES = (*STRUCTURE_NAMES, *COMPARISON_NAMES, ORIGINAL_NAME, REMOVAL_NAME)
