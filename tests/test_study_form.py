"""The summary in the form of the study scripts: rows of a warehouse -> JSON and text, key by key."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

import pytest

from layerhouse.warehouse.answers.query import study_rows
from layerhouse.warehouse.answers.session import connect
from layerhouse.warehouse.storage.store import create_store, write_commit
from layerhouse.warehouse.study.summary_form import models_summary, study_document, study_json, study_text

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
BIG = 2**53 + 1


def checkpoint(model_id, params, layer_params, num_layers, **columns):
    fixed = {"source_uri": "/x", "source_kind": "analysis", "status": "ok", "tool_version": "1"}
    counts = {"params": params, "layer_params": layer_params, "num_layers": num_layers}
    return {"model_id": model_id, "checkpoint_id": model_id, **fixed, **counts, **columns}


def layers(checkpoint_id, *sizes):
    """One layer per size; 0 is a zeroed layer, None a layer of unknown size."""
    return [
        {"checkpoint_id": checkpoint_id, "stack": "text", "layer_index": index, "params": size, "is_zero_layer": size == 0}
        for index, size in enumerate(sizes)
    ]


def matches(checkpoint_id, base, *pairs, match="exact"):
    keys = {"checkpoint_id": checkpoint_id, "base_checkpoint_id": base, "stack": "text", "match": match}
    return [{**keys, "layer_index": layer, "base_layer_index": block} for layer, block in pairs]


def reported(model_id, metric, number, subset=None):
    return {
        "result_id": model_id,
        "measure_id": f"{metric} {subset}",
        "harness": "native",
        "suite": "model_info",
        "metric": metric,
        "subset": subset,
        "value": float(number),
        "value_integer": number,
        "source_uri": "/r",
        "status": "ok",
    }


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Rows of a base, of a model with a removed and a zeroed block, and of models with fewer known numbers."""
    store = create_store(tmp_path_factory.mktemp("study") / "store")
    link = {"result_id": "reported", "model_id": "reported", "rule": "folder", "source_uri": "/r", "linked_at": NOW}
    write_commit(
        store,
        {
            "checkpoints": [
                checkpoint("results/cut", 3200, 2400, 3, embedding_params=500, lm_head_params=300),
                checkpoint("base", 4800, 4000, 4, embedding_params=500, lm_head_params=300),
                checkpoint("map unknown", 3300, 2500, 3),
                checkpoint("one size unknown", 4800, None, 4),
                checkpoint("no base", 4800, 4000, 1),
                checkpoint("no layers", BIG, None, None),
            ],
            "layers": [
                *layers("results/cut", 1000, 1400, 0),
                *layers("base", 1000, 1000, 1000, 1000),
                *layers("map unknown", 1000, 1000, 500),
                *layers("one size unknown", 1000, None, 1000, 1000),
                *layers("no base", 0),
            ],
            "layer_matches": [
                *matches("results/cut", "base", (0, 0), (2, 1), (1, 3), (None, 2)),
                *matches("map unknown", "base", (0, None), (1, None), (2, None), match="none"),
                *matches("map unknown", "base", (None, 0), (None, 1), (None, 2), (None, 3), match="none"),
                *matches("one size unknown", "base", (0, 0), (1, 1), (2, 2), (3, 3)),
            ],
            "results": [
                reported("reported", "total_params", 1200),
                reported("reported", "num_layers", 2),
                reported("reported", "embedding", 100, "module_params"),
                reported("reported", "lm_head", 50, "module_params"),
            ],
            "links": [link],
        },
        "ingest",
    )
    opened, _ = connect(store)
    with opened:
        yield study_rows(opened)


@pytest.fixture(scope="module")
def document(rows):
    return study_document(*rows, now=NOW)


def model_of(document, name):
    return next(model for model in document["models"] if model["name"] == name)


def test_top_level(document):
    assert list(document) == ["timestamp", "total_models", "models"]
    assert document["timestamp"] == "2026-01-31T12:00:00+00:00"
    assert document["total_models"] == len(document["models"]) == 7


def test_the_default_timestamp_is_now(rows):
    before = datetime.now(UTC)
    assert before <= datetime.fromisoformat(study_document(*rows)["timestamp"]) <= datetime.now(UTC)


def test_models_are_sorted_by_name_whatever_the_order_of_rows(rows, document):
    names = ["base", "map unknown", "no base", "no layers", "one size unknown", "reported", "results/cut"]
    assert [model["name"] for model in document["models"]] == names
    models, layer_rows = rows
    assert study_document(models[::-1], layer_rows, now=NOW) == document


def test_a_compared_model_has_every_key(document):
    assert model_of(document, "results/cut") == {
        "name": "results/cut",
        "has_comparison": True,
        "has_structure": True,
        "params": {"total": 3200, "embedding": 500, "lm_head": 300, "layers": 2400, "num_layers": 3},
        "zero_layers": [2],
        "pruning": {
            "original_params": 4800,
            "pruned_params": 3200,
            "reduction_ratio": 1600 / 4800,
            "layer_reduction_ratio": 0.4,
        },
        "layer_pruning": [
            {"layer_idx": 0, "reduction_ratio": 0.0, "is_zero": False},
            {"layer_idx": 1, "reduction_ratio": 1.0, "is_zero": True},
            {"layer_idx": 2, "reduction_ratio": 1.0, "is_zero": True},
            {"layer_idx": 3, "reduction_ratio": -0.4, "is_zero": False},
        ],
    }
    keys = ["name", "has_comparison", "has_structure", "params", "zero_layers", "pruning", "layer_pruning"]
    assert list(model_of(document, "results/cut")) == keys


def test_a_base_is_compared_with_itself(document):
    base = model_of(document, "base")
    assert base["pruning"] == {
        "original_params": 4800,
        "pruned_params": 4800,
        "reduction_ratio": 0.0,
        "layer_reduction_ratio": 0.0,
    }
    untouched = [{"layer_idx": index, "reduction_ratio": 0.0, "is_zero": False} for index in range(4)]
    assert (base["zero_layers"], base["layer_pruning"]) == ([], untouched)


def test_a_model_with_only_results_has_only_parameters(document):
    assert model_of(document, "reported") == {
        "name": "reported",
        "has_comparison": False,
        "has_structure": False,
        "params": {"total": 1200, "embedding": 100, "lm_head": 50, "num_layers": 2},
    }


def test_without_a_base_there_is_no_pruning(document):
    assert model_of(document, "no base") == {
        "name": "no base",
        "has_comparison": False,
        "has_structure": True,
        "params": {"total": 4800, "layers": 4000, "num_layers": 1},
        "zero_layers": [0],
    }


def test_without_layers_there_is_no_structure(document):
    assert model_of(document, "no layers") == {
        "name": "no layers",
        "has_comparison": False,
        "has_structure": False,
        "params": {"total": BIG},
    }


@pytest.mark.parametrize("name", ["map unknown", "one size unknown"])
def test_layer_pruning_is_complete_or_absent(document, name):
    model = model_of(document, name)
    assert "layer_pruning" not in model
    assert (model["has_comparison"], model["has_structure"], model["zero_layers"]) == (True, True, [])


def test_json_has_no_null_and_exact_integers(document):
    text = study_json(document)
    assert json.loads(text) == document
    assert not re.search(r"\bnull\b|NaN|Infinity", text)
    assert f'"total": {BIG}\n' in text
    assert text.startswith('{\n  "timestamp"')
    assert text.endswith("}\n")
    assert "模型" in study_json({"name": "模型"})


def test_text_is_the_table_of_the_study(rows):
    """Headings and widths by which the study's other scripts find the columns; counts have separators of thousands."""
    models, layer_rows = rows
    some_models = [row for row in models if row["model_id"] in ("base", "results/cut", "reported")]
    assert study_text(study_document(some_models, layer_rows, now=NOW)) == (
        f"{'=' * 120}\n"
        "模型结构分析汇总表\n"
        f"{'=' * 120}\n"
        "\n"
        f"模型名称{' ' * 36} {' ' * 12}总参数 {' ' * 6}剪枝比例 {' ' * 4}层数 {' ' * 6}完全剪空的层\n"
        f"{'-' * 120}\n"
        f"base{' ' * 36}           4,800      0.00%      4            0\n"
        f"results/cut{' ' * 29}           3,200     33.33%      3            1\n"
        f"reported{' ' * 32}           1,200        N/A      2          N/A\n"
        "\n"
        f"{'=' * 120}\n"
        "\n\n"
        f"{'=' * 80}\n"
        "统计信息\n"
        f"{'=' * 80}\n"
        "\n"
        "总模型数: 3\n"
        "\n"
        "参数量统计:\n"
        "  最小: 1,200\n"
        "  最大: 4,800\n"
        "  平均: 3,066\n"
        "\n"
        "剪枝比例统计:\n"
        "  最小: 0.00%\n"
        "  最大: 33.33%\n"
        "  平均: 16.67%\n"
        "\n"
        "完全剪空的层统计:\n"
        "  有剪空层的模型数: 1\n"
        "  总剪空层数: 1\n"
        "\n"
        f"{'=' * 80}\n"
    )


def test_text_orders_equal_sizes_by_name_and_unknown_sizes_last():
    sizes = {"b": 5, "a": 5, "none": None, "zero": 0, "most": BIG}
    document = study_document([model_row(name, params=size) for name, size in sizes.items()], [], now=NOW)
    assert re.findall(r"^[a-z]+(?= )", study_text(document), re.MULTILINE) == ["most", "a", "b", "zero", "none"]
    assert re.findall(r"^(?:most|none) .*", study_text(document), re.MULTILINE) == [
        f"{'most':<40} {BIG:>15,} {'N/A':>10} {'N/A':>6} {'N/A':>12}",
        f"{'none':<40} {'N/A':>15} {'N/A':>10} {'N/A':>6} {'N/A':>12}",
    ]
    assert f"  平均: {(BIG + 10) // 4:,}\n" in study_text(document)


def test_text_without_models_says_so():
    document = study_document([], [], now=NOW)
    assert document == {"timestamp": NOW.isoformat(), "total_models": 0, "models": []}
    assert study_text(document).endswith(f"\n总模型数: 0\n\n{'=' * 80}\n")


def test_models_summary_has_a_model_each_by_its_place():
    """As the study's batch analysis writes it; what is not known is left out."""
    cut = {"params": 3200, "num_layers": 3, "layer_params": 2400, "base_params": 4800, "reduction_ratio": 1 / 3}
    models = [model_row("b", source_uri="/study/results/b", **cut), model_row("a", source_uri="/study/baselines/a", params=1)]
    document = models_summary(models)
    assert [*document] == ["timestamp", "models_dir", "models"]
    assert (document["models_dir"], document["models"]) == (
        "/study",
        [
            {"name": "baselines/a", "total_params": 1},
            {
                "name": "results/b",
                "total_params": 3200,
                "num_layers": 3,
                "layer_params": 2400,
                "pruning": {"original_params": 4800, "pruned_params": 3200, "reduction_ratio": 1 / 3},
            },
        ],
    )
    assert (models_summary(models[:1])["models_dir"], models_summary([])["models"]) == ("/study/results", [])


def test_a_name_stays_on_its_line():
    text = study_text(study_document([model_row("a\nb\x1b[31m|模型", params=1)], [], now=NOW))
    assert re.search(r"^a\\nb\\u001b\[31m\|模型 +1 ", text, re.MULTILINE)


def model_row(model_id, **columns):
    """A row of the models view in which only `columns` are known."""
    names = (
        *("params", "base_params", "source_kind", "embedding_params", "lm_head_params", "layer_params"),
        *("num_layers", "reduction_ratio", "layer_reduction_ratio"),
    )
    return dict.fromkeys(names) | {"model_id": model_id} | columns
