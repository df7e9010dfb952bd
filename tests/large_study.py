"""A study of many models without weights, as a group gathers them: 200 prunings of one base of 32 layers, with results."""

from __future__ import annotations

import math
import random
from pathlib import Path

from layerhouse.demo import Scores, write_json
from layerhouse.tests.study_builder import Width, analysis_document, result_document

METHODS = ("Wanda", "SparseGPT", "LLM-Pruner", "ShortGPT", "FLAP", "SliceGPT", "HGSP", "Magnitude", "OWL", "Taylor")
BASE = (Width(32, 8, 14336),) * 32
BASE_ACCURACIES = (0.844, 0.788, 0.756, 0.717, 0.786, 0.558, 0.430)


def write_large_study(folder: Path, num_models: int = 200, seed: int = 5) -> None:
    """Write the models' analyses and results below a folder; the same seed gives the same files."""
    chosen = random.Random(seed)
    base = analysis_document("Large-Base", BASE)
    write_json(folder / "baselines/Large-Base/analysis/model_structure.json", base)
    write_json(
        folder / "baselines/Large-Base/evaluation/evaluation_results.json",
        result_document(base, Scores(8.26, 13.1, BASE_ACCURACIES, 29.1)),
    )
    for number in range(num_models - 1):
        method = METHODS[number % len(METHODS)]
        ratio = 0.05 + 0.03 * (number // len(METHODS))
        model = folder / f"results/{method}_{round(ratio * 10000)}"
        removed = sorted(chosen.sample(range(12, 31), min(18, round(ratio * 32)))) if method == "ShortGPT" else []
        widths = [width for index, width in enumerate(_widths(chosen, ratio)) if index not in removed]
        if removed:
            widths = [BASE[0]] * (len(BASE) - len(removed))
            removal = {"layers_to_remove": removed, "n_remove": len(removed), "original_num_layers": len(BASE)}
            write_json(model / "analysis/layers_to_remove.json", removal)
        pruned = analysis_document(model.name, widths)
        write_json(model / "analysis/pruned_model_analysis.json", pruned)
        write_json(model / "analysis/original_model_analysis.json", base)
        if number % 7 != 6:
            write_json(model / "evaluation/evaluation_results.json", result_document(pruned, _scores(chosen, ratio)))


def _widths(chosen: random.Random, ratio: float) -> list[Width]:
    phase, swing = chosen.random() * 6, chosen.random() * 0.9
    widths = []
    for index in range(len(BASE)):
        cut = 0.0 if index < 2 else min(0.99, max(0.0, ratio * 1.15 * (1 + swing * math.sin(index / 5 + phase))))
        groups = max(1, round(8 * (1 - cut)))
        widths.append(Width(4 * groups, groups, max(1, int(14336 * (1 - cut)))))
    return widths


def _scores(chosen: random.Random, ratio: float) -> Scores:
    quality = math.exp(-3.2 * ratio * (0.6 + 0.8 * chosen.random()))
    accuracies = tuple(0.26 + (best - 0.26) * quality + chosen.gauss(0, 0.01) for best in BASE_ACCURACIES)
    growth = math.exp(6 * (1 - quality) ** 1.3)
    return Scores(8.26 * growth, 13.1 * growth, accuracies, 29 + 8 * ratio + chosen.gauss(0, 0.4))
